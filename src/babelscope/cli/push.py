"""`babelscope push`: a run, or a file of regions or of a circuit, onto the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app

app = verb_app("push")


@app.default
@verb
def push(
    what: Annotated[Path, Parameter(help="A run directory, or a file of regions or of a circuit.")],
    name: Annotated[str, Parameter(help="hf://USER/NAME; with @REVISION onto a branch.")],
    *,
    private: Annotated[bool, Parameter(help="For yourself alone.")] = False,
    licence: Annotated[str, Parameter(help="Of these numbers, as the hub writes it.")] = "cc-by-4.0",
) -> None:
    """Share results on the Hugging Face hub, with a card and checksums; the token is that of `hf auth login`.

    For example:

      babelscope push runs/bloom hf://anna/bloom-regions
    """
    from babelscope.results.hub import push as put

    print(f"shared: {put(what, name, private, licence)}")
