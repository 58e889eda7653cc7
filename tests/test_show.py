"""Tables in the terminal: every number whole, however narrow the window."""

import pandas as pd
import pytest

from babelscope.cli.circuits import _doubts
from babelscope.cli.show import _print

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
