"""Figures of latent language: mass and entropy, excess, controls, strengths, tuned lens, patching, alignment."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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
    thin_ticks,
    write_cells,
)
from babelscope.results import Run

SCOPE = "solved"


def shown_pair(run: Run, pair: str | None = None, lens: str = "logit") -> pd.DataFrame:
    """Curves of one pair (`fr→zh`; by default the first) through one lens: on solved concepts, on all if none is."""
    table = run.table("curves")
    table = table[table.lens == (lens if lens in set(table.lens) else table.lens.iloc[0])]
    source, _, target = (pair or "→".join(table[["source", "target"]].iloc[0])).partition("→")
    table = table[(table.source == source) & (table.target == target)]
    solved = table[table.scope == SCOPE]
    return solved if len(solved) and solved.concepts.max() > 0 else table[table.scope == "all"]


def pairs_of(run: Run) -> list[tuple[str, str]]:
    """(pair, lens) of a run in their order."""
    table = run.table("curves")
    rows = table[["source", "target", "lens"]].drop_duplicates()
    return [(f"{row.source}→{row.target}", row.lens) for row in rows.itertuples()]


def scope_text(table: pd.DataFrame) -> str:
    """`n = 40 solved concepts`."""
    which = "solved " if table.scope.iloc[0] == SCOPE else ""
    return f"n = {int(table.concepts.max())} {which}concepts"


@figure("latent", "table:curves", "table:entropy")
def latent_mass(run: Run, labels: Labels = "code", pair: str | None = None, lens: str = "logit") -> Figure:
    """Mass of the concept's word in every language by layer, and the entropy of the next word below it."""
    table = shown_pair(run, pair, lens)
    source, target = table.source.iloc[0], table.target.iloc[0]
    drawing = canvas(5.4, 4.6)
    above, below = drawing.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for index, (code, own) in enumerate(table.groupby("language", sort=False)):
        above.plot(own.layer, own.mass, label=label(code, labels), **line_style(index))
    above.set_ylabel("mass of the word")
    above.set_title(f"{run.model_name}, {source}→{target}, {scope_text(table)}", size=9)
    above.legend(ncols=2)
    entropy = run.table("entropy")
    entropy = entropy[(entropy.source == source) & (entropy.target == target) & (entropy.lens == table.lens.iloc[0])]
    below.plot(entropy.layer, entropy.entropy, color="black")
    below.fill_between(entropy.layer, entropy.entropy_low, entropy.entropy_high, color="black", alpha=0.15, linewidth=0)
    below.set(xlabel="layer", ylabel="entropy, bits")
    thin_ticks(below, "x", int(entropy.layer.max()) + 1)
    return drawing


@figure("latent", "table:curves")
def latent_excess(run: Run, labels: Labels = "code", pair: str | None = None, lens: str = "logit") -> Figure:
    """Excess over other words and other prompts by layer, with simultaneous 95 % bands over the inner layers."""
    table = shown_pair(run, pair, lens)
    source, target = table.source.iloc[0], table.target.iloc[0]
    drawing = canvas(5.4, 3.6)
    axes = drawing.subplots()
    for index, (code, own) in enumerate(table.groupby("language", sort=False)):
        style = line_style(index)
        axes.plot(own.layer, own.excess, label=label(code, labels), **style)
        axes.fill_between(own.layer, own.excess_low, own.excess_high, color=style["color"], alpha=0.15, linewidth=0)
    axes.axhline(run.summary.get("least", 0.01), color="grey", linestyle=":", linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="layer", ylabel="excess")
    thin_ticks(axes, "x", int(table.layer.max()) + 1)
    axes.set_title(f"{run.model_name}, {source}→{target}, {scope_text(table)}", size=9)
    legend_below(axes)
    return drawing


@figure("latent", "table:controls")
def latent_controls(run: Run, labels: Labels = "code", pair: str | None = None, lens: str = "logit") -> Figure:
    """Strength of every candidate as it is and under each control, with 95 % intervals."""
    table = run.table("controls")
    shown = shown_pair(run, pair, lens)
    source, target = shown.source.iloc[0], shown.target.iloc[0]
    same = (table.source == source) & (table.target == target) & (table.lens == shown.lens.iloc[0])
    table = table[same & (table.scope == shown.scope.iloc[0])]
    table = table[~table.control.str.startswith(("minus", "Spearman"))]
    drawing = canvas(6.2, 3.8)
    axes = drawing.subplots()
    names = list(dict.fromkeys(table.control))
    codes = list(dict.fromkeys(table.language))
    for index, name in enumerate(names):
        own = table[table.control == name].set_index("language").reindex(codes)
        at = np.arange(len(codes)) + (index - (len(names) - 1) / 2) * 0.15
        _whiskers(axes, at, own, line_style(index), name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(codes)), [label(code, labels) for code in codes])
    axes.set_ylabel("strength A")
    axes.set_title(f"{run.model_name}, {source}→{target}, {scope_text(shown)}", size=9)
    legend_below(axes, 2)
    return drawing


def _whiskers(axes: Axes, at: np.ndarray, own: pd.DataFrame, style: dict[str, object], name: str) -> None:
    axes.plot(at, own.value, **{**style, "linestyle": "none"}, label=name)
    axes.vlines(at, own.value_low, own.value_high, color=style["color"], linewidth=1)


@figure("latent", "table:verdicts")
def latent_strengths(run: Run, labels: Labels = "code", lens: str = "logit") -> Figure:
    """Strength A of every candidate (columns) for every pair of languages (rows); bold where it passes through."""
    table = strengths(run, lens)
    values = table.pivot_table(index="pair", columns="language", values="strength", sort=False)
    outcomes = table.pivot_table(index="pair", columns="language", values="outcome", aggfunc="first", sort=False)
    outcomes = outcomes.reindex(index=values.index, columns=values.columns)
    drawing = canvas(1.6 + 0.7 * len(values.columns), 1.2 + 0.34 * len(values))
    axes = drawing.subplots()
    top = max(float(np.nanmax(np.abs(values.to_numpy()))), 1e-6)
    image = axes.imshow(np.ma.masked_invalid(values.to_numpy()), cmap="PuOr", vmin=-top, vmax=top, aspect="auto")
    grid_of_cells(axes, list(values.index), [label(code, labels) for code in values.columns])
    marks = {"passes through": "▶ ", "readable, no detour": "○ ", "not decidable": "? "}
    texts = [
        [
            "" if np.isnan(value) else f"{marks.get(outcome, '')}{value:.3f}"
            for value, outcome in zip(row, outcomes.loc[pair])
        ]
        for pair, row in zip(values.index, values.to_numpy())
    ]
    write_cells(axes, image, texts, size=7)
    axes.set_xlabel("▶ passes through\n○ readable, no detour\n? not decidable", size=7)
    drawing.colorbar(image, ax=axes, label="strength A", shrink=0.9)
    return drawing


def strengths(run: Run, lens: str = "logit") -> pd.DataFrame:
    """Verdicts through one lens on solved concepts, with the pair as a column; on all where no strength is known."""
    table = run.table("verdicts")
    table = table[table.lens == (lens if lens in set(table.lens) else table.lens.iloc[0])]
    solved = table[table.scope == SCOPE]
    chosen = solved if solved.strength.notna().any() else table[table.scope == "all"]
    return chosen.assign(pair=chosen.source + "→" + chosen.target)


@figure("latent", "table:tuned")
def latent_tuned(run: Run, labels: Labels = "code") -> Figure:
    """KL to the model's own next word, and bias of the lens, by layer and language on text that was not fitted."""
    table = run.table("tuned")
    drawing = canvas(7.4, 3.4)
    places = drawing.subplots(1, 2, sharex=True)
    codes = list(dict.fromkeys(table.language))
    for axes, name, title in zip(places, ("kl", "bias"), ("mean KL, bits", "bias, bits")):
        for index, code in enumerate(codes):
            for lens, own in table[table.language == code].groupby("lens", sort=False):
                plain = lens == "logit"
                style = {"color": COLOURS[index % len(COLOURS)], "linestyle": ":" if plain else "-"}
                axes.plot(own.layer, own[name], **style, label=None if plain else label(code, labels))
        axes.set(xlabel="layer", ylabel=title)
        thin_ticks(axes, "x", int(table.layer.max()) + 1)
    places[0].set_title("dotted: plain lens", size=8)
    places[1].legend(ncols=2)
    return drawing


@figure("latent", "table:patch")
def latent_last(run: Run) -> Figure:
    """E1: what the target prompt says when its last residual is the source's, layer by layer."""
    table = run.table("patch")
    table = table[(table["from"] == table["from"].iloc[0]) & (table.experiment == "E1")]
    drawing = canvas(5.4, 3.6)
    axes = drawing.subplots()
    for index, (name, own) in enumerate(table[table.layer.notna()].groupby("what", sort=False)):
        _band(axes, own, line_style(index), MOVED.get(name, name))
    axes.set(xlabel="layer", ylabel="mass")
    axes.set_title(_patch_title(run, table), size=9)
    legend_below(axes, 2)
    return drawing


MOVED = {
    "c2 in d": "nothing moved",
    "c2 in b": "language alone",
    "c1 in d": "concept alone",
    "c1 in b": "both",
}


@figure("latent", "table:patch")
def latent_word(run: Run) -> Figure:
    """E2: the source's concept in the target's language when its word's residuals are put in from a layer on."""
    table = run.table("patch")
    table = table[(table["from"] == table["from"].iloc[0]) & (table.experiment == "E2")]
    drawing = canvas(5.8, 3.8)
    axes = drawing.subplots()
    curves = table[table.layer.notna() & (table.what == "c1 in d")]
    for index, (name, own) in enumerate(curves.groupby("patched", sort=False)):
        _band(axes, own, line_style(index), name)
    ceiling = table[table.patched == "asked for c1"]
    axes.axhline(float(ceiling.value.iloc[0]), color="grey", linestyle=":", label="asked for it")
    axes.set(xlabel="from layer on", ylabel="mass of the source's concept")
    axes.set_title(_patch_title(run, table), size=9)
    legend_below(axes, 2)
    return drawing


def _band(axes: Axes, own: pd.DataFrame, style: dict[str, object], name: str) -> None:
    axes.plot(own.layer, own.value, label=name, **style)
    axes.fill_between(own.layer, own.value_low, own.value_high, color=style["color"], alpha=0.15, linewidth=0)
    thin_ticks(axes, "x", int(own.layer.max()) + 1)


def _patch_title(run: Run, table: pd.DataFrame) -> str:
    first = table.iloc[0]
    which = "solved " if first.scope == SCOPE else ""
    return f"{run.model_name}, {first['from']} into {first.into}, n = {int(first.pairs)} {which}pairs"


@figure("latent", "table:alignment")
def latent_alignment(run: Run, metric: str = "sads", pooling: str = "mean") -> Figure:
    """One metric on pooled residuals by layer, mean over pairs of languages: plain, centred, of shuffled sentences."""
    table = run.table("alignment")
    table = table[(table.pooling == pooling) & (table.metric == metric)]
    drawing = canvas(5.4, 3.4)
    axes = drawing.subplots()
    for index, (name, own) in enumerate(table.groupby("treatment", sort=False)):
        mean = own.groupby("layer")[["value", "shuffled"]].mean()
        style = line_style(index)
        axes.plot(mean.index, mean.value, label=name, **style)
        axes.plot(mean.index, mean.shuffled, color=style["color"], linestyle=":", linewidth=1)
    axes.set(xlabel="layer", ylabel=f"{metric}, {pooling} over tokens")
    thin_ticks(axes, "x", int(table.layer.max()) + 1)
    axes.set_title("dotted: shuffled sentences", size=8)
    legend_below(axes)
    return drawing
