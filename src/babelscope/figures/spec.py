"""A figure as data: panels of marks over labelled axes, a caption, and the table behind it.

A figure function takes a run and returns a `Figure`. The two drawers (`paper` for matplotlib, `page` for plotly) know
marks, not figures: a new figure is one function, a new look is one drawer. Labels are kept as they were found; each
drawer makes them harmless in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan, log10
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NAN = float("nan")


class Code(str):
    """A language as a label: its code here; drawers write the code, the English name or the language's own."""

    __slots__ = ()


Label = str | tuple[str, ...]
"""text, or parts that are written with spaces between; those that are `Code` are languages"""
Numbers = Sequence[float]
Dash = Literal["solid", "dashed", "dotted"]
Palette = Literal["sequential", "diverging", "percent"]
"""low to high; below and above 0; percentages over orders of magnitude, coloured by sign · log(1 + |x| / 10)"""


@dataclass(frozen=True)
class Axis:
    """What an axis measures, with its unit in the label."""

    label: str = ""
    names: tuple[Label, ...] | None = None
    """the names at 0, 1, 2, … of an axis that counts things instead of measuring them"""
    low: float = NAN
    """lower end; NaN: that of the marks"""
    high: float = NAN
    whole: bool = False
    """marked at whole numbers only"""
    percent: bool = False
    """shares, written as percentages"""
    log: bool = False
    """logarithmic; a 0 stands one step left of the least positive tick"""
    ticks: tuple[float, ...] = ()
    """where the axis is marked; of a logarithmic axis all values that its marks have"""
    tick_names: tuple[str, ...] = ()

    def at(self, value: float) -> float:
        """Where a value stands on the drawn line."""
        if not self.log or not isfinite(value):
            return value
        return log10(value) if value > 0 else self._zero()

    def _zero(self) -> float:
        positive = sorted(log10(tick) for tick in self.ticks if tick > 0)
        if not positive:
            return 0.0
        return positive[0] - max(0.3, (positive[-1] - positive[0]) / 10)

    def marked(self, apart: float = 0.07) -> list[tuple[float, str]]:
        """Place and name of the ticks, without those nearer to the one before than `apart` of the whole."""
        found: list[tuple[float, str]] = []
        named = sorted(zip(map(self.at, self.ticks), self.tick_names or [f"{tick:g}" for tick in self.ticks]))
        span = named[-1][0] - named[0][0] if named else 0.0
        for place, name in named:
            if not found or place - found[-1][0] >= apart * span:
                found.append((place, name))
        return found


@dataclass(frozen=True)
class Traced:
    """Values y at x, each perhaps with an interval along y."""

    name: Label
    x: Numbers
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    colour: int = 0
    """place in the palette; of a language: its place in the run, so that it keeps its colour on the whole page"""


@dataclass(frozen=True)
class Line(Traced):
    """A curve with its band; the band is drawn only where both ends are numbers."""

    dash: Dash = "solid"
    strong: bool = False
    """the line that the others stand beside"""
    hollow: tuple[int, ...] = ()
    """places of points that are drawn empty"""
    markers: bool = True

    def banded(self) -> list[int]:
        """Places that have an interval."""
        return _known(self.low, self.high)


@dataclass(frozen=True)
class Bars:
    """One bar a name of the x axis; a whisker only where its interval exists."""

    name: Label
    heights: Numbers
    low: Numbers = ()
    high: Numbers = ()
    colour: int = 0
    colours: tuple[int, ...] = ()
    """one colour a bar, where the bars are languages"""
    texts: tuple[str, ...] = ()
    """what the page says of each bar"""

    def whiskers(self) -> list[tuple[int, float, float]]:
        """(bar, below, above) of the bars that have an interval."""
        known = [place for place in _known(self.low, self.high) if not isnan(self.heights[place])]
        return [(i, max(0.0, self.heights[i] - self.low[i]), max(0.0, self.high[i] - self.heights[i])) for i in known]


@dataclass(frozen=True)
class Points(Traced):
    """Dots, each perhaps with an interval along y, a name beside it, and a text that the page says."""

    values: Numbers = ()
    """numbers that colour the dots by a scale instead"""
    values_label: str = ""
    texts: tuple[str, ...] = ()
    named: tuple[int, ...] = ()
    """places whose text is written beside the dot in print"""
    large: bool = False

    def whiskers(self) -> list[tuple[int, float, float]]:
        """(dot, below, above) of the dots that have an interval."""
        known = [place for place in _known(self.low, self.high) if not isnan(self.y[place])]
        return [(i, self.y[i] - self.low[i], self.high[i] - self.y[i]) for i in known]


@dataclass(frozen=True)
class Cells:
    """A matrix of colours; rows and columns are named by the axes, or are whole numbers."""

    values: NDArray[np.float64]
    label: str = ""
    """what the colours mean"""
    palette: Palette = "sequential"
    low: float = NAN
    """value of the first colour; NaN: the least value"""
    high: float = NAN
    texts: tuple[tuple[str, ...], ...] = ()
    """what is written in each cell"""
    upwards: bool = False
    """the first row stands at the bottom"""
    rules: tuple[int, ...] = ()
    """columns before which a gap is drawn"""

    def colour_values(self) -> NDArray[np.float64]:
        """The numbers that the colours stand for."""
        if self.palette != "percent":
            return self.values
        return np.sign(self.values) * np.log10(1 + np.abs(self.values) / 10)

    def ends(self) -> tuple[float, float]:
        """Numbers of the first and last colour; never the same."""
        values = self.colour_values()
        finite = values[np.isfinite(values)]
        if self.palette == "diverging":
            reach = self.high if isfinite(self.high) else float(np.abs(finite).max()) if finite.size else 0.0
            return (-(reach or 1.0), reach or 1.0)
        low = self.low if isfinite(self.low) else float(finite.min()) if finite.size else 0.0
        high = self.high if isfinite(self.high) else float(finite.max()) if finite.size else 1.0
        if self.palette == "percent":
            low, high = min(0.0, low), max(log10(2), high)
        return (low, high) if high > low else (low, low + 1.0)

    def scale_ticks(self) -> list[tuple[float, str]]:
        """Place and name of the marks beside the colours; empty: as the drawer likes."""
        if self.palette != "percent":
            return []
        low, high = self.ends()
        every = (-100, -30, -10, 0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
        placed = [(float(np.sign(tick) * np.log10(1 + abs(tick) / 10)), f"{tick:g}") for tick in every]
        return [(place, name) for place, name in placed if low <= place <= high]


@dataclass(frozen=True)
class Histogram:
    """Counts between edges."""

    name: Label
    edges: Numbers
    counts: Numbers
    colour: int = 0


@dataclass(frozen=True)
class Rule:
    """A straight line across the panel at one value: chance, zero, what was observed."""

    at: float
    name: str = ""
    along: Literal["x", "y"] = "x"
    """x: level, at a value of y; y: upright, at a value of x"""
    colour: int | None = None
    dash: Dash = "solid"


@dataclass(frozen=True)
class Strip:
    """A level band between two values of y: the range of a control."""

    low: float
    high: float
    name: str = ""


@dataclass(frozen=True)
class Arrow:
    """From one place to another, as wide as it is strong."""

    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    colour: int
    dash: Dash = "solid"


@dataclass(frozen=True)
class Boxes:
    """Short texts in boxes: the nodes of a graph."""

    x: Numbers
    y: Numbers
    texts: tuple[str, ...]
    colours: tuple[int | None, ...]


@dataclass(frozen=True)
class Key:
    """A line of the legend that stands for no mark of its own."""

    name: str
    colour: int | None
    dash: Dash = "solid"
    dot: bool = False


@dataclass(frozen=True)
class Map:
    """Every item against every item, grouped; drawn by block means in print, cell by cell on a page."""

    values: NDArray[np.float32]
    groups: tuple[tuple[str, int, int], ...]
    """language, first item, one behind the last"""
    label: str = ""


Mark = Line | Bars | Points | Cells | Histogram | Rule | Strip | Arrow | Boxes | Key | Map


@dataclass(frozen=True)
class Panel:
    """Marks over one pair of axes."""

    marks: tuple[Mark, ...]
    x: Axis = Axis()
    y: Axis = Axis()
    title: Label = ""
    bars: Literal["group", "stack"] = "group"
    """bars of several series: side by side, or on each other (those below 0 downwards)"""
    square: bool = False
    data: pd.DataFrame | None = None
    """what the reader downloads; None: the drawn numbers"""

    def span(self, which: Literal["x", "y"]) -> float:
        """From the least to the greatest number along an axis.

        >>> Panel((Line("", [0, 1, 4], [0.1, 0.2, 0.3]),)).span("x")
        4.0
        """
        values: list[float] = []
        for mark in self.marks:
            if isinstance(mark, Line | Points):
                values += [float(value) for value in (mark.x if which == "x" else mark.y) if isfinite(value)]
            elif isinstance(mark, Cells):
                values += [0.0, mark.values.shape[which == "x"] - 1.0]
        return max(values) - min(values) if values else 0.0

    def table(self) -> pd.DataFrame:
        """What the reader downloads."""
        return drawn_numbers(self) if self.data is None else self.data.reset_index(drop=True)


@dataclass(frozen=True)
class Figure:
    """One figure of a run."""

    title: str
    caption: str
    panels: tuple[Panel, ...]
    grid: bool = False
    """panels that are the same for each language, on one scale: a page shows them together, others one by one"""
    about: str = ""
    """what a printed figure says above itself: the model, and what was chosen"""
    stacked: bool = False
    """print panels below each other"""
    height: int = 380
    """pixels of a panel on a page"""
    names: tuple[str, ...] = field(default=())
    """what a page calls the panels where their titles are too long"""
    min_width: int = 0
    """pixels below which a page lets the reader scroll sideways inside the figure"""


def shows_something(panel: Panel) -> bool:
    """Whether any mark of a panel has a number to show; lines of chance and zero alone say nothing.

    >>> shows_something(Panel((Bars("", [NAN, NAN]), Rule(0.5)))), shows_something(Panel((Bars("", [NAN, 1.0]),)))
    (False, True)
    """
    return any(_has_numbers(mark) for mark in panel.marks)


def _has_numbers(mark: Mark) -> bool:
    if isinstance(mark, Line | Points):
        return bool(np.isfinite(np.asarray(mark.y, dtype=float)).any())
    if isinstance(mark, Bars):
        return bool(np.isfinite(np.asarray(mark.heights, dtype=float)).any())
    if isinstance(mark, Cells):
        return bool(np.isfinite(mark.values).any())
    return isinstance(mark, Histogram | Map | Arrow | Boxes)


def drawn_numbers(panel: Panel) -> pd.DataFrame:
    """Every number that the marks of a panel show, a row each."""
    rows: list[Mapping[str, object]] = []
    for mark in panel.marks:
        if isinstance(mark, Line | Points):
            ends = zip(*(_padded(end, len(mark.x)) for end in (mark.low, mark.high)))
            rows += [
                {"series": plain(mark.name), "x": x, "y": y, "low": low, "high": high}
                for x, y, (low, high) in zip(mark.x, mark.y, ends)
            ]
        elif isinstance(mark, Bars):
            names = panel.x.names or tuple(str(place) for place in range(len(mark.heights)))
            ends = zip(*(_padded(end, len(mark.heights)) for end in (mark.low, mark.high)))
            rows += [
                {"series": plain(mark.name), "x": plain(x), "y": y, "low": low, "high": high}
                for x, y, (low, high) in zip(names, mark.heights, ends)
            ]
        elif isinstance(mark, Cells):
            rows += [
                {"row": _named(panel.y, i), "column": _named(panel.x, j), "value": float(value)}
                for i, line in enumerate(mark.values)
                for j, value in enumerate(line)
            ]
    frame = pd.DataFrame(rows)
    return frame.dropna(axis="columns", how="all") if len(frame) else frame


def plain(label: Label) -> str:
    """A label as one line of text that can be stored: half a letter becomes a question mark."""
    text = label if isinstance(label, str) else " ".join(part for part in label if part)
    return text.encode("utf-8", "replace").decode("utf-8")


def _named(axis: Axis, place: int) -> str:
    return str(place) if axis.names is None else plain(axis.names[place])


def _padded(ends: Numbers, count: int) -> Numbers:
    return ends if len(ends) else [NAN] * count


def _known(low: Numbers, high: Numbers) -> list[int]:
    return [place for place, (one, other) in enumerate(zip(low, high)) if isfinite(one) and isfinite(other)]
