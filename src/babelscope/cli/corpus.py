"""`babelscope corpus`: look at a corpus before measuring anything on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.terms import Form
from babelscope.wording import decimals

if TYPE_CHECKING:
    from babelscope.corpora import Audit

app = verb_app("corpus", "Look at parallel corpora and texts.")


@app.command(name="list")
@verb
def list_readers() -> None:
    """List the readers and the published data sets, with an example of each.

    For example:

      babelscope corpus list
    """
    from babelscope.corpora import READERS
    from babelscope.corpora.published import PUBLISHED

    print("A corpus spec is reader:PATH?option=value&option=value\n")
    for reader in READERS.values():
        options = [
            *reader.options,
            *([f"LANGUAGE={reader.languages_as_options}"] if reader.languages_as_options else []),
        ]
        print(f"{reader.name:<7} {reader.holds}")
        print(f"        options: {', '.join(options)}")
        print(f"        {reader.example}\n")
    print("Published sets, and how each is read:\n")
    for one in PUBLISHED:
        print(f"{one.name} ({one.use})\n        {one.example}")


@app.command(name="audit")
@verb
def audit_command(
    spec: Annotated[str, Parameter(help="Corpus spec, such as bible:bibles or lines:my-folder.")],
    *,
    languages: Annotated[tuple[str, ...], Parameter(alias="-l", help="Codes, by commas [all that are there]")] = (),
    normalise: Annotated[Form | None, Parameter(help="Look at the texts in one Unicode form, such as nfc.")] = None,
    out: Annotated[Path | None, Parameter(help="New folder for the findings as CSV, one file per kind.")] = None,
) -> None:
    """Count what is missing, empty, repeated, oddly long, or in the wrong script.

    For example:

      babelscope corpus audit bible:bibles --languages en,zh,fr --out findings
    """
    from babelscope.corpora import audit
    from babelscope.corpora.spec import with_form
    from babelscope.errors import InputError

    if out is not None and out.exists():
        raise InputError(f"{out} exists already; name a new folder")
    report = audit(with_form(spec, normalise), languages or None)
    _print(report)
    if out is not None:
        _write(report, out)


def _print(report: Audit) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    print(f"{report.spec}: {f'{report.common} ids with text in all languages' if report.parallel else 'not parallel'}")
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for column in (
        "lines",
        "missing",
        "dropped",
        "empty",
        "twice",
        "chars",
        "ratio",
        "odd\nlength",
        "wrong\nscript",
        "odd\ntext",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.languages:
        counts = (row.lines, row.missing, row.dropped, row.empty, row.duplicates)
        lengths = (decimals(row.characters, 1), decimals(row.ratio))
        table.add_row(row.code, *map(str, counts), *lengths, str(row.outliers), str(row.foreign), str(row.faults))
    Console().print(table)
    for problem in report.problems:
        print(f"- {problem}")
    if not report.problems:
        print("Nothing odd was found.")


def _write(report: Audit, out: Path) -> None:
    from babelscope.results.csv_cells import write_csv
    from babelscope.results.whole import whole_folder

    with whole_folder(out) as partial:
        for name, frame in report.tables().items():
            write_csv(frame, partial / f"{name}.csv")
