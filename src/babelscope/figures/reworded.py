"""A figure with every text that we wrote ourselves said in another way; names that were found stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from babelscope.figures.spec import (
    Axis,
    Bars,
    Cells,
    Code,
    Figure,
    Histogram,
    Key,
    Label,
    Line,
    Mark,
    Panel,
    Rule,
    Strip,
)

Saying = Callable[[str], str]


def reworded(figure: Figure, say: Saying) -> Figure:
    """Title, caption, axes and legends through `say`."""
    return replace(
        figure,
        title=say(figure.title),
        caption=say(figure.caption),
        about=say(figure.about),
        panels=tuple(_panel(panel, say) for panel in figure.panels),
        names=tuple(map(say, figure.names)),
    )


def _panel(panel: Panel, say: Saying) -> Panel:
    marks = tuple(_mark(mark, say) for mark in panel.marks)
    return replace(panel, marks=marks, x=_axis(panel.x, say), y=_axis(panel.y, say), title=_label(panel.title, say))


def _axis(axis: Axis, say: Saying) -> Axis:
    return replace(axis, label=say(axis.label))


def _mark(mark: Mark, say: Saying) -> Mark:
    if isinstance(mark, Cells):
        return replace(mark, label=say(mark.label))
    if isinstance(mark, Line | Bars | Histogram):
        return replace(mark, name=_label(mark.name, say))
    if isinstance(mark, Rule | Strip | Key):
        return replace(mark, name=say(mark.name))
    return mark


def _label(label: Label, say: Saying) -> Label:
    return say(label) if isinstance(label, str) and not isinstance(label, Code) else label
