"""Circuits: made from scores, pruned, saved and loaded, written for other tools, run under every ablation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import Ablation, reference
from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.faithfulness import BUDGETS, Curve, Scored, completeness, minimality
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver
from babelscope.circuits.edges.circuit import Circuit, greedy_edges, top_edges
from babelscope.circuits.edges.edge_ablation import logit_differences, masked_final, optimal_reference
from babelscope.circuits.edges.faithfulness import EdgeSpace, edge_curve, minimal_size, node_parts, score_circuits
from babelscope.circuits.edges.mib import from_graph, read_graph, to_graph, write_graph
from babelscope.errors import InputError, RunError
from babelscope.models import Model, Site, edit
from babelscope.stats import mean_ends
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer

SMALL = Wiring(layers=2, heads=2, kv_heads=2)
GROUPED = Wiring(layers=2, heads=4, kv_heads=2)


def circuit_of(wiring, *edges):
    mask = np.zeros_like(wiring.allowed)
    scores = np.zeros(wiring.allowed.shape)
    for rank, (sender, reader) in enumerate(edges):
        place = wiring.writer(sender), wiring.reader(reader)
        mask[place], scores[place] = True, rank - 10.0
    return Circuit(wiring, mask, scores)


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


@pytest.fixture(scope="module")
def pairs():
    return random_pairs()


# -- wiring -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wiring", "edges"),
    [
        (Wiring(12, 12, 12), 32491),  # the MIB benchmark's counts of GPT-2 small, Qwen2.5-0.5B and Llama-3.1-8B
        (Wiring(24, 14, 14), 179749),
        (Wiring(32, 32, 32), 1592881),
    ],
)
def test_edges_are_counted_as_elsewhere(wiring, edges):
    assert wiring.allowed.sum() == edges


def test_rows_and_columns_name_the_nodes_they_stand_for():
    for wiring in (SMALL, GROUPED, Wiring(2, 4, 1, parallel=True)):
        assert [wiring.writer(node) for node in wiring.writers] == list(range(len(wiring.writers)))
        assert [wiring.reader(reader) for reader in wiring.readers] == list(range(len(wiring.readers)))
        for node in wiring.writers[1:]:
            columns = [wiring.reader(reader) for reader in wiring.readers_of(node)]
            assert wiring.feeds[:, wiring.writer(node)].nonzero()[0].tolist() == sorted(columns)


def test_in_a_parallel_block_the_mlp_does_not_see_its_own_heads():
    for parallel, seen in ((False, 1 + 4 + 1 + 4), (True, 1 + 4 + 1)):
        wiring = Wiring(2, 4, 4, parallel=parallel)
        assert wiring.allowed[:, wiring.reader(Receiver("mlp", 1))].sum() == seen


# -- making and pruning -----------------------------------------------------------------------------------------------


def test_edges_on_no_path_are_pruned():
    dangling = (Head(0, 1), Receiver("v", 1, 0))  # head 0.1 reads nothing
    unread = (EMBEDDING, Receiver("q", 1, 1))  # head 1.1 is read by nobody
    chain = [(EMBEDDING, Receiver("v", 0, 0)), (Head(0, 0), Receiver("mlp", 1)), (MLP(1), FINAL)]
    found = circuit_of(SMALL, dangling, unread, *chain).pruned()
    assert {(sender, reader) for sender, reader, _ in found.listed()} == set(chain)
    assert found.nodes == (EMBEDDING, Head(0, 0), MLP(1))
    assert circuit_of(SMALL, *chain[:2]).pruned().size == 0


def test_a_key_value_head_leads_on_through_any_query_head_it_serves():
    edges = [(EMBEDDING, Receiver("v", 0, 1)), (Head(0, 3), FINAL)]
    assert circuit_of(GROUPED, *edges).pruned().size == 2
    assert circuit_of(GROUPED, edges[0], (Head(0, 1), FINAL)).pruned().size == 0


def scored(*entries):
    scores = np.zeros(SMALL.allowed.shape)
    for sender, reader, score in entries:
        scores[SMALL.writer(sender), SMALL.reader(reader)] = score
    return scores


def test_greedy_grows_from_the_logits_and_top_takes_the_largest():
    scores = scored(
        (Head(1, 0), FINAL, -1.0),
        (EMBEDDING, Receiver("v", 1, 0), -0.5),
        (EMBEDDING, Receiver("q", 0, 0), -3.0),  # large, but head 0.0 leads nowhere
        (MLP(0), FINAL, 0.8),
    )
    names = [[f"{u}->{r}" for u, r, _ in greedy_edges(SMALL, scores, n, prune=False).listed()] for n in (1, 2, 3)]
    assert names[0] == ["1.0->logits"]
    assert names[1] == ["1.0->logits", "m0->logits"]
    assert names[2] == ["1.0->logits", "m0->logits", "embedding->1.0.v"]
    assert greedy_edges(SMALL, scores, 3).size == 2  # nothing reaches MLP 0
    assert top_edges(SMALL, scores, 3, prune=False).listed()[0][0:2] == (EMBEDDING, Receiver("q", 0, 0))
    assert top_edges(SMALL, scores, 3).size == 0
    signed = top_edges(SMALL, scores, 3, absolute=False, prune=False)
    assert {score for *_, score in signed.listed()} == {-3.0, -1.0, -0.5}


def test_all_edges_make_the_whole_model():
    scores = np.random.default_rng(0).normal(size=SMALL.allowed.shape)
    total = int(SMALL.allowed.sum())
    for build in (greedy_edges, top_edges):
        assert (build(SMALL, scores, total).edges == SMALL.allowed).all()
        assert build(SMALL, scores, 0).size == 0
        with pytest.raises(InputError, match=f"this model has {total}"):
            build(SMALL, scores, total + 1)


# -- files ------------------------------------------------------------------------------------------------------------


def test_saving_and_loading_keeps_everything(tmp_path):
    made = circuit_of(GROUPED, (EMBEDDING, Receiver("k", 1, 0)), (Head(1, 1), FINAL)).with_roles({Head(1, 1): "mover"})
    made.save(tmp_path / "circuits" / "en")
    found = Circuit.load(tmp_path / "circuits" / "en")
    assert found.wiring == GROUPED
    assert (found.edges == made.edges).all()
    assert (found.scores == made.scores).all()
    assert found.roles == {"1.1": "mover"}
    told = json.loads((tmp_path / "circuits" / "en.json").read_text(encoding="utf-8"))
    assert {"node": "1.1", "role": "mover", "score": -9.0} in told["nodes"]
    # key/value head 0 serves heads 0 and 1, of which only 1 writes anything
    assert {edge["receiver"] for edge in told["edges"]} == {"1.1.k", "logits"}


def test_what_is_no_circuit_is_said_in_one_line(tmp_path):
    with pytest.raises(RunError, match="there is no circuit"):
        Circuit.load(tmp_path / "missing")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="holds no circuit"):
        Circuit.load(tmp_path / "bad")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        circuit_of(SMALL).save(tmp_path / "file" / "en")


def test_the_graph_format_of_other_tools_is_read_and_written(tmp_path):
    made = circuit_of(SMALL, (EMBEDDING, Receiver("q", 0, 0)), (Head(0, 0), Receiver("mlp", 1)), (MLP(1), FINAL))
    graph = to_graph(made, width=16)
    assert graph["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 16}
    assert graph["edges"]["input->a0.h0<q>"] == {"score": 10.0, "in_graph": True}
    assert graph["edges"]["a0.h0->m1"] == {"score": 9.0, "in_graph": True}
    assert graph["edges"]["m1->logits"]["in_graph"]
    assert graph["nodes"]["a0.h0"] == {"in_graph": True}
    assert graph["nodes"]["m0"] == {"in_graph": False}
    assert len(graph["edges"]) == SMALL.allowed.sum()
    write_graph(made, tmp_path / "graph.json")
    found = read_graph(tmp_path / "graph.json")
    assert (found.edges == made.edges).all()
    assert (found.scores == made.scores).all()


def test_key_value_heads_are_spread_over_their_queries_and_gathered_again():
    made = circuit_of(GROUPED, (EMBEDDING, Receiver("v", 1, 1)), (Head(1, 3), FINAL))
    graph = to_graph(made)
    assert graph["edges"]["input->a1.h2<v>"] == graph["edges"]["input->a1.h3<v>"] == {"score": 5.0, "in_graph": True}
    assert len(graph["edges"]) == Wiring(2, 4, 4).allowed.sum()
    found = from_graph(graph, GROUPED)
    assert (found.edges == made.edges).all()
    assert np.allclose(found.scores, made.scores)
    assert from_graph(graph).wiring.kv_heads == 4


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda graph: graph.pop("cfg"), "needs the keys"),
        (lambda graph: graph["cfg"].pop("n_heads"), "n_heads"),
        (lambda graph: graph["edges"].update({"m0->m9": {"score": 1, "in_graph": True}}), "2 layers of 2 heads"),
        (lambda graph: graph["edges"].update({"m1->m0": {"score": 1, "in_graph": True}}), "backwards"),
        (lambda graph: graph["edges"].update({"spam": {}}), "names no edge"),
        (lambda graph: graph["edges"].update({"m0->m1": {"score": 1}}), "in_graph"),
        (lambda graph: graph["cfg"].update(n_layers=3), "3 layers of 2 heads; the model has 2 of 2"),
    ],
)
def test_a_broken_graph_is_one_clear_line(change, line, tmp_path):
    graph = to_graph(circuit_of(SMALL))
    change(graph)
    with pytest.raises(InputError, match=line):
        from_graph(graph, SMALL)
    with pytest.raises(InputError, match="is no circuit graph"):
        read_graph(tmp_path / "none.json")


# -- running ----------------------------------------------------------------------------------------------------------


def test_a_head_without_edges_is_an_ablated_head(llama, pairs):
    """Taking out all edges of one head under zero ablation is zeroing its output by a hook."""
    wiring = Wiring.of(llama)
    edges = wiring.allowed.copy()
    edges[wiring.writer(Head(1, 2))] = False
    found = logit_differences(llama, pairs[:2], [edges], reference(llama, pairs, "zero"))[0]

    def silent(value):
        value = value.clone()
        value[:, :, 2] = 0
        return value

    with torch.no_grad(), edit(llama, {Site("z", 1): silent}):
        for pair, score in zip(pairs[:2], found):
            logits = llama.logits(llama.trunk(torch.tensor([pair.clean]))[0, -1])
            assert score == pytest.approx(float(logits[pair.target[0]] - logits[pair.foil[0]]), abs=1e-5)


def test_means_are_of_the_same_template_order_and_position(llama):
    few = [random_pair(item) for item in (0, 2, 4)]  # one template, one order, one length
    wiring = Wiring.of(llama)
    found = logit_differences(llama, few, [wiring.allowed & False], reference(llama, few, Ablation.MEAN))[0]
    with torch.no_grad():
        ids = torch.tensor([pair.corrupted for pair in few])
        from babelscope.circuits.core.cache import run

        recorded = run(llama, ids)
        final = recorded.residual[0].mean(0) + sum(part.mean(0) for part in recorded.mlp.values())
        for layer, z in recorded.z.items():
            final = final + torch.einsum("the,hed->td", z.mean(0), llama.output_weight(layer))
        logits = llama.logits(llama.norm("final")(final[-1]))
    expected = [float(logits[pair.target[0]] - logits[pair.foil[0]]) for pair in few]
    assert np.allclose(found, expected, atol=1e-5)
    with pytest.raises(InputError, match="no mean for template t1"):
        logit_differences(llama, [random_pair(1)], [wiring.allowed], reference(llama, few, "mean"))


def test_optimal_constants_diverge_less_than_means(llama, pairs):
    wiring, few = Wiring.of(llama), pairs[:2]
    edges = wiring.allowed.copy()
    edges[wiring.writer(Head(1, 2))] = edges[wiring.writer(MLP(0))] = False
    losses = [divergence(llama, few, edges, optimal_reference(llama, few, edges, steps)[0]) for steps in (0, 8)]
    assert losses[1] < 0.8 * losses[0]


@torch.no_grad()
def divergence(model, pairs, edges, constants):
    total = 0.0
    for rows in batches(pairs, 500, model.device):
        final = masked_final(model, Wiring.of(model), torch.from_numpy(edges), rows, constants(rows))
        total += float(logit_diff.divergence(model, model.trunk(rows.clean)[:, -1], final[None, :, 0]).sum())
    return total


def test_the_whole_model_is_faithful_and_nothing_is_not(llama, pairs):
    wiring = Wiring.of(llama)
    whole, empty = circuit_of(wiring), circuit_of(wiring)
    whole.edges[:] = wiring.allowed
    found = score_circuits(llama, pairs, [whole, empty])
    assert found.faithfulness() == pytest.approx([1, 0], abs=1e-6)
    interval = found.intervals(draws=50)[0]
    assert np.isnan([interval.low, interval.high]).all()  # one on every draw: no interval of width 0
    assert completeness(EdgeSpace(llama, pairs[:1]), whole.edges, draws=3).gap == pytest.approx(0, abs=1e-6)
    same = [random_pair(0)]
    object.__setattr__(same[0], "corrupted", same[0].clean)
    undefined = score_circuits(llama, same, [whole])
    assert not undefined.defined
    assert np.isnan(undefined.faithfulness()).all()
    assert np.isnan(undefined.intervals()[0].low)


def test_the_areas_of_a_curve():
    one = np.ones(3)
    perfect = Scored(np.ones((10, 3)), 0 * one, one)
    areas = [Curve(area, BUDGETS, tuple(range(10)), perfect).value for area in ("cpr", "cmd")]
    assert areas == pytest.approx([0.999, 0])
    steep = Scored(np.array([0 * one, 3 * one]), 0 * one, one)  # f goes from 0 to 3
    areas = [Curve(area, (0.0, 1.0), (0, 10), steep).value for area in ("cpr", "cmd")]
    assert areas == pytest.approx([1.5, 1.5])  # (0 + 3) / 2 and (1 + 2) / 2
    ramp = Curve("cmd", (0.0, 1.0), (0, 10), Scored(np.array([0 * one, one]), 0 * one, one))
    assert minimal_size(ramp) == 10
    assert minimal_size(ramp, 2.0) is None


def test_the_interval_of_an_area_is_that_of_each_prompts_part_in_it():
    """Prompts of one span: f of a prompt is its own, and the area is the mean of the prompts' areas."""
    own = np.array([0.1, 0.9, 0.4, 0.7, 0.2, 1.0, 0.3])
    scored = Scored(np.array([np.zeros(7), own]), np.zeros(7), np.ones(7))
    curve = Curve("cpr", (0.0, 1.0), (0, 10), scored)
    interval, (low, high) = curve.interval(draws=400), map(float, mean_ends(own / 2, 400))
    assert (interval.value, interval.low, interval.high) == pytest.approx((own.mean() / 2, low, high))
    interval, (low, high) = replace(curve, area="cmd").interval(draws=400), map(float, mean_ends(1 - own / 2, 400))
    assert (interval.value, interval.low, interval.high) == pytest.approx((1 - own.mean() / 2, low, high))
    assert np.isnan(Curve("cpr", (0.0, 1.0), (0, 10), Scored(scored.circuits[:, :1], *np.eye(2)[:, :1])).interval().low)


def test_a_ranking_by_true_scores_gives_a_rising_curve(llama, pairs):
    from babelscope.circuits.edges.eap import edge_attribution

    few = pairs[:2]
    scores = edge_attribution(llama, few, "eap-ig", steps=3).scores
    curve = edge_curve(EdgeSpace(llama, few), scores, "cmd", budgets=(0.01, 0.3, 1.0))
    assert curve.faithfulness[-1] == pytest.approx(1, abs=1e-5)
    assert curve.sizes[0] < curve.sizes[1] < curve.sizes[2]
    assert abs(1 - curve.faithfulness[1]) < abs(1 - curve.faithfulness[0])
    circuit = greedy_edges(Wiring.of(llama), scores, 40)
    changes = minimality(EdgeSpace(llama, few[:1]), circuit.edges, node_parts(circuit))
    assert set(changes) == {str(node) for node in circuit.nodes}


def test_a_circuit_of_another_model_is_refused(llama, pairs):
    with pytest.raises(InputError, match="does not belong"):
        logit_differences(llama, pairs, [SMALL.allowed], reference(llama, pairs))


def test_batches_of_any_size_give_the_same(llama, pairs):
    wiring = Wiring.of(llama)
    edges = wiring.allowed & (np.random.default_rng(0).random(wiring.allowed.shape) < 0.7)
    found = [logit_differences(llama, pairs, [edges], reference(llama, pairs), budget)[0] for budget in (9, 500)]
    assert np.allclose(*found, atol=1e-5)
