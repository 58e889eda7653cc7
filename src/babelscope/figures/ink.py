"""How each mark is drawn on matplotlib axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from math import isfinite

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from babelscope.figures.palette import COLOURS, GONE, HATCHES, MAPS, MARKERS, colour
from babelscope.figures.spec import (
    Arrow,
    Bars,
    Boxes,
    Cells,
    Dash,
    Histogram,
    Key,
    Label,
    Line,
    Map,
    Mark,
    Panel,
    Points,
    Rule,
    Strip,
)

Text = Callable[[Label], str]
MOST_PIXELS = 1800
"""rows of a map that are drawn one by one: more than print can show; larger maps are drawn as block means"""
_DASHES: dict[Dash, str] = {"solid": "-", "dashed": "--", "dotted": ":"}
_DARK = 0.55


def cells_drawn(panel: Panel) -> bool:
    """Whether a panel is a matrix or a map, which need no frame."""
    return any(isinstance(mark, Cells | Map) for mark in panel.marks)


@singledispatch
def ink(mark: Mark, axes: Axes, panel: Panel, text: Text) -> None:
    """Draws one mark."""
    raise TypeError(f"no ink for {type(mark).__name__}")


def line_dash(mark: Line) -> str:
    """Beyond as many lines as there are colours, dashes tell them apart."""
    if mark.dash != "solid":
        return _DASHES[mark.dash]
    return ("-", "--", "-.", ":")[(mark.colour // len(COLOURS)) % 4]


@ink.register
def _(mark: Line, axes: Axes, panel: Panel, text: Text) -> None:
    x, tone = [panel.x.at(value) for value in mark.x], colour(mark.colour)
    axes.plot(
        x, mark.y, color=tone, linestyle=line_dash(mark), linewidth=2.6 if mark.strong else 1.6,
        marker=MARKERS[mark.colour % len(MARKERS)] if mark.markers else None, label=text(mark.name) or "_",
    )  # fmt: skip
    if known := mark.banded():
        low, high = (
            [end[place] if place in known else np.nan for place in range(len(x))] for end in (mark.low, mark.high)
        )
        axes.fill_between(x, low, high, color=tone, alpha=0.15, linewidth=0)
    if mark.hollow:
        at, y = [x[place] for place in mark.hollow], [mark.y[place] for place in mark.hollow]
        axes.plot(at, y, linestyle="", marker="o", markersize=7, markerfacecolor="white", color=tone, zorder=5)


def placed_bars(panel: Panel, mark: Bars) -> tuple[NDArray[np.float64], float]:
    """Middle and width of the bars of one series among those of its panel."""
    series = [one for one in panel.marks if isinstance(one, Bars)]
    at = np.arange(len(mark.heights), dtype=float)
    if panel.bars == "stack":
        return at, 0.8
    width = 0.8 / len(series)
    order = next(place for place, one in enumerate(series) if one is mark)
    return at + (order - (len(series) - 1) / 2) * width, width


def bar_floor(panel: Panel, mark: Bars) -> NDArray[np.float64]:
    """Where the bars of a stacked series begin: on those before it of the same side of 0."""
    floor = np.zeros(len(mark.heights))
    if panel.bars != "stack":
        return floor
    below = min(0.0, float(np.nan_to_num(mark.heights).min(initial=0.0))) < 0
    for one in panel.marks:
        if one is mark:
            break
        if isinstance(one, Bars):
            heights = np.nan_to_num(np.asarray(one.heights, dtype=float))
            floor += np.where(heights < 0, heights, 0.0) if below else np.where(heights > 0, heights, 0.0)
    return floor


@ink.register
def _(mark: Bars, axes: Axes, panel: Panel, text: Text) -> None:
    at, width = placed_bars(panel, mark)
    tones = [colour(place) for place in mark.colours] or colour(mark.colour)
    order = [one for one in panel.marks if isinstance(one, Bars)].index(mark)
    hatch = "" if mark.colours else HATCHES[order % len(HATCHES)]
    axes.bar(at, mark.heights, width, bottom=bar_floor(panel, mark), label=text(mark.name) or "_", color=tones,
             hatch=hatch, edgecolor="white", linewidth=0.5)  # fmt: skip
    for place, below, above in mark.whiskers():
        ends = [[below], [above]]
        axes.errorbar(at[place], mark.heights[place], yerr=ends, fmt="none", color="black", capsize=2, linewidth=0.9)


@ink.register
def _(mark: Points, axes: Axes, panel: Panel, text: Text) -> None:
    x = [panel.x.at(value) for value in mark.x]
    size = 60 if mark.large else 18
    if len(mark.values):
        dots = axes.scatter(x, mark.y, c=mark.values, s=size, edgecolor="black", linewidth=0.3, cmap="viridis")
        axes.figure.colorbar(dots, ax=axes, label=text(mark.values_label))
    else:
        tone, shape = colour(mark.colour), MARKERS[mark.colour % len(MARKERS)]
        axes.scatter(x, mark.y, c=tone, marker=shape, s=size, label=text(mark.name) or "_")
    for place, below, above in mark.whiskers():
        ends = [[below], [above]]
        axes.errorbar(x[place], mark.y[place], yerr=ends, fmt="none", color=colour(mark.colour), linewidth=1)
    for place in mark.named:
        axes.annotate(
            text(mark.texts[place]), (x[place], mark.y[place]), xytext=(4, -9), textcoords="offset points", size=6.5
        )


@ink.register
def _(mark: Cells, axes: Axes, panel: Panel, text: Text) -> None:
    low, high = mark.ends()
    shown = np.ma.masked_invalid(mark.colour_values())
    image = axes.imshow(
        shown, vmin=low, vmax=high, cmap=_colours(mark), aspect="equal" if panel.square else "auto",
        origin="lower" if mark.upwards else "upper",
    )  # fmt: skip
    _remember(image, mark)
    for column in mark.rules:
        axes.axvline(column - 0.5, color="white", linewidth=2.5)
    shades = np.asarray(image.cmap(image.norm(shown)))
    for row, line in enumerate(mark.texts):
        for column, written in enumerate(line):
            red, green, blue, seen = shades[row, column]
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < _DARK and seen > 0
            tone = "white" if dark else "black"
            axes.text(column, row, text(written), ha="center", va="center", size=6.5, color=tone)


def _colours(mark: Cells) -> Colormap:
    """The scale of a matrix; where its middle is white, a cell without a number is grey."""
    scale = colormaps[MAPS[mark.palette]]
    return scale.with_extremes(bad=GONE) if mark.palette == "diverging" else scale


def _remember(image: AxesImage, mark: Cells | Map) -> None:
    """The mark that an image is of, for its colour bar."""
    image.babelscope_mark = mark  # pyright: ignore[reportAttributeAccessIssue]


@ink.register
def _(mark: Map, axes: Axes, panel: Panel, text: Text) -> None:
    side = len(mark.values)
    shown = block_means(mark.values, -(-side // MOST_PIXELS))
    image = axes.imshow(shown, vmin=0, vmax=1, aspect="equal", extent=(-0.5, side - 0.5, side - 0.5, -0.5))
    _remember(image, mark)
    middles = [(first + last - 1) / 2 for _, first, last in mark.groups]
    names = [text(code) for code, _, _ in mark.groups]
    axes.set_xticks(middles, names, rotation=0 if max(map(len, names)) <= 4 else 90)
    axes.set_yticks(middles, names)
    for _, edge, _ in mark.groups[1:]:
        axes.axhline(edge - 0.5, color="white", linewidth=0.4)
        axes.axvline(edge - 0.5, color="white", linewidth=0.4)


def block_means(matrix: NDArray[np.floating], size: int) -> NDArray[np.floating]:
    """Means over blocks of `size` × `size`, the last of a row or column perhaps smaller."""
    if size <= 1:
        return matrix
    starts = [*range(0, len(matrix), size)]
    sums = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    counts = np.diff([*starts, len(matrix)])
    return sums / np.outer(counts, counts)


@ink.register
def _(mark: Histogram, axes: Axes, panel: Panel, text: Text) -> None:
    widths = np.diff(np.asarray(mark.edges, dtype=float))
    axes.bar(mark.edges[:-1], mark.counts, widths, align="edge", color=colour(mark.colour), edgecolor="white",
             label=text(mark.name) or "_")  # fmt: skip


@ink.register
def _(mark: Rule, axes: Axes, panel: Panel, text: Text) -> None:
    if not isfinite(mark.at):
        return
    rule = axes.axhline(mark.at) if mark.along == "x" else axes.axvline(panel.x.at(mark.at))
    rule.set(
        color="black" if mark.colour is None else colour(mark.colour), linestyle=_DASHES[mark.dash],
        linewidth=0.8 if mark.colour is None else 2, label=text(mark.name) or "_",
    )  # fmt: skip


@ink.register
def _(mark: Strip, axes: Axes, panel: Panel, text: Text) -> None:
    axes.axhspan(mark.low, mark.high, color="grey", alpha=0.3, label=text(mark.name) or "_")


@ink.register
def _(mark: Arrow, axes: Axes, panel: Panel, text: Text) -> None:
    bend = "arc3,rad=0.12" if mark.start[0] == mark.end[0] else "arc3"
    axes.add_patch(
        FancyArrowPatch(
            mark.start, mark.end, arrowstyle="-|>", mutation_scale=7, linewidth=mark.width,
            linestyle=_DASHES[mark.dash], color=colour(mark.colour), alpha=0.65, shrinkA=7, shrinkB=8,
            connectionstyle=bend, zorder=1,
        )
    )  # fmt: skip


@ink.register
def _(mark: Boxes, axes: Axes, panel: Panel, text: Text) -> None:
    for x, y, name, place in zip(mark.x, mark.y, mark.texts, mark.colours):
        box: dict[str, object] = {"boxstyle": "round,pad=0.25", "facecolor": colour(place), "edgecolor": "black"}
        axes.text(x, y, text(name), ha="center", va="center", size=6.5, zorder=2, bbox={**box, "linewidth": 0.6})
    axes.grid(False)


@ink.register
def _(mark: Key, axes: Axes, panel: Panel, text: Text) -> None:
    tone = "black" if mark.colour is None else colour(mark.colour)
    dash = "" if mark.dot else _DASHES[mark.dash]
    axes.plot([], [], color=tone, label=text(mark.name), marker="o" if mark.dot else None, linestyle=dash)
