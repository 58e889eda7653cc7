"""Circuits over a prompt and matrices beside chance, on runs whose heads, places and controls are planted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from babelscope.errors import InputError
from babelscope.figures import specify
from babelscope.figures.circuits import cross_matrices
from babelscope.figures.spec import Arrow, Boxes
from babelscope.results import RunWriter, open_run
from babelscope.studies.circuit_examples import token_texts

ROLES = ["IO", "S1", "S2", "END"]
WORDS = ["When", " Mary", " and", " John", " met", ",", " John", " gave", " to"]
PLACES = ["", "IO", "", "S1", "", "", "S2", "", "END"]


@pytest.fixture
def run(tmp_path):
    """Head 2.1 copies the name from END, head 1.0 tells END of the second subject; 0.1 was found by no stated step."""
    attention = np.full((1, 4, 4, 3, 2), 0.01)
    attention[0, 3, 0, 2, 1] = 0.9  # END looks at IO
    attention[0, 3, 2, 1, 0] = 0.6  # END looks at S2
    attention[0, 1, 0, 1, 0] = 0.95  # stronger, but not where the search found the head
    attention[0, 2, 1, 0, 1] = 0.7  # S2 looks at S1
    dims = ("language", "role", "role2", "layer", "head")
    where = {"language": ["en"], "role": ROLES, "role2": ROLES, "layer": range(3), "head": range(2)}
    heads = [
        (2, 1, "name mover", "name_movers", -0.5),
        (1, 0, "s inhibition", "s_inhibition", -0.2),
        (0, 1, "duplicate token", "other", np.nan),
    ]
    with RunWriter(tmp_path / "run", kind="circuits") as made:
        made.arrays(xr.Dataset({"attention_role": (dims, attention)}, coords={k: list(v) for k, v in where.items()}))
        made.table(
            "roles",
            pd.DataFrame(heads, columns=["layer", "head", "role", "step", "effect"]).assign(language="en", score=1.0),
        )
        made.table("examples", pd.DataFrame({
            "language": "en", "example": 0, "position": range(len(WORDS)), "token": WORDS, "role": PLACES,
            "answer": " Mary", "foil": " John",
        }))  # fmt: skip
        made.table("cross_faithfulness", pd.DataFrame([
            {"found_in": a, "run_on": b, "faithfulness": 0.9 if a == b else 0.7, "low": 0.6, "high": 0.95,
             "random": 0.05, "random_low": 0.0, "random_high": 0.1, "heads": 3, "model": ""}
            for a in ("en", "zh") for b in ("en", "zh")
        ]))  # fmt: skip
        steps = [{"name": "name_movers", "at": "END"}, {"name": "s_inhibition", "at": "END"}]
        made.file("circuits/en.json").write_text(json.dumps({"steps": steps}), encoding="utf-8")
        made.manifest.update(languages=["en", "zh"], model={"id": "toy"}, task="ioi", summary={})
    return open_run(tmp_path / "run")


def test_heads_stand_above_the_token_where_the_search_found_them(run):
    figure = specify(run, "circuit_tokens")
    boxes, prompt = (mark for mark in figure.panels[0].marks if isinstance(mark, Boxes))
    assert list(zip(boxes.texts, boxes.x, boxes.y)) == [
        ("2.1\n−0.50", 8.0, 2.0), ("1.0\n−0.20", 8.0, 1.0), ("0.1", 6.0, 0.0),
    ]  # fmt: skip
    assert list(zip(prompt.texts, prompt.x)) == [("IO", 1.0), ("S1", 3.0), ("S2", 6.0), ("END", 8.0)]
    arrows = [mark for mark in figure.panels[0].marks if isinstance(mark, Arrow)]
    assert [(arrow.start, arrow.end) for arrow in arrows] == [
        ((1.0, -1.0), (8.0, 2.0)), ((6.0, -1.0), (8.0, 1.0)), ((3.0, -1.0), (6.0, 0.0)),
    ]  # fmt: skip
    assert arrows[0].width > arrows[2].width > arrows[1].width
    assert "right answer “Mary”, foil “John”" in figure.caption
    assert figure.panels[0].data[["at", "looks_at", "attention"]].values.tolist() == [
        ["END", "IO", 0.9], ["END", "S2", 0.6], ["S2", "S1", 0.7],
    ]  # fmt: skip
    with pytest.raises(InputError, match="no language 'zh'"):
        specify(run, "circuit_tokens", language="zh")


def test_a_matrix_stands_beside_its_control_on_one_scale(run):
    [beside] = cross_matrices(run)
    assert list(beside.parts) == ["measured", "random heads"]
    figure = specify(run, "cross_language")
    measured, random = (panel.marks[0] for panel in figure.panels)
    assert (measured.low, measured.high) == (random.low, random.high) == (0.0, 1.0)
    assert measured.texts[0] == ("0.90\n0.60 to 0.95", "0.70\n0.60 to 0.95")
    assert random.texts[1] == ("0.05", "0.05")


def test_a_letter_of_several_tokens_stands_with_the_last_of_them():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode("utf-8", "replace")

    ids = list("aक b".encode())
    assert token_texts(Bytes(), ids) == ["a", "", "", "क", " ", "b"]
