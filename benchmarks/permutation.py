"""The permutation null at the size of a 7-billion-parameter model: 9 languages × 100 sentences × 500 000 neurons.

    python -m benchmarks.permutation                     # a part of the neurons, extrapolated: cost is linear in them
    python -m benchmarks.permutation --neurons 500000    # the whole

The recording is a Zarr array on disk, read block by block, as a run directory holds it. Processor time is what counts
on a busy machine; elapsed time is printed beside. Memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from babelscope.regions import nulls
from babelscope.regions.recording import Recording
from benchmarks._measure import peak, result, tell

WHOLE = 500_000
MINUTES = 10
GIGABYTES = 4


def stored(folder: Path, languages: int, sentences: int, neurons: int) -> Recording:
    """Synthetic activations in a Zarr store: levels of their own per neuron, a language part, noise."""
    shape, width = (languages, sentences, neurons), min(4096, neurons)
    path, chunks = folder / "means.zarr", (languages, sentences, width)
    means: Any = zarr.create_array(path, shape=shape, chunks=chunks, dtype="float32", compressors=None)
    generator = np.random.default_rng(0)
    for start in range(0, neurons, 4096):
        width = min(4096, neurons - start)
        level = generator.normal(size=(1, 1, width)) + 0.3 * generator.normal(size=(languages, 1, width))
        noise = generator.standard_normal((languages, sentences, width), dtype=np.float32)
        means[:, :, start : start + width] = level.astype(np.float32) + 0.5 * noise
    codes = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id", "sw", "eu", "ta")[:languages]
    ids = tuple(str(place) for place in range(sentences))
    tokens = torch.ones(languages, sentences, dtype=torch.long)
    return Recording(codes, ids, 1, zarr.open_array(path, mode="r"), tokens, 0.0)


def indicator_seconds(recording: Recording, draws: int, neurons: int) -> float:
    """Processor time of the plain way's two matrix products alone, for `neurons` neurons."""
    languages, sentences = len(recording.languages), len(recording.ids)
    permuted = nulls.permutations(draws, sentences, languages, 0)
    items = (permuted * sentences + torch.arange(sentences)[:, None]).transpose(1, 2).flatten(0, 1)
    indicator = torch.zeros(draws * languages, languages * sentences).scatter_(1, items, 1.0)
    x = recording.values(slice(0, neurons)).reshape(languages * sentences, neurons)
    start = time.process_time()
    for _ in range(2):
        indicator @ x
    return time.process_time() - start


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        recording = stored(Path(folder), arguments.languages, arguments.sentences, arguments.neurons)
        before, wall = time.process_time(), time.perf_counter()
        null = nulls.score_null(recording, arguments.draws)
        seconds, wall = time.process_time() - before, time.perf_counter() - wall
        plain = indicator_seconds(recording, arguments.draws, min(512, arguments.neurons))
    scale = WHOLE / arguments.neurons
    return {
        "languages": arguments.languages,
        "sentences": arguments.sentences,
        "draws": null.draws,
        "neurons": arguments.neurons,
        "threads": torch.get_num_threads(),
        "processor_seconds": seconds,
        "wall_seconds": wall,
        "processor_minutes_at_500000": seconds * scale / 60,
        "minutes_on_two_cores_at_500000": seconds * scale / 120,
        "plain_products_processor_minutes_at_500000": plain * WHOLE / min(512, arguments.neurons) / 60,
        "peak_gigabytes": peak() / 2**30,
        "sklr_null_mean": float(null.sklr_null.double().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"languages": 9, "sentences": 100, "draws": 1000, "neurons": 20_000, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = measure(arguments)
    for name, value in found.items():
        print(f"{name:<44}{value:>14.4g}")
    minutes = found["minutes_on_two_cores_at_500000"]
    how = "" if arguments.neurons == WHOLE else f", extrapolated from {arguments.neurons} neurons"
    name = f"permutation null, {arguments.languages} × {arguments.sentences} × 500 000, B = {arguments.draws}{how}"
    results = [
        result(f"{name}: half its processor time (two cores)", minutes, MINUTES, "lower", "min"),
        result(f"{name}: peak memory of the process", found["peak_gigabytes"], GIGABYTES, "lower", "GB"),
        result(f"{name}: plain indicator products / ours, processor time", plainly(found)),
    ]
    tell(results, arguments.json, measured=found)


def plainly(found: dict[str, float]) -> float:
    """How much longer the two matrix products alone take that the plain way needs."""
    return found["plain_products_processor_minutes_at_500000"] / found["processor_minutes_at_500000"]


if __name__ == "__main__":
    main()
