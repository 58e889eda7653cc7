"""Rows, tables and texts of results on cells made by hand: what is missing, what is refused, what stands where."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from babelscope.errors import RunError
from babelscope.results import compare_runs, display, manifest
from babelscope.results.csv_cells import inert, original, read_csv, write_csv
from babelscope.results.rows import Part, Row, _value, has_column, read_rows, rows_frame
from babelscope.results.schemas.evaluation import Answered, answered
from babelscope.results.schemas.sweep import points
from babelscope.results.tables import read_table, table_file, table_names, write_table
from babelscope.results.text_tables import cells, interval_columns, latex, markdown, numeric_columns, with_ends

# -- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inner(Part):
    share: float
    note: str = "none"


@dataclass(frozen=True, kw_only=True)
class Example(Row):
    TABLE: ClassVar[str] = "example"
    set_: str
    inner: Inner
    count: int = 7
    flag: bool = False
    odd: float = dataclasses.field(default=math.nan, metadata={"column": "odd-name"})


class Tables:
    def __init__(self, **frames: pd.DataFrame) -> None:
        self.source, self.frames = "here", frames

    @property
    def tables(self) -> list[str]:
        return list(self.frames)

    def table(self, name: str) -> pd.DataFrame:
        return self.frames[name]


def test_rows_are_columns_in_their_order_and_come_back():
    rows = [
        Example(set_="a", inner=Inner(share=0.5)),
        Example(set_="b", inner=Inner(share=1.0, note="x"), count=2, odd=3),
    ]
    frame = rows_frame(Example, rows)
    assert frame.columns.tolist() == ["set", "share", "note", "count", "flag", "odd-name"]
    assert frame.iloc[1].tolist() == ["b", 1.0, "x", 2, False, 3]
    found = read_rows(Tables(example=frame), Example)
    assert found[1] == rows[1]
    assert math.isnan(found[0].odd)
    assert rows_frame(Example, []).columns.tolist() == frame.columns.tolist()
    assert read_rows(Tables(other=frame), Example) == []
    assert read_rows(Tables(example=frame.iloc[:0]), Example) == []
    assert has_column(Tables(example=frame), "example", "odd-name")
    assert not has_column(Tables(example=frame), "example", "odd")
    assert not has_column(Tables(example=frame), "other", "set")


def test_columns_may_be_left_out_where_something_stands_for_them():
    short = pd.DataFrame({"set": ["a"], "share": [0.5], "more": [1]})
    assert dataclasses.replace(read_rows(Tables(example=short), Example)[0], odd=0.0) == Example(
        set_="a", inner=Inner(share=0.5), odd=0.0
    )
    for name in ("set", "share"):
        told = f"^the table 'example' of the run here has no column '{name}'$"
        with pytest.raises(RunError, match=told):
            read_rows(Tables(example=short.drop(columns=name)), Example)
    told = r"^the table 'example' of the run here holds something else than float in its column 'share'$"
    with pytest.raises(RunError, match=told):
        read_rows(Tables(example=short.assign(share="x")), Example)


@pytest.mark.parametrize(
    ("value", "kind", "made"),
    [(3.0, int, 3), (np.int64(3), int, 3), (2, float, 2.0), ("a", str, "a"), (None, str, ""), (math.nan, str, ""),
     (1, bool, True), (0.5, float, 0.5)],
)  # fmt: skip
def test_a_cell_has_the_type_of_its_column(value, kind, made):
    found = _value(value, kind)
    assert (found, type(found)) == (made, kind)


def test_a_cell_of_another_type_is_refused():
    assert math.isnan(_value(None, float))  # pyright: ignore[reportArgumentType]
    for value, kind in ((None, int), (math.nan, int), (None, bool), (2.5, int), ("x", int), ("x", float)):
        with pytest.raises((ValueError, TypeError)):
            _value(value, kind)


def test_points_of_a_sweep_have_measures_and_intervals():
    frame = pd.DataFrame(
        {
            "model": ["m", "n"], "key": ["k", "l"], "revision": ["r", None], "step": [1.0, None], "lrds": [0.5, None],
            "lrds_low": [0.4, 0.1], "lrds_high": [0.6, 0.2], "sads": [1, 2], "sads_low": [0, 1], "when": ["x", "y"],
            "region_size_en": [3.0, None], "error": ["1", "2"], "weight_hash": ["7", "8"],
        }
    )  # fmt: skip
    first, second = points(Tables(points=frame))
    assert first.values == {"step": 1.0, "lrds": 0.5, "sads": 1.0, "region_size_en": 3.0}
    assert first.intervals == {"lrds": (0.4, 0.6)}
    assert (first.interval("lrds"), second.interval("lrds")) == ((0.4, 0.6), (0.1, 0.2))
    assert all(math.isnan(end) for end in first.interval("sads"))
    assert (first.region_sizes, second.region_sizes) == ({"en": 3.0}, {})
    assert (first.row.revision, second.row.revision, second.row.status) == ("r", "", "done")
    assert math.isnan(second.values["lrds"])
    assert points(Tables()) == []


def test_answers_of_every_task_have_the_same_columns():
    right = pd.DataFrame({"accuracy": [0.5], "language": ["en"], "n": [4], "condition": ["base"], "more": [1]})
    found = answered(Tables(a=right, b=right.drop(columns="condition"), c=right.assign(low=0.1, high=0.9, blind=0.25)))  # pyright: ignore[reportArgumentType]
    assert list(found) == ["a", "c"]
    assert found["c"] == [Answered("en", "base", 0.5, 0.1, 0.9, 4.0, 0.25)]
    assert (found["a"][0].n, math.isnan(found["a"][0].low), math.isnan(found["a"][0].chance)) == (4.0, True, True)


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", list("=+-@\t\r\n＝＋－＠"))
def test_a_text_that_begins_like_a_formula_gets_an_apostrophe(sign):
    for text in (f"{sign}1", f"'{sign}1", f"''{sign}1"):
        assert inert(text) == f"'{text}"
        assert original(f"'{text}") == text
    assert inert(f"a{sign}") == f"a{sign}"
    assert original(f"{sign}1") == f"{sign}1"


def test_cells_that_are_no_formulas_stay():
    for cell in ("'tis", "", "'", "a", -1.5, None, True):
        assert inert(cell) == cell
        assert original(cell) == cell


def test_a_table_as_csv_comes_back(tmp_path):
    frame = pd.DataFrame(
        {
            "=name": ["=1", "NA", "None"],
            "n": [-1.5, 2.0, 3.0],
            "kind": pd.Categorical(["+a", "b", "+a"]),
            "mixed": ["@", None, 3],
        }
    )
    write_csv(frame, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"'=name,n,kind,mixed\n'=1,-1.5,'+a,'@\nNA,2.0,b,\nNone,3.0,'+a,3\n"
    back = read_csv(tmp_path / "a.csv")
    assert back.columns.tolist() == ["=name", "n", "kind", "mixed"]
    assert back["=name"].tolist() == ["=1", "NA", "None"]
    assert back["kind"].tolist() == ["+a", "b", "+a"]
    assert (back["n"].tolist(), back["mixed"].tolist()[0], math.isnan(back["mixed"].tolist()[1])) == (
        [-1.5, 2, 3],
        "@",
        True,
    )
    write_csv(pd.DataFrame({"a": ["x\ry"], "b": [1]}), tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_bytes() == b'"a","b"\n"x\ry",1\n'


def test_a_table_lies_under_its_name(tmp_path):
    frame = pd.DataFrame({"a": [1, 2]}, index=[5, 6])
    write_table(tmp_path, "b-1", frame)
    write_table(tmp_path, "a_2", frame)
    assert table_names(tmp_path) == ["a_2", "b-1"]
    assert (tmp_path / "tables" / "b-1.csv").read_text() == "a\n1\n2\n"
    assert read_table(tmp_path, "b-1").index.tolist() == [0, 1]
    with pytest.raises(RunError, match=rf"^the run {tmp_path} has no table 'c'; it has: a_2, b-1$"):
        read_table(tmp_path, "c")
    with pytest.raises(RunError, match=r"has no table 'c'; it has: none$"):
        read_table(tmp_path / "tables", "c")
    (tmp_path / "tables" / "b-1.parquet").write_bytes(b"x")
    with pytest.raises(RunError, match=rf"^the table 'b-1' of the run {tmp_path} is damaged$"):
        read_table(tmp_path, "b-1")
    for name in ("", "-a", "_a", "a.b", "a/b", "ä", "a\n"):
        with pytest.raises(RunError, match="cannot name a table: letters, digits, '-' and '_' only"):
            table_file(name)


# -- texts ----------------------------------------------------------------------------------------------------------


def test_ends_belong_to_the_number_before_them():
    assert interval_columns(["a", "low", "high"]) == {"a": ("low", "high")}
    assert interval_columns(["low", "high"]) == {}
    assert interval_columns(["a", "b", "low", "high"]) == {"b": ("low", "high")}
    assert interval_columns(["a", "high", "low"]) == {}
    assert interval_columns(["a", "low", "b", "high"]) == {}
    assert interval_columns(["a_low", "a_high", "a"]) == {"a": ("a_low", "a_high")}
    assert interval_columns(["a", "a low", "a high"]) == {"a": ("a low", "a high")}
    assert interval_columns(["a", "a_low"]) == {}
    assert interval_columns(["x_share", "x_low", "x_high"]) == {"x_share": ("x_low", "x_high")}
    assert interval_columns(["x_share", "x_share_low", "x_share_high", "x_low", "x_high"])["x_share"] == (
        "x_share_low", "x_share_high",
    )  # fmt: skip


def test_cells_hold_a_number_and_its_interval():
    frame = pd.DataFrame({"a_b": [0.5, 1.0], "low": [0.25, None], "high": [0.75, 2.0], "n": [3, 4]})
    assert cells(frame) == {"a b": ["0.5 (0.25 to 0.75)", "1"], "n": ["3", "4"]}
    assert with_ends("1", 0.5, None) == "1"
    assert with_ends("1", math.nan, 0.5) == "1"
    assert with_ends("1", 0.5, 2) == "1 (0.5 to 2)"
    mixed = pd.DataFrame({"i_i": [1], "u": np.array([1], dtype=np.uint8), "f": [0.5], "b": [True], "t": ["x"]})
    assert numeric_columns(mixed) == ["i i", "u", "f"]


def test_tables_for_papers():
    columns = {"a|b": ["x\\y", "2"], "n": ["3", "4"]}
    assert markdown(columns, ["n"]).splitlines() == [
        r"| a\|b | n |", "|---|--:|", r"| x\\y | 3 |", "| 2 | 4 |",
    ]  # fmt: skip
    text = latex({"a_b": ["50%", "−1–2"], "n": ["3\u202f000", "~^"]}, ["n"])
    assert text.splitlines() == [
        r"\begin{tabular}{lr}", r"\toprule", r"a\_b & n \\", r"\midrule", r"50\% & 3\,000 \\",
        r"$-$1--2 & \textasciitilde{}\textasciicircum{} \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    framed = latex({"a": ["&#$"]}, caption="{x}").splitlines()
    assert framed[:4] == [r"\begin{table}", r"\centering", r"\caption{\{x\}}", r"\begin{tabular}{l}"]
    assert framed[7] == r"\&\#\$ \\"
    assert framed[-2:] == [r"\end{tabular}", r"\end{table}"]


def fresh(text: str) -> str:
    """An equal text that is another object, as one out of a file is."""
    return "".join([text[:1], text[1:]])


def shown(tables: dict[str, pd.DataFrame] | None = None, **said: Any) -> Any:
    """A run that says this of itself."""
    frames = tables or {}
    plain: dict[str, Any] = dict(kind="regions", model_name="m", languages=[], source="here", manifest={}, summary={})
    return SimpleNamespace(**plain | said, tables=list(frames), table=frames.__getitem__)


def test_facts_are_those_that_a_run_has():
    assert list(display.facts(shown())) == [("Model", "m"), ("Where", "here")]
    told = dict(fixed=True, tokens=1234, tokens_fixed=5000)
    run = shown(
        languages=["en"], manifest={"corpus": {"spec": "memory"}}, kind="regions",
        summary={"n": 7, "layers": 3, "threshold": 2.0, "method": fresh("z-score"), "sklr": None, "excess_sklr": 1.0,
                 "deactivation": told},
    )  # fmt: skip
    assert list(display.facts(run)) == [
        ("Model", "m"), ("Layers", "3"), ("Sentences", "7"), ("Threshold of z", "2"), ("Languages", "en"),
        ("Corpus", "memory"), ("Read", "1\u202f234 of 5\u202f000 tokens under deactivation"), ("Where", "here"),
    ]  # fmt: skip
    for method in ("lape", "zeta"):
        assert "Threshold of z" not in dict(display.facts(shown(summary={"threshold": 2.0, "method": method})))
    assert dict(display.facts(shown(summary={"threshold": 2.0})))["Threshold of z"] == "2"
    unknown = dict(display.facts(shown(summary={"sklr": 2.0, "excess_sklr": 1.0})))
    assert unknown["Excess"] == "1 of SKLR above permuted labels, at unknown n"
    assert display._interval([1.0, 2.0]) == " (1 to 2)"
    assert [display._interval(ends) for ends in ([1.0], (1.0, 2.0, 3.0), "ab", None)] == [""] * 4


def test_the_points_of_a_sweep_are_shown_with_what_is_known_of_them():
    frame = pd.DataFrame({"step": [1.0, math.nan], "model": ["a", None], "other": [1, 2]})
    page = display.run_html(shown({"points": frame}, kind=fresh("sweep")))
    assert "2 points" in page
    assert page.index(">model<") < page.index(">step<")
    assert "other" not in page.split("2 points")[1]
    assert page.count(">–<") == 2
    assert "2 points" not in display.run_html(shown({"points": frame}))
    for kind in ("regions", "zz"):
        assert "2 points" not in display.run_html(shown({"points": frame}, kind=kind))
    assert "points<" not in display.run_html(shown({}, kind=fresh("sweep")))


def test_runs_are_compared_entry_by_entry():
    def run(**said: object) -> Any:
        return SimpleNamespace(manifest=said)

    frame = compare_runs(
        run(a={"b": 1, "c": True}, d="x", same=2, wall_time_s=1, started=2, finished=3),
        run(a={"b": 1.5, "c": False}, e=None, f=2, same=2, wall_time_s=4, started=5, finished=6),
    )
    assert frame["entry"].tolist() == ["a.b", "a.c", "d", "f"]
    assert frame["difference"].tolist()[0] == 0.5
    assert all(value is None or math.isnan(value) for value in frame["difference"].tolist()[1:])
    assert frame["first"].tolist()[2] == "x"
    assert len(compare_runs(run(a=1), run(a=1))) == 0


# -- the manifest ---------------------------------------------------------------------------------------------------


def test_plain_values_of_every_kind():
    value = {
        1: np.float32(0.5), "a": (1, np.int64(2)), "b": np.array([[1.0, math.inf]]), "c": {3, 1, 2}, "d": math.nan,
        "e": PurePosixPath("x/y"), "f": True, "g": np.array("z"), "h": -math.inf,
    }  # fmt: skip
    assert manifest.plain(value) == {
        "1": 0.5, "a": [1, 2], "b": [[1.0, None]], "c": [1, 2, 3], "d": None, "e": "x/y", "f": True, "g": "z",
        "h": None,
    }  # fmt: skip
    for bad, told in (({"a": [1, object()]}, r"run\.json: a\[1\] is a object"), (b"x", r"run\.json is a bytes")):
        with pytest.raises(RunError, match=f"^{told}, which JSON cannot hold$"):
            manifest.plain(bad)


def test_the_key_is_of_the_canonical_text():
    assert manifest.run_key({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()[:16]
    assert manifest.to_json({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'
    first = manifest.initial("regions")
    assert (first["format"], first["kind"], first["summary"]) == (1, "regions", {})
    assert list(first["versions"])[:3] == ["python", "torch", "transformers"]
    assert json.loads(manifest.to_json(first)) == first


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    manifest._installed.cache_clear()
    monkeypatch.setattr(manifest, "_PACKAGES", ("torch", "no-such-package", "numpy"))
    try:
        assert [name for name, _ in manifest._installed()] == ["python", "torch", "numpy"]
    finally:
        manifest._installed.cache_clear()
