"""Information flow routes of one large layer against holding every part in memory, as ratios inside one process.

    python benchmarks/routes.py [--json FILE] [--length 128] [--heads 32] [--width 4096] [--repeat 3]

Random values, float32, one thread; seconds are of processor time. f [T, T, H, D] would be 8.6 GB at the default size,
so the plain way is run for a few heads at a time and its time multiplied.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from babelscope.circuits.heads.routes import EPSILON, Layer, head_proximities
from benchmarks._measure import best, peak, result, tell

SOME = 2
"""heads that the plain way holds at once"""


def random_layer(length: int, heads: int, width: int) -> Layer:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    scores = normal(heads, length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    return Layer(
        entering=normal(length, width),
        values=normal(length, heads, width // heads),
        patterns=scores.softmax(-1),
        attention=normal(length, width),
        mlp=normal(length, width),
        output=normal(heads, width // heads, width) / width**0.5,
        direction=None,
        centred=False,
        scale=None,
        parallel=False,
    )


def plain(layer: Layer, whole: torch.Tensor, heads: slice) -> torch.Tensor:
    """prox of some heads' parts, all sources and targets at once: [targets, H, T]."""
    spread = torch.einsum("jhe,hed->jhd", layer.values[:, heads], layer.output[heads])
    parts = torch.einsum("hij,jhd->ijhd", layer.patterns[heads], spread)
    rest = (whole[:, None, None] - parts).abs().sum(-1)
    found = (whole.abs().sum(-1)[:, None, None] - rest).clamp(min=EPSILON)
    later = torch.ones(len(whole), len(whole)).triu(1).bool()
    return found.masked_fill(later[:, :, None], 0).transpose(1, 2)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    for name, default in (("length", 128), ("heads", 32), ("width", 4096), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    layer = random_layer(given.length, given.heads, given.width)
    whole, targets = layer.entering + layer.attention, torch.arange(given.length)
    fast = head_proximities(layer, whole, targets, EPSILON)
    held = peak()
    some = min(SOME, given.heads)
    difference = (fast[:, :some] - plain(layer, whole, slice(0, some))).abs().max()
    assert difference < 1e-5 * whole.abs().sum(-1).max(), difference
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: head_proximities(layer, whole, targets, EPSILON),
        "theirs": lambda: plain(layer, whole, slice(0, some)),
    }
    cost = best(ways, given.repeat)
    ours, theirs = cost["ours"], cost["theirs"] * given.heads / some
    tensor = given.length**2 * given.heads * given.width * 4
    size = f"T = {given.length}, {given.heads} heads, d = {given.width}"
    results = [
        result(f"routes, {size}: plain time / ours", theirs / ours, 3),
        result(f"routes, {size}: peak memory", held / 1e6, 2000, "lower", "MB"),
    ]
    print(f"{size}: {ours:.2f} s against {theirs:.2f} s ({theirs / ours:.1f} ×)")
    print(f"the whole process held {held / 2**20:.0f} MB at most")
    print(f"the tensor of all parts would be {tensor / 2**30:.1f} GB")
    tell(results, given.json)


if __name__ == "__main__":
    main()
