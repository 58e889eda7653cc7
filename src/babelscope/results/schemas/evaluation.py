"""Tables of an evaluation run: one for each task, with the same columns."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, ClassVar

from babelscope.results.rows import Part, Row

if TYPE_CHECKING:
    from babelscope.results.reader import Run

BASE = "base"
"""the whole model"""
MEANS = ("mean", "others")
"""rows that are means over languages: all, and all but English"""
RANDOM = ", random"
"""in the name of a condition: as many random neurons, or a random direction"""
CHANCE = {"cloze": 0.5}
"""share of right answers of a coin, by table"""


@dataclass(frozen=True)
class Accuracy(Part):
    """A share of right answers with its 95 % interval."""

    n: int
    accuracy: float
    low: float = nan
    high: float = nan


@dataclass(frozen=True, kw_only=True)
class Cloze(Row):
    """Accuracy on the story cloze task in one language under one condition."""

    TABLE: ClassVar[str] = "cloze"
    task: str = ""
    language: str
    """`mean`: over languages; `others`: over those that are not English"""
    condition: str
    share: Accuracy
    margin: float = nan
    """log likelihood of the right ending over the wrong one, nats, mean"""


@dataclass(frozen=True, kw_only=True)
class Questioned(Row):
    """Accuracy on questions with several answers in one language under one condition, in a table named by the task."""

    task: str
    language: str
    condition: str
    share: Accuracy
    normalised: float
    """accuracy by log likelihood per letter, which long answers do not lose by"""
    blind: float
    """what blind choice gives"""


@dataclass(frozen=True)
class Answered:
    """Share of right answers in one language under one condition."""

    language: str
    condition: str
    accuracy: float
    low: float = nan
    high: float = nan
    n: float = nan
    chance: float = nan
    """what a blind choice gives, where that is known"""


def answered(run: Run) -> dict[str, list[Answered]]:
    """The tables of an evaluation run that hold shares of right answers, by their names."""
    found: dict[str, list[Answered]] = {}
    for name in run.tables:
        frame = run.table(name)
        if {"language", "condition", "accuracy"} <= set(frame.columns):
            wanted = frame.reindex(columns=["language", "condition", "accuracy", "low", "high", "n", "blind"])
            if name in CHANCE:
                wanted["blind"] = CHANCE[name]
            found[name] = [Answered(str(row[0]), str(row[1]), *map(float, row[2:])) for row in wanted.values.tolist()]
    return found
