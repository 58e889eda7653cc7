"""Circuits that were put into models by hand, found again by routes and by attribution of edges."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from babelscope.circuits.comparison.transfer import classify
from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver
from babelscope.circuits.edges.circuit import Circuit, greedy_edges
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.circuits.edges.faithfulness import score_circuits
from babelscope.circuits.edges.single_edges import edge_effects
from babelscope.circuits.heads.routes import flow_routes
from babelscope.errors import InputError, RunError
from babelscope.figures import draw, figure_names, save_figure
from babelscope.results import RunWriter, open_run
from babelscope.studies.circuit_edges import EdgeSettings, find_edges, halved
from tests import planted

IOI = [Head(0, 1), Head(1, 2), Head(2, 0), Head(3, 2), Head(3, 3)]


@pytest.fixture(scope="module", params=["gpt2", "llama", "bloom"])
def two(request):
    return planted.two_languages(request.param)


def test_the_heads_of_two_languages_are_found_by_their_edges(two):
    model, prompts = two
    wiring = Wiring.of(model)
    circuits = {}
    for code, sets in prompts.items():
        pairs = [pair for own in sets.values() for pair in own]
        scores = edge_attribution(model, pairs, "eap-ig", steps=20).scores
        scores = np.where(np.abs(scores) > 1e-3, scores, 0)
        circuits[code] = greedy_edges(wiring, scores, int((scores != 0).sum()))
    assert set(circuits["en"].heads) == {Head(0, 1), Head(0, 2)}
    assert MLP(1) in circuits["en"].nodes
    assert circuits["zh"].nodes == (EMBEDDING, Head(0, 1))
    found = classify(circuits["en"], circuits["zh"])
    assert found[Head(0, 2)] == found[MLP(1)] == "first only"
    for code, circuit in circuits.items():
        pairs = prompts[code]["verb-swap"]
        assert score_circuits(model, pairs, [circuit]).faithfulness() == pytest.approx([1], abs=1e-6)


def test_known_edge_effects(two):
    """In zh the copy head writes 10 to the verb's logit and takes 10 from the other's: its edge is worth −20."""
    model, prompts = two
    pairs, wiring = prompts["zh"]["verb-swap"], Wiring.of(model)
    places = [
        (wiring.writer(Head(0, 1)), wiring.reader(FINAL)),
        (wiring.writer(EMBEDDING), wiring.reader(Receiver("v", 0, 0 if wiring.kv_heads == 2 else 1))),
        (wiring.writer(Head(0, 2)), wiring.reader(FINAL)),
        (wiring.writer(EMBEDDING), wiring.reader(Receiver("q", 0, 1))),
    ]
    expected = [-20.0, -20.0, 0.0, 0.0]
    assert np.allclose(edge_effects(model, pairs, places, reference(model, pairs)).mean(1), expected, atol=1e-6)
    scores = edge_attribution(model, pairs, "eap").scores
    assert np.allclose([scores[place] for place in places], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_routes_find_the_planted_heads_and_no_other(family):
    model, pairs = planted.ioi(family)
    # all parts are tiny beside the constant that holds the norms still, so the threshold is too
    frequency = flow_routes(model, pairs, thresholds=(1e-10,), epsilon=1e-12).frequency(1e-10)
    heads = {Head(int(layer), int(head)) for layer, head in zip(*np.nonzero(frequency))}
    # routes are unsigned: what the negative name mover writes is outweighed where it arrives, so nothing came from it
    assert heads == set(IOI) - {Head(3, 2)}


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_integrated_gradients_find_the_edges_of_ioi(family):
    """Attention is all or nothing here, so a gradient anywhere but at the turn is zero; enough steps meet the turn."""
    model, pairs = planted.ioi(family)
    wiring = Wiring.of(model)
    scores = edge_attribution(model, pairs[:4], "eap-ig", steps=40).scores
    circuit = greedy_edges(wiring, scores, 12)
    assert set(circuit.heads) <= set(IOI)
    assert {Head(3, 2), Head(3, 3)} <= set(circuit.heads)
    whole = Circuit(wiring, _among(wiring, IOI), scores)
    assert score_circuits(model, pairs, [whole]).faithfulness() == pytest.approx([1], abs=1e-6)


def _planted_ioi(wiring):
    """The edges that carry names: into the duplicate-token head, on to S-inhibition, the movers, the logits."""

    def receiver(kind, layer, head):
        group = wiring.heads // wiring.kv_heads
        return wiring.reader(Receiver(kind, layer, head if kind == "q" else head // group))

    names, logits = wiring.writer(EMBEDDING), wiring.reader(FINAL)
    edges = {(names, receiver(kind, 1, 2)) for kind in "qk"}
    edges |= {(wiring.writer(Head(1, 2)), receiver("v", 2, 0))}
    for head in (2, 3):
        edges |= {(names, receiver("v", 3, head)), (wiring.writer(Head(2, 0)), receiver("q", 3, head))}
        edges |= {(wiring.writer(Head(3, head)), logits)}
    return edges


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_patching_every_edge_of_ioi_finds_the_planted_ones_and_no_other(family):
    model, pairs = planted.ioi(family)
    wiring = Wiring.of(model)
    every = [(int(row), int(column)) for row, column in zip(*np.nonzero(wiring.allowed))]
    effects = np.abs(edge_effects(model, pairs, every, reference(model, pairs))).max(1)
    assert {edge for edge, effect in zip(every, effects) if effect > 1e-6} == _planted_ioi(wiring)


def _among(wiring, heads):
    """All edges between the embedding, these heads and the logits."""
    edges = wiring.allowed.copy()
    rows = [wiring.writer(node) for node in wiring.writers if node not in heads and node != EMBEDDING]
    edges[rows] = False
    kept = {wiring.reader(reader) for head in heads for reader in wiring.readers_of(head)} | {wiring.reader(FINAL)}
    edges[:, [column for column in range(len(wiring.readers)) if column not in kept]] = False
    return edges


def test_the_whole_second_half_of_a_study(tmp_path):
    model, prompts = planted.two_languages("llama")
    pairs = {code: [*sets["verb-swap"], *sets["tense-flip"]] for code, sets in prompts.items()}
    pairs["zh"] = prompts["zh"]["verb-swap"]
    settings = EdgeSettings(
        thresholds=(0.01, 0.04), steps=4, budgets=(0.01, 0.1, 1.0), permutations=20, random=2, confirm=6,
        slopes=("kl", "ld", "loss"),
    )  # fmt: skip
    patching = {code: np.random.default_rng(0).normal(size=(3, 4)) for code in pairs}
    found = find_edges(model, pairs, settings, patching, {"en": {"0.1": "copy"}}, controls={"zh": pairs["en"]})
    with RunWriter(tmp_path / "run", kind="circuits") as run:
        run.file("circuits/en.json").write_text(json.dumps({"steps": [1]}))
        found.write(run, run.table, {"en": "en", "zh": "zh"})
        run.manifest.update(task="t", languages=list(pairs), summary=found.summary)
    stored = open_run(tmp_path / "run")
    stored.validate()
    assert stored.arrays().head_frequency.dims == ("language", "layer", "head")
    assert {"agreement", "overlap", "cross_edges", "classification", "edge_curve", "node_curve"} <= set(stored.tables)
    assert set(stored.table("overlap").measure) >= {"edge_iou", "head_frequency_pearson"}
    told = json.loads((tmp_path / "run" / "circuits" / "en.json").read_text())
    assert told["steps"] == [1]
    assert {"sender", "receiver", "score"} == told["edges"][0].keys()
    assert Circuit.load(tmp_path / "run" / "circuits" / "zh").size == stored.summary["edges"]["zh"]
    assert stored.summary["cross_faithfulness_edges"]["zh"]["zh"] == pytest.approx(1, abs=0.3)
    agreement = stored.table("agreement")
    assert "patching" in set(agreement.method2)
    assert {"eap-ig", "eap-ig kl", "eap-ig loss"} <= set(agreement[agreement.what == "edges"].method)
    assert set(agreement[agreement.what == "queries"].method) == {"atp", "atp, QK fix"}
    assert Circuit.load(tmp_path / "run" / "circuits" / "zh").about["method"] == "eap-ig kl"
    nodes = stored.table("node_curve")
    assert set(nodes.area) == {"cpr", "cmd"}
    assert nodes[nodes.budget == 1].faithfulness.tolist() == pytest.approx([1] * 4)


@pytest.fixture
def drawn(tmp_path):
    circuit = Circuit(Wiring(2, 2, 2), np.zeros((7, 15), dtype=bool), np.zeros((7, 15)))
    for place, score in (((0, 0), 1.0), ((1, 6), -2.0), ((3, 14), -3.0)):
        circuit.edges[place], circuit.scores[place] = True, score
    with RunWriter(tmp_path / "run", kind="circuits") as run:
        circuit.with_roles({Head(0, 0): "name mover"}).save(run.file("circuits/en.json"))
        run.table("cross_edges", pd.DataFrame([{"found_in": "en", "run_on": "en", "faithfulness": 1.0}]))
        run.manifest.update(task="ioi", languages=["en", "zh"], model={"id": "toy"}, summary={})
    return open_run(tmp_path / "run")


def test_a_circuit_is_drawn_in_layers(drawn, tmp_path):
    assert "circuit_edges" in figure_names(drawn)
    drawing = draw(drawn, "circuit_edges", languages="en")
    texts = {text.get_text() for text in drawing.axes[0].texts}
    assert {"embedding", "logits", "0.0", "m0"} <= texts
    assert save_figure(drawing, tmp_path / "circuit.svg").stat().st_size > 1000
    assert "cross_language" in figure_names(drawn)
    with pytest.raises(RunError, match="no edges of the circuit in zh"):
        draw(drawn, "circuit_edges")
    with pytest.raises(InputError, match="no language 'fr'"):
        draw(drawn, "circuit_edges", languages="fr")


def test_prompts_are_dealt_in_twos_so_that_both_orders_fall_into_both_halves():
    pairs = list(range(10))
    assert halved(pairs) == ([0, 1, 4, 5, 8, 9], [2, 3, 6, 7])
    assert halved(pairs[:3]) == ([0, 1, 2], [0, 1, 2])
