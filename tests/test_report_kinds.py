"""The page of every kind of run: its question, headings in words, nothing empty, nothing too wide, no barrier."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pandas as pd
import pytest

from babelscope.findings import findings_of
from babelscope.report import build_page, write_report
from babelscope.report.blocks import Table
from babelscope.report.graph import circuit_drawing
from babelscope.report.tables import shown_table
from babelscope.results import RunWriter, open_run

from .browser import launched, violations
from .synthetic_circuits import write_circuits
from .synthetic_latent import write_latent
from .synthetic_runs import write_regions, write_sweep
from .test_report_studies import write_confusion, write_steering

NAN = float("nan")


def write_evaluation(path, after=(0.5, 0.4, 0.6), random=(0.78, 0.82), base=0.7):
    """English and Chinese stories, whole and without the Chinese region, beside two random draws."""
    whole = [("base", "en", 0.9, 0.8, 0.95), ("base", "zh", 0.8, base, 0.9), ("base", "mean", 0.85, 0.8, 0.9)]
    off = [("zh", "en", 0.88, 0.8, 0.95), ("zh", "zh", *after)]
    drawn = [(f"zh, random-layer {k}", code, random[k], 0.7, 0.9) for code in ("en", "zh") for k in (0, 1)]
    names = ["condition", "language", "accuracy", "low", "high"]
    frame = pd.DataFrame([*whole, *off, *drawn], columns=names).assign(n=100, task="xstorycloze")
    with RunWriter(path, kind="evaluation", overwrite=True) as run:
        run.table("cloze", frame)
        run.manifest.update(languages=["en", "zh"], model={"id": "toy/babel"}, summary={})
    return open_run(path)


KINDS = {
    "regions": lambda path: write_regions(path, 3, 3, 8),
    "residual": lambda path: write_regions(path, 3, 3, 8, site="residual"),
    "circuits": write_circuits,
    "sweep": write_sweep,
    "latent": write_latent,
    "steering": write_steering,
    "confusion": write_confusion,
    "evaluation": write_evaluation,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return {name: write(folder / name) for name, write in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_says_its_question_and_shows_nothing_empty_or_raw(runs, kind):
    html = build_page([runs[kind]], static=False)
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.S)
    assert "could not be made from this run" not in body
    assert re.search(r'<p class="question">[A-Z][^<]{40,}\.</p>', body)
    assert body.count("<h1>") == 1
    assert ('class="findings"' in body) == bool(findings_of(runs[kind]))
    for heading in re.findall(r'<th scope="col"[^>]*>(.*?)</th>', body):
        assert heading[:1].isupper() or heading in {"n", "p"}, heading
        assert "_" not in heading
    for data in map(json.loads, re.findall(r'class="data">(.*?)</script>', html, re.S)):
        for view in data.get("variants", []):
            assert view["figure"]["data"], data["name"]


def test_a_page_of_the_residual_stream_says_dimensions(runs):
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", build_page([runs["residual"]], static=False), flags=re.S)
    assert "dimensions" in body
    assert "neuron" not in body.lower().replace("neuron_", "")
    assert "neurons" in build_page([runs["regions"]], static=False)


@pytest.mark.parametrize(("after", "random", "kind", "said"), [
    ((0.5, 0.4, 0.6), (0.78, 0.82), "effect", "with random ones 78 to 82 % (2 draws)."),
    ((0.5, 0.4, 0.6), (0.45, 0.82), "undecided", "with random ones 45 to 82 % (2 draws)."),
    ((0.78, 0.7, 0.86), (0.8, 0.82), "undecided", "with random ones 80 to 82 % (2 draws); the intervals meet."),
])  # fmt: skip
def test_a_region_counts_where_it_falls_out_of_interval_and_controls(tmp_path, after, random, kind, said):
    run = write_evaluation(tmp_path / "run", after, random)
    changed = next(one for one in findings_of(run) if one.text.startswith("With the region of Chinese switched off, "))
    assert changed.kind == kind
    assert changed.text.endswith(said)
    share = f"{100 * after[0]:.0f} % ({100 * after[1]:.0f} to {100 * after[2]:.0f})"
    assert f"{share} of the answers in Chinese are right instead of 80 % (70 to 90)" in changed.text


def test_answers_no_better_than_a_coin_in_one_language_are_said_so(tmp_path):
    whole = findings_of(write_evaluation(tmp_path / "run", base=0.4))
    text = next(one for one in whole if one.text.startswith("Answers are better"))
    assert text.kind == "undecided"
    assert text.text.startswith("Answers are better than chance in 1 of 2 languages (English): 80 to 90 %")


def test_a_table_for_readers():
    frame = pd.DataFrame({
        "language": ["en", "xx"], "draw": [-1, 2], "delta_nll": [0.25, NAN], "delta_nll_low": [0.1, NAN],
        "delta_nll_high": [0.4, NAN], "task": ["ioi", "ioi"], "empty": [NAN, NAN], "right": [True, False],
        "why": ["", "too short to tell which language it is"],
    })  # fmt: skip
    shown = shown_table(Table("t", "T", "", frame), {"en"})
    assert {one.name: list(one.cells) for one in shown.columns} == {
        "language": ["English", "xx"], "draw": ["–", "2"], "delta_nll": ["0.25 (0.10 to 0.40)", "–"],
        "right": ["yes", "no"], "why": ["", "too short to tell which language it is"],
    }  # fmt: skip
    assert shown.same == "Task: ioi; Empty: –"
    assert [one.kind for one in shown.columns] == ["text", "number", "number", "text", "words"]
    without = shown_table(Table("t", "T", "", frame.drop(columns="why")), {"en"})
    assert without.same == "Task: ioi"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with launched() as opened:
        yield opened


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_page_has_a_barrier_or_scrolls_sideways_on_a_phone(browser, runs, kind, tmp_path):
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page.goto(write_report([runs[kind]], tmp_path / "page.html", static=False).as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.locator(".menu summary").click()
    assert page.locator(".menu a").first.is_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.locator("#theme").click()
    page.set_viewport_size({"width": 1400, "height": 900})
    assert page.locator(".links a").first.is_visible()
    if kind == "regions":  # the wide page and its light colours are the same for all
        assert violations(page) == []
    page.close()


def test_the_drawing_of_a_circuit_counts_each_edge_once_and_leaves_small_numbers(tmp_path):
    with RunWriter(tmp_path / "run", kind="circuits") as run:
        head = {"layer": 1, "head": 0, "role": "name mover", "step": "name_movers"}
        run.table("roles", pd.DataFrame([
            {"language": "en", "score": 0.000012345, "effect": -0.5, **head},
            {"language": "zh", "score": NAN, "effect": -0.5, **head},
        ]))  # fmt: skip
        edge = {"sender": "0.0", "receiver": "1.0.q", "score": 0.5}
        more = {"sender": "0.0", "receiver": "logits", "score": 0.25}
        run.file("circuits/en.json").write_text(json.dumps({"edges": [edge, more]}))
        run.file("circuits/zh.json").write_text(json.dumps({"edges": [edge]}))
        run.manifest.update(languages=["en", "zh"], task="ioi", model={"id": "m"})
    drawn = circuit_drawing(open_run(tmp_path / "run"))
    assert "2 nodes and 2 edges" in drawn.caption
    told = drawn.frame.set_index(["node", "language"]).roles
    assert told["1.0", "en"] == "name mover 1.234e-05"
    assert told["1.0", "zh"] == "name mover"
