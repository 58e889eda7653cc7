"""The parts of the page: sections hold charts and tables, each with a caption, data to download and a static twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from babelscope.errors import BabelscopeError
from babelscope.figures.page import PER_ROW
from babelscope.report.embed import columns
from babelscope.results import Run
from babelscope.wording import first_line

LEAST_PANEL = 210
"""pixels below which one of several panels side by side cannot be read"""


def _width(text: str) -> int:
    """Letters of the longest line."""
    return max(map(len, text.split("<br>")))


@dataclass
class Variant:
    """One view of a chart, chosen from a list when there are several."""

    label: str
    figure: dict[str, Any]
    frame: pd.DataFrame


@dataclass
class Chart:
    """A chart: drawn by the page's script from `variants` (plotly) or from `spec` (our own kinds)."""

    name: str
    title: str
    caption: str
    kind: str = "plot"
    variants: list[Variant] = field(default_factory=list[Variant])
    choose: str = "Show"
    spec: dict[str, object] = field(default_factory=dict[str, object])
    frame: pd.DataFrame | None = None
    twin: str | None = None
    height: int = 380
    least_width: int = 0

    @property
    def min_width(self) -> int:
        """Pixels below which the numbers in its cells would be printed over each other; 0 where there are none."""
        traces = [trace for view in self.variants for trace in view.figure.get("data", ())]
        written = [trace for trace in traces if trace.get("mode") == "text"]
        needed = [len(set(trace["x"])) * max(38, 8 * max(map(_width, trace["text"]), default=0)) for trace in written]
        beside = max((len({axes.get("xaxis") for axes in view.figure.get("data", ())}) for view in self.variants),
                     default=1)  # fmt: skip
        across = min(beside, PER_ROW)
        if across > 1:
            return 90 + across * max([LEAST_PANEL, *needed])
        return max(self.least_width, 150 + max(needed) if needed else 0)

    def data(self) -> dict[str, object]:
        """What the script gets."""
        views = [{"label": v.label, "figure": v.figure, "table": columns(v.frame)} for v in self.variants]
        table = columns(self.frame) if self.frame is not None else None
        return {"kind": self.kind, "name": self.name, "variants": views, "spec": self.spec, "table": table}


@dataclass
class Table:
    """A table written into the page itself; cells of `text_columns` are sentences in the language of their row."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    text_columns: tuple[str, ...] = ()
    language_column: str = "language"
    most: int = 10
    """rows written into the page; the download has all"""
    kind: str = "table"

    def data(self) -> dict[str, object]:
        """What the download button gets."""
        return {"kind": "table", "name": self.name, "table": columns(self.frame)}


@dataclass
class Example:
    """One prompt: its language, its tokens, each with the role that it stands in (or none), its answer and its foil."""

    language: str
    tokens: list[tuple[str, str]]
    answer: str
    foil: str


@dataclass
class Prompts:
    """Example prompts, written into the page, their tokens marked by role."""

    name: str
    title: str
    caption: str
    examples: list[Example]
    frame: pd.DataFrame
    kind: str = "prompts"

    def data(self) -> dict[str, object]:
        """What the download button gets."""
        return {"kind": "table", "name": self.name, "table": columns(self.frame)}


@dataclass
class Problem:
    """A part that could not be made, said in its place."""

    title: str
    message: str
    kind: str = "problem"


@dataclass
class Nothing:
    """A figure whose every number is missing, said in its place instead of an empty frame."""

    title: str
    message: str
    kind: str = "nothing"


Block = Chart | Table | Prompts | Problem | Nothing


@dataclass
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: list[Block]


def gather(run: Run, *makers: tuple[str, Callable[[Run], Block | None]]) -> list[Block]:
    """The blocks that a run gives; an unexpected table disables only its own chart."""
    found: list[Block] = []
    for title, make in makers:
        try:
            block = make(run)
        except (KeyError, ValueError, AttributeError, TypeError, IndexError, BabelscopeError) as error:
            found.append(Problem(title, f"{type(error).__name__}: {first_line(error)}"[:300]))
        else:
            found += [block] if block is not None else []
    return found
