"""`babelscope show`: the tables of a run, in the terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from babelscope.results import Run

_MOST_ROWS, _UNBOUNDED = 40, 400
_TABLES = {
    "regions": ("calibration", "selectivity"),
    "circuits": ("behaviour", "roles", "ablation", "cross_faithfulness", "agreement"),
    "sweep": ("points",),
}


app = verb_app("show")


@app.default
@verb
def show(
    run_dir: Annotated[str, Parameter(help="A run directory, or a URL of one.")],
    *,
    table: Annotated[str | None, Parameter(help="Print one table of the run, whole.")] = None,
    json: Annotated[bool, Parameter(help="Print run.json instead, for other programs.")] = False,
    check: Annotated[bool, Parameter(help="Compare every file with its checksum first.")] = False,
) -> None:
    """Print the headline numbers and the tables of a run.

    Example:  babelscope show runs/bible
    """
    show_run(run_dir, table, json, check)


def show_run(run_dir: str, table: str | None = None, json: bool = False, check: bool = False) -> None:
    """Print a run, or one table of it, or its run.json."""
    from babelscope.results import open_run
    from babelscope.results.manifest import to_json

    run = open_run(run_dir)
    if check:
        run.validate()
    if json:
        print(to_json(run.manifest), end="")
    elif table is not None:
        _print(table, run.table(table), most=None)
    else:
        _overview(run)


def _overview(run: Run) -> None:
    from babelscope.findings import findings_of
    from babelscope.results.display import facts

    for finding in findings_of(run):
        print(f"• {_clean(finding.text)}\n")
    for name, value in facts(run):
        print(f"{name:<10} {_clean(value)}")
    if run.kind == "regions":
        _regions(run)
    for name in _TABLES.get(run.kind, ()):
        if name in run.tables:
            _print(name, run.table(name))
    if run.tables:
        print("More: babelscope show RUN --table NAME, with NAME one of " + ", ".join(run.tables))


def _regions(run: Run) -> None:
    import pandas as pd

    from babelscope.figures.deactivation import cell, perplexity_grid
    from babelscope.figures.regions import region_sizes
    from babelscope.wording import number

    if run.summary.get("region_size"):
        _print("region sizes", region_sizes(run).panels[0].table())
    if "alignment_means" in run.tables:
        told = _alignment(run)
        _print("alignment, mean over pairs of languages (95 %, leaving one document out)", told)
    if "perplexity" not in run.tables:
        return
    grid = perplexity_grid(run)
    columns: dict[str, list[str]] = {"": list(grid.base), "base": [number(base) for base in grid.base.values()]}
    for name, values, spreads in zip(grid.columns, grid.increase.T.tolist(), grid.spread.T.tolist()):
        drawn = grid.draws.get(name, 1) > 1
        told = [f"{cell(value)}±{cell(spread)}" if drawn else cell(value) for value, spread in zip(values, spreads)]
        columns["by layer" if name == "random-layer" else name] = told
    increase = pd.DataFrame(columns)
    _print(
        "perplexity, and its increase in % without each region (random: of its size; by layer: and layers)", increase
    )


def _alignment(run: Run) -> pd.DataFrame:
    """Each metric of alignment in the first, the middle and the last layer, with its interval."""
    import pandas as pd

    from babelscope.figures.facts import rows_of
    from babelscope.results.schemas.regions import AlignmentMean
    from babelscope.wording import number

    rows = rows_of(run, AlignmentMean)
    layers = sorted({row.layer for row in rows})
    shown = dict.fromkeys([layers[0], layers[(len(layers) - 1) // 2], layers[-1]])
    told: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.layer in shown:
            ends = f" ({number(row.low)} to {number(row.high)})" if row.low == row.low else ""
            cell = f"{number(row.value)}{ends}" if row.value == row.value else "–"
            told.setdefault(row.metric, {"metric": row.metric})[f"layer {row.layer}"] = cell
            told[row.metric]["why"] = row.why
    return pd.DataFrame(told.values())


def _print(title: str, frame: pd.DataFrame, most: int | None = _MOST_ROWS) -> None:
    from rich.console import Console

    shown = frame if most is None else frame.head(most)
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:  # a pipe or a file has no edge to cut numbers at
        console = Console(width=_UNBOUNDED)
    cells = {str(name): [_clean(_cell(value)) for value in shown[name]] for name in shown.columns}
    numeric = {str(name): frame[name].dtype.kind in "iuf" for name in frame.columns}
    for number, names in enumerate(_pieces(cells, numeric, console.width)):
        console.print(_table("" if number else title, {name: cells[name] for name in names}, numeric))
    if len(shown) < len(frame):
        print(f"… and {len(frame) - len(shown)} more rows")


def _pieces(cells: dict[str, list[str]], numeric: dict[str, bool], width: int) -> list[list[str]]:
    """Columns in as many tables as it takes for each to fit, each beginning with what names the rows."""
    from rich.cells import cell_len

    names = list(cells)
    labels = next((place for place, name in enumerate(names) if numeric[name]), len(names))
    keys = names[: min(labels, 3)]
    # a header may be broken between its words, a cell never
    needs = {
        name: max([cell_len(text) for text in (*name.replace("_", " ").split(), *column)], default=0) + 3
        for name, column in cells.items()
    }
    room = width - 2 - sum(needs[name] for name in keys)
    pieces, used = [list(keys)], 0
    for name in names[len(keys) :]:
        if used + needs[name] > room and used:
            pieces.append(list(keys))
            used = 0
        pieces[-1].append(name)
        used += needs[name]
    return pieces


def _table(title: str, cells: dict[str, list[str]], numeric: dict[str, bool]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE,
        title=title.replace("_", " ") or None,
        title_justify="left",
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    for name in cells:
        table.add_column(Text(name.replace("_", " ")), justify="right" if numeric[name] else "left")
    for row in zip(*cells.values()):
        table.add_row(*map(Text, row))
    return table


def _cell(value: Any) -> str:
    from babelscope.wording import number

    if value is None or value != value:
        return "–"
    return number(value.item() if hasattr(value, "item") else value)


def _clean(text: str) -> str:
    """Text without the characters that could steer a terminal or turn its direction around."""
    from babelscope.wording import visible

    return visible(text)
