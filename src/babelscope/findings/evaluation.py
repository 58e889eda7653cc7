"""Sentences on an evaluation: where the model answers better than chance, and what a condition changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from statistics import median

from babelscope.findings.sentence import Estimate, Finding, count, named, percent_range
from babelscope.results import Run
from babelscope.results.schemas.evaluation import BASE, CHANCE, MEANS, RANDOM, Answered, answered

FIGURE = "right-answers"


def evaluation_findings(run: Run) -> list[Finding]:
    """A sentence on the whole model, and one for each condition, of every task."""
    found: list[Finding] = []
    for task, rows in answered(run).items():
        whole = [row for row in rows if row.condition == BASE and row.language not in MEANS]
        if whole:
            found.append(_whole(task, whole))
        found += _changed(task, rows, whole)
    return found or [Finding("not measured", "No share of right answers was measured.", "")]


def _whole(task: str, rows: Sequence[Answered]) -> Finding:
    shares = [100 * row.accuracy for row in rows]
    n = f"{task}, {count(int(min(row.n for row in rows)), 'item')} a language or more" if _counted(rows) else task
    said = f"{percent_range(shares)} of the answers are right (median {median(shares):.0f} %; {n})"
    chances = [row.chance for row in rows]
    if any(isnan(chance) for chance in chances):
        return Finding("effect", f"In {count(len(rows), 'language')} {said}; what chance gives is not known.", FIGURE)
    above = [row.language for row in rows if row.low > row.chance]
    beside = f"; {'a coin' if task in CHANCE else 'blind choice'} gives {percent_range([100 * one for one in chances])}"
    if not above:
        return Finding("none", f"In no language are answers better than chance: {said}{beside}.", FIGURE)
    where = f"in {len(above)} of {len(rows)} languages" if len(above) < len(rows) else "in every language"
    kind = "effect" if 2 * len(above) > len(rows) else "undecided"
    only = "" if len(above) == len(rows) or len(above) > 3 else f" ({named(above)})"
    return Finding(kind, f"Answers are better than chance {where}{only}: {said}{beside}.", FIGURE)


def _changed(task: str, rows: Sequence[Answered], whole: Sequence[Answered]) -> Iterator[Finding]:
    """For each condition the language that it changes most, beside the same language under its random controls."""
    before = {row.language: row for row in whole}
    by_name: dict[str, list[Answered]] = {}
    for row in rows:
        if row.condition != BASE and row.language in before:
            by_name.setdefault(row.condition, []).append(row)
    for name, own in by_name.items():
        if RANDOM in name:
            continue
        moved = {row.language: row.accuracy - before[row.language].accuracy for row in own}
        code = name if name in moved else max(moved, key=lambda language: abs(moved[language]))
        after = next(row for row in own if row.language == code)
        drawn = [
            row.accuracy for other, its in by_name.items() if other.startswith(f"{name}{RANDOM}")
            for row in its if row.language == code
        ]  # fmt: skip
        what = f"the region of {named([name])} switched off" if name in before else name
        text = (
            f"With {what}, {_said(after)} of the answers in {named([code])} are right instead of {_said(before[code])} "
            f"({task})"
        )
        beside = "; without random controls"
        if drawn:
            random = percent_range([100 * value for value in drawn])
            beside = f"; with random ones {random} ({count(len(drawn), 'draw')})"
        apart = after.high < before[code].low or after.low > before[code].high
        outside = bool(drawn) and not min(drawn) <= after.accuracy <= max(drawn)
        kind = "effect" if apart and outside else "undecided"
        reason = "" if apart else "; the intervals meet"
        yield Finding(kind, f"{text}{beside}{reason}.", FIGURE)


def _said(row: Answered) -> str:
    estimate = Estimate(100 * row.accuracy, 100 * row.low, 100 * row.high)
    ends = f" ({estimate.low:.0f} to {estimate.high:.0f})" if estimate.known else ""
    return f"{estimate.value:.0f} %{ends}"


def _counted(rows: Sequence[Answered]) -> bool:
    return all(row.n == row.n for row in rows)
