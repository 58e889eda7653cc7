"""Figures of a sweep: how alignment and regions grow with training and with size (Fig. 4–7 and 10)."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportMissingParameterType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from babelscope.errors import InputError
from babelscope.plots import frames
from babelscope.plots.style import COLOURS, Labels, canvas, figure, label, line_style, thin_ticks
from babelscope.results import Run


@figure("sweep", "table:points")
def training_curves(run: Run) -> Figure:
    """SKLR and LRDS by training step (left), SADS and accuracy (right): Fig. 4. Hollow: weights of another point."""
    table = _some(frames.checkpoints(run), "checkpoints")
    drawing = canvas(8.0, 2.9)
    left, right = drawing.subplots(1, 2)
    twin(left, table, "step", "sklr", "lrds")
    twin(right, table, "step", "sads", *frames.accuracies(table)[:1])
    for axes in (left, right):
        _steps(axes, table)
    drawing.suptitle(f"Over training, {table.model.iloc[0]}", size=10)
    return drawing


@figure("sweep", "table:points")
def layers_over_training(run: Run) -> Figure:
    """Key neurons by layer, one line per checkpoint from light to dark: Fig. 5."""
    table = _some(frames.checkpoints(run), "checkpoints")
    array = frames.layers_of_points(run, table)
    if array is None:
        raise InputError("the runs of the sweep's points are not beside it, so region sizes by layer are unknown")
    from matplotlib import colormaps

    drawing = canvas(5.4, 3.0)
    axes = drawing.subplots()
    shades = colormaps["viridis"](np.linspace(0.9, 0.0, len(table)))
    for shade, (_, row) in zip(shades, table.iterrows()):
        values = array.sel(point=row.key).sum("language")
        axes.plot(array.layer.values, values, color=shade, label=steps_text(row.step))
    axes.set(xlabel="layer", ylabel="key neurons", title=f"Key neurons by layer over training, {table.model.iloc[0]}")
    thin_ticks(axes, "x", len(array.layer))
    axes.legend(title="step", loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


@figure("sweep", "table:points")
def sizes_over_training(run: Run, labels: Labels = "code") -> Figure:
    """Region size of each language over training: Fig. 6."""
    table = _some(frames.checkpoints(run), "checkpoints")
    drawing = canvas(5.6, 3.2)
    axes = drawing.subplots()
    for index, code in enumerate(sized_languages(table)):
        axes.plot(table.step, table[f"region_size_{code}"], label=label(code, labels), **line_style(index))
    axes.set(ylabel="neurons in the region", title=f"Region sizes over training, {table.model.iloc[0]}")
    _steps(axes, table)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


@figure("sweep", "table:points")
def scale_curves(run: Run) -> Figure:
    """LRDS, SADS and accuracy by number of parameters: Fig. 7 and 10."""
    table = _some(frames.scales(run), "model sizes")
    names = [name for name in ("lrds", "sads", *frames.accuracies(table)[:1]) if name in table]
    drawing = canvas(2.9 * len(names), 2.7)
    for index, (axes, name) in enumerate(zip(np.atleast_1d(drawing.subplots(1, len(names))), names)):
        style = line_style(index)
        axes.plot(table.parameters, table[name].astype(float), **style)
        band(axes, table, "parameters", name, style["color"])
        axes.set_xscale("log")
        axes.set_xticks(table.parameters, [size_text(size) for size in table.parameters], rotation=30)
        axes.minorticks_off()
        axes.set(xlabel="parameters", title=measure_text(name))
    drawing.suptitle("By model size", size=10)
    return drawing


@figure("sweep", "table:flow")
def neuron_flow(run: Run) -> Figure:
    """Neurons kept, born, moved from another language and lost, between one checkpoint and the next."""
    table = flow_totals(run)
    drawing = canvas(1.8 + 0.75 * len(table), 3.0)
    axes = drawing.subplots()
    at, above = np.arange(len(table)), np.zeros(len(table))
    for index, name in enumerate(("kept", "moved", "born")):
        axes.bar(at, table[name], bottom=above, label=name, color=COLOURS[index], edgecolor="white")
        above += table[name].to_numpy(dtype=float)
    below = np.zeros(len(table))
    for index, name in enumerate(name for name in ("left", "lost") if name in table):
        axes.bar(at, -table[name], bottom=below, label=name, color=COLOURS[3 + index], edgecolor="white", hatch="///")
        below -= table[name].to_numpy(dtype=float)
    axes.axhline(0, color="black", linewidth=0.8)
    names = [f"{a}\n→ {b}" for a, b in zip(table["from"], table["to"])]
    axes.set_xticks(at, names, size=7, rotation=30 if len(table) > 4 else 0)
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="neurons", title=f"Flow of neurons, {run.model_name}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def flow_totals(run: Run) -> pd.DataFrame:
    """`from`, `to` and the sums over languages of `kept`, `born`, `moved`, `left`, `lost`."""
    table = run.table("flow")
    names = [name for name in ("kept", "born", "moved", "left", "lost") if name in table]
    return table.groupby(["from", "to"], sort=False)[names].sum().reset_index()


def twin(axes: Axes, table: pd.DataFrame, x: str, first: str, second: str | None = None) -> None:
    """Two measures over one axis: the first on the left scale, the second, dashed, on the right one."""
    names = [name for name in (first, second) if name is not None and name in table]
    for index, name in enumerate(names):
        place = axes if index == 0 else axes.twinx()
        style = {**line_style(index), "linestyle": ("-", "--")[index]}
        values = table[name].astype(float)
        place.plot(table[x], values, **style)
        band(place, table, x, name, style["color"])
        hollow = frames.same_weights(table)
        place.plot(
            table[x][hollow],
            values[hollow],
            linestyle="",
            marker=style["marker"],
            markerfacecolor="white",
            color=style["color"],
            zorder=5,
        )
        place.set_ylabel(f"{measure_text(name)} ({('solid', 'dashed')[index]})", color=style["color"])
        place.tick_params(axis="y", colors=style["color"])
        if index:
            place.grid(False)
            place.spines["right"].set_visible(True)


def band(axes: Axes, table: pd.DataFrame, x: str, name: str, color: str) -> None:
    """The 95 % interval of a measure as a shade, where the table of points has one."""
    if f"{name}_low" in table and table[f"{name}_low"].notna().any():
        low, high = table[f"{name}_low"].astype(float), table[f"{name}_high"].astype(float)
        axes.fill_between(table[x].astype(float), low, high, color=color, alpha=0.15, linewidth=0)


def sized_languages(table: pd.DataFrame) -> list[str]:
    """Languages whose region size the table of points holds."""
    return [
        name.removeprefix("region_size_")
        for name in table.columns
        if name.startswith("region_size_") and table[name].notna().any()
    ]


def measure_text(name: str) -> str:
    """`lrds` → LRDS, `accuracy_xstorycloze` → accuracy: xstorycloze."""
    if name in {"lrds", "sads", "sklr"}:
        return name.upper()
    return "accuracy" if name == "accuracy" else name.replace("accuracy_", "accuracy: ").replace("_", " ")


def steps_text(step: float) -> str:
    """A training step, in thousands from a thousand on.

    >>> steps_text(512), steps_text(300000)
    ('512', '300k')
    """
    return f"{step / 1000:.3g}k" if step >= 1000 else f"{step:g}"


def size_text(parameters: float) -> str:
    """A parameter count as models are named.

    >>> size_text(559_214_592), size_text(7_069_016_064)
    ('559M', '7.1B')
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}" if unit != "B" else f"{parameters / size:.2g}{unit}"
    return f"{parameters:g}"


def _steps(axes: Axes, table: pd.DataFrame) -> None:
    axes.set_xlabel("training step")
    steps = table.step.astype(float)
    if steps.median() < steps.max() / 4:  # checkpoints that lie ever further apart
        axes.set_xscale("symlog", linthresh=max(1.0, float(steps[steps > 0].min())), linscale=0.2)
        axes.set_xticks(steps, minor=False)
        axes.set_xticks([], minor=True)
        axes.tick_params(axis="x", rotation=40, labelsize=7)
    axes.xaxis.set_major_formatter(lambda step, _: steps_text(step))


def _some(table: pd.DataFrame, what: str) -> pd.DataFrame:
    if len(table) < 2:
        raise InputError(f"the sweep has fewer than two finished {what}")
    return table
