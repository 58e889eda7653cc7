"""Reading text in rounds: what is known well enough is read no further, and its interval allows for that.

The rule is fixed before anything is read. After each round every set of neurons has, in every language, an interval of
its ΔNLL whose level belongs to that look; what all looks may err adds up to 5 %, so an interval holds at whichever look
its reading ended (Bonferroni, docs/methods-regions.md). A set is read no further in a language once its interval is ± a
tenth of the effects it stands beside, or less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from babelscope.regions.perplexity import Loss, Windows, loss_change, selectivity
from babelscope.stats import FEW_DOCUMENTS, Interval, no_interval

Key = tuple[str, int]
"""what is switched off, and the number of its random draw (−1: nothing is drawn)"""
BASE: Key = ("base", -1)
NARROW = 0.1
"""half the width of an interval, as a share of the effect beside it, at which reading ends"""


@dataclass(frozen=True)
class Look:
    """A moment at which intervals are made."""

    share: float
    """of a language's windows that are read by then"""
    error: float
    """with which an interval of this look may miss; the last one has what earlier ones did not spend"""


ROUNDS = (Look(0.25, 0.01), Look(0.5, 0.01), Look(1.0, 0.03))
AT_ONCE = (Look(1.0, 0.05),)
"""all text in one round"""


@dataclass(frozen=True)
class Cell:
    """One set of neurons in one language, as far as it was read."""

    changed: Loss
    base: Loss
    """of the same windows, with nothing switched off"""
    change: Interval
    """ΔNLL"""
    rounds: int
    level: float
    """of that interval, as the look at which it was made has it"""


@dataclass(frozen=True)
class Reading:
    """What was read of every set in every language."""

    cells: dict[Key, dict[str, Cell]]
    base: dict[str, Loss]
    """of all text"""


Read = Callable[[int, Mapping[str, Collection[Key]]], Mapping[str, Mapping[Key, Loss]]]
"""losses on the text that a round adds to each language, under its sets and under BASE; empty where it adds none"""


def by_rounds(read: Read, sets: Mapping[str, Mapping[Key, int]], looks: Sequence[Look] = ROUNDS) -> Reading:
    """Reads round by round; `sets`: by language, the neurons of each. An empty set is not read: it changes nothing."""
    base: dict[str, Loss] = {}
    left = dict.fromkeys(sets, sum(look.error for look in looks))
    cells: dict[Key, dict[str, Cell]] = {key: {} for own in sets.values() for key in own}
    done = {(key, code) for code, own in sets.items() for key, size in own.items() if not size}
    for place, look in enumerate(looks, start=1):
        left_open = {code: [key for key in own if (key, code) not in done] for code, own in sets.items()}
        added = read(place - 1, left_open)
        for code, open_sets in left_open.items():
            found = added[code]
            if found:
                base[code] = joined(base.get(code), found[BASE])
            # a look that can end nothing, for want of documents, spends nothing
            error = left[code] if place == len(looks) else look.error
            left[code] -= error if _documents(base[code]) >= FEW_DOCUMENTS else 0
            for key in open_sets:
                before = cells[key].get(code)
                changed = joined(before and before.changed, found[key]) if found else before and before.changed
                assert changed is not None
                change = loss_change(changed, base[code], level=1 - error)
                cells[key][code] = Cell(changed, base[code], change, place, 1 - error)
        done |= known(cells)
    for code, own in sets.items():
        for key, size in own.items():
            if not size:
                nothing = no_interval(0.0, "nothing is switched off" if key == BASE else "nothing changed")
                cells[key][code] = Cell(base[code], base[code], nothing, len(looks), 0.95)
    return Reading({key: {code: row[code] for code in sets if code in row} for key, row in cells.items()}, base)


def known(cells: Mapping[Key, Mapping[str, Cell]]) -> set[tuple[Key, str]]:
    """Sets and languages whose interval reaches to either side at most a tenth of each effect that it stands beside.

    Beside a set in a language stand the effect of that language's own region on it and, where the set is a region, that
    region's on its own language. An effect counts by the end of its interval that is nearer to 0: where it may be none,
    nothing beside it is narrow enough. Fewer than five documents never are.
    """
    own = {key[0]: _least(row[key[0]].change) for key, row in cells.items() if key[1] < 0 and key[0] in row}
    found: set[tuple[Key, str]] = set()
    for key, row in cells.items():
        for code, cell in row.items():
            effects = [own[name] for name in (code, key[0]) if name in own]
            enough = _documents(cell.base) >= FEW_DOCUMENTS
            if effects and enough and (cell.change.high - cell.change.low) / 2 <= NARROW * min(effects):
                found.add((key, code))
    return found


def _documents(loss: Loss) -> int:
    return int((loss.counts > 0).sum())


def _least(change: Interval) -> float:
    ends = max(change.low, -change.high, 0.0)
    return 0.0 if math.isnan(change.low) else ends


def joined(first: Loss | None, more: Loss) -> Loss:
    """The loss of two parts of one text."""
    if first is None:
        return more
    length = max(len(first.counts), len(more.counts))
    total, counts = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.long)
    for part in (first, more):
        total[: len(part.counts)] += part.by_document
        counts[: len(part.counts)] += part.counts
    return replace(first, by_document=total, counts=counts)


def dealt(text: Windows, looks: Sequence[Look], seed: int) -> list[Windows]:
    """The windows that each round adds, in a random order of their own; a text of few windows leaves some empty."""
    count = len(text.ids)
    order = torch.arange(count)
    if len(looks) > 1:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    ends = [0, *(math.ceil(look.share * count) for look in looks)]
    # within a round as they stand in the text: so do batches
    parts = [order[start:end].sort().values for start, end in pairwise(ends)]
    return [replace(text, ids=text.ids[rows], document=text.document[rows]) for rows in parts]


def first_ending(text: Windows, seed: int) -> float:
    """Share of a text at the first look that has five documents, after which reading may end; 1 where none has."""
    seen: set[int] = set()
    for look, part in zip(ROUNDS, dealt(text, ROUNDS, seed)):
        seen |= set(part.document[:, 1:].flatten().tolist())
        if len(seen) >= FEW_DOCUMENTS:
            return look.share
    return 1.0


def selectivity_in_rounds(own: Cell, others: Mapping[str, Cell], looks: Sequence[Look] = ROUNDS) -> Interval:
    """Selectivity of a region: paired by documents where all its cells were read to the end, else of their ends.

    The paired interval has the level of the last look: that it is made there and not elsewhere only takes misses away.
    """
    if all(cell.rounds == len(looks) for cell in (own, *others.values())):
        level = max(cell.level for cell in (own, *others.values()))
        pairs = {code: (cell.changed, cell.base) for code, cell in others.items()}
        return selectivity(own.changed, own.base, pairs, level)
    return selectivity_of_ends(own.change, [cell.change for cell in others.values()])


def selectivity_of_ends(own: Interval, others: Sequence[Interval]) -> Interval:
    """Own ΔNLL minus the mean of the others', where each may have been read to another look.

    Ends are added: own.low − mean(others.high) … own.high − mean(others.low). The error of a sum is at most the sum of
    the errors however they hang together, so this is no narrower than it should be. NaN ends where one has none.

    >>> found = selectivity_of_ends(Interval(3.0, 2.0, 4.0), [Interval(1.0, 0.5, 1.5)])
    >>> found.low, found.value, found.high
    (0.5, 2.0, 3.5)
    """
    value = own.value - sum(one.value for one in others) / len(others)
    # what changed nothing is known exactly
    ends = [(one.value, one.value) if one.why == "nothing changed" else (one.low, one.high) for one in others]
    low, high = (own.low - sum(end[1] for end in ends) / len(ends), own.high - sum(end[0] for end in ends) / len(ends))
    why = next((one.why for one in (own, *others) if one.why and one.why != "nothing changed"), "")
    return Interval(value, low, high, f"{own.method}, ends added", why or own.why)
