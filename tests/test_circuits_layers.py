"""Circuits where layers hold other things than heads and an MLP: linear mixers, keys out of latents, gates, experts."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.circuits import attributions
from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.metrics import behaviour
from babelscope.circuits.core.metrics import logit_differences as model_differences
from babelscope.circuits.core.nodes import (
    EMBEDDING,
    FINAL,
    MLP,
    Head,
    Mixer,
    Receiver,
    check_nodes,
    heads_of,
    mixers_of,
    mlps_of,
    parse_node,
    reader_counts,
    receivers,
)
from babelscope.circuits.edges.atp import attribution_patching
from babelscope.circuits.edges.circuit import Circuit, greedy_edges
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.circuits.edges.edge_ablation import logit_differences
from babelscope.circuits.edges.mib import to_graph
from babelscope.circuits.edges.single_edges import edge_effects
from babelscope.circuits.heads.ablation import ablated_differences
from babelscope.circuits.heads.patterns import attention_patterns
from babelscope.circuits.heads.routes import flow_routes
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Model, Site, capture, edit, require
from babelscope.models.families import find
from tests import reference as loops
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import LAYERED, tiny_model, tiny_tokenizer

HYBRID = ("qwen3_5", "lfm2", "lfm3", "falcon_h1", "jamba", "bailing_hybrid")
KEPT: dict[str, Model] = {}


def tiny(family: str) -> Model:
    if family not in KEPT:
        KEPT[family] = Model(tiny_model(family), tiny_tokenizer(), id=family)
    return KEPT[family]


@pytest.fixture(params=LAYERED)
def model(request):
    return tiny(request.param)


def senders(model):
    """One of each kind, early and late."""
    first, last = model.attention_layers[0], model.attention_layers[-1]
    mixers = mixers_of(model)
    nodes = [Head(first, 1), Head(last, 0), *mixers[:1], *mixers[-1:], MLP(model.neuron_layers[0])]
    return list(dict.fromkeys(nodes))


def close(found, expected, tolerance=2e-5):
    return np.allclose(found, expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


def test_the_gate_lets_it_in_with_every_check(model):
    require(model, "circuits")


def test_activation_patching_equals_the_plain_loop(model):
    pair, nodes = random_pairs()[0], senders(model)
    found = activation_patching(model, [pair], nodes, at="B").patched[:, 0]
    assert close(found, [loops.naive_activation_patching(model, pair, node, "B") for node in nodes])


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_path_patching_to_the_logits_equals_the_plain_loop(model, mlps):
    pair, nodes = random_pairs()[3], senders(model)
    found = path_patching(model, [pair], senders=nodes, mlps=mlps).patched[:, 0]
    assert close(found, [loops.naive_path_patching(model, pair, node, [FINAL], "END", mlps) for node in nodes])


def test_path_patching_into_every_kind_of_reader_equals_the_plain_loop(model):
    pair, layer = random_pairs()[1], model.attention_layers[-1]
    nodes = [node for node in senders(model) if node.layer < layer] or [EMBEDDING]
    into = [Receiver(kind, layer, 0) for kind in reader_counts(model)] + [Receiver("mlp", model.neuron_layers[-1])]
    for receiver in into:
        found = path_patching(model, [pair], [receiver], nodes, at="B").patched[:, 0]
        expected = [loops.naive_path_patching(model, pair, node, [receiver], "B") for node in nodes]
        assert close(found, expected), receiver


def test_attributions_of_all_nodes_add_up_to_the_logits(model):
    ids = torch.arange(5, 16)[None]
    words = torch.tensor([7, 20, 33])
    nodes, parts, constant = attributions(model, run(model, ids), words)
    assert nodes == list(Wiring.of(model).writers)
    logits = model.hf(ids).logits[0, -1, words].detach()
    if model.soft_cap is not None:  # attributions are of the logit before it
        logits = (logits / model.soft_cap).atanh() * model.soft_cap
    assert close((parts.sum(0) + constant)[0].detach().numpy(), logits.numpy())


def test_the_full_circuit_is_the_model_and_the_empty_one_the_corrupted_run(model):
    few, wiring = random_pairs()[:1], Wiring.of(model)
    found = logit_differences(model, few, [wiring.allowed, wiring.allowed & False], reference(model, few))
    assert close(found[0], model_differences(model, few))
    assert close(found[1], model_differences(model, few, "corrupted"))
    assert wiring.edges == int(wiring.allowed.sum())


@pytest.mark.parametrize("family", [*HYBRID, "deepseek_v3", "laguna"])
def test_an_edge_left_out_is_a_path_patched_with_all_else_frozen(family):
    model = tiny(family)
    few, wiring, layer = [random_pairs()[1]], Wiring.of(model), model.attention_layers[-1]
    behind = model.family.post_norms
    nodes = [node for node in senders(model) if not (behind and isinstance(node, Head)) and node.layer < layer]
    readers = [FINAL, *(Receiver(kind, layer, 0) for kind in reader_counts(model)), Receiver("mlp", layer)]
    edges = [(wiring.writer(node), wiring.reader(reader)) for reader in readers for node in nodes]
    found = edge_effects(model, few, edges, reference(model, few))[:, 0].reshape(len(readers), -1)
    for reader, mine in zip(readers, found):
        patched = path_patching(model, few, [reader], nodes, at=None, mlps="frozen")
        assert close(mine, patched.differences[:, 0]), reader


def test_the_edges_out_of_a_node_sum_to_its_attribution(model):
    few = random_pairs()[:1]
    edges, nodes = edge_attribution(model, few, "eap"), attribution_patching(model, few, qk_fix=False)
    wiring = edges.wiring
    if not model.mixer_layers:  # a mixer has no readers, so what passes through it is no edge
        assert close(edges.writers[0], nodes.embedding, 1e-4)
        assert close(edges.mlps, nodes.mlps, 1e-4)
        if not model.family.post_norms:
            assert close(edges.heads, nodes.heads, 1e-4)
    assert list(np.isfinite(nodes.mixers).nonzero()[0]) == list(model.mixer_layers)
    last = model.mixer_layers[-1:]
    if last and last[0] > model.attention_layers[-1]:
        assert close(edges.writers[wiring.writer(Mixer(last[0]))], nodes.mixers[last[0]], 1e-4)


def test_resampling_everything_gives_the_corrupted_run(model):
    """The prompts end in the same token, so at END nothing of the clean run is left."""
    pairs = [random_pair(item, changed=(1, 4)) for item in range(2)]
    nodes = [*heads_of(model), *mixers_of(model), *mlps_of(model)]
    everything = ablated_differences(model, pairs, [nodes], "resample")[0]
    assert close(everything, model_differences(model, pairs, "corrupted"))


@pytest.mark.parametrize("family", HYBRID)
def test_a_mixer_taken_out_by_hook_is_one_whose_weights_are_zero(family):
    model = tiny(family)
    layer, ids = model.mixer_layers[-1], torch.arange(5, 14)[None]
    with torch.no_grad(), edit(model, {Site("state_write", layer): torch.zeros_like}):
        hooked = model.trunk(ids)
    other = copy.deepcopy(model.hf)
    module = find(Model(other, None, id="copy").blocks[layer], model.family.state_output)
    with torch.no_grad():
        module.weight.zero_()
        if module.bias is not None:
            module.bias.zero_()
        weighted = Model(other, None, id="copy").trunk(ids)
    assert torch.allclose(hooked, weighted, atol=1e-5)
    assert not torch.allclose(hooked, model.trunk(ids), atol=1e-2)


@pytest.mark.parametrize("family", ["deepseek_v3", "minicpm3", "bailing_hybrid"])
def test_patching_a_pattern_takes_the_shared_key_with_it(family):
    model, few = tiny(family), random_pairs()[:1]
    layer = model.attention_layers[-1]
    head, kinds = Head(layer, 1), ("q", "k", "shared_key")
    found = activation_patching(model, few, [head], what="pattern").patched[0]
    ids, other = torch.tensor([few[0].clean]), torch.tensor([few[0].corrupted])
    with torch.no_grad(), capture(model, [Site(kind, layer) for kind in kinds]) as source:
        model.trunk(other)
    with capture(model, [Site("z", layer)]) as mixed, torch.no_grad():
        with edit(model, {site: lambda _, value=value: value for site, value in source.items()}):
            model.trunk(ids)

    def change(z):
        z = z.clone()
        z[:, :, head.head] = mixed[Site("z", layer)][:, :, head.head]
        return z

    with torch.no_grad(), edit(model, {Site("z", layer): change}):
        logits = model.hf(ids).logits[0, -1]
    assert close(found, [float(logits[few[0].target[0]] - logits[few[0].foil[0]])])
    assert Receiver("shared_key", layer, 0) in receivers(model, [head], "k")


def test_a_circuit_of_layers_of_several_kinds_is_written_and_read(tmp_path):
    for family in ("falcon_h1", "bailing_hybrid"):
        wiring = Wiring.of(tiny(family))
        scores = np.random.default_rng(0).normal(size=wiring.allowed.shape) * wiring.allowed
        circuit = greedy_edges(wiring, scores, 60)
        assert any(isinstance(node, Mixer) for node in circuit.nodes)
        circuit.save(tmp_path / family)
        again = Circuit.load(tmp_path / family)
        assert again.wiring == wiring
        assert np.array_equal(again.edges, circuit.edges)
        with pytest.raises(InputError, match="no linear mixers"):
            to_graph(circuit)


def test_patterns_are_those_of_layers_with_heads():
    model, ids = tiny("qwen3_5"), torch.arange(5, 14)[None]
    found = attention_patterns(model, ids)
    assert list(found) == [1]
    assert torch.allclose(found[1].sum(-1), torch.ones(1, 4, 9), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "what", "told"),
    [
        ("qwen3_5", lambda m: flow_routes(m, random_pairs()[:1]), "layer 0 of qwen3_5 has a linear mixer"),
        ("laguna", lambda m: flow_routes(m, random_pairs()[:1]), "multiplied by gates in layer 0"),
        ("qwen3_5", lambda m: edge_attribution(m, random_pairs()[:1], "relp"), "layer 0 has a linear mixer"),
        ("afmoe", lambda m: edge_attribution(m, random_pairs()[:1], "relp"), "heads are gated in layer 0"),
        ("qwen3_5", lambda m: check_nodes(m, [Head(0, 1)]), r"0\.1: layer 0 of qwen3_5 has not heads: layers 1 have"),
        ("qwen3_5", lambda m: check_nodes(m, [Mixer(1)]), "s1: layer 1 of qwen3_5 has not a linear mixer: layers 0, 2"),
        ("qwen3_5", lambda m: m.locate(Site("z", 0)), r"no heads \(Qwen3_5GatedDeltaNet\): z exists in layers 1"),
        ("lfm2", lambda m: m.locate(Site("shared_key", 1)), "the attention of lfm2 has no shared_key"),
        ("mbart", lambda m: check_nodes(m, [Mixer(0)]), "no layer has"),
    ],
)
def test_what_is_not_defined_there_is_one_line_with_layer_and_reason(family, what, told):
    with pytest.raises((UnsupportedModel, InputError), match=told) as caught:
        what(tiny(family))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "what", [path_patching, activation_patching, edge_attribution, flow_routes, behaviour, model_differences]
)
def test_prompts_longer_than_the_context_are_one_line(what):
    model = Model(tiny_model("gpt2", n_positions=12), tiny_tokenizer(), id="short")
    with pytest.raises(InputError, match="a prompt with its answer has 13 tokens; short has learned 12 positions"):
        what(model, [random_pair(0, length=13)])


def test_mixers_are_named():
    assert parse_node("s3") == Mixer(3)
    assert str(Mixer(3)) == "s3"


@pytest.mark.parametrize(
    ("family", "wrong", "told"),
    [
        ("qwen3_5", dict(head_gates=""), "makes 16 rows, not 2 heads"),
        ("lfm3", dict(state_write="conv.out_proj"), "embedding \\+ writes miss"),
        ("deepseek_v3", dict(key_latent=("self_attn.kv_a_proj_with_mqa", "input_layernorm")), "cannot run|misses q, k"),
        ("falcon_h1", dict(mlp_norm="input_layernorm"), "norms of the stream miss"),
    ],
)
def test_a_wrong_row_of_theirs_is_refused(family, wrong, told):
    own = tiny(family)
    model = Model(own.hf, own.tokenizer, id=family, family=replace(own.family, **wrong))
    with pytest.raises(UnsupportedModel, match=told):
        require(model, "circuits")
