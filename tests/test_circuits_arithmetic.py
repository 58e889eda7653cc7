"""Arithmetic of circuits against values made by hand: sizes of samples, shares, names of edges, p of small tests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.core.ablation import fitted_constants
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, Head, Receiver
from babelscope.circuits.core.skew import skewed_test
from babelscope.circuits.core.statistics import correlate, drawn_ends, permutation_p, prompt_test
from babelscope.circuits.edges.circuit import Circuit
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.circuits.edges.edge_ablation import _checked
from babelscope.circuits.heads import copy_scores
from babelscope.circuits.heads.ablation import NodeSpace, optimal_values
from babelscope.circuits.heads.roles import repetition
from babelscope.circuits.patching.screen import Missed, Screen, _standard, screened
from babelscope.errors import InputError
from babelscope.models import Model
from tests.random_pairs import random_pair
from tests.tiny_models import tiny_model, tiny_tokenizer

GROUPED = Wiring(layers=2, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


# -- statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "p"), [(2, 0.75), (3, 0.5), (4, 0.25), (0, 1.0), (2 + 1e-13, 0.75)])
def test_the_value_counts_among_the_draws_that_reach_it(value, p):
    assert permutation_p(value, np.array([1.0, 2.0, 3.0])) == p


def test_of_six_prompts_the_p_of_students_t_is_that_of_the_table():
    """t = 2.570582 of 5 degrees of freedom leaves 2.5 % on either side."""
    values = 2.570582 + 5**0.5 * np.array([1, -1] * 3)
    assert prompt_test(values) == pytest.approx(0.05, abs=1e-6)
    assert prompt_test(values, "greater") == pytest.approx(0.025, abs=1e-6)
    assert prompt_test(-values, "greater") == pytest.approx(0.975, abs=1e-6)
    assert np.isnan(prompt_test(values[:5]))


def test_draws_have_ends_where_nineteen_in_twenty_are_known():
    drawn = np.arange(20.0)
    drawn[0] = np.nan
    assert np.isfinite(drawn_ends(drawn)).all()
    drawn[1] = np.nan
    assert np.isnan(drawn_ends(drawn)).all()
    assert np.isnan(drawn_ends(np.full(20, 3.0))).all()


def test_heads_that_differ_by_their_layer_alone_agree_no_more_than_shuffled_ones():
    layers = np.repeat(np.array([[1.0], [2.0], [5.0]]), 4, axis=1)
    found = correlate(layers, layers, permutations=20)
    assert (found.p, found.spearman_p) == (1, 1)
    assert (found.pearson, found.pearson_null) == pytest.approx((1, 1))


def test_a_two_sided_p_does_not_know_the_sign():
    values = np.random.default_rng(3).exponential(1, (60, 10)) - 0.9
    t = values.mean(-1) / (values.std(-1, ddof=1) / np.sqrt(10))
    assert ((t > 0) & (t < 1)).sum() > 5
    assert ((t < 0) & (t > -1)).sum() > 5
    assert skewed_test(values) == pytest.approx(skewed_test(-values))
    assert (skewed_test(values) < 1).mean() > 0.9


# -- screens ------------------------------------------------------------------------------------------------------


def swept(pairs, senders):
    """Head 0.0 changes the answer by 9 of every prompt, no other head by anything."""
    change = np.array([[9.0 if node == Head(0, 0) else 0.0] * len(pairs) for node in senders])
    return Effects(tuple(senders), change, np.zeros(len(pairs)), np.zeros(len(pairs)), settings={})


@pytest.mark.parametrize(("sample", "least", "sampled"), [(0.5, 1, 29), (0.1, 1, 6), (0.1, 8, 8), (0.1, 99, 58)])
def test_a_screen_keeps_a_tenth_and_samples_its_share_of_the_rest(sample, least, sampled):
    """Of 64 heads 6 are kept, whatever they do; of the other 58 so many are sampled."""
    heads = [Head(layer, head) for layer in range(8) for head in range(8)]
    found = screened(swept, list(range(9)), heads, Screen(sample=sample, least=least)).screening
    assert (found.asked, found.kept, len(found.sampled)) == (64, 6, sampled)
    assert screened(swept, list(range(8)), heads, Screen()).screening is None
    assert screened(swept, list(range(9)), heads[1:], Screen()).screening is None


def test_what_a_screen_may_have_missed_is_a_share_of_all_that_pass():
    assert Missed(64, 6, 29, passed=3, sampled_passed=1, at_most=2).share == 0.4
    assert Missed(64, 6, 29, passed=3, sampled_passed=0, at_most=0).share == 0
    assert _standard(np.array([1.0, 1.0, 3.0, 3.0])).tolist() == [1, 1, 3, 3]
    assert _standard(np.full(4, 2.0)).tolist() == [0] * 4


# -- circuits -----------------------------------------------------------------------------------------------------


def test_edges_and_nodes_are_written_with_eight_decimals_under_the_query_heads_they_serve():
    """Key head 0 serves heads 0 and 1, key head 1 heads 2 and 3."""
    edges, scores = np.zeros_like(GROUPED.allowed), np.zeros(GROUPED.allowed.shape)
    logits = GROUPED.allowed.shape[1] - 1
    for row, column, score in (
        (GROUPED.writer(EMBEDDING), GROUPED.reader(Receiver("k", 1, 0)), 0.1234567891),
        (GROUPED.writer(EMBEDDING), GROUPED.reader(Receiver("v", 1, 1)), 0.25),
        (GROUPED.writer(Head(1, 1)), logits, -1.0),
        (GROUPED.writer(Head(1, 2)), logits, -0.9876543219),
    ):
        edges[row, column], scores[row, column] = True, score
    told = Circuit(GROUPED, edges, scores).described()
    assert [(edge["sender"], edge["receiver"], edge["score"]) for edge in told["edges"]] == [
        ("1.1", "logits", -1.0),
        ("1.2", "logits", -0.98765432),
        ("embedding", "1.2.v", 0.25),
        ("embedding", "1.1.k", 0.12345679),
    ]
    assert [node["score"] for node in told["nodes"]] == [0.37345679, -1.0, -0.98765432]


def test_a_circuit_of_other_sizes_names_both():
    """One layer of two heads: 1 + 3 writers, 2 · 3 + 1 + 1 readers."""
    small = Wiring(layers=1, heads=2, kv_heads=2)
    with pytest.raises(InputError, match="of 3 writers and 5 readers does not belong to a model of 4 and 8"):
        _checked(small, np.zeros((3, 5), dtype=bool))


def test_forty_times_the_same_prompt_has_the_attributions_of_one(llama):
    """More prompts in a batch than the stream is wide (32)."""
    pair = random_pair(0)
    once, often = (
        edge_attribution(llama, [pair], "eap", budget=9),
        edge_attribution(llama, [pair] * 40, "eap", budget=100_000),
    )
    assert often.scores == pytest.approx(once.scores, abs=1e-5 * float(np.abs(once.scores).max()))


# -- heads --------------------------------------------------------------------------------------------------------


def test_fifty_steps_are_taken_where_none_are_asked_for(llama):
    _, losses = fitted_constants(llama, [random_pair(0)], lambda rows, values: values.embedding.reshape(1, -1))
    assert len(losses) == 50


@pytest.mark.parametrize("length", [8, 9, 10])
def test_without_a_head_that_writes_nothing_the_model_is_the_same(length):
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="llama")
    with torch.no_grad():
        model.hf.model.layers[1].self_attn.o_proj.weight[:, :8] = 0
    _, losses = optimal_values(model, [random_pair(0, length=length)], [Head(1, 0)], steps=2)
    assert losses == pytest.approx([0, 0], abs=1e-6)


def test_the_tokens_of_a_batch_are_asked_for_by_name(llama):
    with pytest.raises(TypeError, match="positional"):
        NodeSpace(llama, [random_pair(0)], "mean", True, 5)


def test_sequences_of_another_length_are_told_the_length_they_should_have():
    model = SimpleNamespace(layers=1, heads=1)
    with pytest.raises(InputError, match="sequences of 4 tokens said twice have 9 tokens, not 11"):
        repetition(model, {4: torch.zeros(1, 11, dtype=torch.long)}, prefix=1)


def test_the_null_of_copying_is_the_share_of_the_words_that_are_absent(monkeypatch):
    """Words 5, 7 and 9: two are absent from the first prompt, one from the second, none from the third."""
    yes = torch.tensor([
        [[1, 1, 0], [1, 0, 0], [1, 1, 1]],
        [[0, 1, 1], [0, 1, 0], [0, 0, 0]],
    ]).bool()  # fmt: skip
    absent = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    words = torch.tensor([5, 7, 9])
    monkeypatch.setattr(copy_scores, "ov_final", lambda model, node, states: states)
    monkeypatch.setattr(copy_scores, "among_top", lambda *_: yes)
    (read,) = copy_scores._read(None, words, [Head(0, 0)], torch.zeros(3, 2), 1, (words, absent), None, True)
    assert read.hits.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert read.others == pytest.approx(np.array([[0.5, 1, np.nan], [1, 0, np.nan]]), nan_ok=True)


def test_words_among_the_top_two_and_the_bottom_two():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    among = copy_scores._among_all(logits, torch.tensor([0, 2, 3]), 2)
    assert among.tolist() == [[[True, True, False]], [[False, False, True]]]
    assert copy_scores._among_all(logits, torch.tensor([0, 3]), 9).all()


@pytest.mark.parametrize(
    ("bias", "scale", "word", "score"),
    [(None, 1.0, 2, 2 / 3**0.5), (None, -0.5, 2, -2 / 3**0.5), ([0.0, 3.0, 0.0], 1.0, 1, 1 / 3**0.5)],
)
def test_the_standard_score_of_a_word_is_that_among_all_logits(bias, scale, word, score):
    """Logits 1, 1 and 4 (mean 2, variance 3); with the bias 1, 4 and 4 (mean 3, variance 3)."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    shift = None if bias is None else torch.tensor(bias)
    model = SimpleNamespace(
        unembedding=weight, unembedding_bias=shift, logit_scale=scale, hf=torch.nn.Identity(),
        logits=lambda final: scale * (final @ weight.T + (0 if shift is None else shift)),
    )  # fmt: skip
    state, words = torch.ones(1, 2), torch.tensor([word])
    moments = copy_scores.logit_moments(model)
    assert copy_scores._standard(model, state, words, moments, True)[0] == pytest.approx(score)
    assert copy_scores._standard(model, state, words, None, False)[0] == pytest.approx(score)
