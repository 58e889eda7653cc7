"""Figures of deactivation: how perplexity rises in each language when each region is switched off."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportMissingParameterType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from babelscope.plots.frames import CONTROLS, PerplexityGrid, perplexity_grid, published_grid
from babelscope.plots.published import SOURCE, published, published_for
from babelscope.plots.style import COLOURS, Labels, canvas, figure, grid_of_cells, label, name_ticks, write_cells
from babelscope.results import Run

TICKS = (-100, -30, -10, 0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
TITLES = {"random": "random", "random-layer": "random\nby layer"}


@figure("regions", "table:perplexity")
def perplexity_heatmap(run: Run, labels: Labels = "code", beside: str | None = None) -> Figure:
    """Increase of perplexity in percent under deactivation (Tables 1 and 4), with random controls.

    The published table stands beside it when the run's model is one of the paper's, or when `beside` names one.
    """
    grid = perplexity_grid(run)
    facts = published(beside) if beside else published_for(run.model_name)
    other = published_grid(facts, list(grid.base)) if facts else None
    shown = [grid, *([other] if other is not None and len(other.increase) else [])]
    widths = [1.2 + 0.52 * len(it.increase.columns) for it in shown]
    drawing = canvas(sum(widths) + 0.9, 1.3 + 0.3 * len(grid.base))
    places = drawing.subplots(1, len(shown), squeeze=False, width_ratios=widths)[0]
    top = max(float(np.nanmax(it.increase.to_numpy())) for it in shown)
    low, high = min(0.0, float(np.nanmin(grid.increase.to_numpy()))), max(top, 10.0)
    norm = SymLogNorm(linthresh=10, vmin=low, vmax=high)
    titles = [run.model_name, f"{facts.name}, {facts.table} of {SOURCE}" if facts else ""]
    for axes, it, title in zip(places, shown, titles):
        image = _grid(axes, it, norm, labels)
        axes.set_title(title, size=9)
    bar = drawing.colorbar(image, ax=list(places), label="increase of perplexity, %", shrink=0.9)
    bar.set_ticks([tick for tick in TICKS if low <= tick <= high])
    bar.ax.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    bar.minorticks_off()
    return drawing


def _grid(axes: Axes, grid: PerplexityGrid, norm: SymLogNorm, labels: Labels):  # pyright: ignore[reportUnknownParameterType]
    values = grid.increase.to_numpy(dtype=float)
    image = axes.imshow(np.ma.masked_invalid(values), norm=norm, aspect="auto", cmap="cividis")
    rows = [f"{label(code, labels)}  ({base:.3g})" for code, base in grid.base.items()]
    columns = [TITLES.get(name) or label(name, labels) for name in grid.increase.columns]
    grid_of_cells(axes, rows, columns)
    axes.tick_params(axis="x", labelsize=8)
    write_cells(axes, image, [[cell(value, 0) for value in row] for row in values], size=7)
    controls = sum(name in CONTROLS for name in grid.increase.columns)
    axes.axvline(controls - 0.5, color="white", linewidth=2.5)
    axes.set_xlabel("deactivated")
    axes.set_ylabel("evaluated (base perplexity)")
    return image


def cell(value: float, digits: int = 0) -> str:
    """A percentage as short as it is still readable.

    >>> cell(4.2), cell(0.31), cell(27093.0)
    ('4.2', '0.3', '27k')
    """
    if np.isnan(value):
        return "–"
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.{digits}f}" if abs(value) >= 10 else f"{value:.1f}"


@figure("regions", "table:selectivity")
def selectivity(run: Run, labels: Labels = "code") -> Figure:
    """Selectivity of each region: its own language's ΔNLL minus the mean of the others', with interval."""
    table = run.table("selectivity")
    drawing = canvas(1.6 + 0.5 * len(table), 2.7)
    axes = drawing.subplots()
    at = np.arange(len(table))
    axes.bar(at, table.selectivity, color=COLOURS[0])
    if {"low", "high"} <= set(table.columns):
        whiskers = np.clip([table.selectivity - table.low, table.high - table.selectivity], 0, None)
        axes.errorbar(at, table.selectivity, yerr=whiskers, fmt="none", color="black", capsize=2, linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)
    name_ticks(axes, [label(code, labels) for code in table.language])
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="own ΔNLL − mean of others", title=f"Selectivity of the regions, {run.model_name}")
    return drawing
