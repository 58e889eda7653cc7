"""The sections of a circuits run."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from babelscope.plots import frames
from babelscope.plots.circuits import ablated, cross_matrices, is_ffn, measure_title
from babelscope.plots.style import holds
from babelscope.report import more, shapes
from babelscope.report.blocks import Block, Chart, Section, Table, Variant, gather, language_place
from babelscope.report.graph import circuit_graph
from babelscope.results import Run


def circuits_sections(run: Run) -> list[Section]:
    """Behaviour, heads, the circuit, languages side by side, ablations: those that the run holds."""
    sections = [
        Section("Behaviour", gather(run, ("Accuracy", _behaviour), ("Census", _census))),
        Section("Circuit", gather(run, ("Circuit", circuit_graph), ("Roles", _roles), ("Promoted tokens", _promoted))),
        Section(
            "Heads",
            gather(run, ("Effects", _effects), ("Two languages", _scatter), ("Attention", _attention), ("MLPs", _mlps)),
        ),
        Section("Across languages", gather(run, ("Languages", _cross), ("Classes", _classes))),
        Section("Ablation", gather(run, ("Ablation", _ablation), more.table("agreement"))),
    ]
    return [section for section in sections if section.blocks]


_CENSUS = ("language", "template", "offered", "survived")
"""columns of the census that are shown even where they are empty; others only with something in them"""


def _task(run: Run) -> str:
    corruption = run.manifest.get("corruption")
    return f"task {run.manifest.get('task', '?')}" + (f", corruption {corruption}" if corruption else "")


def _behaviour(run: Run) -> Block | None:
    if not holds(run, "table:behaviour"):
        return None
    table = run.table("behaviour")
    parts = [name for name in ("split", "stratum") if name in table and table[name].nunique() > 1]
    names = [" ".join([str(row["language"]), *(str(row[part]) for part in parts)]) for _, row in table.iterrows()]
    bounds = [table.get(name) for name in ("low", "high")]
    described = shapes.layout("", "accuracy")
    described["xaxis"] |= shapes.categories()
    described["yaxis"]["range"] = [0, 1.05]
    figure = {"data": [shapes.bars(names, table.accuracy, "accuracy", 0, *bounds)], "layout": described}
    few, most = (int(table.n.min()), int(table.n.max())) if "n" in table else (0, 0)
    n = f"n = {few} to {most} prompts" if few < most else f"n = {most} prompts" if most else "prompts"
    caption = (
        f"Share of prompts on which the answer beats its foil ({_task(run)}; {n}; whiskers: 95 % "
        "intervals). Chance is 0.5."
    )
    return Chart(
        "behaviour", "Accuracy", caption, variants=[Variant("all", figure, table)], twin="behaviour", height=320
    )


def _census(run: Run) -> Block | None:
    if not holds(run, "table:census"):
        return None
    caption = (
        "How many prompts of each template survive the tokenisation census, and why others fell: spans "
        "that differ, targets of several tokens."
    )
    table = run.table("census")
    said = [name for name in table if name in _CENSUS or table[name].astype(str).str.strip("0.").any()]
    return Table("census", "Tokenisation census", caption, table[said])


def _roles(run: Run) -> Block | None:
    if not holds(run, "table:roles"):
        return None
    caption = (
        "Heads with the role that their numbers give them. A label never stands without its score; where the score is "
        "small, or no more than the same head gives to others (column why), it says “candidate”. Backups are heads "
        "whose effect grows when others are knocked out: before and after in shares of the unablated logit difference."
    )
    return Table("roles", "Roles of heads", caption, run.table("roles"))


def _promoted(run: Run) -> Block | None:
    if not holds(run, "table:promoted"):
        return None
    caption = "Tokens that a head's own output promotes most: direct logit attribution with the final norm frozen."
    return Table("promoted", "Promoted tokens", caption, run.table("promoted"), text_columns=("token",))


def _effects(run: Run) -> Block | None:
    views: list[Variant] = []
    rows = 1
    for name in frames.head_measures(run):
        array = frames.heads(run, name)
        reach = float(np.nanmax(np.abs(array.values))) or 1.0
        signed = float(np.nanmin(array.values)) < 0
        panels = [(str(code), _head_trace(array.sel(language=code))) for code in array.language.values]
        traces, described, rows = shapes.facets(panels)
        described["coloraxis"] = {
            "colorscale": shapes.diverging() if signed else "Viridis",
            "cmin": -reach if signed else 0,
            "cmax": reach,
            "colorbar": {"thickness": 14},
        }
        views.append(
            Variant(
                measure_title(name),
                {"data": traces, "layout": described},
                array.rename("value").to_series().reset_index(),
            )
        )
    if not views:
        return None
    caption = (
        f"What each attention head does, by language ({_task(run)}). Layers upwards, heads to the right; the same "
        "place is the same head, all "
        "panels share one scale. Patching: change of the logit difference between answer and foil, relative to the "
        "clean run; negative means "
        "that the head works for the answer."
    )
    return Chart(
        "heads",
        "Effect of every head",
        caption,
        variants=views,
        choose="Measure",
        twin="head_heatmap",
        height=120 + 260 * rows,
    )


def _head_trace(array: Any) -> dict[str, Any]:
    values = array.values.astype(float)
    return {
        "type": "heatmap",
        "z": [[None if np.isnan(x) else x for x in row] for row in values],
        "x": array["head"].values.tolist(),
        "y": array.layer.values.tolist(),
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "head %{y}.%{x}: %{z:.4f}<extra></extra>",
    }


def _scatter(run: Run) -> Block | None:
    names = frames.head_measures(run)
    languages = [str(code) for code in run.arrays().language.values] if names else []
    name = "head_frequency" if "head_frequency" in names else next(iter(names), "")
    views = [_scatter_view(frames.heads(run, name), a, b) for a, b in itertools.combinations(languages, 2)]
    if not views:
        return None
    caption = (
        f"One dot per head: {measure_title(name)}, in one language against another ({_task(run)}). Dots on the "
        "diagonal work alike in both "
        "languages; r is Pearson's correlation."
    )
    return Chart(
        "head-scatter",
        "Heads in two languages",
        caption,
        variants=views[:36],
        choose="Languages",
        twin="head_scatter",
        height=440,
    )


def _scatter_view(array: Any, first: str, second: str) -> Variant:
    x, y = (array.sel(language=code).values.ravel().astype(float) for code in (first, second))
    layers, heads = (grid.ravel() for grid in np.meshgrid(array.layer.values, array["head"].values, indexing="ij"))
    r = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": x.tolist(),
        "y": y.tolist(),
        "text": [f"{layer}.{head}" for layer, head in zip(layers, heads)],
        "marker": {
            "color": layers.tolist(),
            "colorscale": "Viridis",
            "size": 8,
            "line": {"width": 0.5, "color": "#444"},
            "colorbar": {"title": {"text": "layer"}, "thickness": 14},
        },
        "hovertemplate": "head %{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
    }
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    line = {
        "type": "line",
        "x0": low,
        "y0": low,
        "x1": high,
        "y1": high,
        "line": {"dash": "dot", "width": 1, "color": "#888"},
    }
    described = shapes.layout(shapes.text(first), shapes.text(second), shapes=[line])
    frame = pd.DataFrame({"layer": layers, "head": heads, first: x, second: y})
    return Variant(f"{first} and {second}, r = {r:.2f}", {"data": [trace], "layout": described}, frame)


def _attention(run: Run) -> Block | None:
    if not holds(run, "attention_role"):
        return None
    array = run.arrays().attention_role.transpose("language", "role", "role2", "layer", "head").load()
    views: list[Variant] = []
    for query, key in _telling_pairs(array):
        part = array.sel(role=query, role2=key)
        panels = [(str(code), _head_trace(part.sel(language=code))) for code in part.language.values]
        traces, described, _ = shapes.facets(panels)
        described["coloraxis"] = {"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": {"thickness": 14}}
        frame = part.drop_vars(["role", "role2"]).rename("attention").to_series().reset_index()
        views.append(Variant(f"{query} → {key}", {"data": traces, "layout": described}, frame))
    rows = -(-len(array.language) // 3)
    caption = (
        "Mean attention of every head from one role of the prompt (the query) to another "
        f"({_task(run)}); the pairs with the strongest heads."
    )
    return Chart(
        "attention", "Attention between roles", caption, variants=views, choose="From → to", height=120 + 240 * rows
    )


def _telling_pairs(array: Any, most: int = 12) -> list[tuple[str, str]]:
    strongest = array.max(["language", "layer", "head"]).to_series().dropna().sort_values(ascending=False)
    return [(str(a), str(b)) for a, b in strongest.index[:most]]


def _mlps(run: Run) -> Block | None:
    if not holds(run, "mlp_patching"):
        return None
    array = run.arrays().mlp_patching.transpose("language", "layer")
    traces: list[dict[str, Any]] = []
    for code in array.language.values:
        index = language_place(run, str(code))
        frame = pd.DataFrame({"layer": array.layer.values, "value": array.sel(language=code).values})
        traces += shapes.curve(frame, str(code), index)
    figure = {"data": traces, "layout": shapes.layer_layout(array.sizes["layer"], "change of logit difference")}
    caption = (
        f"What patching the feed-forward block of each layer does to the logit difference, by language ({_task(run)})."
    )
    frame = array.rename("value").to_series().reset_index()
    return Chart("ffn", "Feed-forward blocks", caption, variants=[Variant("all", figure, frame)], twin="ffn_curves")


def _cross(run: Run) -> Block | None:
    views: list[Variant] = []
    for name, matrix in cross_matrices(run).items():
        faithful = name.startswith("faithfulness")
        values = matrix.to_numpy(dtype=float)
        low, high = min(0.0, float(np.nanmin(values))), max(1.0, float(np.nanmax(values)))
        trace = shapes.heatmap(matrix, name, 2, zmin=low, zmax=high)
        described = shapes.square_layout("run on" if faithful else "", "circuit found in" if faithful else "")
        of_edges = name == "faithfulness of edges"
        table = frames.of_own_model(run, "cross_edges" if of_edges else "cross_faithfulness" if faithful else "overlap")
        frame = table if faithful else table[table.measure.astype(str).str.replace("_", " ") == name]
        views.append(Variant(name, shapes.with_texts(trace, described), frame.reset_index(drop=True)))
    if not views:
        return None
    caption = (
        f"Faithfulness: the circuit found in the row's language, run on prompts of the column's ({_task(run)}); 1 is "
        "the whole model, 0 the empty "
        "circuit (of heads, found by search; of edges, found by attribution). Overlap: how many heads and edges two "
        "circuits share, or how their scores correlate; the download "
        "has the null beside each."
    )
    return Chart(
        "cross-language",
        "Circuits across languages",
        caption,
        variants=views,
        choose="Matrix",
        twin="cross_language",
        height=400,
    )


def _classes(run: Run) -> Block | None:
    if not holds(run, "table:classification"):
        return None
    caption = (
        "Each head by the languages whose circuits hold it: shared, repurposed (same head, other role), "
        "or of one language only."
    )
    return Table("classification", "Shared and own heads", caption, run.table("classification"), language_column="")


def _ablation(run: Run) -> Block | None:
    if not holds(run, "table:ablation"):
        return None
    table = run.table("ablation")
    views: list[Variant] = []
    ffn = is_ffn(table["set"])
    for label, rows in (("sets of heads", table[~ffn]), ("feed-forward blocks", table[ffn])):
        if rows.empty:
            continue
        traces: list[dict[str, Any]] = []
        for index, ((code, stratum), cell) in enumerate(ablated(run, rows).items()):
            name = f"{code} {stratum}".strip()
            traces.append(shapes.bars(cell.index, cell.accuracy, name, index, cell.low, cell.high))
        described = shapes.layout("", "accuracy", barmode="group")
        described["xaxis"] |= shapes.categories()
        views.append(Variant(label, {"data": traces, "layout": described}, rows.reset_index(drop=True)))
    caption = (
        f"Accuracy after removing each set, by language and stratum ({_task(run)}; whiskers: 95 % intervals; of random "
        "sets the mean over their draws, whiskers the middle 95 % of them). "
        "A set matters when it falls well below the random sets of its size."
    )
    return Chart("ablation", "Ablation", caption, variants=views, choose="Removed", twin="ablation_bars")
