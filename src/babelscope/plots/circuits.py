"""Figures of a circuits run: effects of heads by language, and how far languages share them."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportMissingParameterType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from babelscope.errors import InputError
from babelscope.plots import frames
from babelscope.plots.style import (
    COLOURS,
    DIVERGING,
    Labels,
    canvas,
    figure,
    grid_of_cells,
    label,
    line_style,
    name_ticks,
    thin_ticks,
    write_cells,
)
from babelscope.results import Run

MEASURES = {
    "activation_patching": "activation patching: change of logit difference",
    "path_logits": "direct path to the logits: change of logit difference",
    "head_frequency": "share of prompts in which the head is on a route",
}


def measure_title(name: str) -> str:
    """What an array by head means, in words."""
    return MEASURES.get(name) or name.removeprefix("step_").replace("_", " ")


@figure("circuits", "table:behaviour")
def behaviour(run: Run, labels: Labels = "code") -> Figure:
    """Accuracy of the model on the task, by language, with intervals."""
    table = run.table("behaviour")
    drawing = canvas(1.8 + 0.8 * len(table), 2.6)
    axes = drawing.subplots()
    at = np.arange(len(table))
    axes.bar(at, table.accuracy, color=COLOURS[0], width=0.6)
    if {"low", "high"} <= set(table.columns):
        whiskers = np.clip([table.accuracy - table.low, table.high - table.accuracy], 0, None)
        axes.errorbar(at, table.accuracy, yerr=whiskers, fmt="none", color="black", capsize=3, linewidth=1)
    axes.axhline(0.5, color="black", linestyle=":", linewidth=1)
    parts = [name for name in ("split", "stratum") if name in table and table[name].nunique() > 1]
    names = [
        "\n".join([label(row["language"], labels), *(str(row[part]) for part in parts)]) for _, row in table.iterrows()
    ]
    axes.set_xticks(at, names)
    axes.set_ylim(0, 1.05)
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="accuracy", title=f"{run.manifest.get('task', 'task')}, {run.model_name}")
    return drawing


@figure("circuits", "activation_patching")
def head_heatmap(run: Run, measure: str = "activation_patching", labels: Labels = "code") -> Figure:
    """Effect of every head, one heatmap per language, on one scale."""
    array = _measure(run, measure)
    languages, layers, heads = array.shape
    drawing = canvas(0.9 + languages * max(1.7, 0.16 * heads), 1.0 + max(1.7, 0.14 * layers))
    places = drawing.subplots(1, languages, squeeze=False, sharey=True)[0]
    signed = float(array.min()) < 0
    reach = float(np.nanmax(np.abs(array.values))) or 1.0
    for axes, code in zip(places, array.language.values):
        image = axes.imshow(
            array.sel(language=code).values, aspect="auto", origin="lower", cmap=DIVERGING if signed else None,
            vmin=-reach if signed else 0, vmax=reach,
        )  # fmt: skip
        axes.grid(False)
        axes.set(xlabel="head", title=label(str(code), labels))
        thin_ticks(axes, "x", heads, limit=8)
        thin_ticks(axes, "y", layers)
    places[0].set_ylabel("layer")
    drawing.colorbar(image, ax=list(places), label=measure_title(measure).replace(": ", ":\n"))
    return drawing


@figure("circuits")
def head_scatter(
    run: Run, first: str | None = None, second: str | None = None, measure: str | None = None, labels: Labels = "code"
) -> Figure:
    """One dot per head: its measure in one language against another, with Pearson's r."""
    measure = measure or _shared_measure(run)
    array = _measure(run, measure)
    first, second = _two(run, first, second)
    x, y = (array.sel(language=code).values.ravel() for code in (first, second))
    layers = np.repeat(np.arange(array.sizes["layer"]), array.sizes["head"])
    drawing = canvas(4.4, 3.7)
    axes = drawing.subplots()
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    axes.plot([low, high], [low, high], color="#777777", linewidth=0.8, linestyle="--")
    dots = axes.scatter(x, y, c=layers, s=18, edgecolor="black", linewidth=0.3)
    for index in _apart(x, y, np.argsort(-(np.abs(x) + np.abs(y))))[:6]:
        name = f"{layers[index]}.{index % array.sizes['head']}"
        axes.annotate(name, (x[index], y[index]), xytext=(4, -8), textcoords="offset points", size=7)
    r = np.corrcoef(x, y)[0, 1] if x.std() > 0 and y.std() > 0 else float("nan")
    axes.set(
        xlabel=label(first, labels),
        ylabel=label(second, labels),
        title=f"{measure_title(measure)}\nPearson r = {r:.2f}",
    )
    axes.margins(0.08)
    drawing.colorbar(dots, ax=axes, label="layer")
    return drawing


def _apart(x: np.ndarray, y: np.ndarray, order: np.ndarray, least: float = 0.07) -> list[int]:
    """The points in order, without those too close to an earlier one for a name of their own."""
    span = max(float(np.ptp(x)), float(np.ptp(y))) or 1.0
    kept: list[int] = []
    for index in order.tolist():
        if all(max(abs(x[index] - x[k]), abs(y[index] - y[k])) > least * span for k in kept):
            kept.append(index)
    return kept


@figure("circuits")
def head_difference(
    run: Run, first: str | None = None, second: str | None = None, measure: str | None = None, labels: Labels = "code"
) -> Figure:
    """The measure of every head in one language minus the other."""
    measure = measure or _shared_measure(run)
    array = _measure(run, measure)
    first, second = _two(run, first, second)
    difference = array.sel(language=first).values - array.sel(language=second).values
    reach = float(np.abs(difference).max()) or 1.0
    drawing = canvas(1.6 + max(2.4, 0.2 * difference.shape[1]), 1.0 + max(1.9, 0.15 * difference.shape[0]))
    axes = drawing.subplots()
    image = axes.imshow(difference, aspect="auto", origin="lower", cmap=DIVERGING, vmin=-reach, vmax=reach)
    axes.grid(False)
    thin_ticks(axes, "x", difference.shape[1])
    thin_ticks(axes, "y", difference.shape[0])
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(f"{label(first, labels)} − {label(second, labels)}\n{measure_title(measure)}", size=8.5)
    drawing.colorbar(image, ax=axes)
    return drawing


@figure("circuits", "table:ablation")
def ablation_bars(run: Run, labels: Labels = "code") -> Figure:
    """Accuracy after removing each set of heads or layers, by language and stratum; random sets with their spread."""
    table = run.table("ablation")
    table = table[~is_ffn(table["set"])] if not is_ffn(table["set"]).all() else table
    bars = ablated(run, table)
    sets = list(dict.fromkeys(table["set"]))
    longest = max(len(str(name)) for name in sets)
    drawing = canvas(1.8 + 0.32 * len(sets) * len(bars), 2.6 + 0.06 * longest)
    axes = drawing.subplots()
    width = 0.8 / len(bars)
    for index, ((code, stratum), rows) in enumerate(bars.items()):
        rows = rows.reindex(sets)
        at = np.arange(len(sets)) + (index - (len(bars) - 1) / 2) * width
        name = " ".join(filter(None, (label(code, labels), stratum)))
        axes.bar(at, rows.accuracy, width, label=name, color=COLOURS[index % len(COLOURS)], edgecolor="white")
        whiskers = np.nan_to_num(np.clip([rows.accuracy - rows.low, rows.high - rows.accuracy], 0, None))
        axes.errorbar(at, rows.accuracy, yerr=whiskers, fmt="none", color="black", capsize=2, linewidth=0.8)
    name_ticks(axes, [str(name).replace("_", " ") for name in sets], longest=8)
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="accuracy", title=f"Accuracy after ablation, {run.model_name}")
    axes.set_ylim(0, 1.05)
    drawing.legend(loc="outside lower center", ncols=min(len(bars), 4))
    return drawing


def ablated(run: Run, table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """(language, stratum) → accuracy by set with its ends: strata are never averaged, nor ends of intervals.

    A set has its own interval; of random sets stand the mean over the draws and the middle 95 % of them.
    """
    found: dict[tuple[str, str], pd.DataFrame] = {}
    models = list(dict.fromkeys(table["model"])) if "model" in table else []
    if len(models) > 1:  # a run with a second model: each has bars of its own
        for model in models:
            own = ablated(run, table[table["model"] == model].drop(columns="model"))
            found |= {(code, f"{stratum} {model}".strip()): rows for (code, stratum), rows in own.items()}
        return found
    strata = table.stratum.fillna("").astype(str) if "stratum" in table else pd.Series("", index=table.index)
    for code in frames.in_order(run, table.language):
        for stratum, rows in table[table.language == code].groupby(strata, sort=False):
            by_set = rows.groupby("set", sort=False)
            one = by_set[["accuracy", "low", "high"]].mean()  # of a single row, where a set is no random draw
            drawn = by_set.accuracy.size() > 1
            for end, q in (("low", 0.025), ("high", 0.975)):
                one.loc[drawn, end] = by_set.accuracy.quantile(q)[drawn]
            found[str(code), str(stratum)] = one
    return found


@figure("circuits")
def ffn_curves(run: Run, labels: Labels = "code") -> Figure:
    """What each layer's feed-forward block does for the answer: patched, or removed, by layer and language."""
    arrays = run.arrays()
    drawing = canvas(4.4, 2.8)
    axes = drawing.subplots()
    if "mlp_patching" in arrays:
        for index, code in enumerate(arrays.language.values):
            values = arrays.mlp_patching.sel(language=code)
            axes.plot(arrays.layer.values, values, label=label(str(code), labels), **line_style(index))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(ylabel="change of logit difference", title=f"Feed-forward blocks patched, {run.model_name}")
    else:
        _removed_layers(run, axes, labels)
    axes.set_xlabel("layer")
    axes.legend()
    thin_ticks(axes, "x", len(arrays.layer))
    return drawing


def is_ffn(sets: pd.Series) -> pd.Series:
    """Which sets of an ablation table are feed-forward blocks: `ffn 3`, `mlp_3`."""
    return sets.astype(str).str.contains(r"^(?:ffn|mlp)\D*\d+$", case=False)


def _removed_layers(run: Run, axes, labels: Labels) -> None:  # pyright: ignore[reportMissingParameterType]
    table = run.table("ablation") if "ablation" in run.tables else pd.DataFrame({"set": []})
    table = table[is_ffn(table["set"])]
    if table.empty:
        raise InputError("the run has no numbers for feed-forward blocks")
    table = table.assign(layer=table["set"].str.extract(r"(\d+)$")[0].astype(int))
    strata = table.stratum.fillna("").astype(str) if "stratum" in table else pd.Series("", index=table.index)
    cells = [
        (code, stratum, rows)
        for code in frames.in_order(run, table.language)
        for stratum, rows in table[table.language == code].groupby(strata, sort=False)
    ]
    for index, (code, stratum, rows) in enumerate(cells):
        rows = rows.sort_values("layer")
        name = " ".join(filter(None, (label(code, labels), str(stratum))))
        axes.plot(rows.layer, rows.accuracy, label=name, **line_style(index))
    axes.set(ylabel="accuracy without the block", title=f"Feed-forward blocks removed, {run.model_name}")


@figure("circuits")
def cross_language(run: Run, labels: Labels = "code") -> Figure:
    """How well the circuit found in one language works in another, and how much their heads overlap."""
    matrices = cross_matrices(run)
    if not matrices:
        raise InputError("the run compares no two languages")
    size = max(3.3, 0.45 * len(run.languages))
    columns = min(4, len(matrices))
    lines = -(-len(matrices) // columns)
    drawing = canvas(size * columns + 0.2, (size - 0.2) * lines)
    places = np.atleast_1d(drawing.subplots(lines, columns)).ravel()
    for axes in places[len(matrices) :]:
        axes.set_axis_off()
    for axes, (title, matrix) in zip(places, matrices.items()):
        values = matrix.to_numpy(dtype=float)
        image = axes.imshow(
            np.ma.masked_invalid(values),
            vmin=min(0.0, float(np.nanmin(values))),
            vmax=max(1.0, float(np.nanmax(values))),
        )
        names = [label(code, labels) for code in matrix.index]
        grid_of_cells(axes, names, names)
        write_cells(axes, image, [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values])
        axes.set_title(title, size=9)
        if title.startswith("faithfulness"):
            axes.set(ylabel="circuit found in", xlabel="run on")
        drawing.colorbar(image, ax=axes, shrink=0.7)
    return drawing


def cross_matrices(run: Run) -> dict[str, pd.DataFrame]:
    """Faithfulness across languages and each measure of overlap, as language × language matrices."""
    found: dict[str, pd.DataFrame] = {}
    if "cross_faithfulness" in run.tables:
        table = frames.of_own_model(run, "cross_faithfulness")
        found["faithfulness"] = frames.square(table, "found_in", "run_on", "faithfulness", run.languages)
    if "cross_edges" in run.tables:
        table = frames.of_own_model(run, "cross_edges")
        found["faithfulness of edges"] = frames.square(table, "found_in", "run_on", "faithfulness", run.languages)
    if "overlap" in run.tables:
        for measure, rows in frames.of_own_model(run, "overlap").groupby("measure", sort=False):
            matrix = frames.square(rows, "language", "language2", "value", run.languages)
            found[str(measure).replace("_", " ")] = matrix.combine_first(matrix.T)
    return {name: matrix for name, matrix in found.items() if matrix.size and matrix.notna().to_numpy().any()}


@figure("circuits", "table:roles")
def circuit_graph(run: Run, labels: Labels = "code") -> Figure:
    """The heads that were given a role, by layer, in each language; the same head stands at the same height."""
    table = run.table("roles")
    languages = frames.in_order(run, table.language)
    roles = list(dict.fromkeys(table.role))
    drawing = canvas(2.2 + 1.7 * len(languages), 3.6)
    axes = drawing.subplots()
    for index, code in enumerate(languages):
        rows = table[table.language == code].drop_duplicates(["layer", "head", "role"])
        for _, group in rows.groupby("layer"):
            offsets = np.linspace(-0.3, 0.3, len(group)) if len(group) > 1 else [0.0]
            for offset, (_, row) in zip(offsets, group.iterrows()):
                style = line_style(roles.index(row.role))
                at = (index + offset, row.layer)
                axes.plot(*at, marker=style["marker"], color=style["color"], markersize=9)
                name = f"{row.layer}.{row['head']}"
                axes.annotate(name, at, xytext=(0, -13), textcoords="offset points", ha="center", size=6.5)
    for index, role in enumerate(roles):
        style = {**line_style(index), "linestyle": ""}
        axes.plot([], [], label=str(role).replace("_", " "), **style)
    name_ticks(axes, [label(code, labels) for code in languages])
    axes.set_xlim(-0.6, len(languages) - 0.4)
    axes.margins(y=0.15)
    thin_ticks(axes, "y", int(table.layer.max()) + 1)
    axes.set(ylabel="layer", title=f"Heads with a role, {run.model_name}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def _measure(run: Run, name: str):  # pyright: ignore[reportUnknownParameterType]
    if name not in frames.head_measures(run):
        raise InputError(f"the run has no measure {name!r} of heads; it has: {', '.join(frames.head_measures(run))}")
    return frames.heads(run, name)


def _shared_measure(run: Run) -> str:
    known = frames.head_measures(run)
    if not known:
        raise InputError("the run measures no heads")
    return "head_frequency" if "head_frequency" in known else known[0]


def _two(run: Run, first: str | None, second: str | None) -> tuple[str, str]:
    languages = [str(code) for code in run.arrays().language.values]
    first = first or languages[0]
    second = second or next((code for code in languages if code != first), first)
    for code in (first, second):
        if code not in languages:
            raise InputError(f"the run has no language {code!r}; it has: {', '.join(languages)}")
    return first, second
