"""Nothing is dropped without a word: options that would not be used, columns, languages, Unicode forms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from babelscope.cli.evaluate import EvaluationSettings
from babelscope.corpora import load_corpus
from babelscope.corpora.spec import with_form
from babelscope.errors import BabelscopeError, CorpusError, InputError
from babelscope.models import Model
from babelscope.report.page import build_page
from babelscope.results import open_run
from babelscope.settings import Settings
from babelscope.studies.circuit_settings import CircuitsSettings
from babelscope.studies.confusion_settings import ConfusionSettings
from babelscope.studies.latent_settings import LatentSettings
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.regions import study_regions
from babelscope.studies.steer_settings import SteerSettings

from .command import command
from .tiny_models import tiny_model, tiny_tokenizer

NFD = "cafe\u0301"

# -- options -----------------------------------------------------------------------------------------------------------

Make = Callable[..., Settings]
STUDIES: dict[str, tuple[Make, dict[str, object]]] = {
    "regions": (
        lambda **given: RegionsSettings("lines:x", **given),
        {"window": 8, "joint": "eos", "text_tokens": 9, "fixed": True, "controls": 2, "stories": "pocket:",
         "kinds": ("mean",), "generate_tokens": 3, "prompt_tokens": 3},
    ),
    "latent": (
        LatentSettings,
        {"parallel": "lines:x", "text": "lines:x", "tuned": Path("x"), "text_tokens": 5,
         "window": 9, "fit": "kl", "steps": 3, "step_tokens": 5, "trials": 3, "patch_from": "en", "patch_to": "es"},
    ),
    "steer": (
        lambda **given: SteerSettings("lines:x", **given),
        {"beta": 2.0, "arithmetic": "diffmean", "lape_share": 0.1, "top_p": 0.5, "chat": "off", "system": "Be kind."},
    ),
    "confusion": (ConfusionSettings, {"words": Path("x"), "identifier": Path("x"), "top_p": 0.5, "seed": 1}),
    "circuits": (CircuitsSettings, {"stratum": {"en": "irregular"}}),
    "evaluation": (EvaluationSettings, {"factor": 3.0, "controls": 3, "shots": 1, "limit": 5}),
}  # fmt: skip
"""options that change nothing unless another one is given, each with another value than its default"""
WITH = {
    "regions": {"texts": "lines:x", "alignment_neurons": (0.1,), "doses": (0.1,), "generate": 3},
    "latent": {"parts": ("lens", "patch", "align"), "lens": ("logit", "tuned"), "task": "sentence",
               "parallel": "lines:y", "text": "lines:y", "fit": "kl", "patch_from": "en", "patch_to": "zh"},
    "steer": {"method": ("centred", "arithmetic", "neurons"), "temperature": 1.0, "prompts": "everyday"},
    "confusion": {"rule": "lcb", "words": Path("y"), "identifier": Path("y"), "temperature": 1.0},
    "circuits": {"task": "past-tense"},
    "evaluation": {"tasks": ("story-cloze", "x"), "amplify": ["a:b"]},
}  # fmt: skip
"""settings under which all of them count"""


@pytest.mark.parametrize(
    ("study", "option"), [(name, one) for name, (_, options) in STUDIES.items() for one in options]
)
def test_an_option_that_would_change_nothing_is_refused(study, option):
    make, options = STUDIES[study]
    with pytest.raises(
        InputError, match=rf"--{option.replace('_', '-')}.* (changes nothing without|go together|needs)"
    ):
        make(**{option: options[option]})
    make(**{option: next(one.default for one in dataclasses.fields(make()) if one.name == option)}
         if study != "circuits" else {})  # fmt: skip
    if not (study == "latent" and option == "tuned"):
        make(**{**WITH[study], option: options[option]})


MORE = [
    (lambda: CircuitsSettings(edges=False, edge_share=0.1), "edge-share"),
    (lambda: CircuitsSettings(edges=False, counted="query-heads"), "counted"),
    (lambda: CircuitsSettings(edges=False, construction="top"), "construction"),
    (lambda: CircuitsSettings(edges=False, half="ranking"), "half"),
    (lambda: LatentSettings(task="cloze", from_=("en",)), "from"),
    (lambda: LatentSettings(task="sentence", parallel="lines:x", demonstrations=3), "demonstrations"),
    (lambda: LatentSettings(words="planted", kinds=("animal",)), "kinds"),
    (lambda: LatentSettings(parts=("patch",), lens=("logit", "tuned"), text="lines:x"), "lens"),
    (lambda: LatentSettings(parts=("patch",), candidates=("en",)), "candidates"),
    (lambda: LatentSettings(parts=("patch",), matched=3), "matched"),
    (lambda: LatentSettings(parts=("patch",), permutations=99), "permutations"),
    (lambda: LatentSettings(parts=("patch",), least=0.5), "least"),
    (lambda: LatentSettings(parts=("align",), parallel="lines:x", draws=500), "draws"),
    (lambda: LatentSettings(lens=("tuned",), tuned=Path("x"), text="lines:x"), "text"),
    (lambda: LatentSettings(lens=("tuned",), text="lines:x", steps=3), "steps"),
    (lambda: LatentSettings(normalise="nfc"), "normalise"),
    (lambda: SteerSettings("lines:x", method=("neurons",), edit="move"), "edit"),
    (lambda: SteerSettings("lines:x", method=("neurons",), keep=True), "keep"),
    (lambda: SteerSettings("lines:x", method=("neurons",), unit="norm"), "unit"),
    (lambda: SteerSettings("lines:x", method=("neurons",), layer="3"), "layer"),
    (lambda: ConfusionSettings(chat="off", system="x"), "system"),
    (lambda: RegionsSettings("lines:x", norm="none", sink_share=0.1), "sink-share"),
    (lambda: RegionsSettings("lines:x", paper=True, tokens="shortest"), "tokens all"),
    (lambda: RegionsSettings("lines:x", paper=True, first="drop"), "first keep"),
    (lambda: EvaluationSettings(tasks=("x",), stories="pocket:?n=2"), "stories"),
    (lambda: EvaluationSettings(tasks=("x",), languages=("en",)), "languages"),
    (lambda: EvaluationSettings(tasks=("x",), harness=True), "harness"),
    (lambda: EvaluationSettings(tasks=("klar:x",), limit=5), "limit"),
    (lambda: EvaluationSettings(tasks=("klar:x",), shots=2), "shots"),
    (lambda: EvaluationSettings(tasks=("x",), limit=0), "limit 0: at least one"),
]


def test_languages_are_those_of_questions_in_files_too():
    assert EvaluationSettings(tasks=("klar:x",), languages=("en",)).languages == ("en",)


@pytest.mark.parametrize(("make", "option"), MORE, ids=[option for _, option in MORE])
def test_an_option_that_another_one_puts_out_of_use_is_refused(make, option):
    with pytest.raises(InputError, match=f"--{option}"):
        make()


def test_the_list_above_holds_every_option_that_is_used_only_with_another():
    """A new one is written into both: here with a value, there with what it needs."""
    named = {option for _, option in MORE} | {
        option.replace("_", "-") for _, given in STUDIES.values() for option in given
    }
    for make, _ in STUDIES.values():
        for option in type(make()).ONLY:
            assert option.strip("_").replace("_", "-") in named, option


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["circuits", "m", "--matching", "twins", "--out", "x"], "--matching"),
        (["circuits", "m", "--against-language", "zh", "--out", "x"], "--against-language"),
        (["circuits", "m", "--twins", "3", "--out", "x"], "--twins"),
        (["confusion", "answers.csv", "--tokens", "5", "--out", "x"], "--tokens"),
        (["confusion", "answers.csv", "--languages", "fr", "--out", "x"], "--languages"),
        (["confusion", "answers.csv", "--device", "cpu", "--out", "x"], "--device"),
        (["latent", "m", "--words", "planted", "--list-words", "--out", "x"], "--list-words"),
        (["latent", "m", "--words", "planted", "--list-words", "--fresh"], "--list-words"),
    ],
)
def test_the_command_line_refuses_them_too_before_a_model_is_looked_for(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.csv").write_text("completion,language\nx,fr\n")
    ended = command(*words)
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1), ended
    assert said in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LatentSettings(least=float("nan")), "--least nan"),
        (lambda: LatentSettings(least=float("inf")), "--least inf"),
        (lambda: SteerSettings("lines:x", limit=float("nan")), "--limit nan"),
        (lambda: SteerSettings("lines:x", alpha=(1.0, float("nan"))), "--alpha nan"),
        (lambda: RegionsSettings("lines:x", threshold=float("nan")), "--threshold nan"),
        (lambda: CircuitsSettings(sigmas=float("inf")), "--sigmas inf"),
        (lambda: LatentSettings(parts=("lens", "lens")), "--parts: lens is named twice"),
        (lambda: LatentSettings(lens=("logit", "logit")), "--lens: logit is named twice"),
        (lambda: ConfusionSettings(tasks=("monolingual", "monolingual")), "--tasks: monolingual is named twice"),
        (lambda: SteerSettings("lines:x", method=("lda", "lda")), "--method: lda is named twice"),
        (lambda: SteerSettings("lines:x", pairs=("en:fr", "en:fr")), "--pairs: en:fr is named twice"),
        (lambda: SteerSettings("lines:x", alpha=(1.0, 1)), "--alpha: 1 is named twice"),
        (lambda: RegionsSettings("lines:x", texts="lines:x", doses=(0.1, 0.1)), "--doses: 0.1 is named twice"),
        (lambda: RegionsSettings("lines:x", methods=("lape", "lape")), "--methods: lape is named twice"),
        (lambda: CircuitsSettings(windows=(3, 3)), "--windows: 3 is named twice"),
        (lambda: EvaluationSettings(tasks=("x", "x")), "--tasks: x is named twice"),
        (lambda: LatentSettings(seed=-1), "--seed -1"),
        (lambda: SteerSettings("lines:x", seed=-1), "--seed -1"),
        (lambda: SteerSettings("lines:x", method=("neurons",), lape_share=-1.0), "--lape-share -1"),
        (lambda: CircuitsSettings(draws=-1), "--draws -1"),
        (lambda: CircuitsSettings(permutations=-1), "counted from 0"),
        (lambda: CircuitsSettings(repeats=(0,)), "counted from 1"),
    ],
)
def test_no_option_is_nan_infinite_or_listed_twice(make, said):
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.parametrize(
    "words",
    [
        ["replicate", "nosuch", "--quick"], ["replicate", "zeng-same-meaning"], ["replicate", "all", "--model", "x"],
        ["replicate", "zeng-same-meaning", "--quick", "--seed", "-1"],
        ["tasks", "sample", "ioi", "pocket:pocket-bloom-s", "--verbs", "unimorph:x"],
        ["tasks", "sample", "ioi", "pocket:pocket-bloom-s", "--seed", "-1"],
    ],
)  # fmt: skip
def test_replications_and_samples_refuse_in_one_line(words):
    ended = command(*words)
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1), ended


def test_a_claim_file_is_read_on_the_command_line():
    ended = command("replicate", "zeng-same-meaning", "--check")
    assert (ended.exit_code, "a claim file" in ended.stdout) == (0, True), ended


# -- columns and languages ---------------------------------------------------------------------------------------------


def test_columns_that_are_not_read_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("id,en,fr,whatever9,notes\n1,a,b,c,d\n")
    (note,) = load_corpus(f"table:{tmp_path}/t.csv").notes
    assert "whatever9" in note
    assert "notes" in note
    assert load_corpus(f"table:{tmp_path}/t.csv", ["en", "fr"]).notes == ()
    assert load_corpus(f"table:{tmp_path}/t.csv?en=en&fr=fr").notes == ()
    (note,) = load_corpus({"en": ["a"], "fr": ["b"], "whatever9": ["c"]}).notes
    assert "whatever9" in note
    (tmp_path / "li").mkdir()
    for name in ("en", "fr", "whatever9"):
        (tmp_path / "li" / f"{name}.txt").write_text("a\n")
    assert any("whatever9" in note for note in load_corpus(f"lines:{tmp_path}/li").notes)


def test_a_language_named_twice_or_absent_is_refused(tmp_path):
    for name in ("en", "fr"):
        (tmp_path / f"{name}.txt").write_text("a\n")
    for asked in ("en,eng", "en,fr,de", "en,English", ""):
        with pytest.raises(BabelscopeError):
            load_corpus(f"lines:{tmp_path}", asked)


# -- Unicode forms -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decomposed(tmp_path_factory):
    place = tmp_path_factory.mktemp("nfd")
    for code, word in (("en", "cafe"), ("fr", NFD), ("es", "café")):
        (place / f"{code}.txt").write_text("".join(f"{word} {number}\n" for number in range(6)), encoding="utf-8")
    return place


def test_normalise_changes_counts_and_records(decomposed, tmp_path):
    settings = RegionsSettings(f"lines:{decomposed}", samples=4, bootstrap=5, normalise="nfc")
    assert settings.corpus.endswith("?normalise=nfc")
    model = Model(tiny_model("bloom"), tiny_tokenizer(), "tiny")
    run = study_regions(model, settings, tmp_path / "run")
    assert run.manifest["asked"]["normalise"] == "nfc"
    same = "6 of 6 sentences are the same in es and fr"
    assert run.manifest["corpus"]["notes"] == ["texts changed to Unicode form NFC: 6 in fr", same]
    assert "texts changed to Unicode form NFC: 6 in fr" in build_page([open_run(tmp_path / "run")], static=False)
    plain = study_regions(model, dataclasses.replace(settings, normalise=None, corpus=f"lines:{decomposed}"),
                          tmp_path / "plain")  # fmt: skip
    assert plain.manifest["corpus"]["notes"] == []
    assert plain.manifest["corpus"]["hash"] != run.manifest["corpus"]["hash"]


def test_normalise_of_a_corpus_in_memory_and_of_other_verbs(decomposed):
    corpus = load_corpus({"en": ["cafe"], "fr": [NFD]})
    formed = corpus.normalised("nfc")
    assert formed.sentences("fr") == ("caf\u00e9",)
    assert formed.notes == ("texts changed to Unicode form NFC: 1 in fr",)
    assert formed.normalised("nfc") is formed
    assert SteerSettings("lines:x", normalise="nfkc").corpus == "lines:x?normalise=nfkc"
    assert LatentSettings(task="sentence", parallel="lines:x?lone=drop", normalise="nfc").parallel == (
        "lines:x?lone=drop&normalise=nfc"
    )
    said = command("corpus", "audit", f"lines:{decomposed}")
    assert "6 texts in another Unicode form" in said.stdout
    said = command("corpus", "audit", f"lines:{decomposed}", "--normalise", "nfc")
    assert "texts changed to Unicode form NFC: 6 in fr" in said.stdout
    assert "another Unicode form" not in said.stdout


def test_two_forms_are_a_contradiction():
    with pytest.raises(CorpusError, match="keep one of them"):
        with_form("lines:x?normalise=nfd", "nfc")
    assert command("corpus", "audit", "lines:x", "--normalise", "nfx").exit_code == 2
    assert json.dumps(with_form("lines:x", "nfd")) == '"lines:x?normalise=nfd"'
