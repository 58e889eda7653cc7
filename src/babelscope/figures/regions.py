"""Figures of a regions run: similarity, alignment by layer, and where each language's neurons are."""

from __future__ import annotations

import numpy as np
import pandas as pd

from babelscope.errors import InputError
from babelscope.figures.facts import (
    array,
    chosen,
    codes,
    frame_of,
    grouped,
    in_order,
    interval_words,
    languages_axis,
    layers_axis,
    numbers,
    rows_of,
    sentences,
    tidy,
    written,
)
from babelscope.figures.palette import language_place
from babelscope.figures.published import SOURCE, Published, published_for
from babelscope.figures.register import View, figure, holds
from babelscope.figures.spec import NAN, Axis, Bars, Cells, Code, Figure, Histogram, Line, Map, Panel, Rule
from babelscope.results import Run
from babelscope.results.schemas.regions import Alignment, AlignmentMean, Calibration, Stability
from babelscope.wording import number

CURVES = {
    "lrds_layer": "LRDS (lower: more language-agnostic)",
    "sads_layer": "SADS (higher: more semantic)",
}
PARTS = {
    "same_language_layer": "same language",
    "same_sentence_layer": "same sentence",
    "neither_layer": "neither",
}
PAIRS = {"lrds_pair": "LRDS", "sads_pair": "SADS", "similarity_pair": "mean similarity"}
ABBREVIATIONS = {"lrds", "sads", "mexa", "cka", "anc"}


@figure("regions", "similarity")
def similarity_map(run: Run) -> Figure:
    """Cosine similarity of every two sentences, language by language (Fig. 2 and 8): viridis, 0 to 1."""
    arrays = run.arrays()
    languages = [str(code) for code in arrays.item_language.values]
    starts = [place for place, code in enumerate(languages) if place == 0 or code != languages[place - 1]]
    groups = [(Code(languages[a]), a, b) for a, b in zip(starts, [*starts[1:], len(languages)])]
    each = groups[0][2] - groups[0][1]
    caption = (
        f"Cosine similarity of the activations of every two sentences, {each} sentences in {len(groups)} languages. "
        "Ordered by language, bright squares on the diagonal are languages, and bright diagonals inside the other "
        "squares are translations; ordered by meaning, bright squares on the diagonal are sentences that keep their "
        "meaning across languages."
    )
    mark = Map(np.asarray(arrays.similarity.values), tuple(groups), "cosine similarity")
    about = f"{run.model_name}, {each} sentences a language"
    return Figure("Similarity map", caption, (Panel((mark,)),), about=about)


@figure("regions", "lrds_layer", "sads_layer", choose="Curves")
def layer_curves(run: Run) -> Figure:
    """LRDS and SADS by layer (Fig. 3 and 9), with intervals, and the three means that they are made of."""
    arrays = run.arrays()
    layers = arrays.sizes["layer"]
    panels: list[Panel] = []
    banded = False
    for title, names, y in (
        *((name.removesuffix("_layer").upper(), {name: told}, "cosine similarity") for name, told in CURVES.items()),
        ("the means they are made of", PARTS, "mean cosine similarity"),
    ):  # fmt: skip
        lines: list[Line] = []
        tables: list[pd.DataFrame] = []
        for place, (name, told) in enumerate(names.items()):
            if name in arrays:
                named = [f"{name}_{end}" for end in ("low", "high")]
                ends = [numbers(arrays[end].values) if end in arrays else np.full(layers, np.nan) for end in named]
                x, value = numbers(arrays.layer.values), numbers(arrays[name].values)
                line = Line(told, x.tolist(), value.tolist(), ends[0].tolist(), ends[1].tolist(), place)
                banded = banded or bool(line.banded())
                lines.append(line)
                columns = {"layer": arrays.layer.values, "value": arrays[name].values, "low": ends[0], "high": ends[1]}
                tables.append(pd.DataFrame(columns).assign(curve=name))
        if lines:
            data = pd.concat(tables, ignore_index=True)
            panels.append(Panel(tuple(lines), Axis("layer", whole=True), Axis(y), title, data=data))
    whole = ", ".join(
        f"{name.upper()} = {run.summary[name]:.4g}" for name in ("lrds", "sads") if run.summary.get(name) is not None
    )
    caption = (
        f"Alignment in each layer on its own ({sentences(run)}; whole model: {whole}). LRDS is the similarity within a "
        "language minus that between unrelated sentences of two languages: lower is more language-agnostic. SADS is "
        "the similarity of translations minus the same: higher is more semantic."
        + (" Bands are 95 % intervals." if banded else " No intervals: the run has none by layer.")
    )
    return Figure("LRDS and SADS by layer", caption, tuple(panels), about=run.model_name)


def _metrics(run: Run) -> list[View]:
    names = dict.fromkeys(row.metric for row in _shown_alignment(run))
    # one at a time with its interval first: twelve curves of unlike size on one axis show only which is largest
    return [*(View(metric_title(name), {"metric": name}) for name in names), View("all, means", {})]


def _shown_alignment(run: Run) -> list[Alignment]:
    """Without LRDS, where lower is better and which has a figure of its own."""
    rows = rows_of(run, Alignment)
    return [row for row in rows if row.layer == row.layer and row.value == row.value and row.metric != "lrds"]


@figure("regions", "table:alignment", views=_metrics, choose="Metric")
def alignment_curves(run: Run, metric: str | None = None) -> Figure:
    """Other measures of alignment by layer: means over language pairs; of one, with the range over pairs."""
    rows = _shown_alignment(run)
    names = list(dict.fromkeys(row.metric for row in rows))
    if not names:
        raise InputError("the run has no metric of alignment by layer")
    shown = names if metric is None else [chosen(metric, names, "metric")]
    lines: list[Line] = []
    means = rows_of(run, AlignmentMean)
    for name in shown:
        own = [row for row in means if row.metric == name and row.value == row.value]
        if own:
            low, high = ([row.low for row in own], [row.high for row in own]) if metric else ([], [])
            x, values = [float(row.layer) for row in own], [row.value for row in own]
            lines.append(Line(metric_title(name), x, values, low, high, names.index(name)))
            continue
        by_layer = [
            (layer, [row.value for row in own])
            for layer, own in sorted(grouped((row for row in rows if row.metric == name), lambda row: row.layer))
        ]
        x, middles = [layer for layer, _ in by_layer], [float(np.mean(values)) for _, values in by_layer]
        low, high = ([end(values) for _, values in by_layer] if metric else [] for end in (min, max))
        lines.append(Line(metric_title(name), x, middles, low, high, names.index(name)))
    limits = "; ".join(sorted({row.why for row in means if row.why}))
    bands = (
        "its 95 % interval, made by leaving one document out with everything centred anew" + (limits and f" ({limits})")
        if means
        else "the range over pairs as band"
    )
    caption = (
        f"Other measures of alignment by layer: the mean over language pairs ({sentences(run)}); chosen alone, with "
        f"{bands}. All are higher when translations are nearer to each other. MEXA falls as there are more sentences: "
        "MEXA, at 25 is what is expected among 25 of them. Intervals by pair are in the download."
    )
    data = frame_of(row for row in rows if row.metric in shown)
    y = "alignment" if metric is None else metric_title(metric)
    panel = Panel(tuple(lines), Axis("layer", whole=True), Axis(y), data=data)
    return Figure("Alignment metrics", caption, (panel,), about=run.model_name, height=420)


def metric_title(name: str) -> str:
    """`mexa` → MEXA, `sads-rank` → SADS, rank, `neuron_matching` → neuron matching.

    >>> metric_title("cka"), metric_title("sads-language-centred"), metric_title("neuron-matching")
    ('CKA', 'SADS, language centred', 'neuron matching')
    """
    first, _, rest = name.replace("_", "-").partition("-")
    if first in ABBREVIATIONS:
        return first.upper() + (f", {rest.replace('-', ' ')}" if rest else "")
    return name.replace("_", " ").replace("-", " ")


@figure("regions", "lrds_pair", "sads_pair", choose="Score")
def language_pairs(run: Run) -> Figure:
    """LRDS, SADS and mean similarity of every two languages."""
    panels: list[Panel] = []
    for name, title in PAIRS.items():
        if holds(run, name):
            found = array(run, name, "language", "language2")
            values = numbers(found.values)
            np.fill_diagonal(values, np.nan)
            axis = languages_axis(codes(found))
            cells = Cells(values, title, texts=written(values))
            panels.append(Panel((cells,), axis, axis, title, square=True, data=tidy(found, "value")))
    caption = (
        f"Each score for every two languages ({sentences(run)}). LRDS: how much closer two sentences of one language "
        "are than two of different languages; near 0 the pair is treated alike. SADS: how much closer translations "
        "are than unrelated sentences; higher means that the pair shares meaning."
    )
    return Figure("Language pairs", caption, tuple(panels), about=run.model_name, height=460)


@figure("regions", "region_size_layer")
def regions_by_layer(run: Run) -> Figure:
    """Key neurons of each language in each layer."""
    found = array(run, "region_size_layer", "language", "layer")
    cells = Cells(numbers(found.values), "neurons", low=0.0)
    caption = (
        f"How many key neurons each language has in each layer ({sentences(run)}). The first layer is on the left; "
        "brighter is more."
    )
    axes = layers_axis(found.sizes["layer"]), languages_axis(codes(found))
    return Figure("Regions by layer", caption, (Panel((cells,), *axes, data=tidy(found, "neurons")),),
                  about=run.model_name)  # fmt: skip


@figure("regions")
def region_sizes(run: Run, published: Published | None = None) -> Figure:
    """Share of all neurons in each language's region, beside the null's expectation and the published share."""
    sizes: dict[str, float] = dict(run.summary.get("region_size") or {})
    if not sizes:
        raise InputError("the run states no region sizes")
    languages = in_order(run, sizes)
    neurons = float(run.summary.get("neurons") or NAN)
    facts = published or published_for(run.model_name)
    table = pd.DataFrame({"language": languages, "size": [sizes[code] for code in languages]})
    shares = [sizes[code] / neurons for code in languages]
    table["share"] = shares
    colours = tuple(language_place(run, code) for code in languages)
    marks = [Bars("this run", shares, colours=colours)]
    # the null is that of z-scores
    null = {row.language: row.expected_null for row in rows_of(run, Calibration)}
    if null and run.summary.get("method", "z-score") == "z-score":
        expected = [null.get(code, NAN) / neurons for code in languages]
        if any(value == value for value in expected):
            marks.append(Bars("expected by chance", expected, colour=7))
            table["expected_null"] = [null.get(code, NAN) for code in languages]
    beside = ""
    if facts is not None:
        theirs = [facts.region_size.get(code, NAN) / facts.neurons for code in languages]
        marks.append(Bars(f"{facts.name}, published", theirs, colour=1))
        table["published"] = theirs
        beside = f" Published: {facts.name}, {SOURCE}."
    panel = Panel(tuple(marks), languages_axis(languages), Axis("share of all neurons", percent=True), data=table)
    caption = (
        f"{_rule(run)}, as a share of all {run.summary.get('neurons')} neurons ({sentences(run)}). No intervals: a "
        f"count of one recording; how well a region is found again is in the stability.{beside}"
    )
    return Figure("Region sizes", caption, (panel,), about=run.model_name)


def _rule(run: Run) -> str:
    if run.summary.get("method") == "contrast":
        return (
            f"Neurons whose mean in one language lies more than {run.summary.get('effect', 0.5):g} standard deviations "
            f"above that of the other languages, at {run.summary.get('at')}"
        )
    return (
        f"Neurons whose z for one language exceeds {run.summary.get('threshold', 2)} (SKLR = {run.summary.get('sklr')} "
        "in all; read each bar against what chance alone gives: without a difference between languages z still puts "
        "many neurons into some region)"
    )


@figure("regions", "group:null", choose="View")
def calibration(run: Run) -> Figure:
    """SKLR observed against its permutation null: how many key neurons chance alone would give."""
    arrays = run.arrays("null")
    panels: list[Panel] = []
    draws = 0
    if "sklr_null" in arrays:
        null = numbers(arrays.sklr_null.values)
        draws, observed = len(null), float(run.summary.get("sklr") or 0)
        counts, edges = np.histogram(null, bins=min(30, max(8, draws // 4)))
        low, high = min(float(null.min()), observed), max(float(null.max()), observed)
        margin = 0.05 * (high - low or 1)
        marks = (
            Histogram("languages permuted", edges.tolist(), counts.astype(float).tolist(), 4),
            Rule(observed, f"observed {number(observed)}", "y", 1),
            Rule(float(null.mean()), f"mean of the null {number(float(null.mean()))}", "y", 0, "dashed"),
        )
        x = Axis("SKLR (neurons in some region)", low=low - margin, high=high + margin)
        panels.append(Panel(marks, x, Axis("draws"), "whole model", data=pd.DataFrame({"sklr_null": null})))
    rows = [row for row in rows_of(run, Calibration) if row.language]
    if rows:
        languages = [row.language for row in rows]
        bars = Bars("excess", [row.excess for row in rows], [row.excess_low for row in rows],
                    [row.excess_high for row in rows],
                    colours=tuple(language_place(run, code) for code in languages))  # fmt: skip
        panels.append(Panel((bars, Rule(0.0)), languages_axis(languages), Axis("neurons beyond chance"), "by language",
                            data=run.table("calibration")))  # fmt: skip
    excess = run.summary.get("excess_sklr")
    told = f" Excess SKLR, observed minus expected: {number(excess)}." if isinstance(excess, int | float) else ""
    words = interval_words([row.excess_low for row in rows], [row.excess_high for row in rows]) if rows else ""
    caption = (
        "Key neurons by z observed against those found when language labels are permuted within each document "
        f"({draws or 'several'} draws, {sentences(run)}).{told} Only what stands to the right of the null belongs to "
        f"languages. {words.replace('Whiskers:', 'Whiskers, by language:')}".strip()
    )
    return Figure("Calibration", caption, tuple(panels), about=run.model_name)


@figure("regions", "table:stability")
def stability(run: Run) -> Figure:
    """How much of each region is found again, against chance."""
    rows = rows_of(run, Stability)
    marks = (
        Bars("bootstrap", [row.bootstrap_jaccard for row in rows], [row.bootstrap_low for row in rows],
             [row.bootstrap_high for row in rows], 0),
        Bars("split halves", [row.split_half_jaccard for row in rows], [row.split_half_low for row in rows],
             [row.split_half_high for row in rows], 1),
        Bars("by chance", [row.chance_jaccard for row in rows], colour=7),
    )  # fmt: skip
    n = f" (n = {max(row.n for row in rows):g} sentences, {max(row.draws for row in rows):g} draws)"
    caption = (
        f"How much of each region is found again when sentences are drawn anew, or split in halves{n}. 1: the very "
        "same neurons; “by chance”: two random regions of that size. Whiskers: the middle 95 % of draws."
    )
    panel = Panel(marks, languages_axis([row.language for row in rows]), Axis("Jaccard overlap"),
                  data=run.table("stability"))  # fmt: skip
    return Figure("Stability of the regions", caption, (panel,), about=run.model_name)
