"""Pages of steering and confusion: success beside its price, kinds of sentences, and hostile text as text."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from babelscope.findings import findings_of
from babelscope.report import build_page
from babelscope.results import RunWriter, open_run

from .synthetic_runs import HOSTILE

NAN = float("nan")
TEXTS = [f"{text} fin" for text in HOSTILE] * 3


def write_steering(path, p=0.05, draws=19):
    pair = {"source": "en", "target": "fr"}
    chosen = {"method": "diffmean", "layer": 2, "alpha": 1.5}
    plain = {"condition": "unsteered", "success": 0.0, "success_low": 0.0, "success_high": 0.2, "repeat": 1.7}
    steered = {"condition": "steered", "success": 0.9, "success_low": NAN, "success_high": NAN, "repeat": 9.0}
    lost = {**pair, **chosen, "condition": "steered", "delta_nll_low": 0.1, "delta_nll_high": 0.3, "delta_nll": 0.2}
    tables = {
        "steering": [{**pair, **plain, "n": 6}, {**pair, **chosen, **steered, "n": 6, "p": p, "draws": draws}],
        "damage": [{**lost, "language": "fr", "role": "target"}, {**lost, "language": "en", "role": "source"}],
        "front": [{**pair, **chosen, "success": 0.9, "delta_nll": 0.2, "front_share": 1.0, "repeat": 0.8}],
        "controls": [{**pair, **chosen, "control": "random", "draw": 0, "success": 0.1}],
        "answers": [
            {**pair, **chosen, "condition": "steered", "prompt": text, "text": text, "tokens": 10, "repeat": repeat}
            for text, repeat in zip(TEXTS, [5] * 12 + [4] * 3)
        ],
    }
    with RunWriter(path, kind="steering") as run:
        for name, rows in tables.items():
            run.table(name, pd.DataFrame(rows))
        run.manifest.update(languages=["en", "fr"], model={"id": "toy/babel"}, summary={"sentences": [HOSTILE[0]]})
    return open_run(path)


def write_confusion(path):
    row = {
        "model": "toy",
        "task": "monolingual",
        "set": "own",
        "word": 0,
        "line": 1,
        "full": 2,
        "skipped": 1,
        "none": 3,
        "answers": 7,
        "counted": 6,
        "acc": 0.6,
        "wpr": NAN,
        "lcpr": NAN,
    }
    rows = [
        {**row, "language": "fr", "lpr": 0.5, "lpr_low": 0.2, "lpr_high": 0.8, "why": ""},
        {**row, "language": "ar", "lpr": NAN, "lpr_low": NAN, "lpr_high": NAN, "why": "no answers"},
    ]
    with RunWriter(path, kind="confusion") as run:
        run.table("confusion", pd.DataFrame(rows))
        run.table("answers", pd.DataFrame([{"language": "fr", "text": text, "kind": "full"} for text in TEXTS]))
        run.manifest.update(languages=["fr", "ar"], model={"id": "toy/babel"}, summary={"sentences": ["50 % stay."]})
    return open_run(path)


def figure_of(html, name):
    figure = html[html.index(f'<figure id="r0-{name}"') :]
    return figure[: figure.index("</figure>")]


def data_of(html, name):
    return json.loads(re.search(r'class="data">(.*?)</script>', figure_of(html, name), re.S)[1])


def test_success_stands_beside_repetition_and_damage(tmp_path):
    html = build_page([write_steering(tmp_path / "run")], static=False)
    assert "could not be made from this run" not in html
    table = figure_of(html, "steering-outcome")
    assert '<td class="number">0.9</td>' in table
    assert '<td class="number">0.8</td>' in table
    assert '<td class="number">0.20 (0.10 to 0.30)</td>' in table
    assert "In every row the same: From: English; To: French; n: 6." in table
    assert 'title="negative log-likelihood with minus without the edit (ΔNLL); in brackets its 95 %' in table
    success, repeat, random = data_of(html, "steering-success")["variants"][0]["figure"]["data"]
    assert (success["y"], repeat["y"], repeat["name"]) == ([0.0, 0.9], [None, 0.8], "repeating answers")
    assert random["name"] == "random"  # the grey strip has its words in the legend
    assert success["error_y"]["array"] == [pytest.approx(0.2), None]
    assert "error_y" not in repeat
    french, english = data_of(html, "steering-damage")["variants"][0]["figure"]["data"]
    assert french["marker"]["color"] == success["marker"]["color"] != english["marker"]["color"]


def test_a_rate_of_nothing_has_no_whisker(tmp_path):
    html = build_page([write_confusion(tmp_path / "run")], static=False)
    assert "could not be made from this run" not in html
    assert "50\u00a0% stay." in html
    [rates] = data_of(html, "confusion-rates")["variants"][0]["figure"]["data"]
    assert rates["y"] == [0.5, None]
    assert rates["error_y"]["array"] == [pytest.approx(0.3), None]
    assert rates["marker"]["color"][0] != rates["marker"]["color"][1]


def test_hostile_text_is_text_and_long_tables_are_folded(tmp_path):
    for run in (write_steering(tmp_path / "steering"), write_confusion(tmp_path / "confusion")):
        html = build_page([run], static=False)
        assert "<script>window" not in html
        assert "<img src=x" not in html
        assert "\u202e" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)
        assert "5 more rows are in the download." in figure_of(html, "answers")


@pytest.mark.parametrize(("p", "draws", "kind"), [
    (0.05, 19, "effect"), (0.4, 19, "none"), (1 / 3, 2, "undecided"), (NAN, NAN, "undecided"),
])  # fmt: skip
def test_success_that_random_edits_reach_is_no_effect(tmp_path, p, draws, kind):
    assert [one.kind for one in findings_of(write_steering(tmp_path / "run", p, draws))] == [kind]
