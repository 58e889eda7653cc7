"""The points of a sweep as Ray tasks, retried elsewhere when a worker or a node dies (the `[ray]` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelscope.errors import BabelscopeError, InputError, Unwritable
from babelscope.evolution.attempt import (
    Compute,
    Outcome,
    RayOptions,
    SweepOptions,
    Task,
    attempt,
    failure_facts,
    one_line,
    weights_folder,
)
from babelscope.evolution.store import SweepStore
from babelscope.evolution.types import Point
from babelscope.evolution.weights import Download, Weights
from babelscope.models.ray_cluster import cluster


def run_ray(todo: list[Point], task: Task) -> None:
    """Every point as one Ray task, as many at once as the cluster has room for.

    The store, local model folders and corpora must be reachable under the same names from every node. Raises
    MissingExtra without ray, InputError when there is no cluster at the address.
    """
    if task.store.url.startswith("memory://"):
        raise InputError("memory:// lives in one process; for Ray give a shared folder or an object store")
    with cluster(task.options.ray.address) as ray:
        _run(ray, todo, task)


def _run(ray: Any, todo: list[Point], shared: Task) -> None:
    store, options, listener = shared.store, shared.options, shared.listener
    resources = {"num_cpus": options.ray.cpus, "num_gpus": options.ray.gpus, "max_retries": options.ray.retries}
    task = ray.remote(**resources)(attempt_remotely)
    folder = weights_folder(store, options)
    queue, waiting = grouped(todo), dict[object, list[Point]]()
    try:
        while queue or waiting:
            while queue and len(waiting) < _slots(ray, options.ray):
                points = queue.pop(0)
                waiting[task.remote(points, store.url, options, shared.compute, shared.download, folder)] = points
                for point in points:
                    listener.started(point)
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
            for reference in ready:
                points = waiting.pop(reference)
                for point, outcome in zip(points, _outcomes(ray, reference, points, store)):
                    listener.ended(point, outcome)
                    if outcome.status == "failed" and options.fail_fast:
                        raise BabelscopeError(f"{point.label} failed: {outcome.error}")
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def grouped(points: Sequence[Point]) -> list[list[Point]]:
    """Points as tasks: those that share downloaded weights together, so that they are fetched and deleted once."""
    groups: dict[object, list[Point]] = {}
    for point in points:
        downloaded = point.source is not None and point.source.kind == "hub"
        groups.setdefault(point.source if downloaded else point.key, []).append(point)
    return list(groups.values())


def _slots(ray: Any, asked: RayOptions) -> int:
    """Tasks that the cluster, as it is now, can run at once."""
    there: dict[str, float] = ray.cluster_resources()
    room = [there.get(name, 0.0) / need for name, need in (("CPU", asked.cpus), ("GPU", asked.gpus)) if need > 0]
    return max(1, int(min(room, default=1.0)))


def _outcomes(ray: Any, reference: Any, points: list[Point], store: SweepStore) -> list[Outcome]:
    """The task's own account; where all its workers died, what Ray says of that."""
    try:
        return ray.get(reference)
    except Unwritable as error:  # Ray hands it over as a class of its own
        raise Unwritable(one_line(getattr(error, "cause", error))) from error
    except ray.exceptions.RayError as error:
        return [_lost(point, store, error) for point in points]


def _lost(point: Point, store: SweepStore, error: BaseException) -> Outcome:
    if store.has(point.key):  # finished, and killed before it could say so
        return Outcome(point.key, "done")
    store.record_failure(point.key, failure_facts(point, error, 0.0))
    return Outcome(point.key, "failed", 0.0, one_line(error))


def attempt_remotely(
    points: list[Point], url: str, options: SweepOptions, compute: Compute, download: Download | None, folder: Path
) -> list[Outcome]:
    """`attempt` each point of a task, on whatever machine this runs."""
    weights, store = Weights(folder, options.keep_weights, download), SweepStore(url)
    outcomes = [attempt(point, store, options.where, compute, weights) for point in points]
    for source in {point.source for point in points if point.source is not None}:
        weights.done(source)
    return outcomes
