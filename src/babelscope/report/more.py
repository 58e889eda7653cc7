"""Charts and tables of the measurements that only some runs ask for: stability, doses, methods, steering, depth."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from babelscope.plots.style import holds
from babelscope.report import shapes
from babelscope.report.blocks import Block, Chart, Table, Variant, language_place
from babelscope.results import Run

_TABLES = {
    "methods": (
        "Regions by other methods",
        "Sizes of the regions that other methods of localisation find on the same recording.",
    ),
    "agreement": (
        "Agreement",
        "How far the methods agree: of regions by their overlap (Jaccard) and by the rank correlation of their "
        "scores; of fast "
        "estimates of circuits with true patching.",
    ),
    "screen": (
        "Screen of heads",
        "Heads that a cheap screen kept for patching, and those sampled from the others to see what it missed. "
        "`missed_at_most` bounds (95 %) how many of the heads that nobody patched would have passed; `left` are those.",
    ),
    "alignment_neurons": (
        "Without the alignment neurons",
        "What becomes of alignment and loss when the neurons that carry most of SADS are switched off, against "
        "random "
        "neurons of the same layers.",
    ),
    "generation_shares": (
        "Languages of the continuations",
        "Which language the continuations are in, with each region switched off, and how often their text is broken.",
    ),
    "steering": (
        "Steering",
        "How often prompts of one language are continued in another when the regions of both are treated, with 95 % "
        "intervals; random regions of the same size stand for chance.",
    ),
    "scale_overlap": (
        "Depth profiles of different sizes",
        "How alike two models spread a language's neurons over their depth (1: alike), beside the mean "
        "with other languages.",
    ),
    "published": (
        "Beside the published numbers",
        "Every published number, ours, and the difference.",
    ),
    "accuracy": (
        "Accuracy by point",
        "Accuracy on the story cloze task at every point of the sweep, by language, with 95 % intervals.",
    ),
}


def table(name: str) -> tuple[str, Callable[[Run], Block | None]]:
    """A maker of one of the plain tables."""
    title, caption = _TABLES[name]

    def make(run: Run) -> Block | None:
        return Table(name.replace("_", "-"), title, caption, run.table(name)) if holds(run, f"table:{name}") else None

    return title, make


def stability(run: Run) -> Block | None:
    """How well each region is found again, against chance."""
    if not holds(run, "table:stability"):
        return None
    frame = run.table("stability")
    traces = [
        shapes.bars(frame.language, frame.bootstrap_jaccard, "bootstrap", 0, frame.bootstrap_low, frame.bootstrap_high),
        shapes.bars(
            frame.language, frame.split_half_jaccard, "split halves", 1, frame.split_half_low, frame.split_half_high
        ),
        shapes.bars(frame.language, frame.chance_jaccard, "by chance", 2),
    ]
    described = shapes.layout("", "Jaccard overlap", barmode="group")
    described["xaxis"] |= shapes.categories()
    n = f"n = {int(frame.n.max())} sentences, {int(frame.draws.max())} draws" if {"n", "draws"} <= set(frame) else ""
    caption = (
        f"How much of each region is found again when sentences are drawn anew, or split in halves ({n}). 1: the "
        "very same "
        "neurons; “by chance”: two random regions of that size."
    )
    views = [Variant("all", {"data": traces, "layout": described}, frame)]
    return Chart("stability", "Stability of the regions", caption, variants=views)


def dose(run: Run) -> Block | None:
    """Loss by language as more and more of each ranking is treated."""
    if not holds(run, "table:dose"):
        return None
    frame = run.table("dose")
    views = [
        _dose_view(run, rows, str(kind), str(region))
        for (kind, region), rows in frame.groupby(["kind", "matched"], sort=False)
    ]
    caption = (
        "Rise of the loss, in nats per token, as a growing share of all neurons is treated, from the top of one "
        "language's "
        "ranking downwards. The dashed line is the same language under random neurons of the same layers; bands are "
        "95 % "
        "intervals over documents."
    )
    return Chart("dose", "Dose and response", caption, variants=views, choose="Treatment and region")


def _dose_view(run: Run, rows: pd.DataFrame, kind: str, region: str) -> Variant:
    traces: list[dict[str, Any]] = []
    own = rows[rows.region == region]
    for code, some in own.groupby("language", sort=False):
        index = language_place(run, str(code))
        line = some.sort_values("share").rename(columns={"delta_low": "low", "delta_high": "high"})
        columns = ["share", "delta_nll", "low", "high"] if str(code) == region else ["share", "delta_nll"]
        traces += shapes.curve(line[columns], str(code), index, x="share", y="delta_nll")
        if str(code) == region:
            traces[-1]["line"]["width"] = 4
    control = rows[(rows.region != region) & (rows.language == region)]
    if len(control):
        line = control.groupby("share", as_index=False).delta_nll.mean()
        trace = shapes.curve(line, f"{region}, random neurons", 7, x="share", y="delta_nll")[-1]
        trace["line"]["dash"] = "dash"
        traces.append(trace)
    described = shapes.layout("share of all neurons treated", "ΔNLL")
    described["xaxis"] |= {"tickformat": "~%"}
    return Variant(f"{kind}: {region}", {"data": traces, "layout": described}, rows.reset_index(drop=True))


def depth(run: Run) -> Block | None:
    """Where in relative depth each language's neurons are, at every point of a sweep."""
    if not holds(run, "table:depth"):
        return None
    frame = run.table("depth")
    frame = frame.assign(middle=(frame.from_depth + frame.to_depth) / 2)
    views: list[Variant] = []
    for label, rows in reversed(list(frame.groupby("label", sort=False))):  # the last checkpoint first
        traces: list[dict[str, Any]] = []
        for code, some in rows.groupby("language", sort=False):
            traces += shapes.curve(some, str(code), language_place(run, str(code)), x="middle", y="share")
        described = shapes.layout("relative depth (0: first layer, 1: last)", "share of the region")
        views.append(Variant(str(label), {"data": traces, "layout": described}, rows.reset_index(drop=True)))
    caption = (
        "Where each language's neurons are, by relative depth, so that models of different sizes compare "
        f"({len(views)} points)."
    )
    return Chart("depth", "Regions by relative depth", caption, variants=views, choose="Point")
