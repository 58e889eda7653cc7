"""Figures for papers: a specification goes in, a matplotlib figure comes out.

No pyplot and no global state: a figure is an object, drawn inside the style's context, so that drawing changes nothing
for whoever imported us.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from babelscope.errors import InputError
from babelscope.figures import spec
from babelscope.figures.fonts import drawn, families
from babelscope.figures.ink import cells_drawn, ink
from babelscope.figures.names import known_language
from babelscope.figures.register import specify
from babelscope.figures.spec import Axis, Figure, Label, Panel
from babelscope.results import Run
from babelscope.results.whole import whole_file

Labels = Literal["code", "name", "own"]
_NOTEBOOK_DPI = 90
_STYLE: dict[str, object] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.6, "lines.markersize": 4,
    "image.cmap": "viridis", "image.interpolation": "nearest", "savefig.facecolor": "white", "figure.dpi": 100,
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "babelscope",
}  # fmt: skip


def styled() -> AbstractContextManager[None]:
    """The look of every printed figure, for as long as the context lasts."""
    return matplotlib.rc_context({**_STYLE, "font.family": list(families())})  # pyright: ignore[reportArgumentType]


def draw(run: Run, name: str, labels: Labels = "code", **options: str) -> Canvas:
    """Draws a figure of a run by its name; languages are written as codes, English names or own names.

    Raises InputError for an unknown name, RunError when the run lacks the data.
    """
    return printed(specify(run, name, **options), labels)


def printed(figure: Figure, labels: Labels = "code") -> Canvas:
    """A specification as a matplotlib figure."""
    with styled():
        return _Printer(labels).figure(figure)


def save_figure(drawing: Canvas, path: str | os.PathLike[str], dpi: int = 300) -> Path:
    """Saves as PDF, PNG or SVG by the ending of `path`, with no date inside: same run, same bytes."""
    target = Path(path)
    ending = target.suffix.lower()
    dates: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}
    if ending not in dates:
        raise InputError(f"{target.name}: a figure is saved as .pdf, .png or .svg")
    with whole_file(target) as partial, styled():
        drawing.savefig(partial, dpi=dpi, metadata=dates[ending], format=ending[1:])
    return target


class Picture(Canvas):
    """A figure that shows itself in a notebook, with or without pyplot."""

    def _repr_html_(self) -> str:
        from babelscope.notebook import image

        raster = BytesIO()
        with styled():
            self.savefig(raster, format="png", dpi=2 * _NOTEBOOK_DPI)
        titles = [self.get_suptitle(), *(axes.get_title() for axes in self.axes)]
        told = next((title for title in titles if title), "figure").replace("\n", ", ")
        return image(raster.getvalue(), told, round(self.get_figwidth() * _NOTEBOOK_DPI))


class _Printer:
    """Draws figures with languages written in one way."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def text(self, label: Label) -> str:
        """A label that can be drawn: no control characters, no mathematics, stand-ins for letters without a font."""
        parts = [label] if isinstance(label, str) else [part for part in label if part]
        return "\n".join(self._part(part) for part in parts)

    def _part(self, part: str) -> str:
        if isinstance(part, spec.Code) and self.labels != "code" and (found := known_language(part)) is not None:
            if self.labels == "name":
                return drawn(found.name)
            import langcodes

            return drawn(langcodes.Language.get(found.code).autonym(), otherwise=found.name)
        return "\n".join(drawn(line) for line in part.split("\n"))

    def figure(self, figure: Figure) -> Canvas:
        panels = figure.panels
        across = 1 if figure.stacked else min(4, len(panels))
        down = -(-len(panels) // across)
        sizes = [_size(panel, self) for panel in panels]
        rows = [sizes[row * across : (row + 1) * across] for row in range(down)]
        widths = [max(row[place][0] for row in rows if place < len(row)) for place in range(across)]
        canvas = Picture(
            figsize=(sum(widths) + 0.4, sum(max(height for _, height in row) for row in rows) + 0.4),
            layout="constrained",
        )
        places = canvas.subplots(
            down, across, squeeze=False, width_ratios=widths, height_ratios=[max(h for _, h in row) for row in rows],
            sharey=figure.grid, sharex=figure.stacked,
        ).ravel()  # fmt: skip
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        for place, (axes, panel) in enumerate(zip(places, panels)):
            self.panel(axes, panel, last=place == len(panels) - 1, outer=place % across == 0 or not figure.grid)
        title = _wrapped(", ".join(self.text(part) for part in (figure.title, figure.about) if part), 13 * sum(widths))
        if any(panel.title for panel in panels) or len(panels) > 1:
            canvas.suptitle(title, size=10)
        else:
            places[0].set_title(title, size=9)
        self._shared_scale(canvas, figure, list(places[: len(panels)]))
        return canvas

    def _shared_scale(self, canvas: Canvas, figure: Figure, places: list[Axes]) -> None:
        """One colour bar for panels on one scale, one each for others."""
        groups = [places] if figure.grid else [[axes] for axes in places]
        for group in groups:
            image = next((image for axes in group for image in axes.images), None)
            mark = getattr(image, "babelscope_mark", None)
            if image is None or not isinstance(mark, spec.Cells | spec.Map):
                continue
            bar = canvas.colorbar(image, ax=group, shrink=0.85, label=_wrapped(self.text(mark.label), 32))
            ticks = mark.scale_ticks() if isinstance(mark, spec.Cells) else []
            if ticks:
                bar.set_ticks([place for place, _ in ticks], labels=[name for _, name in ticks])

    def panel(self, axes: Axes, panel: Panel, last: bool, outer: bool) -> None:
        """One panel: its marks, then its axes, then its legend."""
        for mark in panel.marks:
            ink(mark, axes, panel, self.text)
        self._axis(axes, panel.x, "x", panel)
        self._axis(axes, panel.y, "y", panel)
        axes.set_xlabel(self.text(panel.x.label))
        if outer:
            axes.set_ylabel(self.text(panel.y.label))
        if panel.title:
            axes.set_title(self.text(panel.title), size=9)
        handles, names = axes.get_legend_handles_labels()
        if len(names) > 1 or (names and any(isinstance(mark, spec.Rule | spec.Strip) for mark in panel.marks)):
            if len(names) > 4:
                axes.legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5))
            else:
                axes.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=min(2, len(names)))

    def _axis(self, axes: Axes, axis: Axis, which: Literal["x", "y"], panel: Panel) -> None:
        line = axes.xaxis if which == "x" else axes.yaxis
        set_ends = axes.set_xlim if which == "x" else axes.set_ylim
        if axis.names is not None:
            names = [self.text(name) for name in axis.names]
            line.set_ticks(range(len(names)), labels=names)
            line.grid(False)
            if which == "x" and max((len(part) for name in names for part in name.split("\n")), default=0) > 5:
                for text in axes.get_xticklabels():
                    text.set(rotation=45, horizontalalignment="right", rotation_mode="anchor")
        elif axis.ticks and (axis.log or axis.tick_names):
            marked = axis.marked()
            line.set_ticks([place for place, _ in marked], labels=[self.text(name) for _, name in marked])
            if which == "x":
                axes.tick_params(axis="x", rotation=40, labelsize=7)
        elif axis.whole:
            line.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
        if axis.percent:
            line.set_major_formatter(PercentFormatter(1.0, decimals=None))
        if axis.low == axis.low or axis.high == axis.high:
            set_ends(axis.low if axis.low == axis.low else None, axis.high if axis.high == axis.high else None)
        if cells_drawn(panel):
            axes.grid(False)
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)


def _wrapped(title: str, letters: float) -> str:
    """A title broken into lines of at most so many letters."""
    return "\n".join(part for line in title.split("\n") for part in wrap(line, max(20, int(letters))) or [""])


def _size(panel: Panel, printer: _Printer) -> tuple[float, float]:
    """Width and height of a panel in inches, by what stands in it."""
    first = panel.marks[0] if panel.marks else None
    if isinstance(first, spec.Map):
        return 5.2, 4.4
    if isinstance(first, spec.Cells):
        rows, columns = first.values.shape
        letters = max((len(line) for row in first.texts for cell in row for line in cell.split("\n")), default=0)
        wide, high = (0.18 + 0.065 * letters, 0.32 + 0.12 * _most_lines(first)) if letters else (0.15, 0.15)
        width, height = max(1.7, wide * columns) + 1.1, max(1.4, high * rows) + 0.9
        return (max(width, height), max(width, height) - 0.4) if panel.square else (width, height)
    if any(isinstance(mark, spec.Boxes) for mark in panel.marks):
        return 4.2, 4.6
    bars = [mark for mark in panel.marks if isinstance(mark, spec.Bars)]
    if bars and panel.x.names is not None:
        longest = max((len(printer.text(name)) for name in panel.x.names), default=0)
        each = 0.18 + 0.16 * (len(bars) if panel.bars == "group" else 2)
        return 2.2 + max(0.3, each) * len(panel.x.names), 2.9 + min(1.5, 0.05 * longest)
    series = sum(bool(getattr(mark, "name", "")) for mark in panel.marks)
    return 4.2 + (1.2 if series > 4 else 0), 3.2


def _most_lines(cells: spec.Cells) -> int:
    return max((cell.count("\n") for row in cells.texts for cell in row), default=0)
