"""The sections of runs of steering and of language confusion: success never stands without its price."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from babelscope.plots.style import holds
from babelscope.report import shapes
from babelscope.report.blocks import Block, Chart, Section, Table, Variant, gather, language_place
from babelscope.results import Run

SETTING = ["source", "target", "method", "layer", "alpha"]
KINDS = {
    "none": "in the language", "word": "a foreign word", "line": "a foreign line", "full": "all foreign",
    "skipped": "too short to tell",
}  # fmt: skip


def steering_sections(run: Run) -> list[Section]:
    """Success with damage and repetition, the choosing, controls, answers: those that the run holds."""
    sections = [
        Section(
            "Success and its price", gather(run, ("Outcome", _outcome), ("Success", _success), ("Damage", _damage))
        ),
        Section("How settings were chosen", gather(run, ("Front", _front))),
        Section("Controls", gather(run, ("Controls", _plain("controls", "Controls", _CONTROLS)))),
        Section("Answers", gather(run, ("Answers", _answers), ("Ceiling", _plain("ceiling", "Ceiling", _CEILING)))),
    ]
    return [section for section in sections if section.blocks]


def confusion_sections(run: Run) -> list[Section]:
    """Pass rates, kinds of confusion, the identifier's ceiling, answers: those that the run holds."""
    sections = [
        Section("Language confusion", gather(run, ("Pass rate", _pass_rate), ("Kinds", _kinds))),
        Section("Identifier", gather(run, ("Ceiling", _plain("ceiling", "Ceiling", _CEILING)))),
        Section("Answers", gather(run, ("Answers", _answers))),
    ]
    return [section for section in sections if section.blocks]


_CONTROLS = "Success of edits of the same place and size: random directions, shuffled labels, third languages."
_CEILING = (
    "How often the identifier is right on text whose language is known, cut to the length of the answers' lines: no "
    "rate above this means anything."
)


def _plain(name: str, title: str, caption: str) -> Callable[[Run], Block | None]:
    def make(run: Run) -> Block | None:
        return Table(name, title, caption, run.table(name)) if holds(run, f"table:{name}") else None

    return make


def _conditions(run: Run) -> pd.DataFrame:
    """The table `steering` with the share of answers of which one repeated stretch makes up half the tokens or more."""
    table = run.table("steering")
    if not holds(run, "table:answers"):
        return table
    answers = run.table("answers")
    keys = [name for name in ("source", "target", "condition", "method", "layer", "alpha") if name in answers]
    if not {"repeat", "tokens"} <= set(answers) or not set(keys) <= set(table):
        return table
    written = answers[answers.tokens > 0]
    shares = (2 * written["repeat"] >= written.tokens).groupby([written[name] for name in keys], dropna=False).mean()
    return table.merge(shares.rename("repeating").reset_index(), on=keys, how="left")


def _outcome(run: Run) -> Block | None:
    if not holds(run, "table:steering"):
        return None
    table = _conditions(run)
    wanted = [
        "source", "target", "condition", "method", "layer", "alpha", "success", "success_low", "success_high",
        "repeating", "broken_share", "distinct_2", "n", "p", "why",
    ]  # fmt: skip
    table = table[[name for name in wanted if name in table]]
    if holds(run, "table:damage") and set(SETTING) <= set(table):
        lost = run.table("damage")
        lost = lost[(lost.condition == "steered") & (lost.role == "target")]
        lost = lost[[*SETTING, "delta_nll", "delta_nll_low", "delta_nll_high"]].drop_duplicates(SETTING)
        table = table.merge(lost, on=SETTING, how="left")
        table = table[[name for name in table if name != "why"] + (["why"] if "why" in table else [])]
    caption = (
        "Success is the share of answers in the target; read it with the share of answers of which one "
        "repeated stretch makes up half or more (repeating), "
        "that of broken letters, and ΔNLL of the target's own text (nats a token): an answer of one word over and over "
        "can be in the right language and say nothing. Intervals: 95 %, over documents."
    )
    return Table("steering-outcome", "Success beside damage and repetition", caption, table)


def _success(run: Run) -> Block | None:
    if not holds(run, "table:steering"):
        return None
    whole = _conditions(run)
    views: list[Variant] = []
    for (source, target), rows in whole.groupby(["source", "target"], sort=False):
        labels = [_label(row) for row in rows.to_dict("records")]
        place = language_place(run, str(target))
        traces = [shapes.bars(labels, rows.success, "success", place, rows.success_low, rows.success_high)]
        for name, title, index in (("repeating", "repeating answers", 7), ("broken_share", "broken letters", 3)):
            if name in rows:
                traces.append(shapes.bars(labels, rows[name], title, index))
                traces[-1]["marker"]["pattern"] = {"shape": "x" if name == "repeating" else "."}
        described = shapes.layout("", "share of answers", barmode="group")
        described["xaxis"] |= shapes.categories()
        described["yaxis"]["range"] = [0, 1.02]
        views.append(Variant(f"{source}→{target}", {"data": traces, "layout": described}, rows.reset_index(drop=True)))
    words = shapes.interval_words(whole, "success_low", "success_high")
    caption = (
        "Success beside the shares of answers that repeat themselves and of broken letters, which have no interval. "
        f"High bars of both kinds together are broken text, not success. {words}"
    )
    return Chart("steering-success", "Success and broken text", caption, variants=views, choose="Pair",
                 twin="steering_strength")  # fmt: skip


def _label(row: dict[str, Any]) -> str:
    if row["condition"] != "steered":
        return str(row["condition"])
    place = "" if row["layer"] < 0 else f", layer {row['layer']:g}"
    return f"{row['method']}{place}, α {row['alpha']:g}"


def _damage(run: Run) -> Block | None:
    if not holds(run, "table:damage"):
        return None
    whole = run.table("damage")
    views: list[Variant] = []
    for (source, target), rows in whole.groupby(["source", "target"], sort=False):
        traces: list[dict[str, Any]] = []
        for code, own in rows[rows.condition == "steered"].groupby("language", sort=False):
            labels = [_label(row) for row in own.to_dict("records")]
            bounds = own.delta_nll_low, own.delta_nll_high
            traces.append(shapes.bars(labels, own.delta_nll, str(code), language_place(run, str(code)), *bounds))
        described = shapes.layout("", "ΔNLL, nats a token", barmode="group")
        described["xaxis"] |= shapes.categories()
        views.append(Variant(f"{source}→{target}", {"data": traces, "layout": described}, rows.reset_index(drop=True)))
    words = shapes.interval_words(whole, "delta_nll_low", "delta_nll_high")
    caption = f"How much worse the steered model predicts held-out text of each language; 0 is no damage. {words}"
    return Chart("steering-damage", "Damage", caption, variants=views, choose="Pair", twin="steering_layers")


def _front(run: Run) -> Block | None:
    if not holds(run, "table:front"):
        return None
    views: list[Variant] = []
    for (source, target), rows in run.table("front").groupby(["source", "target"], sort=False):
        traces = [
            {
                "type": "scatter", "mode": "markers", "name": shapes.text(method), "x": own.delta_nll.tolist(),
                "y": own.success.tolist(), "marker": {"symbol": shapes.SYMBOLS[index % 10], "size": 9,
                                                       "color": shapes.COLOURS[index % len(shapes.COLOURS)]},
                "text": [shapes.text(f"layer {row.layer:g}, α {row.alpha:g}, longest repeat {row.repeat:.1f} tokens")
                         for row in own.itertuples()],
            }
            for index, (method, own) in enumerate(rows.groupby("method", sort=False))
        ]  # fmt: skip
        described = shapes.layout("ΔNLL of the target's text, nats a token", "success")
        views.append(Variant(f"{source}→{target}", {"data": traces, "layout": described}, rows.reset_index(drop=True)))
    caption = (
        "Every layer and strength that was tried, on the documents by which one is chosen, not on those reported; no "
        "intervals. Above left is better; the longest repeat, in tokens, shows when a point is pointed at."
    )
    return Chart("steering-front", "Success against damage", caption, variants=views, choose="Pair",
                 twin="steering_front")  # fmt: skip


def _answers(run: Run) -> Block | None:
    if not holds(run, "table:answers"):
        return None
    table = run.table("answers")
    language = "target" if "target" in table else "language"
    first = [name for name in (language, "condition", "method", "prompt", "text", "kind", "repeat") if name in table]
    table = table[[*first, *(name for name in table if name not in first)]]
    texts = tuple(name for name in ("prompt", "text") if name in table)
    caption = f"What was written, and how it was judged ({len(table)} answers). Read some before you believe a rate."
    return Table("answers", "Answers", caption, table, text_columns=texts, language_column=language)


def _pass_rate(run: Run) -> Block | None:
    if not holds(run, "table:confusion"):
        return None
    whole = run.table("confusion")
    table = whole[(whole.language != "all") & (whole["set"] != "all")]
    views: list[Variant] = []
    for key, rows in table.groupby(["model", "task", "set"], sort=False):
        traces = [
            shapes.bars([code], own.lpr, str(code), language_place(run, str(code)), own.lpr_low, own.lpr_high)
            for code, own in rows.groupby("language", sort=False)
        ]
        described = shapes.layout("", "answers in the language (LPR)", showlegend=False)
        described["xaxis"] |= shapes.categories()
        described["yaxis"]["range"] = [0, 1.02]
        label = ", ".join(str(part) for part in key if part)
        views.append(Variant(label, {"data": traces, "layout": described}, rows.reset_index(drop=True)))
    caption = (
        "Share of answers whose every line is in the language that was asked for, of those with a line long enough to "
        f"tell. {shapes.interval_words(table, 'lpr_low', 'lpr_high')}"
    )
    return Chart("confusion-rates", "Pass rate by language", caption, variants=views, choose="Set")


def _kinds(run: Run) -> Block | None:
    if not holds(run, "table:confusion"):
        return None
    whole = run.table("confusion")
    table = whole[(whole.language != "all") & (whole["set"] != "all")]
    views: list[Variant] = []
    for (model, task), rows in table.groupby(["model", "task"], sort=False):
        counts = rows.groupby("language", sort=False)[list(KINDS)].sum()
        traces = [shapes.bars(counts.index, [float(row[kind]) for row in counts.to_dict("records")], title, index)
                  for index, (kind, title) in enumerate(KINDS.items())]  # fmt: skip
        described = shapes.layout("", "answers", barmode="stack")
        described["xaxis"] |= shapes.categories()
        label = ", ".join(str(part) for part in (model, task) if part)
        views.append(Variant(label, {"data": traces, "layout": described}, counts.reset_index()))
    caption = "How many answers stay in the language, hold a foreign word or line, are all foreign, or too short."
    return Chart("confusion-kinds", "Kinds of confusion", caption, variants=views, choose="Task",
                 twin="confusion_languages")  # fmt: skip
