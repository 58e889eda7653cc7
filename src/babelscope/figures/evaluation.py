"""Figures of an evaluation: right answers by language, whole and with something switched off."""

from __future__ import annotations

from collections.abc import Sequence

from babelscope.errors import InputError
from babelscope.figures.facts import chosen, distinct, interval_words
from babelscope.figures.register import View, figure
from babelscope.figures.spec import NAN, Axis, Bars, Code, Figure, Label, Panel, Rule
from babelscope.results import Run
from babelscope.results.schemas.evaluation import BASE, MEANS, RANDOM, answered


def _tasks(run: Run) -> list[View]:
    return [View(name, {"task": name}) for name in answered(run)]


@figure("evaluation", views=_tasks, choose="Task")
def right_answers(run: Run, task: str | None = None) -> Figure:
    """Share of right answers by language: the whole model, and each condition beside its random controls."""
    tables = answered(run)
    if not tables:
        raise InputError("the run holds no share of right answers")
    task = chosen(task, list(tables), "task")
    rows = tables[task]
    languages = distinct(row.language for row in rows)
    conditions = sorted(distinct(row.condition for row in rows), key=lambda name: (name != BASE, RANDOM in name))
    by = {(row.language, row.condition): row for row in rows}
    marks = [
        Bars(_name(condition), *(
            [getattr(by[code, condition], part) if (code, condition) in by else NAN for code in languages]
            for part in ("accuracy", "low", "high")
        ), colour=-1 - place)
        for place, condition in enumerate(conditions)
    ]  # fmt: skip
    chances = {row.chance for row in rows if row.language not in MEANS}
    chance = tuple(Rule(one, "chance", dash="dotted") for one in chances if len(chances) == 1 and one == one)
    names: list[Label] = [code if code in MEANS else Code(code) for code in languages]
    counts = [int(row.n) for row in rows if row.n == row.n and row.language not in MEANS]
    few, most = (min(counts), max(counts)) if counts else (0, 0)
    n = f"n = {few}{f' to {most}' if most > few else ''} items a language" if counts else "n unknown"
    caption = (
        f"Share of right answers by language ({task}; {n}), with the whole model{_beside(conditions)}. "
        f"{interval_words([row.low for row in rows], [row.high for row in rows])}"
        + (" Others: all languages but English." if "others" in languages else "")
    )
    panel = Panel((*marks, *chance), Axis("", tuple(names)), Axis("right answers", low=0.0, high=1.05))
    return Figure("Right answers", caption, (panel,), about=f"{run.model_name}, {task}",
                  min_width=120 + 22 * len(languages) * len(conditions))  # fmt: skip


def _beside(conditions: Sequence[str]) -> str:
    """What stands beside the whole model."""
    if set(conditions) <= {BASE}:
        return ""
    random = "; random: as many random neurons of the same layers, or a random direction"
    return " and with each region or edit" + (random if any(RANDOM in name for name in conditions) else "")


def _name(condition: str) -> Label:
    if condition == BASE:
        return "whole model"
    region, comma, rest = condition.partition(RANDOM)
    return (Code(region), "switched off" if not comma else f"{RANDOM}{rest}".removeprefix(", "))
