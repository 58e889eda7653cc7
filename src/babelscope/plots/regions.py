"""Figures of a regions run: similarity, alignment by layer, and where each language's neurons are."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportMissingParameterType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from babelscope.plots import frames
from babelscope.plots.published import SOURCE, Published, published_for
from babelscope.plots.style import (
    COLOURS,
    Labels,
    canvas,
    figure,
    grid_of_cells,
    label,
    legend_below,
    line_style,
    name_ticks,
    thin_ticks,
    write_cells,
)
from babelscope.results import Run

CURVES = {
    "lrds_layer": "LRDS (lower: more language-agnostic)",
    "sads_layer": "SADS (higher: more semantic)",
}
ABBREVIATIONS = {"lrds", "sads", "mexa", "cka", "anc"}
MOST_PIXELS = 1800
"""rows of a map that are drawn one by one: more than print can show; larger maps are drawn as block means"""
MOST_BANDS = 4
"""bands that can lie over each other and still be told apart"""
PARTS = {
    "same_language_layer": "same language",
    "same_sentence_layer": "same sentence",
    "neither_layer": "neither",
}


@figure("regions", "similarity")
def similarity_map(run: Run, labels: Labels = "code") -> Figure:
    """Cosine similarity of every two sentences, language by language (Fig. 2 and 8): viridis, 0 to 1."""
    arrays = run.arrays()
    languages = arrays.item_language.values
    starts = [0, *(np.flatnonzero(languages[1:] != languages[:-1]) + 1).tolist()]
    ends = [*starts[1:], len(languages)]
    drawing = canvas(5.2, 4.6)
    axes = drawing.subplots()
    side = len(languages)
    shown = _block_means(arrays.similarity.values, -(-side // MOST_PIXELS))
    image = axes.imshow(shown, vmin=0, vmax=1, aspect="equal", extent=(-0.5, side - 0.5, side - 0.5, -0.5))
    middles = [(a + b - 1) / 2 for a, b in zip(starts, ends)]
    names = [label(str(languages[a]), labels) for a in starts]
    axes.set_xticks(middles, names, rotation=0 if max(map(len, names)) <= 4 else 90)
    axes.set_yticks(middles, names)
    axes.tick_params(length=0)
    axes.grid(False)
    for edge in starts[1:]:
        axes.axhline(edge - 0.5, color="white", linewidth=0.4)
        axes.axvline(edge - 0.5, color="white", linewidth=0.4)
    per_language = ends[0] - starts[0]
    axes.set_title(f"Similarity of activations, {run.model_name}\n{per_language} sentences per language")
    drawing.colorbar(image, ax=axes, label="cosine similarity")
    return drawing


def _block_means(matrix: np.ndarray, size: int) -> np.ndarray:
    """Means over blocks of `size` × `size`, the last of a row or column perhaps smaller."""
    if size <= 1:
        return matrix
    starts = np.arange(0, len(matrix), size)
    sums = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    counts = np.diff([*starts, len(matrix)])
    return sums / np.outer(counts, counts)


@figure("regions", "lrds_layer", "sads_layer")
def layer_curves(run: Run) -> Figure:
    """LRDS and SADS by layer (Fig. 3 and 9), with intervals, and the three means that they are made of."""
    drawing = canvas(7.2, 3.4)
    left, right = drawing.subplots(1, 2)
    for index, (name, title) in enumerate(CURVES.items()):
        _curve(left, run, name, title, index)
    left.set_ylabel("score")
    for index, (name, title) in enumerate(PARTS.items()):
        if name in run.arrays():
            _curve(right, run, name, title, index + 2)
    right.set_ylabel("mean cosine similarity")
    for axes in (left, right):
        axes.set_xlabel("layer")
        legend_below(axes, columns=1)
        thin_ticks(axes, "x", len(run.arrays().layer))
    drawing.suptitle(f"Alignment by layer, {run.model_name}", size=10)
    return drawing


def _curve(axes: Axes, run: Run, name: str, title: str, index: int) -> None:
    curve = frames.layer_curve(run, name)
    style = line_style(index)
    axes.plot(curve.layer, curve.value, label=title, **style)
    if "low" in curve:
        axes.fill_between(curve.layer, curve.low, curve.high, color=style["color"], alpha=0.2, linewidth=0)


@figure("regions", "table:alignment_means")
def alignment_curves(run: Run) -> Figure:
    """Other alignment metrics (MEXA, CKA, …) by layer: mean over language pairs; of a few, with 95 % intervals."""
    table = run.table("alignment_means")
    table = table[table.value.notna() & (table.metric != "lrds")]
    few = table.metric.nunique() <= MOST_BANDS
    drawing = canvas(6.4, 3.2)
    axes = drawing.subplots()
    for index, (metric, rows) in enumerate(table.groupby("metric", sort=False)):
        style = line_style(index)
        axes.plot(rows.layer, rows.value, label=metric_title(str(metric)), **style)
        if few:
            axes.fill_between(rows.layer, rows.low, rows.high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="layer", ylabel="alignment", title=f"Alignment metrics, {run.model_name}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    thin_ticks(axes, "x", int(table.layer.max()) + 1)
    return drawing


def metric_title(name: str) -> str:
    """`mexa` → MEXA, `sads-rank` → SADS, rank, `neuron_matching` → neuron matching.

    >>> metric_title("cka"), metric_title("sads-language-centred"), metric_title("neuron-matching")
    ('CKA', 'SADS, language centred', 'neuron matching')
    """
    first, _, rest = name.replace("_", "-").partition("-")
    if first in ABBREVIATIONS:
        return first.upper() + (f", {rest.replace('-', ' ')}" if rest else "")
    return name.replace("_", " ").replace("-", " ")


@figure("regions", "lrds_pair", "sads_pair")
def language_pairs(run: Run, labels: Labels = "code") -> Figure:
    """LRDS and SADS of every two languages."""
    arrays = run.arrays()
    names = [label(str(code), labels) for code in arrays.language.values]
    drawing = canvas(8.2, 3.8)
    for axes, name in zip(drawing.subplots(1, 2), ("lrds_pair", "sads_pair")):
        values = arrays[name].values.astype(float).copy()
        np.fill_diagonal(values, np.nan)
        image = axes.imshow(np.ma.masked_invalid(values))
        grid_of_cells(axes, names, names)
        texts = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values]
        write_cells(axes, image, texts, size=6.5)
        axes.set_title(name.split("_")[0].upper())
        drawing.colorbar(image, ax=axes, shrink=0.8)
    return drawing


@figure("regions", "region_size_layer")
def regions_by_layer(run: Run, labels: Labels = "code") -> Figure:
    """Key neurons of each language in each layer."""
    array = run.arrays().region_size_layer.transpose("language", "layer")
    drawing = canvas(6.4, 0.9 + 0.26 * array.sizes["language"])
    axes = drawing.subplots()
    image = axes.imshow(array.values, aspect="auto", vmin=0)
    names = [label(str(code), labels) for code in array.language.values]
    grid_of_cells(axes, names, [str(layer) for layer in array.layer.values])
    thin_ticks(axes, "x", array.sizes["layer"], limit=16)
    for text in axes.get_xticklabels():
        text.set_rotation(0)
        text.set_horizontalalignment("center")
    axes.set(xlabel="layer", title=f"Key neurons by language and layer, {run.model_name}")
    drawing.colorbar(image, ax=axes, label="neurons")
    return drawing


@figure("regions")
def region_sizes(run: Run, labels: Labels = "code", published: Published | None = None) -> Figure:
    """Share of all neurons in each language's region, beside the null's expectation and the published share."""
    frame = frames.region_sizes(run)
    facts = published or published_for(run.model_name)
    series: list[tuple[str, Any]] = [("this run", frame.share)]
    if "expected_null" in frame and frame.expected_null.notna().any():
        series.append(("expected by chance", frame.expected_null / run.summary["neurons"]))
    if facts:
        shares = [facts.region_size.get(code, np.nan) / facts.neurons for code in frame.language]
        series.append((f"{facts.name}, {SOURCE}", np.array(shares)))
    drawing = canvas(2.2 + 0.45 * len(frame), 3.4)
    axes = drawing.subplots()
    width = 0.8 / len(series)
    for index, (title, values) in enumerate(series):
        at = np.arange(len(frame)) + (index - (len(series) - 1) / 2) * width
        bars = axes.bar(at, values, width, label=title, color=COLOURS[index], hatch=("", "///", "...")[index])
        for bar in bars:
            bar.set_edgecolor("white")
    name_ticks(axes, [label(code, labels) for code in frame.language])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="share of all neurons", title=f"Region sizes, {run.model_name}")
    if len(series) > 1:
        drawing.legend(loc="outside lower center", ncols=len(series))
    return drawing


@figure("regions", "group:null")
def calibration(run: Run) -> Figure:
    """SKLR observed against its permutation null: how many key neurons chance alone would give."""
    null = run.arrays("null").sklr_null.values
    observed = run.summary["sklr"]
    drawing = canvas(4.6, 3.3)
    axes = drawing.subplots()
    axes.hist(null, bins=min(30, max(8, len(null) // 4)), color=COLOURS[4], edgecolor="white", label="labels permuted")
    axes.axvline(observed, color=COLOURS[1], linewidth=2, label=f"observed: {observed:g}")
    axes.axvline(float(null.mean()), color=COLOURS[0], linestyle="--", label=f"mean of the null: {null.mean():.4g}")
    axes.set(xlabel="SKLR (neurons in some region)", ylabel="draws", title=f"Calibration, {run.model_name}")
    legend_below(axes, columns=1)
    return drawing
