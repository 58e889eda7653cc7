"""Tables of runs of steering and of language confusion. Success: an answer in the target language."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Row


@dataclass(frozen=True)
class Front(Row):
    """One setting on the documents by which settings are chosen."""

    TABLE: ClassVar[str] = "front"
    source: str
    target: str
    method: str
    layer: float
    """−1: every layer"""
    alpha: float
    """strength"""
    success: float
    """share of answers"""
    delta_nll: float
    """of the target's text, nats a token"""
    front_share: float = nan
    """of document draws in which no setting is better in both"""
    repeat: float = nan
    """longest repeat, tokens, mean"""


@dataclass(frozen=True)
class Steered(Row):
    """One condition on the documents that are reported on."""

    TABLE: ClassVar[str] = "steering"
    source: str
    target: str
    condition: str
    """`steered`, `unsteered`, `prompted`"""
    success: float
    success_low: float
    success_high: float
    method: str = ""
    layer: float = nan
    alpha: float = nan
    broken_share: float = nan
    """of letters"""
    distinct_2: float = nan
    """distinct pairs of words, as a share"""
    repeat: float = nan
    n: float = nan
    """answers"""
    documents: float = nan
    random: float = nan
    """success of random directions of the same size"""
    random_neurons: float = nan
    draws: float = nan
    p: float = nan
    """against random draws"""
    why: str = ""


@dataclass(frozen=True)
class Damage(Row):
    """Rise of the loss on held-out text of one language."""

    TABLE: ClassVar[str] = "damage"
    source: str
    target: str
    method: str
    layer: float
    alpha: float
    condition: str
    language: str
    role: str
    """`target`, `source` or `third`"""
    delta_nll: float
    """nats a token"""
    delta_nll_low: float
    delta_nll_high: float
    why: str = ""


@dataclass(frozen=True)
class SteeringControl(Row):
    """Success of one draw of a control of the same place and size."""

    TABLE: ClassVar[str] = "controls"
    source: str
    target: str
    control: str
    success: float
    method: str = ""


@dataclass(frozen=True)
class Fidelity(Row):
    """How much an answer tells about its translation."""

    TABLE: ClassVar[str] = "fidelity"
    source: str
    target: str
    method: str
    layer: float
    alpha: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Answer(Row):
    """One written answer."""

    TABLE: ClassVar[str] = "answers"
    source: str
    target: str
    condition: str
    tokens: float = nan
    repeat: float = nan
    """longest stretch that is written twice in a row, tokens"""
    method: str = ""
    layer: float = nan
    alpha: float = nan


@dataclass(frozen=True)
class Confusion(Row):
    """Answers of a model in one language, by what is wrong with them."""

    TABLE: ClassVar[str] = "confusion"
    model: str
    task: str
    set_: str
    language: str
    lpr: float
    """line pass rate: answers whose every line is in the language"""
    lpr_low: float
    lpr_high: float
    none: float = nan
    """answers without confusion"""
    word: float = nan
    line: float = nan
    full: float = nan
    skipped: float = nan
    """too short to tell"""
    why: str = ""
