"""The plotly figures of the page, as plain dictionaries; colours of text and grid are set by the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

# Okabe and Ito without black, which vanishes on a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8A7F00", "#888888")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star", "pentagon", "hexagon")
DASHES = ("solid", "dash", "dashdot", "dot")
_TICKS = (0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)


def text(value: Any) -> str:
    """A label for plotly, which reads a little HTML: escaped, and shortened."""
    shown = str(value)
    return escape(shown if len(shown) <= 60 else f"{shown[:57]}…", quote=False)


def curve(frame: pd.DataFrame, name: str, index: int, x: str = "layer", y: str = "value") -> list[dict[str, Any]]:
    """A line with markers, and its interval as a band when the frame has `low` and `high`."""
    colour = COLOURS[index % len(COLOURS)]
    found: list[dict[str, Any]] = []
    at = frame[x].tolist()
    if {"low", "high"} <= set(frame.columns):
        found.append(
            {
                "type": "scatter",
                "x": at + at[::-1],
                "y": frame.high.tolist() + frame.low.tolist()[::-1],
                "fill": "toself",
                "fillcolor": colour,
                "opacity": 0.18,
                "line": {"width": 0},
                "mode": "lines",
                "hoverinfo": "skip",
                "showlegend": False,
                "legendgroup": name,
            }
        )
    line = {"color": colour, "dash": DASHES[(index // len(COLOURS)) % len(DASHES)], "width": 2}
    return [
        *found,
        {
            "type": "scatter", "mode": "lines+markers", "name": text(name), "legendgroup": name, "x": at,
            "y": frame[y].tolist(),
            "line": line, "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7, "color": colour},
        },
    ]  # fmt: skip


def bars(x: Sequence[Any], y: Any, name: str, index: int, low: Any = None, high: Any = None) -> dict[str, Any]:
    """Bars, with whiskers when bounds are given, hatched differently so that grey print tells them apart."""
    trace: dict[str, Any] = {
        "type": "bar",
        "x": [text(item) for item in x],
        "y": list(y),
        "name": text(name),
        "marker": {"color": COLOURS[index % len(COLOURS)], "pattern": {"shape": ("", "/", ".", "x", "-")[index % 5]}},
    }
    if low is not None and high is not None:
        values = np.asarray(y, dtype=float)
        above, below = np.asarray(high, dtype=float) - values, values - np.asarray(low, dtype=float)
        known = np.isfinite(above) & np.isfinite(below)
        if known.any():  # a bar without an interval gets no whisker: one of width 0 would read as perfect precision
            trace["error_y"] = {
                "type": "data",
                "symmetric": False,
                "thickness": 1.2,
                "width": 3,
                "array": [float(end) if one else None for end, one in zip(above, known)],
                "arrayminus": [float(end) if one else None for end, one in zip(below, known)],
            }
    return trace


def interval_words(frame: pd.DataFrame, low: str = "low", high: str = "high") -> str:
    """What a caption says of the whiskers: that they are 95 % intervals, of how many, or why there are none.

    >>> interval_words(pd.DataFrame({"low": [0.1], "high": [0.3]}))
    'Whiskers: 95 % intervals.'
    """
    if not {low, high} <= set(frame.columns):
        return "No intervals."
    known = int(np.count_nonzero(np.isfinite(frame[[low, high]].to_numpy(dtype=float)).all(axis=1)))
    if known == len(frame):
        return "Whiskers: 95 % intervals."
    reasons = [str(why) for why in frame["why"].dropna().unique() if str(why)] if "why" in frame else []
    if not reasons and "documents" in frame:
        fewest = int(min(frame["documents"].tolist()))
        reasons = [f"as few as {fewest} document{'s' if fewest != 1 else ''} a language: give more text"]
    why = f" ({'; '.join(reasons[:2])})" if reasons else ""
    return f"No intervals{why}." if not known else f"Whiskers: 95 % intervals, for {known} of {len(frame)}{why}."


def heatmap(matrix: pd.DataFrame, title: str, digits: int | None = None, **more: Any) -> dict[str, Any]:
    """A heatmap with the first row on top; `digits` writes the values into the cells."""
    values = matrix.to_numpy(dtype=float)
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": [text(name) for name in matrix.columns],
        "y": [text(name) for name in matrix.index],
        "z": [[None if math.isnan(value) else value for value in row] for row in values],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 14},
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
    }
    if digits is not None:
        trace["text"] = [["" if math.isnan(value) else f"{value:.{digits}f}" for value in row] for row in values]
        trace["hovertemplate"] = "%{y}, %{x}: %{text}<extra></extra>"
    return trace | more


def with_texts(trace: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """The figure of a heatmap with its `text` written into the cells, black or white by the cell's brightness.

    Plotly's own choice is a dark grey, too faint on the middle of both our colour scales.
    """
    from matplotlib import colormaps

    values = np.array([[math.nan if value is None else value for value in row] for row in trace["z"]], dtype=float)
    finite = values[np.isfinite(values)]
    low = trace.get("zmin", finite.min() if finite.size else 0.0)
    high = trace.get("zmax", finite.max() if finite.size else 1.0)
    colours = colormaps[trace["colorscale"].lower()]((values - low) / ((high - low) or 1.0))[..., :3]
    bright = _luminance(colours) > 0.18  # where black and white stand out equally
    rows, across = values.shape
    texts = {
        "type": "scatter", "mode": "text", "hoverinfo": "skip", "showlegend": False,
        "x": list(trace["x"]) * rows, "y": [name for name in trace["y"] for _ in range(across)],
        "text": [item for row in trace["text"] for item in row],
        "textfont": {"color": ["#000" if one else "#fff" for one in bright.ravel().tolist()], "size": 12},
    }  # fmt: skip
    described["xaxis"] |= {"range": [-0.5, across - 0.5]}
    described["yaxis"] |= {"range": [rows - 0.5, -0.5], "autorange": False}
    return {"data": [trace, texts], "layout": described}


def _luminance(colours: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours, as contrast is reckoned in WCAG."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def percent_heatmap(matrix: pd.DataFrame, texts: list[list[str]]) -> dict[str, Any]:
    """A heatmap of percentages over four orders of magnitude: coloured by sign · log(1 + |x| / 10), written as
    they are."""
    values = matrix.to_numpy(dtype=float)
    squeezed = np.sign(values) * np.log10(1 + np.abs(values) / 10)
    top = np.nanmax(values) if np.isfinite(values).any() else 10
    ticks = [tick for tick in _TICKS if tick <= max(top, 30)]
    bar = {
        "title": {"text": "increase of perplexity, %", "side": "right"},
        "thickness": 14,
        "tickvals": [math.log10(1 + tick / 10) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
    frame = pd.DataFrame(squeezed, index=matrix.index, columns=matrix.columns)
    return heatmap(
        frame,
        "",
        text=texts,
        colorscale="Cividis",
        colorbar=bar,
        zmin=min(0.0, float(np.nanmin(squeezed))),
        zmax=max(1.0, float(np.nanmax(squeezed))),
        hovertemplate="evaluated %{y}, without %{x}: %{text} %<extra></extra>",
    )


def diverging() -> list[list[Any]]:
    """Purple to orange through white, told apart by every common colour vision; plotly's script does not carry it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [[step / 10, to_hex(colormaps["PuOr"](step / 10))] for step in range(11)]


def layout(x: str = "", y: str = "", **more: Any) -> dict[str, Any]:
    """Axis titles and whatever else differs from the page's defaults."""
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **more}


def step_axis(steps: Any) -> dict[str, Any]:
    """A logarithmic axis of training steps, marked at the steps themselves; a step 0 keeps the axis linear."""
    found = sorted({float(step) for step in steps})
    if not found or found[0] <= 0:
        return {}
    return {"type": "log", "tickvals": found, "ticktext": [f"{step:g}" for step in found]}


def layer_layout(layers: int, y: str) -> dict[str, Any]:
    """A layout for curves by layer: whole numbers below the axis, at most a dozen."""
    described = layout("layer", y)
    described["xaxis"] |= {"tick0": 0, "dtick": max(1, -(-layers // 12))}
    return described


def categories(**more: Any) -> dict[str, Any]:
    """Axis settings for names: never read as numbers or dates."""
    return {"type": "category", **more}


def square_layout(x: str = "", y: str = "") -> dict[str, Any]:
    """The same with square cells."""
    described = matrix_layout(x, y)
    described["yaxis"] |= {"scaleanchor": "x", "constrain": "domain"}
    described["xaxis"] |= {"constrain": "domain"}
    return described


def matrix_layout(x: str = "", y: str = "", **more: Any) -> dict[str, Any]:
    """A layout for heatmaps of names against names, the first row on top."""
    return {
        "xaxis": categories(title={"text": x}, side="bottom", showgrid=False),
        "yaxis": categories(title={"text": y}, autorange="reversed", showgrid=False),
        **more,
    }


def facets(
    panels: list[tuple[str, dict[str, Any]]], per_row: int = 3
) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Traces side by side in panels, their layout, and the number of rows."""
    rows = -(-len(panels) // per_row)
    across = min(per_row, len(panels))
    traces: list[dict[str, Any]] = []
    described: dict[str, Any] = {"annotations": []}
    for index, (title, trace) in enumerate(panels):
        row, column = divmod(index, per_row)
        left, right = column / across, (column + 1) / across - 0.05
        bottom, top = 1 - (row + 1) / rows + 0.06 / rows, 1 - row / rows - 0.16 / rows
        suffix = "" if index == 0 else str(index + 1)
        traces.append(
            {**trace, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showscale": index == 0, "coloraxis": "coloraxis"}
        )
        described[f"xaxis{suffix}"] = {
            "domain": [left, right],
            "anchor": f"y{suffix}",
            "title": {"text": "head"} if row == rows - 1 else {},
            "showgrid": False,
        }
        described[f"yaxis{suffix}"] = {
            "domain": [bottom, top],
            "anchor": f"x{suffix}",
            "title": {"text": "layer"} if column == 0 else {},
            "showgrid": False,
        }
        described["annotations"].append(
            {
                "text": text(title),
                "showarrow": False,
                "xref": "paper",
                "yref": "paper",
                "x": (left + right) / 2,
                "y": top,
                "xanchor": "center",
                "yanchor": "bottom",
            }
        )
    return traces, described, rows
