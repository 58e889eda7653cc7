"""Story cloze: against a plain loop, against lm-evaluation-harness, under deactivation, and from files."""

from __future__ import annotations

import json
import re

import pytest
import torch

from babelscope.errors import BabelscopeError, InputError, TaskError
from babelscope.evaluation import (
    choice_scores,
    cloze_items,
    evaluate_cloze,
    harness,
    harness_available,
    load_stories,
    run_harness,
    stories_hash,
    wilson,
)
from babelscope.evaluation.conditions import conditions_of
from babelscope.evaluation.scoring import mean_accuracy
from babelscope.models import Model
from babelscope.regions.deactivation import deactivate

from .tiny_models import tiny_model, tiny_tokenizer

LANGUAGES = ["en", "fr", "zh"]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny_model("bloom"), tiny_tokenizer())


@pytest.fixture(scope="module")
def stories():
    return load_stories("pocket:?n=8", LANGUAGES)


def plain_score(model, prompt, choice):
    """Sum of log p over the choice's tokens, from full logits, one text at a time."""
    whole = torch.tensor([model.tokenizer.encode(prompt + choice)])
    first = len(model.tokenizer.encode(prompt))
    with torch.no_grad():
        logs = model.hf(whole).logits.log_softmax(-1)
    return sum(logs[0, place - 1, whole[0, place]].item() for place in range(first, whole.shape[1]))


@pytest.mark.parametrize("family", ["bloom", "llama"])
def test_scores_equal_the_plain_loop(family, stories):
    model = Model(tiny_model(family), tiny_tokenizer())
    items = cloze_items(stories["fr"][:3])
    if family == "llama":
        items = [type(item)(item.id, item.prompt[-60:], item.choices, item.label) for item in items]
    expected = [[plain_score(model, item.prompt, choice) for choice in item.choices] for item in items]
    assert torch.allclose(torch.tensor(choice_scores(model, items)), torch.tensor(expected).double(), atol=1e-4)


def test_a_region_changes_the_scores_and_an_empty_one_does_not(model, stories):
    mask = torch.zeros(model.layers, model.neurons_per_layer, dtype=torch.bool)
    everything = ~mask
    table = evaluate_cloze(model, {"fr": stories["fr"]}, {"none": mask, "all": everything}).set_index(
        ["condition", "language"]
    )
    assert table.margin["none", "fr"] == table.margin["base", "fr"]
    assert table.margin["all", "fr"] != table.margin["base", "fr"]
    assert set(table.index.get_level_values("language")) == {"fr", "mean", "others"}


def test_two_conditions_of_one_name_are_refused(model):
    mask = torch.ones(model.layers, model.neurons_per_layer, dtype=torch.bool)
    assert list(conditions_of(model, {"zh": mask}, {"zh": mask})) == ["zh", "zh × 2"]
    for clash in ({"zh × 2": mask, "zh": mask}, {"base": mask}):
        with pytest.raises(InputError, match="two conditions are called"):
            conditions_of(model, clash, {"zh": mask})


def test_others_leaves_english_out(model, stories):
    table = evaluate_cloze(model, stories).set_index("language")
    assert table.accuracy["others"] == pytest.approx((table.accuracy["fr"] + table.accuracy["zh"]) / 2)
    assert (table.low <= table.accuracy).all()
    assert (table.accuracy <= table.high).all()


def test_the_story_is_one_observation_in_all_its_languages():
    one = {str(story): story % 2 == 0 for story in range(40)}
    alone, repeated = mean_accuracy({"a": one}), mean_accuracy(dict.fromkeys("abcdefghi", one))
    assert (alone.low, alone.high) == (repeated.low, repeated.high)


def test_a_language_none_of_whose_stories_is_drawn_is_not_wrong():
    """Every answer is right: whatever is drawn, the mean is 1."""
    found = mean_accuracy({"en": {str(story): True for story in range(10)}, "sw": {"3": True}})
    assert (found.accuracy, found.high) == (1, 1)
    assert 0.4 < found.low < 0.5  # the one story is half of the mean: about three stories tell what it is


def test_an_id_that_is_there_twice_counts_twice(model, stories):
    told = [stories["fr"][0], *stories["fr"]]
    table = evaluate_cloze(model, {"fr": told}).set_index("language")
    assert table.accuracy["mean"] == pytest.approx(table.accuracy["fr"])
    assert table.n["mean"] == table.n["fr"] == len(told)


def test_wilson_at_the_ends():
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == pytest.approx(1)
    assert wilson(0, 0).n == 0


@pytest.mark.skipif(not harness_available(), reason="lm-eval is not installed: pip install 'babelscope[eval]'")
@pytest.mark.filterwarnings("ignore")
def test_the_harness_gives_the_same_accuracy_also_deactivated(model, stories):
    mask = torch.rand(model.layers, model.neurons_per_layer, generator=torch.Generator().manual_seed(0)) < 0.5
    ours = evaluate_cloze(model, stories, {"half": mask}).set_index(["condition", "language"])
    with deactivate(model, mask):
        theirs = run_harness(model, stories=stories).set_index(["language", "metric"])
    for code in LANGUAGES:
        assert theirs.value[code, "acc"] == ours.accuracy["half", code]
        if 0 < theirs.value[code, "acc"] < 1:  # the harness gives no error where all or none are right
            assert theirs.low[code, "acc"] < theirs.value[code, "acc"] < theirs.high[code, "acc"]


def test_an_error_of_nothing_is_no_interval_of_the_harness():
    metrics = {"acc,none": 1.0, "acc_stderr,none": 0.0, "f1,none": 0.5, "f1_stderr,none": 0.1}
    table = harness._frame({"results": {"t": metrics}, "n-samples": {"t": {"effective": 9}}}, {}).set_index("metric")
    assert table.loc["acc", ["low", "high"]].isna().all()
    assert table.loc["f1", ["low", "high"]].tolist() == pytest.approx([0.5 - 0.1959964, 0.5 + 0.1959964])


@pytest.mark.skipif(not harness_available(), reason="lm-eval is not installed: pip install 'babelscope[eval]'")
@pytest.mark.filterwarnings("ignore")
def test_an_unknown_harness_task_is_one_line(model):
    with pytest.raises(InputError, match="no task 'no-such-task'"):
        run_harness(model, ["no-such-task"])


def write_xstorycloze(folder, code, label=1, ids=("a", "b")):
    sentences = " ".join(f"InputSentence{i}" for i in range(1, 5))
    head = f"InputStoryid {sentences} RandomFifthSentenceQuiz1 RandomFifthSentenceQuiz2 AnswerRightEnding"
    lines = ["\t".join(head.split())]
    lines += [
        "\t".join([name, *(f"{code}{n}." for n in range(4)), f"{code} one.", f"{code} two.", str(label)])
        for name in ids
    ]
    (folder / f"spring2016.val.{code}.tsv.split_20_80_eval.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_xstorycloze_files_get_english_endings(tmp_path):
    write_xstorycloze(tmp_path, "en")
    write_xstorycloze(tmp_path, "my", ids=("b", "a"))
    found = load_stories(f"stories:{tmp_path}")
    assert list(found) == ["en", "my"]
    assert [story.id for story in found["my"]] == [story.id for story in found["en"]] == ["a", "b"]
    assert found["my"][0].beginning == "my0. my1. my2. my3."
    assert found["my"][0].endings == ("en one.", "en two.")
    assert found["my"][0].label == 0


def test_jsonl_files_are_read_too(tmp_path):
    for code in ("en", "sw"):
        row = {"story_id": "1", **{f"input_sentence_{n}": f"{code}{n}" for n in range(1, 5)}}
        row |= {"sentence_quiz1": f"{code} a", "sentence_quiz2": f"{code} b", "answer_right_ending": 2}
        (tmp_path / f"{code}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert load_stories(f"stories:{tmp_path}", ["sw"])["sw"][0].endings == ("en a", "en b")


@pytest.mark.parametrize(
    ("prepare", "spec", "says"),
    [
        (lambda f: None, "stories:{}", "no files whose name holds a language"),
        (lambda f: write_xstorycloze(f, "zh"), "stories:{}", "the English file is missing"),
        (
            lambda f: (write_xstorycloze(f, "en"), write_xstorycloze(f, "zh", label=2)),
            "stories:{}",
            "another right ending",
        ),
        (
            lambda f: (write_xstorycloze(f, "en"), write_xstorycloze(f, "zh", ids=("x",))),
            "stories:{}",
            "no English counterpart",
        ),
        (
            lambda f: (write_xstorycloze(f, "en", ids=("a", "a")), write_xstorycloze(f, "zh", ids=("a", "a"))),
            "stories:{}",
            "two English stories have one id",
        ),
        (
            lambda f: (write_xstorycloze(f, "en"), write_xstorycloze(f, "zh", ids=("a", ""))),
            "stories:{}",
            "some stories have an id and others have none",
        ),
        (
            lambda f: (write_xstorycloze(f, "en"), write_xstorycloze(f, "no.zh")),
            "stories:{}",
            "its name holds several languages, no, zh",
        ),
        (lambda f: None, "stories:{}?spilt=eval", "unknown option 'spilt'"),
        (lambda f: None, "novels:{}", "stories come from"),
        (lambda f: None, "stories:{}/nowhere", "does not exist"),
        (lambda f: None, "pocket:?n=x", "not a positive whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_stories_is_said_in_one_line(tmp_path, prepare, spec, says):
    prepare(tmp_path)
    with pytest.raises(BabelscopeError, match=re.escape(says)) as caught:
        load_stories(spec.format(tmp_path))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_a_hub_data_set_goes_through_the_same_reader(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, code, split, **options):
        asked.append((name, code, split, options))
        row = {"story_id": "1", **{f"input_sentence_{n}": f"{code}{n}" for n in range(1, 5)}}
        return [row | {"sentence_quiz1": f"{code} a", "sentence_quiz2": f"{code} b", "answer_right_ending": 1}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_stories("hub:juletxara/xstory_cloze?split=eval&revision=refs/convert/parquet", ["zh"])
    assert found["zh"][0].endings == ("en a", "en b")
    assert asked[0] == ("juletxara/xstory_cloze", "en", "eval", {"revision": "refs/convert/parquet"})


def test_the_hash_sees_a_changed_letter(stories):
    changed = {code: list(told) for code, told in stories.items()}
    first = changed["fr"][0]
    changed["fr"][0] = type(first)(first.id, first.beginning + "!", first.endings, first.label)
    assert stories_hash(stories) != stories_hash(changed)


def test_stories_name_their_errors():
    with pytest.raises(TaskError):
        load_stories("hub:some/data")
