"""Heads: random sets beside them, rankings, attention read at offsets and roles, words in context; by plain loops."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.core import nodes as node_file
from babelscope.circuits.core.nodes import MLP, Head
from babelscope.circuits.heads import ablation, copy_scores, patterns
from babelscope.circuits.heads.ablation import _ranked, matched_random, windows
from babelscope.circuits.heads.copy_scores import _null_by_word, _words_in_context, among_top
from babelscope.circuits.heads.patterns import attention_at_offsets, attention_between, equal_length, patterns_by_layer
from babelscope.errors import InputError, TaskError, UnsupportedModel
from babelscope.models import Model
from tests.random_pairs import random_pair
from tests.tiny_models import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")


def sizes(layers=3, heads=4, **more):
    own = tuple(range(layers))
    usual = dict(id="m", layers=layers, heads=heads, attention_layers=own, neuron_layers=own, mixtures={}, device=CPU)
    return SimpleNamespace(**(usual | dict(mixer_layers=()) | more))


# -- sets of nodes -----------------------------------------------------------------------------------------------------


def test_windows_of_layers_are_cut_at_the_ends():
    def numbers(width, **more):
        return [[node.layer for node in window] for window in windows(sizes(5, **more), width)]

    assert numbers(1) == [[0], [1], [2], [3], [4]]
    assert numbers(3) == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4]]
    assert numbers(5)[2] == [0, 1, 2, 3, 4]
    assert numbers(3, neuron_layers=(0, 3)) == [[0], [0], [3], [3], [3]]
    for width in (0, -1, 2, 4):
        with pytest.raises(InputError, match=f"its width is odd: got {width}"):
            windows(sizes(), width)


def test_random_heads_stand_in_the_same_layers_and_are_others_where_there_are_enough():
    heads = [Head(0, 1), Head(0, 2), Head(2, 3)]
    every = matched_random(sizes(), heads, draws=99)
    expected = {frozenset([Head(0, 0), Head(0, 3), Head(2, head)]) for head in (0, 1, 2)}
    assert {frozenset(drawn) for drawn in every} == expected
    assert len(every) == 3
    assert len(matched_random(sizes(), heads, draws=2)) == 2
    crowded = matched_random(sizes(), [Head(1, 0), Head(1, 1), Head(1, 3)], draws=99)
    assert {frozenset(node.head for node in drawn) for drawn in crowded} == {
        frozenset(own) for own in combinations(range(4), 3) if set(own) != {0, 1, 3}
    }
    assert matched_random(sizes(), []) == matched_random(sizes(), heads, draws=0) == []
    assert matched_random(sizes(), [Head(1, head) for head in range(4)]) == []  # there is no other set


def test_many_random_heads_are_all_different_and_seeded():
    model, heads = sizes(3, 9), [Head(0, 1), Head(0, 2), Head(2, 3)]
    found = matched_random(model, heads, seed=5)
    assert len(found) == len({tuple(drawn) for drawn in found}) == 20
    assert matched_random(model, heads, seed=5) == found
    assert matched_random(model, heads, seed=6) != found
    for drawn in found:
        assert [node.layer for node in drawn] == [0, 0, 2]
        assert drawn == sorted(set(drawn))
        assert not set(drawn) & set(heads)
    assert len(matched_random(model, heads, draws=84)) == len(matched_random(model, heads, draws=83)) + 1 == 84


def test_rankings_of_nodes_by_what_they_do_for_the_answer_and_by_size():
    space = SimpleNamespace(nodes=tuple(Head(0, head) for head in range(5)))
    scores = dict(zip(space.nodes, [-1.0, 3.0, 0.0, -2.0, 0.5]))
    budgets = (0.0, 0.2, 0.39, 0.4, 0.8, 1.0)
    for area, order in (("cpr", [3, 0, 2, 4, 1]), ("cmd", [1, 3, 0, 4, 2])):
        masks = _ranked(space, scores, area, budgets)
        assert [set(np.flatnonzero(mask)) for mask in masks] == [set(order[:count]) for count in (0, 1, 1, 2, 4, 5)]
    assert ablation.NodeSpace(sizes(), []).whole.tolist() == [True] * 12
    wide = ablation.NodeSpace(sizes(), [], mlps=True)
    assert wide.nodes[12:] == (MLP(0), MLP(1), MLP(2))
    assert np.flatnonzero(wide.mask([Head(1, 0), MLP(2)])).tolist() == [4, 14]
    with pytest.raises(InputError, match="m1 is not among the parts that may be in this circuit"):
        ablation.NodeSpace(sizes(), []).mask([Head(0, 0), MLP(2), MLP(1)])


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def attending(monkeypatch):
    """Causal patterns drawn by the tokens of each row, of layers 0 and 2 of three with two heads each."""

    def drawn(row):
        weights = torch.rand(2, 2, len(row), len(row), generator=torch.Generator().manual_seed(int(sum(row)))).tril()
        return weights / weights.sum(-1, keepdim=True)

    def made(_, ids):
        rows = torch.stack([drawn(row.tolist()) for row in ids])
        return {0: rows[:, 0], 2: rows[:, 1]}

    monkeypatch.setattr(patterns, "attention_patterns", made)
    return drawn


@pytest.mark.parametrize("start", [0, 1, 4])
def test_attention_at_offsets_is_a_mean_over_the_queries_behind_a_place(attending, monkeypatch, start):
    monkeypatch.setattr(patterns, "token_budget", lambda _: 14)  # two rows at a time
    ids = torch.arange(35).reshape(5, 7)
    own, others = attention_at_offsets(sizes(3, 2), ids, (-1, -3, -4), start)
    assert np.isnan(own[:, 1]).all()
    for row in range(5):
        weights = attending(ids[row].tolist()).double()
        for place, offset in enumerate((1, 3, 4)):
            for layer, at in ((0, 0), (2, 1)):
                for head in range(2):
                    queries = [query for query in range(7) if query >= start and query >= offset]
                    read = [float(weights[at, head, query, query - offset]) for query in queries]
                    rest = [(1 - one) / query for one, query in zip(read, queries)]
                    assert own[place, layer, head, row] == pytest.approx(np.mean(read))
                    assert others[place, layer, head, row] == pytest.approx(np.mean(rest))


def test_attention_between_roles_is_that_of_the_reader_s_last_token(attending):
    pairs = [random_pair(0), random_pair(2, length=7, changed=(0, 4)), random_pair(1)]
    found = attention_between(sizes(3, 2), pairs, ["B", "END"], ["A", "B", "END"])
    assert np.isnan(found[:, :, 1]).all()
    for place, pair in enumerate(pairs):
        weights = attending(pair.clean)
        for i, reader in enumerate(("B", "END")):
            here = pair.roles[reader][1] - 1
            for j, role in enumerate(("A", "B", "END")):
                begin, end = pair.roles[role]
                expected = weights[:, :, here, begin:end].sum(-1).numpy() if begin <= here else np.full((2, 2), np.nan)
                assert found[i, j, [0, 2], :, place] == pytest.approx(expected, nan_ok=True)
    with pytest.raises(TaskError, match="no role 'S1'"):
        attention_between(sizes(3, 2), pairs, ["S1"], ["A"])


def test_groups_of_equal_length():
    pairs = [random_pair(item, length=length) for item, length in enumerate((9, 8, 9, 9, 8))]
    assert equal_length(pairs, 18) == [[1, 4], [0, 2], [3]]
    assert equal_length(pairs, 17) == [[1, 4], [0], [2], [3]]
    assert equal_length(pairs, 1) == [[1], [4], [0], [2], [3]]


def test_patterns_belong_to_the_layers_that_have_heads():
    model = SimpleNamespace(id="m", attention_layers=(1, 3))
    one, two = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    for given in ([one, two], [None, one, None, two]):
        assert patterns_by_layer(model, given) == {1: one, 3: two}
    for given in (None, [], [one], [one, None, None, None], [one] * 3):
        with pytest.raises(UnsupportedModel, match="m does not give out its attention patterns"):
            patterns_by_layer(model, given)


# -- copying -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("parts", [(4096, 16384), (3, 4), (2, 1)])
def test_the_top_of_the_vocabulary_by_parts_is_that_of_all_logits(monkeypatch, bias, parts):
    first, later = parts
    monkeypatch.setattr(copy_scores, "FIRST_WORDS", first)
    monkeypatch.setattr(copy_scores, "WORDS", later)
    draw = torch.Generator().manual_seed(2)
    weight, shift = torch.randn(17, 6, generator=draw), torch.randn(17, generator=draw) if bias else None
    final = torch.randn(40, 6, generator=draw)
    whole = torch.nn.functional.linear(final, weight, shift)
    model = SimpleNamespace(vocabulary=17, unembedding=weight, unembedding_bias=shift, finish_logits=lambda raw: raw)
    model.logits = lambda state, words: torch.nn.functional.linear(state, weight, shift)[:, words]
    kept = torch.tensor([0, 2, 5, 16])
    asked = torch.rand(40, 4, generator=draw) < 0.6
    asked[7] = False
    for top in (1, 3, 17, 30):
        found = among_top(model, final, kept, asked, top)
        for row in range(40):
            for column, word in enumerate(kept):
                above = int((whole[row] > whole[row, word]).sum())
                below = int((whole[row] < whole[row, word]).sum())
                inside = bool(asked[row, column])
                assert found[:, row, column].tolist() == [inside and above < top, inside and below < top]
        assert (copy_scores._among_all(whole, kept, top) & asked == found).all()


def test_copying_is_tested_over_distinct_words():
    dice = np.random.default_rng(0)
    owner = np.repeat(np.arange(20), 3)
    own, others = (dice.random((1, 2, 60)) < 0.7) * 1.0, np.full((1, 2, 60), 0.1)
    by_word = own.reshape(1, 2, 20, 3).mean(-1)
    expected = copy_scores.Null.by_turning(by_word, np.full((1, 2, 20), 0.1), 20)
    found = _null_by_word(own, others, owner, 20)
    assert (found.p == expected.p).all()
    assert found.positions == 20
    few = _null_by_word(own[..., :45], others[..., :45], owner[:45], 15)
    agree = (by_word[:, :, :15] > 0.1).all(-1)
    places = copy_scores.Null.of(own[..., :45], others[..., :45], 15)
    assert (few.p == np.where(agree, places.p, 1.0)).all()
    sixteen = _null_by_word(own[..., :48], others[..., :48], owner[:48], 16)
    assert (sixteen.p == copy_scores.Null.by_turning(by_word[:, :, :16], np.full((1, 2, 16), 0.1), 16).p).all()


def test_words_in_context_are_a_seeded_sample_in_order(monkeypatch):
    pairs = [random_pair(item, length=9 if item % 2 else 8, changed=(3, 6)) for item in range(6)]
    monkeypatch.setattr(
        copy_scores, "_streams", lambda model, ids, layers: torch.stack([ids * 10.0 + n for n in layers])[..., None]
    )
    monkeypatch.setattr(copy_scores, "token_budget", lambda _: 18)
    model = sizes()
    words, states, owners = _words_in_context(model, pairs, ["A", "B"], 64, 0, [1, 2])
    assert owners == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    expected = [pairs[place].clean[pairs[place].roles[role][0]] for place in range(6) for role in "AB"]
    assert words.tolist() == expected
    assert states[..., 0].tolist() == [[10 * word + layer for word in expected] for layer in (1, 2)]
    seen = set()
    for seed in range(20):
        few, state, owners = _words_in_context(model, pairs, ["A", "B"], 5, seed, [0])
        assert len(few) == 5
        assert owners == sorted(owners)
        assert state[0, :, 0].tolist() == [10 * int(word) for word in few]
        assert set(few.tolist()) <= set(expected)
        seen.add(tuple(few.tolist()))
    assert len(seen) > 15
    assert len(_words_in_context(model, pairs, ["A", "B"], 12, 0, [0])[0]) == 12
    assert node_file.heads_of(model)[5] == Head(1, 1)


@torch.no_grad()
def test_moments_of_the_vocabulary_are_those_of_the_weights_as_they_are():
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="llama")
    for factor in (1.0, 2.0, 3.0):
        model.unembedding.mul_(factor)
        found, weight = copy_scores.logit_moments(model), model.unembedding.double()
        assert torch.allclose(found.mean, weight.mean(0), atol=1e-6)
        assert torch.allclose(found.covariance, torch.cov(weight.T), rtol=1e-4, atol=1e-6)
        assert copy_scores.logit_moments(model) is found
