"""How often a circuits study calls something that is not there, and finds what is: one row for every kind of call.

    python -m benchmarks.circuit_calls [--quick]

Simulated logit differences with known truth, seeded: 48 heads, noise of deviation 0.3 of LD that is normal, or
exponential with its long tail on either side. A false call is any head (any overlap) where nothing is there; both with
Wilson intervals over the runs. The stated rate is 0.05.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np

from babelscope.circuits.comparison.overlap import MEASURES, circuit_overlap, random_circuit
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.labels import Null
from babelscope.circuits.patching.selection import growth, select
from babelscope.stats import wilson

HEADS, RATE = 48, 0.05
Call = tuple[str, str, int, int, int]
"""kind of call, noise, prompts, false calls, true ones"""
KINDS = {"normal": 0, "tail to the right": 1, "tail to the left": -1}


def effects_of(change: np.ndarray, left: float = 8.0) -> Effects:
    """Effects of heads from changes in shares of an unablated logit difference of 8."""
    base = np.full(change.shape[1], left)
    senders = tuple(Head(*divmod(place, 8)) for place in range(len(change)))
    return Effects(senders, base + 8 * change, base, base, settings={"layers": 6, "heads": 8})


def noise(generator: np.random.Generator, n: int, tail: int) -> np.ndarray:
    """Independent noise of mean 0 and deviation 0.3, HEADS × n."""
    shape = (HEADS, n)
    return 0.3 * (tail * (generator.exponential(1, shape) - 1) if tail else generator.normal(size=shape))


def selection(generator: np.random.Generator, n: int, tail: int) -> Iterator[tuple[str, bool, bool]]:
    """By every way in which a study selects: name, a false call, the planted head found."""
    nothing = noise(generator, n, tail)
    change = noise(generator, n, tail)
    change[0] -= 0.4
    same = effects_of(noise(generator, n, tail))  # the same-answer counterfactual of a head that carries no answer
    for sigmas in (2.0, 0.0):
        demand = ", two deviations" if sigmas else ""
        for name, null in (("same-answer null", same), ("no null", None)):
            called = select(effects_of(nothing), null=null, sigmas=sigmas).nodes
            found = select(effects_of(change), null=null, sigmas=sigmas).nodes
            yield f"selection, {name}{demand}", bool(called), Head(0, 0) in found


def backups(generator: np.random.Generator, n: int, tail: int) -> Iterator[tuple[str, bool, bool]]:
    """Six heads act less after the knock-out and the others as before; then one grows from 0 to −0.5."""
    before, after = noise(generator, n, tail), noise(generator, n, tail)
    before[:6] -= 0.6
    after[:6] -= 0.45
    called = growth(effects_of(before), effects_of(after, 0.5), gone=[]).backups
    after[7] -= 0.5
    yield "backups", bool(called), Head(0, 7) in growth(effects_of(before), effects_of(after, 0.5), gone=[]).backups
    # heads that were silent before: g is the effect after the knock-out itself, so nothing makes it symmetric
    silent, after = effects_of(np.zeros((HEADS, n))), noise(generator, n, tail)
    called = growth(silent, effects_of(after, 0.5), gone=[]).backups
    after[7] -= 0.5
    found = growth(silent, effects_of(after, 0.5), gone=[]).backups
    yield "backups among silent heads", bool(called), Head(0, 7) in found


def roles(generator: np.random.Generator, n: int, tail: int) -> Iterator[tuple[str, bool, bool]]:
    """No head attends more to the role than to its other positions; then one does, by 0.06."""
    even = np.full((6, 8, n), 0.1)
    own = even + noise(generator, n, tail).reshape(6, 8, n) / 10
    called = bool(Null.of(own, even, n).beaten.any())
    own[0, 0] += 0.06
    yield "roles", called, bool(Null.of(own, even, n).beaten[0, 0])


def overlaps(runs: int) -> Iterator[Call]:
    """Independent random circuits, and circuits that are the same: p ≤ 0.05, by measure; no prompts."""
    wiring = Wiring(layers=4, heads=6, kv_heads=6)
    false, true = Counter[str](), Counter[str]()
    for seed in range(runs):
        generator = np.random.default_rng((seed, 5))
        first, second = (random_circuit(wiring, 60, generator, "top") for _ in range(2))
        false.update(one.measure for one in circuit_overlap(first, second, 99, seed) if one.p <= RATE)
        true.update(one.measure for one in circuit_overlap(first, first, 99, seed) if one.p <= RATE)
    for measure in MEASURES:
        yield f"overlap, {measure.replace('_', ' ')}", "–", 0, false[measure], true[measure]


def calls(runs: int) -> Iterator[Call]:
    """Every kind of call under every noise and number of prompts."""
    for kind, tail in KINDS.items():
        for n in (10, 20, 100):
            false, true = Counter[str](), Counter[str]()
            names: dict[str, None] = {}
            for seed in range(runs):
                generator = np.random.default_rng((seed, n, tail % 3))
                for part in (selection, backups, roles):
                    for name, wrong, right in part(generator, n, tail):
                        names[name] = None
                        false[name] += wrong
                        true[name] += right
            for name in names:
                yield name, kind, n, false[name], true[name]


def main(runs: int) -> None:
    """Print the table: a cell holds the rate of false calls with its interval, and the share of planted ones found."""
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for name, kind, n, false, true in [*calls(runs), *overlaps(runs)]:
        wrong = wilson(false, runs)
        above = f" **above {RATE}**" if wrong.low > RATE else ""
        said = f"{wrong.value:.3f} ({wrong.low:.3f} to {wrong.high:.3f}){above}; {true / runs:.2f}"
        cells.setdefault((name, kind), {})[n] = said
    print(f"{runs} runs a cell; false calls (95 %); share of the planted that is found\n")
    print("| call | noise | n = 10 | n = 20 | n = 100 |\n|---|---|---|---|---|")
    for (name, kind), by_n in sorted(cells.items(), key=lambda one: one[0][0]):
        row = [by_n[0], "", ""] if 0 in by_n else [by_n[n] for n in (10, 20, 100)]
        print(f"| {name} | {kind} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main(100 if "--quick" in sys.argv else 400)
