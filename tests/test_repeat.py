"""Every run of the command line carries the file of options that makes it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from babelscope.cli import call
from babelscope.repeat import asked_for, asked_now
from babelscope.results import RunWriter


def test_a_run_made_from_the_repeat_file_of_another_has_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call(["regions", "pocket:pocket-bloom-s", "--corpus", "pocket:heldout", "--languages", "en,zh", "--samples", "10",
         "--norm", "paper", "--methods", "lape,fdr-effect", "--permutations", "9", "--out", "one"])  # fmt: skip
    asked = yaml.safe_load((tmp_path / "one" / "repeat.yaml").read_text())["regions"]
    assert asked == {"model": "pocket:pocket-bloom-s", "corpus": "pocket:heldout", "languages": "en,zh",
                     "samples": "10", "norm": "paper", "methods": "lape,fdr-effect", "permutations": "9"}  # fmt: skip
    call(["regions", "--config", "one/repeat.yaml", "--out", "two"])
    keys = [json.loads((tmp_path / name / "run.json").read_text())["key"] for name in ("one", "two")]
    assert keys[0] == keys[1]
    assert (tmp_path / "one" / "repeat.yaml").read_bytes() == (tmp_path / "two" / "repeat.yaml").read_bytes()
    call(["show", "two", "--check"])


def test_a_run_made_in_python_has_no_repeat_file(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", kind="regions"):
        pass
    assert not (tmp_path / "run" / "repeat.yaml").exists()


@pytest.mark.parametrize("value", ["a: b", "#1", "- x", "yes", "0.10", "{en}.txt", "汉语 # x"])
def test_what_yaml_would_read_otherwise_comes_back_as_it_was_typed(value: str) -> None:
    with asked_for("regions", {"corpus": value}):
        said = asked_now()
    assert said is not None
    assert yaml.safe_load(said) == {"regions": {"corpus": value}}
    assert asked_now() is None
