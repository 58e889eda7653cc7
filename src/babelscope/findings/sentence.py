"""A finding, and how numbers stand in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, inf, isnan, log10
from typing import Literal, get_args

from babelscope.languages import english_name
from babelscope.wording import MOST_DIGITS, decimals

Kind = Literal["effect", "none", "undecided", "not measured"]


@dataclass(frozen=True)
class Finding:
    """One sentence on a run."""

    kind: Kind
    text: str
    figure: str
    """name of the block of the page that shows it; empty where there is none"""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; ends are NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not (isnan(self.low) or isnan(self.high))

    def said(self, digits: int = 2) -> str:
        """`0.31 (0.28 to 0.34)`; the number alone where there is no interval. More digits where the ends need them.

        >>> Estimate(0.3123, 0.28, 0.34).said(), Estimate(0.3123).said(), Estimate(0.0004, 0.0001, 0.0007).said()
        ('0.31 (0.28 to 0.34)', '0.31 (no interval)', '0.0004 (0.0001 to 0.0007)')
        """
        half = (self.high - self.low) / 2 if self.known else 0.0
        if 0 < half < inf:
            digits = min(MOST_DIGITS, max(digits, -floor(log10(half))))
        ends = f"{decimals(self.low, digits)} to {decimals(self.high, digits)}" if self.known else "no interval"
        return f"{decimals(self.value, digits)} ({ends})"


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Effects first, then no effect, too little data, not measured; the order within a kind stays."""
    return sorted(findings, key=lambda finding: get_args(Kind).index(finding.kind))


def percent_range(values: Sequence[float]) -> str:
    """`22 to 48 %`, or `22 %` where both ends round alike.

    >>> percent_range([22.1, 48.0]), percent_range([-2.4, 5]), percent_range([3.1])
    ('22 to 48 %', '−2 to 5 %', '3 %')
    """
    low, high = decimals(min(values), 0), decimals(max(values), 0)
    return f"{low} %" if low == high else f"{low} to {high} %"


def count(n: int, noun: str) -> str:
    """`1 document`, `3 documents`.

    >>> count(1, "document"), count(3, "document")
    ('1 document', '3 documents')
    """
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s".replace(",", "\u202f")


def named(codes: Sequence[str]) -> str:
    """English names of languages, joined: `Arabic, English and Hindi`; a code that has none stays.

    >>> named(["ar", "en", "hi"])
    'Arabic, English and Hindi'
    """
    names = [english_name(code) for code in codes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
