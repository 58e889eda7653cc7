"""Tables in the terminal: every number whole, however narrow the window."""

import pandas as pd
import pytest

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
