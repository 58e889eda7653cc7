"""`babelscope compare`: what differs between two runs, in how they were made and in what came out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.wording import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from rich.table import Table

    from babelscope.results import Run

_MOST = 40
_NAMES = {"overlap": "intervals overlap"}
_NOT_SETTINGS = ("summary.", "corpus.sentence_ids")


app = verb_app("compare")


@app.default
@verb
def compare(
    first: Annotated[str, Parameter(help="Run directory or URL.")],
    second: Annotated[str, Parameter(help="Another one.")],
    *,
    out: Annotated[Path | None, Parameter(help="New folder for all tables as CSV.")] = None,
) -> None:
    """Put two runs side by side: what differs in their findings, then in regions, maps and circuits, then in settings.

    For example:

      babelscope compare runs/bloom-560m runs/bloom-1b1
    """
    from rich.console import Console

    from babelscope.evolution import differences
    from babelscope.results import compare_runs, open_run
    from babelscope.studies import circuits_compare

    one, two = open_run(first), open_run(second)
    for run in (one, two):
        run.validate(additions=False)
    tables: dict[str, pd.DataFrame] = {
        "headlines": differences.compare_headlines(one, two),
        "regions": differences.compare_regions(one, two),
        "points": differences.compare_points(one, two),
        "alignment": differences.compare_alignment(one, two),
    }
    if circuits_compare.same_model(one, two):  # heads of different models have no common name
        tables["circuits"] = differences.compare_circuits(one, two)
    if one.manifest.get("kind") == two.manifest.get("kind") == "circuits":
        tables["circuit overlap"] = circuits_compare.compare_circuit_edges(one, two)
        tables["heads by role"] = circuits_compare.compare_head_roles(one, two)
    tables["settings"] = compare_runs(one, two)
    tables = {name: frame for name, frame in tables.items() if len(frame)}
    print(f"first:  {visible(repr(one))}\nsecond: {visible(repr(two))}\n")
    for line in _findings(one, two):
        print(line)
    found = differences.compare_map(one, two)
    if found is not None:
        print(
            f"similarity map: Pearson {found['pearson']:.4f} over the pairs of {found['items']:.0f} shared items, "
            f"mean difference {found['mean_difference']:.4f}, largest {found['largest_difference']:.4f}\n"
        )
    console = Console()
    for name, frame in tables.items():
        if name == "settings":
            frame = frame.loc[~frame.entry.str.startswith(_NOT_SETTINGS), :]
        console.print(_table(name, frame))
    if out is not None:
        _write(tables, out)


def _findings(one: Run, two: Run) -> Iterator[str]:
    """The sentences that stand in one of the two alone, and how many they share."""
    from babelscope.findings import findings_of

    said = [[finding.text for finding in findings_of(run)] for run in (one, two)]
    shared = [text for text in said[0] if text in said[1]]
    for name, texts in zip(("first", "second"), said, strict=True):
        for text in texts:
            if text not in shared:
                yield f"• {name}: {visible(text)}\n"
    if shared:
        yield f"Findings that both state word for word: {len(shared)}.\n"


def _table(name: str, frame: pd.DataFrame) -> Table:
    from rich.table import Table

    left = f" (the first {_MOST} of {len(frame)}; --out FOLDER for all)" if len(frame) > _MOST else ""
    columns = [_NAMES.get(column, column) for column in map(str, frame.columns)]
    table = Table(*columns, title=f"{name}{left}", title_justify="left", box=None)
    for row in frame.head(_MOST).itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> str:
    from rich.markup import escape

    from babelscope.wording import number

    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = visible(number(value) if isinstance(value, float) else value)
    return escape(text if len(text) <= 60 else f"{text[:57]}…")


def _write(tables: Mapping[str, pd.DataFrame], out: Path) -> None:
    from babelscope.results.csv_cells import write_csv
    from babelscope.results.whole import whole_folder

    with whole_folder(out) as partial:
        for name, frame in tables.items():
            write_csv(frame, partial / f"{name.replace(' ', '_')}.csv")
