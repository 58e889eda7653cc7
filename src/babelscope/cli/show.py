"""`babelscope show`: what a run found, and its tables, in the terminal or as Markdown, LaTeX or JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from babelscope.results import Run

Form = Literal["text", "markdown", "latex", "json"]
_MOST_ROWS, _UNBOUNDED = 40, 400
_HEADLINES = {
    "circuits": ("circuits across languages", "cross_faithfulness", {
        "found_in": "circuit of", "run_on": "in", "heads": "heads", "faithfulness": "faithfulness", "low": "low",
        "high": "high", "random": "random heads", "random_low": "random heads_low", "random_high": "random heads_high",
    }),
    "sweep": ("points", "points", {
        name: name for name in ("model", "revision", "status", "parameters", "step", "lrds", "sads", "sklr")
    }),
}  # fmt: skip
"""kind of run → title, table and columns (with the names they are shown under) of the one table that comes first"""


app = verb_app("show")


@app.default
@verb
def show(
    run_dir: Annotated[str, Parameter(help="A run directory, or a URL of one.")],
    *,
    table: Annotated[str | None, Parameter(help="One table of the run, whole.")] = None,
    format: Annotated[Form, Parameter(help="For papers and other programs.")] = "text",
    check: Annotated[bool, Parameter(help="Compare every file with its checksum first.")] = False,
) -> None:
    """Print what a run found, in sentences, and the table that goes with it; or any table of the run.

    Without --table, --format json is the run's run.json.

    For example:

      babelscope show runs/bible

      babelscope show runs/bible --table selectivity --format latex
    """
    from babelscope.results import open_run

    run = open_run(run_dir)
    if check:
        run.validate()
    if table is not None:
        _write(table, run.table(table), format)
    else:
        _overview(run, format)


def show_run(run_dir: str) -> None:
    """Print what a run found."""
    from babelscope.results import open_run

    _overview(open_run(run_dir), "text")


def _overview(run: Run, form: Form) -> None:
    from babelscope.findings import findings_of
    from babelscope.results.display import facts
    from babelscope.results.manifest import to_json
    from babelscope.wording import visible, visible_json

    if form == "json":
        print(visible_json(to_json(run.manifest)), end="")
        return
    first = _headline(run)
    if form == "text":
        for finding in findings_of(run):
            print(f"• {visible(finding.text)}\n")
        for name, value in facts(run):
            if name != "Tables":  # the last line names them
                print(f"{name:<10} {visible(value)}")
        if first is not None:
            _print(*first)
        if run.kind == "regions" and "alignment_means" in run.tables:
            _print("alignment, mean over pairs of languages (95 %, leaving one document out)", _alignment(run))
        if run.tables:
            print(f"More: babelscope show {visible(run.source)} --table NAME, with NAME one of {', '.join(run.tables)}")
        return
    mark = "- {}" if form == "markdown" else "% {}"
    print("\n".join(mark.format(visible(finding.text)) for finding in findings_of(run)), end="\n\n")
    if first is not None:
        _write(*first, form)


def _headline(run: Run) -> tuple[str, pd.DataFrame] | None:
    """The one table that comes first, with its title."""
    if run.kind == "regions":
        return _regions(run)
    title, name, columns = _HEADLINES.get(run.kind, ("", "", {}))
    if name not in run.tables:
        return None
    whole = run.table(name)
    import pandas as pd

    return title, pd.DataFrame({shown: whole[column] for column, shown in columns.items() if column in whole})


def _regions(run: Run) -> tuple[str, pd.DataFrame] | None:
    import pandas as pd

    from babelscope.figures.deactivation import cell, perplexity_grid
    from babelscope.figures.regions import region_sizes
    from babelscope.wording import number

    neurons: dict[str, int] = run.summary.get("region_size") or {}
    if "perplexity" not in run.tables:
        return ("region sizes", region_sizes(run).panels[0].table()) if neurons else None
    grid = perplexity_grid(run)
    columns: dict[str, list[str]] = {"language": list(grid.base)}
    if neurons:
        columns["neurons"] = [number(neurons.get(code)) for code in grid.base]
    columns["base"] = [number(base) for base in grid.base.values()]
    for name, values, spreads in zip(grid.columns, grid.increase.T.tolist(), grid.spread.T.tolist()):
        drawn = grid.draws.get(name, 1) > 1
        told = [f"{cell(value)}±{cell(spread)}" if drawn else cell(value) for value, spread in zip(values, spreads)]
        columns["by layer" if name == "random-layer" else name] = told
    title = (
        "Perplexity of each language (base), and by how many percent it rises with each region switched off; random: "
        "as many neurons of any layer as the mean region; by layer: as many of every layer as the language's own region"
    )
    return title, pd.DataFrame(columns)


def _write(title: str, frame: pd.DataFrame, form: Form) -> None:
    import json

    from babelscope.results import text_tables
    from babelscope.wording import visible_json

    if form == "text":
        _print(title, frame, most=None)
    elif form == "json":
        # pandas would write ten decimals, and a small p as 0
        known = frame.astype(object).where(frame.notna() & ~frame.isin([float("inf"), -float("inf")]), None)
        rows = json.dumps(known.to_dict("records"), indent=2, ensure_ascii=False, default=_listed)
        print(visible_json(rows))
    elif form == "markdown":
        print(text_tables.markdown(text_tables.cells(frame), text_tables.numeric_columns(frame)))
    else:
        caption = title.replace("_", " ")
        print(text_tables.latex(text_tables.cells(frame), text_tables.numeric_columns(frame), caption))


def _listed(cell: object) -> object:
    """What JSON has no word for: a list where it is one, else its text."""
    import numpy as np

    return cell.tolist() if isinstance(cell, np.ndarray | np.generic) else str(cell)


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

    from babelscope.results.text_tables import cells, numeric_columns

    shown = frame if most is None else frame.head(most)
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:  # a pipe or a file has no edge to cut numbers at
        console = Console(width=_UNBOUNDED)
    columns, right = cells(shown), set(numeric_columns(frame))
    for number, names in enumerate(_pieces(columns, right, console.width)):
        console.print(_table("" if number else title, {name: columns[name] for name in names}, right))
    if len(shown) < len(frame):
        print(f"… and {len(frame) - len(shown)} more rows")


def _pieces(columns: dict[str, list[str]], right: set[str], width: int) -> list[list[str]]:
    """Columns in as many tables as it takes for each to fit, each beginning with what names the rows."""
    from rich.cells import cell_len

    names = list(columns)
    labels = next((place for place, name in enumerate(names) if name in right), len(names))
    keys = names[: min(labels, 3)]
    # a header may be broken between its words, a cell never
    needs = {
        name: max([cell_len(text) for text in (*name.split(), *column)], default=0) + 3
        for name, column in columns.items()
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


def _table(title: str, columns: dict[str, list[str]], right: set[str]) -> Table:
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
    for name in columns:
        table.add_column(Text(name), justify="right" if name in right else "left")
    for row in zip(*columns.values()):
        table.add_row(*map(Text, row))
    return table
