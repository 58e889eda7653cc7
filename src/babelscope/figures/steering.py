"""Figures of steering: success never stands without its price and its controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan

import numpy as np
import pandas as pd

from babelscope.figures.facts import chosen, distinct, frame_of, grouped, interval_words, languages_axis, rows_of
from babelscope.figures.palette import language_place
from babelscope.figures.register import View, figure
from babelscope.figures.spec import NAN, Axis, Bars, Cells, Code, Figure, Line, Panel, Points, Rule, Strip
from babelscope.results import Run
from babelscope.results.schemas.steering import (
    Answer,
    Confusion,
    Damage,
    Fidelity,
    Front,
    Steered,
    SteeringControl,
)
from babelscope.wording import decimals

RANDOM = ("random", "random-neurons")
STEERED = "steered"
LIMITS = (0.1, 0.3, 1.0)
SHARE = Axis("share of answers", low=0.0, high=1.02)
KINDS: dict[str, tuple[str, int, Callable[[Confusion], float]]] = {
    "none": ("in the language", 2, lambda row: row.kinds.none),
    "word": ("a foreign word", 5, lambda row: row.kinds.word),
    "line": ("a foreign line", 1, lambda row: row.kinds.line),
    "full": ("all foreign", 3, lambda row: row.kinds.full),
    "skipped": ("too short to tell", 7, lambda row: row.kinds.skipped),
}
"""kinds of confusion: name, colour, count"""


def _pair(row: Front | Steered | Damage | SteeringControl | Fidelity) -> str:
    return f"{row.source}→{row.target}"


def _front_pairs(run: Run) -> list[View]:
    return [View(pair, {"pair": pair}) for pair in distinct(_pair(row) for row in rows_of(run, Front))]


def _steered_pairs(run: Run) -> list[View]:
    return [View(pair, {"pair": pair}) for pair in distinct(_pair(row) for row in rows_of(run, Steered))]


def _damaged_pairs(run: Run) -> list[View]:
    return [View(pair, {"pair": pair}) for pair in distinct(_pair(row) for row in rows_of(run, Damage))]


def condition_text(condition: str, method: str, layer: float, alpha: float) -> str:
    """`diffmean, layer 3, α 1.5`; the condition where nothing was steered."""
    if condition != STEERED:
        return condition
    place = "" if isnan(layer) or layer < 0 else f", layer {layer:g}"
    return f"{method}{place}, α {alpha:g}"


def repeating(run: Run) -> Callable[[Steered], float]:
    """Share of a condition's answers of which one repeated stretch makes up half of the tokens or more."""
    shares: dict[tuple[object, ...], list[bool]] = {}
    for row in rows_of(run, Answer):
        if row.judged.tokens > 0:
            shares.setdefault(_key(row), []).append(row.judged.loops)

    def share(row: Steered) -> float:
        own = shares.get(_key(row))
        return sum(own) / len(own) if own else NAN

    return share


def _key(row: Answer | Steered) -> tuple[object, ...]:
    place = None if isnan(row.layer) else row.layer
    return row.source, row.target, row.condition, row.method, place, None if isnan(row.alpha) else row.alpha


@figure("steering", "table:steering", views=_steered_pairs, choose="Pair")
def steering_success(run: Run, pair: str | None = None) -> Figure:
    """Success beside the shares of answers that repeat themselves and of broken letters, and random directions."""
    every = rows_of(run, Steered)
    pair = chosen(pair, distinct(map(_pair, every)), "pair")
    rows = [row for row in every if _pair(row) == pair]
    names = tuple(condition_text(row.condition, row.method, row.layer, row.alpha) for row in rows)
    repeats = repeating(run)
    marks: list[Bars | Strip] = [
        Bars("success", [row.success for row in rows], [row.success_low for row in rows],
             [row.success_high for row in rows], language_place(run, rows[0].target)),
        Bars("repeating answers", [repeats(row) for row in rows], colour=7),
        Bars("broken letters", [row.written.broken_share for row in rows], colour=5),
    ]  # fmt: skip
    marks = [mark for mark in marks if isinstance(mark, Bars) and any(value == value for value in mark.heights)]
    marks += _random_strip(run, pair)
    words = interval_words([row.success_low for row in rows], [row.success_high for row in rows],
                           [row.why for row in rows if isnan(row.success_low)])  # fmt: skip
    caption = (
        "Success beside the shares of answers that repeat themselves and of broken letters, which have no interval. "
        f"High bars of both kinds together are broken text, not success. {words}{_strip_words(marks)}"
    )
    table = run.table("steering")
    data = table.loc[(table["source"] == rows[0].source) & (table["target"] == rows[0].target)]
    panel = Panel(tuple(marks), Axis("", names), SHARE, data=data)
    return Figure("Success and broken text", caption, (panel,), about=f"{run.model_name}, {pair}")


def _random_strip(run: Run, pair: str) -> list[Bars | Strip]:
    values = [row.success for row in rows_of(run, SteeringControl) if row.control in RANDOM and _pair(row) == pair]
    known = [value for value in values if value == value]
    return [Strip(min(known), max(max(known), 0.005), "random")] if known else []


def _strip_words(marks: Sequence[object]) -> str:
    if any(isinstance(mark, Strip) for mark in marks):
        return " Grey: success of random edits of the same place and size, least to greatest draw."
    return " No random edits were drawn."


@figure("steering", "table:damage", views=_damaged_pairs, choose="Pair")
def steering_damage(run: Run, pair: str | None = None) -> Figure:
    """How much worse the steered model predicts held-out text of each language."""
    every = rows_of(run, Damage)
    pair = chosen(pair, distinct(map(_pair, every)), "pair")
    rows = [row for row in every if _pair(row) == pair and row.condition == STEERED]
    names = distinct(condition_text(row.condition, row.method, row.layer, row.alpha) for row in rows)
    marks: list[Bars | Rule] = []
    for code, own in grouped(rows, lambda row: row.language):
        by_name = {condition_text(row.condition, row.method, row.layer, row.alpha): row for row in own}
        ends = [(one.delta_nll, one.delta_nll_low, one.delta_nll_high) if (one := by_name.get(name)) else (NAN,) * 3
                for name in names]  # fmt: skip
        marks.append(Bars(Code(code), *([end[part] for end in ends] for part in range(3)),
                          colour=language_place(run, code)))  # fmt: skip
    words = interval_words([row.delta_nll_low for row in rows], [row.delta_nll_high for row in rows],
                           [row.why for row in rows])  # fmt: skip
    caption = f"How much worse the steered model predicts held-out text of each language; 0 is no damage. {words}"
    axes = Axis("", tuple(names)), Axis("ΔNLL, nats a token")
    data = frame_of(row for row in every if _pair(row) == pair)
    return Figure("Damage", caption, (Panel((*marks, Rule(0.0)), *axes, data=data),), about=f"{run.model_name}, {pair}")


@figure("steering", "table:front", "table:steering", views=_front_pairs, choose="Pair")
def steering_strength(run: Run, pair: str | None = None) -> Figure:
    """Success, rise of the target's loss and fidelity by strength, each method at its best layer.

    Lines: documents by which settings are chosen. Points with intervals: documents that are reported on. Grey: success
    of random directions or neurons of the same place and size.
    """
    every = rows_of(run, Front)
    pair = chosen(pair, distinct(map(_pair, every)), "pair")
    front = [row for row in every if _pair(row) == pair]
    told = [row for row in rows_of(run, Steered) if _pair(row) == pair and row.condition == STEERED]
    faith = [row for row in rows_of(run, Fidelity) if _pair(row) == pair]
    success: list[Line | Points | Strip | Bars] = []
    rise: list[Line] = []
    said: list[Points] = []
    for place, (method, rows) in enumerate(grouped(front, lambda row: row.method)):
        reported = [row for row in told if row.method == method]
        layer = reported[0].layer if reported else rows[0].layer
        own = sorted((row for row in rows if row.layer == layer), key=lambda row: row.alpha)
        name = method if layer < 0 else f"{method}, layer {layer:g}"
        alphas = [row.alpha for row in own]
        success.append(Line(name, alphas, [row.success for row in own], colour=place))
        rise.append(Line(name, alphas, [row.delta_nll for row in own], colour=place))
        at = [row for row in reported if row.layer == layer]
        success.append(
            Points(
                "",
                [row.alpha for row in at],
                [row.success for row in at],
                [row.success_low for row in at],
                [row.success_high for row in at],
                place,
                large=True,
            )
        )
        known = [row for row in faith if (row.method, row.layer) == (method, layer) and not isnan(row.kept.value)]
        said.append(Points(name, [row.alpha for row in known], [row.kept.value for row in known],
                           [row.kept.low for row in known], [row.kept.high for row in known], place))  # fmt: skip
    success += _random_strip(run, pair)
    x = Axis("strength α")
    panels = [
        Panel(tuple(success), x, Axis("success", low=-0.03, high=1.03), "success"),
        Panel((*rise, Rule(0.0)), x, Axis("ΔNLL of the target, nats"), "damage"),
    ]
    if any(len(points.x) for points in said):
        panels.append(Panel((*said, Rule(0.0)), x, Axis("fidelity"), "fidelity"))
    caption = (
        "Success, rise of the target's loss and fidelity by strength, each method at the layer that was chosen. Lines: "
        "documents by which settings are chosen, without intervals, since they chose. Large points: documents that are "
        f"reported on, with 95 % intervals over documents.{_strip_words(success)}"
    )
    return Figure("By strength", caption, tuple(panels), about=f"{run.model_name}, {pair}")


@figure("steering", "table:front", views=_front_pairs, choose="Pair")
def steering_front(run: Run, pair: str | None = None) -> Figure:
    """Success against the rise of the target's loss, every setting; large: on the front in half of document draws."""
    every = rows_of(run, Front)
    pair = chosen(pair, distinct(map(_pair, every)), "pair")
    rows = [row for row in every if _pair(row) == pair]
    marks: list[Points | Rule] = []
    for place, (method, own) in enumerate(grouped(rows, lambda row: row.method)):
        for large in (False, True):
            kept = [row for row in own if (row.front_share >= 0.5) is large]
            texts = tuple(
                f"layer {row.layer:g}, α {row.alpha:g}, longest repeat {row.written.repeat:.1f} tokens" for row in kept
            )
            if kept:
                name = "" if large and len(kept) < len(own) else method
                marks.append(Points(name, [row.delta_nll for row in kept], [row.success for row in kept], colour=place,
                                    texts=texts, large=large))  # fmt: skip
    named = f"limits {', '.join(f'{limit:g}' for limit in LIMITS)}"
    marks += [Rule(limit, "" if place else named, "y", dash="dotted") for place, limit in enumerate(LIMITS)]
    caption = (
        "Every layer and strength that was tried, on the documents by which one is chosen, not on those reported; no "
        "intervals. Above left is better; large points are on the front in half of the draws of documents or more. The "
        "longest repeat, in tokens, shows when a point is pointed at."
    )
    axes = Axis("ΔNLL of the target's text, nats a token"), Axis("success", low=-0.03, high=1.03)
    data = frame_of(rows)
    return Figure("Success against damage", caption, (Panel(tuple(marks), *axes, data=data),),
                  about=f"{run.model_name}, {pair}")  # fmt: skip


@figure("steering", "table:front", views=_front_pairs, choose="Pair")
def steering_layers(run: Run, pair: str | None = None) -> Figure:
    """Success by layer and strength of the first method along directions, on the documents by which one is chosen."""
    every = rows_of(run, Front)
    pair = chosen(pair, distinct(map(_pair, every)), "pair")
    front = [row for row in every if _pair(row) == pair]
    front = [row for row in front if row.layer >= 0] or front
    front = [row for row in front if row.method == front[0].method]
    layers, alphas = sorted({row.layer for row in front}), sorted({row.alpha for row in front})
    values = np.full((len(layers), len(alphas)), np.nan)
    texts = [["" for _ in alphas] for _ in layers]
    for row in front:
        place = layers.index(row.layer), alphas.index(row.alpha)
        values[place] = row.success
        texts[place[0]][place[1]] = f"{_share(row.success)}\n{_added(row.delta_nll)}"
    cells = Cells(values, "success", low=0.0, high=1.0, texts=tuple(map(tuple, texts)))
    caption = (
        f"Success of {front[0].method} by layer and strength, with the rise of the target's loss in nats a token below "
        "it, on the documents by which one setting is chosen; no intervals, since they chose."
    )
    axes = Axis("strength α", tuple(f"{alpha:g}" for alpha in alphas)), Axis("layer", tuple(f"{v:g}" for v in layers))
    panel = Panel((cells,), *axes, data=frame_of(front))
    return Figure("By layer and strength", caption, (panel,), about=f"{run.model_name}, {pair}, {front[0].method}",
                  height=160 + 44 * len(layers))  # fmt: skip


def _added(value: float) -> str:
    """With its sign; nothing on zero.

    >>> _added(0.284), _added(-0.034), _added(0.001)
    ('+0.28', '−0.03', '0.00')
    """
    said = decimals(value)
    return f"+{said}" if value >= 0.005 else said


def _share(value: float) -> str:
    return "–" if isnan(value) else f"{100 * value:.0f} %"


def _methods(run: Run) -> list[View]:
    names = distinct(row.method for row in rows_of(run, Steered) if row.condition == STEERED)
    return [View(name, {"method": name}) for name in names]


def _random(row: Steered) -> float:
    return row.random_neurons if isnan(row.random) else row.random


@figure("steering", "table:steering", views=_methods, choose="Method")
def steering_pairs(run: Run, method: str | None = None) -> Figure:
    """Success from every source to every target, at the setting chosen under the study's limit; reported documents."""
    every = [row for row in rows_of(run, Steered) if row.condition == STEERED]
    method = chosen(method, distinct(row.method for row in every), "method")
    first: dict[tuple[str, str], Steered] = {}
    for row in every:
        if row.method == method:
            first.setdefault((row.source, row.target), row)
    sources, targets = distinct(a for a, _ in first), distinct(b for _, b in first)
    panels: list[Panel] = []
    for title, value in (("success", lambda row: row.success), ("random edits", _random)):
        grid = np.full((len(sources), len(targets)), np.nan)
        for (source, target), row in first.items():
            grid[sources.index(source), targets.index(target)] = value(row)
        texts = tuple(tuple("–" if isnan(v) else f"{100 * v:.0f}" for v in line) for line in grid.tolist())
        cells = Cells(100 * grid, "% of answers in the target", low=0.0, high=100.0, texts=texts)
        axes = languages_axis(targets, "target"), languages_axis(sources, "prompts in")
        panels.append(Panel((cells,), *axes, title, data=frame_of(first.values())))
    caption = (
        f"Share of answers in the target, in percent, from every source to every target by {method}, at the setting "
        "chosen under the study's limit, on reported documents; beside it random edits of the same place and size. "
        "Intervals are in the download."
    )
    return Figure("All pairs", caption, tuple(panels), about=f"{run.model_name}, {method}")


def _own_rows(run: Run) -> list[Confusion]:
    return [row for row in rows_of(run, Confusion) if row.language != "all" and row.set_ != "all"]


def _sets(run: Run) -> list[View]:
    keys = distinct((row.model, row.task, row.set_) for row in _own_rows(run))
    return [View(", ".join(part for part in key if part), {"model": key[0], "task": key[1], "prompt_set": key[2]})
            for key in keys]  # fmt: skip


@figure("confusion", "table:confusion", views=_sets, choose="Set")
def confusion_rates(
    run: Run, model: str | None = None, task: str | None = None, prompt_set: str | None = None
) -> Figure:
    """Share of answers whose every line is in the language that was asked for, by language."""
    every = _own_rows(run)
    key = (every[0].model if model is None else model, every[0].task if task is None else task,
           every[0].set_ if prompt_set is None else prompt_set)  # fmt: skip
    rows = [row for row in every if (row.model, row.task, row.set_) == key]
    languages = [row.language for row in rows]
    low, high = [row.lpr_low for row in rows], [row.lpr_high for row in rows]
    bars = Bars("answers in the language", [row.rates.lpr for row in rows], low, high,
                colours=tuple(language_place(run, code) for code in languages))  # fmt: skip
    caption = (
        "Share of answers whose every line is in the language that was asked for, of those with a line long enough to "
        f"tell. {interval_words(low, high, [row.why for row in rows])} The identifier's own ceiling stands in its "
        "table: no rate above it means anything."
    )
    axes = languages_axis(languages), Axis("answers in the language (LPR)", low=0.0, high=1.02)
    panel = Panel((bars,), *axes, data=frame_of(rows))
    return Figure("Pass rate by language", caption, (panel,), about=", ".join(part for part in key if part))


def _tasks(run: Run) -> list[View]:
    keys = distinct((row.model, row.task) for row in _own_rows(run))
    return [View(", ".join(part for part in key if part), {"model": key[0], "task": key[1]}) for key in keys]


@figure("confusion", "table:confusion", views=_tasks, choose="Task")
def confusion_kinds(run: Run, model: str | None = None, task: str | None = None) -> Figure:
    """Answers by language: right, a foreign word, a foreign line, all foreign, too short to tell."""
    every = _own_rows(run)
    key = every[0].model if model is None else model, every[0].task if task is None else task
    rows = [row for row in every if (row.model, row.task) == key]
    languages = distinct(row.language for row in rows)
    counts = {
        kind: [float(np.nansum([count(row) for row in rows if row.language == code])) for code in languages]
        for kind, (_, _, count) in KINDS.items()
    }
    marks = tuple(Bars(title, counts[kind], colour=place) for kind, (title, place, _) in KINDS.items())
    total = int(sum(sum(values) for values in counts.values()))
    caption = (
        "How many answers stay in the language, hold a foreign word or line, are all foreign, or are too short to tell "
        f"(n = {total}). No intervals: counts; those of the rates stand above."
    )
    data = pd.DataFrame({"language": languages, **counts})
    panel = Panel(marks, languages_axis(languages), Axis("answers"), bars="stack", data=data)
    return Figure("Kinds of confusion", caption, (panel,), about=", ".join(part for part in key if part))
