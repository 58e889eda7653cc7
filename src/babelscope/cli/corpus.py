"""`babelscope corpus`: look at a corpus before measuring anything on it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from babelscope.corpora import Audit

app = typer.Typer(help="Look at parallel corpora and texts.", no_args_is_help=True)


@app.command("list")
def list_readers() -> None:
    """List the readers, with an example of each.

    Example:  babelscope corpus list
    """
    from babelscope.corpora import READERS

    typer.echo("A corpus spec is reader:PATH?option=value&option=value\n")
    for reader in READERS.values():
        options = [
            *reader.options,
            *([f"LANGUAGE={reader.languages_as_options}"] if reader.languages_as_options else []),
        ]
        typer.echo(f"{reader.name:<7} {reader.holds}")
        typer.echo(f"        options: {', '.join(options)}")
        typer.echo(f"        {reader.example}\n")


@app.command("audit")
def audit_command(
    spec: Annotated[str, typer.Argument(help="Corpus spec, such as bible:bibles or lines:my-folder.")],
    languages: Annotated[
        str | None, typer.Option("--languages", "-l", help="Codes separated by commas; default: all that are there.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the findings as CSV, one file per kind.", show_default=False)
    ] = None,
) -> None:
    """Count what is missing, empty, repeated, oddly long, or in the wrong script.

    Example:  babelscope corpus audit bible:bibles --languages en,zh,fr --out findings
    """
    from babelscope.corpora import audit
    from babelscope.errors import InputError

    if out is not None and out.exists():
        raise InputError(f"{out} exists already; name a new folder")
    report = audit(spec, languages)
    _print(report)
    if out is not None:
        _write(report, out)


def _print(report: Audit) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"{report.spec}: {report.common} ids with text in all languages")
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for column in (
        "lines",
        "missing",
        "dropped",
        "empty",
        "repeated",
        "chars",
        "ratio",
        "odd\nlength",
        "wrong\nscript",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.languages:
        counts = (row.lines, row.missing, row.dropped, row.empty, row.duplicates)
        lengths = (f"{row.characters:.1f}", "–" if math.isnan(row.ratio) else f"{row.ratio:.2f}")
        table.add_row(row.code, *map(str, counts), *lengths, str(row.outliers), str(row.foreign))
    Console().print(table)
    for problem in report.problems:
        typer.echo(f"- {problem}")
    if not report.problems:
        typer.echo("Nothing odd was found.")


def _write(report: Audit, out: Path) -> None:
    from babelscope.results.whole import whole_folder

    with whole_folder(out) as partial:
        for name, frame in report.tables().items():
            frame.to_csv(partial / f"{name}.csv", index=False)
