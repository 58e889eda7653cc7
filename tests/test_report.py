"""The page: complete, self-contained, escaped, usable with mouse and keyboard, readable by everyone."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from babelscope.errors import InputError, RunError
from babelscope.report import build_page, write_report
from babelscope.report.embed import pack_triangle, safe_json
from babelscope.report.graph import circuit_drawing
from babelscope.results import RunWriter, open_run

from .synthetic_circuits import write_one_of_each
from .synthetic_runs import HOSTILE, write_regions
from .test_report_studies import write_confusion


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_one_of_each(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def html(runs):
    return build_page(runs)


def without_plotly(html):
    start = html.index("* plotly.js v")
    return html[:start] + html[html.index("</script>", start) :]


def data_of(html, name):
    figure = html[html.index(f'<figure id="{name}"') :]
    return json.loads(re.search(r'class="data">(.*?)</script>', figure, re.S)[1])


def test_every_section_that_the_runs_hold_is_there(html):
    headings = re.findall(r"<h3[^>]*>([^<]*)</h3>", html)
    assert headings == [
        "What switching off does", "Similarity", "Alignment by layer", "Experts", "Regions",
        "Behaviour", "Circuit", "Heads", "Across languages", "Ablation", "Prompts",
        "Evolution over training", "Model sizes", "Depth", "Points",
    ]  # fmt: skip
    assert "could not be made from this run" not in html


def test_what_a_run_does_not_hold_has_no_section(tmp_path):
    html = build_page([write_regions(tmp_path / "bare", texts=False)], static=False)
    assert "What switching off does</h3>" not in html
    assert "Regions</h3>" in html
    assert "Circuit</h3>" not in html


def test_every_chart_has_a_caption_and_a_download_and_most_a_static_twin(html):
    blocks = re.findall(r"<figure id=.*?</figure>", html, re.S)
    assert len(blocks) > 25
    for block in blocks:
        assert len(re.search(r"<figcaption>(.*?)</figcaption>", block, re.S)[1]) > 40
        assert "Download CSV</button>" in block
    assert sum('<img src="data:image/' in block for block in blocks) >= 18


def test_nothing_points_outside(html):
    page = without_plotly(html)
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert not re.search(r"url\((?!data:font/woff2;base64,)|@import|fetch\(|XMLHttpRequest|eval\(|innerHTML", page)


def test_the_policy_allows_exactly_the_two_scripts(html):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy
    allowed = set(re.findall(r"'sha256-([^']*)'", policy))
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts} == allowed
    assert len(scripts) == 2


def test_hostile_text_is_never_markup(html):
    page = without_plotly(html)
    for mark in ("<script>window", "<img src=x", "{{ 7", "\u202e", "\u2066"):
        outside_data = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
        assert mark not in outside_data.replace("&lt;", "").replace("{{ 7 * 7 }}", "") or mark == "{{ 7"
    for data in re.findall(r'<script type="application/json" class="data">(.*?)</script>', page, re.S):
        assert not set("<>&\u2028\u2029") & set(data)
    assert "&lt;script&gt;window.__xss = 1&lt;/script&gt;" in page


def test_json_for_scripts_is_inert_and_gives_everything_back():
    text = " ".join(HOSTILE)
    embedded = str(safe_json({"a": text, "b": float("nan")}))
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == {"a": text, "b": None}


@pytest.mark.parametrize(("budget", "kind"), [(10_000, "float32"), (500, "uint16"), (100, "uint8")])
def test_the_triangle_holds_the_matrix(budget, kind):
    matrix = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    matrix = (matrix + matrix.T) / 2
    packed = pack_triangle(matrix, budget)
    assert packed.kind == kind
    stored = np.frombuffer(base64.b64decode(packed.data), {"float32": "<f4", "uint16": "<u2", "uint8": "u1"}[kind])
    levels = {"float32": 1, "uint16": 65535, "uint8": 255}[kind]
    values = stored if kind == "float32" else packed.low + stored / levels * (packed.high - packed.low)
    assert np.allclose(values, matrix[np.tril_indices(20)], atol=0 if kind == "float32" else 1 / levels)


def test_the_data_of_a_chart_is_the_runs(html, runs):
    variant = data_of(html, "r0-layer-curves")["variants"][0]
    table = dict(zip(variant["table"]["names"], variant["table"]["columns"]))
    lrds = [value for value, curve in zip(table["value"], table["curve"]) if curve == "lrds_layer"]
    assert lrds == runs[0].arrays().lrds_layer.values.tolist()


def test_nine_languages_of_a_hundred_sentences_stay_within_eight_megabytes(tmp_path):
    run = write_regions(tmp_path / "run", n=100, layers=30, width=200)
    page = write_report([run], tmp_path / "page.html")
    assert page.stat().st_size <= 8_000_000


def test_several_runs_stand_side_by_side(tmp_path, runs):
    html = build_page([runs[0], write_regions(tmp_path / "other", model="toy/second", seed=1)], static=False)
    assert "Side by side" in html
    assert 'id="r1-similarity"' in html


def test_edges_of_a_circuit_file_are_drawn(tmp_path, runs):
    with RunWriter(tmp_path / "run", kind="circuits") as writer:
        writer.manifest.update(runs[1].manifest)
        writer.arrays(runs[1].arrays().load())
        edges = [
            {"sender": "1.2", "receiver": "3.1.q", "score": 0.4},
            {"sender": "3.1", "receiver": "logits", "score": -0.2},
            {"sender": "1.2", "receiver": "m2", "score": 0.1},
            {"x": 1},
        ]
        steps = [{"name": "direct", "receivers": ["logits"], "supporting": [{"node": "3.1", "effect": -0.9}]}]
        writer.file("circuits/en.json").write_text(json.dumps({"edges": edges}))
        writer.file("circuits/zh.json").write_text(json.dumps({"steps": steps}))
    spec = circuit_drawing(open_run(tmp_path / "run")).spec
    assert [(edge["from"], edge["to"]) for edge in spec["edges"][:3]] == [
        ("1.2", "3.1"),
        ("3.1", "output"),
        ("1.2", "mlp 2"),
    ]
    assert spec["edges"][3] == {"from": "3.1", "to": "output", "score": -0.9, "language": "zh"}
    assert any(node["kind"] == "mlp" for node in spec["nodes"])


def test_a_table_of_another_shape_costs_its_chart_only(tmp_path, runs):
    import pandas as pd

    with RunWriter(tmp_path / "run", kind="regions") as writer:
        writer.manifest.update(runs[0].manifest)
        writer.table("selectivity", pd.DataFrame({"other": [1]}))
    html = build_page([open_run(tmp_path / "run")], static=False)
    assert "Selectivity could not be made from this run: " in html
    assert 'id="r0-region-sizes"' in html


def test_refusals(tmp_path, runs):
    with pytest.raises(InputError, match="at least one run"):
        build_page([])
    with RunWriter(tmp_path / "run", kind="other"):
        pass
    with pytest.raises(RunError, match="no report for a run of kind 'other'"):
        build_page([tmp_path / "run"])
    with pytest.raises(InputError, match="is a directory"):
        write_report(runs, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        write_report(runs[2:], tmp_path / "file/page.html", static=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


# ---- in a real browser ----


# ---- on the command line ----


def command(capsys, *arguments):
    from babelscope.cli import main

    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def test_show_prints_the_numbers(runs, capsys):
    for run in runs:
        code, out, err = command(capsys, "show", run.path, "--check")
        assert (code, err) == (0, "")
        assert "toy/babel" in out
    code, out, _ = command(capsys, "show", runs[0].path)
    assert "180" in out
    assert "neurons" in out
    assert json.loads(command(capsys, "show", runs[0].path, "--format", "json")[1]) == runs[0].manifest


def test_show_keeps_control_characters_off_the_terminal(runs, capsys):
    out = command(capsys, "show", runs[0].path, "--table", "sentences")[1]
    assert not set("\u202e\u202c\u2066\x1b") & set(out)


def test_figures_are_listed_and_drawn(runs, tmp_path, capsys):
    listed = command(capsys, "figure", runs[1].path)[1].split()
    assert "head_scatter" in listed
    out = tmp_path / "x.svg"
    code, _, err = command(capsys, "figure", runs[1].path, "head_scatter", "--out", out, "-l", "zh,ar")
    assert (code, err) == (0, "")
    assert "Pearson" in out.read_text(encoding="utf-8")


def test_the_report_is_written_beside_the_run_and_spares_other_files(tmp_path, capsys):
    run = write_confusion(tmp_path / "run")
    assert command(capsys, "report", run.path)[0] == 0
    assert command(capsys, "report", run.path)[0] == 0
    run.validate()
    other = tmp_path / "mine.html"
    other.write_text("<p>mine")
    code, _, err = command(capsys, "report", run.path, "--out", other)
    assert code == 2
    assert "not a report of ours" in err
    assert other.read_text() == "<p>mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "there is no run at nowhere"),
        (["show", "RUN", "--table", "x"], "has no table 'x'"),
        (["figure", "RUN", "pie", "--out", "x.pdf"], "there is no figure 'pie'"),
        (["figure", "RUN", "training_curves"], "say where to write the figure"),
        (["figure", "RUN", "training_curves", "--out", "x.gif"], "saved as .pdf, .png or .svg"),
        (["figure", "RUN", "training_curves", "--out", "x.pdf", "--beside", "y"], "has no option --beside"),
        (
            ["figure", "RUN", "training_curves", "--out", "x.pdf", "--labels", "y"],
            'for --labels. Choose from: "code", "name", "own"',
        ),
        (["report", "RUN", "--out", "x.txt"], "a report is an .html file"),
    ],
)
def test_mistakes_are_one_line(runs, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, *(str(runs[2].path) if word == "RUN" else word for word in arguments))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
