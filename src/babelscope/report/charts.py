"""A registered figure as a chart of the page: its views drawn by plotly, a printed twin below."""

from __future__ import annotations

from collections.abc import Callable

from babelscope.errors import BabelscopeError, InputError, RunError
from babelscope.figures.page import plots
from babelscope.figures.paper import draw
from babelscope.figures.register import FIGURES, holds, names_from_outside, specify
from babelscope.figures.spec import Figure
from babelscope.report.blocks import Block, Chart, Nothing, Section, Table, Variant, gather
from babelscope.report.embed import picture
from babelscope.results import Run

Maker = tuple[str, Callable[[Run], Block | None]]


def chart(name: str) -> Maker:
    """A maker of the chart of one figure; nothing where the run lacks what the figure needs."""

    def make(run: Run) -> Block | None:
        drawing = FIGURES[name]
        if run.kind != drawing.kind or drawing.lacking(run):
            return None
        views = drawing.views(run) if drawing.views else []
        variants: list[Variant] = []
        empty: list[str] = []
        try:
            first = specify(run, name)
            for view_name, options in [(view.name, view.options) for view in views] or [("", {})]:
                for one in plots(specify(run, name, **options) if options else first):
                    label = ", ".join(part for part in (view_name, one.name) if part) or "all"
                    if one.empty:
                        empty.append(label)
                    else:
                        variants.append(Variant(label, one.plot, one.table))
        except RunError:  # a table that is damaged or of another shape
            raise
        except InputError:  # nothing to draw: one language, one checkpoint
            return None
        if not variants:
            return Nothing(first.title, f"nothing to draw, the run has no number for it{_reason(first)}.")
        caption = f"{first.caption} Without a number, and so not drawn: {', '.join(empty)}." if empty else first.caption
        return Chart(name.replace("_", "-"), first.title, caption, variants=variants, choose=drawing.choose,
                     twin=name, height=first.height, least_width=first.min_width)  # fmt: skip

    return name.replace("_", " ").capitalize(), make


def _reason(figure: Figure) -> str:
    """Why numbers are missing, as the tables behind the panels say."""
    tables = [panel.table() for panel in figure.panels]
    told = [str(why) for table in tables if "why" in table for why in table["why"].tolist() if why]
    return f" ({'; '.join(dict.fromkeys(told))})" if told else ""


def more_figures(run: Run) -> list[Section]:
    """The figures that installed packages add, where the run gives any."""
    blocks = gather(run, *map(chart, names_from_outside()))
    return [Section("More figures", blocks)] if blocks else []


def table(name: str, title: str, caption: str, text_columns: tuple[str, ...] = ()) -> Maker:
    """A maker of one plain table of the run."""

    def make(run: Run) -> Block | None:
        if not holds(run, f"table:{name}"):
            return None
        return Table(name.replace("_", "-"), title, caption, run.table(name), text_columns)

    return title, make


def static_twin(run: Run, shown: Chart) -> str | None:
    """The chart as it is drawn for papers, as an image inside the page."""
    if shown.twin is None:
        return None
    try:
        return picture(draw(run, shown.twin))
    except (BabelscopeError, KeyError, ValueError):
        return None
