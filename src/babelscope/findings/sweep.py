"""Sentences on a sweep: what changed from the first point of a model to its last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isfinite

from babelscope.findings.sentence import Estimate, Finding, Kind, count
from babelscope.results import Run
from babelscope.results.schemas.sweep import SweepPoint, points

NAN = float("nan")

MEASURES = {
    "lrds": ("how far languages stand apart (LRDS)", 3),
    "sads": ("how alike translations are (SADS)", 3),
    "sklr_share": ("the share of neurons in some region", 3),
}
"""columns of the points → what they measure, decimals"""


def sweep_findings(run: Run) -> list[Finding]:
    """A sentence per measure and series: a model's checkpoints on one corpus, or a family's sizes on one."""
    if "points" not in run.tables:
        return []
    done = [point for point in points(run) if point.row.status == "done"]
    if len(done) < 2:
        text = f"{count(len(done), 'finished point')}: nothing can be said about growth."
        return [Finding("undecided", text, "training-curves")]
    return [finding for name in MEASURES for finding in _changes(done, name)]


def _changes(done: Sequence[SweepPoint], measure: str) -> Iterator[Finding]:
    along = all(isfinite(point.row.step) for point in done)
    several = len({point.row.corpus for point in done}) > 1
    series: dict[str, list[SweepPoint]] = {}
    for point in done if along else _last_of_each_size(done):
        if isfinite(point.values.get(measure, NAN)) and isfinite(_order(point, along)):
            beside = f", {point.row.corpus}" if several else ""
            series.setdefault(f"{point.row.model}{beside}" if along else point.row.corpus, []).append(point)
    for name_of_series, own in sorted(series.items()):
        ranked = sorted(own, key=lambda point: _order(point, along))
        if len(ranked) < 2:
            continue
        name, digits = MEASURES[measure]
        before, after = _estimate(ranked[0], measure), _estimate(ranked[-1], measure)
        kind = change(before, after)
        verb = "may have changed" if kind != "effect" else "rises" if after.value > before.value else "falls"
        first, last = (_label(point, along) for point in (ranked[0], ranked[-1]))
        what = f"From {first} to {last}, {name} {verb}"
        said = f"{before.said(digits)} to {after.said(digits)}, {count(len(ranked), 'point')}"
        yield Finding(kind, f"{what}: {said} ({name_of_series}).", "training-curves" if along else "scale-curves")


def _last_of_each_size(done: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Checkpoints of one size have no order among sizes; one without a step is the finished model."""
    last: dict[tuple[str, float], SweepPoint] = {}
    for point in sorted(done, key=lambda point: point.row.step if isfinite(point.row.step) else inf):
        last[point.row.corpus, point.row.parameters] = point
    return list(last.values())


def _order(point: SweepPoint, along: bool) -> float:
    return point.row.step if along else point.row.parameters


def _label(point: SweepPoint, along: bool) -> str:
    """The checkpoint, where the series is one model's; else the model too."""
    if along and point.row.revision:
        return point.row.revision
    return point.row.label or f"{point.row.model}@{point.row.revision}"


def change(before: Estimate, after: Estimate) -> Kind:
    """An effect where the intervals do not meet; undecided where they do, or where one is missing.

    >>> change(Estimate(0.1, 0.0, 0.2), Estimate(0.5, 0.4, 0.6)), change(Estimate(0.1), Estimate(0.5, 0.4, 0.6))
    ('effect', 'undecided')
    """
    if not (before.known and after.known):
        return "undecided"
    return "effect" if before.high < after.low or after.high < before.low else "undecided"


def _estimate(point: SweepPoint, measure: str) -> Estimate:
    return Estimate(point.values[measure], *point.interval(measure))
