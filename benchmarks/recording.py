"""Recording neurons against the bare trunk and against the paper's script's way; region scores against the pair loop.

    python -m benchmarks.recording [--json FILE] [--repeat 5] [--sentences 100] [--quick]
    python -m benchmarks.recording --model FOLDER --corpus bible:FOLDER       # real texts instead

9 languages × 100 texts, float32, one thread, processor time; ways take turns in one process, the least of `repeat`
counts; peak memory in processes of their own. Texts and model: `_texts.py`. Every way but the trunk tokenizes. The
script's way: one sentence at a time, `generate` of one token, a copy of every layer's [T, N], then its mean; today's
`generate` makes the last position's logits only, which libraries of the paper's time did not, so the pass with all
logits stands beside. Floors are the design's.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from babelscope.corpora import ParallelCorpus
from babelscope.models import Batch, Model, Site, over_batches
from babelscope.regions.localisation import WithinLanguageSums, within_language_scores
from babelscope.regions.recording import record
from benchmarks import _texts
from benchmarks._measure import best, forget_peak, in_own_process, peak, result, tell

SHARED = Path("../shared")
BIBLE = ("models/bible-bloom/final", "data/bible/ces-nt")


def trunk(model: Model, rows: list[list[int]]) -> None:
    """The bare forward pass over the same batches."""

    def work(batch: Batch) -> None:
        model.trunk(batch.ids, batch.mask)

    with torch.inference_mode():
        over_batches(rows, work, model.device)


def papers_way(model: Model, corpus: ParallelCorpus, logits: bool = False) -> np.ndarray:
    """[sentences, neurons]: one sentence at a time, every layer's activations copied, then the mean."""
    seen: list[torch.Tensor] = []

    def keep(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        # on a GPU .cpu() is the copy; on the CPU the script's list of arrays needs one as well
        seen.append(args[0].detach().cpu().clone())

    handles = [
        model.locate(Site("neurons", layer)).module.register_forward_pre_hook(keep) for layer in range(model.layers)
    ]
    rows: list[np.ndarray] = []
    try:
        for text in (text for code in corpus.languages for text in corpus.texts[code]):
            seen.clear()
            encoded = model.tokenizer(text, return_tensors="pt", add_special_tokens=False)
            ids, mask = encoded["input_ids"], encoded["attention_mask"]
            if logits:
                with torch.no_grad():
                    model.hf(input_ids=ids, attention_mask=mask)
            else:
                model.hf.generate(ids, attention_mask=mask, max_new_tokens=1, do_sample=False, pad_token_id=0)
            rows.append(np.concatenate([h[0].mean(0).numpy() for h in seen]))
    finally:
        for handle in handles:
            handle.remove()
    return np.stack(rows)


def compare(label: str, model: Model, corpus: ParallelCorpus, repeat: int) -> list[dict[str, Any]]:
    """The four ways on one model and its texts."""
    rows = [ids for code in corpus.languages for ids in model.tokenize(corpus.texts[code])]
    ways: dict[str, Callable[[], object]] = {
        "trunk": lambda: trunk(model, rows),
        "record": lambda: record(model, corpus),
        "generate": lambda: papers_way(model, corpus),
        "logits": lambda: papers_way(model, corpus, logits=True),
    }
    found = record(model, corpus).means.reshape(len(rows), -1)
    off = float(np.abs(papers_way(model, corpus) - found).max())
    assert off < 1e-3 * float(np.abs(found).max()), off
    times = best(ways, repeat)
    tokens = sum(map(len, rows)) / len(rows)
    print(f"{label}: {len(rows)} texts of {tokens:.0f} tokens; largest difference of activations {off:.1e}")
    return [
        result(f"{label}: recording / bare trunk, time", times["record"] / times["trunk"], 1.05, "lower"),
        result(f"{label}: the script's way (generate) / recording, time", times["generate"] / times["record"], 2.0),
        result(f"{label}: one at a time with all logits / recording, time", times["logits"] / times["record"]),
    ]


def alone(which: str, sentences: int) -> None:
    """Peak memory of the trunk, or of recording, in this process."""
    model, corpus = _texts.embedded(sentences)
    rows = [ids for code in corpus.languages for ids in model.tokenize(corpus.texts[code])]
    with torch.inference_mode():
        model.trunk(torch.tensor([rows[0]]))
    forget_peak()
    if which == "trunk":
        trunk(model, rows)
    else:
        record(model, corpus)
    print(json.dumps({"bytes": peak()}))


def memory(sentences: int) -> list[dict[str, Any]]:
    held = {
        which: in_own_process("recording", "--alone", which, "--sentences", str(sentences))["bytes"]
        for which in ("trunk", "record")
    }
    return [result("recording / bare trunk, peak memory", held["record"] / held["trunk"], 1.10, "lower")]


def pair_loop(x: torch.Tensor) -> torch.Tensor:
    """Equation 11 one pair at a time, all neurons at once: kinder to the loop than the paper's script."""
    total = torch.zeros(x.shape[1], dtype=x.dtype)
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            total += x[i] * x[j]
    return total * 2 / (len(x) * (len(x) - 1))


def scores(n: int = 1000, neurons: int = 2048) -> dict[str, Any]:
    """Speed-up of the closed form over the loop for one language."""
    x = torch.nn.functional.normalize(torch.rand(n, neurons, dtype=torch.float64), dim=1)

    def closed() -> torch.Tensor:
        return within_language_scores(WithinLanguageSums(x.sum(0)[None], x.square().sum(0)[None], n))[0]

    start = time.process_time()
    slow = pair_loop(x)
    loop = time.process_time() - start
    fast = best({"closed": closed}, 5)["closed"]
    off = float(((closed() - slow) / slow).abs().max())
    assert off < 1e-9, off
    return result(f"region scores, n = {n}: pair loop / closed form, time", loop / fast, 100.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--model", default=str(SHARED / BIBLE[0]), help="a model of your own, with --corpus")
    parser.add_argument("--corpus", default=f"bible:{SHARED / BIBLE[1]}")
    parser.add_argument("--alone", choices=["trunk", "record"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.alone:
        alone(given.alone, given.sentences)
        return
    results = compare(
        f"9 × {given.sentences} built-in texts, random BLOOM", *_texts.embedded(given.sentences), given.repeat
    )
    if Path(given.model).is_dir():
        real = _texts.verses(given.model, given.corpus, given.sentences)
        results += compare(f"9 × {given.sentences} Bible verses, BLOOM trained on it", *real, given.repeat)
    else:
        print(f"{given.model} is not there: real texts are left out")
    results += [*memory(given.sentences), scores()]
    tell(results, given.json)


if __name__ == "__main__":
    main()
