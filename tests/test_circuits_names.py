"""Names that were read from a file, which are other objects than those written in the source, ask for the same."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.faithfulness import Curve, Scored
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import MLP, Head, Mixer, Receiver, reaches, receivers
from babelscope.circuits.core.skew import skewed_test
from babelscope.circuits.core.statistics import prompt_test
from babelscope.circuits.edges.circuit import Circuit, sized_circuit
from babelscope.circuits.edges.eap import Variant, _points, edge_attribution
from babelscope.circuits.edges.mib import to_graph
from babelscope.circuits.heads.ablation import NodeSpace, _ranked
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.screen import Screen, path_estimates
from babelscope.circuits.patching.search import SearchSettings, find_circuit
from babelscope.circuits.patching.selection import select
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.models import Model
from babelscope.tasks.steps import Step
from tests.random_pairs import random_pair
from tests.tiny_models import tiny_model, tiny_tokenizer

WIRING = Wiring(2, 4, 2, shared_key=True, gates=True)


def read(text: str) -> str:
    """The same text as another object."""
    return bytes(text, "utf-8").decode()


def written(text: str) -> str:
    return text


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


@pytest.fixture(scope="module")
def pairs():
    return [random_pair(0), random_pair(3, changed=(4, 6), answer=(2, 1))]


def test_such_texts_are_other_objects():
    assert read("mlp") is not read("mlp")


@pytest.mark.parametrize("kind", ["q", "k", "v", "shared_key", "gate", "mlp", "logits"])
def test_receivers_by_names_that_were_read(kind, llama):
    one, two = (Receiver(name(kind), *(() if kind == "logits" else (1, 0))) for name in (read, written))
    assert str(one) == str(two)
    assert (WIRING.reader(one), WIRING.before(one)) == (WIRING.reader(two), WIRING.before(two))
    for node in (Head(1, 0), Head(0, 0), MLP(1), Mixer(1)):
        assert reaches(llama, node, one) == reaches(llama, node, two)
    wiring = Wiring(2, 4, 2)
    if kind in ("q", "k", "v"):
        assert receivers(llama, [Head(1, 3)], read(kind)) == receivers(llama, [Head(1, 3)], kind)
    edges = Circuit(wiring, wiring.allowed, wiring.allowed * 1.0)
    renamed = Wiring(2, 4, 2)
    renamed.__dict__["readers"] = tuple(Receiver(read(each.kind), each.layer, each.head) for each in wiring.readers)
    other = Circuit(renamed, wiring.allowed, wiring.allowed * 1.0)
    assert to_graph(other) == to_graph(edges)
    assert other.described()["edges"] == edges.described()["edges"]
    assert (renamed.feeds == wiring.feeds).all()


def test_rules_and_sides_by_names_that_were_read():
    change = np.array([[1.0, 1.2, 0.9, 1.1, 0.8, 1.3], [0.1, -0.1] * 3])
    ones, heads = np.ones(6), (Head(0, 0), Head(0, 1))
    for direction in ("noising", "denoising"):
        found = [
            Effects(heads, ones + change, ones, 0 * ones, name(direction), settings={"layers": 1, "heads": 2})
            for name in (read, written)
        ]
        assert found[0].effect.tolist() == found[1].effect.tolist()
        assert found[0].base.tolist() == found[1].base.tolist()
    for rule in ("deviation", "significance"):
        chosen = [select(found[1], name(rule), sigmas=0.5) for name in (read, written)]
        assert chosen[0].nodes == chosen[1].nodes
        assert chosen[0].threshold.tolist() == chosen[1].threshold.tolist()
    for side in ("two-sided", "greater"):
        assert prompt_test(change, read(side)).tolist() == prompt_test(change, side).tolist()
        assert skewed_test(change, read(side)).tolist() == skewed_test(change, side).tolist()
    scored = Scored(np.stack([0.5 * ones, 1.5 * ones + change[1]]), 0 * ones, ones)
    for area in ("cpr", "cmd"):
        one, two = (Curve(name(area), (0.1, 1.0), (1, 2), scored).interval(50) for name in (read, written))
        assert asdict(one) == asdict(two)
    for method, rule in (("eap", "left"), ("eap-ig", "left"), ("eap-ig", "midpoint"), ("relp", "left")):
        assert _points(read(method), 3, read(rule)) == _points(method, 3, rule)


def test_constructions_and_areas_by_names_that_were_read(llama):
    wiring = Wiring(2, 4, 2)
    scores = np.random.default_rng(0).normal(size=wiring.allowed.shape) * wiring.allowed
    for construction in ("greedy", "top"):
        one, two = (sized_circuit(wiring, scores, 20, name(construction)) for name in (read, written))
        assert (one.edges == two.edges).all()
    space = NodeSpace(llama, [])
    effect = dict(zip(space.nodes, np.random.default_rng(0).normal(size=len(space.nodes))))
    for area in ("cpr", "cmd"):
        one, two = (_ranked(space, effect, name(area), (0.3,))[0] for name in (read, written))
        assert one.tolist() == two.tolist()


def test_ablations_by_names_that_were_read(llama, pairs):
    (rows,) = batches(pairs[:1], 99, llama.device)
    for kind in ("mean", "zero", "resample"):
        for over in ("corrupted", "clean"):
            one, two = (reference(llama, pairs[:1], name(kind), over=name(over))(rows) for name in (read, written))
            assert all(torch.equal(a, b) for a, b in zip(one.listed(), two.listed()))


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("kinds", [("logits",), ("mlp", "q"), ("k", "v")])
def test_paths_by_names_that_were_read(llama, pairs, mlps, kinds):
    places = {"logits": (), "mlp": (2,)}

    def patched(name):
        into = [Receiver(name(kind), *places.get(kind, (2, 1))) for kind in kinds]
        sweep = Sweep(direction=name("denoising" if mlps == "frozen" else "noising"))
        nodes = [Head(0, 0), Head(1, 3), MLP(0), MLP(1)]
        found = path_patching(llama, pairs, into, nodes, name("END"), name(mlps), sweep=sweep).patched
        if kinds == ("logits",):
            return [found]
        return [found, path_estimates(llama, pairs, into, name("END"), name(mlps), Screen(drops=0))]

    for one, two in zip(patched(read), patched(written)):
        assert np.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("what", ["output", "pattern"])
def test_outputs_by_names_that_were_read(llama, pairs, what):
    one, two = (
        activation_patching(llama, pairs, [Head(1, 0)], name("END"), name(what)).patched for name in (read, written)
    )
    assert np.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(("method", "slope"), [("eap", "ld"), ("eap-ig", "kl"), ("relp", "loss")])
def test_attributions_by_names_that_were_read(llama, pairs, method, slope):
    one, two = (
        edge_attribution(llama, pairs, name(method), 1, name("zero"), variant=Variant(slope=name(slope)))
        for name in (read, written)
    )
    assert np.allclose(one.scores, two.scores, atol=1e-6)
    assert one.settings == two.settings


def test_steps_by_names_that_were_read(llama, pairs):
    def searched(name):
        steps = [Step("a", name("logits")), *(Step(kind, name(kind), into=name("a")) for kind in ("mlp", "q"))]
        settings = SearchSettings(rule=name("deviation"), null=False, mlps=name("frozen"))
        found = find_circuit(llama, {"x": pairs}, steps, settings).steps
        return [(each.supporting, each.opposing, each.skipped) for each in found]

    assert searched(read) == searched(written)
