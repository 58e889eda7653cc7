"""A second of fuzzing for every reader; `make fuzz` runs ten minutes each."""

import pytest

from . import fuzz


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_second_of_fuzzing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "plan":
        pytest.importorskip("babelscope.evolution.plan")
    assert fuzz.fuzz(name, seconds=1.0, seed=7) > 0
