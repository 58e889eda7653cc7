"""Relatives of what attackers broke: inert cells, nobody's homes, huge models, strict readers, messages that help."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from babelscope.claims import load_claim
from babelscope.errors import BabelscopeError, InputError, ModelError, TaskError
from babelscope.figures.fonts import LONGEST, drawn
from babelscope.latent.words import load_words
from babelscope.models import load_model
from babelscope.models.refusals import in_our_words, refuse_sizes
from babelscope.models.registry import family_from_file
from babelscope.results import RunWriter, open_run
from babelscope.results.csv_cells import inert, original, read_csv, write_csv
from babelscope.results.whole import home, whole_file, whole_folder
from babelscope.steering.benchmark import read_answers, read_benchmark
from babelscope.steering.directions import Direction
from babelscope.steering.files import SavedEdit, load_edit, save_edit
from babelscope.tasks.minimal_pairs import read_minimal_pairs
from babelscope.tasks.sources import unimorph_verbs
from babelscope.tasks.stories import read_stories

from .command import command
from .tiny_models import tiny_model, tiny_tokenizer

SOURCE = Path(__file__).resolve().parents[1] / "src"
FORMULAS = ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''-1", "-"]
PLAIN = ["a=1", "'tis", "", "–", " =1", "1", "é", "NA", "None"]


# -- formulas ---------------------------------------------------------------------------------------------------------


def test_attack_9_no_cell_of_a_table_is_a_formula_and_reading_gives_the_text_back(tmp_path):
    texts = [*FORMULAS, *PLAIN]
    frame = pd.DataFrame({"=x": texts, "n": np.linspace(-2, 2, len(texts)), "i": range(-3, len(texts) - 3), "-": 1.5})
    frame["kind"] = pd.Categorical(texts)
    with RunWriter(tmp_path / "run", "regions") as run:
        run.table("t", frame)
    file = tmp_path / "run" / "tables" / "t.csv"
    for line in pd.read_csv(file, dtype=str, keep_default_na=False, header=None).itertuples(index=False):
        for cell in line[:1] + line[4:]:
            assert not cell.startswith(tuple("=+-@\t\r\n＝")) or cell == "-1.5", cell
    back = read_csv(file)
    assert list(back.columns) == list(frame.columns)
    assert back["=x"].fillna("").tolist() == texts
    np.testing.assert_allclose(back.n, frame.n)
    assert back.i.tolist() == frame.i.tolist()
    pd.testing.assert_frame_equal(open_run(tmp_path / "run").table("t"), frame)
    assert [original(inert(text)) for text in texts] == texts


def test_every_table_of_the_command_line_goes_through_the_same_writer():
    spots = [
        (path.name, line.strip())
        for path in (SOURCE / "babelscope").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if ".to_csv(" in line
    ]
    assert [name for name, _ in spots] == ["csv_cells.py"], spots


def test_formulas_in_a_corpus_reach_no_spreadsheet(tmp_path):
    for code, line in (("en", "=HYPERLINK(1)"), ("fr", "=HYPERLINK(1)")):
        (tmp_path / f"{code}.txt").write_text(f"{line}\n{line}\n@x\n")
    assert command("corpus", "audit", f"lines:{tmp_path}", "--out", tmp_path / "out").exit_code == 0
    cells = (tmp_path / "out" / "duplicate.csv").read_text()
    assert "same as 1: =HYPERLINK" in cells
    frame = pd.DataFrame({"id": ["=1", -1.5, None]})
    write_csv(frame, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == 'id\n\'=1\n-1.5\n""\n'
    assert frame.id.tolist()[:2] == ["=1", -1.5]


# -- places -----------------------------------------------------------------------------------------------------------


def test_attack_9_the_home_of_nobody_is_one_line_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: home("~nobody9/x"), lambda: RunWriter("~nobody9/x", "regions"), lambda: open_run("~nobody9/x"),
        lambda: whole_file(Path("~nobody9")).__enter__(), lambda: whole_folder(Path("~nobody9/a")).__enter__(),
    ):  # fmt: skip
        with pytest.raises(InputError, match="nobody here is called 'nobody9'"):
            use()
    said = command("pocket", "export", "bloom-s", "~nobody9/x")
    assert (said.exit_code, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "~nobody9").mkdir()
    assert home("~nobody9/x") == Path("~nobody9/x")  # a folder that is really called so
    assert home("~/x") == Path.home() / "x"


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("bloom").save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def copied(folder: Path, to: Path, **changes: object) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    content = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**content, **changes}))
    return to


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layer": 1e6}, {"n_layer": 10**6}, {"n_layer": 0}, {"n_layer": -3}, {"n_layer": "4"}, {"n_layer": 4.5},
        {"hidden_size": 10**9}, {"vocab_size": 10**12}, {"n_layer": 1999, "hidden_size": 2**20},
    ],
)  # fmt: skip
def test_attack_8_a_model_that_cannot_be_is_refused_before_it_is_built(folder, tmp_path, changes):
    started = time.process_time()
    with pytest.raises(ModelError, match=r"which no model has|need at least|n_layer|layers"):
        load_model(copied(folder, tmp_path / "m", **changes))
    assert time.process_time() - started < 10


def test_weights_larger_than_memory_are_refused_with_what_there_is():
    from types import SimpleNamespace

    config = SimpleNamespace(num_hidden_layers=80, hidden_size=8192, vocab_size=128_256)
    with pytest.raises(ModelError, match=r"need at least 43 GiB; there are 16 GiB here"):
        refuse_sizes(config, "m", 4, 16 << 30)
    refuse_sizes(config, "m", 2, 64 << 30)
    refuse_sizes(SimpleNamespace(), "m", 4, 1 << 20)  # states nothing that we know: refuses nothing


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        ("config.json", b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        ("config.json", b'{"a":' * 5000, "levels deep"),
        ("config.json", b"\xff\xfe", "not UTF-8"),
        ("adapter_config.json", b"[1]", "no mapping"),
        ("adapter_config.json", b"{}", "--merge-adapter"),
    ],
)
def test_b10_a_folder_that_is_no_model_says_what_it_is(folder, tmp_path, file, content, words):
    place = copied(folder, tmp_path / "m")
    (place / file).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        load_model(place)


def test_b10_gguf_missing_weights_and_folders_of_checkpoints(folder, tmp_path):
    place = copied(folder, tmp_path / "m")
    (place / "model.safetensors").rename(place / "x.gguf")
    with pytest.raises(ModelError, match=r"holds x\.gguf, and GGUF is not read"):
        load_model(place)
    (place / "x.gguf").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(place)
    copied(folder, tmp_path / "steps").rename(tmp_path / "step1")
    (tmp_path / "all").mkdir()
    (tmp_path / "step1").rename(tmp_path / "all" / "step1")
    with pytest.raises(ModelError, match="holds models in step1"):
        load_model(tmp_path / "all")
    with pytest.raises(ModelError, match="has no revision 'step2'; it has step1"):
        load_model(tmp_path / "all", revision="step2")
    with pytest.raises(ModelError, match="leave --device out"):
        load_model(tmp_path / "all", revision="step1", device="cpu", device_map="auto")


def test_a_misspelt_model_is_told_at_once_and_what_it_may_be(tmp_path, monkeypatch):
    """Without a network nothing is tried again: the cache alone is asked."""
    monkeypatch.setattr("babelscope.models.loading.hub_answers", lambda: False)
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"^my-modle is no folder here .* did you mean my-model"):
        load_model("my-modle")
    with pytest.raises(ModelError, match="did you mean pocket:pocket-bloom-s"):
        load_model("pocket-bloom-s")


def test_the_hub_is_asked_once_whether_it_is_there(monkeypatch):
    from babelscope import network

    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        monkeypatch.setattr(network, "getproxies", dict)
        monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert network.hub_answers()
    assert not network.hub_answers()
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    assert not network.hub_answers()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("The repository x contains custom code which must be executed.\nPlease pass `trust_remote_code=True`",
         "--trust-remote-code"),
        ("We couldn't connect to 'https://huggingface.co' to load the files", "the hub cannot be reached: check"),
        ("x is not a local folder and is not a valid model identifier listed", "no model of the hub"),
        ("step9 is not a valid git identifier (branch name, tag name or commit id)", "no such revision"),
        ("You are trying to access a gated repo.", "accepted its terms"),
        ("Error while deserializing header: header too large", "git lfs pull"),
        ("Validation error for field 'n_layer':\n  x is no number", "field 'n_layer': x is no number"),
        ("", "OSError"),
    ],
)  # fmt: skip
def test_b10_what_other_libraries_say_is_said_in_our_words(said, words):
    assert words in in_our_words(OSError(said), "m")


# -- readers of files that others write -------------------------------------------------------------------------------


def edit(tmp_path, tensors=None, **changes) -> Path:
    unit = torch.nn.functional.normalize(torch.arange(1.0, 5.0, dtype=torch.float64), dim=0)
    file = tmp_path / "e.safetensors"
    save_edit(SavedEdit((Direction("en", "fr", 1, "diffmean", unit, 1.0, 0.0, 1.0, 2.0),)), file)
    from safetensors import safe_open

    with safe_open(file, "pt") as stream:
        head = json.loads(stream.metadata()["babelscope"])
    one = {name.removeprefix("one_"): value for name, value in changes.items() if name.startswith("one_")}
    head |= {name: value for name, value in changes.items() if not name.startswith("one_")}
    head["directions"][0] |= one
    held = {**load_file(file), **(tensors or {})}
    save_file(held, file, {"babelscope": changes.get("raw") or json.dumps(head)})
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": True}, {"alpha": "2"}, {"alpha": float("nan")}, {"keep": "false"}, {"first": 1}, {"unit": "miles"},
        {"where": "no"}, {"edit": None}, {"format": 9}, {"one_layer": 1.7}, {"one_layer": -1}, {"one_layer": True},
        {"one_gap": float("inf")}, {"one_source": 5}, {"one_norm": None}, {"facts": [1]}, {"raw": "[" * 5000},
        {"raw": "[]"}, {"raw": "{}"},
        {"tensors": {"unit/0": torch.ones(4, dtype=torch.float64)}},
        {"tensors": {"unit/0": torch.zeros(2, 2)}}, {"tensors": {"basis/0": torch.ones(3, 5)}},
        {"tensors": {"mask": torch.full((2, 2), 255, dtype=torch.uint8)}}, {"tensors": {"mask": torch.ones(4).bool()}},
        {"tensors": {"values": torch.ones(2, 2)}}, {"tensors": {"unit/0": torch.full((4,), float("nan"))}},
    ],
)  # fmt: skip
def test_a_steering_edit_is_read_strictly(tmp_path, changes):
    with pytest.raises(InputError, match="not a file of a steering edit"):
        load_edit(edit(tmp_path, **changes))


def test_a_good_edit_is_read(tmp_path):
    assert load_edit(edit(tmp_path)).directions[0].layer == 1


WRONG_FILES = [
    (load_words, "w.jsonl", '{"concept": "a", "en": 5}\n'),
    (load_words, "w.jsonl", '{"concept": "a", "en": true}\n'),
    (load_words, "w.jsonl", '{"concept": ["a"], "en": "x"}\n'),
    (load_words, "w.jsonl", '{"concept": "a", "en": "x", "eng": "y"}\n'),
    (load_words, "w.jsonl", '{"concept": "a", "en": "x", "en": "y"}\n'),
    (load_words, "w.jsonl", "[" * 5000),
    (load_words, "w.csv", "id,en,en\na,b,c\n"),
    (load_words, "w.csv", "id,en,eng_Latn\na,b,c\n"),
    (load_words, "w.csv", "id,en,xx-yy-zz\na,b,c\n"),
    (read_minimal_pairs, "p.jsonl", '{"good": null, "bad": "x"}\n'),
    (read_minimal_pairs, "p.jsonl", '{"good": 5, "bad": "x"}\n'),
    (read_minimal_pairs, "p.jsonl", '{"good": "", "bad": "x"}\n'),
    (read_minimal_pairs, "p.jsonl", '{"good":' * 5000),
    (read_minimal_pairs, "p.txt", "True\ta\nTrue\tb\nFalse\tc\n"),
    (read_minimal_pairs, "p.txt", "False\ta\nTrue\tb\nFalse\tc\n"),
    (read_minimal_pairs, "p.txt", "True\ta\nFalse\tc\nTrue\tb\n"),
    (read_minimal_pairs, "p.txt", "True\t\nFalse\tc\n"),
    (unimorph_verbs, "v.tsv", "lemma\tpast\tkind\nwalk\twalked\tregular\ngo\twent\n"),
]


@pytest.mark.parametrize(("read", "name", "content"), WRONG_FILES)
def test_tables_of_words_and_sentences_drop_and_convert_nothing(tmp_path, read, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(BabelscopeError):
        read(str(tmp_path / name))


def test_pairs_in_which_one_good_sentence_has_several_bad_ones_are_kept(tmp_path):
    (tmp_path / "p.txt").write_text("True\ta b\nFalse\ta c\nFalse\ta d\n")
    assert [(pair.good, pair.bad) for pair in read_minimal_pairs(tmp_path / "p.txt")] == [
        ("a b", "a c"),
        ("a b", "a d"),
    ]


@pytest.mark.parametrize(
    "change",
    [{"label": 0.9}, {"label": True}, {"label": "x"}, {"label": None}, {"label": 2}, {"choice1": None}, {"choice2": 5},
     {"premise": ""}, {"question": "why"}, {"question": None}],
)  # fmt: skip
def test_labels_of_stories_are_not_rounded(tmp_path, change):
    row = {"premise": "It rained.", "choice1": "a", "choice2": "b", "question": "effect", "label": 0, "idx": 1}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    assert read_stories(tmp_path / "s.jsonl")[0].label == 0
    (tmp_path / "s.jsonl").write_text(json.dumps(row | change) + "\n")
    with pytest.raises(TaskError, match="record 1"):
        read_stories(tmp_path / "s.jsonl")


def test_answers_and_prompts_of_a_benchmark_have_languages_and_whole_rows(tmp_path):
    place = tmp_path / "monolingual" / "set"
    place.mkdir(parents=True)
    (place / "iw.csv").write_text("﻿prompt,source\nshalom,x\n", encoding="utf-8")
    (prompt,) = read_benchmark(tmp_path)
    assert (prompt.language, prompt.text) == ("he", "shalom")
    (place / "nonsense9.csv").write_text("prompt,source\nx,y\n")
    with pytest.raises(InputError, match=r"nonsense9\.csv: unknown language"):
        read_benchmark(tmp_path)
    answers = tmp_path / "a.csv"
    for row, words in (("x,nonsense9", "record 1: unknown language"), ("x", "record 1: its fields"),
                       ("x,fr,z", "record 1: its fields")):  # fmt: skip
        answers.write_text(f"completion,language\n{row}\n")
        with pytest.raises(InputError, match=words):
            read_answers(answers)


@pytest.mark.parametrize("content", ["a = " + "[" * 3000, "n = " + "9" * 5000, "\udcff", "name = 1979-05-27", ""])
def test_a_family_file_of_any_content_is_one_line(tmp_path, content):
    (tmp_path / "f.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError):
        family_from_file(tmp_path / "f.toml")


@pytest.mark.parametrize(
    "value", ["!!bool x", "2024-01-01", ".nan", ".inf", "{}", "[]", "-1", "yes", '""', "!!set {a}"]
)
@pytest.mark.parametrize("key", ["least_effect", "rule", "kind", "id", "needs"])
def test_a_claim_file_with_any_value_is_read_or_one_line(tmp_path, key, value):
    import re

    text = (SOURCE / "babelscope" / "claims" / "data" / "zeng-same-meaning.yaml").read_text(encoding="utf-8")
    changed, count = re.subn(rf"(?m)^(\s*){key}:.*$", rf"\g<1>{key}: {value}", text, count=1)
    assert count or key == "needs"
    (tmp_path / "c.yaml").write_text(changed, encoding="utf-8")
    try:
        claim = load_claim(str(tmp_path / "c.yaml"))
    except InputError:
        return
    assert claim.hash
    assert all(0 < claim.effect(part) < float("inf") and claim.rule(part) for part in claim.least_effect if part != "*")


# -- the command line -------------------------------------------------------------------------------------------------


def test_a_file_of_options_that_unfolds_is_refused_soon(tmp_path):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh")
    )
    (tmp_path / "o.yaml").write_text(bomb)
    started = time.process_time()
    said = command("regions", "m", "--config", tmp_path / "o.yaml")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1), said
    assert time.process_time() - started < 10


def test_c3_a_corpus_without_a_reader_is_told_which_one_fits(tmp_path):
    (tmp_path / "li").mkdir()
    (tmp_path / "ta").mkdir()
    for code in ("en", "fr"):
        (tmp_path / "li" / f"{code}.txt").write_text("a\n")
    (tmp_path / "ta" / "x.jsonl").write_text('{"en": "a", "fr": "b"}\n')
    (tmp_path / "q?x").mkdir()
    for name, fits in (("li", "lines"), ("ta", "table")):
        said = command("corpus", "audit", tmp_path / name)
        assert (said.exit_code, f"such as {fits}:{tmp_path / name}" in said.stderr) == (2, True), said
    said = command("corpus", "audit", f"lines:{tmp_path / 'ta'}")
    assert f"its files look like table:{tmp_path / 'ta'}" in said.stderr
    # C11: a place may be written with %3F, and a space after the colon is nobody's name
    (tmp_path / "q?x" / "en.txt").write_text("a\n")
    assert "is written %3F" in command("corpus", "audit", f"lines:{tmp_path / 'q?x'}").stderr
    assert command("corpus", "audit", f"lines:{tmp_path}/q%3Fx").exit_code == 0
    assert command("corpus", "audit", f"lines: {tmp_path / 'li'}").exit_code == 0


def test_c8_revisions_of_a_folder_without_any_are_told_of(folder, tmp_path):
    said = command(
        "sweep", "--model", folder, "--revisions", "step*", "--stories", "pocket:?n=2", "--out", tmp_path / "s"
    )
    assert said.exit_code in (1, 2)
    told = said.output + command("sweep", "status", tmp_path / "s").output
    assert "leave" in told
    assert "subfolder" in " ".join(told.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space")
@pytest.mark.parametrize("megabytes", [450, pytest.param(950, marks=pytest.mark.nightly)])
def test_attack_5_out_of_memory_is_one_line(tmp_path, megabytes):
    (tmp_path / "en.txt").write_text("one two\n" * 4)
    (tmp_path / "fr.txt").write_text("un deux\n" * 4)
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20, {megabytes} << 20))\n"
        "from babelscope.cli import main\n"
        f"main(['regions', 'pocket:pocket-bloom-s', '--corpus', 'lines:{tmp_path}', '--samples', '3', '--out',"
        f" '{tmp_path / 'run'}'])"
    )
    where = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    for _ in range(4):  # native libraries die or stand still now and then when an allocation of their own fails
        try:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=where)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode >= 0:
            break
    else:
        pytest.skip("no library here lives long enough under this limit")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("OpenBLAS", "OMP:"))]
    assert done.returncode == 2, done
    assert lines[-1].startswith("error: not enough memory"), lines
    assert "Traceback" not in done.stderr
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("torchinductor_"))
    assert left == ["en.txt", "fr.txt"]  # but for the folder that torch makes for itself


def test_attack_5_a_failed_allocation_in_a_model_is_one_line(tmp_path, monkeypatch, folder):
    """What torch says when the processor's memory is used up, in the middle of a study."""

    def full(*_: object, **__: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"
        )

    monkeypatch.setattr("babelscope.studies.regions.run_steps", full)
    for code in ("en", "fr"):
        (tmp_path / f"{code}.txt").write_text("one two\nthree four\nfive six\n")
    said = command("regions", folder, "--corpus", f"lines:{tmp_path}", "--samples", 2, "--out", tmp_path / "run")
    assert said.exit_code == 2
    assert said.stderr.splitlines()[-1].startswith("error: not enough memory")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["en.txt", "fr.txt"]


def test_attack_6_identical_text_in_all_languages_is_said(tmp_path, folder):
    for code in ("en", "fr", "es"):
        (tmp_path / f"{code}.txt").write_text("one two\nthree four\nfive six\n")
    said = command("regions", folder, "--corpus", f"lines:{tmp_path}", "--samples", 2, "--bootstrap", 5, "--out",
                   tmp_path / "run")  # fmt: skip
    assert said.exit_code == 0, said
    assert "same in all languages" in " ".join(open_run(tmp_path / "run").summary["notes"])
    assert open_run(tmp_path / "run").summary["sklr"] is None


def test_b7_a_language_without_stories_is_one_line(folder):
    said = command("evaluate", folder, "--languages", "en,de")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "'de'" in said.stderr
    assert "languages: ar, en" in said.stderr


def test_c2_one_language_is_told_what_is_missing(tmp_path):
    (tmp_path / "en.txt").write_text("a\nb\n")
    said = command("regions", "m", "--corpus", f"lines:{tmp_path}", "--languages", "en", "--out", tmp_path / "run")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "name two or more" in said.stderr


def test_c10_a_file_of_another_kind_is_told_what_is_missing(tmp_path):
    with RunWriter(tmp_path / "run", "regions"):
        pass
    said = command("regions", "show", tmp_path / "run" / "run.json")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "is missing or of another kind" in said.stderr


def test_bug_41_a_data_set_on_disk_is_told_what_to_do_with(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    said = command("corpus", "audit", f"hub:{tmp_path}?split=test")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "read that by table:" in said.stderr


# -- figures ----------------------------------------------------------------------------------------------------------


def test_hostile_text_in_a_figure_is_text(tmp_path):
    import matplotlib
    from defusedxml import ElementTree
    from matplotlib.figure import Figure

    hostile = ["$x^2$", "$\\frac{", "a$b$c\\$", "</text><script>x</script>", "\x00\x1b[31m\x08", "\u202eb",
               "a\nb\u2028c", "\ufffe", "]]>", "&x;", "x" * 5000, "\ud800"]  # fmt: skip
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        for text in hostile:
            figure = Figure()
            figure.text(0.5, 0.5, drawn(text))
            figure.savefig(tmp_path / "f.svg")
            root = ElementTree.parse(tmp_path / "f.svg").getroot()
            assert not [part for part in root.iter() if "script" in part.tag]
            shown = "".join(root.itertext())
            assert "$x^2$" in shown if text == "$x^2$" else True
            assert len(drawn(text)) <= LONGEST + 20


# -- the explorer -----------------------------------------------------------------------------------------------------


def test_attack_9_half_open_connections_are_closed_and_hold_nobody_up(monkeypatch):
    """Forty connections that say half of a request, or nothing at all, while somebody else is answered."""
    uvicorn = pytest.importorskip("uvicorn")
    from babelscope.app import server

    monkeypatch.setattr(server, "PATIENCE", 0.5)

    async def page(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    place = listener.getsockname()
    settings = uvicorn.Config(page, http=server._impatient(), log_level="critical", lifespan="off", ws="none")
    serving = uvicorn.Server(settings)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        open_ones = [socket.create_connection(place, timeout=20) for _ in range(40)]
        for number, one in enumerate(open_ones):
            one.sendall([b"", b"GET / HTTP/1.1\r\nHost: 127", b"POST / HTTP/1.1\r\n", b"\r"][number % 4])
        with socket.create_connection(place, timeout=20) as somebody:
            somebody.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert somebody.recv(4096).startswith(b"HTTP/1.1 200")
        for one in open_ones:  # closed by the server, some after a word about what was no request
            while one.recv(4096):
                pass
            one.close()
    finally:
        serving.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
