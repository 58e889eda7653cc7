"""What a circuit's numbers are means of: words, prompts of both kinds, random circuits of the same size."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.faithfulness import score
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.ablation import NodeSpace, matched_random
from babelscope.circuits.heads.copy_scores import _null_by_word
from babelscope.circuits.heads.labels import Null, evidence
from babelscope.circuits.heads.roles import Roles, direct
from babelscope.circuits.patching.search import Found, Search
from babelscope.circuits.patching.selection import select
from babelscope.models import Model
from babelscope.studies.circuit_roles import name_head
from babelscope.studies.circuit_tables import AblationSet, cross_rows, selectivity_rows
from babelscope.tasks import task_named
from tests import planted
from tests.random_pairs import random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer

SETS = [AblationSet("heads", (Head(0, 0),))]


def test_a_head_that_always_writes_the_same_has_no_rule_of_tense():
    """Its sign on each pair of words is luck, repeated by every prompt, so prompts prove nothing."""
    generator = np.random.default_rng(0)
    constant, words = generator.normal(size=(20, 20, 16)), generator.normal(size=(12, 16))
    said = constant @ words.T  # [L, H, W]
    assert 0.02 < (Null.of(said, 0 * said, 12).p <= 0.05).mean() < 0.08
    prompts = said[..., np.arange(40) % 12]
    others = (prompts.sum(-1, keepdims=True) - prompts) / 39  # what was tested before: mean over the other prompts
    assert (Null.of(others, 0 * others, 40).p <= 0.05).mean() > 0.3


def test_what_is_written_about_other_words_is_taken_of_prompts_that_ask_for_others():
    pairs = [pair for pair in random_pairs() if len(pair.target) == 1 and len(pair.clean) == 9][:2]
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="llama")
    once, twice = direct(model, pairs), direct(model, [pairs[0], *pairs])
    assert twice.elsewhere.shape == once.elsewhere.shape  # two pairs of words, whatever the number of prompts
    assert np.allclose(twice.elsewhere, once.elsewhere, atol=1e-5)
    assert np.isnan(direct(model, pairs[:1]).elsewhere).all()  # nobody asks for anything else


def test_one_word_read_in_many_prompts_is_one_item():
    generator = np.random.default_rng(1)
    owner = np.arange(64) % 16
    by_word = generator.normal(0, 1, (20, 20, 16))
    own = by_word[..., owner] + 0.01 * generator.normal(size=(20, 20, 64))
    assert 0.02 < (_null_by_word(own, 0 * own, owner, 16).p <= 0.05).mean() < 0.08
    assert (Null.of(own, 0 * own, 64).p <= 0.05).mean() > 0.2
    # a head that copies three words of four, where others are hit once in fifty, is one, and never with p = 0
    hits = (np.arange(24) % 4 > 0).astype(float)[None, None]
    null = Null.by_turning(hits, np.full_like(hits, 0.02), 24)
    assert null.p[0, 0] == pytest.approx(1 / 20_000)
    rare = generator.random((20, 20, 24)) < 0.1
    assert (Null.by_turning(rare.astype(float), np.full(rare.shape, 0.1), 24).p <= 0.05).mean() <= 0.06
    # of three words all must agree, so that one of them makes no copier
    few = np.stack([np.stack([np.where(np.arange(30) % 3 == 0, 1.0, 0.0), np.ones(30)])])
    null = _null_by_word(few + 0.01 * generator.normal(size=few.shape), 0 * few, np.arange(30) % 3, 3)
    assert null.p[0, 0] == 1 or null.p[0, 0] > 0.05
    assert null.p[0, 1] < 1e-6


def test_a_score_that_has_no_value_says_so():
    null = Null(np.zeros((1, 1)), np.full((1, 1), np.nan), 20)
    roles = Roles({"copy": np.array([[np.nan]])}, (), (), np.zeros((0, 0, 1, 1)), {"copy": null})
    assert evidence(roles, "copy", Head(0, 0)).why == "copy has no value on these prompts"


def prompts(count: int, first: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(stratum="", item=first + place) for place in range(count)]


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_selectivity_knows_that_shares_have_two_means(paired):
    """One language loses half of its logit difference, the other a constant of half its size."""
    generator, inside = np.random.default_rng(2), 0
    for _ in range(200):
        scores = {}
        for code in ("en", "zh"):
            whole = 4 + generator.exponential(4, 12)
            loss = -0.5 * whole if code == "en" else np.full(12, -4.0)
            scores[code] = np.stack([whole, whole + loss + 0.3 * generator.normal(size=12)])
        asked = {"en": prompts(12, 0), "zh": prompts(12, 0 if paired else 50)}
        [row] = selectivity_rows(SETS, scores, asked, 0)
        assert row.paired == paired
        inside += row.low <= 0 <= row.high
    assert 0.9 <= inside / 200 <= 0.99


def test_a_head_that_takes_a_fixed_share_of_every_prompt_has_no_error_but_a_constant_loss_has():
    whole = np.array([2.0, 4, 6, 8, 10, 12, 3, 5, 7, 9, 11, 13])
    asked = {"en": prompts(12, 0), "zh": prompts(12, 0)}
    [row] = selectivity_rows(SETS, {"en": np.stack([whole, 0.5 * whole]), "zh": np.stack([whole, whole])}, asked, 0)
    assert row.selectivity == pytest.approx(-0.5)
    assert np.isnan(row.low)  # the same share of every prompt: nothing varies
    [row] = selectivity_rows(SETS, {"en": np.stack([whole, whole - 3]), "zh": np.stack([whole, whole])}, asked, 0)
    assert row.low < row.selectivity - 0.05  # 3 of a mean that is itself uncertain


def test_each_circuit_stands_beside_random_ones_of_its_own_size():
    model, pairs = planted.ioi("gpt2")
    circuits = {"en": [Head(3, 3)], "zh": [Head(3, 3), Head(2, 0), Head(0, 0)]}
    rows = cross_rows(model, {"en": pairs}, circuits, 4, "mean", 0)
    assert [row.found_in for row in rows] == ["en", "zh"]
    space = NodeSpace(model, pairs, "mean")
    for row in rows:
        drawn = matched_random(model, circuits[row.found_in], 4, 0)
        expected = score(space, [space.mask(nodes) for nodes in drawn]).faithfulness()
        assert row.random_sets == len(drawn)
        assert row.random == pytest.approx(float(expected.mean()), abs=1e-5)
        assert row.heads == len(circuits[row.found_in])


def test_pairs_without_a_counterfactual_are_left_out_of_the_test():
    generator = np.random.default_rng(3)
    senders = tuple(Head(0, place) for place in range(8))
    clean = np.full(20, 8.0)
    own = Effects(senders, clean + generator.normal(0, 1, (8, 20)) - np.eye(8)[0][:, None] * 2, clean, clean)
    chance = Effects(senders, clean + generator.normal(0, 1, (8, 20)), clean, clean)
    holes = replace(chance, patched=np.where(np.arange(20) < 8, np.nan, chance.patched))
    cut = [replace(one, patched=one.patched[:, 8:], clean=clean[8:], corrupted=clean[8:]) for one in (own, chance)]
    assert np.allclose(select(own, null=holes, sigmas=0).p, select(cut[0], null=cut[1], sigmas=0).p)
    assert np.isfinite(select(own, null=holes, sigmas=0).p).all()


def two_steps(flip, swap, n=20, noise=0.1):
    """A head under the tense flip and under the verb swap, as a search finds it: effects in shares of LD."""
    generator = np.random.default_rng(4)
    task = task_named("past-tense")
    found = []
    for name, effect in (("direct", flip), ("direct_verb", swap)):
        clean = np.full(n, 5.0)
        patched = clean + 5 * (effect + noise * generator.normal(size=(1, n)))
        step = next(each for each in task.steps if each.name == name)
        effects = Effects((Head(0, 0),), patched, clean, clean)
        found.append(Found(step, effects, select(effects, sigmas=0)))
    return Search(tuple(found)), task


@pytest.mark.parametrize(
    ("flip", "swap", "role", "why"),
    [
        (-0.4, 0.0, "past-tense head", ""),
        (-0.4, -0.17, "candidate: past-tense head", "one effect is not clearly 2 times the other"),
        (-0.02, -0.5, "copy head", ""),
        (-0.4, -0.4, "tense and copy head", ""),
    ],
)
def test_a_label_by_two_effects_needs_them_to_differ_clearly(flip, swap, role, why):
    search, task = two_steps(flip, swap)
    rule = Null(np.zeros((1, 1)), np.full((1, 1), 0.001), 20)
    names = ("writes target − foil of other prompts", "attention END→VERB1")
    roles = Roles(dict.fromkeys(names, np.array([[0.5]])), (), (), np.zeros((0, 0, 1, 1)), dict.fromkeys(names, rule))
    named = name_head(search.steps[0], Head(0, 0), roles, search, task)
    assert (named.role, named.evidence.why) == (role, why)
