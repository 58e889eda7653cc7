"""Workers on a Ray cluster, each of which loads the model once; one that dies is replaced, and its unit done again.

Only two things travel: how to load the model, never its weights, and units of work with their results.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count as numbers
from math import ceil
from typing import Any, TypeVar

import torch

from babelscope.errors import InputError, RunError
from babelscope.models.loading import Origin
from babelscope.models.model import Model
from babelscope.models.ray_cluster import cluster
from babelscope.models.workers import Prepare, Tell, Work
from babelscope.results.manifest import versions
from babelscope.wording import first_line

S = TypeVar("S")
U = TypeVar("U")
R = TypeVar("R")
DEATHS = 3
"""of workers at the same unit, or while loading, after which the study ends"""
AHEAD = 4
"""units a worker that may be finished before the one that is wanted next"""


@dataclass(frozen=True)
class RayWorkers:
    """How many workers there are, what each of them gets, and where."""

    count: int | None = None
    """None: as many as the cluster has room for"""
    cpus: float = 1.0
    """processors of each, and threads that it computes with"""
    gpus: float = 0.0
    address: str | None = None
    """of the cluster; None: one on this machine"""


@contextmanager
def on_ray(model: Model, asked: RayWorkers) -> Generator[int]:
    """Inside, studies of this model are done by workers on a Ray cluster, each of which loads it as it was loaded here.

    Yields how many there are.

    Raises InputError for a model that was not loaded by `load_model`, or was changed since; for a cluster that has no
    room; and for workers that would compute something else: other weights, device, number type or software.

    >>> with on_ray(model, RayWorkers(8, gpus=1, address="auto")):              # doctest: +SKIP
    ...     study_regions(model, settings, "runs/a")
    """
    origin = model.origin
    if origin is None:
        raise InputError(
            f"{model.id} did not come from load_model, so that no worker can load it: save it, load it from its folder"
        )
    # a cluster that is begun on this machine has room for what was asked for
    with cluster(asked.address, max(ceil((asked.count or 1) * asked.cpus), os.cpu_count() or 1)) as ray:
        count = _room(ray, asked)
        crew = _Crew(ray, origin, _identity(model), replace(asked, count=count))
        model.workers = crew
        try:
            yield count
        finally:
            model.workers = None
            crew.dismiss()


def _room(ray: Any, asked: RayWorkers) -> int:
    there: dict[str, float] = ray.cluster_resources()
    count = asked.count or 1
    needs = {name: each for name, each in (("CPU", asked.cpus), ("GPU", asked.gpus)) if each}
    for name, each in needs.items():
        if each * count > there.get(name, 0.0):
            raise InputError(
                f"{count} workers with {each:g} {name} each need {each * count:g}; the cluster has "
                f"{there.get(name, 0.0):g}"
            )
    return asked.count or int(min(there[name] / each for name, each in needs.items()))


def _identity(model: Model) -> dict[str, str]:
    """What must be the same here and there for the numbers to be."""
    return {
        "weights": model.function_hash,
        "tokenizer": model.tokenizer_hash,
        "number type": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        **versions(),
    }


class _Holder:
    """A worker: a process that holds the model."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model: Model | None = None
        self._prepared: tuple[int, Work] | None = None

    def load(self, origin: Origin) -> dict[str, str]:
        self._model = origin.load()
        return _identity(self._model)

    def pid(self) -> int:
        return os.getpid()

    def work(self, number: int, prepare: Prepare[Any, Any, Any], shared: list[Any], unit: Any) -> tuple[Any, int]:
        """The result of a unit of the work of this number, and how much was told meanwhile."""
        import ray

        assert self._model is not None
        if self._prepared is None or self._prepared[0] != number:
            self._prepared = None  # what the last work held is given back first
            self._prepared = number, prepare(self._model, ray.get(shared[0]))
        told = [0]

        def tell(amount: int) -> None:
            told[0] += amount

        return self._prepared[1](unit, tell), told[0]


@dataclass(eq=False)
class _Place:
    """One of the workers: whoever holds it now."""

    actor: Any
    loading: Any
    """of Ray; None when the model is there"""


class _Crew:
    """All workers."""

    def __init__(self, ray: Any, origin: Origin, identity: dict[str, str], asked: RayWorkers) -> None:
        self._ray, self._origin, self._identity, self._asked = ray, origin, identity, asked
        self._kind = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus, max_restarts=0)(_Holder)
        self._numbers, self._lost_loading = numbers(), 0
        self._places = [self._hired() for _ in range(asked.count or 1)]

    def pids(self) -> list[int]:
        """Process of each worker, once its model is there."""
        return [self._ray.get(place.actor.pid.remote()) for place in self._places]

    def dismiss(self) -> None:
        """Ends all workers."""
        for place in self._places:
            self._ray.kill(place.actor)

    def results(self, prepare: Prepare[S, U, R], shared: S, units: Sequence[U], tell: Tell) -> Iterator[R]:
        """The result of every unit in order; a unit whose worker died is done again by another.

        Raises what the work raises, and RunError for a unit at which one worker after another dies.
        """
        number, put = next(self._numbers), [self._ray.put(shared)]
        todo, deaths = list(range(len(units))), Counter[int]()
        running: dict[Any, tuple[_Place, Any, int]] = {}
        finished: dict[int, R] = {}

        def hand_out(wanted: int) -> None:
            busy = {place for place, _, _ in running.values()}
            for place in self._places:
                soon = bool(todo) and todo[0] < wanted + AHEAD * len(self._places)
                if soon and place.loading is None and place not in busy:
                    unit = heapq.heappop(todo)
                    reference = place.actor.work.remote(number, prepare, put, units[unit])
                    running[reference] = place, place.actor, unit

        for wanted in range(len(units)):
            while wanted not in finished:
                hand_out(wanted)
                reference = self._next_to_end([*running])
                if reference is None:
                    continue
                place, actor, unit = running.pop(reference)
                try:
                    finished[unit], told = self._ray.get(reference)
                    tell(told)
                except self._ray.exceptions.RayTaskError as error:
                    raise _own(error) from error
                except self._ray.exceptions.RayError as error:
                    deaths[unit] += 1
                    if deaths[unit] == DEATHS:
                        raise _given_up(error) from error
                    heapq.heappush(todo, unit)
                    if place.actor is actor:
                        self._replace(place)
            hand_out(wanted + 1)  # nobody waits while this result is put to use
            yield finished.pop(wanted)

    def _next_to_end(self, running: list[Any]) -> Any:
        """The unit that ended next; None where a worker has loaded its model, or died over it."""
        loading = {place.loading: place for place in self._places if place.loading is not None}
        [reference], _ = self._ray.wait([*running, *loading], num_returns=1)
        if reference not in loading:
            return reference
        place = loading[reference]
        try:
            self._refuse_other(self._ray.get(reference))
            place.loading = None
        except self._ray.exceptions.RayTaskError as error:
            raise _own(error) from error
        except self._ray.exceptions.RayError as error:
            self._lost_loading += 1
            if self._lost_loading == DEATHS:
                raise _given_up(error) from error
            self._replace(place)
        return None

    def _hired(self) -> _Place:
        actor = self._kind.remote(max(1, int(self._asked.cpus)))
        return _Place(actor, actor.load.remote(self._origin))

    def _replace(self, place: _Place) -> None:
        self._ray.kill(place.actor)  # it may be out of reach, not dead
        new = self._hired()
        place.actor, place.loading = new.actor, new.loading

    def _refuse_other(self, identity: dict[str, str]) -> None:
        for name, value in self._identity.items():
            if identity.get(name) != value:
                hint = "; give --gpus" if name == "device" else ""
                raise InputError(f"{name} of a worker: {identity.get(name)}, of this process: {value}{hint}")


def _own(error: BaseException) -> BaseException:
    """What the work raised; Ray hands it over as a class of its own."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _given_up(error: BaseException) -> RunError:
    return RunError(
        f"{DEATHS} workers died at the same piece of work: give each more memory, or take fewer --workers "
        f"({first_line(error)})"
    )
