"""Tables in the terminal: every number whole, however narrow the window."""

import json

import pandas as pd
import pytest

from babelscope.cli import call
from babelscope.cli.circuits import _doubts
from babelscope.cli.show import _print
from babelscope.results import RunWriter
from babelscope.results.text_tables import cells, latex, markdown, numeric_columns

FRAME = pd.DataFrame(
    {"language": ["en", "zh"], "split": "strict", **{f"measure_{n}_low": [0.123456 + n, -1.5 * n] for n in range(12)}}
)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_number_is_cut_and_no_line_is_too_long(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    _print("behaviour", FRAME)
    said = capsys.readouterr().out
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= width
    for n in range(12):
        assert f"{0.123456 + n:.4g}" in said
    assert said.count("behaviour") == 1
    pieces = said.count("language")
    assert said.count(" zh ") == pieces
    assert (pieces > 1) == (width < 200)


def test_a_pipe_has_no_edge(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    _print("behaviour", FRAME)
    assert capsys.readouterr().out.count("language") == 1


def test_a_table_without_rows(capsys):
    _print("none", FRAME.head(0))
    assert "measure" in capsys.readouterr().out


class Behaviour:
    def __init__(self, **columns: object) -> None:
        self.frame = pd.DataFrame(columns)

    def table(self, name: str) -> pd.DataFrame:
        assert name == "behaviour"
        return self.frame


def test_a_task_that_the_model_cannot_do_is_said():
    run = Behaviour(
        language=["en", "zh", "fr"],
        stratum=["regular", "", ""],
        logit_difference=[3.0, 0.5, float("nan")],
        logit_difference_low=[2.0, -1.0, float("nan")],
        logit_difference_high=[4.0, 2.0, float("nan")],
    )
    first, second = _doubts(run)
    assert first.startswith("the logit difference in zh is 0.5 (-1 to 2): the model cannot be said to do the task")
    assert second.startswith("the logit difference in fr is nan")


TOLD = pd.DataFrame(
    {
        "set_of": ["a & b_c", "50 % | x"],
        "share": [0.5, 0.25],
        "low": [0.4, float("nan")],
        "high": [0.6, float("nan")],
        "random": [0.1, 0.2],
        "random_low": [0.05, 0.1],
        "random_high": [0.15, 0.3],
        "n": [12, 3],
    }
)


def test_an_interval_stands_behind_its_number_and_nowhere_else():
    assert cells(TOLD) == {
        "set of": ["a & b_c", "50 % | x"],
        "share": ["0.5 (0.4 to 0.6)", "0.25"],
        "random": ["0.1 (0.05 to 0.15)", "0.2 (0.1 to 0.3)"],
        "n": ["12", "3"],
    }


def test_markdown_and_latex_write_out_their_own_signs():
    columns, right = cells(TOLD), numeric_columns(TOLD)
    lines = markdown(columns, right).splitlines()
    assert lines[0] == "| set of | share | random | n |"
    assert lines[1] == "|---|--:|--:|--:|"
    assert lines[3] == r"| 50 % \| x | 0.25 | 0.2 (0.1 to 0.3) | 3 |"
    told = latex(columns, right, "100 % of it").splitlines()
    assert told[2] == r"\caption{100 \% of it}"
    assert told[3] == r"\begin{tabular}{lrrr}"
    assert r"a \& b\_c & 0.5 (0.4 to 0.6) & 0.1 (0.05 to 0.15) & 12 \\" in told
    hostile = latex({r"\input{x}~^": ["\x1b[31m"]})
    assert r"\textbackslash{}input\{x\}\textasciitilde{}\textasciicircum{}" in hostile


CROSSED = {
    "found_in": ["en"], "run_on": ["zh"], "faithfulness": [0.5], "low": [0.4], "high": [0.6], "random": [0.01],
    "random_low": [0.0], "random_high": [0.02], "random_sets": [20], "heads": [3], "why": [""], "model": ["m"],
}  # fmt: skip


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "json"])
def test_a_run_is_shown_in_every_form(form, tmp_path, capsys):
    with RunWriter(tmp_path / "run", kind="circuits") as run:
        run.manifest["summary"] = {"sentences": ["Nothing changed (n = 3)."]}
        run.table("cross_faithfulness", pd.DataFrame(CROSSED))
    call(["show", str(tmp_path / "run"), "--format", form])
    said = capsys.readouterr().out
    assert "Nothing changed (n = 3)." in said
    first = {
        "text": "0.5 (0.4 to 0.6)", "markdown": "| en | zh | 3 | 0.5 (0.4 to 0.6) | 0.01 (0 to 0.02) |",
        "latex": r"en & zh & 3 & 0.5 (0.4 to 0.6) & 0.01 (0 to 0.02) \\", "json": '"kind": "circuits"',
    }  # fmt: skip
    assert first[form] in said
    call(["show", str(tmp_path / "run"), "--format", form, "--table", "cross_faithfulness"])
    said = capsys.readouterr().out
    if form == "json":
        assert json.loads(said) == [{name: value for name, [value] in CROSSED.items()}]
    assert "Nothing changed" not in said


def test_json_keeps_every_digit(tmp_path, capsys):
    day = pd.Timestamp("2026-11-29")
    rows = {"p": [1e-12, 1 / 3, float("nan")], "n": [1, 2, 3], "name": ["ä", "b", None], "parts": [[1.5], [], [2.0]],
            "day": [day] * 3}  # fmt: skip
    with RunWriter(tmp_path / "run", kind="circuits") as run:
        run.table("found", pd.DataFrame(rows))
    call(["show", str(tmp_path / "run"), "--format", "json", "--table", "found"])
    found = json.loads(capsys.readouterr().out)
    assert [row["p"] for row in found] == [1e-12, 1 / 3, None]
    assert [row["n"] for row in found] == [1, 2, 3]
    assert [row["name"] for row in found] == ["ä", "b", None]
    assert [row["parts"] for row in found] == [[1.5], [], [2.0]]
    assert {row["day"] for row in found} == {"2026-11-29 00:00:00"}


def test_compare_begins_with_the_findings_that_differ(tmp_path, capsys):
    for name, own in {"one": "It rose.", "two": "It fell."}.items():
        with RunWriter(tmp_path / name, kind="latent") as run:
            run.manifest |= {"asked": {"samples": name}, "summary": {"sentences": [own, "Both say this."]}}
    call(["compare", str(tmp_path / "one"), str(tmp_path / "two")])
    said = capsys.readouterr().out
    places = [
        said.index(part) for part in ("first: It rose.", "second: It fell.", "word for word: 1.", "asked.samples")
    ]
    assert places == sorted(places)
    assert "Both say this." not in said
