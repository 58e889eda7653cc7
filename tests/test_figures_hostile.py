"""Hostile labels are harmless in every figure."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from babelscope import figures
from babelscope.figures.page import plots, text
from babelscope.figures.spec import Axis, Bars, Cells, Code, Figure, Line, Panel, Points, Rule, Strip

from .synthetic_runs import HOSTILE

# ---- hostile labels ----

NASTY = [
    *HOSTILE,
    r"$\frac{",
    "$x^2$ and $",
    "%{y}",
    "a\x00b\x1b[31mc",
    "\ud800",
    "<b onclick=alert(1)>",
    "&lt;",
    "\\$",
]


def nasty_figure(name):
    """A figure in which one text stands everywhere that text from a run can stand."""
    values = np.array([[0.1, 0.9]])
    panels = (
        Panel((Line(name, (0.0, 1.0), (0.0, 1.0)), Line("other", (0.0, 1.0), (1.0, 0.0)), Rule(0.5, name),
               Strip(0.1, 0.2, name)), Axis(name), Axis(name), name),
        Panel((Bars(name, (1.0, 2.0), texts=(name, name)), Bars("other", (1.0, 2.0))),
              Axis(name, names=(name, Code(name)))),
        Panel((Cells(values, name, texts=((name, name),)),), Axis(names=(name, name)), Axis(name, names=(name,))),
        Panel((Points(name, (0.0, 1.0), (0.0, 1.0), texts=(name, name), named=(0, 1)),), Axis(), Axis(), (name, name)),
    )  # fmt: skip
    return Figure(name, name, panels, about=name)


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_hostile_labels_are_harmless_on_paper(name, tmp_path):
    from xml.etree import ElementTree

    path = figures.save_figure(figures.printed(nasty_figure(name)), tmp_path / "x.svg")
    told = path.read_text(encoding="utf-8")
    tree = ElementTree.fromstring(told)  # noqa: S314 (we wrote it)
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert not tags & {"script", "img", "a", "b", "foreignObject"}
    assert not any(key.startswith("on") for element in tree.iter() for key in element.attrib)
    assert not set("\u202e\u202c\u2066\u2069\x00\x1b") & set(told)
    if name == "$x^2$ and $":  # written as it is, not as mathematics
        assert any("$x^2$ and $" in (element.text or "") for element in tree.iter())


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_hostile_labels_are_harmless_on_pages(name):
    figure = nasty_figure(name)
    told = json.dumps([view.plot for view in plots(figure)], ensure_ascii=False)
    assert not re.search(r"<(?!br>|extra></extra>|/extra>)", told)
    assert not set("\u202e\u202c\u2066\u2069\x1b\ud800") & set(told)
    # no text of a run inside a template, where "%{" names a place for a number
    templates = re.findall(r'"hovertemplate": "([^"]*)"', told)
    assert templates
    assert all(re.sub(r"%\{(text|x|y|customdata\[[01]\])\}", "", one).count("%{") == 0 for one in templates)
    assert all("%{y}" not in view for view in re.findall(r'"(?:name|ticktext|title)": "([^"]*)"', told))
    assert text("a<b>\nc") == "a&lt;b&gt;<br>c"
