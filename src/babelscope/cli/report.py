"""`babelscope report`: one self-contained HTML page of one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app

app = verb_app("report")


@app.default
@verb
def report(
    runs: Annotated[list[str], Parameter(help="Run directories, or URLs of runs.")],
    *,
    out: Annotated[Path | None, Parameter(help="The page [beside the first run, RUN.html]")] = None,
    overwrite: Annotated[bool, Parameter(help="Replace a file that is not a report of ours.")] = False,
) -> None:
    """Write one page that needs no network: figures with hover, tables, published numbers, downloads.

    For example:

      babelscope report runs/bible --out bible.html
    """
    from babelscope.errors import InputError
    from babelscope.report import is_report, write_report
    from babelscope.results import open_run
    from babelscope.results.whole import sweep_leftovers

    opened = [open_run(run) for run in runs]
    for run in opened:
        run.validate(additions=False)  # a page must not show numbers that are not those that were measured
    if out is None:
        out = Path(opened[0].source.rstrip("/").rsplit("/", 1)[-1]) if "://" in runs[0] else opened[0].path
        out = out.with_name(f"{out.resolve().name if '://' not in runs[0] else out.name}.html")
    if out.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"{out}: a report is an .html file")
    if out.exists() and not overwrite and not is_report(out):
        raise InputError(f"{out} exists and is not a report of ours; give --overwrite or another --out")
    sweep_leftovers(out)
    page = write_report(opened, out)
    print(f"{page}  ({page.stat().st_size / 1e6:.1f} MB)")
