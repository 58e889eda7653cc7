"""Steering: conditions stacked as rows against plain generation and against a run each; false positives of its p.

    python -m benchmarks.steering [--json FILE] [--repeat 5]
    python -m benchmarks.steering --null 200        # false positives, some minutes

Speed: eight conditions (one plain, seven with a vector of their own) × 16 prompts of unequal length, 32 new tokens,
float32, one thread, processor time, the least of `repeat`. Plain generation: transformers' `generate` of as many rows.

False positives: source and target exchanged in half of the fit documents, so that there is no direction to be found;
the fitted direction steers 8 prompts, and its success is held against 19 draws: isotropic ones, ones from the tokens'
covariance, and other exchanges. p ≤ 0.05 shall happen in at most 8 % of runs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from babelscope import load_model
from babelscope.corpora import load_corpus
from babelscope.models import Model
from babelscope.models.decoding import Decoding, decode, left_padded, written_text
from babelscope.models.rows import RowEdit
from babelscope.stats import wilson
from babelscope.steering.confusion import OfflineRule
from babelscope.steering.fitted import Fitted, Setting
from babelscope.steering.inference import p_of_draws
from babelscope.steering.moments import collect
from benchmarks._measure import best, result, tell

MODEL, DRAWS, PROMPTS = "pocket:pocket-bloom-m", 19, 8
SETTING = Setting("en", "fr", "diffmean", 3, 1.5)


def fitted(sentences: int) -> tuple[Model, Fitted, list[list[int]]]:
    model = load_model(MODEL)
    corpus = load_corpus(f"pocket:heldout?n={sentences + 40}", ["en", "fr"])
    fit = corpus.select(corpus.ids[:sentences])
    return model, Fitted(model, fit, collect(model, fit)), model.tokenize(corpus.texts["en"][sentences:])


def speed(repeat: int) -> list[dict[str, object]]:
    model, found, texts = fitted(40)
    prompts = texts[:16]
    edits = [None, *(found.control(SETTING, "random", draw) for draw in range(7))]
    settings = Decoding(32, fixed=True)
    ids, mask = left_padded([prompt for prompt in prompts for _ in edits], model.device)
    sizes = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False, "pad_token_id": 0}
    ways = {
        "plain": lambda: model.hf.generate(ids, attention_mask=mask, **sizes),
        "stacked": lambda: decode(model, prompts, settings, edits),
        "separate": lambda: [decode(model, prompts, settings, [edit]) for edit in edits],
    }
    for way in ways.values():
        way()
    seconds = best(ways, repeat)
    return [
        result("steered rows, eight conditions stacked: time, of plain generate", seconds["stacked"] / seconds["plain"],
               1.2, "lower"),
        result("stacked conditions: speed, of a run for each", seconds["separate"] / seconds["stacked"]),
    ]  # fmt: skip


def successes(model: Model, prompts: list[list[int]], edits: list[RowEdit | None]) -> list[float]:
    """S of each edit."""
    rule = OfflineRule(["en", "fr"])
    found: list[float] = []
    for row in decode(model, prompts, Decoding(20, fixed=True), edits):
        values = [rule(written_text(model, prompt, one.ids), "fr", "en") for prompt, one in zip(prompts, row)]
        found.append(float(np.mean([one.right / len(one.lines) for one in values if one.counted] or [0.0])))
    return found


def null(runs: int) -> None:
    """Prints how often p ≤ 0.05 where there is nothing to be found."""
    model, found, texts = fitted(60)
    prompts = texts[:PROMPTS]
    none = successes(model, prompts, [found.control(SETTING, "shuffled", draw) for draw in range(runs)])
    pools = {
        "random": successes(model, prompts, [found.control(SETTING, "random", draw) for draw in range(runs)]),
        "random-cov": successes(model, prompts, [found.control(SETTING, "random-cov", draw) for draw in range(runs)]),
        "shuffled": none,
    }
    print(f"{MODEL}, en to fr, layer 3, α 1.5, {PROMPTS} prompts, {DRAWS} draws a run, {runs} runs")
    print(f"success of exchanged labels: mean {np.mean(none):.3f}, largest {max(none):.2f}")
    for name, pool in pools.items():
        generator = np.random.default_rng(0)
        p = []
        for place, value in enumerate(none):
            others = [one for one in range(runs) if name != "shuffled" or one != place]
            p.append(p_of_draws(value, [pool[one] for one in generator.choice(others, DRAWS, replace=False)]))
        share = wilson(sum(one <= 0.05 for one in p), runs)
        print(f"p ≤ 0.05 against {name}: {100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]; "
              f"success of {name}: mean {np.mean(pool):.3f}, largest {max(pool):.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--null", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.null:
        null(given.null)
        return
    tell(speed(given.repeat), given.json)


if __name__ == "__main__":
    main()
