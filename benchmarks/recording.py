"""Recording neurons against the bare trunk and against the paper's script's way; region scores against the pair loop.

    python -m benchmarks.recording [--json FILE] [--repeat 5]

A random BLOOM of 6 layers, d = 192 and 8 192 words, on 9 × 40 sequences of 8 to 60 random tokens, float32, one
thread. Ratios of processor time inside one process, alternating, best of `repeat`; peak memory in processes of their
own. Floors are those of the design: recording ≤ 1.05 × the bare trunk on the same batches and ≤ 1.10 × its peak memory,
≥ 2 × faster than one sentence at a time with a generate call and a copy of every layer; scores of n = 1000 sentences
≥ 100 × faster than the loop over pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from babelscope.models import Batch, Model, Site, over_batches
from babelscope.regions.localisation import WithinLanguageSums, within_language_scores
from babelscope.regions.recording import Recording, record

LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
SENTENCES = 40


class Sequences:
    """A corpus whose texts are token ids already."""

    def __init__(self, sentences: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.languages, self.ids = LANGUAGES, tuple(str(place) for place in range(sentences))
        self.rows = [
            torch.randint(0, 8000, (int(torch.randint(8, 61, (), generator=generator)),), generator=generator).tolist()
            for _ in range(sentences * len(LANGUAGES))
        ]
        self.texts = {
            code: tuple(str(place * sentences + row) for row in range(sentences))
            for place, code in enumerate(LANGUAGES)
        }

    def __len__(self) -> int:
        return len(self.ids)


class Numbered(Model):
    """Reads "17" as the seventeenth sequence."""

    rows: list[list[int]]

    def tokenize(self, texts: Any, special: Any = "none") -> list[list[int]]:
        return [self.rows[int(text)] for text in texts]


def random_model(rows: list[list[int]]) -> Numbered:
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=8192, hidden_size=192, n_layer=6, n_head=6)
    model = Numbered(AutoModelForCausalLM.from_config(config), None, id="random")
    model.rows = rows
    return model


def trunk(model: Numbered) -> None:
    """The bare forward pass over the same batches."""

    def work(batch: Batch) -> None:
        model.trunk(batch.ids, batch.mask)

    with torch.inference_mode():
        over_batches(model.rows, work, model.device)


def papers_way(model: Numbered) -> torch.Tensor:
    """One sentence at a time, a generate call of one token, every layer's activations copied, then the mean."""
    seen: list[torch.Tensor] = []
    config = GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=0)
    handles = [
        model.locate(Site("neurons", layer)).module.register_forward_pre_hook(
            lambda _module, args: seen.append(args[0].detach().cpu().clone())
        )
        for layer in range(model.layers)
    ]
    rows: list[torch.Tensor] = []
    try:
        for ids in model.rows:
            seen.clear()
            given = torch.tensor([ids])
            model.hf.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
            rows.append(torch.cat([h[0].mean(0) for h in seen]))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(rows)


def best(ways: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Least processor time of each, taken in turns so that a busy machine slows them alike."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.process_time()
            way()
            found[name] = min(found[name], time.process_time() - start)
    return found


def peak(which: str) -> float:
    """Peak memory in bytes of a fresh process that runs the trunk, or the recording."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recording", "--alone", which], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def alone(which: str) -> None:
    corpus = Sequences(SENTENCES)
    model = random_model(corpus.rows)
    if which == "trunk":
        trunk(model)
    else:
        record(model, corpus)  # pyright: ignore[reportArgumentType]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def pair_loop(x: torch.Tensor) -> torch.Tensor:
    """Equation 11 one pair at a time, all neurons at once: kinder to the loop than the paper's script."""
    total = torch.zeros(x.shape[1], dtype=x.dtype)
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            total += x[i] * x[j]
    return total * 2 / (len(x) * (len(x) - 1))


def scores(n: int = 1000, neurons: int = 2048) -> tuple[float, float]:
    """Speed-up of the closed form over the loop for one language, and the largest relative difference."""
    x = torch.nn.functional.normalize(torch.rand(n, neurons, dtype=torch.float64), dim=1)
    start = time.process_time()
    slow = pair_loop(x)
    loop = time.process_time() - start
    times: list[float] = []
    for _ in range(5):
        start = time.process_time()
        fast = within_language_scores(WithinLanguageSums(x.sum(0)[None], x.square().sum(0)[None], n))[0]
        times.append(time.process_time() - start)
    return loop / min(times), float(((fast - slow) / slow).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--alone", choices=["trunk", "record"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.alone:
        alone(arguments.alone)
        return
    corpus = Sequences(SENTENCES)
    model = random_model(corpus.rows)

    def recording() -> Recording:
        return record(model, corpus)  # pyright: ignore[reportArgumentType]

    times = best({"trunk": lambda: trunk(model), "record": recording}, arguments.repeat)
    papers = best({"paper": lambda: papers_way(model), "record": recording}, max(1, arguments.repeat // 2))
    same = float((papers_way(model) - torch.from_numpy(recording().means).flatten(0, 1)).abs().max())
    memory = peak("record") / peak("trunk")
    faster, off = scores()
    results = [
        _result("recording / bare trunk, time", times["record"] / times["trunk"], 1.05, "lower"),
        _result("recording / bare trunk, peak memory", memory, 1.10, "lower"),
        _result("one sentence at a time / recording, time", papers["paper"] / papers["record"], 2.0, "higher"),
        _result("pair loop / closed form, n = 1000, time", faster, 100.0, "higher"),
    ]
    for row in results:
        print(f"{row['name']:<46}{row['value']:>10.3g}   floor {row['bound']:g}")
    print(f"largest differences: activations {same:.1e}, scores {off:.1e} (relative)")
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results}), encoding="utf-8")


def _result(name: str, value: float, bound: float, better: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "×", "bound": bound, "better": better}


if __name__ == "__main__":
    main()
