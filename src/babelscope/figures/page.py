"""Figures for pages: a specification goes in, plotly figures as plain dictionaries come out.

Colours of text and grid are set by the page's theme; every label is escaped, since plotly reads a little HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from babelscope.figures.palette import COLOURS, GONE, MAPS, PATTERNS, SYMBOLS, bright, colour, luminance
from babelscope.figures.spec import (
    Arrow,
    Axis,
    Bars,
    Boxes,
    Cells,
    Code,
    Dash,
    Figure,
    Histogram,
    Key,
    Label,
    Line,
    Map,
    Mark,
    Numbers,
    Panel,
    Points,
    Rule,
    Strip,
    plain,
    shows_something,
)
from babelscope.languages import english_name
from babelscope.wording import visible

Plot = dict[str, Any]
"""what plotly's script is given: `data` and `layout`, or a part of them"""
_DASHES: dict[Dash, str] = {"solid": "solid", "dashed": "dash", "dotted": "dot"}
_QUIET = "#808080"
_UNTITLED: Plot = {"title": {"text": ""}}
MOST_LETTERS = 60
PER_ROW = 3
"""panels side by side"""


@dataclass(frozen=True)
class PlotView:
    """One plot of a page, the name it has in the list of choices, and the numbers behind it."""

    name: str
    plot: Plot
    table: pd.DataFrame
    empty: bool = False
    """no panel of it has a number to show"""


def plots(figure: Figure) -> list[PlotView]:
    """The plots of a figure: all panels in one where they form a grid, one for each of unlike panels."""
    if figure.grid and len(figure.panels) > 1:
        empty = not any(map(shows_something, figure.panels))
        return [PlotView("", grid_plot(figure), figure.panels[0].table(), empty)]
    named = figure.names or tuple(plain(panel.title) for panel in figure.panels)
    return [
        PlotView(name, panel_plot(panel), panel.table(), not shows_something(panel))
        for name, panel in zip(named, figure.panels)
    ]


def text(label: Label) -> str:
    """A label for plotly: languages by their names, what acts written out, HTML escaped, shortened."""
    parts = [label] if isinstance(label, str) else [part for part in label if part]
    return " ".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if isinstance(part, Code):
        part = english_name(part)
    lines = [visible(line) for line in part.split("\n")]
    short = [line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 3]}…" for line in lines]
    # a percent sign before a brace would be read as a place for a number
    return "<br>".join(escape(line, quote=False).replace("%{", "% {") for line in short)


def panel_plot(panel: Panel) -> Plot:
    """One panel as a plot of its own."""
    layout: Plot = {
        "xaxis": axis_layout(panel.x, panel, "x"),
        "yaxis": axis_layout(panel.y, panel, "y"),
        "shapes": [],
        "annotations": [],
    }
    data: list[Plot] = []
    for mark in panel.marks:
        data += traces(mark, panel, layout)
    if any(isinstance(mark, Bars) for mark in panel.marks):
        layout["barmode"] = "relative" if panel.bars == "stack" else "group"
    if any(isinstance(mark, Histogram) for mark in panel.marks):
        layout["bargap"] = 0.03
    for trace in data:
        if trace["type"] in {"bar", "scatter"} and not trace.get("name"):
            trace["showlegend"] = False  # an entry without words
    told = sum(bool(trace.get("name")) and trace.get("showlegend", True) for trace in data)
    explained = any(isinstance(mark, Rule | Strip) and mark.name for mark in panel.marks)
    layout["showlegend"] = told > (0 if explained else 1)
    return {"data": data, "layout": {key: value for key, value in layout.items() if value != []}}


def axis_layout(axis: Axis, panel: Panel, which: Literal["x", "y"]) -> Plot:
    """Title, ticks and ends of an axis."""
    told: Plot = {"title": {"text": text(axis.label)}}
    cells = any(isinstance(mark, Cells) for mark in panel.marks)
    upwards = any(isinstance(mark, Cells) and mark.upwards for mark in panel.marks)
    if axis.names is not None:
        names = [text(name) for name in axis.names]
        told |= {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.5, len(names) - 0.5]}
    elif axis.ticks and (axis.log or axis.tick_names):
        marked = axis.marked()
        told |= {"tickvals": [place for place, _ in marked], "ticktext": [text(name) for _, name in marked]}
    elif axis.whole:
        # with more ticks than whole numbers some stand between them, and two are called alike
        told |= {"tickformat": "d", "nticks": min(10, int(panel.span(which)) + 1)}
    if axis.percent:
        told["tickformat"] = ".1~%"
    if axis.low == axis.low and axis.high == axis.high:
        told["range"] = [axis.low, axis.high]
    elif axis.low == axis.low or axis.high == axis.high:
        told["autorangeoptions"] = {
            name: end for name, end in (("minallowed", axis.low), ("maxallowed", axis.high)) if end == end
        }
    if cells:
        told |= {"showgrid": False, "zeroline": False}  # they would show in a cell without a value
        if which == "y" and not upwards:
            told["range"] = [*reversed(told["range"])] if "range" in told else None
            told = {key: value for key, value in told.items() if value is not None}
            told |= {} if "range" in told else {"autorange": "reversed"}
    if panel.square:
        told["constrain"] = "domain"
        if which == "y":
            told["scaleanchor"] = "x"
    return told


def grid_plot(figure: Figure, per_row: int = PER_ROW) -> Plot:
    """Panels side by side on one scale of colours, with the titles above them."""
    panels = figure.panels
    rows, across = -(-len(panels) // per_row), min(per_row, len(panels))
    data: list[Plot] = []
    layout: Plot = {"annotations": [], "shapes": []}
    for place, panel in enumerate(panels):
        row, column = divmod(place, per_row)
        left, right = column / across, (column + 1) / across - 0.05
        bottom, top = 1 - (row + 1) / rows + 0.06 / rows, 1 - row / rows - 0.16 / rows
        suffix = "" if place == 0 else str(place + 1)
        for mark in panel.marks:
            for trace in traces(mark, panel, {"shapes": [], "annotations": []}):
                own = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
                if trace["type"] == "heatmap" and "colorbar" in trace:
                    own |= {"showscale": place == 0}
                data.append(trace | own)
        below, beside = axis_layout(panel.x, panel, "x"), axis_layout(panel.y, panel, "y")
        below |= {"domain": [left, right], "anchor": f"y{suffix}"} | ({} if row == rows - 1 else _UNTITLED)
        beside |= {"domain": [bottom, top], "anchor": f"x{suffix}"} | ({} if column == 0 else _UNTITLED)
        if column and panel.y.names == panels[0].y.names and panel.y.names is not None:
            beside |= {"showticklabels": False}  # they would stand on the cells of the panel before
        layout |= {f"xaxis{suffix}": below, f"yaxis{suffix}": beside}
        layout["annotations"].append({
            "text": text(panel.title), "showarrow": False, "xref": "paper", "yref": "paper",
            "x": (left + right) / 2, "y": top, "xanchor": "center", "yanchor": "bottom",
        })  # fmt: skip
    return {"data": data, "layout": {**layout, "showlegend": False}}


@singledispatch
def traces(mark: Mark, panel: Panel, layout: Plot) -> list[Plot]:
    """The traces of one mark; what plotly keeps in the layout instead is put there."""
    raise TypeError(f"no trace for {type(mark).__name__}")


def _nothing(values: Numbers) -> list[float | None]:
    """Numbers as JSON can hold them: None for what is not there."""
    return [None if math.isnan(value) else float(value) for value in values]


def _places(axis: Axis, values: Numbers) -> list[float | None]:
    return _nothing([axis.at(value) for value in values])


def _said(axis: Axis, values: Numbers) -> Plot:
    """What the pointer reads on a logarithmic axis, whose places are not its values."""
    if not axis.log:
        return {}
    named = dict(zip(axis.ticks, axis.tick_names))
    return {"text": [named.get(value, f"{value:g}") for value in values], "hovertemplate": "%{text}: %{y}"}


def _error(whiskers: Sequence[tuple[int, float, float]], count: int) -> Plot:
    """Error bars of those that have an interval: one of width 0 would read as perfect precision."""
    if not whiskers:
        return {}
    above: list[float | None] = [None] * count
    below: list[float | None] = [None] * count
    for place, down, up in whiskers:
        below[place], above[place] = float(down), float(up)
    told = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "array": above, "arrayminus": below}
    return {"error_y": told}


@traces.register
def _(mark: Line, panel: Panel, layout: Plot) -> list[Plot]:
    tone, name, at = colour(mark.colour), text(mark.name), _places(panel.x, mark.x)
    found: list[Plot] = []
    if known := mark.banded():
        edge = [at[place] for place in known]
        found.append({
            "type": "scatter", "x": edge + edge[::-1],
            "y": [float(mark.high[p]) for p in known] + [float(mark.low[p]) for p in reversed(known)],
            "fill": "toself", "fillcolor": tone, "opacity": 0.18, "line": {"width": 0}, "mode": "lines",
            "hoverinfo": "skip", "showlegend": False, "legendgroup": name,
        })  # fmt: skip
    dash = _DASHES[mark.dash]
    if mark.dash == "solid":
        dash = ("solid", "dash", "dashdot", "dot")[(mark.colour // len(COLOURS)) % 4]
    open_ones = ["circle-open" if place in mark.hollow else "" for place in range(len(mark.x))]
    symbol = SYMBOLS[mark.colour % len(SYMBOLS)]
    found.append({
        "type": "scatter", "mode": "lines+markers" if mark.markers else "lines", "name": name, "legendgroup": name,
        "x": at, "y": _nothing(mark.y), "line": {"color": tone, "dash": dash, "width": 4 if mark.strong else 2},
        "marker": {
            "symbol": [one or symbol for one in open_ones] if mark.hollow else symbol,
            "size": [14 if one else 7 for one in open_ones] if mark.hollow else 7, "color": tone,
        },
        **_said(panel.x, mark.x),
    })  # fmt: skip
    return found


@traces.register
def _(mark: Bars, panel: Panel, layout: Plot) -> list[Plot]:
    order = [one for one in panel.marks if isinstance(one, Bars)].index(mark)
    tones: object = [colour(place) for place in mark.colours] if mark.colours else colour(mark.colour)
    pattern, count = "" if mark.colours else PATTERNS[order % len(PATTERNS)], len(mark.heights)
    # alone, the colours are those of the places, which have names
    alone = bool(mark.colours) and not any(isinstance(one, Bars) and one is not mark for one in panel.marks)
    trace: Plot = {
        "type": "bar", "x": list(range(count)), "y": _nothing(mark.heights), "name": text(mark.name),
        "marker": {"color": tones, "pattern": {"shape": pattern}}, "showlegend": not alone,
        **_error(mark.whiskers(), count),
    }  # fmt: skip
    if mark.texts:
        trace |= {"hovertext": [text(one) for one in mark.texts]}
    return [trace]


@traces.register
def _(mark: Points, panel: Panel, layout: Plot) -> list[Plot]:
    tone: Plot = {"color": colour(mark.colour), "symbol": SYMBOLS[mark.colour % len(SYMBOLS)]}
    if len(mark.values):
        scale = {"title": {"text": text(mark.values_label)}, "thickness": 14}
        tone = {"color": [float(value) for value in mark.values], "colorscale": "Viridis", "colorbar": scale}
        tone |= {"line": {"width": 0.5, "color": "#444"}}
    trace: Plot = {
        "type": "scatter", "mode": "markers", "name": text(mark.name), "x": _places(panel.x, mark.x),
        "y": _nothing(mark.y), "marker": {"size": 13 if mark.large else 9, **tone},
        **_error(mark.whiskers(), len(mark.x)),
    }  # fmt: skip
    if mark.texts:
        trace |= {"text": [text(one) for one in mark.texts], "hovertemplate": "%{text}: %{x}, %{y}<extra></extra>"}
    return [trace]


@traces.register
def _(mark: Cells, panel: Panel, layout: Plot) -> list[Plot]:
    (low, high), values = mark.ends(), mark.colour_values()
    rows, across = values.shape
    bar: Plot = {"title": {"text": text(mark.label), "side": "right"}, "thickness": 14, "exponentformat": "power"}
    if ticks := mark.scale_ticks():
        bar |= {"tickvals": [place for place, _ in ticks], "ticktext": [name for _, name in ticks]}
    kept = [[text(cell).replace("<br>", " ") for cell in line] for line in mark.texts]
    said = kept or [[f"{value:.4g}" if math.isfinite(value) else "–" for value in line] for line in mark.values]
    named = [axis.label or default for axis, default in ((panel.y, ""), (panel.x, ""))]
    trace: Plot = {
        "type": "heatmap", "x": list(range(across)), "y": list(range(rows)),
        "z": [_nothing(line) for line in values.tolist()], "text": said, "hoverongaps": False,
        "customdata": [[[_tick(panel.y, i), _tick(panel.x, j)] for j in range(across)] for i in range(rows)],
        "hovertemplate": f"{text(named[0])} %{{customdata[0]}}, {text(named[1])} %{{customdata[1]}}: "
                         f"%{{text}}<extra></extra>",
        "colorscale": _scale(mark.palette), "zmin": low, "zmax": high, "colorbar": bar, "xgap": 1, "ygap": 1,
    }  # fmt: skip
    found = [trace]
    if mark.palette == "diverging" and np.isnan(values).any():  # the middle of the scale is white, as the page is
        same = {name: trace[name] for name in ("type", "x", "y", "xgap", "ygap")}
        gone = [[0 if math.isnan(value) else None for value in line] for line in values.tolist()]
        found.append(same | {"z": gone, "colorscale": [[0, GONE], [1, GONE]], "showscale": False, "hoverinfo": "skip"})
    if not mark.texts:
        return found
    bright = luminance(colormaps[MAPS[mark.palette]]((values - low) / (high - low))[..., :3]) > 0.18
    return [*found, {
        "type": "scatter", "mode": "text", "hoverinfo": "skip", "showlegend": False,
        "x": list(range(across)) * rows, "y": [row for row in range(rows) for _ in range(across)],
        "text": [text(cell) for line in mark.texts for cell in line],
        "textfont": {"color": [_QUIET if gone else "#000" if one else "#fff" for one, gone in
                               zip(bright.ravel().tolist(), np.isnan(values).ravel().tolist())], "size": 12},
    }]  # fmt: skip


def _tick(axis: Axis, place: int) -> str:
    return str(place) if axis.names is None else text(axis.names[place])


def _scale(palette: str) -> object:
    # told apart by every common colour vision; plotly's script does not carry PuOr
    diverging = [[step / 10, to_hex(colormaps[MAPS["diverging"]](step / 10))] for step in range(11)]
    return {"sequential": "Viridis", "percent": "Cividis"}.get(palette, diverging)


@traces.register
def _(mark: Histogram, panel: Panel, layout: Plot) -> list[Plot]:
    edges = np.asarray(mark.edges, dtype=float)
    return [{
        "type": "bar", "x": ((edges[1:] + edges[:-1]) / 2).tolist(), "y": _nothing(mark.counts),
        "width": np.diff(edges).tolist(), "name": text(mark.name), "marker": {"color": colour(mark.colour)},
    }]  # fmt: skip


@traces.register
def _(mark: Rule, panel: Panel, layout: Plot) -> list[Plot]:
    if not math.isfinite(mark.at):
        return []
    level = mark.along == "x"
    tone = _QUIET if mark.colour is None else colour(mark.colour)
    at = mark.at if level else panel.x.at(mark.at)
    line = {"color": tone, "dash": _DASHES[mark.dash], "width": 1.2 if mark.colour is None else 3}
    whole, own = ("x", "y") if level else ("y", "x")
    layout["shapes"].append({
        "type": "line", f"{whole}0": 0, f"{whole}1": 1, f"{whole}ref": "paper", f"{own}0": at, f"{own}1": at,
        "line": line,
    })  # fmt: skip
    return _explained(mark.name, line)


def _explained(name: Label, line: Plot) -> list[Plot]:
    """An entry of the legend for what is no trace: words beside the line itself would lie on bars and points."""
    if not name:
        return []
    return [{"type": "scatter", "mode": "lines", "x": [None], "y": [None], "name": text(name), "line": line}]


@traces.register
def _(mark: Strip, panel: Panel, layout: Plot) -> list[Plot]:
    layout["shapes"].append({
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": mark.low, "y1": mark.high, "fillcolor": _QUIET,
        "opacity": 0.25, "line": {"width": 0},
    })  # fmt: skip
    return _explained(mark.name, {"color": "rgba(128, 128, 128, 0.5)", "width": 9})


@traces.register
def _(mark: Arrow, panel: Panel, layout: Plot) -> list[Plot]:
    layout["annotations"].append({
        "x": mark.end[0], "y": mark.end[1], "ax": mark.start[0], "ay": mark.start[1], "xref": "x", "yref": "y",
        "axref": "x", "ayref": "y", "showarrow": True, "arrowhead": 2, "arrowwidth": mark.width, "opacity": 0.65,
        "arrowcolor": colour(mark.colour), "standoff": 8, "startstandoff": 7, "text": "",
    })  # fmt: skip
    return []


@traces.register
def _(mark: Boxes, panel: Panel, layout: Plot) -> list[Plot]:
    for x, y, name, place in zip(mark.x, mark.y, mark.texts, mark.colours):
        layout["annotations"].append({
            "x": x, "y": y, "text": text(name), "showarrow": False, "bgcolor": colour(place), "bordercolor": "#000",
            "borderwidth": 0.6, "borderpad": 2, "font": {"size": 10, "color": "#000" if bright(place) else "#fff"},
        })  # fmt: skip
    return [{"type": "scatter", "mode": "markers", "x": list(mark.x), "y": list(mark.y), "opacity": 0,
             "showlegend": False, "text": [text(name) for name in mark.texts], "hoverinfo": "text"}]  # fmt: skip


@traces.register
def _(mark: Key, panel: Panel, layout: Plot) -> list[Plot]:
    tone = _QUIET if mark.colour is None else colour(mark.colour)
    return [{
        "type": "scatter", "mode": "markers" if mark.dot else "lines", "x": [None], "y": [None],
        "name": text(mark.name), "line": {"color": tone, "dash": _DASHES[mark.dash]}, "marker": {"color": tone},
    }]  # fmt: skip


@traces.register
def _(mark: Map, panel: Panel, layout: Plot) -> list[Plot]:
    raise TypeError("a map of items has a drawer of its own on pages")
