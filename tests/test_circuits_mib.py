"""CPR and CMD as the MIB benchmark takes them: plain loops over its grid, on a grouped-query model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.faithfulness import BUDGETS
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import FINAL, MLP, Head
from babelscope.circuits.edges.circuit import Circuit, sized_circuit
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.circuits.edges.edge_ablation import logit_differences
from babelscope.circuits.edges.faithfulness import EdgeSpace, edge_curve
from babelscope.circuits.edges.mib import from_graph, read_graph, to_graph
from babelscope.circuits.edges.ungrouping import ungrouped
from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Model
from tests.random_pairs import random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def grouped():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


def test_written_out_for_every_query_head_a_model_computes_the_same(grouped):
    wide = ungrouped(grouped)
    assert (grouped.kv_heads, wide.kv_heads) == (2, 4)
    ids = torch.arange(4, 22).reshape(2, 9)
    with torch.no_grad():
        assert torch.allclose(wide.hf(ids).logits, grouped.hf(ids).logits, atol=1e-5)
    assert Wiring.of(wide).edges == Wiring(3, 4, 4).edges  # MIB's count
    assert ungrouped(wide) is wide
    assert grouped.kv_heads == 2
    assert wide.blocks[0].mlp.gate_proj.weight is grouped.blocks[0].mlp.gate_proj.weight


def test_edges_by_query_head_add_up_to_native_ones(grouped):
    pairs = random_pairs()[:2]
    native, wide = (edge_attribution(m, pairs, "eap-ig", steps=2).scores for m in (grouped, ungrouped(grouped)))
    n, w = Wiring.of(grouped), Wiring.of(ungrouped(grouped))
    for layer in range(3):
        for kind in (1, 2):  # keys, values
            one, other = (wiring.reader(wiring.first_readers(layer)[kind]) for wiring in (n, w))
            summed = wide[:, other : other + 4].reshape(len(wide), 2, 2).sum(-1)
            assert np.allclose(native[:, one : one + 2], summed, atol=1e-6)


def mib_loop(model, pairs, scores, absolute):
    """The benchmark's evaluation: at each share the top n edges, nodes on no path taken away, f; then trapezoids."""
    wiring = Wiring.of(model)
    rows, columns = np.nonzero(wiring.allowed)
    ranks = np.abs(scores[rows, columns]) if absolute else -scores[rows, columns]
    order = np.argsort(-ranks, kind="stable")
    total, f = len(rows), []
    other = reference(model, pairs, "resample")

    def mean_of(edges):
        return logit_differences(model, pairs, [edges], other)[0].mean()

    whole, empty = mean_of(wiring.allowed), mean_of(wiring.allowed & False)
    for share in BUDGETS:
        edges = np.zeros_like(wiring.allowed)
        edges[rows[order[: int(share * total)]], columns[order[: int(share * total)]]] = True
        changed = True
        while changed:  # a node without an edge in, or without an edge out, loses all its edges
            before = edges.sum()
            for place in range(1, len(wiring.writers)):
                own = wiring.feeds[:, place]
                if not edges[:, own].any() or not edges[place].any():
                    edges[place] = False
                    edges[:, own] = False
            changed = edges.sum() != before
        f.append((mean_of(edges) - empty) / (whole - empty))
    area = 0.0
    for place in range(len(BUDGETS) - 1):
        pair = [abs(1 - f[k]) if absolute else f[k] for k in (place, place + 1)]
        area += (BUDGETS[place + 1] - BUDGETS[place]) * sum(pair) / 2
    return area


def test_cpr_and_cmd_are_those_of_the_benchmark_on_a_grouped_model(grouped):
    wide, pairs = ungrouped(grouped), random_pairs()[:3]
    scores = edge_attribution(wide, pairs, "eap-ig", steps=2).scores
    space = EdgeSpace(wide, pairs)
    for area in ("cpr", "cmd"):
        found = edge_curve(space, scores, area, "top")
        assert found.value == pytest.approx(mib_loop(wide, pairs, scores, area == "cmd"), abs=1e-3)


def test_a_model_whose_keys_and_values_are_one_matrix_is_refused():
    with pytest.raises(UnsupportedModel, match="edges=native"):
        ungrouped(Model(tiny_model("falcon-40b"), tiny_tokenizer(), id="falcon"))


def test_edges_are_counted_without_listing_them():
    for wiring in (Wiring(3, 4, 2), Wiring(2, 4, 4, parallel=True), Wiring(1, 1, 1)):
        assert wiring.edges == wiring.allowed.sum()


def test_random_circuits_have_the_edges_that_are_asked_for_all_on_paths():
    from babelscope.circuits.comparison.overlap import random_circuit

    wiring = Wiring(4, 6, 6)
    for seed in range(5):
        for construction in ("greedy", "top"):
            made = random_circuit(wiring, 100, np.random.default_rng(seed), construction)
            # strongest edges anywhere join up in steps: the nearest size is kept, and said
            assert 95 <= made.size <= (105 if construction == "greedy" else 110)
            assert (wiring.pruned(made.edges) == made.edges).all()
    assert sized_circuit(wiring, np.where(wiring.allowed, -1.0, 0.0), wiring.edges).size == wiring.edges


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda graph: graph["edges"]["m0->m1"].update(score=float("nan")), "no score"),
        (lambda graph: graph["edges"]["m0->m1"].update(score=float("inf")), "no score"),
        (lambda graph: graph["edges"]["m0->m1"].update(score="1"), "no score"),
        (lambda graph: graph["edges"]["m0->m1"].update(in_graph="false"), "neither true nor false"),
        (lambda graph: graph["cfg"].update(parallel_attn_mlp="no"), "neither true nor false"),
        (lambda graph: graph["nodes"]["m0"].update(neurons=[True, False]), "mask of neurons"),
        (lambda graph: graph["cfg"].update(n_layers=100, n_heads=100), "sizes of a model|edges, and"),
        (lambda graph: graph["cfg"].update(n_layers=10**6), "sizes of a model"),
    ],
)
def test_a_graph_that_says_what_cannot_be_is_refused(change, line):
    wiring = Wiring(2, 2, 2)
    mask = np.zeros_like(wiring.allowed)
    mask[wiring.writer(MLP(0)), wiring.reader(FINAL)] = True
    graph = to_graph(Circuit(wiring, mask, mask * -1.0).with_roles({Head(0, 0): "x"}))
    change(graph)
    with pytest.raises(InputError, match=line):
        from_graph(graph)


def test_a_file_nested_too_deeply_and_a_pickle_are_refused(tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(InputError, match="nested"):
        read_graph(deep)
    (tmp_path / "graph.pt").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match="pickle"):
        read_graph(tmp_path / "graph.pt")
    (tmp_path / "bad.json").write_text(json.dumps({"cfg": {}, "edges": {}}))
    with pytest.raises(InputError, match="not a circuit graph"):
        read_graph(tmp_path / "bad.json")


def test_graphs_come_and_go_from_the_command_line(tmp_path, capsys):
    from babelscope.cli import main

    wiring = Wiring(2, 2, 2)
    mask = np.zeros_like(wiring.allowed)
    mask[wiring.writer(MLP(0)), wiring.reader(FINAL)] = True
    Circuit(wiring, mask, mask * -1.0).save(tmp_path / "en")

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main(["circuits", *map(str, words)])
        return left.value.code

    assert run("export", tmp_path / "en.safetensors", "--out", tmp_path / "graph.json") in (0, None)
    assert run("import", tmp_path / "graph.json", "--out", tmp_path / "again") in (0, None)
    again = Circuit.load(tmp_path / "again")
    assert (again.edges == mask).all()
    assert (again.scores == -1.0 * mask).all()
    assert run("import", tmp_path / "graph.json", "--out", tmp_path / "again") == 2
