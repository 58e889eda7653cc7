"""Running a sweep: every point that is not finished yet, here or on a Ray cluster, whatever happens on the way."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

from babelscope.errors import BabelscopeError, InputError
from babelscope.evolution.index import write_index
from babelscope.evolution.measures import compute_point
from babelscope.evolution.plan import Plan
from babelscope.evolution.points import Place, Point, plan_points
from babelscope.evolution.store import SweepStore
from babelscope.evolution.weights import Download, Keep, Weights
from babelscope.results import Run, run_key

Compute = Callable[[Point, Path, Path, Place], Path]
"""(point, folder with the weights, folder to work in, device) → a finished run in that folder"""
Status = Literal["done", "failed", "running", "waiting"]
Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a point ended."""

    key: str
    status: Status
    seconds: float = 0.0
    error: str = ""
    cached: bool = False
    """finished by an earlier run, or by another worker"""


class Listener:
    """Is told what happens; this one ignores it."""

    def planned(self, points: list[Point], finished: set[str]) -> None:
        """All points of the plan, and the keys of those that are finished already."""

    def started(self, point: Point) -> None:
        """An attempt at a point begins."""

    def ended(self, point: Point, outcome: Outcome) -> None:
        """An attempt at a point has ended."""

    def closed(self) -> None:
        """Nothing more will happen."""


@dataclass(frozen=True)
class RayOptions:
    """Where a Ray cluster is and what a point needs there."""

    address: str | None = None
    """None: a cluster on this machine"""
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    """attempts after the death of a worker or a node"""


@dataclass(frozen=True)
class SweepOptions:
    """How to run a sweep. Nothing here changes a number."""

    engine: Engine = "local"
    fail_fast: bool = False
    keep_weights: Keep = "all"
    where: Place = field(default_factory=Place)
    ray: RayOptions = field(default_factory=RayOptions)
    weights: Path | None = None
    """folder for downloads; None: beside the sweep's folder, or below the temporary folder for an object store"""


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
    tried again. A point that fails is recorded with its traceback and the others go on, unless `fail_fast`. `out` is
    a folder or an fsspec URL. Raises InputError for what is wrong with the plan as a whole.

    >>> run_sweep(read_plan("pocket-checkpoints"), "runs/training").table("points")      # doctest: +SKIP
    """
    options, listener = options or SweepOptions(), listener or Listener()
    store = SweepStore(out)
    points = plan_points(plan)
    with store.lock():
        store.drop_index()
        store.write_state({"plan": plan.data, "name": plan.name, "points": [point.facts() for point in points]})
        try:
            finished = store.keys()
            listener.planned(points, finished)
            todo = list({point.key: point for point in points if point.key not in finished}.values())
            _engine(options)(todo, store, options, listener, compute, download)
        finally:
            listener.closed()
            write_index(store, plan, points)
    return _opened(store)


def _engine(options: SweepOptions) -> Callable[..., None]:
    if options.engine == "local":
        return run_local
    if options.engine == "ray":
        from babelscope.evolution.ray_engine import run_ray

        return run_ray
    raise InputError(f"there is no engine {options.engine!r}; use local or ray")


def run_local(
    todo: list[Point],
    store: SweepStore,
    options: SweepOptions,
    listener: Listener,
    compute: Compute,
    download: Download | None,
) -> None:
    """One point after another in this process; the next weights are fetched while the present ones are measured."""
    weights = Weights(weights_folder(store, options), options.keep_weights, download)
    for number, point in enumerate(todo):
        listener.started(point)
        rest = [other.source for other in todo[number + 1 :]]
        if point.source is not None:
            weights.prefetch(point.source)
        following = next((source for source in rest if source not in (None, point.source)), None)
        outcome = attempt(point, store, options.where, compute, weights, following)
        if point.source is not None and point.source not in rest:
            weights.done(point.source)
        listener.ended(point, outcome)
        if outcome.status == "failed" and options.fail_fast:
            raise BabelscopeError(f"{point.label} failed: {outcome.error}")


def attempt(
    point: Point, store: SweepStore, where: Place, compute: Compute, weights: Weights, following: Any = None
) -> Outcome:
    """Compute one point and put it into the store, or record why that was not possible. Both engines call this."""
    if store.has(point.key):
        return Outcome(point.key, "done", cached=True)
    started = time.monotonic()
    try:
        if point.source is None:
            raise InputError(point.problem)
        folder = weights.folder(point.source)
        if following is not None:
            weights.prefetch(following)
        with store.scratch() as scratch:
            store.publish(compute(point, folder, scratch, where), point.key)
        store.clear_failure(point.key)
    except Exception as error:
        took = time.monotonic() - started
        store.record_failure(point.key, failure_facts(point, error, took))
        return Outcome(point.key, "failed", took, one_line(error))
    return Outcome(point.key, "done", time.monotonic() - started)


def failure_facts(point: Point, error: BaseException, seconds: float) -> dict[str, Any]:
    """What is kept of a failure."""
    return {
        **point.facts(),
        "error": one_line(error),
        "kind": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "seconds": round(seconds, 3),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def one_line(error: BaseException) -> str:
    """An error in a line; the kind in front where we did not raise it ourselves."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, BabelscopeError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def weights_folder(store: SweepStore, options: SweepOptions) -> Path:
    """Where downloads go."""
    if options.weights is not None:
        return options.weights
    if store.folder is not None:
        return store.folder.with_name(f"{store.folder.name}.weights")
    return Path(gettempdir()) / "babelscope-weights" / run_key({"store": store.url})


def _opened(store: SweepStore) -> Run:
    from babelscope.results import open_run

    return open_run(store.url)


def status(out: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """One row per point of the last plan: label, corpus, key, status, error. Reads only; works beside a running sweep.

    Raises RunError when there is no sweep.
    """
    store = SweepStore(out)
    finished = store.keys()
    rows: list[dict[str, Any]] = []
    for point in store.state()["points"]:
        failure = None if point["key"] in finished else store.failure(point["key"])
        state = "done" if point["key"] in finished else "failed" if failure else "waiting"
        rows.append({**point, "status": state, "error": (failure or {}).get("error", "")})
    return rows
