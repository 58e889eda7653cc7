"""Figures of patched residuals in a run of latent language, and of alignment on residuals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from babelscope.errors import InputError
from babelscope.figures.facts import distinct, frame_of, grouped, rows_of
from babelscope.figures.latent import LAYER, MOVED, SOLVED
from babelscope.figures.register import View, figure
from babelscope.figures.spec import Axis, Figure, Line, Panel, Rule
from babelscope.results import Run
from babelscope.results.schemas.latent import Patch, ResidualAlignment


def _pairs(run: Run) -> list[View]:
    keys = distinct((row.from_, row.into) for row in rows_of(run, Patch))
    return [View(f"{first} into {last}", {"pair": f"{first} into {last}"}) for first, last in keys]


def _experiment(run: Run, name: str, pair: str | None) -> list[Patch]:
    rows = [row for row in rows_of(run, Patch) if row.experiment == name]
    pairs = distinct(f"{row.from_} into {row.into}" for row in rows)
    wanted = pair or next(iter(pairs), "")
    if wanted not in pairs:
        raise InputError(f"the run has no pair {wanted!r}; it has: {', '.join(pairs) or 'none'}")
    return [row for row in rows if f"{row.from_} into {row.into}" == wanted]


def _lines(rows: list[Patch], name: Callable[[Patch], str]) -> tuple[Line, ...]:
    return tuple(
        Line(label, [row.layer for row in own], [row.value for row in own], [row.value_low for row in own],
             [row.value_high for row in own], place)
        for place, (label, own) in enumerate(grouped(rows, name))
    )  # fmt: skip


def pairs_text(rows: list[Patch]) -> str:
    """`n = 40 solved pairs of prompts`."""
    return f"n = {rows[0].pairs} {'solved ' if rows[0].scope == SOLVED else ''}pairs of prompts"


def _data(rows: list[Patch]) -> pd.DataFrame:
    return frame_of(rows)


@figure("latent", "table:patch", views=_pairs, choose="Pair")
def latent_last(run: Run, pair: str | None = None) -> Figure:
    """E1: what the target prompt says when its last residual is the source's, layer by layer."""
    rows = _experiment(run, "E1", pair)
    lines = _lines([row for row in rows if row.layer == row.layer], lambda row: MOVED.get(row.what, row.what))
    caption = (
        f"The source's last residual in the target's place, one layer at a time; {pairs_text(rows)}. Bands: 95 % "
        "intervals over pairs of prompts. Nothing moved is the control."
    )
    panel = Panel(lines, LAYER, Axis("mass"), data=_data(rows))
    return Figure("Last position", caption, (panel,), about=f"{run.model_name}, {rows[0].from_} into {rows[0].into}")


@figure("latent", "table:patch", views=_pairs, choose="Pair")
def latent_word(run: Run, pair: str | None = None) -> Figure:
    """E2: the source's concept in the target's language when its word's residuals are put in from a layer on."""
    rows = [row for row in _experiment(run, "E2", pair) if row.what == "c1 in d"]
    lines = _lines([row for row in rows if row.layer == row.layer], lambda row: row.patched)
    ceiling = [Rule(row.value, "asked for it", dash="dotted") for row in rows if row.patched == "asked for c1"]
    caption = (
        "The residuals at the source's word in the place of those at the target's word, from a layer on: does the "
        f"target's language say the source's concept? {pairs_text(rows)}. Dotted: what the model says when it is asked "
        "for that concept. Bands: 95 % intervals over pairs of prompts."
    )
    axes = Axis("from layer on", whole=True), Axis("mass of the source's concept")
    panel = Panel((*lines, *ceiling[:1]), *axes, data=_data(rows))
    return Figure("At the word", caption, (panel,), about=f"{run.model_name}, {rows[0].from_} into {rows[0].into}")


def _residual_metrics(run: Run) -> list[View]:
    keys = distinct((row.metric, row.pooling) for row in rows_of(run, ResidualAlignment))
    return [View(f"{metric}, {pooling}", {"metric": metric, "pooling": pooling}) for metric, pooling in keys]


@figure("latent", "table:alignment", views=_residual_metrics, choose="Metric")
def latent_alignment(run: Run, metric: str | None = None, pooling: str | None = None) -> Figure:
    """One metric on pooled residuals by layer, mean over pairs of languages: plain, centred, of shuffled sentences."""
    every = rows_of(run, ResidualAlignment)
    metric = metric or ("sads" if any(row.metric == "sads" for row in every) else every[0].metric)
    pooling = pooling or every[0].pooling
    rows = [row for row in every if (row.metric, row.pooling) == (metric, pooling)]
    if not rows:
        known = ", ".join(view.name for view in _residual_metrics(run))
        raise InputError(f"the run has no metric {metric} over {pooling}; it has: {known}")
    lines: list[Line] = []
    for place, (name, own) in enumerate(grouped(rows, lambda row: row.treatment)):
        by_layer = [(float(layer), its) for layer, its in sorted(grouped(own, lambda row: row.layer))]
        x = [layer for layer, _ in by_layer]
        lines.append(Line(name, x, [float(np.mean([row.value for row in its])) for _, its in by_layer], colour=place))
        shuffled = [float(np.mean([row.shuffled for row in its])) for _, its in by_layer]
        if np.isfinite(shuffled).all():
            lines.append(Line(f"{name}, shuffled", x, shuffled, colour=place, dash="dotted", markers=False))
    caption = (
        "Alignment of translations on pooled residuals, mean over pairs of languages: plainly, with the mean of all "
        "and of each language taken off, and (dotted) of shuffled sentences. No bands: pairs of languages are not "
        "independent; intervals by pair are in the download."
    )
    data = run.table("alignment")
    data = data.loc[(data["metric"] == metric) & (data["pooling"] == pooling)]
    panel = Panel(tuple(lines), LAYER, Axis(f"{metric}, {pooling} over tokens"), data=data)
    return Figure("Residuals", caption, (panel,), about=f"{run.model_name}, {metric}, {pooling}")
