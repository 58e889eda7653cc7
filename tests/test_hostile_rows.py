"""Rows of published sets and of tables that are nearly right: refused by name, never read as another text or number."""

from __future__ import annotations

import json

import pytest

from babelscope.corpora import load_corpus
from babelscope.errors import CorpusError, InputError, TaskError
from babelscope.evaluation.questions import load_questions
from babelscope.json_text import parse_json
from babelscope.latent.words import load_words
from babelscope.studies.steer_settings import SteerSettings
from babelscope.tasks.minimal_pairs import read_minimal_pairs
from babelscope.tasks.stories import read_stories

from .fuzz_studied import _BELEBELE, _BMLAMA, _KLAR, _MKQA

SETS = {
    "belebele": ("en.jsonl", "/{language}.jsonl", _BELEBELE),
    "klar": ("en/capital.json", "", _KLAR),
    "mkqa": ("q.jsonl", "/q.jsonl", _MKQA),
}


def read(folder, name, content):
    file, ending, _ = SETS[name]
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return load_questions(f"{name}:{folder}{ending}", ["en"])


@pytest.mark.parametrize("name", SETS)
def test_good_ones_are_read(tmp_path, name):
    good = SETS[name][2]
    if name == "mkqa":  # two answers of one type, so that each is asked beside the other
        other = {**good, "example_id": 2, "answers": {"en": [{"type": "entity", "text": "he"}]}}
        good = json.dumps(good) + "\n" + json.dumps(other)
    assert len(read(tmp_path, name, good)["en"]) == {"belebele": 1, "klar": 2, "mkqa": 2}[name]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("belebele", {"correct_answer_num": "²"}), ("belebele", {"correct_answer_num": "1.5"}),
        ("belebele", {"correct_answer_num": 0}), ("belebele", {"correct_answer_num": True}),
        ("belebele", {"mc_answer2": None}), ("belebele", {"mc_answer2": ["x"]}), ("belebele", {"question": ""}),
        ("belebele", {"flores_passage": False}), ("belebele", {"link": {"a": 1}}),
        ("klar", {"prompt_templates": "<subject> is in <mask>"}), ("klar", {"prompt_templates": {"a": 1}}),
        ("klar", {"prompt_templates": [None]}), ("klar", {"samples": 5}), ("klar", {"samples": [1]}),
        ("klar", {"samples": [{"subject": None, "object": "x", "index": 1}]}),
        ("klar", {"samples": [{"subject": "x", "object": "x"}]}),
        ("mkqa", {"queries": 5}), ("mkqa", {"queries": ["en"]}), ("mkqa", {"queries": None}),
        ("mkqa", {"answers": {"en": ["x"]}}), ("mkqa", {"answers": {"en": 5}}), ("mkqa", {"answers": {"en": [{}]}}),
    ],
)  # fmt: skip
def test_rows_of_another_shape_are_named(tmp_path, name, change):
    with pytest.raises(TaskError):
        read(tmp_path, name, {**SETS[name][2], **change})


@pytest.mark.parametrize("content", ["", "[]", "null", "[" * 5000, '{"a": NaN}', "\x00", '{"a": "\\ud800"}'])
@pytest.mark.parametrize("name", SETS)
def test_files_of_another_kind_are_named(tmp_path, name, content):
    with pytest.raises(TaskError):
        read(tmp_path, name, content)


def test_a_row_that_lacks_a_column_is_no_none(tmp_path):
    short = {key: value for key, value in _BELEBELE.items() if key != "mc_answer3"}
    with pytest.raises(TaskError, match="row 2: mc_answer3 is no text"):
        read(tmp_path, "belebele", json.dumps(_BELEBELE) + "\n" + json.dumps(short))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "en.tsv").write_bytes(_BMLAMA.replace(b"Italy, France", b""))
    with pytest.raises(TaskError, match="Candidate Ans"):
        load_questions(f"bmlama:{tmp_path}/x/{{language}}.tsv", ["en"])


@pytest.mark.parametrize("row", ['{"en": "a", "en": "b"}', '{"en": NaN}', '{"en": "\\udc00"}', '{"id": 1, "id": 2}'])
def test_a_row_that_says_two_things_or_half_a_letter_is_refused(tmp_path, row):
    (tmp_path / "t.jsonl").write_text(f'{{"id": "1", "en": "x", "fr": "y"}}\n{row}\n')
    with pytest.raises(CorpusError, match="line 2"):
        load_corpus(f"table:{tmp_path / 't.jsonl'}", ["en", "fr"])


def test_half_a_letter_reaches_no_tokenizer(tmp_path):
    for text in ('["\\ud800"]', '{"\\udfff": 1}', '{"a": {"b": ["x\\uDC00"]}}'):
        with pytest.raises(InputError, match="half a surrogate pair"):
            parse_json(text, "x")
    assert parse_json('"\\ud83d\\ude00"', "x") == "😀"
    (tmp_path / "p.jsonl").write_text('{"good": "\\ud800 a", "bad": "b"}\n')
    with pytest.raises(TaskError, match="half a surrogate pair"):
        read_minimal_pairs(tmp_path / "p.jsonl")


def test_two_equal_endings_have_no_right_one(tmp_path):
    row = {"premise": "It rained.", "choice1": "wet", "choice2": "wet ", "question": "effect", "label": 0, "idx": 1}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    with pytest.raises(TaskError, match="both endings are the same"):
        read_stories(tmp_path / "s.jsonl")


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    row = {
        "premise": "It\u2028rained.",
        "choice1": "a\x85b",
        "choice2": "c",
        "question": "effect",
        "label": 0,
        "idx": 1,
    }
    (tmp_path / "s.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert read_stories(tmp_path / "s.jsonl")[0].context == "It\u2028rained."
    (tmp_path / "p.jsonl").write_text('{"good": "a\u2028b", "bad": "a\u2028c"}\n', encoding="utf-8")
    assert read_minimal_pairs(tmp_path / "p.jsonl")[0].good == "a\u2028b"
    (tmp_path / "w.jsonl").write_text('{"id": "dog", "en": "a\u2029b", "fr": "c"}\n', encoding="utf-8")
    assert len(load_words(str(tmp_path / "w.jsonl"))) == 1


@pytest.mark.parametrize("layer", ["²", "٣", "-1", "1.5", "9" * 30, ""])
def test_a_layer_is_a_number_in_plain_digits(layer):
    with pytest.raises(InputError, match="--layer"):
        SteerSettings("pocket:heldout", layer=layer)


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 5000, b"-1", b"1e3", b" 1"])
def test_a_length_of_a_request_that_is_none_is_refused(length):
    pytest.importorskip("gradio")
    from babelscope.app.guard import Refused, _check_path

    with pytest.raises(Refused, match="too much"):
        _check_path({"path": "/config", "method": "GET"}, {"content-length": length.decode("latin-1")})
