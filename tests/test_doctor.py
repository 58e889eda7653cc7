"""`babelscope doctor` names what is broken, each with what to do; and every command's help has an example."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

import pytest

from babelscope.cli import VERBS, doctor, main
from tests.command import every_command


@pytest.fixture
def examined(capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def examine() -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["doctor"])
        return int(stop.value.code or 0), capsys.readouterr().out

    return examine


def test_a_sound_installation(examined, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "LOW_DISK", 0)
    monkeypatch.setattr(doctor, "LOW_WORK", 0)
    code, said = examined()
    assert code == 0, said
    assert "no problems found" in said
    for part in ("python 3", "torch ", "chosen: ", "pocket-bloom-m: there", "GiB free", "OMP_NUM_THREADS not set"):
        assert part in said


def test_missing_and_unfit_packages(examined, monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "rich":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "zarr" else real(name)

    monkeypatch.setattr(doctor, "version", version)
    code, said = examined()
    assert code == 1
    assert "rich is not installed: pip install 'rich>=" in said
    assert re.search(r"zarr 0\.1 is not >=3[.\d]*: pip install", said)


def test_a_section_that_breaks_is_a_problem_and_the_others_go_on(examined, monkeypatch):
    def broken(_problems: list[str]) -> list[str]:
        raise OSError("libcudart.so.12: cannot open shared object file\nmore")

    monkeypatch.setitem(doctor.SECTIONS, "devices", broken)
    code, said = examined()
    assert code == 1
    assert "  devices: OSError: libcudart.so.12: cannot open shared object file\n" in said
    assert "pocket-bloom-m: there" in said


def test_missing_weights_and_wrong_variables(examined, tmp_path, monkeypatch):
    monkeypatch.setattr("babelscope.pocket.models.WEIGHTS", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    code, said = examined()
    assert code == 1
    assert "the weights of pocket-bloom-s@main are not in this installation" in said
    assert "OMP_NUM_THREADS is 'many', which is no number" in said


def test_caches_that_are_full_unfinished_or_no_folder(examined, tmp_path, monkeypatch):
    blob = tmp_path / "models--a--b" / "blobs" / "x.incomplete"
    blob.parent.mkdir(parents=True)
    blob.touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "LOW_DISK", 1 << 62)
    code, said = examined()
    assert code == 1
    assert f"models: {tmp_path}, 1 there" in said
    assert f"1 unfinished downloads under {tmp_path}" in said
    assert f"MiB are free for {tmp_path}; set HF_HOME to another disk" in said
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(blob / "below"))
    assert "cannot be written; set HF_HOME" in examined()[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_cache(examined, tmp_path, monkeypatch):
    Path(tmp_path).chmod(0o500)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "cannot be written; set HF_HOME" in examined()[1]


@pytest.mark.parametrize(("command", "text"), every_command())
def test_every_command_has_an_example(command, text):
    assert "xample" in text
    assert f"babelscope {command} " in " ".join(text.split()) + " "


def test_the_groups_are_all_there():
    assert {command.split()[0] for command, _ in every_command()} == set(VERBS)
