"""Overlap of circuits with nulls that are calibrated; circuits run on other languages; agreement of methods."""

from __future__ import annotations

import numpy as np
import pytest

from babelscope.circuits.comparison.method_agreement import agreements, confirmed, top_k_recall
from babelscope.circuits.comparison.overlap import (
    MEASURES,
    circuit_overlap,
    random_scores,
    relabelled,
    rows,
)
from babelscope.circuits.comparison.transfer import Beside, class_rows, classify, cross_faithfulness, matrix
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver
from babelscope.circuits.edges.circuit import Circuit, greedy_edges
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.errors import InputError
from babelscope.models import Model
from tests.random_pairs import random_pair
from tests.tiny_models import tiny_model, tiny_tokenizer

WIRING = Wiring(layers=3, heads=4, kv_heads=2)


def made(seed, count=30):
    generator = np.random.default_rng(seed)
    return greedy_edges(WIRING, random_scores(WIRING, generator), count)


def circuit_of(*edges, roles=None):
    mask, scores = np.zeros_like(WIRING.allowed), np.zeros(WIRING.allowed.shape)
    for sender, reader, score in edges:
        mask[WIRING.writer(sender), WIRING.reader(reader)] = True
        scores[WIRING.writer(sender), WIRING.reader(reader)] = score
    return Circuit(WIRING, mask, scores, roles or {})


def test_measures_worked_out_by_hand():
    first = circuit_of((EMBEDDING, Receiver("v", 0, 0), -1), (Head(0, 1), FINAL, -3), (MLP(2), FINAL, -4))
    second = circuit_of((Head(0, 1), FINAL, -1), (Head(2, 2), FINAL, -1))
    found = {name: measure(first, second) for name, measure in MEASURES.items()}
    # nodes without the embedding: {0.1, m2} and {0.1, 2.2}
    assert found["node_iou"] == pytest.approx(1 / 3)
    assert found["edge_iou"] == pytest.approx(1 / 4)
    assert found["node_share"] == pytest.approx(1 / 2)
    assert found["edge_share"] == pytest.approx(1 / 3)
    assert found["weighted_jaccard"] == pytest.approx((3 / 8) / (1 / 8 + 1 / 2 + 4 / 8 + 1 / 2))


def test_a_circuit_overlaps_wholly_with_itself():
    circuit = made(0, 12)
    for shared in circuit_overlap(circuit, circuit, permutations=40):
        assert shared.value == pytest.approx(1)
        assert shared.null < 1
        if not shared.measure.startswith("node"):  # heads of these circuits fill their layers
            assert shared.p == pytest.approx(1 / 41)
    table = rows("en", "zh", circuit_overlap(circuit, circuit, permutations=1))
    assert (table[0].language, table[0].language2, table[0].measure) == ("en", "zh", next(iter(MEASURES)))
    assert table[0].value == pytest.approx(1)


def test_renaming_keeps_size_layers_and_connections():
    circuit = made(1)
    for seed in range(5):
        other = relabelled(circuit, np.random.default_rng(seed))
        assert other.size == circuit.size
        assert (other.edges <= WIRING.allowed).all()
        assert other.pruned().size == circuit.pruned().size
        assert sorted(other.scores.ravel()) == sorted(circuit.scores.ravel())
        per_layer = [[sum(node.layer == layer for node in c.heads) for layer in range(3)] for c in (circuit, other)]
        assert per_layer[0] == per_layer[1]
    assert (relabelled(circuit, np.random.default_rng(0)).edges != circuit.edges).any()


def test_nulls_are_calibrated():
    """Where only layers are shared, a tenth of the pairs pass at one in ten, and no more."""
    generator, found = np.random.default_rng(5), []
    for _ in range(60):
        first = made(int(generator.integers(1e9)), 25)
        second = relabelled(made(7, 25), generator)
        found.append(
            {
                one.measure: one.p
                for one in circuit_overlap(first, second, permutations=39, seed=int(generator.integers(1e9)))
            }
        )
    for measure in ("edge_iou", "weighted_jaccard", "score_pearson"):
        p = np.array([one[measure] for one in found])
        assert 0.35 < p.mean() < 0.68, measure
        assert (p <= 0.1).mean() < 0.22, measure


def test_circuits_of_different_models_are_not_compared():
    other = Wiring(2, 4, 2)
    with pytest.raises(InputError, match="different models"):
        circuit_overlap(made(0), Circuit(other, other.allowed, other.allowed * 1.0))


def test_nodes_are_classified_by_role_or_by_what_they_are_joined_to():
    shared, moved = (Head(0, 1), FINAL, -3.0), (Head(1, 0), FINAL, -2.0)
    first = circuit_of(shared, moved, (MLP(0), FINAL, -1.0), (Head(2, 2), FINAL, -1.0), roles={"2.2": "name mover"})
    second = circuit_of(
        shared, (Head(1, 0), Receiver("mlp", 2), 2.0), (MLP(2), FINAL, -1.0), (Head(2, 2), FINAL, -1.0),
        roles={"2.2": "copy suppression"},
    )  # fmt: skip
    found = classify(first, second)
    assert found[Head(0, 1)] == "shared"
    assert found[Head(1, 0)] == "repurposed"
    assert found[Head(2, 2)] == "repurposed"
    assert found[MLP(0)] == "first only"
    assert found[MLP(2)] == "second only"
    told = {row.node: row.class_ for row in class_rows("en", "zh", found)}
    assert told["m0"] == "en only"


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


def test_circuits_run_on_other_languages(llama):
    prompts = {
        "aa": [random_pair(i) for i in range(3)],
        "bb": [random_pair(i, length=7, changed=(1, 4)) for i in range(3)],
    }
    scores = {name: edge_attribution(llama, pairs, "eap-ig", steps=2).scores for name, pairs in prompts.items()}
    wiring = Wiring.of(llama)
    circuits = {name: greedy_edges(wiring, found, 60) for name, found in scores.items()}
    controls = {"aa": greedy_edges(wiring, scores["bb"], 60)}
    found = cross_faithfulness(llama, circuits, prompts, Beside(controls, 2))
    assert [(row.found_in, row.run_on) for row in found] == [
        ("aa", "aa"),
        ("bb", "aa"),
        ("aa", "bb"),
        ("bb", "bb"),
    ]
    for row in found:
        assert row.low - 1e-9 <= row.faithfulness <= row.high + 1e-9
        assert np.isnan(row.control) == (row.found_in == "bb")
        if row.found_in == row.run_on:
            # random weights: a circuit may do worse than the empty one, and then nothing is a share of it
            assert row.share == pytest.approx(1) if row.faithfulness > 0 else np.isnan(row.share)
    assert set(matrix(found)) == {"aa", "bb"}
    again = cross_faithfulness(llama, circuits, prompts, Beside(controls, 2))
    assert found[1].relabelled == again[1].relabelled


def test_the_top_of_a_ranking_is_confirmed_by_patching(llama):
    pairs = [random_pair(i) for i in range(2)]
    found = {"eap": edge_attribution(llama, pairs, "eap"), "eap-ig": edge_attribution(llama, pairs, "eap-ig", steps=4)}
    said, edges = confirmed(llama, pairs, found, top=8)
    assert list(said) == ["eap", "eap-ig", "edge patching"]
    assert 8 <= len(edges) <= 16
    table = agreements(said, k=5, what="edges", language="en")
    assert [(row.method, row.method2) for row in table] == [
        ("eap", "eap-ig"), ("eap", "edge patching"), ("eap-ig", "edge patching"),
    ]  # fmt: skip
    assert table[2].spearman > 0.5
    assert table[0].language == "en"


def test_recall_counts_by_size_whatever_the_sign():
    assert top_k_recall(np.array([1.0, -5, 0]), np.array([0.0, 4, 1]), 1) == 1
    assert top_k_recall(np.array([5.0, 1, 0]), np.array([0.0, 4, 1]), 1) == 0
    assert np.isnan(top_k_recall(np.zeros(0), np.zeros(0), 3))
