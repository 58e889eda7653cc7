"""How time grows: log–log slopes with sentences, neurons, languages, sequence length and heads.

    python -m benchmarks.growth [--json FILE] [--repeat 3] [--quick]

One thread, processor time, least of `repeat` in turns over sizes each twice the last. A slope of 1 is linear. Bounds
are the order that is claimed plus a quarter; recording over length is between 1 (MLPs) and 2 (attention).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.circuits.heads.routes import EPSILON, head_proximities
from babelscope.models import Model
from babelscope.regions import nulls, whole_means, within_language_sums
from babelscope.regions.recording import Recording, record
from benchmarks import _texts, routes
from benchmarks._measure import best, result, slope, tell
from benchmarks.peers import NUMBERS, Numbered

CODES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id", "sw", "eu", "ta", "de", "ru", "ja", "ko")
Work = Callable[[], object]


@dataclass(frozen=True)
class Growth:
    """A work at several sizes, and the largest slope it may have."""

    name: str
    sizes: tuple[int, ...]
    bound: float
    work: Callable[[int], Work]


def activations(languages: int, sentences: int, neurons: int) -> Recording:
    """Random means, as a recording."""
    values = np.random.default_rng(0).random((languages, sentences, neurons), dtype=np.float32)
    tokens = torch.ones(languages, sentences, dtype=torch.long)
    return Recording(CODES[:languages], tuple(map(str, range(sentences))), 1, values, tokens, 0.0)


def statistics(recording: Recording) -> Work:
    return lambda: (whole_means(recording), within_language_sums(recording))


def recorded_sentences(sentences: int) -> Work:
    model, corpus = _texts.embedded(sentences)
    return lambda: record(model, corpus)


def recorded_length(length: int) -> Work:
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=512, hidden_size=128, n_layer=2, n_head=4)
    model = Numbered(AutoModelForCausalLM.from_config(config), None, id="random")
    model.rows = torch.randint(0, 512, (len(NUMBERS), length)).tolist()
    return lambda: record(model, NUMBERS, budget=2048)


def patched_heads(heads: int) -> Work:
    from babelscope.circuits.core.cache import record as record_runs
    from benchmarks import patching

    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=512, n_embd=256, n_layer=3, n_head=heads)
    model = Model(AutoModelForCausalLM.from_config(config), None, id="random")
    with torch.no_grad():
        runs = record_runs(model, patching.prompts(model, patching.LENGTH // 2))
    return lambda: patching.fast(model, runs, slice(patching.LENGTH // 2, None), None)


def routed(length: int, heads: int, width: int) -> Work:
    layer = routes.random_layer(length, heads, width)
    whole, targets = layer.entering + layer.attention, torch.arange(length)
    return lambda: head_proximities(layer, whole, targets, EPSILON)


def growths(quick: bool) -> Sequence[Growth]:
    """What is measured; `quick` has fewer and smaller sizes."""
    few = 2 if quick else 4
    neurons = 1024 if quick else 4096

    def doubled(first: int, count: int = few) -> tuple[int, ...]:
        return tuple(first * 2**place for place in range(count))

    return (
        Growth("recording, with sentences", doubled(8), 1.25, recorded_sentences),
        Growth("recording, with sequence length", doubled(64), 2.0, recorded_length),
        Growth(
            "means and scores, with sentences", doubled(100), 1.25, lambda n: statistics(activations(9, n, neurons))
        ),
        Growth(
            "means and scores, with neurons", doubled(4 * neurons), 1.25, lambda d: statistics(activations(9, 50, d))
        ),
        Growth(
            "means and scores, with languages", doubled(2), 1.25, lambda k: statistics(activations(k, 100, 4 * neurons))
        ),
        Growth(
            "permutation null, with neurons",
            doubled(512),
            1.25,
            lambda d: lambda: nulls.score_null(activations(9, 50, d), 200),
        ),
        Growth(
            "permutation null, with sentences",
            doubled(50),
            1.25,
            lambda n: lambda: nulls.score_null(activations(9, n, 512), 200),
        ),
        Growth("patching all heads, with heads", doubled(2), 1.25, patched_heads),
        Growth("routes, with heads", doubled(4), 1.25, lambda h: routed(48, h, 512)),
        Growth("routes, with sequence length", doubled(32), 2.25, lambda t: routed(t, 4, 512)),
    )


def measure(growth: Growth, repeat: int) -> dict[str, Any]:
    ways = {str(size): growth.work(size) for size in growth.sizes}
    times = best(ways, repeat)
    found = slope(growth.sizes, [times[str(size)] for size in growth.sizes])
    sizes = f"{growth.sizes[0]} to {growth.sizes[-1]}"
    return result(f"{growth.name} ({sizes}): slope", found, growth.bound, "lower", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--quick", action="store_true", help="two small sizes of each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [growth for growth in growths(given.quick) if given.only in growth.name]
    tell([measure(growth, given.repeat) for growth in chosen], given.json)


if __name__ == "__main__":
    main()
