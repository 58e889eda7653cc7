"""A moment of fuzzing for every reader; `make fuzz` runs ten minutes each, guided by coverage if atheris is there."""

import pytest

from babelscope.corpora import load_corpus
from babelscope.errors import CorpusError

from . import fuzz
from .fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_moment_of_fuzzing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "door":
        pytest.importorskip("babelscope.app.guard")
    assert fuzz.fuzz(name, seconds=0.5, seed=7) > 0


FOUND = {
    "spec": [b"lines:~nobody-of-that-name/x", b"bible:~\x01"],
    "verbs": [b"\twalked\tV;PST\n"],
    "pairs": [b"{\xff"],
    "stories": [b'a,b\n"1,2,3\n', b"InputStoryid\xff", b"a,b\n1,2,3\n"],
    "sweep": [b"\xff", b"{}", b'{"points": [1]}', b'{"points": [{"key": "../../x"}]}'],
    "checksums": [b'{"\\ud800": "0"}'],
    "graph": [
        b'{"cfg": {"n_layers": 1e999, "n_heads": 2, "parallel_attn_mlp": 0}, "edges": {}}',
        b'{"cfg": {"n_layers": 1000000000, "n_heads": 64, "parallel_attn_mlp": 0}, "edges": {}}',
    ],
    "regions-json": [b'{"layers": 1e999, "neurons_per_layer": 1, "method": "m", "regions": {"en": [[0]]}}'],
    "door": [b"GET /config HTTP/1.1\nhost: 127.0.0.1:7860\norigin: http://[::1\n"],
}
"""what fuzzing has broken once"""


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, found in FOUND.items() for data in found])
def test_what_was_found_once_stays_mended(name, data):
    fuzz.once(name, data)


def test_a_crash_is_seen_and_kept(tmp_path, monkeypatch):
    """The instrument itself: a reader that breaks is caught, and its input can be played again."""

    def broken(data, folder):
        if b"9" in data:
            raise KeyError("nine")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TARGETS, "broken", (broken, lambda: b"1234"))
    with pytest.raises(KeyError):
        fuzz.fuzz("broken", seconds=20, seed=1)
    (kept,) = tmp_path.glob("crash-broken-*.bin")
    with pytest.raises(KeyError):
        fuzz.once("broken", kept.read_bytes())


def test_a_file_of_answers_with_more_cells_than_columns_is_one_line(tmp_path):
    from babelscope.errors import InputError
    from babelscope.steering.benchmark import read_answers

    (tmp_path / "a.csv").write_text("id,text\n1,2,3\n")
    with pytest.raises(InputError, match=r"no column .*; it has id, text"):
        read_answers(tmp_path / "a.csv")


def test_a_time_zone_that_there_is_not_is_told(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    when = pa.array([0, 1], pa.timestamp("us", tz="TTC"))
    pq.write_table(pa.table({"id": ["1", "2"], "en": ["a", "b"], "when": when}), tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match="not a readable Parquet file"):
        load_corpus(f"table:{tmp_path / 't.parquet'}", ("en",))
