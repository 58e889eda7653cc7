"""From what a lens read to evidence and verdicts, for every candidate language of one source and target.

L layers + 1 · n item · K language
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from babelscope.latent.census import Kept, apart, keep
from babelscope.latent.excess import Excess, Overlap, excess, frequency_matched, overlap, similarity
from babelscope.latent.geometry import MatchedRows
from babelscope.latent.inference import (
    DRAWS,
    PERMUTATIONS,
    adjusted,
    derangements,
    mean_interval,
    permutation_p,
    simultaneous,
)
from babelscope.latent.lens import Readings
from babelscope.latent.tokens import TokenSets
from babelscope.latent.verdict import LEAST_EXCESS, LEAST_SOLVED, Accuracy, Evidence, Verdict, decide
from babelscope.latent.words import WordList
from babelscope.stats import Interval, no_interval

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rules:
    """How intervals, null and verdict are made."""

    draws: int = DRAWS
    permutations: int = PERMUTATIONS
    matched: int = 200
    """draws of rows of matched spectrum"""
    least: float = LEAST_EXCESS
    solved: int = LEAST_SOLVED
    seed: int = 0


@dataclass
class Pair:
    """One source and target seen through one lens, with the item-wise excess of every language."""

    words: WordList
    tokens: TokenSets
    source: str
    target: str
    readings: Readings
    solved: Mask
    projected: Readings | None = None
    """the same without the directions of source and target (control 2)"""
    matched: MatchedRows | None = None
    """control 3"""
    counts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """frequency of each item's word by language, where a count file was given (control 1)"""

    @property
    def candidates(self) -> list[str]:
        """Every language but the target."""
        return [code for code in self.tokens.languages if code != self.target]

    @cached_property
    def kept(self) -> dict[str, Kept]:
        """What each language keeps; the target too."""
        return {code: keep(self.words, self.tokens, self.source, self.target, code) for code in self.tokens.languages}

    @cached_property
    def excess(self) -> dict[str, Excess]:
        """e of each language, the target's too."""
        return {code: excess(self.readings.q[code], kept.comparable) for code, kept in self.kept.items()}

    @property
    def accuracy(self) -> Accuracy:
        """Over all items that have a prompt."""
        return Accuracy(int(self.solved.sum()), len(self.solved))

    def overlap(self, code: str, chosen: Bool[Mask, " n"]) -> Overlap:
        """Control 4, on the `chosen` items."""
        concepts = [self.words.concepts[index] for index in self.tokens.concepts]
        alike = np.array([similarity(c.words.get(code, ()), c.words.get(self.target, ())) for c in concepts])
        return overlap(np.where(chosen, self.excess[code].strength(), np.nan), alike)

    def evidence(self, chosen: Bool[Mask, " n"], rules: Rules) -> dict[str, Evidence]:
        """What speaks for each candidate, on the `chosen` items (those solved, or all)."""
        numbers = np.arange(int(chosen.sum()))
        permutations = (
            derangements(len(numbers), rules.permutations, rules.seed) if len(numbers) > 2 else np.empty((0, 0), int)
        )
        p = np.array([self._p(code, chosen, permutations) for code in self.candidates])
        return {
            code: self._evidence(code, chosen, float(one), rules) for code, one in zip(self.candidates, adjusted(p))
        }

    def _p(self, code: str, chosen: Mask, permutations: NDArray[np.int64]) -> float:
        if not len(permutations):
            return float("nan")
        own, kept = self.excess[code], self.kept[code]
        row, col = (np.nan_to_num(values) for values in (own.row, own.col))
        return permutation_p(self.readings.q[code], row, col, kept.comparable, chosen, permutations)

    def _evidence(self, code: str, chosen: Mask, p: float, rules: Rules) -> Evidence:
        own, aim, kept = self.excess[code], self.excess[self.target], self.kept[code]
        usable = chosen & own.compared
        strength = mean_interval(own.strength()[usable], rules.draws, rules.seed)
        nothing = no_interval(float("nan"), "not computed")
        geometry = nothing
        if self.projected is not None:
            without = excess(self.projected.q[code], kept.comparable).strength()
            geometry = mean_interval(without[usable], rules.draws, rules.seed)
        frequent = frequency_matched(self.readings.q[code], kept.comparable, self.counts.get(code)).strength()
        both = usable & aim.compared
        return Evidence(
            code,
            self.accuracy,
            int(usable.sum()),
            simultaneous(own.value[1:-1, usable], rules.draws, rules.seed),
            _mean(own.value[:, usable]),
            _mean(aim.value[:, both]),
            strength,
            p,
            {other: self._against(code, other, usable, rules) for other in self.candidates if other != code},
            simultaneous((own.value - aim.value)[1:-1, both], rules.draws, rules.seed),
            mean_interval(frequent[usable], rules.draws, rules.seed),
            geometry,
            self._matched(code, usable, strength, rules),
        )

    def _against(self, code: str, other: str, usable: Mask, rules: Rules) -> Interval:
        rival = self.excess[other]
        both = usable & rival.compared & apart(self.tokens, code, other)
        difference = self.excess[code].strength() - rival.strength()
        return mean_interval(difference[both], rules.draws, rules.seed)

    def _matched(self, code: str, usable: Mask, strength: Interval, rules: Rules) -> float:
        # a candidate whose A is not above 0 needs no further control
        if self.matched is None or not strength.low > 0 or not rules.matched:
            return float("nan")
        return self.matched.quantile(
            self.tokens.of(code),
            self.tokens.of(self.target),
            self.kept[code].comparable,
            usable,
            rules.matched,
            rules.seed,
        )

    def verdicts(self, chosen: Bool[Mask, " n"], rules: Rules) -> dict[str, tuple[Evidence, Verdict]]:
        """Evidence and verdict of each candidate."""
        found = self.evidence(chosen, rules)
        return {code: (one, decide(one, rules.least, rules.solved)) for code, one in found.items()}


def _mean(values: Float[Array, "L n"]) -> Float[Array, " L"]:
    return values.mean(1) if values.shape[1] else np.full(len(values), np.nan)
