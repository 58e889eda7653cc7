"""Nodes, edges and labels by definition: wirings, circuits made from scores, overlap, nulls; sets that begin alike."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from babelscope.circuits.core import graph
from babelscope.circuits.core.graph import KINDS, Wiring, sized
from babelscope.circuits.core.nodes import (
    EMBEDDING,
    FINAL,
    LOGITS,
    MLP,
    Expert,
    Head,
    Mixer,
    Receiver,
    check_nodes,
    check_receivers,
    kv_head,
    parse_node,
    reaches,
    receivers,
)
from babelscope.circuits.edges.circuit import greedy_edges, importance, sized_circuit, top_edges
from babelscope.circuits.heads.shared_passes import _alike, _branches, _by_layer
from babelscope.errors import InputError

WIRINGS = [
    Wiring(3, 4, 2),
    Wiring(2, 4, 1, parallel=True),
    Wiring(4, 2, 2, kinds=("am", "sm", "asm", "a"), shared_key=True),
    Wiring(3, 2, 1, kinds=("m", "as", "am"), gates=True),
    Wiring(2, 4, 2, shared_key=True, gates=True),
]
SMALL = Wiring(2, 2, 2)


# -- sets of nodes that begin alike ------------------------------------------------------------------------------------


def layers_of(*nodes):
    return _by_layer(SimpleNamespace(layers=4), nodes)


def test_how_many_layers_two_sets_have_in_common():
    a, b, c = Head(0, 1), MLP(2), Head(3, 0)
    assert layers_of(a, c, MLP(0)) == (frozenset({a, MLP(0)}), frozenset(), frozenset(), frozenset({c}))
    assert _alike(layers_of(a), layers_of(a, b)) == 2
    assert _alike(layers_of(a, b), layers_of(a, c)) == 2
    assert _alike(layers_of(a), layers_of(c)) == 0
    assert _alike(layers_of(a, c), layers_of(a)) == 3
    assert _alike(layers_of(a, b), layers_of(b, a)) == 4


@pytest.mark.parametrize(
    ("common", "start", "found"),
    [
        ([], 0, []),
        ([2], 0, [2]),
        ([2], 2, []),
        ([2], 1, [2]),
        ([3, 2, 4, 1], 0, [1, 2, 3]),
        ([3, 1, 3], 1, [3]),
        ([4, 4, 3], 0, [3, 4]),
        ([0, 4], 0, []),
    ],
)
def test_streams_are_kept_where_later_sets_part_from_this_one(common, start, found):
    assert _branches(common, start) == found


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_names_of_nodes_are_read_back():
    nodes = [Head(9, 6), MLP(3), Expert(3, 15), Mixer(3), EMBEDDING, LOGITS]
    assert [str(node) for node in nodes] == ["9.6", "m3", "m3.15", "s3", "embedding", "logits"]
    assert [parse_node(f" {node} ") for node in nodes] == nodes
    for text in ("9", "h9.6", "9.6.1", "x3", "embeddings", "", "m", "-1.2"):
        with pytest.raises(InputError, match=r"names no node: write 9\.6 for a head"):
            parse_node(text)
    kinds = [Receiver("q", 1, 2), Receiver("shared_key", 1, 0), Receiver("mlp", 4), FINAL]
    assert [str(one) for one in kinds] == ["1.2.q", "1.shared_key", "m4", "logits"]
    assert (FINAL.layer, FINAL.head) == (-1, -1)


def model_of(**more):
    family = SimpleNamespace(key_latent=False, parallel=False)
    usual = dict(
        id="m", layers=3, heads=4, kv_heads=2, attention_layers=(0, 2), neuron_layers=(0, 1), mixer_layers=(1,),
        mixtures={1: SimpleNamespace(count=3)}, readings=("q", "k", "v"), family=family,
    )  # fmt: skip
    return SimpleNamespace(**(usual | more))


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Head(3, 0), "3.0: m has layers 0 to 2"), (Head(-1, 0), "m has layers 0 to 2"),
        (Head(0, 4), "head 0.4: m has heads 0 to 3 in each layer"), (Head(0, -1), "m has heads 0 to 3"),
        (Head(1, 0), "1.0: layer 1 of m has not heads: layers 0, 2 have"),
        (MLP(2), "m2: layer 2 of m has not an MLP: layers 0, 1 have"),
        (Mixer(0), "s0: layer 0 of m has not a linear mixer: layers 1 have"),
        (Expert(0, 0), "m0.0: layer 0 of m has not experts: layers 1 have"),
        (Expert(1, 3), "expert m1.3: layer 1 of m has experts 0 to 2"), (Expert(1, -1), "has experts 0 to 2"),
    ],
)  # fmt: skip
def test_nodes_that_a_model_has_not(node, said):
    check_nodes(model_of(), [Head(0, 0), Head(2, 3), MLP(0), MLP(1), Mixer(1), Expert(1, 0), Expert(1, 2), EMBEDDING])
    with pytest.raises(InputError, match=said):
        check_nodes(model_of(), [Head(0, 0), node])


@pytest.mark.parametrize(
    ("receiver", "said"),
    [
        (Receiver("q", 3, 0), "m has layers 0 to 2"), (Receiver("q", -1, 0), "m has layers 0 to 2"),
        (Receiver("q", 0, 4), "0.4.q: m has heads 0 to 3"), (Receiver("k", 0, 2), "m has key/value heads 0 to 1"),
        (Receiver("v", 0, -1), "m has key/value heads 0 to 1"), (Receiver("mlp", 2), "has not an MLP"),
        (Receiver("k", 1, 0), "has not heads"), (Receiver("gate", 0, 0), "the attention of m has no gate"),
    ],
)  # fmt: skip
def test_receivers_that_a_model_has_not(receiver, said):
    check_receivers(model_of(), [Receiver("q", 2, 3), Receiver("k", 0, 1), Receiver("mlp", 1)])
    check_receivers(model_of(), [FINAL])
    with pytest.raises(InputError, match=said):
        check_receivers(model_of(), [Receiver("q", 0, 0), receiver])
    with pytest.raises(InputError, match="no receiver was given"):
        check_receivers(model_of(), [])
    with pytest.raises(InputError, match="the final residual is patched alone"):
        check_receivers(model_of(), [FINAL, Receiver("q", 0, 0)])
    with pytest.raises(InputError, match="m has heads 0 to 1"):  # where each query head has its own
        check_receivers(model_of(heads=2), [Receiver("k", 0, 2)])


def test_what_heads_read_with_and_who_reaches_it():
    model = model_of()
    assert [kv_head(model, head) for head in range(4)] == [0, 0, 1, 1]
    heads = [Head(2, 1), Head(2, 0), Head(0, 3)]
    assert receivers(model, heads, "q") == [Receiver("q", 0, 3), Receiver("q", 2, 0), Receiver("q", 2, 1)]
    assert receivers(model, heads, "k") == [Receiver("k", 0, 1), Receiver("k", 2, 0)]
    model.family.key_latent = True
    assert receivers(model, heads[:1], "k") == [Receiver("k", 2, 0), Receiver("shared_key", 2, 0)]
    assert receivers(model, heads[:1], "v") == [Receiver("v", 2, 0)]
    for node, own in ((Head(1, 0), True), (Mixer(1), True), (MLP(1), False)):
        assert [reaches(model, node, Receiver("mlp", layer)) for layer in (0, 1, 2)] == [False, own, True]
        assert [reaches(model, node, Receiver("q", layer, 0)) for layer in (0, 1, 2)] == [False, False, True]
        assert reaches(model, node, FINAL)
    assert reaches(model, EMBEDDING, Receiver("q", 0, 0))
    model.family.parallel = True
    assert not reaches(model, Head(1, 0), Receiver("mlp", 1))


# -- wirings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_wiring_is_what_each_layer_has(wiring):
    writers, readers, seen = [EMBEDDING], [], []
    for layer in range(wiring.layers):
        has = wiring.kinds[layer] if wiring.kinds else "am"
        counts = {"q": wiring.heads, "k": wiring.kv_heads, "v": wiring.kv_heads}
        counts |= {"shared_key": 1} if wiring.shared_key else {}
        counts |= {"gate": wiring.heads} if wiring.gates else {}
        if "a" in has:
            own = [Receiver(kind, layer, head) for kind, count in counts.items() for head in range(count)]
            readers, seen = readers + own, seen + [len(writers)] * len(own)
        before = len(writers)
        writers += [Head(layer, head) for head in range(wiring.heads)] if "a" in has else []
        writers += [Mixer(layer)] if "s" in has else []
        if "m" in has:
            readers, seen = [*readers, Receiver("mlp", layer)], [*seen, before if wiring.parallel else len(writers)]
            writers.append(MLP(layer))
    assert wiring.writers == tuple(writers)
    assert wiring.readers == (*readers, FINAL)
    assert [wiring.before(reader) for reader in wiring.readers] == [*seen, len(writers)]
    assert [wiring.writer(node) for node in writers] == list(range(len(writers)))
    assert [wiring.reader(reader) for reader in wiring.readers] == list(range(len(readers) + 1))
    assert (wiring.allowed == (np.arange(len(writers))[:, None] < [[*seen, len(writers)]])).all()
    assert wiring.edges == wiring.allowed.sum()
    for row, node in enumerate(writers):
        own = [wiring.reader(reader) for reader in wiring.readers_of(node)]
        assert sorted(own) == wiring.feeds[:, row].nonzero()[0].tolist()
    assert wiring.readers_of(LOGITS) == [FINAL]
    for layer in range(wiring.layers):
        runs = [wiring.reader(reader) for reader in wiring.first_readers(layer)]
        kinds = [(one.layer, one.kind) for one in wiring.readers]
        starts = [n for n, kind in enumerate(kinds) if kind[0] == layer and (not n or kinds[n - 1] != kind)]
        assert runs == starts


def by_paths(wiring, edges):
    """Edges on a path from the embedding to the logits, by walking."""
    names = {(wiring.writers[row], wiring.readers[column]) for row, column in zip(*np.nonzero(edges & wiring.allowed))}

    def reached(node):
        if isinstance(node, (Mixer, type(EMBEDDING))):
            return True
        return any(reader in wiring.readers_of(node) and reached(sender) for sender, reader in names)

    def leads(reader):
        served = [node for node in wiring.writers if reader in wiring.readers_of(node)]
        return reader == FINAL or any(sender in served and leads(other) for sender, other in names)

    return {(sender, reader) for sender, reader in names if reached(sender) and leads(reader)}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_pruning_keeps_what_walking_finds(wiring):
    dice = np.random.default_rng(wiring.layers * wiring.heads)
    for share in (0.03, 0.06, 0.1):
        edges = wiring.allowed & (dice.random(wiring.allowed.shape) < share)
        kept = wiring.pruned(edges)
        found = {(wiring.writers[row], wiring.readers[column]) for row, column in zip(*np.nonzero(kept))}
        assert found == by_paths(wiring, edges)


@pytest.mark.parametrize(("gates", "cells"), [(False, 13 * 21), (True, 13 * 29)])
def test_a_wiring_is_as_large_as_the_largest_that_may_be(monkeypatch, gates, cells):
    """Room for heads, a mixer and an MLP in each of two layers: 13 writers, and 21 readers (29 with gates)."""
    monkeypatch.setattr(graph, "MOST_CELLS", cells)
    sized(Wiring(2, 4, 2, gates=gates))
    monkeypatch.setattr(graph, "MOST_CELLS", cells - 1)
    with pytest.raises(ValueError, match="are not the sizes of a model"):
        sized(Wiring(2, 4, 2, gates=gates))


@pytest.mark.wrong_kind
@pytest.mark.parametrize("odd", [{"layers": 1.0}, {"parallel": 1}, {"shared_key": 0}, {"gates": None}])
def test_sizes_of_another_kind_are_those_of_no_model(odd):
    with pytest.raises(ValueError, match="are not the sizes of a model"):
        sized(Wiring(**{"layers": 1, "heads": 1, "kv_heads": 1} | odd))


def test_sizes_that_no_model_has():
    for wiring in (*WIRINGS, Wiring(80, 64, 8), Wiring(1, 1, 1)):
        assert sized(wiring).facts() == wiring.facts()
    for odd in (
        Wiring(0, 1, 1), Wiring(1, 0, 1), Wiring(1, 1, 0), Wiring(1, 4, 3), Wiring(True, 1, 1),
        Wiring(100, 101, 101), Wiring(73, 100, 100),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="are not the sizes of a model"):
            sized(odd)
    for kinds in (("am",), ("am", "x"), ("am", "ma"), ("am",) * 3):
        with pytest.raises(ValueError, match="its layers are not of kinds that exist"):
            sized(Wiring(2, 1, 1, kinds=kinds))
    assert {"a", "s", "m", "as", "am", "sm", "asm"} == KINDS
    assert WIRINGS[2].facts() == {
        "layers": 4, "heads": 2, "kv_heads": 2, "parallel": False, "kinds": ["am", "sm", "asm", "a"],
        "shared_key": True,
    }  # fmt: skip
    assert WIRINGS[3].facts()["gates"] is True


# -- circuits made from scores -----------------------------------------------------------------------------------------


def greedily(wiring, rank, count):
    """From the logits upwards, by looking at every edge into a node that was taken, each time."""
    taken, chosen = [LOGITS], []
    while len(chosen) < count:
        open_now = [
            (rank[row, wiring.reader(reader)], -row, -wiring.reader(reader))
            for node in taken
            for reader in wiring.readers_of(node)
            for row in range(wiring.before(reader))
            if (row, wiring.reader(reader)) not in chosen
        ]
        if not open_now:
            break
        _, row, column = max(open_now)
        chosen.append((-row, -column))
        if wiring.writers[-row] not in taken:
            taken.append(wiring.writers[-row])
    return set(chosen)


@pytest.mark.parametrize("wiring", WIRINGS[:3])
@pytest.mark.parametrize("absolute", [True, False])
def test_edges_taken_by_both_rules(wiring, absolute):
    scores = np.random.default_rng(3).normal(size=wiring.allowed.shape) * wiring.allowed
    rank = np.abs(scores) if absolute else -scores
    assert (importance(scores, absolute) == rank).all()
    for count in (0, 1, 7, 25):
        found = greedy_edges(wiring, scores, count, absolute, prune=False)
        assert set(zip(*map(np.ndarray.tolist, np.nonzero(found.edges)))) == greedily(wiring, rank, count)
        assert found.about == {
            "construction": "greedy", "asked_edges": count, "ranked_by": "absolute" if absolute else "signed",
        }  # fmt: skip
        top = top_edges(wiring, scores, count, absolute, prune=False, about={"seed": 1})
        least = np.sort(rank[wiring.allowed])[::-1][:count].min(initial=np.inf)
        assert (top.edges == (wiring.allowed & (rank >= least))).all()
        assert (top.about["seed"], top.about["construction"]) == (1, "top")
    strengths = [abs(score) for *_, score in found.listed()]
    assert strengths == sorted(strengths, reverse=True)


@pytest.mark.parametrize("construction", ["greedy", "top"])
def test_a_circuit_of_a_size_has_it_within_a_twentieth(construction):
    wiring = WIRINGS[0]
    scores = np.random.default_rng(7).normal(size=wiring.allowed.shape) * wiring.allowed
    build = greedy_edges if construction == "greedy" else top_edges
    sizes = {build(wiring, scores, count).size for count in range(int(wiring.allowed.sum()) + 1)}
    for size in (10, 20, 40, 60, 80):
        found = sized_circuit(wiring, scores, size, construction, about={"seed": 2})
        near = [one for one in sizes if abs(one - size) <= 0.05 * size]
        assert (abs(found.size - size) <= 0.05 * size) == bool(near)
        assert (found.about["seed"], found.about["construction"]) == (2, construction)
        first = build(wiring, scores, size)
        if abs(first.size - size) <= 0.05 * size:
            assert found.size == first.size  # what was asked for at first is kept where it does
    once = sized_circuit(wiring, scores, 40, construction, tries=1)
    assert once.about["asked_edges"] == 40


def test_shared_layers_come_in_the_order_that_shares_most():
    """What sets have in common, in whatever order they are given, is found between neighbours of the sorted order."""
    sets = [layers_of(Head(0, 0), MLP(2)), layers_of(MLP(1)), layers_of(Head(0, 0)), layers_of(Head(0, 0), MLP(3))]
    order = sorted(sets, key=lambda layers: [sorted(map(str, nodes)) for nodes in layers])
    assert sorted(_alike(one, two) for one, two in pairwise(order)) == [0, 2, 3]
