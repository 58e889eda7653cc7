"""What a sweep will cost: one point of each model is planned, and counted as often as the model has points."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from babelscope.errors import InputError
from babelscope.evolution.measures import (
    circuits_settings,
    corpus_of,
    load_point,
    regions_settings,
    stories_of,
    texts_of,
)
from babelscope.evolution.plan import Plan
from babelscope.evolution.points import plan_points
from babelscope.evolution.types import Place, Point
from babelscope.evolution.weights import Weights
from babelscope.models import Model
from babelscope.results.scratch import Scratch
from babelscope.studies.circuit_plan import plan_circuits
from babelscope.studies.plan import PlannedStep, StudyPlan, plan_steps
from babelscope.studies.region_plan import regions_probe
from babelscope.studies.regions import regions_study
from babelscope.studies.rehearsal import Clock, Spent, planned, spent


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
            for step in (*_point(model, first, clock), *planned({"loading": (loading, "")}).steps):
                steps.append(_times(step, f"{name.removeprefix('pocket:')}: {step.step}", len(points)))
    whole = sum(step.seconds for step in steps) or 1.0
    return StudyPlan(tuple(replace(step, share=step.seconds / whole) for step in steps))


def spent_loading(point: Point, folder: Path, where: Place, clock: Clock) -> tuple[Model, Spent]:
    """A point's model, and what loading it took, the second time: only the first point of a sweep loads anew."""
    load_point(point, folder, where)
    started = clock()
    model = load_point(point, folder, where)
    return model, Spent(clock() - started)


def _point(model: Model, point: Point, clock: Clock) -> Sequence[PlannedStep]:
    """The steps of one point."""
    found: list[PlannedStep] = []
    if point.work.regions is not None:
        settings = regions_settings(point.work.regions)
        corpus = corpus_of(settings.corpus, settings.languages)
        texts = texts_of(settings.texts, corpus.languages) if settings.texts else None
        study = regions_study(model, settings, corpus, texts)
        found += plan_steps(study.steps, regions_probe(study, clock)).steps
    if point.work.stories is not None:
        from babelscope.evaluation import evaluate_cloze

        stories = stories_of(point.work.stories, point.work.story_languages)
        most = max(map(len, stories.values()))
        few = {code: own[: min(4, len(own))] for code, own in stories.items()}
        _, cost = spent(model, lambda: evaluate_cloze(model, few), clock)
        found += planned({"story cloze": (cost * (most / min(4, most)), "")}).steps
    if point.work.circuits is not None:
        found += plan_circuits(model, circuits_settings(point.work.circuits), clock=clock).steps
    return found


def _times(step: PlannedStep, name: str, count: int) -> PlannedStep:
    """The same step at so many points, one after another."""
    told = f"{name} × {count}" if count > 1 else name
    return replace(
        step, step=told, passes=step.passes * count, tokens=step.tokens * count, seconds=step.seconds * count
    )
