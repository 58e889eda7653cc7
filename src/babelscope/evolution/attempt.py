"""One attempt at a point, as both engines make it; how it ended, and who is told."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Literal

from babelscope.errors import BabelscopeError, InputError, Unwritable
from babelscope.evolution.store import SweepStore
from babelscope.evolution.types import Place, Point, Source
from babelscope.evolution.weights import Download, Keep, Weights
from babelscope.results import run_key
from babelscope.results.room import no_room

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
    """stop at the first point that fails"""
    mend: bool = False
    """compute finished points again that are damaged"""
    keep_weights: Keep = "all"
    where: Place = field(default_factory=Place)
    ray: RayOptions = field(default_factory=RayOptions)
    weights: Path | None = None
    """folder for downloads; None: beside the sweep's folder, or below the temporary folder for an object store"""


@dataclass(frozen=True)
class Task:
    """What every attempt of a sweep shares."""

    store: SweepStore
    options: SweepOptions
    listener: Listener
    compute: Compute
    download: Download | None = None


def attempt(
    point: Point, store: SweepStore, where: Place, compute: Compute, weights: Weights, following: Source | None = None
) -> Outcome:
    """Compute one point and put it into the store, or record why that was not possible.

    Raises Unwritable when nothing can be written to the store any more: every further point would be in vain.
    """
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
        if no_room(error):
            raise (
                error
                if isinstance(error, Unwritable)
                else Unwritable(f"cannot write to {store.url}: {one_line(error)}")
            ) from error
        took = time.monotonic() - started
        store.record_failure(point.key, failure_facts(point, error, took))
        return Outcome(point.key, "failed", took, one_line(error))
    return Outcome(point.key, "done", time.monotonic() - started)


def failure_facts(point: Point, error: BaseException, seconds: float) -> dict[str, object]:
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
