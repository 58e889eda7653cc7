"""`babelscope demo`: the whole study on the built-in models, to a report, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app

app = verb_app("demo")


@app.default
@verb
def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder for the runs and the page.")] = Path("runs/demo"),
    quick: Annotated[bool, Parameter(help="Less text and fewer draws: a minute, for a look.")] = False,
    overwrite: Annotated[bool, Parameter(help="Replace an existing run.")] = False,
    plan: Annotated[bool, Parameter(help="Say what it would cost on this machine, and write nothing.")] = False,
) -> None:
    """Map, layer curves, regions, deactivation table, checkpoints and scales of the built-in models, in one page.

    For example:

      babelscope demo --out runs/demo
    """
    from babelscope.cli.demo_study import plan_demo, run_demo
    from babelscope.cli.options import quiet, refuse_existing
    from babelscope.studies.progress import shown

    quiet()
    if plan:
        print(plan_demo(quick).table())
        return
    refuse_existing(out, overwrite)
    page = run_demo(out, quick=quick, overwrite=overwrite, progress=shown, say=print)
    print(f"the report: {page.resolve()}")
