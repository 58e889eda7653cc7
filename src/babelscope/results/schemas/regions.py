"""Tables of a regions run. ΔNLL: rise of the loss when neurons are switched off, in nats a token."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Row


@dataclass(frozen=True)
class Perplexity(Row):
    """Loss on the text of one language with one set of neurons switched off."""

    TABLE: ClassVar[str] = "perplexity"
    language: str
    """of the text"""
    deactivated: str
    """`base`: nothing; `random`, `random-layer`: controls; else the language whose region it is"""
    perplexity: float
    increase_percent: float
    """of perplexity over the base"""
    draw: int = -1
    """of a random control; −1 else"""
    delta_nll: float = nan
    """nats a token over the base"""
    delta_low: float = nan
    delta_high: float = nan
    tokens: float = nan
    """that the loss is a mean of"""
    documents: float = nan
    why: str = ""
    """there is no interval"""


@dataclass(frozen=True)
class Selectivity(Row):
    """ΔNLL of a region's own language minus the mean of the others'."""

    TABLE: ClassVar[str] = "selectivity"
    language: str
    selectivity: float
    """nats a token"""
    own: float = nan
    others: float = nan
    low: float = nan
    high: float = nan
    documents: float = nan
    why: str = ""
    """there is no interval"""


@dataclass(frozen=True)
class Dose(Row):
    """Loss of one language as a growing share of neurons is treated."""

    TABLE: ClassVar[str] = "dose"
    region: str
    """whose neurons: a language, or `random-layer`"""
    matched: str
    """the language whose sizes by layer a random draw has"""
    kind: str
    """what treated neurons become"""
    share: float
    """of all neurons"""
    language: str
    """of the text"""
    delta_nll: float
    """nats a token"""
    delta_low: float = nan
    delta_high: float = nan


@dataclass(frozen=True)
class Stability(Row):
    """How much of a region is found again, as Jaccard overlap."""

    TABLE: ClassVar[str] = "stability"
    language: str
    bootstrap_jaccard: float
    """with sentences drawn anew"""
    bootstrap_low: float
    bootstrap_high: float
    split_half_jaccard: float
    """between halves of the sentences"""
    split_half_low: float
    split_half_high: float
    chance_jaccard: float
    """of two random regions of that size"""
    n: float = nan
    """sentences a language"""
    draws: float = nan


@dataclass(frozen=True)
class Calibration(Row):
    """Key neurons of a language by z, against permuted language labels."""

    TABLE: ClassVar[str] = "calibration"
    language: str
    """"" in the row of all"""
    expected_null: float
    """key neurons that permuted labels give"""
    excess: float
    """observed minus expected"""
    excess_low: float = nan
    excess_high: float = nan


@dataclass(frozen=True)
class Alignment(Row):
    """One metric of alignment of one pair of languages in one layer."""

    TABLE: ClassVar[str] = "alignment"
    metric: str
    layer: float
    """NaN: whole model"""
    language: str
    language2: str
    value: float
    low: float = nan
    high: float = nan


@dataclass(frozen=True)
class Sentence(Row):
    """One sentence of the similarity map."""

    TABLE: ClassVar[str] = "sentences"
    id: str
    language: str
    text: str
    tokens: float = nan


@dataclass(frozen=True)
class AlignmentMean(Row):
    """One metric of alignment in one layer, mean over pairs of languages, with an interval of its own."""

    TABLE: ClassVar[str] = "alignment_means"
    metric: str
    layer: int
    value: float
    low: float
    high: float
    why: str = ""


@dataclass(frozen=True)
class Cloze(Row):
    """Accuracy on the story cloze task in one language, with one set of neurons switched off."""

    TABLE: ClassVar[str] = "cloze"
    language: str
    """`mean`: over languages; `others`: over those that are not English"""
    deactivated: str
    accuracy: float
    low: float = nan
    high: float = nan
