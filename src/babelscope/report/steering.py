"""The sections of runs of steering and of language confusion: success never stands without its price."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

import pandas as pd

from babelscope.figures.steering import STEERED, repeating
from babelscope.report.blocks import Block, Section, Table, gather
from babelscope.report.charts import chart, table
from babelscope.results import Run
from babelscope.results.rows import read_rows
from babelscope.results.schemas.steering import Damage, Steered

_CONTROLS = table(
    "controls",
    "Controls",
    "Success of edits of the same place and size: random directions, shuffled labels, third languages.",
)
_CEILING = table(
    "ceiling",
    "How well languages are told apart",
    "How often the identifier is right on text whose language is known, cut to the length of the answers' lines: no "
    "rate above this means anything.",
)


def steering_sections(run: Run) -> list[Section]:
    """Success with damage and repetition, the choosing, controls, answers: those that the run holds."""
    sections = [
        Section(
            "Success and its price",
            gather(run, ("Outcome", _outcome), chart("steering_success"), chart("steering_damage"), *_pairs(run)),
        ),
        Section(
            "How settings were chosen",
            gather(run, chart("steering_strength"), chart("steering_front"), chart("steering_layers")),
        ),
        Section("Controls", gather(run, _CONTROLS)),
        Section("Answers", gather(run, ("Answers", _answers), _CEILING)),
    ]  # fmt: skip
    return [section for section in sections if section.blocks]


def _pairs(run: Run) -> list[tuple[str, Callable[[Run], Block | None]]]:
    """The matrix of pairs, where there are several."""
    among = {(row.source, row.target) for row in read_rows(run, Steered)}
    return [chart("steering_pairs")] if len(among) > 1 else []


def confusion_sections(run: Run) -> list[Section]:
    """Pass rates, kinds of confusion, the identifier's ceiling, answers: those that the run holds."""
    sections = [
        Section("Language confusion", gather(run, chart("confusion_rates"), chart("confusion_kinds"))),
        Section("Identifier", gather(run, _CEILING)),
        Section("Answers", gather(run, ("Answers", _answers))),
    ]
    return [section for section in sections if section.blocks]


def _outcome(run: Run) -> Block | None:
    rows = read_rows(run, Steered)
    if not rows:
        return None
    repeats = repeating(run)
    lost = {_setting(row): row for row in reversed(read_rows(run, Damage))
            if row.condition == STEERED and row.role == "target"}  # fmt: skip
    told: list[dict[str, object]] = []
    for row in rows:
        damage = lost.get(_setting(row)) if row.condition == STEERED else None
        told.append({
            "source": row.source, "target": row.target, "condition": row.condition, "method": row.method or None,
            "layer": row.layer if row.layer >= 0 else None, "alpha": row.alpha,
            "success": row.success, "success_low": row.success_low,
            "success_high": row.success_high, "repeating": repeats(row), "broken_share": row.written.broken_share,
            "distinct_2": row.written.distinct_2, "delta_nll": damage.delta_nll if damage else None,
            "delta_nll_low": damage.delta_nll_low if damage else None,
            "delta_nll_high": damage.delta_nll_high if damage else None, "n": row.n, "p": row.p, "why": row.why,
        })  # fmt: skip
    caption = (
        "Success is the share of answers in the target; read it with the share of answers of which one repeated "
        "stretch makes up half or more (repeating), that of broken letters, and ΔNLL of the target's own text (nats a "
        "token): an answer of one word over and over can be in the right language and say nothing. Intervals: 95 %, "
        "over documents. Without a layer: edits of neurons wherever they are, and edits of every block."
    )
    frame = pd.DataFrame(told).dropna(axis="columns", how="all")
    return Table("steering-outcome", "Success beside damage and repetition", caption, frame)


def _setting(row: Steered | Damage) -> tuple[object, ...]:
    return row.source, row.target, row.method, None if isnan(row.layer) else row.layer, row.alpha


def _answers(run: Run) -> Block | None:
    if "answers" not in run.tables:
        return None
    frame = run.table("answers")
    names = [str(name) for name in frame.columns]
    language = "target" if "target" in names else "language"
    first = [name for name in (language, "condition", "method", "prompt", "text", "kind", "repeat") if name in names]
    last = [name for name in ("document", "why") if name in names]
    frame = frame.loc[:, [*first, *(name for name in names if name not in {*first, *last}), *last]]
    texts = tuple(name for name in ("prompt", "text") if name in names)
    caption = f"What was written, and how it was judged ({len(frame)} answers). Read some before you believe a rate."
    return Table("answers", "Answers", caption, frame, text_columns=texts, language_column=language)
