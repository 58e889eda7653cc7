"""What a sweep will cost: one point of each model is planned, and counted as often as the model has points."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from babelscope.errors import InputError
from babelscope.evolution.compute import load_point
from babelscope.evolution.plan import Plan
from babelscope.evolution.points import plan_points
from babelscope.evolution.types import Place, Point
from babelscope.evolution.weights import Weights
from babelscope.models import Model
from babelscope.results.scratch import Scratch
from babelscope.studies.plan import PlannedStep, StudyPlan
from babelscope.studies.rehearsal import Clock, Spent, planned


def plan_sweep(plan: Plan, where: Place | None = None, clock: Clock = time.perf_counter) -> StudyPlan:
    """Time, passes and tokens of each model's points, those that are finished already counted too; nothing is written.

    The first checkpoint of each model is loaded (and from the hub downloaded into a temporary folder). Raises
    InputError for what is wrong with the plan as a whole, and where no model can be found.

    >>> print(plan_sweep(read_plan("pocket-checkpoints")).table())                                 # doctest: +SKIP
    """
    groups: dict[tuple[str, str | None], list[Point]] = {}
    for point in plan_points(plan):
        if point.source is not None:
            groups.setdefault((point.model, point.corpus), []).append(point)
    if not groups:
        raise InputError(f"plan {plan.name}: no model of it can be found, so there is nothing to plan")
    steps: list[PlannedStep] = []
    with Scratch("plan") as folder:
        weights = Weights(folder, "none", None)
        for (name, _), points in groups.items():
            first = points[0]
            assert first.source is not None
            path = weights.folder(first.source)
            model, loading = spent_loading(first, path, where or Place(), clock)
            costs = [step for measure in first.work.measures for step in measure.planned(model, clock)]
            for step in (*costs, *planned({"loading": (loading, "")}).steps):
                steps.append(_times(step, f"{name.removeprefix('pocket:')}: {step.step}", len(points)))
    whole = sum(step.seconds for step in steps) or 1.0
    return StudyPlan(tuple(replace(step, share=step.seconds / whole) for step in steps))


def spent_loading(point: Point, folder: Path, where: Place, clock: Clock) -> tuple[Model, Spent]:
    """A point's model, and what loading it took, the second time: only the first point of a sweep loads anew."""
    load_point(point, folder, where)
    started = clock()
    model = load_point(point, folder, where)
    return model, Spent(clock() - started)


def _times(step: PlannedStep, name: str, count: int) -> PlannedStep:
    """The same step at so many points, one after another."""
    told = f"{name} × {count}" if count > 1 else name
    return replace(
        step, step=told, passes=step.passes * count, tokens=step.tokens * count, seconds=step.seconds * count
    )
