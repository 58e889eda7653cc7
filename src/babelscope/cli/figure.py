"""`babelscope figure`: one figure of a run, ready for a paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from babelscope.cli.command import verb, verb_app
from babelscope.settings import Settings

app = verb_app("figure")


@dataclass(frozen=True, kw_only=True)
class Chosen(Settings):
    """What some figures can be asked for."""

    pair: str | None = None
    """for figures of one pair of languages: en→fr"""
    measure: str | None = None
    """for figures of heads: which measure"""
    beside: str | None = None
    """published model to show beside: bloom-7b1 or llama-2-7b"""


@app.default
@verb
def figure(
    run_dir: Annotated[str, Parameter(help="A run directory, or a URL of one.")],
    name: Annotated[str | None, Parameter(help="Which figure; leave it out to list those the run gives.")] = None,
    *,
    out: Annotated[Path | None, Parameter(help="The file: .pdf, .png or .svg.")] = None,
    labels: Annotated[Literal["code", "name", "own"], Parameter(help="How languages are written.")] = "code",
    languages: Annotated[tuple[str, ...], Parameter(alias="-l", help="For two languages: en,zh.")] = (),
    dpi: Annotated[int, Parameter(validator=validators.Number(gte=30, lte=1200), help="Dots per inch (.png).")] = 300,
    chosen: Chosen,
) -> None:
    """Draw one figure of a run into a file.

    For example:

      babelscope figure runs/bible similarity_map --out map.pdf
    """
    from babelscope.errors import InputError
    from babelscope.figures import draw, figure_names, save_figure
    from babelscope.results import open_run
    from babelscope.results.whole import sweep_leftovers

    run = open_run(run_dir)
    run.validate(additions=False)
    if name is None:
        print("\n".join(figure_names(run)) or "This run gives no figures.")
        return
    if out is None:
        raise InputError(f"say where to write the figure: --out {name}.pdf")
    sweep_leftovers(out)
    given = _options(name, languages, **vars(chosen))
    print(save_figure(draw(run, name, labels, **given), out, dpi))


def _options(name: str, languages: tuple[str, ...], **other: str | None) -> dict[str, str]:
    """The options that were given, refused when the figure has no such option."""
    import inspect

    from babelscope.errors import InputError
    from babelscope.figures import FIGURES
    from babelscope.languages import parse_languages

    pair = parse_languages(languages) if languages else []
    if languages and len(pair) != 2:
        raise InputError("--languages takes two languages here, such as en,zh")
    both = {**other, **dict(zip(("first", "second"), pair))}
    given = {key: value for key, value in both.items() if value is not None}
    known = inspect.signature(FIGURES[name].specify).parameters if name in FIGURES else given
    for key in given:
        if key not in known:
            option = "languages" if key in {"first", "second"} else key
            raise InputError(f"the figure {name} has no option --{option}")
    return given
