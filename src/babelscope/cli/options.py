"""Options that several verbs share, and how they are carried out."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from cyclopts import Parameter

from babelscope.errors import InputError
from babelscope.settings import Settings, Use

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.studies.plan import StudyPlan

ModelName = Annotated[str, Parameter(help="Hub name, model folder, pocket:NAME or pocket:NAME@REVISION.")]


@dataclass(frozen=True, kw_only=True)
class Loading(Settings):
    """How the model is loaded."""

    revision: str | None = None
    """branch, tag or commit on the hub"""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64", "bf16", "fp16"] = "auto"
    """number type; auto: float32 on a processor, the checkpoint's own on an accelerator"""
    device: str | None = None
    """such as cuda, mps or cpu [the best there is]"""
    device_map: str | None = None
    """auto spreads a model over devices (needs babelscope[big])"""
    trust_remote_code: bool = False
    """run code from the model's repository"""
    merge_adapter: bool = False
    """merge the LoRA or DoRA adapter that the folder holds into the weights"""
    dequantise: bool = False
    """bring quantised weights (MXFP4, FP8) back to floating point"""
    allow_longer: bool = False
    """take texts longer than the positions that the model was made for (never than learned positions)"""
    family: Path | None = None
    """TOML file that says where the parts of the architecture are"""


@dataclass(frozen=True, kw_only=True)
class Place(Settings):
    """The run."""

    out: Path
    """directory of the run"""
    overwrite: bool = False
    """replace an existing run"""


@dataclass(frozen=True, kw_only=True)
class Kept(Settings):
    """The run."""

    fresh: bool = False
    """begin anew where an interrupted run left finished steps"""


@dataclass(frozen=True, kw_only=True)
class Planned(Settings):
    """The run."""

    plan: bool = False
    """say what it would cost on this machine, step by step, and write nothing"""


@dataclass(frozen=True, kw_only=True)
class Study(Planned, Kept, Place):
    """The run."""


@dataclass(frozen=True, kw_only=True)
class OnRay(Settings):
    """Where it is computed."""

    engine: Literal["local", "ray"] = "local"
    """in this process, or on a Ray cluster"""
    address: str | None = None
    """of the Ray cluster [one on this machine]"""
    cpus: float = 1.0
    """processors of each worker on the cluster"""
    gpus: float = 0.0
    """GPUs of each worker on the cluster"""

    ONLY: ClassVar[Mapping[str, Use]] = {
        name: (lambda own: own.engine == "ray", "--engine ray") for name in ("address", "cpus", "gpus")
    }

    def check(self) -> None:
        """Raises InputError for less than nothing of a machine."""
        if self.cpus < 0 or self.gpus < 0 or not self.cpus + self.gpus:
            raise InputError(f"--cpus {self.cpus:g} --gpus {self.gpus:g}: 0 or more of each, and not 0 of both")


@dataclass(frozen=True, kw_only=True)
class Workers(OnRay):
    """Where it is computed."""

    workers: int | None = None
    """that hold the model, each by itself [as many as the cluster has room for]"""

    ONLY: ClassVar[Mapping[str, Use]] = {"workers": (lambda own: own.engine == "ray", "--engine ray")}

    def check(self) -> None:
        """Raises InputError for no worker at all."""
        if self.workers == 0:
            raise InputError("--workers 0: at least one is needed; --engine local computes in this process")

    @contextmanager
    def holding(self, model: Model) -> Generator[None]:
        """Inside, studies of the model are shared out to these workers."""
        if self.engine == "local":
            yield
            return
        from babelscope.models.ray_workers import RayWorkers, on_ray

        with on_ray(model, RayWorkers(self.workers, self.cpus, self.gpus, self.address)) as count:
            note(f"{count} workers on Ray")
            yield

    def planned(self, plan: StudyPlan, shared: Sequence[str]) -> str:
        """The plan's table, and what workers make of it."""
        if self.engine == "local":
            return plan.table()
        return f"{plan.table()}\n{plan.with_workers(self.workers or os.cpu_count() or 1, shared)}"


def load(name: str, loading: Loading | None = None) -> Model:
    """Load a model as the command line does: quietly, with the settings that were filled in printed."""
    quiet()
    from babelscope.models import LoadOptions, load_model

    how = loading or Loading()
    options = LoadOptions(how.merge_adapter, how.dequantise, how.allow_longer, how.family)
    model = load_model(
        name, how.revision, how.dtype, how.device, how.device_map, how.trust_remote_code, options=options
    )
    heads = f"{model.heads} heads" if model.heads else "neurons only"
    facts = f"{model.layout}, {heads}"
    note(f"{model.id}: {model.family.name}, {facts}, {str(model.dtype)[6:]} on {model.device}")
    return model


def quiet() -> None:
    """Keep other libraries' bars and notices off the screen."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def note(text: str) -> None:
    """A line beside the result, on standard error."""
    print(text, file=sys.stderr)


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises RunError before anything is computed when the run's directory is in the way."""
    from babelscope.errors import RunError

    if out.exists() and not overwrite:
        raise RunError(f"{out} exists; give --overwrite or another --out")
