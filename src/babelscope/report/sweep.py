"""The sections of a sweep: evolution over checkpoints and sizes, and the flow of neurons."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from typing import Any

import pandas as pd

from babelscope.plots import frames
from babelscope.plots.style import holds
from babelscope.plots.sweep import flow_totals, measure_text, size_text, sized_languages, steps_text
from babelscope.report import more, shapes
from babelscope.report.blocks import Block, Chart, Section, Table, Variant, gather, language_place
from babelscope.results import Run


def sweep_sections(run: Run) -> list[Section]:
    """Training, size, flow, and the table of points: those that the sweep holds."""
    if not holds(run, "table:points"):
        return []
    training = gather(run, ("Training", _training), ("Region sizes", _sizes), ("Layers", _layers), ("Flow", _flow))
    places = gather(run, ("Depth", more.depth), more.table("scale_overlap"))
    numbers = gather(run, more.table("published"), more.table("accuracy"), ("Points", _points))
    sections = [
        Section("Evolution over training", training),
        Section("Model sizes", gather(run, ("Sizes", _scales))),
        Section("Depth", places),
        Section("Points", numbers),
    ]
    return [section for section in sections if section.blocks]


def _measures(table: pd.DataFrame) -> list[str]:
    names = ["lrds", "sads", "sklr", *frames.accuracies(table)]
    return [name for name in names if name in table and table[name].notna().any()]


def _training(run: Run) -> Block | None:
    table = frames.checkpoints(run)
    if len(table) < 2:
        return None
    views = [_measured(table, "step", name, index) for index, name in enumerate(_measures(table))]
    same = sum(frames.same_weights(table))
    told = (
        f" Hollow marks: {same} checkpoint{'s' if same > 1 else ''} with the very weights of another." if same else ""
    )
    caption = (
        f"Each measure over the training of {table.model.iloc[0]}, n = {len(table)} checkpoints.{told} LRDS falls "
        "and SADS rises where languages "
        "come to share meaning."
    )
    return Chart("training", "Over training", caption, variants=views, choose="Measure", twin="training_curves")


def _measured(table: pd.DataFrame, x: str, name: str, index: int) -> Variant:
    bounds = {f"{name}_low": "low", f"{name}_high": "high"}
    kept = table[[x, name, *(column for column in bounds if column in table)]].dropna().rename(columns=bounds)
    traces = shapes.curve(kept.reset_index(drop=True), measure_text(name), index, x=x, y=name)
    same = table[frames.same_weights(table)]
    if len(same):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": same[x].tolist(),
                "y": same[name].tolist(),
                "name": "same weights as another",
                "marker": {
                    "symbol": "circle-open",
                    "size": 14,
                    "color": shapes.COLOURS[index % len(shapes.COLOURS)],
                    "line": {"width": 2},
                },
            }
        )
    described = shapes.layout("training step" if x == "step" else "parameters", measure_text(name))
    columns = [c for c in ("model", "revision", x, name, "duplicate_of") if c in table]
    if x == "step":
        described["xaxis"] |= shapes.step_axis(table.step)
    if x == "parameters":
        described["xaxis"] |= {
            "type": "log",
            "tickvals": table[x].tolist(),
            "ticktext": [size_text(v) for v in table[x]],
        }
    return Variant(measure_text(name), {"data": traces, "layout": described}, table[list(dict.fromkeys(columns))])


def _sizes(run: Run) -> Block | None:
    table = frames.checkpoints(run)
    languages = sized_languages(table)
    if len(table) < 2 or not languages:
        return None
    traces: list[dict[str, Any]] = []
    for code in languages:
        index = language_place(run, code)
        frame = table[["step", f"region_size_{code}"]].dropna().reset_index(drop=True)
        traces += shapes.curve(frame, code, index, x="step", y=f"region_size_{code}")
    described = shapes.layout("training step", "neurons in the region")
    described["xaxis"] |= shapes.step_axis(table.step)
    figure = {"data": traces, "layout": described}
    caption = (
        f"Size of each language's region over training, n = {len(table)} checkpoints. Choose languages "
        "by clicking on the legend."
    )
    frame = table[["step", *(f"region_size_{code}" for code in languages)]]
    return Chart(
        "sizes-training",
        "Region sizes over training",
        caption,
        variants=[Variant("all", figure, frame)],
        twin="sizes_over_training",
    )


def _layers(run: Run) -> Block | None:
    table = frames.checkpoints(run)
    array = frames.layers_of_points(run, table) if len(table) > 1 else None
    if array is None:
        return None
    array = array.sum("language")
    matrix = pd.DataFrame(array.values, index=[steps_text(step) for step in table.step], columns=array.layer.values)
    trace = shapes.heatmap(matrix, "key neurons", hovertemplate="step %{y}, layer %{x}: %{z}<extra></extra>")
    figure = {"data": [trace], "layout": shapes.matrix_layout("layer", "training step")}
    caption = (
        f"Key neurons in each layer at each of n = {len(table)} checkpoints; training runs downwards, brighter is more."
    )
    frame = matrix.rename_axis("step").reset_index()
    return Chart(
        "layers-training",
        "Key neurons by layer",
        caption,
        variants=[Variant("all", figure, frame)],
        twin="layers_over_training",
    )


def _flow(run: Run) -> Block | None:
    if not holds(run, "table:flow"):
        return None
    table = flow_totals(run)
    at = [f"{a} → {b}" for a, b in zip(table["from"], table["to"])]
    above, below = (("kept", "moved", "born"), ("left", "lost"))
    traces = [shapes.bars(at, table[name], name, index) for index, name in enumerate(above)]
    traces += [shapes.bars(at, -table[name], name, 3 + index) for index, name in enumerate(below) if name in table]
    described = shapes.layout("", "neurons", barmode="relative")
    described["xaxis"] |= shapes.categories()
    caption = (
        f"Neurons of the regions from one checkpoint to the next ({len(table)} steps, all languages): kept by their "
        "language, moved to another, newly "
        "born; below the line, those that left for another language and those lost."
    )
    views = [Variant("all", {"data": traces, "layout": described}, run.table("flow"))]
    return Chart("flow", "Flow of neurons", caption, variants=views, twin="neuron_flow")


def _scales(run: Run) -> Block | None:
    table = frames.scales(run)
    if len(table) < 2:
        return None
    views = [_measured(table, "parameters", name, index) for index, name in enumerate(_measures(table))]
    caption = (
        f"Each measure by number of parameters, the last checkpoint of each of n = {len(table)} sizes "
        "(logarithmic axis)."
    )
    return Chart("scales", "By model size", caption, variants=views, choose="Measure", twin="scale_curves")


def _points(run: Run) -> Block | None:
    table = run.table("points")
    wanted = ["model", "revision", "step", "parameters", "status", "duplicate_of", "key", *_measures(table)]
    caption = f"The {len(table)} points of the sweep. “duplicate of” names a point with the very same weights."
    return Table("points", "Points", caption, table[[name for name in dict.fromkeys(wanted) if name in table]])
