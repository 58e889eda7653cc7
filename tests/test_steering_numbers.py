"""Numbers of steering that ties must not move."""

from __future__ import annotations

import pandas as pd
import pytest

from babelscope import load_model
from babelscope.corpora import load_corpus
from babelscope.steering.confusion import OfflineRule, rates
from babelscope.steering.losses import continuation, losses
from babelscope.steering.sentences import first_sentence


def test_contexts_that_are_the_same_text_are_right_by_chance():
    model, corpus = load_model("pocket:pocket-bloom-s"), load_corpus("pocket:heldout", ["en", "fr"]).sample(8, 0)
    same = continuation(model, [corpus.texts["en"][0]] * 8, corpus.texts["fr"])
    assert same.gain == pytest.approx(0, abs=1e-6)
    assert same.hits == same.chance == 0.25


def test_two_contexts_of_one_text_share_their_hits():
    model, corpus = load_model("pocket:pocket-bloom-s"), load_corpus("pocket:heldout", ["en", "fr"]).sample(8, 0)
    contexts = [corpus.texts["en"][place] for place in (3, 3, 0, 1)]
    following = [corpus.texts["fr"][place] for place in (3, 3, 0, 1)]
    told, said = (model.tokenize(some) for some in (contexts, [" " + text for text in following]))
    hits = []
    for place, ids in enumerate(said):
        each = [losses(model, [[*one, *ids]], [len(one)])[0] for one in told]
        copies = [other for other in range(4) if contexts[other] == contexts[place]]
        hits.append((min(each) > each[place] - 1e-3) / len(copies))
    assert continuation(model, contexts, following).hits == sum(hits) / 4
    assert hits[0] == 0.5


def test_words_of_a_next_question_are_none_of_the_answer():
    rule = OfflineRule(["zh"], identify=lambda _: "zh")
    own = rule("孩子们在花园里玩得很开心。", "zh", "en")
    more = rule("孩子们在花园里玩得很开心。\nQ: What is the capital of France?", "zh", "en")
    mixed = rule("孩子们在花园里玩得很 happy 开心。", "zh", "en")
    assert [one.kind for one in (own, more, mixed)] == ["none", "none", "word"]
    assert rates([own, more]).wpr == 1


def test_answers_that_are_too_short_to_tell_are_not_among_those_that_are_counted():
    row = {"source": "en", "target": "fr", "condition": "steered", "method": "diffmean", "layer": 3.0, "alpha": 1.5,
           "success": 1.0, "success_low": 0.5, "success_high": 1.0, "n": 64, "p": 0.01, "random": 0.0}  # fmt: skip
    empty = pd.DataFrame()
    told = first_sentence(pd.DataFrame([{**row, "skipped": 60 / 64}]), empty, empty)
    assert "100 % (50 to 100) of 4 answers to English prompts are in French (60 more are too short to tell);" in told
    whole = first_sentence(pd.DataFrame([{**row, "skipped": 0.0}]), empty, empty)
    assert "100 % (50 to 100) of 64 answers to English prompts are in French;" in whole
