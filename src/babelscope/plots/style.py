"""The look that every figure shares, and the register of figures.

No pyplot and no global state: a figure is an object, drawn inside the style's context, so that drawing changes nothing
for whoever imported us.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from babelscope.errors import InputError, RunError
from babelscope.languages import language as language_of
from babelscope.plots.fonts import drawn, families
from babelscope.results import Run
from babelscope.results.whole import whole_file

P = ParamSpec("P")
Labels = Literal["code", "name", "own"]

# Okabe and Ito's eight, told apart by every common colour vision; yellow last because it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8A7F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
DASHES = ("-", "--", "-.", ":")
SEQUENTIAL, DIVERGING = "viridis", "PuOr"

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "nearest",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "babelscope",
}


_NOTEBOOK_DPI = 90


@dataclass(frozen=True)
class Drawing:
    """One registered figure."""

    name: str
    kind: str
    needs: tuple[str, ...]
    draw: Callable[..., Figure]


FIGURES: dict[str, Drawing] = {}


def figure(
    kind: str, *needs: str
) -> Callable[[Callable[Concatenate[Run, P], Figure]], Callable[Concatenate[Run, P], Figure]]:
    """Registers a function that draws runs of `kind` which hold all of `needs`: array names, or `table:<name>`."""

    def register(function: Callable[Concatenate[Run, P], Figure]) -> Callable[Concatenate[Run, P], Figure]:
        name: str = function.__name__

        @functools.wraps(function)
        def draw(run: Run, *args: P.args, **kwargs: P.kwargs) -> Figure:
            lacking = [need for need in needs if run.kind == kind and not holds(run, need)]
            if run.kind != kind or lacking:
                what = f"has no {', '.join(lacking)}" if lacking else f"is of kind {run.kind}, not {kind}"
                raise RunError(f"the figure {name} cannot be drawn: the run {run.source} {what}")
            with matplotlib.rc_context({**_STYLE, "font.family": list(families())}):
                return function(run, *args, **kwargs)

        FIGURES[name] = Drawing(name, kind, needs, draw)
        return draw

    return register


def holds(run: Run, need: str) -> bool:
    """Whether a run has an array, or with `table:<name>` a table that is not empty; `group:<name>` a group."""
    what, _, name = need.rpartition(":")
    if what == "table":
        return name in run.tables and len(run.table(name)) > 0
    if what == "group":
        return name in run.groups
    return (run.path / "arrays.zarr").is_dir() and need in run.arrays()


def figure_names(run: Run) -> list[str]:
    """Names of the figures that this run can give."""
    return [name for name, it in FIGURES.items() if it.kind == run.kind and all(holds(run, need) for need in it.needs)]


def draw(run: Run, name: str, **options: Any) -> Figure:
    """Draws a figure by its name; raises InputError for an unknown name, RunError when the run lacks the data."""
    if name not in FIGURES:
        known = ", ".join(figure_names(run))
        raise InputError(f"there is no figure {name!r}; this run gives: {known or 'none'}")
    return FIGURES[name].draw(run, **options)


def save_figure(drawing: Figure, path: str | os.PathLike[str], dpi: int = 300) -> Path:
    """Saves as PDF, PNG or SVG by the ending of `path`, with no date inside: same run, same bytes."""
    target = Path(path)
    ending = target.suffix.lower()
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}
    if ending not in dates:
        raise InputError(f"{target.name}: a figure is saved as .pdf, .png or .svg")
    with whole_file(target) as partial, matplotlib.rc_context({**_STYLE, "font.family": list(families())}):
        drawing.savefig(partial, dpi=dpi, metadata=dates[ending], format=ending[1:])
    return target


class Picture(Figure):
    """A figure that shows itself in a notebook, with or without pyplot."""

    def _repr_html_(self) -> str:
        from io import BytesIO

        from babelscope.notebook import image

        raster = BytesIO()
        with matplotlib.rc_context({**_STYLE, "font.family": list(families())}):
            self.savefig(raster, format="png", dpi=2 * _NOTEBOOK_DPI)
        titles = [self.get_suptitle(), *(axes.get_title() for axes in self.axes)]
        told = next((title for title in titles if title), "figure").replace("\n", ", ")
        return image(raster.getvalue(), told, round(self.get_figwidth() * _NOTEBOOK_DPI))


def canvas(width: float, height: float) -> Figure:
    """An empty figure in inches, laid out so that nothing is cut off."""
    return Picture(figsize=(width, height), layout="constrained")


def label(code: str, labels: Labels = "code") -> str:
    """A language as it is written on an axis: its code, English name, or own name where a font for it is installed."""
    if labels == "code":
        return drawn(code)
    try:
        found = language_of(code)
    except InputError:
        return drawn(code)
    if labels == "name":
        return drawn(found.name)
    import langcodes

    return drawn(langcodes.Language.get(found.code).autonym(), otherwise=found.name)


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the index-th line: told apart in colour, in grey, and beyond eight lines."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[(index // len(COLOURS)) % len(DASHES)],
    }


def name_ticks(axes: Axes, names: Sequence[str], longest: int = 5) -> None:
    """Names below the axis, aslant where any is longer than `longest`, so that none lies over its neighbour."""
    axes.set_xticks(range(len(names)), names)
    if max((len(line) for name in names for line in name.split("\n")), default=0) > longest:
        for text in axes.get_xticklabels():
            text.set(rotation=45, horizontalalignment="right", rotation_mode="anchor")


def grid_of_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Ticks and thin white lines between the cells of a small heatmap."""
    name_ticks(axes, columns, longest=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)


def legend_below(axes: Axes, columns: int = 3) -> None:
    """A legend under the axis and its label, where it hides nothing."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=columns)


def thin_ticks(axes: Axes, which: Literal["x", "y"], count: int, limit: int = 12) -> None:
    """Whole-number ticks at a round step, never more than `limit`."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if count / step <= limit)
    ticks = list(range(0, count, step))
    axes.set_xticks(ticks) if which == "x" else axes.set_yticks(ticks)


def write_cells(axes: Axes, image: Any, texts: Sequence[Sequence[str]], size: float = 7.5) -> None:
    """Text in every cell, black or white by the brightness of the colour under it."""
    colours = image.cmap(image.norm(image.get_array()))
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            red, green, blue, _ = colours[row, column]
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            axes.text(column, row, text, ha="center", va="center", size=size, color="white" if dark else "black")
