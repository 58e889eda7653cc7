"""Edge attribution: exact where the network is linear, complete at the input, the same in any batch; AtP and RelP."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver, heads_of
from babelscope.circuits.edges.atp import attribution_patching, input_effects
from babelscope.circuits.edges.eap import Variant, edge_attribution
from babelscope.circuits.edges.edge_ablation import logit_differences
from babelscope.circuits.edges.relp import relevance_rules
from babelscope.circuits.edges.single_edges import edge_effects
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Model, Site, capture, edit
from babelscope.models.hooks import hook_count
from tests.linear_model import linear_model
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer

SUMMING = [family for family in FAMILIES if family != "opt-350m"]
POST_NORM = ("gemma2", "gemma3", "olmo2")


def tiny(family, **changes):
    return Model(tiny_model(family, **changes), tiny_tokenizer(), id=family)


@pytest.fixture(scope="module")
def pairs():
    return random_pairs()


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


@pytest.fixture(scope="module")
def linear():
    return linear_model()


def test_answers_of_several_tokens_count_as_in_patching(llama, pairs):
    wiring = Wiring.of(llama)
    found = logit_differences(llama, pairs, [wiring.allowed, wiring.allowed & False], reference(llama, pairs))
    effects = activation_patching(llama, pairs, [EMBEDDING])
    assert close(found[0], effects.clean)
    assert close(found[1], effects.corrupted)


@pytest.fixture(scope="module", params=SUMMING)
def model(request):
    return tiny(request.param)


def close(found, expected, tolerance=1e-5):
    return np.allclose(found, expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


def test_the_full_circuit_is_the_model_and_the_empty_one_the_corrupted_run(model, pairs):
    few, wiring = pairs[:1], Wiring.of(model)
    found = logit_differences(model, few, [wiring.allowed, wiring.allowed & False], reference(model, few))
    effects = activation_patching(model, few, [EMBEDDING])
    assert close(found[0], effects.clean)
    assert close(found[1], effects.corrupted)


def test_an_edge_left_out_is_a_path_patched_with_all_else_frozen(model, pairs):
    if model.family.name in POST_NORM:
        pytest.skip("behind a post-norm a head's part is taken with the norm held, a patch moves the norm")
    few, wiring = [pairs[1]], Wiring.of(model)
    senders = [Head(0, 1), MLP(0)]
    readers = [FINAL, Receiver("q", 1, 3), Receiver("k", 2, 0), Receiver("mlp", 1)]
    edges = [(wiring.writer(sender), wiring.reader(reader)) for reader in readers for sender in senders]
    found = edge_effects(model, few, edges, reference(model, few))[:, 0].reshape(len(readers), -1)
    for reader, mine in zip(readers, found):
        patched = path_patching(model, few, [reader], senders, at=None, mlps="frozen")
        assert close(mine, patched.differences[:, 0]), reader


def test_the_edges_out_of_a_node_sum_to_its_attribution(model, pairs):
    edges = edge_attribution(model, pairs[:1], "eap")
    nodes = attribution_patching(model, pairs[:1], qk_fix=False)
    assert close(edges.writers[0], nodes.embedding, 1e-4)
    assert close(edges.mlps, nodes.mlps, 1e-4)
    if model.family.name not in POST_NORM:
        assert close(edges.heads, nodes.heads, 1e-4)


def test_attribution_is_exact_on_a_linear_network(linear, pairs):
    few, wiring = [pairs[0], pairs[1]], Wiring.of(linear)
    edges = [(int(u), int(r)) for u, r in zip(*np.nonzero(wiring.allowed))][::4]
    true = edge_effects(linear, few, edges, reference(linear, few)).mean(1)
    for method in ("eap", "eap-ig", "relp"):
        found = edge_attribution(linear, few, method, steps=1).scores
        assert np.allclose([found[edge] for edge in edges], true, atol=1e-6), method


def test_edge_effects_worked_out_by_hand():
    """One linear layer with uniform attention: each edge's effect is a product of the weights on its way."""
    model, pair = linear_model(layers=1), random_pair(0)
    model.hf.requires_grad_(False)
    wiring, block = Wiring.of(model), model.hf.transformer.h[0]
    clean, corrupted = (_embedded(model, ids) for ids in (pair.clean, pair.corrupted))
    change = corrupted - clean
    answer = (model.unembedding[pair.target[0]] - model.unembedding[pair.foil[0]]).detach()
    mean = change.mean(0)  # END attends to all positions alike

    def head(node):
        return mean @ model.projection_weight("v", 0)[node].T @ model.output_weight(0)[node]

    mlp = block.mlp.c_fc.weight @ block.mlp.c_proj.weight
    expected = {
        (EMBEDDING, FINAL): change[-1] @ answer,
        (EMBEDDING, Receiver("v", 0, 2)): (head(2) + head(2) @ mlp) @ answer,
        (EMBEDDING, Receiver("mlp", 0)): change[-1] @ mlp @ answer,
        (EMBEDDING, Receiver("q", 0, 1)): torch.tensor(0.0),
        (Head(0, 1), FINAL): head(1) @ answer,
        (Head(0, 3), Receiver("mlp", 0)): head(3) @ mlp @ answer,
        (MLP(0), FINAL): (change[-1] + sum(head(h) for h in range(4))) @ mlp @ answer,
    }
    places = [(wiring.writer(sender), wiring.reader(reader)) for sender, reader in expected]
    by_hand = [float(value) for value in expected.values()]
    assert np.allclose(edge_effects(model, [pair], places, reference(model, [pair]))[:, 0], by_hand, atol=1e-6)
    scores = edge_attribution(model, [pair], "eap").scores
    assert np.allclose([scores[place] for place in places], by_hand, atol=1e-6)


@torch.no_grad()
def _embedded(model, ids):
    with capture(model, [Site("residual", 0)]) as seen:
        model.trunk(torch.tensor([ids]))
    return seen[Site("residual", 0)][0]


def test_integrated_gradients_are_complete_at_the_input(pairs):
    model = tiny("llama", dtype=torch.float64)
    few = pairs[:1]
    span = activation_patching(model, few, [EMBEDDING])
    total = float((span.corrupted - span.clean).mean())
    errors = {
        (rule, steps): abs(edge_attribution(model, few, "eap-ig", steps, variant=Variant(rule)).writers[0] - total)
        for rule, steps in (("midpoint", 2), ("midpoint", 12), ("left", 12))
    }
    assert errors["midpoint", 12] < 1e-3 * max(1, abs(total))
    assert errors["midpoint", 12] < errors["midpoint", 2]
    assert errors["midpoint", 12] < errors["left", 12] < 0.1


def test_batch_size_changes_no_score(llama, pairs):
    for method in ("eap", "relp"):
        whole = edge_attribution(llama, pairs, method).scores
        assert np.allclose(whole, edge_attribution(llama, pairs, method, budget=9).scores, atol=1e-6), method
    one, many = (attribution_patching(llama, pairs, budget=budget) for budget in (9, 500))
    assert np.allclose(one.queries, many.queries, atol=1e-6)
    assert np.allclose(one.heads, many.heads, atol=1e-6)


def test_a_mean_over_pairs_is_the_mean_of_the_pairs(llama, pairs):
    alone = [edge_attribution(llama, [pair], "eap").scores for pair in pairs]
    assert np.allclose(np.mean(alone, axis=0), edge_attribution(llama, pairs, "eap").scores, atol=1e-6)


def test_tokens_are_taken_in_chunks_with_the_same_sums(llama, pairs, monkeypatch):
    pairs = pairs[:2]
    whole = edge_attribution(llama, pairs, "eap").scores
    monkeypatch.setattr("babelscope.circuits.edges.eap.ELEMENTS", {"cpu": 12000})
    assert np.allclose(whole, edge_attribution(llama, pairs, "eap").scores, atol=1e-6)


def test_the_fix_gives_the_true_effect_of_queries_and_keys_where_all_else_is_linear():
    model, pair = linear_model(layers=1, softmax=True), random_pair(0, changed=(8, 3))
    found = attribution_patching(model, [pair])
    for kind, scores in (("q", found.queries), ("k", found.keys)):
        for head in range(model.heads):
            assert _patched(model, pair, kind, head) == pytest.approx(scores[0, head], abs=1e-9)
    plain = attribution_patching(model, [pair], qk_fix=False)
    assert np.allclose(plain.values, found.values)
    assert not np.allclose(plain.queries, found.queries, atol=1e-4)


@torch.no_grad()
def _patched(model, pair, kind, head):
    site, ids = Site(kind, 0), torch.tensor([pair.clean])
    with capture(model, [site]) as seen:
        model.trunk(torch.tensor([pair.corrupted]))

    def put(value):
        value = value.clone()
        value[:, :, head] = seen[site][:, :, head]
        return value

    def score():
        logits = model.logits(model.trunk(ids)[0, -1])
        return float(logits[pair.target[0]] - logits[pair.foil[0]])

    before = score()
    with edit(model, {site: put}):
        return score() - before


@pytest.mark.parametrize("family", ["llama", "gpt2", "apertus", "cohere", "gemma3"])
def test_relevance_rules_change_no_value_and_are_gone_afterwards(family):
    model, ids = tiny(family), torch.arange(4, 13)[None]
    hooks, before = hook_count(model.hf), model.trunk(ids)
    with relevance_rules(model):
        assert torch.allclose(model.trunk(ids), before, atol=1e-5)
    assert hook_count(model.hf) == hooks
    assert not [module for module in model.hf.modules() if "forward" in module.__dict__]


def test_with_patterns_held_no_edge_into_queries_or_keys_counts(llama, pairs):
    wiring = Wiring.of(llama)
    columns = [wiring.reader(reader) for reader in wiring.readers if reader.kind in ("q", "k")]
    assert not edge_attribution(llama, pairs[:1], "relp").scores[:, columns].any()
    assert edge_attribution(llama, pairs[:1], "relp", variant=Variant(frozen_patterns=False)).scores[:, columns].any()


def test_integrated_gradients_come_nearer_to_the_truth_than_one_gradient(llama, pairs):
    edges = edge_attribution(llama, pairs, "eap-ig", steps=8)
    strongest = edges.strongest(12)
    true = edge_effects(llama, pairs, strongest, reference(llama, pairs)).mean(1)
    once = edge_attribution(llama, pairs, "eap").scores
    errors = [np.abs([scores[edge] for edge in strongest] - true).mean() for scores in (edges.scores, once)]
    assert errors[0] < errors[1]
    assert len(strongest) == 12
    assert edges.heads.shape == (3, 4)
    assert edges.settings["ablation"] == "resample"


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_other_ablations_are_the_same_thing_as_in_the_circuit(pairs, ablation):
    model, pairs = linear_model(), pairs[:3]  # answers of one token: log-probabilities of several are not linear
    other = reference(model, pairs, ablation)
    scores = edge_attribution(model, pairs, "eap", ablation=ablation).scores
    wiring = Wiring.of(model)
    edges = [(wiring.writer(Head(0, 1)), wiring.reader(Receiver("v", 1, 0))), (0, wiring.reader(FINAL))]
    assert np.allclose([scores[edge] for edge in edges], edge_effects(model, pairs, edges, other).mean(1), atol=1e-6)


def test_half_precision_gives_nearly_the_same(llama, pairs):
    half = tiny("llama")
    half.hf.to(torch.bfloat16)
    found = [edge_attribution(model, pairs, "eap").scores for model in (llama, half)]
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.95
    assert np.isfinite(
        logit_differences(half, pairs[:1], [Wiring.of(half).allowed], reference(half, pairs, "zero"))
    ).all()


def test_the_model_is_left_as_it_was(llama, pairs):
    hooks, kernel = hook_count(llama.hf), llama.config._attn_implementation
    edge_attribution(llama, pairs[:1], "eap-ig", steps=1)
    attribution_patching(llama, pairs[:1])
    assert hook_count(llama.hf) == hooks
    assert llama.config._attn_implementation == kernel
    assert all(parameter.grad is None for parameter in llama.hf.parameters())


def test_what_is_followed_adds_up_to_its_change_from_clean_to_corrupted(llama, pairs):
    """Integrated gradients are complete: edges out of the embedding add up to log p, or −KL, of x′ less that of x."""
    single = [pair for pair in pairs if len(pair.target) == len(pair.foil) == 1]
    several = [pair for pair in pairs if len(pair.target) > 1][:1]

    def plain(ids, answer):
        row = torch.tensor([[*ids, *answer[:-1]]])
        return llama.hf(input_ids=row).logits[0, -len(answer) :].float().log_softmax(-1)

    with torch.no_grad():
        wanted = {"loss": 0.0, "kl": 0.0}
        for pair in [*single, *several]:
            before, after = (plain(ids, pair.target) for ids in (pair.clean, pair.corrupted))
            target = torch.tensor(pair.target)[:, None]
            wanted["loss"] += float((after - before).gather(1, target).sum())
            wanted["kl"] -= float((before[0].exp() * (before[0] - after[0])).sum())
    for slope, change in wanted.items():
        found = edge_attribution(llama, [*single, *several], steps=16, variant=Variant(slope=slope))
        count = len(single) + len(several)
        assert found.writers[0] == pytest.approx(change / count, rel=0.02, abs=1e-4), slope
        assert found.settings["slope"] == slope
    eap = edge_attribution(llama, single, "eap", variant=Variant(slope="loss"))
    assert np.abs(eap.scores).max() > 0


def test_the_fix_for_queries_and_keys_is_nearer_to_patching_them(llama, pairs):
    fixed, plain = (attribution_patching(llama, pairs, qk_fix=fix) for fix in (True, False))
    for kind, name, heads in (("q", "queries", llama.heads), ("k", "keys", llama.kv_heads)):
        nodes = [(layer, head) for layer in range(llama.layers) for head in range(heads)]
        true = input_effects(llama, pairs, kind, nodes)
        errors = [np.abs(getattr(found, name).ravel() - true).mean() for found in (fixed, plain)]
        assert errors[0] < errors[1] + 1e-6
    # by hand: the first pair alone, one head's queries from the corrupted prompt
    pair = next(one for one in pairs if len(one.target) == len(one.foil) == 1)
    with torch.no_grad(), capture(llama, [Site("q", 1)]) as seen:
        llama.trunk(torch.tensor([pair.corrupted]))
    other = seen[Site("q", 1)].clone()

    def put(value):
        mixed = value.clone()
        mixed[:, :, 2] = other[:, :, 2]
        return mixed

    with torch.no_grad():
        base = llama.hf(input_ids=torch.tensor([pair.clean])).logits[0, -1]
        with edit(llama, {Site("q", 1): put}):
            moved = llama.hf(input_ids=torch.tensor([pair.clean])).logits[0, -1]
    change = (moved - base)[pair.target[0]] - (moved - base)[pair.foil[0]]
    assert input_effects(llama, [pair], "q", [(1, 2)])[0] == pytest.approx(float(change), abs=1e-5)


def test_bad_input_is_one_clear_line(llama, pairs):
    with pytest.raises(InputError, match="no attribution method 'acdc'"):
        edge_attribution(llama, pairs, "acdc")
    with pytest.raises(InputError, match="has no slope there"):
        edge_attribution(llama, pairs, "eap", variant=Variant(slope="kl"))
    with pytest.raises(InputError, match="follows ld, loss, kl, not 'accuracy'"):
        edge_attribution(llama, pairs, variant=Variant(slope="accuracy"))
    with pytest.raises(InputError, match="1 or more steps"):
        edge_attribution(llama, pairs, steps=0)
    with pytest.raises(InputError, match="no ablation 'none'"):
        edge_attribution(llama, pairs, ablation="none")
    with pytest.raises(UnsupportedModel, match="writes miss the final residual"):
        edge_attribution(tiny("opt-350m"), pairs)
    with pytest.raises(InputError, match="belongs to a circuit"):
        edge_attribution(llama, pairs, ablation="optimal")
    assert heads_of(llama)[0] == Head(0, 0)


@pytest.mark.parametrize(("kind", "family"), [*(("resample", family) for family in SUMMING), ("mean", "bloom")])
def test_a_single_edge_resumed_at_its_reader_is_the_masked_pass_without_it(kind, family):
    model = tiny(family)
    pairs, wiring = random_pairs(), Wiring.of(model)
    generator = np.random.default_rng(SUMMING.index(family))  # other edges in every family
    edges = [(int(r), int(c)) for r, c in generator.permutation(np.argwhere(wiring.allowed))[:8]]
    other = reference(model, pairs, kind)
    masks = [wiring.allowed]
    for row, column in edges:
        masks.append(wiring.allowed.copy())
        masks[-1][row, column] = False
    plain = logit_differences(model, pairs, masks, other)
    for budget in (None, 1):
        found = edge_effects(model, pairs, edges, other, budget)
        assert found == pytest.approx(plain[1:] - plain[0], abs=3e-4)
