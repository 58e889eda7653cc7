"""Sentences on a sweep: what changed from the first point of a model to its last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from babelscope.findings.sentence import Estimate, Finding, count
from babelscope.results import Run

MEASURES = {
    "lrds": ("how far languages stand apart (LRDS)", 3),
    "sads": ("how alike translations are (SADS)", 3),
    "sklr_share": ("the share of neurons in some region", 3),
}
"""columns of the points → what they measure, decimals"""


def sweep_findings(run: Run) -> list[Finding]:
    """A sentence per measure and series (a model's checkpoints, or a family's sizes)."""
    if "points" not in run.tables:
        return []
    points = run.table("points")
    done = points[points.status == "done"] if "status" in points else points
    if len(done) < 2:
        text = f"{count(len(done), 'finished point')}: nothing can be said about growth."
        return [Finding("undecided", text, "training-curves")]
    return [finding for name in MEASURES if name in done for finding in _changes(done, name)]


def _changes(points: Any, measure: str) -> Iterator[Finding]:
    order = "step" if points.step.notna().all() else "parameters"
    for model, series in points.dropna(subset=[measure, order]).groupby("model" if order == "step" else "corpus"):
        ranked = series.sort_values(order)
        if len(ranked) < 2:
            continue
        first, last = ranked.iloc[0], ranked.iloc[-1]
        name, digits = MEASURES[measure]
        before, after = _estimate(first, measure), _estimate(last, measure)
        kind = change(before, after)
        verb = {"effect": "rises" if after.value > before.value else "falls", "none": "changes little"}
        what = f"From {first.label} to {last.label}, {name} {verb.get(kind, 'may have changed')}"
        said = f"{before.said(digits)} to {after.said(digits)}, {count(len(ranked), 'point')}"
        yield Finding(kind, f"{what}: {said} ({model}).", "training-curves")


def change(before: Estimate, after: Estimate) -> Any:
    """An effect where the intervals do not meet; undecided where they do, or where one is missing.

    >>> change(Estimate(0.1, 0.0, 0.2), Estimate(0.5, 0.4, 0.6)), change(Estimate(0.1), Estimate(0.5, 0.4, 0.6))
    ('effect', 'undecided')
    """
    if not (before.known and after.known):
        return "undecided"
    return "effect" if before.high < after.low or after.high < before.low else "undecided"


def _estimate(row: Any, measure: str) -> Estimate:
    ends = [float(row[name]) if name in row and row[name] is not None else float("nan") for name in _ends(measure)]
    return Estimate(float(row[measure]), *ends)


def _ends(measure: str) -> tuple[str, str]:
    return f"{measure}_low", f"{measure}_high"
