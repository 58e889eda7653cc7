"""The sections of a regions run."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from babelscope.plots import frames
from babelscope.plots.perplexity import cell
from babelscope.plots.published import SOURCE, published_for
from babelscope.plots.regions import CURVES, PARTS, metric_title
from babelscope.plots.style import holds
from babelscope.report import more, shapes
from babelscope.report.blocks import Block, Chart, Section, Table, Variant, gather
from babelscope.report.similarity import similarity
from babelscope.results import Run


def regions_sections(run: Run) -> list[Section]:
    """What switching off does, similarity, alignment, regions and calibration: those that the run holds."""
    deactivation = Section(
        "What switching off does",
        gather(
            run, ("Perplexity", _perplexity), ("Published numbers", _published), ("Selectivity", _selectivity),
            ("Doses", more.dose), more.table("alignment_neurons"),
            ("Generations", _generations), more.table("generation_shares"), more.table("steering"),
        ),
    )  # fmt: skip
    sections = [
        deactivation,
        Section("Similarity", gather(run, ("Similarity map", similarity), ("Language pairs", _pairs))),
        Section("Alignment by layer", gather(run, ("Layer curves", _curves), ("Alignment metrics", _alignment))),
        Section("Regions", gather(run, ("Region sizes", _sizes), ("By layer", _layers), ("Calibration", _null),
                ("Stability", more.stability), more.table("methods"), more.table("agreement"))),
    ]  # fmt: skip
    return [section for section in sections if section.blocks]


def count(run: Run) -> str:
    """`n = 100 sentences in each of 9 languages`."""
    n = run.summary.get("n") or len((run.manifest.get("corpus") or {}).get("sentence_ids") or [])
    return f"n = {n} sentences in each of {len(run.languages)} languages" if n else f"{len(run.languages)} languages"


def _pairs(run: Run) -> Block | None:
    names = [name for name in ("lrds_pair", "sads_pair", "similarity_pair") if holds(run, name)]
    if not names:
        return None
    views: list[Variant] = []
    for name in names:
        array = run.arrays()[name].transpose("language", "language2")
        matrix = pd.DataFrame(array.values.astype(float), index=array.language.values, columns=array.language2.values)
        title = {"lrds_pair": "LRDS", "sads_pair": "SADS", "similarity_pair": "mean similarity"}[name]
        figure = shapes.with_texts(shapes.heatmap(matrix, title, 2), shapes.square_layout())
        views.append(Variant(title, figure, _tidy(array, "value")))
    caption = (
        f"Each score for every two languages ({count(run)}). LRDS: how much closer two sentences of one language are "
        "than two "
        "of different languages; near 0 the pair is treated alike. SADS: how much closer translations are than "
        "unrelated "
        "sentences; higher means that the pair shares meaning."
    )
    return Chart(
        "language-pairs", "Language pairs", caption, variants=views, choose="Score", twin="language_pairs", height=460
    )


def _tidy(array: Any, value: str) -> pd.DataFrame:
    return array.rename(value).to_series().reset_index()


def _curves(run: Run) -> Block | None:
    names = {name: title for name, title in {**CURVES, **PARTS}.items() if holds(run, name)}
    if not {"lrds_layer", "sads_layer"} & set(names):
        return None
    views: list[Variant] = []
    for label, chosen in (("LRDS and SADS", CURVES), ("the means they are made of", PARTS)):
        curves = {title: frames.layer_curve(run, name) for name, title in chosen.items() if name in names}
        traces = [trace for i, (title, frame) in enumerate(curves.items()) for trace in shapes.curve(frame, title, i)]
        y = "score" if chosen is CURVES else "mean cosine similarity"
        tidy = [frame.assign(curve=name) for name, frame in zip([n for n in chosen if n in names], curves.values())]
        if curves:
            views.append(
                Variant(
                    label,
                    {"data": traces, "layout": shapes.layer_layout(run.arrays().sizes["layer"], y)},
                    pd.concat(tidy, ignore_index=True),
                )
            )
    whole = ", ".join(
        f"{name.upper()} = {run.summary[name]:.4g}" for name in ("lrds", "sads") if run.summary.get(name) is not None
    )
    bands = " Bands are 95 % intervals." if any(f"{name}_low" in run.arrays() for name in names) else ""
    caption = (
        f"Alignment in each layer on its own ({count(run)}; whole model: {whole}). LRDS is the similarity within a "
        "language minus that "
        "between unrelated sentences of two languages: lower is more language-agnostic. SADS is the similarity of "
        "translations "
        f"minus the same: higher is more semantic.{bands}"
    )
    return Chart(
        "layer-curves", "LRDS and SADS by layer", caption, variants=views, choose="Curves", twin="layer_curves"
    )


def _alignment(run: Run) -> Block | None:
    if not holds(run, "table:alignment_means"):
        return None
    means, pairs = run.table("alignment_means"), run.table("alignment")
    means = means[means.value.notna() & (means.metric != "lrds")]  # lower is better there, and it has its own chart
    if means.empty:
        return None
    all_means: list[dict[str, Any]] = []
    alone: list[Variant] = []
    layers = int(means.layer.max()) + 1
    for index, (metric, rows) in enumerate(means.groupby("metric", sort=False)):
        title = metric_title(str(metric))
        all_means += shapes.curve(rows[["layer", "value"]], title, index)
        ends = ["layer", "value", "low", "high"] if rows.low.notna().all() else ["layer", "value"]
        figure = {"data": shapes.curve(rows[ends], title, index), "layout": shapes.layer_layout(layers, title)}
        alone.append(Variant(title, figure, pairs[pairs.metric == metric].reset_index(drop=True)))
    limits = "; ".join(sorted({str(why) for why in means.why if why}))
    caption = (
        f"Other measures of alignment by layer: the mean over language pairs ({count(run)}); chosen alone, with its "
        "95 % interval, made by leaving one document out with everything centred anew"
        f"{f' ({limits})' if limits else ''}. All are higher when translations are nearer to each other. MEXA falls as "
        "there are more sentences: MEXA, at 25 is what is expected among 25 of them. Intervals by pair are in the "
        "download."
    )
    together = {"data": all_means, "layout": shapes.layer_layout(layers, "alignment")}
    views = [Variant("all, means", together, means.reset_index(drop=True)), *alone]
    return Chart(
        "alignment", "Alignment metrics", caption, variants=views, choose="Metric", twin="alignment_curves", height=420
    )


def _sizes(run: Run) -> Block | None:
    if not run.summary.get("region_size"):
        return None
    frame = frames.region_sizes(run)
    facts = published_for(run.model_name)
    names = frame.language.tolist()
    traces = [shapes.bars(names, frame.share, "this run", 0)]
    if "expected_null" in frame and frame.expected_null.notna().any():
        traces.append(shapes.bars(names, frame.expected_null / run.summary["neurons"], "expected by chance", 1))
    beside = ""
    if facts is not None:
        frame["published"] = [facts.region_size.get(code, np.nan) / facts.neurons for code in frame.language]
        traces.append(shapes.bars(names, frame.published, f"{facts.name}, published", 2))
        beside = f" Published: {facts.name}, {SOURCE}."
    described = shapes.layout("", "share of all neurons", barmode="group")
    described["yaxis"]["tickformat"] = ".1%"
    described["xaxis"] |= shapes.categories()
    neurons = run.summary.get("neurons")
    rule = (
        f"Neurons whose mean in one language lies more than {run.summary.get('effect', 0.5):g} standard deviations "
        f"above that of the other languages, at {run.summary.get('at')}"
        if run.summary.get("method") == "contrast"
        else f"Neurons whose z for one language exceeds {run.summary.get('threshold', 2)} (SKLR = "
        f"{run.summary.get('sklr')} in all; read each bar against what chance alone gives: without a difference "
        "between languages z still puts many neurons into some region)"
    )
    caption = f"{rule}, as a share of all {neurons} neurons ({count(run)}).{beside}"
    views = [Variant("all", {"data": traces, "layout": described}, frame)]
    return Chart("region-sizes", "Region sizes", caption, variants=views, twin="region_sizes")


def _layers(run: Run) -> Block | None:
    if not holds(run, "region_size_layer"):
        return None
    array = run.arrays().region_size_layer.transpose("language", "layer")
    matrix = pd.DataFrame(array.values, index=array.language.values, columns=array.layer.values)
    trace = shapes.heatmap(matrix, "neurons", hovertemplate="%{y}, layer %{x}: %{z} neurons<extra></extra>")
    caption = (
        f"How many key neurons each language has in each layer ({count(run)}). The first layer is on the left; "
        "brighter is more."
    )
    figure = {"data": [trace], "layout": shapes.matrix_layout("layer")}
    views = [Variant("all", figure, _tidy(array, "neurons"))]
    return Chart("regions-by-layer", "Regions by layer", caption, variants=views, twin="regions_by_layer")


def _null(run: Run) -> Block | None:
    views: list[Variant] = []
    draws = 0
    if holds(run, "group:null") and "sklr_null" in run.arrays("null"):
        null = run.arrays("null").sklr_null.values.astype(float)
        draws = len(null)
        observed = float(run.summary["sklr"] or 0)
        trace = {
            "type": "histogram",
            "x": null.tolist(),
            "name": "languages permuted",
            "marker": {"color": shapes.COLOURS[4]},
        }
        described = shapes.layout("SKLR (neurons in some region)", "draws", bargap=0.03)
        low, high = min(float(null.min()), observed), max(float(null.max()), observed)
        described["xaxis"]["range"] = [low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)]
        described["shapes"] = [
            {
                "type": "line",
                "x0": observed,
                "x1": observed,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": shapes.COLOURS[1], "width": 3},
            }
        ]
        described["annotations"] = [
            {
                "x": observed,
                "y": 1,
                "yref": "paper",
                "text": f"observed {observed:g}",
                "showarrow": False,
                "xanchor": "right" if observed > (low + high) / 2 else "left",
                "yanchor": "bottom",
            }
        ]
        views.append(Variant("whole model", {"data": [trace], "layout": described}, pd.DataFrame({"sklr_null": null})))
    if holds(run, "table:calibration"):
        views.append(_by_language(run.table("calibration")))
    if not views:
        return None
    excess = run.summary.get("excess_sklr")
    told = f" Excess SKLR, observed minus expected: {excess:.4g}." if isinstance(excess, int | float) else ""
    caption = (
        "Key neurons by z observed against those found when language labels are permuted within each document "
        f"({draws or 'several'} draws, "
        f"{count(run)}).{told} Only what stands to the right of the null belongs to languages."
    )
    return Chart(
        "calibration", "Calibration", caption, variants=views, choose="View", twin="calibration" if draws else None
    )


def _by_language(table: pd.DataFrame) -> Variant:
    table = table[table.language.notna()]
    bounds = [table.get(name) for name in ("excess_low", "excess_high")]
    trace = shapes.bars(table.language, table.excess, "excess", 0, *bounds)
    described = shapes.layout("", "neurons beyond chance")
    described["xaxis"] |= shapes.categories()
    return Variant("by language", {"data": [trace], "layout": described}, table)


def _perplexity(run: Run) -> Block | None:
    if not holds(run, "table:perplexity"):
        return None
    grid = frames.perplexity_grid(run)
    if grid.increase.empty:
        return None
    table = run.table("perplexity")
    window = (run.manifest.get("defaults") or {}).get("window")
    if isinstance(window, dict):
        window = max((facts.get("tokens", 0) for facts in window.values()), default=None)
    windows = f"; windows of {window} tokens" if window else ""
    draws = max(grid.draws.values(), default=0)
    caption = (
        "Increase of perplexity in percent. Rows: evaluated language, base perplexity in brackets "
        f"({int(table.tokens.max())} tokens at most"
        f"{windows}). Columns: what was switched off; random controls have the regions' size (and layers), mean ± "
        f"spread of {draws} "
        "draws. A region is its language's own when the diagonal stands out against its row, its column and the "
        "controls."
    )
    if "tokens" not in table:
        caption = caption.split(" (")[0]
    views = [Variant("increase", _grid_figure(grid), table)]
    return Chart(
        "perplexity",
        "Perplexity under deactivation",
        caption,
        variants=views,
        twin="perplexity_heatmap",
        height=140 + 36 * len(grid.base),
    )


def _grid_figure(grid: frames.PerplexityGrid) -> dict[str, Any]:
    texts = [
        [
            cell(value) if np.isnan(spread) or grid.draws.get(name, 1) < 2 else f"{cell(value)} ± {cell(spread)}"
            for name, value, spread in zip(grid.increase.columns, row, spreads)
        ]
        for row, spreads in zip(grid.increase.to_numpy(dtype=float), grid.spread.to_numpy(dtype=float))
    ]
    named = grid.increase.rename(index={code: f"{code} ({base:.3g})" for code, base in grid.base.items()})
    trace = shapes.percent_heatmap(named, texts)
    described = shapes.matrix_layout("deactivated", "evaluated")
    described["xaxis"] |= {"tickvals": trace["x"], "ticktext": [name.replace("-", "<br>by ") for name in trace["x"]]}
    return shapes.with_texts(trace, described)


def _published(run: Run) -> Block | None:
    if not holds(run, "table:perplexity"):
        return None
    facts = published_for(run.model_name)
    if facts is None:
        return None
    grid = frames.published_grid(facts, frames.in_order(run, run.table("perplexity").language))
    if grid.increase.empty:
        return None
    caption = (
        f"For comparison, the published table of {facts.name} ({facts.table} of {SOURCE}; {facts.neurons} neurons; "
        "XL-Sum, random control: one "
        f"draw of {facts.random_control_size} neurons). Other texts: compare patterns, not numbers."
    )
    frame = (
        grid.increase.rename_axis("language")
        .reset_index()
        .melt("language", var_name="deactivated", value_name="increase_percent")
    )
    views = [Variant("published", _grid_figure(grid), frame)]
    return Chart(
        "perplexity-published", f"Published: {facts.name}", caption, variants=views, height=140 + 36 * len(grid.base)
    )


def _selectivity(run: Run) -> Block | None:
    if not holds(run, "table:selectivity"):
        return None
    table = run.table("selectivity")
    bounds = [table.get(name) for name in ("low", "high")]
    described = shapes.layout("", "own ΔNLL − mean of others")
    described["xaxis"] |= shapes.categories()
    figure = {"data": [shapes.bars(table.language, table.selectivity, "selectivity", 0, *bounds)], "layout": described}
    caption = (
        "How much more the loss of a region's own language rises than that of the others when it is switched off, "
        f"in nats per token ({len(table)} regions). {shapes.interval_words(table)} Zero: the region serves no language "
        "in particular."
    )
    return Chart(
        "selectivity", "Selectivity", caption, variants=[Variant("all", figure, table)], twin="selectivity", height=320
    )


def _generations(run: Run) -> Block | None:
    if not holds(run, "table:generations"):
        return None
    table = run.table("generations")
    caption = (
        f"What the model writes with nothing and with one region switched off ({len(table)} continuations, at most "
        "300 shown). “Identified”: the "
        "language that an identifier reads in the continuation; “broken share”: share of letters that are broken "
        "UTF-8."
    )
    if "draw" in table and (table.draw < 0).all():
        table = table.drop(columns="draw")
    return Table("generations", "Generations", caption, table, text_columns=("prompt", "continuation"), most=300)
