"""A moment of fuzzing for every reader; `make fuzz` runs ten minutes each, guided by coverage if atheris is there."""

import pytest

from . import fuzz
from .fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_moment_of_fuzzing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "door":
        pytest.importorskip("babelscope.app.guard")
    assert fuzz.fuzz(name, seconds=0.5, seed=7) > 0


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
