"""What the command line's allocator setting is worth on CPU, and what it costs in memory; one thread against two.

    python -m benchmarks.allocator [--json FILE] [--repeat 2] [--works recording,perplexity,patching,edges,training]

Every case in fresh processes of its own, in turns, least of `repeat`; inside a process the least of three. glibc on
Linux only: elsewhere the setting does nothing (`babelscope.allocator`). Processor time (the kernel's share, which
zeroed pages cost, is in it) and peak resident memory; one thread against two by elapsed time, on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from babelscope.allocator import keep_freed_memory
from babelscope.circuits.core.cache import record as record_runs
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.regions.recording import record
from benchmarks import _texts, attribution, patching, perplexity
from benchmarks._measure import forget_peak, in_own_process, peak, result, tell


def recording() -> Callable[[], object]:
    model, corpus = _texts.embedded(25, width=512, layers=8, heads=8)
    return lambda: record(model, corpus)


def windows() -> Callable[[], object]:
    model, text = perplexity.random_model(), perplexity.text(512)
    return lambda: perplexity.ours(model, text)


def heads() -> Callable[[], object]:
    model = patching.random_model("llama")
    with torch.no_grad():
        runs = record_runs(model, patching.prompts(model, patching.LENGTH // 2))
    places = slice(patching.LENGTH // 2, None)
    return lambda: patching.fast(model, runs, places, None)


def edges() -> Callable[[], object]:
    model = attribution.random_model("gpt2")
    pairs = attribution.random_pairs(model)
    return lambda: edge_attribution(model, pairs, "eap")


def training() -> Callable[[], object]:
    """One step of a small model, as `babelscope pocket` takes them."""
    model, _ = _texts.embedded(1, width=256, layers=6, heads=8)
    ids = torch.randint(0, 8192, (16, 128), generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(model.hf.parameters(), lr=1e-4)
    model.hf.train()

    def step() -> None:
        model.hf(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


WORKS: dict[str, Callable[[], Callable[[], object]]] = {
    "recording": recording,
    "perplexity": windows,
    "patching": heads,
    "edges": edges,
    "training": training,
}
TOLD = {
    "recording": "recording neurons, d = 512",
    "perplexity": "perplexity, 250 880 words",
    "patching": "patching all heads, LLaMA",
    "edges": "all edges (EAP), GPT-2",
    "training": "a training step, d = 256",
}


def alone(which: str, threads: int) -> None:
    """Elapsed time and peak memory of one work in this process."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    work = WORKS[which]()
    work()
    forget_peak()
    processor, elapsed = math.inf, math.inf
    for _ in range(3):
        start, clock = time.process_time(), time.perf_counter()
        work()
        processor, elapsed = min(processor, time.process_time() - start), min(elapsed, time.perf_counter() - clock)
    print(json.dumps({"processor": processor, "elapsed": elapsed, "bytes": peak()}))


def measure(which: str, repeat: int, threads: bool) -> list[dict[str, Any]]:
    cases = {"plain": (1, "0"), "kept": (1, "1")} | ({"two": (2, "1")} if threads else {})
    processor, elapsed = dict.fromkeys(cases, math.inf), dict.fromkeys(cases, math.inf)
    held = dict.fromkeys(cases, 0.0)
    for _ in range(repeat):
        for case, (count, switch) in cases.items():
            setting = {"BABELSCOPE_MALLOC": switch, "OMP_NUM_THREADS": str(count)}
            found = in_own_process("allocator", "--alone", which, "--count", str(count), environment=setting)
            processor[case] = min(processor[case], found["processor"])
            elapsed[case] = min(elapsed[case], found["elapsed"])
            held[case] = max(held[case], found["bytes"])
    name = TOLD[which]
    results = [
        result(f"{name}: glibc as it is / freed memory kept, processor time", processor["plain"] / processor["kept"]),
        result(f"{name}: freed memory kept / glibc as it is, peak memory", held["kept"] / held["plain"], None, "lower"),
    ]
    if threads:
        ratio = elapsed["kept"] / elapsed["two"]
        results.append(result(f"{name}: one thread / two, freed memory kept, elapsed time", ratio))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--alone", choices=list(WORKS), help=argparse.SUPPRESS)
    parser.add_argument("--no-threads", action="store_true", help="leave two threads out (on a busy machine)")
    parser.add_argument("--count", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.alone, given.count)
        return
    works = given.works.split(",")
    tell([row for which in works for row in measure(which, given.repeat, not given.no_threads)], given.json)


if __name__ == "__main__":
    main()
