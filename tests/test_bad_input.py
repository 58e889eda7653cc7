"""Bad input on the command line: one clear line, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch

from babelscope.cli import main

from .fault_points import strike
from .tiny_models import tiny_model, tiny_tokenizer

LANGUAGES = ("en", "fr", "es", "pt", "vi", "id")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def lines(tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    for code in LANGUAGES:
        (folder / f"{code}.txt").write_text("".join(f"{code} says {i} things.\n" for i in range(8)))
    return folder


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said
    return errors[0]


def regions(capsys, model, corpus, out, *more: object) -> str:
    given = ["regions", model, "--corpus", corpus, "--samples", 6, "--threshold", 1.5, "--bootstrap", 50, "--out", out]
    message = refused(capsys, *given, *more)
    assert not os.path.lexists(out) or out.is_file() or (out / "keep").exists()
    leftovers = [name for name in os.listdir(out.parent) if name.endswith((".tmp", ".lock"))]
    assert leftovers == []
    return message


def test_a_good_run_first(capsys, model, lines, tmp_path):
    arguments = ["regions", model, "--corpus", f"lines:{lines}", "--samples", 6, "--threshold", 1.5, "--bootstrap", 50]
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in [*arguments, "--texts", f"lines:{lines}", "--controls", 1, "--out", tmp_path / "run"]])
    assert stop.value.code == 0
    assert (tmp_path / "run" / "run.json").is_file()
    assert regions_exists_message(capsys, model, lines, tmp_path / "run")


def regions_exists_message(capsys, model, lines, out):
    message = refused(capsys, "regions", model, "--corpus", f"lines:{lines}", "--out", out)
    return "--overwrite" in message


def test_missing_language(capsys, model, lines, tmp_path):
    assert "zh" in regions(capsys, model, f"lines:{lines}", tmp_path / "out", "--languages", "en,fr,es,pt,vi,zh")


def test_an_id_in_no_other_language(capsys, model, tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("id\ten\tfr\n1\ta cat\tun chat\n2\ta dog\tun chien\n3\ta lone line\t\n")
    assert "3" in regions(capsys, model, f"table:{table}", tmp_path / "out", "--threshold", 0.5)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"\x00\x01\x02\xff\xfe" * 50, "binary"), (b"good\nbad \xff\xc3(\n", "UTF-8")],
    ids=["empty", "binary", "invalid UTF-8"],
)
def test_broken_files(capsys, model, lines, tmp_path, content, says):
    (lines / "fr.txt").write_bytes(content)
    message = regions(capsys, model, f"lines:{lines}", tmp_path / "out")
    assert says.lower() in message.lower()
    assert "fr.txt" in message


def test_entity_bomb(capsys, model, tmp_path):
    folder = tmp_path / "bible"
    folder.mkdir()
    bomb = (
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
        '<cesDoc><text><body><seg id="b.MAT.1.1" type="verse">&b;</seg></body></text></cesDoc>'
    )
    for name in ("English", "French"):
        (folder / f"{name}-NT.xml").write_text(bomb)
    message = regions(capsys, model, f"bible:{folder}", tmp_path / "out", "--languages", "en,fr", "--threshold", 0.5)
    assert "entit" in message.lower()


def test_no_tokenizer(capsys, model, lines, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    for file in bare.glob("token*"):
        file.unlink()
    assert "no tokenizer" in regions(capsys, bare, f"lines:{lines}", tmp_path / "out")


def test_unknown_family(capsys, lines, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("mamba", hidden_size=32, state_size=4, num_hidden_layers=2, vocab_size=96)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    tiny_tokenizer().save_pretrained(tmp_path / "mamba")
    assert "mamba" in regions(capsys, tmp_path / "mamba", f"lines:{lines}", tmp_path / "out")


def test_five_languages_cannot_reach_two(capsys, model, lines, tmp_path):
    asked = ("--languages", "en,fr,es,pt,vi", "--threshold", 2, "--method", "z-score")
    message = regions(capsys, model, f"lines:{lines}", tmp_path / "out", *asked)
    assert "5 languages" in message
    assert "below 2" in message


def test_nan_weights(capsys, lines, tmp_path):
    broken = tiny_model("llama")
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    broken.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    assert "NaN" in regions(capsys, tmp_path / "nan", f"lines:{lines}", tmp_path / "out")


def test_existing_directory(capsys, model, lines, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "keep").write_text("precious")
    assert "--overwrite" in regions(capsys, model, f"lines:{lines}", out)
    assert "not a run" in regions(capsys, model, f"lines:{lines}", out, "--overwrite")
    assert (out / "keep").read_text() == "precious"


def test_too_few_sentences_and_too_little_text(capsys, model, lines, tmp_path):
    assert "8" in regions(capsys, model, f"lines:{lines}", tmp_path / "out", "--samples", 100)
    message = regions(
        capsys, model, f"lines:{lines}", tmp_path / "out", "--texts", f"lines:{lines}", "--window", 100000
    )
    assert "window" in message


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="a small file system can be mounted by root only"
)
def test_a_full_disk(model, lines, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        arguments = ["regions", model, "--corpus", f"lines:{lines}", "--samples", "6", "--threshold", "1.5"]
        words = [*map(str, arguments), "--bootstrap", "50", "--out", str(small / "run")]
        done = strike(partial(main, words), small, tmp_path / "notes")
        assert done.code == 2, done
        assert "Traceback" not in done.said
        assert "No space" in done.said or "full" in done.said
        left = [path for path in small.iterdir() if path.suffix != ".lock"]
        # steps that were finished are kept for the next try, whole
        assert all(path.name.startswith(".run.steps-") for path in left)
        kept = [step for path in left for step in path.iterdir() if not step.name.startswith("owner.json")]
        assert all((step / "step.json").is_file() and step.suffix != ".part" for step in kept)
    finally:
        subprocess.run(["umount", small], check=False)


def test_an_unknown_joint(capsys, model, lines, tmp_path):
    assert '"blank-line", "eos"' in regions(capsys, model, f"lines:{lines}", tmp_path / "out", "--joint", "nothing")
