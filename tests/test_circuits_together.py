"""Senders that are patched in one pass: each has the effect that it has alone, in no more passes than are needed."""

from __future__ import annotations

import numpy as np
import pytest

from babelscope.circuits.core.nodes import EMBEDDING, MLP, Head, Receiver, heads_of, mixers_of, mlps_of
from babelscope.circuits.patching import screen as screens
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.screen import Screen, Slopes, activation_estimates, path_estimates
from babelscope.models import Model
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer

FAMILIES = ("bloom", "falcon-7b", "gemma2", "opt", "bailing_hybrid")


SLOW = "bailing_hybrid"
"""goes through its states token by token: the other of two ways waits for the night"""


def by_day(first: object, second: object) -> list[object]:
    """Both ways with every family, the second of the slow one by night."""
    rows = [(way, family) for way in (first, second) for family in FAMILIES]
    return [pytest.param(*row, marks=pytest.mark.nightly) if row == (second, SLOW) else row for row in rows]


def tiny(family: str) -> Model:
    return Model(tiny_model(family), tiny_tokenizer(), id=family)


def passes(model, work):
    """Passes that end in BLOOM's final norm, the second time: a model that is met for the first time is checked."""
    seen: list[int] = []
    handle = model.hf.transformer.ln_f.register_forward_hook(lambda *_: seen.append(1))
    try:
        work()
        seen.clear()
        work()
    finally:
        handle.remove()
    return len(seen)


@pytest.mark.parametrize(("at", "family"), by_day(None, "B"))
def test_outputs_patched_together_do_what_each_does_alone(family, at):
    model, pairs = tiny(family), random_pairs()
    nodes = [EMBEDDING, *heads_of(model), *mixers_of(model), *mlps_of(model)]
    found = activation_patching(model, pairs, nodes, at=at)
    alone = [activation_patching(model, pairs, [node], at=at).patched[0] for node in nodes]
    assert np.allclose(found.patched, alone, atol=2e-5)


@pytest.mark.parametrize(("mlps", "family"), by_day("recomputed", "frozen"))
def test_paths_taken_together_do_what_each_does_alone(family, mlps):
    model, pairs = tiny(family), random_pairs()
    last = model.attention_layers[-1]
    into = [Receiver("q", last, 0), Receiver("v", last, 0), Receiver("mlp", model.neuron_layers[1])]
    nodes = [EMBEDDING, *heads_of(model), *mixers_of(model), *mlps_of(model)]
    found = path_patching(model, pairs, into, nodes, "B", mlps)
    alone = [path_patching(model, pairs, into, [node], "B", mlps).patched[0] for node in nodes]
    assert np.allclose(found.patched, alone, atol=2e-5)


def test_senders_that_reach_the_same_receivers_go_there_in_one_pass():
    model, pairs = tiny("bloom"), [random_pair(0), random_pair(1)]
    into = [Receiver("q", 2, 0), Receiver("q", 2, 1)]
    # two runs, then all heads of layers 0 and 1 to the queries, and on from there; those of layer 2 reach nothing
    assert passes(model, lambda: path_patching(model, pairs, into)) == 2 + 2
    apart = [Receiver("q", 1, 0), Receiver("q", 2, 1)]
    # layer 0 reaches both, layer 1 one of them
    assert passes(model, lambda: path_patching(model, pairs, apart)) == 2 + 2 * 2


def test_an_mlp_is_patched_with_the_heads_of_its_layer():
    model, pairs = tiny("bloom"), [random_pair(0), random_pair(1)]
    nodes = [*heads_of(model), *mlps_of(model)]
    assert passes(model, lambda: activation_patching(model, pairs, nodes)) == 2 + model.layers
    assert passes(model, lambda: activation_patching(model, pairs, [Head(1, 0), MLP(0)])) == 2 + 2


@pytest.mark.parametrize("family", ["bloom", "deepseek_v3"])
def test_a_screen_of_paths_takes_the_gradients_that_a_screen_of_outputs_kept(family, monkeypatch):
    model, pairs, screen = tiny(family), random_pairs(), Screen()
    asked = [("q", "END"), ("mlp", "B"), ("v", None), ("k", "nowhere")]
    slopes = Slopes(asked)
    plain = activation_estimates(model, pairs, [None], screen)[None]
    assert np.allclose(activation_estimates(model, pairs, [None], screen, slopes)[None], plain, atol=1e-6)
    expected = [
        path_estimates(model, pairs, [Receiver(kind, 2, 0)], at, "recomputed", screen) for kind, at in asked[:3]
    ]
    monkeypatch.setattr(screens, "_gradients", None)
    for (kind, at), told in zip(asked, expected):
        found = path_estimates(model, pairs, [Receiver(kind, 2, 0)], at, "recomputed", screen, slopes)
        assert np.abs(told).max() > 0
        assert np.allclose(found, told, atol=1e-6)
    slopes.clear()
    with pytest.raises(TypeError):  # nothing is kept any more, so gradients are asked for
        path_estimates(model, pairs, [Receiver("q", 2, 0)], "END", "recomputed", screen, slopes)


def test_the_mlp_of_a_patched_layer_is_run_at_the_patched_positions_alone():
    model, pairs = tiny("bloom"), [random_pair(0), random_pair(1, changed=(3, 5))]
    ran: dict[int, int] = {}

    def count(layer):
        return lambda _m, args, _o: ran.__setitem__(layer, ran.get(layer, 0) + args[0].shape[0] * args[0].shape[1])

    handles = [block.mlp.dense_h_to_4h.register_forward_hook(count(layer)) for layer, block in enumerate(model.blocks)]
    nodes = [Head(1, 0), Head(1, 1), MLP(1)]
    try:
        activation_patching(model, pairs, nodes, at="B")  # a model that is met for the first time is checked
        ran.clear()
        activation_patching(model, pairs, nodes, at="B")
    finally:
        for handle in handles:
            handle.remove()
    both = 2 * 2 * 9  # two prompts of nine tokens, clean and corrupted
    # layer 1: two positions of B for three senders; the last layer: END alone
    assert ran == {0: both, 1: both + 3 * 2 * 2, 2: both + 3 * 2 * 1}
