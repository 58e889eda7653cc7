"""Figures of the routing of a mixture of experts."""

from __future__ import annotations

from babelscope.figures.facts import distinct, frame_of, grouped, rows_of
from babelscope.figures.palette import language_place
from babelscope.figures.register import View, figure
from babelscope.figures.spec import Axis, Code, Figure, Line, Panel
from babelscope.languages import english_name
from babelscope.results import Run
from babelscope.results.schemas.routing import RoutingLayer


def _languages(run: Run) -> list[View]:
    codes = distinct(row.language for row in rows_of(run, RoutingLayer))
    return [View("all", {}), *(View(code, {"language": code}) for code in codes)]


@figure("regions", "table:routing_layer", views=_languages, choose="Language")
def routing_by_layer(run: Run, language: str | None = None) -> Figure:
    """How differently each language is routed from the reference, by layer; of one language beside its null."""
    every = rows_of(run, RoutingLayer)
    rows = [row for row in every if language in (None, row.language)]
    lines: list[Line] = []
    for code, own in grouped(rows, lambda row: row.language):
        place, x = language_place(run, code), [float(row.layer) for row in own]
        ends = [row.divergence_low for row in own], [row.divergence_high for row in own]
        lines.append(Line(Code(code), x, [row.divergence for row in own], *ends, place))
        other = (
            "" if language is None else (Code(code), "unrelated sentences")
        )  # nine entries would say what the caption says once
        lines.append(Line(other, x, [row.other_sentence for row in own], (), (), place,
                          "dotted", markers=False))  # fmt: skip
        if language is not None:
            null = [row.divergence_null_low for row in own], [row.divergence_null_high for row in own]
            middle = [(low + high) / 2 for low, high in zip(*null)]
            lines.append(Line("by chance", x, middle, *null, 7, "dashed", markers=False))
    reasons = distinct(row.why for row in every if row.why)
    without = f" Without a null: {'; '.join(reasons)}." if reasons else ""
    caption = (
        f"How differently translations are routed in each language and in "
        f"{english_name(every[0].reference)}, by layer: 0 the same "
        f"experts, 1 none in common; n = {every[0].n:g} sentences. Bands: 95 % intervals over sentences. Dotted: "
        f"sentences that are no translations. A language chosen alone stands beside what exchanged languages "
        f"give.{without}"
    )
    panel = Panel(tuple(lines), Axis("layer", whole=True), Axis("divergence of routing", low=0.0), data=frame_of(rows))
    return Figure("Routing by layer", caption, (panel,), about=run.model_name)
