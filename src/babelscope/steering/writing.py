"""What an answer is like: its language line by line, and whether it is text at all (steering.md, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from babelscope.regions.identification import broken_share, distinct
from babelscope.results.schemas.steering import Judged, Written
from babelscope.steering.confusion import Answer, Judge

NAN = float("nan")


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


def written_means(rows: Sequence[Judged]) -> Written:
    """Shares and means over answers; what an answer is like beside the language that is read in it."""
    n = max(len(rows), 1)

    def mean(values: Sequence[float]) -> float:
        known = [value for value in values if value == value]
        return sum(known) / len(known) if known else NAN

    return Written(
        all_target=sum(one.all_target for one in rows) / n,
        looping=mean([float(one.loops) for one in rows if one.all_target]),
        all_source=sum(one.all_source for one in rows) / n,
        all_other=sum(one.all_other for one in rows) / n,
        unknown=sum(one.unknown for one in rows) / n,
        skipped=sum(one.kind == "skipped" for one in rows) / n,
        broken_share=mean([one.broken_share for one in rows]),
        distinct_1=mean([one.distinct_1 for one in rows]),
        distinct_2=mean([one.distinct_2 for one in rows]),
        repeat=mean([float(one.repeat) for one in rows]),
        early_end=sum(one.reason == "end" for one in rows) / n,
    )
