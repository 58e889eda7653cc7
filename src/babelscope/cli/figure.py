"""`babelscope figure`: one figure of a run, ready for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from babelscope.results import Run


def figure(
    run_dir: Annotated[str, typer.Argument(help="A run directory, or a URL of one.")],
    name: Annotated[str | None, typer.Argument(help="Which figure; leave it out to list those the run gives.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file: .pdf, .png or .svg.", show_default=False)] = None,
    labels: Annotated[str | None, typer.Option(help="Languages written as code, name or own.")] = None,
    measure: Annotated[str | None, typer.Option(help="For figures of heads: which measure.")] = None,
    languages: Annotated[str | None, typer.Option("--languages", "-l", help="For two languages: en,zh.")] = None,
    beside: Annotated[str | None, typer.Option(help="Published model to show beside: bloom-7b1 or llama-2-7b.")] = None,
    dpi: Annotated[int, typer.Option(help="Dots per inch of a .png.", min=30, max=1200)] = 300,
) -> None:
    """Draw one figure of a run into a file.

    Example:  babelscope figure runs/bible similarity_map --out map.pdf
    """
    from babelscope.errors import InputError
    from babelscope.plots import draw, figure_names, save_figure
    from babelscope.results import open_run
    from babelscope.results.whole import sweep_leftovers

    run = open_run(run_dir)
    run.validate(additions=False)
    if name is None:
        typer.echo("\n".join(figure_names(run)) or "This run gives no figures.")
        return
    if out is None:
        raise InputError(f"say where to write the figure: --out {name}.pdf")
    sweep_leftovers(out)
    typer.echo(save_figure(draw(run, name, **_options(run, name, labels, measure, languages, beside)), out, dpi))


def _options(
    run: Run, name: str, labels: str | None, measure: str | None, languages: str | None, beside: str | None
) -> dict[str, Any]:
    """The options that were given, refused when the figure has no such option."""
    import inspect

    from babelscope.errors import InputError
    from babelscope.languages import parse_languages
    from babelscope.plots import FIGURES

    if labels not in {None, "code", "name", "own"}:
        raise InputError(f"--labels is code, name or own, not {labels}")
    pair = parse_languages(languages) if languages else []
    if languages and len(pair) != 2:
        raise InputError("--languages takes two languages here, such as en,zh")
    given = {"labels": labels, "measure": measure, "beside": beside, **dict(zip(("first", "second"), pair))}
    given = {key: value for key, value in given.items() if value is not None}
    known = inspect.signature(FIGURES[name].draw).parameters if name in FIGURES else given
    for key in given:
        if key not in known:
            option = "languages" if key in {"first", "second"} else key
            raise InputError(f"the figure {name} has no option --{option}")
    return given
