"""What claims measure, each by hand or on planted data."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope import load_model
from babelscope.circuits.core.faithfulness import Scored
from babelscope.claims import case as case_module
from babelscope.claims import judge
from babelscope.claims.case import Case
from babelscope.claims.measures.amplified import improved
from babelscope.claims.measures.circuits import _difference
from babelscope.claims.measures.facts import _first_tokens, lost_at_the_end, planted_facts
from babelscope.claims.measures.neurons import _random_sets, beyond_others, found_again, predictors
from babelscope.claims.measures.probes import feature_labels, largest_fall, probed
from babelscope.claims.measures.regions import any_region, lrds, sads
from babelscope.claims.measures.residual import _cka, _gap, _hsic, correlated, similarity_falls
from babelscope.claims.measures.routing import normalised_divergence
from babelscope.claims.measures.sweeps import alignment_grows, regions_shrink, right_endings
from babelscope.claims.measures.tense import _exchanged, _shares, _Tested, difference
from babelscope.errors import InputError
from babelscope.evaluation import load_stories
from babelscope.latent.separation import head_start, matched_gain
from babelscope.regions.masks import RegionSet
from babelscope.regions.recording import record
from babelscope.regions.residual import record_residual
from babelscope.regions.similarity import whole_means

from .test_claims_verdicts import HOLDS, OPEN


def test_the_head_start_of_a_language_by_hand():
    stay, language, concept, both = np.eye(4)
    last = np.array([[stay, language, language, both], [stay, concept, both, both]])
    assert head_start(last).tolist() == [2.0, -1.0]
    curves = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.0, 1.0]])
    assert matched_gain(curves, curves - 0.25) == pytest.approx(np.full(4, 0.25))


def test_divergence_of_routing_by_hand():
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert normalised_divergence(one, other) == pytest.approx(1.0)
    assert normalised_divergence(one, one) == pytest.approx(0.0)


def test_cka_of_a_recording_with_itself_and_with_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 40, 8))
    gram = x[0] @ x[0].T
    twice = _hsic(np.stack([gram, gram]))
    assert twice[0, 1] == pytest.approx(twice[0, 0])
    noise = rng.normal(size=(200, 40, 5))
    grams = np.concatenate([(x @ x.transpose(0, 2, 1)), noise @ noise.transpose(0, 2, 1)])
    found = _hsic(grams)
    # without bias: unrelated data average 0
    assert abs(found[0, 1:].mean()) < 3 * found[0, 1:].std() / 200**0.5


def test_correlations_of_eight_languages_say_nothing():
    rng = np.random.default_rng(1)
    codes = ["zh", "fr", "es", "pt", "ar", "vi", "hi", "id"]
    x = rng.normal(size=8)
    parts = correlated(x, x + 0.5 * rng.normal(size=8), np.arange(10.0, 18.0), codes, Case((), "", ""))
    assert [one.name for one in parts] == ["Pearson", "partial Pearson"]
    assert all(np.isnan(one.low) and "n = 8 languages; not even a correlation of 0.95" in one.why for one in parts)
    assert judge(parts[0], "greater", 0.5).answer == OPEN
    many = rng.normal(size=40)
    parts = correlated(many, many + 0.5 * rng.normal(size=40), np.arange(10.0, 50.0), codes * 5, Case((), "", ""))
    assert all(one.low < one.estimate < one.high for one in parts)
    assert judge(parts[0], "greater", 0.3).answer == HOLDS
    flat = correlated(x, np.ones(8), np.arange(10.0, 18.0), codes, Case((), "", ""))
    assert "equally well" in flat[0].why


def test_what_grows_is_the_last_point_minus_the_first():
    case = Case(("pocket:pocket-bloom-s", "pocket:pocket-bloom-m"), "pocket:heldout", "", 8, draws=5, bootstrap=40)
    small, large = (record(load_model(model), case.sentences()) for model in case.models)
    for measure in (alignment_grows, regions_shrink):
        for one in measure(case):
            assert one.low <= one.estimate <= one.high, one
    sads, accuracy = alignment_grows(case)
    assert sads.estimate == pytest.approx(float(whole_means(large).sads) - float(whole_means(small).sads))
    stories = [told for code, told in load_stories("pocket:?n=8").items() if code != "en"]
    right = [right_endings(load_model(model), stories).mean() for model in case.models]
    assert accuracy.estimate == pytest.approx(right[1] - right[0])
    share, lrds = regions_shrink(case)
    assert share.estimate == pytest.approx(float(any_region(large).mean()) - float(any_region(small).mean()))
    assert lrds.estimate == pytest.approx(float(whole_means(large).lrds) - float(whole_means(small).lrds))


def test_a_circuit_against_the_controls_is_its_own_share_minus_theirs():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (2, 30))
    scored = Scored(2.0 * (np.array([[0.8], [0.3]]) + noise), empty=np.zeros(30), whole=np.full(30, 2.0))
    found = _difference("circuit minus control", scored, Case((), "", "", bootstrap=200))
    assert found.estimate == pytest.approx(0.5, abs=0.02)
    assert 0.45 < found.low <= found.estimate <= found.high < 0.55


def test_similarity_falls_by_the_last_point_minus_the_first():
    case = Case(("pocket:pocket-bloom-s", "pocket:pocket-bloom-m"), "pocket:heldout", "", 8, draws=5, bootstrap=40)
    gap, cka = similarity_falls(case)
    small, large = (
        record_residual(load_model(model), case.sentences(), ("mean",)).recordings["mean"] for model in case.models
    )
    assert gap.estimate == pytest.approx(_gap(large, case)[0] - _gap(small, case)[0])
    assert cka.estimate == pytest.approx(_cka(large) - _cka(small))


def test_neurons_that_predict_a_concept_by_hand():
    # neuron k of 100 follows concept k in both languages, neuron 2 fires for everything, the rest is noise
    rng = np.random.default_rng(0)
    labels = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]], dtype=bool)
    means = rng.normal(0, 0.01, (2, 10, 100))
    for language in (0, 1):
        for concept in (0, 1):
            means[language, :, concept] += labels[concept]
    ranks = means.argsort(1).argsort(1).astype(np.float32)
    for language in (0, 1):
        assert predictors(ranks[language], labels).nonzero()[1].tolist() == [0, 1]
    assert beyond_others(ranks, [labels, labels]).tolist() == [1.0, 1.0]
    assert beyond_others(ranks, [labels, labels[::-1]]).tolist() == [-1.0, -1.0]


def test_a_change_of_logit_difference_is_a_share_of_the_whole_by_verb():
    verbs = np.array([7, 7, 9], dtype=np.int64)
    found = _Tested(verbs, np.array([[4.0, 2.0, 5.0], [2.0, 2.0, 1.0]]), np.ones((2, 3)))
    # by verb 3 and 5, without the set 2 and 1: (1.5 − 4) / 4
    assert _shares(found, 0).mean() == pytest.approx(-2.5 / 4)
    dealt = _exchanged(found, replace(found, verbs=verbs + 10), seed=0)
    assert [len(np.unique(side.verbs)) for side in dealt] == [2, 2]


def test_samples_that_do_not_vary_have_an_interval_only_within_bounds():
    same = np.zeros(40)
    assert np.isnan(difference("x", same, same, 2, 0.0).low)
    bounded = difference("x", same, same, 2, 0.0, "prompts", (0.0, 1.0))
    assert -0.3 < bounded.low < 0 < bounded.high < 0.3


def test_answers_improved_by_two_points():
    right = np.array([1.0, 0.0] * 100)
    assert improved(right).sum() - right.sum() == 4
    assert improved(np.ones(100)).sum() == 100


def test_a_set_is_found_again_in_its_own_language_and_not_in_others():
    def sets(*neurons):
        masks = {code: torch.zeros(2, 8, dtype=torch.bool) for code in ("en", "fr")}
        for mask, own in zip(masks.values(), neurons):
            mask[0, list(own)] = True
        return RegionSet(masks, method="by hand")

    # en keeps one of two, fr both; nothing is shared
    assert found_again(sets((0, 1), (2, 3)), sets((1, 4), (2, 3))) == pytest.approx(0.75)
    assert found_again(sets((0, 1), (2, 3)), sets((2, 3), (0, 1))) == pytest.approx(-1.0)
    drawn = _random_sets(sets((0, 1), (2, 3)), (8, 8), seed=0)
    assert drawn.by_layer() == {"en": [2, 0], "fr": [2, 0]}


def test_facts_keep_no_model_alive():
    model = load_model("pocket:planted-lossy")
    gone = weakref.ref(model)
    facts = planted_facts()
    tokens = _first_tokens(model, facts)
    assert len(tokens) == sum(map(len, facts.values()))
    first = facts["zh"][0]
    assert model.tokenizer.decode([tokens["zh", first.id]]).strip() == first.choices[first.label]
    del model
    gc.collect()
    assert gone() is None


def test_lost_facts_need_enough_that_are_missed():
    parts = lost_at_the_end(Case(("pocket:planted-pivot",), "planted", ""))
    assert [one.why for one in parts] == ["precondition: 0 facts are known in en and missed in zh, 50 are needed"]


def test_two_claims_over_one_case_record_it_once(monkeypatch):
    calls: list[str] = []

    def counted(model, corpus, **options):
        calls.append(corpus.spec)
        return record(model, corpus, **options)

    monkeypatch.setattr(case_module, "record", counted)
    case_module._recorded.cache_clear()
    case = Case(("pocket:pocket-bloom-s",), "pocket:heldout", "", n=12, draws=4, bootstrap=20, languages=("en", "fr"))
    lrds(case), sads(case), sads(replace(case, draws=8))
    assert len(calls) == 1
    sads(replace(case, twin="ids"))
    sads(replace(case, seed=1))
    assert len(calls) == 3


def test_a_probe_carries_over_where_languages_share_its_neurons():
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(40) % 2 == 0, (3, 1))
    means = rng.normal(0, 1, (3, 40, 100)).astype(np.float32)
    means[0, :, 3] += 6 * labels[0]
    means[1, :, 3] += 6 * labels[1]
    means[2, :, 7] += 6 * labels[2]
    half = np.arange(20), np.arange(20, 40)
    alike, right = probed(means[:2], labels[:2], *half)
    assert alike == 1.0
    assert right > 0.95
    apart, wrong = probed(means[[0, 2]], labels[:2], *half)
    assert apart == 0.0
    assert wrong < 0.8
    with pytest.raises(InputError, match="do not tell sentences of the past"):
        feature_labels(["1", "2"], "mine")


def test_falls_are_of_both_courses_at_one_place():
    assert largest_fall(np.array([[0.0, 0.4, 0.1], [0.5, 0.3, 0.1]])) == pytest.approx(0.2)
    assert largest_fall(np.array([[0.0, 0.4, 0.1], [0.1, 0.2, 0.5]])) < 0
