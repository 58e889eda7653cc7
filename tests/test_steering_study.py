"""Inference, losses, and the study from end to end on pocket models."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch

from babelscope import load_model
from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.errors import InputError
from babelscope.figures import draw, figure_names, save_figure
from babelscope.models.decoding import Decoding, decode, written_text
from babelscope.steering.ceiling import ceilings, cut_to
from babelscope.steering.confusion import OfflineRule
from babelscope.steering.fitted import Fitted, How, Setting
from babelscope.steering.inference import (
    harmonic,
    p_of_draws,
)
from babelscope.steering.losses import (
    TextLoss,
    continuation,
    damage,
    fidelity,
    losses,
    retrieval_gains,
    rises,
    text_loss,
)
from babelscope.steering.moments import collect
from babelscope.steering.sentences import first_sentence
from babelscope.steering.writing import judged
from babelscope.studies import steer
from babelscope.studies.confusion import study_answers, study_confusion
from babelscope.studies.confusion_settings import ConfusionSettings
from babelscope.studies.steer import split_documents, study_steering
from babelscope.studies.steer_pair import next_translations
from babelscope.studies.steer_settings import SteerSettings

from .command import command
from .region_data import corpus, model

# -- inference -----------------------------------------------------------------------------------------------------


# -- losses --------------------------------------------------------------------------------------------------------


def plain_nll(loaded, context, target):
    ids = torch.tensor([[*context, *target]])
    with torch.no_grad():
        rows = loaded.hf(ids).logits[0].double().log_softmax(-1)
    return -sum(float(rows[len(context) + place - 1, word]) for place, word in enumerate(target))


def test_losses_and_gains_are_those_of_plain_loops():
    loaded = model("llama")
    rows = [[5, 6, 7, 8], [9, 10, 11], [5, 6]]
    found = losses(loaded, rows, [2, 1, 1], budget=5)
    expected = [
        plain_nll(loaded, rows[0][:2], rows[0][2:]),
        plain_nll(loaded, [9], [10, 11]),
        plain_nll(loaded, [5], [6]),
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    texts, contexts = ["abc", "defg", "hij"], ["jih", "gfe", "cba"]
    gains = retrieval_gains(loaded, texts, contexts, others=2)
    said = [loaded.tokenize([" " + text])[0] for text in texts]
    told = loaded.tokenize(contexts)
    for place in range(3):
        own = plain_nll(loaded, told[place], said[place])
        rest = [plain_nll(loaded, told[other], said[place]) for other in range(3) if other != place]
        assert gains[place] == pytest.approx((sum(rest) / 2 - own) / len(said[place]), abs=1e-5)
    assert np.isnan(retrieval_gains(loaded, ["abc", ""], ["a", "b"])).all()


def test_damage_is_what_a_text_loses_per_token():
    plain, changed = (TextLoss(np.array(totals), np.array([2, 2]), 1) for totals in ([1.0, 2.0], [3.0, 5.0]))
    assert rises(changed, plain).tolist() == [2.0, 3.0]
    assert damage(changed, plain).value == 1.25
    assert changed.nll - plain.nll == 1.25


def test_damage_is_zero_without_an_edit_and_fidelity_needs_a_judge():
    loaded = model("llama")
    texts = ["abcdef", "ghij", "klmno", "pq", "rstu"]
    plain = text_loss(loaded, texts)
    again = damage(text_loss(loaded, texts), plain)
    assert again.value == 0.0
    assert plain.counts.tolist() == [len(text) - 1 for text in texts]
    gains, strong = np.array([0.1, 0.3, np.nan]), np.array([0.4, 0.5, 0.6, 0.5])
    found = fidelity(gains, ["a", "b", "c"], strong)
    assert found.value == pytest.approx(0.4)
    assert found.n == 2
    assert fidelity(gains, ["a", "b", "c"], np.array([-1.0, 1.0, 0.1])).why == "model cannot judge"
    assert fidelity(np.full(3, np.nan), ["a", "b", "c"], strong).why == "no answer is in the target"
    with pytest.raises(InputError, match="edit of prompts alone"):
        text_loss(loaded, texts, replace(steered(), where="prompt"))


def steered():
    loaded, texts = model("llama"), corpus(4, 12)
    edit = Fitted(loaded, texts, collect(loaded, texts)).edit(Setting("en", "fr", "diffmean", 1, 1.0))
    assert edit is not None
    return edit


# -- pocket --------------------------------------------------------------------------------------------------------


@lru_cache(1)
def pocket():
    loaded, texts = load_model("pocket:pocket-bloom-m"), load_corpus("pocket:heldout?n=120", ["en", "fr", "es"])
    fit = texts.select(texts.ids[:80])
    return loaded, Fitted(loaded, fit, collect(loaded, fit), How()), texts.select(texts.ids[80:])


def test_english_goes_on_in_french_and_random_or_shuffled_directions_do_not_make_it():
    loaded, fitted, held = pocket()
    setting = Setting("en", "fr", "diffmean", 3, 1.5)
    edits = [None, fitted.edit(setting), *(fitted.control(setting, name, 0) for name in ("random", "shuffled"))]
    prompts = loaded.tokenize(held.texts["en"][:16])
    rule = OfflineRule(["en", "fr", "es"])
    found = [
        np.mean(
            [
                judged(rule, written_text(loaded, prompt, one.ids), "fr", "en").success
                for prompt, one in zip(prompts, row)
            ]
        )
        for row in decode(loaded, prompts, Decoding(24, fixed=True), edits)
    ]
    assert found[1] >= 0.8
    assert max(found[0], found[2], found[3]) <= 0.1


def test_a_model_that_knows_english_alone_cannot_be_steered():
    loaded = load_model("pocket:pocket-gpt2-en")
    texts = load_corpus("pocket:heldout?n=30", ["en", "fr"])
    fitted = Fitted(loaded, texts, collect(loaded, texts))
    setting = Setting("en", "fr", "diffmean", 2, 1.5)
    edits = [fitted.edit(setting), *(fitted.control(setting, "random", draw) for draw in range(19))]
    prompts = loaded.tokenize(texts.texts["en"][:4])
    rule = OfflineRule(["en", "fr"])
    found: list[float] = []
    for row in decode(loaded, prompts, Decoding(16, fixed=True), edits):
        texts_written = [written_text(loaded, prompt, one.ids) for prompt, one in zip(prompts, row)]
        values = [judged(rule, text, "fr", "en").success for text in texts_written]
        found.append(float(np.mean(np.nan_to_num(values))))  # an answer without a line is no success
    assert p_of_draws(found[0], found[1:]) > 0.05


def test_a_translation_tells_the_model_what_is_said_and_another_does_not():
    loaded, _, held = pocket()
    said, told = held.texts["en"][:24], held.texts["fr"][:24]
    assert np.nanmean(retrieval_gains(loaded, said, told)) > 0.1
    order = np.random.default_rng(0).permutation(24)
    permuted = retrieval_gains(loaded, said, [told[place] for place in order])
    assert abs(np.nanmean(permuted)) < 0.1
    found = continuation(loaded, said[:8], told[:8])
    assert found.hits > found.chance
    assert continuation(loaded, said[:2], told[:2]).why == "too few contexts"


def test_what_follows_is_the_next_sentence_of_the_document_or_the_sentence_s_own_translation():
    texts = ParallelCorpus.from_texts({"en": ["a0", "a1", "b0", "c0"], "fr": ["A0", "A1", "B0", "C0"]})
    assert next_translations(texts, "en", "fr", 3) == (["a0", "a1", "b0"], ["A0", "A1", "B0"])
    grouped = replace(texts, groups=dict(zip(texts.ids, ["a", "a", "b", "b"])))
    assert next_translations(grouped, "en", "fr", 9) == (["a0", "b0"], ["A1", "C0"])


def test_an_answer_that_loops_is_told_from_one_that_does_not():
    judge = OfflineRule(["en", "fr"])
    assert judged(judge, "x", "fr", "en", [1, 2, 3, 1, 2, 3]).loops
    assert not judged(judge, "x", "fr", "en", [1, 2, 3, 4, 5, 6]).loops


def test_documents_are_split_and_never_shared():
    texts = ParallelCorpus.from_texts({"en": [f"a{i}" for i in range(20)], "fr": [f"b{i}" for i in range(20)]})
    split = split_documents(texts, 0)
    parts = [set(one.ids) for one in (split.fit, split.choose, split.report)]
    assert [len(part) for part in parts] == [10, 4, 6]
    assert len(set.union(*parts)) == 20
    with pytest.raises(InputError, match="need six or more"):
        split_documents(texts.select(texts.ids[:5]), 0)


@lru_cache(1)
def run(folder):
    settings = SteerSettings(
        "pocket:heldout?n=60", pairs=("en:fr",), languages=("en", "fr", "es", "ar"), method=("diffmean", "neurons"),
        layer="3", alpha=(1.5,), choose_prompts=6, report_prompts=8, controls=2, third=1, tokens=16, fixed=True,
    )  # fmt: skip
    return study_steering(pocket()[0], settings, folder, overwrite=True)


def test_the_study_leaves_its_tables_sentences_and_edits(tmp_path_factory):
    from babelscope.steering.files import load_edit

    found = run(tmp_path_factory.mktemp("steer") / "run")
    table = found.table("steering")
    best = table[(table.condition == "steered") & (table.method == "diffmean")].iloc[0]
    assert best.success >= 0.5
    assert best.success_low <= best.success <= best.success_high
    assert best.p == pytest.approx(1 / 3)
    assert best.minus_unsteered == pytest.approx(best.success)
    assert set(found.table("controls").control) == {"random", "random-cov", "shuffled", "third", "random-neurons"}
    assert set(found.table("damage").role) == {"target", "source", "third"}
    assert {"kind", "repeat", "distinct_2", "reason"} <= set(found.table("answers").columns)
    assert found.table("ceiling").ceiling.min() > 0.8
    faith = found.table("fidelity").iloc[0]
    assert faith.harmonic == pytest.approx(harmonic(faith.success, faith.value), nan_ok=True)
    follows = found.table("continuation")
    assert list(follows.condition) == ["unsteered", "steered", "steered"]
    assert (follows.chance == 0.25).all()
    assert follows.hits.between(0, 1).all()
    assert best.looping <= 1
    assert set(figure_names(found)) == {
        "steering_success", "steering_damage", "steering_strength", "steering_layers", "steering_front",
        "steering_pairs",
    }  # fmt: skip
    for name in figure_names(found):
        assert save_figure(draw(found, name), found.path.parent / f"{name}.png", 40).exists()
    first = found.manifest["summary"]["sentences"][0]
    assert first.startswith("Steered (diffmean at layer 3, strength α = 1.5), ")
    assert first.endswith("2 draws of random directions are too few for p below 0.05; 19 can show it.")
    generation = found.manifest["generation"]
    assert generation["template"] == ""  # sentences to go on from stand in no chat template
    assert generation["first_prompt"] in load_corpus("pocket:heldout?n=60", ["en"]).texts["en"]
    saved = load_edit(found.path / "edits/en-fr-diffmean.safetensors")
    assert saved.facts["fit_documents"] == 30
    assert saved.directions[0].layer == 3


def test_sentences_say_when_random_directions_do_as_well():
    steering = pd.DataFrame([
        {"source": "en", "target": "fr", "condition": "steered", "method": "diffmean", "layer": 3.0, "alpha": 1.5,
         "success": 0.9, "success_low": 0.8, "success_high": 1.0, "n": 10, "p": 0.01, "random": 0.0},
        {"source": "en", "target": "fr", "condition": "unsteered", "success": 0.0, "n": 10},
        {"source": "en", "target": "fr", "condition": "prompted", "success": 0.1, "n": 10},
    ])  # fmt: skip
    empty = pd.DataFrame()
    assert first_sentence(steering, empty, empty) == (
        "Steered (diffmean at layer 3, strength α = 1.5), 90 % (80 to 100) of 10 answers to English prompts are in "
        "French; unsteered 0 %, with random directions of the same size 0 %, told in words 10 %. The damage to French "
        "text was not measured, whether answers keep to the prompt (fidelity) was not measured."
    )
    steering["looping"] = [0.9, np.nan, np.nan]
    assert first_sentence(steering, empty, empty).endswith(
        "90 % of the answers in French say one stretch twice over half of their length: broken text that only looks "
        "like the language."
    )
    steering["looping"] = 0.1
    steering.loc[0, "p"] = 0.2
    assert first_sentence(steering, empty, empty).endswith("no better than random directions (p = 0.2).")
    steering.loc[0, ["success", "success_low", "success_high", "p"]] = np.nan
    assert first_sentence(steering, empty, empty).startswith(
        "Whether steering (diffmean at layer 3, strength α = 1.5) makes the model answer English prompts in French "
        "cannot be said: none of 10 answers is long enough to tell its language."
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"pairs": ("en:en",)}, "not steered to itself"), ({"pairs": ("en",)}, "write two languages"),
     ({"pairs": ("en:fr", "eng:fra")}, "en to fr is named twice"), ({"layer": "x"}, "--layer"),
    
     ({"method": ("magic",)}, "--method magic"), ({"alpha": ()}, "--alpha"), ({"temperature": 0.0}, "--temperature")],
)  # fmt: skip
def test_settings_that_say_nothing_are_refused(changes, told):
    with pytest.raises(InputError, match=told):
        SteerSettings("x", **changes)


def test_steps_are_kept_by_what_a_file_of_prompts_says(tmp_path, monkeypatch):
    kept: list[dict[str, str]] = []

    def stopped(_steps: object, inputs: dict[str, str], *_: object) -> None:
        kept.append(inputs)
        raise KeyboardInterrupt

    monkeypatch.setattr(steer, "run_steps", stopped)
    asked = tmp_path / "asked.txt"
    for text in ("Why?", "Why?", "How?"):
        asked.write_text(text, encoding="utf-8")
        settings = SteerSettings("pocket:heldout?n=40", languages=("en", "fr"), prompts=str(asked))
        with pytest.raises(KeyboardInterrupt):
            study_steering(pocket()[0], settings, tmp_path / "run")
    assert kept[0] == kept[1] != kept[2]


def test_ceilings_are_measured_at_the_length_of_the_answers():
    texts = load_corpus("pocket:heldout?n=20", ["en", "zh"])
    found = ceilings(OfflineRule(["en", "zh"]), texts, ["one two three four five six", "a b"])
    assert [(one.language, one.length) for one in found] == [("en", 6), ("zh", 12)]
    assert cut_to("你 好世界", 3, True) == "你好世"


# -- confusion -----------------------------------------------------------------------------------------------------


def test_confusion_of_a_model_and_of_stored_answers(tmp_path):
    settings = ConfusionSettings(languages=("en", "fr"), limit=3, tokens=12, fixed=True)
    found = study_confusion(pocket()[0], settings, tmp_path / "own")
    table = found.table("confusion")
    assert set(table.task) == {"monolingual", "crosslingual"}
    assert len(found.table("answers")) == 9
    save_figure(draw(found, "confusion_kinds"), tmp_path / "a.png", 40)
    from babelscope.steering.benchmark import Completion

    answers = [
        Completion("m", "monolingual", "a", "fr", "Les enfants jouent dans le jardin"),
        Completion("m", "monolingual", "b", "fr", "The children are playing in the garden"),
        Completion("m", "monolingual", "a", "en", "no"),
    ]
    stored = study_answers(answers, ConfusionSettings(), tmp_path / "stored").table("confusion")
    whole = stored[(stored["set"] == "all") & (stored.language == "all")].iloc[0]
    assert whole.lpr == 0.5  # of French: the mean of two sets; English has no answer that counts
    english = stored[(stored["set"] == "a") & (stored.language == "en")].iloc[0]
    assert math.isnan(english.lpr)
    with pytest.raises(InputError, match="--words"):
        ConfusionSettings(rule="lcb")


def test_the_verbs_run_and_refuse_in_one_line(tmp_path):
    answers = tmp_path / "answers.csv"
    with answers.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["completion", "language"], ["Les enfants jouent dans le jardin", "fr"]])
    done = command("confusion", str(answers), "--out", str(tmp_path / "run"))
    assert done.exit_code == 0
    assert "100 % of the answers stay in the language" in done.stdout
    refused = command(
        "steer", "pocket:pocket-bloom-s", "--corpus", "pocket:heldout?n=60", "--pairs", "en:de", "--out", "x"
    )
    assert refused.exit_code == 2
    assert "de is not a language of the corpus" in refused.stderr


def test_evaluation_under_edits_and_their_controls(tmp_path):
    from babelscope.evaluation import evaluate_cloze, load_stories
    from babelscope.evaluation.conditions import conditions_of
    from babelscope.steering.files import SavedEdit, save_edit

    loaded, fitted, _ = pocket()
    setting = Setting("en", "fr", "diffmean", 3, 1.5)
    saved = SavedEdit(tuple(fitted.directions(setting)), alpha=1.5)
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    mask[2, :20] = True
    region = SavedEdit(mask=mask, values=mask.float())
    with pytest.raises(InputError, match="two conditions are called 'zh': rename one of the files"):
        conditions_of(loaded, {"zh": mask}, steered={"zh": saved})
    with pytest.raises(InputError, match="two conditions are called 'base'"):
        conditions_of(loaded, steered={"base": saved})
    found = conditions_of(loaded, {"zh": mask}, {"zh": mask}, 3.0, {"to-fr": saved, "region": region}, controls=1)
    assert list(found) == [
        "zh", "zh, random-layer 0", "zh × 3", "zh × 3, random-layer 0", "to-fr", "to-fr, random 0", "region",
        "region, random 0",
    ]  # fmt: skip
    table = evaluate_cloze(loaded, load_stories("pocket:?n=6", ["fr"]), conditions=found)
    assert set(table.condition) == {"base", *found}
    margins = table[table.language == "fr"].set_index("condition").margin
    assert margins.nunique() == len(margins)
    save_edit(saved, tmp_path / "to-fr.safetensors")
    done = command(
        "evaluate", "pocket:pocket-bloom-m", "--stories", "pocket:?n=6", "--languages", "fr", "--steer",
        tmp_path / "to-fr.safetensors", "--controls", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "to-fr, random 0" in done.stdout
