"""Figures say no more than the run holds: one corpus, controls that ran, cells with numbers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from babelscope.figures import specify
from babelscope.figures.page import grid_plot
from babelscope.figures.paper import printed
from babelscope.figures.spec import Rule
from babelscope.figures.sweep import scales
from babelscope.findings import regions
from babelscope.report.graph import circuit_drawing
from babelscope.results import RunWriter, open_run
from babelscope.wording import number

NAN = float("nan")


def written(path, kind, arrays=None, summary=None, **tables):
    with RunWriter(path / "run", kind=kind) as run:
        for name, rows in tables.items():
            run.table(name, pd.DataFrame(rows))
        if arrays is not None:
            run.arrays(arrays)
        run.manifest.update(languages=["en", "zh"], model={"id": "toy"}, task="ioi", summary=summary or {})
    return open_run(path / "run")


# -- sweeps ------------------------------------------------------------------------------------------------------------


def point(corpus, size, step, sads):
    return {
        "model": f"m{size}", "revision": "main", "step": step, "parameters": float(size), "corpus": corpus,
        "status": "done", "key": f"{corpus}{size}{step}", "duplicate_of": None, "sads": sads, "label": f"m{size}",
    }  # fmt: skip


@pytest.fixture
def two_corpora(tmp_path):
    sizes = [
        point(corpus, size, NAN, sads + size / 1000) for corpus, sads in (("a", 0.1), ("b", 0.5)) for size in (10, 20)
    ]
    flow = [
        {"language": "en", "layer": 0, "kept": kept, "born": 1, "moved": 0, "left": 0, "lost": 0, "model": "m10",
         "corpus": corpus, "from": "step1", "to": "step2"}
        for corpus, kept in (("a", 5), ("b", 70))
    ]  # fmt: skip
    depth = [
        {"label": "m10", "key": key, "language": "en", "from_depth": low, "to_depth": low + 0.5, "share": share}
        for key, shares in (("a", (0.2, 0.8)), ("b", (0.6, 0.4))) for low, share in zip((0.0, 0.5), shares)
    ]  # fmt: skip
    return written(tmp_path, "sweep", points=sizes, flow=flow, depth=depth)


def test_a_curve_by_size_is_of_one_corpus(two_corpora):
    assert [one.values["sads"] for one in scales(two_corpora)] == pytest.approx([0.11, 0.12])
    assert "On a, the first of 2 corpora." in specify(two_corpora, "scale_curves").caption


def test_flows_of_two_corpora_are_not_added_up(two_corpora):
    figure = specify(two_corpora, "neuron_flow")
    kept = next(mark for mark in figure.panels[0].marks if getattr(mark, "name", "") == "kept")
    assert kept.heights == [5.0]
    assert "Of m10 on a, one of 2 series." in figure.caption


def test_depth_of_a_point_is_of_one_corpus(two_corpora):
    [line] = specify(two_corpora, "depth").panels[0].marks
    assert (line.x, line.y) == ([0.25, 0.75], [0.2, 0.8])


# -- controls that did not run -----------------------------------------------------------------------------------------


def perplexity(**draws):
    base = {"language": "en", "deactivated": "base", "draw": -1, "perplexity": 1234.6, "increase_percent": 0.0,
            "delta_nll": 0.0, "tokens": 50, "documents": 2}  # fmt: skip
    return [base, {**base, "deactivated": "en", "increase_percent": 5.0}] + [
        {**base, "deactivated": name.replace("_", "-"), "draw": draw, "increase_percent": 1.0}
        for name, count in draws.items() for draw in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("draws", "said", "unsaid"),
    [
        ({}, "what was switched off; no random controls.", "random:"),
        ({"random": 3}, "random: as many neurons as the mean region holds; mean ± spread of 3 draws.", "by layer:"),
        ({"random_layer": 1}, "by layer: as many of every layer as the row's own region holds; one draw.", "random:"),
    ],
)
def test_a_caption_names_the_controls_that_ran(tmp_path, draws, said, unsaid):
    figure = specify(written(tmp_path, "regions", perplexity=perplexity(**draws)), "perplexity_heatmap")
    assert said in figure.caption
    assert unsaid not in figure.caption
    assert figure.panels[0].y.names[0][1] == "(1\u202f235)"


def test_right_answers_name_only_what_stands_beside_the_whole_model(tmp_path):
    rows = [{"language": code, "condition": "base", "accuracy": 0.7, "low": 0.6, "high": 0.8, "n": 100}
            for code in ("en", "zh")]  # fmt: skip
    caption = specify(written(tmp_path, "evaluation", cloze=rows), "right_answers").caption
    assert "n = 100 items a language), with the whole model. Whiskers" in caption
    assert "random" not in caption
    assert "Others" not in caption


@pytest.mark.parametrize(("blind", "rules"), [([0.25, 0.25], [0.25]), ([0.25, 0.5], [])])
def test_blind_choice_is_drawn_where_it_is_one_number(tmp_path, blind, rules):
    rows = [{"language": code, "condition": "base", "accuracy": 0.3, "low": 0.2, "high": 0.4, "n": 100, "blind": one}
            for code, one in zip(("en", "zh"), blind)]  # fmt: skip
    marks = specify(written(tmp_path, "evaluation", belebele=rows), "right_answers").panels[0].marks
    assert [mark.at for mark in marks if isinstance(mark, Rule)] == rules


# -- cells without a number --------------------------------------------------------------------------------------------


@pytest.fixture
def screened(tmp_path):
    """Of four heads one was not patched."""
    values = np.array([[[-0.5, 0.2], [NAN, 0.0]]] * 2)
    where = {"language": ["en", "zh"], "layer": [0, 1], "head": [0, 1]}
    arrays = xr.Dataset({"activation_patching": (tuple(where), values)}, coords=where)
    return written(tmp_path, "circuits", arrays, {"heads": {"en": [[0, 0], [1, 0]]}})


def test_a_head_that_was_not_patched_is_not_drawn_as_one_without_effect(screened):
    figure = specify(screened, "head_heatmap")
    assert figure.caption.endswith("Grey: not measured.")
    image = printed(figure).axes[0].images[0]
    colours = image.cmap(image.norm(image.get_array()))
    assert to_hex(colours[1, 0]) == "#b8b8b8"
    assert to_hex(colours[1, 1]) == "#f6f6f7"  # the middle of the scale: 0
    data = grid_plot(figure)["data"]
    assert [one["showscale"] for one in data] == [True, False, False, False]
    assert (data[1]["z"], data[1]["colorscale"][0][1]) == ([[None, None], [0, None]], "#b8b8b8")


def test_a_head_that_was_not_patched_has_no_effect_to_read(screened):
    nodes = {node["id"]: node["languages"]["en"] for node in circuit_drawing(screened).spec["nodes"]}
    assert nodes == {"0.0": {"measures": {"activation patching": -0.5}}, "1.0": {}}


def test_where_every_head_was_patched_nothing_is_grey(tmp_path):
    where = {"language": ["en"], "layer": [0], "head": [0, 1]}
    arrays = xr.Dataset({"activation_patching": (tuple(where), [[[-0.5, 0.2]]])}, coords=where)
    assert "Grey" not in specify(written(tmp_path, "circuits", arrays), "head_heatmap").caption


@pytest.mark.parametrize(("count", "said"), [(3, "3 edges."), (500, "400 edges, the 400 strongest of a language.")])
def test_a_drawing_of_some_edges_says_so(tmp_path, count, said):
    edges = [{"sender": f"0.{place}", "receiver": "logits", "score": float(place + 1)} for place in range(count)]
    with RunWriter(tmp_path / "run", kind="circuits") as run:
        run.file("circuits/en.json").write_text(json.dumps({"edges": edges}), encoding="utf-8")
        run.manifest.update(languages=["en"], model={"id": "toy"}, task="ioi", summary={"heads": {"en": [[0, 0]]}})
    assert said in circuit_drawing(open_run(tmp_path / "run")).caption


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "said"), [(0.0001, "p = 0.0001"), (0.0007, "p = 0.001"), (0.04, "p = 0.040")])
def test_a_small_p_is_never_0(p, said):
    assert said in regions._above_chance({"sklr": 9, "expected_sklr": 4.0, "p_sklr": p}).text


@pytest.mark.parametrize(
    ("value", "said"),
    [(12345.6, "12\u202f346"), (-12345.6, "-12\u202f346"), (9999.4, "9999"), (9999.6, "10\u202f000"), (-0.0, "0")],
)
def test_large_numbers_are_written_out_and_zero_has_no_sign(value, said):
    assert number(value) == said
