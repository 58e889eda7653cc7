"""Claims on data that does not vary: what rounding leaves is no number, and the order of sentences decides nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope import load_model
from babelscope.circuits import Head
from babelscope.claims import Part, Verdict, judge, page
from babelscope.claims.case import Case
from babelscope.claims.measures import tense
from babelscope.claims.measures.facts import _first_tokens, _said, planted_facts
from babelscope.claims.measures.neurons import _ranks, beyond_others
from babelscope.claims.measures.residual import correlated
from babelscope.claims.measures.routing import normalised_divergence
from babelscope.claims.verdict import ends, mean_part
from babelscope.errors import InputError
from babelscope.regions.routing import divergence
from babelscope.results import RunWriter

CODES = ["zh", "fr", "es", "pt", "ar", "vi", "hi", "id"] * 5


@pytest.mark.parametrize("accuracy", [0.5, 0.7, 1.0])
def test_accuracies_that_are_all_the_same_correlate_with_nothing(accuracy):
    rng = np.random.default_rng(0)
    tokens, scores = rng.uniform(10, 20, 40), rng.random(40)
    parts = correlated(scores, np.full(40, accuracy), tokens, CODES, Case((), "", ""))
    assert [np.isnan([one.estimate, one.low, one.high]).all() for one in parts] == [True, True]
    assert [one.why for one in parts] == ["the model answers equally well in all languages"] * 2


def test_scores_that_are_all_the_same_are_told_apart_from_too_few_languages():
    rng = np.random.default_rng(0)
    parts = correlated(np.ones(40), rng.random(40), rng.uniform(10, 20, 40), CODES, Case((), "", ""))
    assert [np.isnan(one.estimate) for one in parts] == [True, True]
    assert [one.why for one in parts] == ["one of the two does not vary over languages"] * 2


def test_accuracies_that_follow_from_tokens_leave_no_partial_correlation():
    rng = np.random.default_rng(0)
    tokens = rng.uniform(10, 20, 40)
    plain, partial = correlated(np.log(tokens), 0.1 * np.log(tokens), tokens, CODES, Case((), "", ""))
    assert plain.estimate == pytest.approx(1)
    assert np.isnan(partial.estimate)


def test_equal_activations_share_their_mean_rank():
    means = np.array([[[0.0, 3.0], [0.0, 1.0], [0.0, 1.0], [0.0, 2.0]]])
    assert _ranks(SimpleNamespace(means=means)).tolist() == [[[2.5, 4.0], [2.5, 1.5], [2.5, 1.5], [2.5, 3.0]]]


def test_silent_neurons_predict_no_concept_whatever_the_order_of_sentences():
    # neuron k follows concept k of the last ten sentences and of the first ten; a tenth of all never fire
    rng = np.random.default_rng(0)
    means = rng.random((3, 100, 200))
    means[:, :, 20:40] = 0
    labels = np.zeros((2, 100), dtype=bool)
    labels[0, 90:] = labels[1, :10] = True
    means[:, :, 0] += labels[0]
    means[:, :, 1] += labels[1]
    forwards = beyond_others(_ranks(SimpleNamespace(means=means)), [labels] * 3)
    backwards = beyond_others(_ranks(SimpleNamespace(means=means[:, ::-1])), [labels[:, ::-1]] * 3)
    # two neurons are taken for a concept: its own, which is shared, and one by chance
    assert forwards.tolist() == backwards.tolist()
    assert (forwards <= 0.75).all()


@pytest.mark.parametrize("rule", ["equal", "greater", "less", "not less"])
def test_an_interval_of_rounding_is_none(rule):
    same = Part("SADS", 0.0, -1e-17, 1e-17, 60, "sentences")
    assert judge(same, rule, 0.1) == Verdict("cannot be decided", "every draw is the same: no interval")


def test_a_fact_whose_answer_shares_its_first_token_is_neither_known_nor_missed():
    model, facts = load_model("pocket:planted-lossy"), planted_facts()
    whole = _said(model, facts, _first_tokens(model, facts), "zh")

    def written_alike(one):
        return replace(one, choices=(one.choices[0], one.choices[0], *one.choices[2:]))

    facts["zh"] = [written_alike(one) for one in facts["zh"]]
    told = _said(model, facts, _first_tokens(model, facts), "zh")
    gone = {one.id for one in facts["zh"] if one.label in (0, 1)}
    assert len(gone) == 4
    assert set(told) == set(whole) - gone
    assert [told[name][1:3] for name in told] == [whole[name][1:3] for name in told]


def test_layers_of_fewer_experts_are_normalised_by_their_own_number():
    # two experts in the first layer, four in the second; 0.1 of the tokens go to another expert in both
    one = np.array([[0.6, 0.4, 0.0, 0.0], [0.3, 0.3, 0.2, 0.2]])
    other = np.array([[0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.3, 0.2]])
    found = normalised_divergence(one, other, np.array([2.0, 4.0]))
    assert found[0] == pytest.approx(normalised_divergence(one[0, :2], other[0, :2]))
    assert found[1] == pytest.approx(normalised_divergence(one[1], other[1]))
    counts = torch.tensor([2.0, 4.0], dtype=torch.float64)
    assert found == pytest.approx(divergence(torch.tensor(one), torch.tensor(other), counts).numpy())


def test_no_draw_has_no_ends():
    assert np.isnan(ends([], 3)).all()


@pytest.mark.parametrize("within", [None, (-1.0, 1.0)])
def test_an_item_without_a_number_is_the_reason_why_a_mean_has_none(within):
    found = mean_part("x", [0.1, float("nan"), 0.3], "verbs", 1, within=within)
    assert np.isnan([found.estimate, found.low, found.high]).all()
    assert found.why == "not every one of 3 verbs has a number"


@pytest.mark.parametrize("twin", ["", "heads"])
def test_heads_of_which_one_other_set_exists_have_no_control(monkeypatch, twin):
    # two heads in each of two layers, one of each chosen: the others are the one set beside it
    model = SimpleNamespace(layers=2, heads=2, has_attention=lambda layer: True)
    chosen = (Head(0, 0), Head(1, 1))
    monkeypatch.setattr(tense, "named_model", lambda _: model)
    monkeypatch.setattr(tense, "_chosen_heads", lambda *_: (chosen, chosen))
    monkeypatch.setattr(tense, "matched_random", lambda *_: [[Head(0, 1), Head(1, 0)]])
    parts = tense.heads_of_tense(Case(("m",), "", "", twin=twin))
    assert {one.why for one in parts} == {"too few other heads in the same layers: no control"}


@pytest.mark.parametrize(
    ("rule", "estimate", "bar"), [("equal", 0.5, 1.0), ("equal", -0.5, -1.0), ("not less", 0.5, -1.0),
                                  ("greater", 0.5, 3.0), ("less", -0.5, -1.0)],
)  # fmt: skip
def test_the_bar_of_the_page_is_the_one_that_was_judged_by(rule, estimate, bar):
    """A least effect of 1 beside a control of 3: rules of equality do not look at the control."""
    part = {"name": "x", "rule": rule, "least_effect": 1.0, "control": 3.0, "estimate": estimate, "low": -0.6,
            "high": 0.6}  # fmt: skip
    assert f"against a bar of {bar:.4g}" in page._bar(part, None)["said"]


def test_a_run_is_tried_on_its_own_draw_alone(tmp_path):
    from babelscope.claims import load_claim
    from babelscope.cli.replicate import ReplicationSettings, _case

    claim = load_claim("zeng-same-language")
    with RunWriter(tmp_path / "run", kind="regions") as run:
        run.manifest.update(
            asked={"corpus": "pocket:", "texts": None, "seed": 5, "text_tokens": None, "window": None},
            model={"id": "m", "weight_hash": "h"}, corpus={"sentence_ids": ["1", "2"], "languages": ["en", "zh"]},
        )  # fmt: skip
    for wrong in ({"seed": 1}, {"seeds": 3}):
        with pytest.raises(InputError, match="drawn by its own seed"):
            _case(claim, ReplicationSettings(run=tmp_path / "run", **wrong), 0)
    given = ReplicationSettings(run=tmp_path / "run", languages=("en",), stories="stories:x")
    case = _case(claim, given, 0)[0]
    assert (case.seed, case.languages, case.stories) == (5, ("en",), "stories:x")
    with pytest.raises(InputError, match="leave --languages out"):
        _case(claim, ReplicationSettings(quick=True, languages=("en",)), 0)


def test_stories_of_a_claim_are_those_that_every_language_tells_in_one_order(tmp_path):
    """Languages are averaged story by story: the first of one was held against the first of another."""
    for code, ids in (("en", "abcd"), ("fr", "dba"), ("zh", "bcd")):
        rows = [
            {"story_id": name, **{f"input_sentence_{n}": f"{code}{n}" for n in range(1, 5)}, "sentence_quiz1": "x",
             "sentence_quiz2": "y", "answer_right_ending": 1}
            for name in ids
        ]  # fmt: skip
        (tmp_path / f"{code}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = Case((), "", "", stories=f"stories:{tmp_path}").told()
    assert {code: [story.id for story in own] for code, own in told.items()} == {code: ["b", "d"] for code in told}
