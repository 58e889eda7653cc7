"""Figures of steering and of language confusion."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportUnknownMemberType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from babelscope.plots.style import (
    COLOURS,
    Labels,
    canvas,
    figure,
    grid_of_cells,
    label,
    legend_below,
    line_style,
    write_cells,
)
from babelscope.results import Run

RANDOM = ("random", "random-neurons")


def of_pair(table: pd.DataFrame, pair: str | None) -> pd.DataFrame:
    """Rows of one pair (`en→fr`; by default the first)."""
    source, _, target = (pair or "→".join(table[["source", "target"]].iloc[0])).partition("→")
    return table[(table.source == source) & (table.target == target)]


@figure("steering", "table:front", "table:steering", "table:controls")
def steering_strength(run: Run, labels: Labels = "code", pair: str | None = None) -> Figure:
    """Success, rise of the target's loss and fidelity by strength, each method at its best layer.

    Lines: documents by which settings are chosen. Points with intervals: documents that are reported on. Grey: success
    of random directions or neurons of the same place and size.
    """
    front = of_pair(run.table("front"), pair)
    source, target = front.source.iloc[0], front.target.iloc[0]
    drawing = canvas(8.4, 3.2)
    success, rise, said = drawing.subplots(1, 3)
    told = of_pair(run.table("steering"), f"{source}→{target}")
    faith = of_pair(run.table("fidelity"), f"{source}→{target}")
    for index, (method, rows) in enumerate(front.groupby("method", sort=False)):
        style = line_style(index)
        chosen = told[(told.condition == "steered") & (told.method == method)]
        layer = chosen.layer.iloc[0] if len(chosen) else rows.layer.iloc[0]
        own = rows[rows.layer == layer].sort_values("alpha")
        where = "" if layer < 0 else f", layer {int(layer)}"
        success.plot(own.alpha, own.success, label=f"{method}{where}", **style)
        rise.plot(own.alpha, own.delta_nll, **style)
        at = chosen[chosen.layer == layer]
        success.vlines(at.alpha, at.success_low, at.success_high, color=style["color"], linewidth=2.5, alpha=0.6)
        known = faith[(faith.method == method) & (faith.layer == layer)].dropna(subset=["value"])
        said.plot(known.alpha, known.value, **{**style, "linestyle": "none"})
        said.vlines(known.alpha, known.low, known.high, color=style["color"], linewidth=1)
    band = of_pair(run.table("controls"), f"{source}→{target}")
    band = band[band.control.isin(RANDOM)]
    if len(band):
        success.axhspan(band.success.min(), max(band.success.max(), 0.005), color="grey", alpha=0.3, label="random")
    for axes, name in ((success, "success"), (rise, "ΔNLL of the target, nats"), (said, "fidelity")):
        axes.set(xlabel="strength α", ylabel=name)
    success.set_ylim(-0.03, 1.03)
    said.axhline(0, color="black", linewidth=0.8)
    drawing.suptitle(f"{run.model_name}, {label(source, labels)}→{label(target, labels)}", size=9)
    legend_below(success, 1)
    return drawing


@figure("steering", "table:front")
def steering_layers(run: Run, labels: Labels = "code", pair: str | None = None) -> Figure:
    """Success by layer and strength of the first method along directions, on the documents by which one is chosen."""
    front = of_pair(run.table("front"), pair)
    front = front[front.layer >= 0] if (front.layer >= 0).any() else front
    front = front[front.method == front.method.iloc[0]]
    table = front.pivot_table(index="layer", columns="alpha", values="success", dropna=False)
    damage = front.pivot_table(index="layer", columns="alpha", values="delta_nll", dropna=False)
    drawing = canvas(1.2 + 0.8 * len(table.columns), 1.6 + 0.4 * len(table))
    axes = drawing.subplots()
    image = axes.imshow(table.to_numpy(), vmin=0, vmax=1, aspect="auto")
    grid_of_cells(axes, [str(int(layer)) for layer in table.index], [f"{alpha:g}" for alpha in table.columns])
    texts = [
        [f"{100 * s:.0f} %\n+{d:.2f}" for s, d in zip(one, other)]
        for one, other in zip(table.to_numpy(), damage.to_numpy())
    ]
    write_cells(axes, image, texts, 6.5)
    axes.set(xlabel="strength α", ylabel="layer")
    axes.set_title(f"{front.method.iloc[0]}, {front.source.iloc[0]}→{front.target.iloc[0]}: success, ΔNLL", size=9)
    return drawing


@figure("steering", "table:front")
def steering_front(run: Run, labels: Labels = "code", pair: str | None = None) -> Figure:
    """Success against the rise of the target's loss, every setting; large: on the front in half of document draws."""
    front = of_pair(run.table("front"), pair)
    drawing = canvas(4.8, 3.6)
    axes = drawing.subplots()
    for index, (method, rows) in enumerate(front.groupby("method", sort=False)):
        style = {**line_style(index), "linestyle": "none"}
        axes.plot(rows.delta_nll, rows.success, alpha=0.6, label=str(method), **style)
        kept = rows[rows.front_share >= 0.5]
        axes.plot(kept.delta_nll, kept.success, **{**style, "markersize": 8, "markerfacecolor": "none"})
    for limit in (0.1, 0.3, 1.0):
        axes.axvline(limit, color="grey", linewidth=0.7, linestyle=":")
    axes.set(xlabel="ΔNLL of the target's text, nats a token", ylabel="success")
    axes.set_title(f"{run.model_name}, {front.source.iloc[0]}→{front.target.iloc[0]}", size=9)
    legend_below(axes)
    return drawing


@figure("steering", "table:steering")
def steering_pairs(run: Run, labels: Labels = "code", method: str | None = None) -> Figure:
    """Success from every source to every target, at the setting chosen under the study's limit; reported documents."""
    table = run.table("steering")
    table = table[table.condition == "steered"]
    table = table[table.method == (method or table.method.iloc[0])]
    table = table.drop_duplicates(["source", "target"])
    grid = table.pivot_table(index="source", columns="target", values="success", dropna=False)
    drawing = canvas(1.6 + 0.55 * len(grid.columns), 1.4 + 0.45 * len(grid))
    axes = drawing.subplots()
    image = axes.imshow(grid.to_numpy(), vmin=0, vmax=1, aspect="auto")
    grid_of_cells(axes, [label(code, labels) for code in grid.index], [label(code, labels) for code in grid.columns])
    write_cells(axes, image, [["–" if v != v else f"{100 * v:.0f}" for v in row] for row in grid.to_numpy()])
    axes.set(xlabel="target", ylabel="prompts in")
    axes.set_title(f"{run.model_name}, {table.method.iloc[0]}: % of answers in the target", size=9)
    return drawing


@figure("confusion", "table:confusion")
def confusion_languages(run: Run, labels: Labels = "code", task: str | None = None) -> Figure:
    """Answers by language: right, a foreign word, a foreign line, all foreign, too short to tell."""
    table = run.table("confusion")
    table = table[(table.language != "all") & (table["set"] != "all")]
    table = table[table.task == (task or table.task.iloc[0])]
    kinds = ("none", "word", "line", "full", "skipped")
    counts = table.groupby("language", sort=False)[list(kinds)].sum()
    shares = counts.div(counts.sum(axis=1), axis=0)
    drawing = canvas(1.5 + 0.5 * len(counts), 3.2)
    axes = drawing.subplots()
    below = np.zeros(len(counts))
    colours = (COLOURS[2], COLOURS[5], COLOURS[1], COLOURS[6], "#cccccc")
    for kind, colour in zip(kinds, colours):
        axes.bar(range(len(counts)), shares[kind], bottom=below, color=colour, label=kind)
        below += shares[kind].to_numpy()
    axes.set_xticks(range(len(counts)), [label(code, labels) for code in counts.index])
    axes.set(ylabel="share of answers", ylim=(0, 1))
    axes.set_title(f"{table.model.iloc[0]}, {table.task.iloc[0]}, n = {int(counts.to_numpy().sum())}", size=9)
    legend_below(axes)
    return drawing
