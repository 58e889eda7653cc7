"""What only a GPU can show, in one script: speed, memory, running out of it, and equality with the CPU.

    python -m benchmarks.gpu [--device cuda] [--json FILE]

On a GPU: BLOOM-7b1's shape (30 layers, 32 heads, d = 4 096, 250 880 words) in bfloat16 with random weights. Without one
everything runs on the CPU at toy size, which shows that it runs and nothing about speed. Rows: recording against the
bare trunk; tokens a second of a deactivation table; an activation patching sweep; the permutation null on the device
against the CPU; a budget that does not fit (on a GPU a real one), halved until it does; pocket model, GPU against CPU;
peak memory beside the weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from babelscope import load_model
from babelscope.circuits.core.nodes import heads_of
from babelscope.circuits.patching.methods import activation_patching
from babelscope.models import Model, over_batches
from babelscope.models.batches import Batch
from babelscope.regions.masks import RegionSet
from babelscope.regions.nulls import score_null
from babelscope.regions.perplexity import cut_windows
from babelscope.regions.recording import record
from babelscope.regions.table import conditions, deactivation_table
from babelscope.tasks import build
from benchmarks import _texts
from benchmarks._measure import result, tell


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of the work."""

    layers: int
    heads: int
    width: int
    words: int
    dtype: torch.dtype
    sentences: int
    pairs: int
    draws: int
    tokens: int


LARGE = Shape(30, 32, 4096, 250_880, torch.bfloat16, 100, 8, 1000, 8192)
TOY = Shape(3, 4, 64, 8192, torch.float32, 8, 4, 50, 256)


def model_of(shape: Shape, device: torch.device) -> Model:
    """Random weights, made where they will stay."""
    from transformers import BloomConfig, BloomForCausalLM

    given = load_model("pocket:pocket-bloom-s", device="cpu")
    config = BloomConfig(vocab_size=shape.words, hidden_size=shape.width, n_layer=shape.layers, n_head=shape.heads)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(shape.dtype)
    try:
        with device:
            hf = BloomForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    return Model(hf, given.tokenizer, id="random")


def seconds(work: Callable[[], object], device: torch.device, repeat: int = 3) -> float:
    """Least of some calls, after one that warms up."""
    found = float("inf")
    for turn in range(repeat + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn:
            found = min(found, time.perf_counter() - start)
    return found


def trunk(model: Model, rows: list[list[int]]) -> None:
    def work(batch: Batch) -> None:
        model.trunk(batch.ids, batch.mask)

    with torch.inference_mode():
        over_batches(rows, work, model.device)


def regions_of(model: Model, languages: tuple[str, ...], share: float = 0.01) -> RegionSet:
    """Random neurons in place of regions: the work is the same."""
    generator = torch.Generator().manual_seed(0)
    width = model.neurons_per_layer
    masks = {code: torch.rand(model.layers, width, generator=generator) < share for code in languages}
    return RegionSet(masks, method="random")


def halving(model: Model, rows: list[list[int]], device: torch.device) -> list[dict[str, Any]]:
    """A budget far beyond what fits: the work is done all the same, in halves."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.empty(int(free * 0.97) - (1 << 28), dtype=torch.uint8, device=device)
    else:
        held = torch.empty(0)
    done: list[int] = []

    def work(batch: Batch) -> None:
        model.trunk(batch.ids, batch.mask)
        done.append(len(batch.ids))

    with torch.inference_mode():
        over_batches(rows * 8, work, model.device, budget=1 << 20)
    del held
    return [result("out of memory: batches that were made of one", len(done), None, "lower", "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    shape = LARGE if device.type == "cuda" else TOY
    where = "toy size on the CPU: nothing here is about speed" if shape is TOY else torch.cuda.get_device_name(device)
    print(where)
    results: list[dict[str, Any]] = []
    model = model_of(shape, device)
    corpus = _texts.joined(shape.sentences)
    rows = [ids for code in corpus.languages for ids in model.tokenize(corpus.texts[code])]
    weights = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    bare, recorded = (seconds(w, device) for w in (lambda: trunk(model, rows), lambda: record(model, corpus)))
    results.append(result("recording / bare trunk, time", recorded / bare, 1.05 if shape is LARGE else None, "lower"))

    recording = record(model, corpus)
    on_cpu = seconds(lambda: score_null(recording, shape.draws), torch.device("cpu"), 1)
    on_device = seconds(lambda: score_null(recording, shape.draws, device=device), device, 1)
    results.append(result("permutation null: CPU / device, time", on_cpu / on_device, None, "higher"))
    here, there = score_null(recording, shape.draws), score_null(recording, shape.draws, device=device)
    off = float((here.sizes - there.sizes).abs().max())
    results.append(result("permutation null: largest difference of a size", off, 2, "lower", "neurons"))

    languages = tuple(corpus.languages)[:3]
    windows = {code: cut_windows(model, _texts_of(code), 128, max(1, shape.tokens // 128)) for code in languages}
    regions = regions_of(model, languages)
    count = len(list(conditions(regions, 1, 0))) * sum(w.tokens for w in windows.values())
    took = seconds(lambda: deactivation_table(model, windows, regions, controls=1), device, 1)
    results.append(result("deactivation table", count / took, None, "higher", "tokens/s"))

    pairs = list(build("ioi", model.tokenizer, "en", n=shape.pairs, split="auto"))
    took = seconds(lambda: activation_patching(model, pairs), device, 1)
    swept = len(heads_of(model)) * len(pairs)
    results.append(result("activation patching, every head", swept / took, None, "higher", "patches/s"))
    if device.type == "cuda":
        used = (torch.cuda.max_memory_allocated(device) - weights) / 2**30
        results.append(result("peak memory beside the weights", used, None, "lower", "GiB"))
    results += halving(model, rows, device)

    del model
    pocket, beside = (load_model("pocket:pocket-bloom-s", device=d) for d in ("cpu", str(device)))
    a, b = (np.asarray(record(one, corpus).means) for one in (pocket, beside))
    results.append(
        result(
            "pocket model: relative difference to the CPU",
            float(np.abs(a - b).max() / np.abs(a).max()),
            1e-3,
            "lower",
            "",
        )
    )
    tell(results, arguments.json, device=where)


def _texts_of(code: str) -> Any:
    from babelscope.corpora import load_texts

    return load_texts("pocket:heldout", [code])[code]


if __name__ == "__main__":
    main()
