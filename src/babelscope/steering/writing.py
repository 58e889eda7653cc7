"""What an answer is like: its language line by line, and whether it is text at all (steering.md, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from babelscope.regions.identification import broken_share, distinct
from babelscope.steering.confusion import Answer, Judge

NAN = float("nan")


@dataclass(frozen=True)
class Judged:
    """An answer as a row of the table `answers`."""

    text: str
    kind: str
    """of confusion: full, line, word, none, skipped"""
    success: float
    """share of counted lines in the target; NaN of none"""
    all_target: bool
    all_source: bool
    all_other: bool
    """every line in one language that is neither"""
    unknown: bool
    """no line whose language could be told"""
    identified: str
    """languages of the counted lines, by blanks"""
    tokens: int
    reason: str
    broken_share: float
    distinct_1: float
    distinct_2: float
    repeat: int
    """tokens of the longest stretch that stands twice"""

    @property
    def loops(self) -> bool:
        """Whether a stretch of half the answer or more stands twice: text that looks like a language, and is none."""
        return self.tokens > 0 and 2 * self.repeat >= self.tokens


def judged(judge: Judge, text: str, target: str, source: str, tokens: Sequence[int] = (), reason: str = "") -> Judged:
    """An answer to a prompt in `source` that was to be in `target`."""
    found: Answer = judge(text, target, source)
    known = [code for code in found.lines if code != "unknown"]
    every = set(found.lines)
    return Judged(
        text, found.kind, found.right / len(found.lines) if found.counted else NAN, found.passes,
        found.counted and every == {source}, len(every) == 1 and not every & {source, target, "unknown"},
        found.counted and not known, " ".join(found.lines), len(tokens), reason,
        broken_share(text), distinct(list(tokens), 1), distinct(list(tokens), 2), longest_repeat(tokens),
    )  # fmt: skip


def longest_repeat(tokens: Sequence[int]) -> int:
    """Length of the longest stretch that stands at two places, which may overlap.

    >>> longest_repeat([1, 2, 3, 1, 2, 3, 4])
    3
    """

    def twice(length: int) -> bool:
        seen: set[tuple[int, ...]] = set()
        for start in range(len(tokens) - length + 1):
            part = tuple(tokens[start : start + length])
            if part in seen:
                return True
            seen.add(part)
        return False

    low, high = 0, max(0, len(tokens) - 1)
    # a stretch that stands twice has all its beginnings standing twice: halve
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if twice(middle) else (low, middle - 1)
    return low
