"""`babelscope pull`: results that somebody shared on the Hugging Face hub, verified on arrival."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app

app = verb_app("pull")


@app.default
@verb
def pull(
    name: Annotated[str, Parameter(help="hf://USER/NAME, or hf://USER/NAME@REVISION.")],
    *,
    out: Annotated[Path, Parameter(help="New folder.")],
) -> None:
    """Fetch shared results and compare every file with its checksum.

    Wherever a run is asked for, its name on the hub can stand too: babelscope report hf://anna/bloom-regions

    For example:

      babelscope pull hf://anna/bloom-regions --out runs/anna
    """
    from babelscope.results.hub import pull as fetch
    from babelscope.results.hub import shared_file

    print(f"fetched: {shared_file(fetch(name, out))}")
