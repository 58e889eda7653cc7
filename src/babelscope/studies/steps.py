"""A study is a list of steps; each owns its settings, says what it needs and what it costs, and leaves one result.

From that one structure follow: options in groups (a group a step), the plan before a run, progress, going on after an
interruption, and what a run says of each part. A step's key hashes what determines its numbers: its settings, the keys
of the steps it needs, what it reads from outside (weights, corpus), and the versions of the software.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Sampling:
...     samples: int = 3
>>> recording = Step("recording", Sampling(), lambda own, given: [float(i) for i in range(own.samples)])
>>> mean = Step("mean", None, lambda own, given: sum(given[recording]) / 3, needs=(recording,))
>>> run_steps([recording, mean])[mean]
1.0
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import pandas as pd
import xarray as xr

from babelscope._version import __version__
from babelscope.errors import InputError
from babelscope.models.workers import Tell, over_workers
from babelscope.results.manifest import run_key, versions
from babelscope.results.rows import TableSink
from babelscope.results.scratch import Scratch
from babelscope.results.step_store import StepStore
from babelscope.results.whole import home
from babelscope.studies.progress import Progress, silent

if TYPE_CHECKING:
    from babelscope.models import Model

S = TypeVar("S")
R = TypeVar("R")

Kept = Literal["resume", "fresh", "off"]
"""finished steps: taken over where a study was stopped; made anew; not kept"""
AGAIN = "finished steps are kept: start it again to go on from there, with --fresh to begin anew"


@dataclass(frozen=True)
class Cost:
    """What a step is expected to cost beside what earlier ones did."""

    tokens: int = 0
    """through the blocks of the model, all passes counted"""
    scored: int = 0
    """tokens whose whole vocabulary is scored"""
    elements: int = 0
    """multiply-adds on arrays, in float64"""
    passes: int = 0
    """forward passes"""
    peak_bytes: int = 0
    """memory beside the model"""
    disk_bytes: int = 0
    """written, temporary files included"""
    seconds: float = 0.0
    """of anything else"""
    cheaper: str = ""
    """the option that makes it cheaper, and how"""
    kind: str = ""
    """of passes, where they do more than run the model: timed by themselves before a plan"""
    parts: tuple[Cost, ...] = ()
    """costs of other kinds that come on top; not counted in the fields above"""

    def all(self, name: Literal["tokens", "passes", "scored"]) -> int:
        """A count with that of all parts."""
        return int(getattr(self, name)) + sum(part.all(name) for part in self.parts)


@runtime_checkable
class Sink(TableSink, Protocol):
    """Where tables and arrays are put: a run in the making, or the result of a step."""

    def arrays(self, dataset: xr.Dataset, group: str | None = None) -> None:
        """Adds labelled arrays."""
        ...


@dataclass(frozen=True)
class Tables:
    """The usual result of a step: tables and arrays of the run by name, and what the run's summary says."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict[str, pd.DataFrame])
    groups: list[tuple[str | None, xr.Dataset]] = field(default_factory=list[tuple[str | None, xr.Dataset]])
    summary: dict[str, object] = field(default_factory=dict[str, object])

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Adds a table."""
        self.tables[name] = frame

    def arrays(self, dataset: xr.Dataset, group: str | None = None) -> None:
        """Adds labelled arrays."""
        self.groups.append((group, dataset))

    def write(self, run: Sink) -> None:
        """Everything but the summary into a run."""
        for name, frame in self.tables.items():
            run.table(name, frame)
        for group, dataset in self.groups:
            run.arrays(dataset, group)


@dataclass(frozen=True, eq=False)
class Step(Generic[S, R]):
    """`run(settings, given)` makes the result of this step; `given[other]` is the result of a step that it needs."""

    name: str
    settings: S
    """a frozen dataclass: the options of this step and of no other; None where it has none"""
    run: Callable[[S, Given], R]
    needs: tuple[AnyStep, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """what it reads from outside, by hash: texts, another model"""
    cost: Callable[[S], Cost] = lambda _: Cost()
    kept: bool = True
    """False for a result that costs less to make again than to keep in a file"""
    apart: Apart | None = None
    """for steps that workers may do at once, each of them whole: the same for all of them"""


AnyStep = Step[Any, Any]
"""a step whatever its settings and its result"""


class Elsewhere(Protocol):
    """A study of plain values, from which another process makes the same steps."""

    def steps(self, model: Model) -> tuple[Sequence[AnyStep], Mapping[str, str]]:
        """All steps, and the hashes that they depend on."""
        ...


@dataclass(frozen=True, eq=False)
class Apart:
    """Steps that do not need each other, only what was made before the first of them."""

    model: Model
    study: Callable[[Results], Elsewhere]


class StepsElsewhere:
    """Work of `over_workers`: one step by its name."""

    def __init__(self, model: Model, study: Elsewhere) -> None:
        steps, self.inputs = study.steps(model)
        self.steps = {step.name: step for step in steps}

    def __call__(self, name: str, _tell: Tell) -> object:
        step = self.steps[name]
        return run_steps([*step.needs, step], self.inputs)[step]


@dataclass
class Given:
    """What a running step has at hand: the results of the steps it needs, a folder for its files, the progress."""

    _step: AnyStep
    _results: Results
    folder: Path
    """for files of the step's own, such as a recording too large for memory; a memory map of one may be its result"""
    progress: Progress
    store: StepStore | None = None
    key: str = ""

    def __getitem__(self, step: Step[Any, R]) -> R:
        if step not in self._step.needs:
            raise InputError(f"step {self._step.name} uses {step.name} without saying that it needs it")
        return self._results[step]

    def once(self, name: str, key: str, make: Callable[[], R]) -> R:
        """A part of the step's work, kept by a key of its own beside the step's; `make` where it was not."""
        if self.store is None:
            return make()
        return self.store.once(f"{self._step.name} {name}", run_key({"step": self.key, "part": key}), make)


class Results:
    """Results of the steps of a study; those of steps that were finished before are read when asked for."""

    def __init__(self, store: StepStore, keys: Mapping[str, str]) -> None:
        self._store, self._keys = store, keys
        self._values: dict[AnyStep, object] = {}

    def __getitem__(self, step: Step[Any, R]) -> R:
        if step not in self._values:
            self._values[step] = self._store.read(step.name, self._keys[step.name])
        return cast("R", self._values[step])

    def add(self, step: Step[Any, R], value: R) -> None:
        """The result of a step that has just run."""
        self._values[step] = value


def step_keys(steps: Sequence[AnyStep], inputs: Mapping[str, str]) -> dict[str, str]:
    """Key of each step by name; raises InputError where one needs a step that does not come before it."""
    keys: dict[str, str] = {}
    seen: list[AnyStep] = []
    for step in steps:
        missing = [need.name for need in step.needs if need not in seen]
        if missing:
            raise InputError(f"step {step.name} needs {', '.join(missing)}, which no earlier step leaves")
        if step.name in keys:
            raise InputError(f"two steps are called {step.name}")
        own = step.settings
        settings = asdict(own) if is_dataclass(own) and not isinstance(own, type) else None
        decided = {
            "step": step.name,
            "settings": settings,
            "needs": [keys[need.name] for need in step.needs],
            "inputs": {**inputs, **step.inputs},
            "babelscope": __version__,
            "versions": versions(),
        }
        keys[step.name] = run_key(decided)
        seen.append(step)
    return keys


def run_steps(
    steps: Sequence[AnyStep],
    inputs: Mapping[str, str] | None = None,
    store: StepStore | None = None,
    progress: Progress = silent,
    heard: Callable[[str, bool], None] = lambda name, ran: None,
) -> Results:
    """Results of all steps in order; a step that `store` holds under its key is read, not run.

    `inputs`: hashes of what every step depends on (weights, tokenizer, number type). `heard` is told each step's name
    and whether it ran. Raises RunError for a kept step that is damaged; an interruption says that steps are kept.
    """
    keys = step_keys(steps, inputs or {})
    with Scratch("steps") as temporary:
        kept = store or StepStore(temporary / "run")
        results, ahead = Results(kept, keys), dict[Apart, Iterator[object]]()

        def is_finished(step: AnyStep) -> bool:
            return store is not None and step.kept and kept.holds(step.name, keys[step.name])

        for place, step in enumerate(steps):
            finished = is_finished(step)
            if not finished:
                apart = step.apart
                if apart is not None and apart.model.workers is not None and apart not in ahead:
                    names = [one.name for one in steps[place:] if one.apart is apart and not is_finished(one)]
                    ahead[apart] = over_workers(apart.model, StepsElsewhere, apart.study(results), names)
                try:
                    _run(step, keys[step.name], results, kept, store, progress, ahead.get(apart) if apart else None)
                except KeyboardInterrupt as stop:
                    if store is not None and store.folder.is_dir():
                        _say_kept(stop)
                    raise
            heard(step.name, not finished)
        return results


def _run(
    step: AnyStep,
    key: str,
    results: Results,
    rooms: StepStore,
    store: StepStore | None,
    progress: Progress,
    ahead: Iterator[object] | None,
) -> None:
    """`ahead`: what workers make of this step and those after it, in order."""
    with rooms.room(step.name, key) as folder:
        if ahead is None:
            value = step.run(step.settings, Given(step, results, folder, progress, store, key))
        else:
            with progress(step.name, 1, "steps on workers") as tell:
                value = next(ahead)
                tell(1)
        results.add(step, value)
        if store is not None and step.kept:
            store.keep(step.name, key, folder, value)


class KeptSteps:
    """The steps of one study, kept beside its run: nobody else's from `open` on, gone when the study ends well.

    Stands around the RunWriter, so that the steps are removed when the run has its name and before anybody else may
    write it; an interruption says that they are kept.

    >>> with KeptSteps("runs/a", "off") as steps:
    ...     steps.open()
    """

    def __init__(self, out: str | os.PathLike[str], kept: Kept = "resume") -> None:
        self._out, self._kept = os.fspath(out), kept
        self._store: StepStore | None = None

    def open(self) -> StepStore | None:
        """The store, emptied where the study begins anew; None where the run is no folder or nothing is to be kept.

        Called inside the RunWriter, which has looked at the place. Raises RunError where another study is at work.
        """
        if self._kept != "off" and "://" not in self._out:
            store = StepStore(home(self._out).absolute())
            store.hold()
            self._store = store
            if self._kept == "fresh":
                store.remove()
        return self._store

    def __enter__(self) -> KeptSteps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store, self._store = self._store, None
        if store is None:
            return
        try:
            if error is None:
                store.remove()
            elif isinstance(error, KeyboardInterrupt) and store.folder.is_dir():
                _say_kept(error)
        finally:
            store.let_go()


def _say_kept(stop: KeyboardInterrupt) -> None:
    if AGAIN not in getattr(stop, "__notes__", ()):
        stop.add_note(AGAIN)
