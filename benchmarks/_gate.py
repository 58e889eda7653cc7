"""A minute of ratios for continuous integration: `python -m benchmarks --gate [--quick]`.

Small models, one process, processor time, bounds at about half of what a quiet machine shows (docs/benchmarks.md), so
that only a real loss of speed fails. `quick` measures each once or twice instead of five times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.circuits.core.cache import record as record_runs
from babelscope.circuits.core.nodes import heads_of
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.circuits.heads.routes import EPSILON, head_proximities
from babelscope.models import Model
from babelscope.regions import nulls
from babelscope.regions.recording import record
from benchmarks import _texts, attribution, patching, permutation, perplexity, recording, routes
from benchmarks._measure import best, result


def small(kind: str, words: int, **more: Any) -> Model:
    torch.manual_seed(0)
    sizes = {"gpt2": dict(n_embd=256, n_layer=4, n_head=8), "bloom": dict(hidden_size=256, n_layer=2, n_head=4)}
    config = AutoConfig.for_model(kind, vocab_size=words, **(sizes[kind] | more))
    return Model(AutoModelForCausalLM.from_config(config).eval(), None, id=kind)


def recorded(repeat: int) -> Iterator[dict[str, Any]]:
    model, corpus = _texts.embedded(12)
    rows = [ids for code in corpus.languages for ids in model.tokenize(corpus.texts[code])]
    ways: dict[str, Callable[[], object]] = {
        "trunk": lambda: recording.trunk(model, rows),
        "record": lambda: record(model, corpus),
        "generate": lambda: recording.papers_way(model, corpus),
    }
    times = best(ways, repeat)
    yield result("recording / bare trunk", times["record"] / times["trunk"], 1.4, "lower")
    yield result("the script's way / recording", times["generate"] / times["record"], 1.2)


def scored(_repeat: int) -> Iterator[dict[str, Any]]:
    yield {**recording.scores(400, 512), "bound": 20.0}


def measured_text(repeat: int) -> Iterator[dict[str, Any]]:
    model, text = small("bloom", 100_000), perplexity.text(256, 1, 100_000)
    ways = {"full": partial(perplexity.full, model, text), "ours": partial(perplexity.ours, model, text)}
    times = best(ways, repeat)
    yield result("perplexity / full logits", times["ours"] / times["full"], 1.3, "lower")


def patched(repeat: int) -> Iterator[dict[str, Any]]:
    model = small("gpt2", 10_000)
    with torch.no_grad():
        runs = record_runs(model, patching.prompts(model, patching.LENGTH // 2))
    last = slice(-1, None)
    cases: dict[str, tuple[slice, str | None, float]] = {
        "all positions": (slice(patching.LENGTH // 2, None), None, 2.5),
        "one position": (last, None, 8.0),
        "path, MLPs recomputed": (last, "recomputed", 20.0),
        "path, MLPs frozen": (last, "frozen", 100.0),
    }
    for name, (places, path, bound) in cases.items():
        slow, expected = patching.best(lambda p=places, q=path: patching.naive(model, runs, heads_of(model), p, q), 1)
        fast, found = patching.best(lambda p=places, q=path: patching.fast(model, runs, p, q), repeat)
        assert abs(found - expected).max() < 1e-4
        yield result(f"patching, {name}: naive / fast", slow / fast, bound)


@torch.no_grad()
def routed(repeat: int) -> Iterator[dict[str, Any]]:
    layer = routes.random_layer(64, 8, 1024)
    whole, targets = layer.entering + layer.attention, torch.arange(64)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: head_proximities(layer, whole, targets, EPSILON),
        "plain": lambda: routes.plain(layer, whole, slice(0, 8)),
    }
    times = best(ways, repeat)
    yield result("routes: plain / ours", times["plain"] / times["ours"], 1.5)


def attributed(repeat: int) -> Iterator[dict[str, Any]]:
    model = small("gpt2", 10_000)
    pairs = attribution.random_pairs(model)
    ways: dict[str, Callable[[], object]] = {
        "pass": lambda: attribution.one_pass(model, pairs),
        "eap": lambda: edge_attribution(model, pairs, "eap"),
    }
    for way in ways.values():
        way()
    times = best(ways, repeat)
    yield result("all edges (EAP) / forward + backward", times["eap"] / times["pass"], 8.0, "lower")


def permuted(repeat: int) -> Iterator[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        held = permutation.stored(Path(folder), 9, 50, 512)
        ours = best({"ours": lambda: nulls.score_null(held, 500)}, repeat)["ours"]
        plain = min(permutation.indicator_seconds(held, 500, 512) for _ in range(repeat))
    # with AVX-512 the products alone are fast: 0.30 at 772c1ee and now, 0.23 beside other work, so 0.3 was no bound
    yield result("permutation null: indicator products alone / ours", plain / ours, 0.15)


def measure(quick: bool = False) -> list[dict[str, Any]]:
    """All of it, with how long it took."""
    torch.set_num_threads(1)
    start, repeat = time.perf_counter(), 2 if quick else 5
    parts = (recorded, scored, measured_text, patched, routed, attributed, permuted)
    results = [row for part in parts for row in part(repeat)]
    print(f"{time.perf_counter() - start:.0f} s")
    return results
