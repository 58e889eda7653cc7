"""Tables without formulas, and files that others write: relatives of what attackers found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from babelscope.claims import load_claim
from babelscope.errors import BabelscopeError, InputError, TaskError
from babelscope.latent.words import load_words
from babelscope.models.registry import family_from_file
from babelscope.results import RunWriter, open_run
from babelscope.results.csv_cells import inert, original, read_csv, write_csv
from babelscope.steering.benchmark import read_answers, read_benchmark
from babelscope.steering.directions import Direction
from babelscope.steering.files import SavedEdit, load_edit, save_edit
from babelscope.tasks.minimal_pairs import read_minimal_pairs
from babelscope.tasks.sources import unimorph_verbs
from babelscope.tasks.stories import read_stories

from .command import command

SOURCE = Path(__file__).resolve().parents[1] / "src"
FORMULAS = ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''-1", "-"]
PLAIN = ["a=1", "'tis", "", "–", " =1", "1", "é", "NA", "None"]


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
