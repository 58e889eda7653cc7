"""`babelscope pocket`: the built-in models: list them, copy them out, say what they can do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import note

if TYPE_CHECKING:
    from rich.table import Table

app = verb_app("pocket", "The built-in model family.")

Row = dict[str, Any]

WIDTH = 190
"""columns that nine languages with intervals need"""
TEMPLATE = re.compile(r"t\d")
"""groups that are in the JSON and would make the tables long"""


@app.command(name="list")
@verb
def list_models() -> None:
    """List the models, with their revisions.

    For example:

      babelscope pocket list
    """
    from babelscope.pocket.models import MODELS, PREFIX

    for model in MODELS.values():
        print(f"{PREFIX}{model.name:<16} {model.family}, {model.layers} layers, width {model.width}")
        print(f"  {model.description}")
        if len(model.revisions) > 1:
            print(f"  revisions: {', '.join(model.revisions)}")


@app.command(name="export")
@verb
def export_model(
    name: Annotated[str, Parameter(help="Model of the family, such as bloom-m or pocket-llama.")],
    directory: Annotated[Path, Parameter(help="New directory to copy it to.")],
    *,
    revision: Annotated[str | None, Parameter(help="Checkpoint, such as step256; default: the last.")] = None,
) -> None:
    """Copy a model to a directory that other programs can load.

    For example:

      babelscope pocket export bloom-m my-model --revision step256
    """
    from babelscope.pocket.models import export
    from babelscope.results.whole import whole_folder

    with whole_folder(directory) as partial:
        export(name, partial, revision)
    print(str(directory))


@app.command(name="evaluate")
@verb
def evaluate_models(
    names: Annotated[list[str] | None, Parameter(help="Models [the whole family]")] = None,
    *,
    json_file: Annotated[Path | None, Parameter(name="--json", help="File for all figures.")] = None,
) -> None:
    """Measure perplexity, indirect objects, tense and story endings on held-out texts (minutes on one core).

    For example:

      babelscope pocket evaluate --json pocket.json
    """
    from babelscope.cli.options import quiet

    quiet()
    from rich.console import Console

    from babelscope.pocket.evaluate import evaluate
    from babelscope.pocket.models import MODELS

    found = evaluate(names or list(MODELS), report=note)
    if json_file is not None:
        from babelscope.results.whole import whole_file

        with whole_file(json_file) as partial:
            partial.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console()
    if not console.is_terminal or console.width < WIDTH:  # narrower, the names and intervals would be cut
        console = Console(width=WIDTH)
    for table in tables(found):
        console.print(table)


def tables(found: dict[str, list[Row]]) -> list[Table]:
    """The figures as tables: languages across, models down; intervals are 95 %."""
    from babelscope.pocket.evaluate import CHOICES

    drawn = [
        _table(
            "Perplexity per token on held-out texts (bootstrap interval over documents)",
            ("model",), found["perplexity"], _perplexity_cell,
        )
    ]  # fmt: skip
    for kind, title in CHOICES.items():
        rows = [row for row in found["choices"] if row["kind"] == kind and not TEMPLATE.match(row["group"])]
        drawn.append(
            _table(f"{title}: % right (Wilson interval)", ("model", "revision", "group"), rows, _accuracy_cell)
        )
    title = "Story in a language, ending in English: % right (Wilson interval); chance is 50"
    drawn.append(_table(title, ("model", "revision"), found["cloze"], _accuracy_cell))
    return [table for table in drawn if table.row_count]


def _table(title: str, keys: Sequence[str], rows: Iterable[Row], cell: Any) -> Table:
    from rich.table import Table

    from babelscope.pocket.evaluate import checked_languages

    rows = list(rows)
    languages = checked_languages(rows)
    table = Table(*keys, *languages, title=title)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        lines.setdefault(tuple(str(row[key]) for key in keys), {})[row["language"]] = cell(row)
    for key, line in lines.items():
        table.add_row(*key, *(line.get(language, "") for language in languages))
    return table


def _perplexity_cell(row: Row) -> str:
    return f"{row['perplexity']:.2f}\n{row['low']:.2f}–{row['high']:.2f}"


def _accuracy_cell(row: Row) -> str:
    return f"{100 * row['share']:.0f} (n={row['n']})\n{100 * row['low']:.0f}–{100 * row['high']:.0f}"
