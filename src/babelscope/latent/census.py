"""Which concepts can be compared for a candidate language, and why the others cannot (section 1, section 5).

n concept · k candidate · a source · b target
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from babelscope.errors import InputError
from babelscope.latent.tokens import TokenSets
from babelscope.latent.words import WordList
from babelscope.results.rows import Row

Mask = NDArray[np.bool_]
REASONS = (
    "no word or token",
    "runs together with the prompt",
    "same token as the target",
    "inside the target's word",
    "same token as the source",
    "token ends the prompt",
)
"""why a concept is dropped, the first that holds"""


@dataclass(frozen=True)
class Kept:
    """Which items a candidate language keeps, and with which others each may be compared."""

    language: str
    kept: Mask
    """[n]"""
    comparable: Mask
    """[n, n] V: j serves as a random other for i; symmetric, False on the diagonal and outside `kept`"""
    dropped: dict[str, int]


@dataclass(frozen=True)
class CensusRow(Row):
    """One line of the census: a language as candidate of a pair of source and target."""

    TABLE: ClassVar[str] = "census"
    source: str
    target: str
    language: str
    offered: int
    one_token: int
    in_context_as_isolated: int
    partial: int
    distinct_sets: int
    shared: str
    """with each other language, items whose sets meet: `en 3, es 1`"""
    dropped: str
    kept: int
    comparable: int
    """kept items with at least one other to compare with"""


def keep(words: WordList, tokens: TokenSets, source: str, target: str, candidate: str) -> Kept:
    """The rules of section 1; the target itself is kept wherever it has a token."""
    own, aim, given = tokens.of(candidate), tokens.of(target), tokens.of(source)
    count, reasons = len(own), Counter[str]()
    kept = np.zeros(count, dtype=bool)
    for item in range(count):
        reason = _reason(words, tokens, item, source, target, candidate)
        kept[item] = reason is None
        if reason is not None:
            reasons[reason] += 1
    comparable = np.zeros((count, count), dtype=bool)
    for i in range(count):
        for j in range(i):
            if kept[i] and kept[j]:
                apart = own[j].isdisjoint(given[i] | aim[i] | own[i]) and own[i].isdisjoint(given[j] | aim[j])
                comparable[i, j] = comparable[j, i] = apart
    return Kept(candidate, kept, comparable, dict(reasons))


def _reason(words: WordList, tokens: TokenSets, item: int, source: str, target: str, candidate: str) -> str | None:
    concept = words.concepts[tokens.concepts[item]]
    own, aim, given = (tokens.sets[code][item] for code in (candidate, target, source))
    if own.merges or aim.merges:
        return REASONS[1]
    if not own.tokens or not aim.tokens:
        return REASONS[0]
    if candidate == target:
        return None
    if own.tokens & aim.tokens:
        return REASONS[2]
    if any(a.casefold() in b.casefold() for a in concept.words[candidate] for b in concept.words[target]):
        return REASONS[3]
    if candidate != source and own.tokens & given.tokens:
        return REASONS[4]
    return REASONS[5] if own.tokens & tokens.last[item] else None


def apart(tokens: TokenSets, one: str, other: str) -> Mask:
    """Items whose sets in two candidate languages share no token: those on which A_k − A_j is taken."""
    return np.array([a.isdisjoint(b) for a, b in zip(tokens.of(one), tokens.of(other))])


def census(words: WordList, tokens: TokenSets, source: str, target: str, kept: Sequence[Kept]) -> list[CensusRow]:
    """One row a language."""
    return [_row(words, tokens, source, target, one) for one in kept]


def _row(words: WordList, tokens: TokenSets, source: str, target: str, kept: Kept) -> CensusRow:
    found = tokens.sets[kept.language]
    own = tokens.of(kept.language)
    shared = {
        code: sum(not a.isdisjoint(b) for a, b in zip(own, tokens.of(code)))
        for code in tokens.languages
        if code != kept.language
    }
    return CensusRow(
        source,
        target,
        kept.language,
        sum(bool(words.concepts[index].words.get(kept.language)) for index in tokens.concepts),
        sum(one.single for one in found),
        sum(one.as_isolated for one in found),
        sum(one.partial for one in found),
        len({one for one in own if one}),
        ", ".join(f"{code} {number}" for code, number in shared.items() if number),
        ", ".join(f"{reason} {number}" for reason, number in kept.dropped.items()),
        int(kept.kept.sum()),
        int(kept.comparable.any(1).sum()),
    )


def refuse_empty(rows: Sequence[CensusRow]) -> None:
    """Raises InputError with the census when no language keeps a concept beside the target."""
    if any(row.comparable > 0 for row in rows if row.language != row.target):
        return
    lines = [", ".join(f"{name} {value or 'none'}" for name, value in asdict(row).items()) for row in rows]
    raise InputError("no concept can be compared in any candidate language; census: " + "; ".join(lines))
