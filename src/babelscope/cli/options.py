"""Options that several verbs share, and how they are carried out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from babelscope.models import Model

Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; default: the best there is.")]
DeviceMap = Annotated[str | None, typer.Option(help="auto spreads a model over devices (needs babelscope[big]).")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")]


def load(
    name: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model as the command line does: quietly, with the settings that were filled in printed."""
    quiet()
    from babelscope.models import load_model

    model = load_model(name, revision, dtype, device, device_map, trust_remote_code)
    facts = f"{model.layers} layers × {model.neurons_per_layer} neurons, {model.heads} heads"
    typer.echo(f"{model.id}: {model.family.name}, {facts}, {str(model.dtype)[6:]} on {model.device}", err=True)
    return model


def quiet() -> None:
    """Keep other libraries' bars and notices off the screen."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises RunError before anything is computed when the run's directory is in the way."""
    from babelscope.errors import RunError

    if out.exists() and not overwrite:
        raise RunError(f"{out} exists; give --overwrite or another --out")
