"""Running a sweep: every point that is not finished yet, here or on a Ray cluster, whatever happens on the way."""

from __future__ import annotations

import os

from babelscope.errors import BabelscopeError, InputError, RunError, Unwritable
from babelscope.evolution.attempt import Compute, Listener, SweepOptions, Task, attempt, weights_folder
from babelscope.evolution.compute import compute_point
from babelscope.evolution.index import write_index
from babelscope.evolution.plan import Plan
from babelscope.evolution.points import plan_points
from babelscope.evolution.ray_engine import run_ray
from babelscope.evolution.store import SweepStore
from babelscope.evolution.types import Point
from babelscope.evolution.weights import Download, Weights
from babelscope.results import Run, open_run


def run_sweep(
    plan: Plan,
    out: str | os.PathLike[str],
    options: SweepOptions | None = None,
    listener: Listener | None = None,
    compute: Compute = compute_point,
    download: Download | None = None,
) -> Run:
    """Measure every point of a plan that is not in `out` yet, then write the sweep's tables; returns the sweep's run.

    Points that were finished before, also by a sweep that was killed, are never computed again; those that failed are
    tried again. A point that fails is recorded with its traceback and the others go on, unless `fail_fast`; so is a
    finished point that is damaged, unless `options.mend` computes it again. `out` is a folder or an fsspec URL.
    Raises InputError for what is wrong with the plan as a whole, and Unwritable when `out` cannot be written any more:
    the points that were finished are kept, and the next start goes on with the others.

    >>> run_sweep(read_plan("pocket-checkpoints"), "runs/training").table("points")      # doctest: +SKIP
    """
    options, listener = options or SweepOptions(), listener or Listener()
    if options.engine not in ("local", "ray"):
        raise InputError(f"there is no engine {options.engine!r}; use local or ray")
    store = SweepStore(out)
    points = plan_points(plan)
    with store.lock():
        store.drop_index()
        store.write_state({"plan": plan.data, "name": plan.name, "points": [point.facts() for point in points]})
        damaged = _damaged(store, points, options.mend)
        finished = store.keys() - set(damaged)
        try:
            listener.planned(points, finished)
            waiting = (point for point in points if point.key not in finished and point.key not in damaged)
            todo = list({point.key: point for point in waiting}.values())
            task = Task(store, options, listener, compute, download)
            run_ray(todo, task) if options.engine == "ray" else run_local(todo, task)
        except Unwritable:
            listener.closed()
            raise  # nor could the tables be written
        except BaseException:
            listener.closed()
            write_index(store, plan, points, damaged)
            raise
        listener.closed()
        write_index(store, plan, points, damaged)
    return open_run(store.url)


def _damaged(store: SweepStore, points: list[Point], mend: bool) -> dict[str, str]:
    """Key → what is wrong, of the finished points that are not as they were written; `mend` removes them instead."""
    found: dict[str, str] = {}
    for key in sorted({point.key for point in points} & store.keys()):
        try:
            store.open(key).validate()
        except RunError as error:
            found[key] = f"{error}; start the sweep again with --mend to compute this point again"
    if mend:
        for key in found:
            store.discard(key)
        return {}
    return found


def run_local(todo: list[Point], task: Task) -> None:
    """One point after another in this process; the next weights are fetched while the present ones are measured."""
    store, options = task.store, task.options
    weights = Weights(weights_folder(store, options), options.keep_weights, task.download)
    for number, point in enumerate(todo):
        task.listener.started(point)
        rest = [other.source for other in todo[number + 1 :]]
        if point.source is not None:
            weights.prefetch(point.source)
        following = next((source for source in rest if source not in (None, point.source)), None)
        outcome = attempt(point, store, options.where, task.compute, weights, following)
        if point.source is not None and point.source not in rest:
            weights.done(point.source)
        task.listener.ended(point, outcome)
        if outcome.status == "failed" and options.fail_fast:
            raise BabelscopeError(f"{point.label} failed: {outcome.error}")


def status(out: str | os.PathLike[str]) -> list[dict[str, object]]:
    """One row per point of the last plan: label, corpus, key, status, error. Reads only; works beside a running sweep.

    Raises RunError when there is no sweep.
    """
    store = SweepStore(out)
    finished = store.keys()
    rows: list[dict[str, object]] = []
    for point in store.state()["points"]:
        done = point["key"] in finished
        problem = _problem(store, point["key"]) if done else ""
        failure = None if done else store.failure(point["key"])
        state = "damaged" if problem else "done" if done else "failed" if failure else "waiting"
        rows.append({**point, "status": state, "error": problem or (failure or {}).get("error", "")})
    return rows


def _problem(store: SweepStore, key: str) -> str:
    """What is wrong with a finished point as far as its manifest tells; `show --check` looks at all its files."""
    try:
        store.open(key)
    except RunError as error:
        return str(error)
    return ""
