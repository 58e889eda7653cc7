"""How often a circuits study calls something that is not there, and finds what is: backups, labels, selection.

    python -m benchmarks.circuit_calls

Simulated logit differences with known truth, seeded; prints false calls under nulls and power, with Wilson intervals.
"""

from __future__ import annotations

import numpy as np

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.labels import Null
from babelscope.circuits.patching.selection import growth, select
from babelscope.stats import wilson

HEADS, RUNS = 48, 400


def effects_of(change: np.ndarray, left: float = 8.0) -> Effects:
    """Effects of heads from changes in shares of an unablated logit difference of 8."""
    base = np.full(change.shape[1], left)
    senders = tuple(Head(*divmod(place, 8)) for place in range(len(change)))
    return Effects(senders, base + 8 * change, base, base, settings={"layers": 6, "heads": 8})


def noise(generator: np.random.Generator, shape: tuple[int, int], skewed: bool) -> np.ndarray:
    """Independent noise of mean 0 and deviation 0.3; skewed: exponential."""
    return 0.3 * (generator.exponential(1, shape) - 1 if skewed else generator.normal(size=shape))


def told(what: str, hits: int, trials: int) -> None:
    share = wilson(hits, trials)
    print(f"| {what} | {share.value:.3f} ({share.low:.3f} to {share.high:.3f}) | {trials} |")


def main() -> None:
    print("| call | rate (95 %) | of |\n|---|---|---|")
    for skewed in (False, True):
        kind = "skewed" if skewed else "normal"
        for n in (10, 20, 100):
            any_call = calls = found = backups = power = labels = 0
            for seed in range(RUNS):
                generator = np.random.default_rng((seed, n, skewed))
                nothing = effects_of(noise(generator, (HEADS, n), skewed))
                chosen = select(nothing, sigmas=0.0).nodes
                any_call, calls = any_call + bool(chosen), calls + len(chosen)
                change = noise(generator, (HEADS, n), skewed)
                change[0] -= 0.4
                found += Head(0, 0) in select(effects_of(change), sigmas=0.0).nodes
                before, after = (noise(generator, (HEADS, n), skewed) for _ in range(2))
                before[:6] -= 0.6
                after[:6] -= 0.45
                backups += bool(growth(effects_of(before), effects_of(after, 0.5), gone=[]).backups)
                after[7] -= 0.5
                power += Head(0, 7) in growth(effects_of(before), effects_of(after, 0.5), gone=[]).backups
                even = np.full((6, 8, n), 0.1)
                own = even + noise(generator, (HEADS, n), skewed).reshape(6, 8, n) / 10
                labels += bool(Null.of(own, even, n).beaten.any())
            told(f"selection, {kind}, n = {n}: any head where none acts", any_call, RUNS)
            told(f"selection, {kind}, n = {n}: a head of −0.4 is found", found, RUNS)
            told(f"backups, {kind}, n = {n}: any head where none grows (six from −0.6 to −0.45)", backups, RUNS)
            told(f"backups, {kind}, n = {n}: a head that grows from 0 to −0.5 is found", power, RUNS)
            told(f"labels, {kind}, n = {n}: any head beats its own null where none attends more", labels, RUNS)


if __name__ == "__main__":
    main()
