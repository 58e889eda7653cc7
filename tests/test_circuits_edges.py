"""Edges: points of integration, rankings, curves and the values put in, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.core.faithfulness import Curve, Scored
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver
from babelscope.circuits.edges.atp import _put_heads
from babelscope.circuits.edges.circuit import Circuit
from babelscope.circuits.edges.eap import Attribution, Variant, _points
from babelscope.circuits.edges.edge_ablation import _distinct, _zeros
from babelscope.circuits.edges.faithfulness import minimal_size, node_parts
from babelscope.circuits.edges.mib import from_graph, to_graph
from babelscope.circuits.edges.single_edges import _first, _layer, _put
from babelscope.circuits.heads.routes import Layer, Routes, _proximity, shares
from babelscope.circuits.patching.path_passes import _last_positions, setter, stacked
from babelscope.errors import InputError

SMALL = Wiring(2, 2, 1)


# -- attribution -------------------------------------------------------------------------------------------------------


def test_gradients_are_taken_in_the_middle_or_at_the_left_of_each_part():
    assert _points("eap-ig", 4, "midpoint") == [0.125, 0.375, 0.625, 0.875]
    assert _points("eap-ig", 4, "left") == [0, 0.25, 0.5, 0.75]
    assert _points("eap-ig", 1, "midpoint") == [0.5]
    assert (_points("eap", 4, "left"), _points("relp", 0, "midpoint")) == ([1.0], [1.0])
    for steps, rule in ((0, "midpoint"), (3, "right")):
        with pytest.raises(InputError, match=f"need 1 or more steps by rule midpoint or left, got {steps} by '{rule}'"):
            _points("eap-ig", steps, rule)
    with pytest.raises(InputError, match="no attribution method 'ig'; there are eap, eap-ig, relp"):
        _points("ig", 3, "left")
    assert vars(Variant()) == {"rule": "midpoint", "frozen_patterns": True, "slope": "ld"}


def test_sums_and_the_strongest_edges():
    scores = np.where(SMALL.allowed, 0.0, 99.0)
    entries = {(EMBEDDING, Receiver("q", 0, 1)): 1.0, (Head(0, 1), FINAL): -3.0, (Head(0, 1), Receiver("k", 1, 0)): 2.0,
               (MLP(1), FINAL): 0.5}  # fmt: skip
    for (node, reader), score in entries.items():
        scores[SMALL.writer(node), SMALL.reader(reader)] = score
    found = Attribution(SMALL, np.where(SMALL.allowed, scores, 0.0))
    assert found.heads.tolist() == [[0, -1], [0, 0]]
    assert found.mlps.tolist() == [0, 0.5]
    assert found.writers[0] == 1
    edges = Attribution(SMALL, scores).strongest(3)
    assert [(SMALL.writers[row], SMALL.readers[column]) for row, column in edges] == [
        (Head(0, 1), FINAL), (Head(0, 1), Receiver("k", 1, 0)), (EMBEDDING, Receiver("q", 0, 1)),
    ]  # fmt: skip
    assert len(found.strongest(999)) == SMALL.allowed.sum()
    mixed = Wiring(2, 2, 1, kinds=("s", "am"))
    part = Attribution(mixed, np.ones(mixed.allowed.shape))
    assert np.isnan(part.heads[0]).all()
    assert np.isnan(part.mlps).tolist() == [True, False]


# -- circuits ----------------------------------------------------------------------------------------------------------


def test_the_first_budget_that_is_faithful():
    scored = Scored(np.array([[0.5] * 3, [0.8] * 3, [0.7] * 3, [1.0] * 3]), np.zeros(3), np.ones(3))
    found = Curve("cpr", (0.1, 0.2, 0.5, 1.0), (4, 9, 20, 40), scored)
    assert [minimal_size(found, least) for least in (0.5, 0.51, 0.8, 0.81, 1.0, 1.01)] == [4, 9, 9, 40, 40, None]
    assert minimal_size(found) == 9


def test_the_parts_of_a_circuit_are_the_edges_out_of_each_node():
    dice = np.random.default_rng(0)
    made = Circuit(SMALL, SMALL.allowed & (dice.random(SMALL.allowed.shape) < 0.2), np.ones(SMALL.allowed.shape))
    parts = node_parts(made)
    assert list(parts) == [str(node) for node in made.nodes]
    assert (sum(mask.astype(int) for mask in parts.values()) == made.edges).all()
    for name, mask in parts.items():
        assert {str(SMALL.writers[row]) for row in np.nonzero(mask)[0]} == {name}


def test_circuits_that_are_alike_are_run_once():
    masks = [torch.tensor(bits, dtype=torch.bool) for bits in ([1, 0], [0, 1], [1, 0], [1, 1], [0, 1])]
    kept, places = _distinct(masks)
    assert [mask.tolist() for mask in kept] == [[True, False], [False, True], [True, True]]
    assert places == [0, 1, 0, 2, 1]
    assert _zeros(5)(torch.ones(2, 3, 4)).tolist() == torch.zeros(2, 3, 5).tolist()


def test_scores_of_a_graph_turn_their_sign_and_are_shared_by_query_heads():
    wiring = Wiring(2, 6, 2)
    scores = np.random.default_rng(1).normal(size=wiring.allowed.shape) * wiring.allowed
    edges = wiring.allowed & (np.random.default_rng(2).random(scores.shape) < 0.3)
    graph = to_graph(Circuit(wiring, edges, scores), 12)
    for row, node in enumerate(wiring.writers):
        sender = {"e": "input", "m": str(node)}.get(str(node)[0], f"a{str(node).replace('.', '.h')}")
        for column, reader in enumerate(wiring.readers):
            if not wiring.allowed[row, column]:
                continue
            heads = range(3 * reader.head, 3 * reader.head + 3) if reader.kind in ("k", "v") else [reader.head]
            names = [f"a{reader.layer}.h{head}<{reader.kind}>" for head in heads]
            names = [str(reader)] if reader.kind in ("mlp", "logits") else names
            for name in names:
                entry = graph["edges"][f"{sender}->{name}"]
                assert entry == {"score": -scores[row, column] / len(names), "in_graph": bool(edges[row, column])}
    found = from_graph(graph, wiring)
    assert (found.edges == edges).all()
    assert found.scores == pytest.approx(scores)
    assert found.about == {"format": "EAP-IG JSON"}


# -- values put in -----------------------------------------------------------------------------------------------------


def test_one_edge_of_each_copy_is_changed():
    own = torch.arange(2 * 3 * 2 * 4 * 1.0).reshape(6, 2, 4, 1)  # three copies of two rows, two positions, four heads
    value = -torch.ones(2, 2, 1)
    found = _put([(0, 1, value), (2, 3, 2 * value)], 3)(own)
    for copy in range(3):
        for head in range(4):
            expected = {(0, 1): value, (2, 3): 2 * value}.get((copy, head), own[2 * copy : 2 * copy + 2, :, head])
            assert torch.equal(found[2 * copy : 2 * copy + 2, :, head], expected)
    wide = _put([(1, -1, torch.zeros(2, 3))], 2)(torch.ones(4, 3))
    assert wide.tolist() == [[1] * 3] * 2 + [[0] * 3] * 2
    mixed = _put_heads(-torch.ones(2, 2, 4, 1), [3, 0, 1])(own)
    for copy, changed in enumerate([3, 0, 1]):
        for head in range(4):
            part = mixed[2 * copy : 2 * copy + 2, :, head]
            assert torch.equal(part, -torch.ones(2, 2, 1) if head == changed else own[2 * copy : 2 * copy + 2, :, head])


def test_the_first_position_that_differs_for_any_writer():
    def at(*places):
        value = torch.zeros(2, 6, 3)
        for row, place in places:
            value[row, place, 1] = 1
        return value

    rows = SimpleNamespace(length=6, answer=2)
    assert _first(rows, {1: at((0, 3)), 2: at((1, 2), (0, 5))}) == 2
    assert _first(rows, {1: at((0, 0))}) == 0
    assert _first(rows, {1: at((1, 5))}) == 4  # the answer's positions are always run
    assert _first(rows, {1: at()}) == 4
    assert [_layer(SMALL, (0, column)) for column in (0, SMALL.columns[1], len(SMALL.readers) - 1)] == [0, 1, 2]


def test_values_are_set_at_positions_of_each_sender_and_row():
    value = torch.arange(2 * 2 * 2 * 1.0).reshape(2, 2, 2, 1) + 1  # two senders, two rows, two positions
    positions = torch.tensor([[3, 4], [5, 5]])
    whole = setter(value, positions, 3, None)(torch.zeros(4, 3, 1))
    assert whole[..., 0].tolist() == [[1, 2, 0], [0, 0, 4], [5, 6, 0], [0, 0, 8]]
    one = setter(value, positions, 3, 1)(torch.zeros(4, 3, 2, 1))
    assert one[..., 1, 0].tolist() == whole[..., 0].tolist()
    assert not one[..., 0, 0].any()
    assert stacked(torch.tensor([[1, 2], [3, 4]]), 2).tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]


def test_the_last_positions_alone_are_computed():
    seen = []
    short = _last_positions(lambda *parts: seen.append([part.shape[1] for part in parts]) or sum(parts), 2)
    found = short(torch.ones(1, 5, 3), torch.full((1, 5, 3), 2.0))
    assert seen == [[2, 2]]
    assert found[0, :, 0].tolist() == [0, 0, 0, 3, 3]


# -- routes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("post", [False, True])
def test_shares_of_a_layer_by_a_plain_loop(parallel, post):
    """prox(u, y) = max(‖y‖₁ − ‖y − u‖₁, ε), over its sum."""
    T, H, K, E, D, epsilon = 5, 4, 2, 3, 6, 1e-5
    draw = torch.Generator().manual_seed(3)
    entering, mlp = torch.randn(T, D, generator=draw), torch.randn(T, D, generator=draw)
    values, output = torch.randn(T, K, E, generator=draw), torch.randn(H, E, D, generator=draw)
    patterns = torch.rand(H, T, T, generator=draw).tril()
    direction, scale = torch.rand(D, generator=draw), torch.rand(T, generator=draw)
    made = torch.zeros(T, H, T, D)
    for i in range(T):
        for h in range(H):
            for j in range(i + 1):
                part = patterns[h, i, j] * (values[j, h // 2] @ output[h])
                made[i, h, j] = (part - part.mean()) * direction * scale[i] if post else part
    attention = made.sum((1, 2)) + 0.1
    after = dict(direction=direction, scale=scale) if post else dict(direction=None, scale=None)
    layer = Layer(entering, values, patterns, attention, mlp, output, centred=post, parallel=parallel, **after)

    def prox(part, whole):
        return max(float(whole.abs().sum() - (whole - part).abs().sum()), epsilon)

    targets = [1, 4]
    found = shares(layer, targets, epsilon)
    for place, i in enumerate(targets):
        mid = entering[i] + attention[i]
        whole = mid + mlp[i] if parallel else mid
        heads = np.array([[prox(made[i, h, j], whole) if j <= i else 0 for j in range(T)] for h in range(H)])
        residual, feed = prox(entering[i], whole), prox(mlp[i], mid + mlp[i])
        total = heads.sum() + residual + (feed if parallel else 0)
        assert found.heads[place].numpy() == pytest.approx(heads / total, abs=1e-5)
        assert float(found.residual[place]) == pytest.approx(residual / total, abs=1e-5)
        if parallel:
            assert found.mid is None
            assert float(found.mlp[place]) == pytest.approx(feed / total, abs=1e-5)
        else:
            through = prox(mid, mid + mlp[i])
            assert float(found.mlp[place]) == pytest.approx(feed / (feed + through), abs=1e-5)
            assert float(found.mid[place]) == pytest.approx(through / (feed + through), abs=1e-5)
    assert _proximity(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), epsilon).item() == 1
    assert _proximity(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 1.0]), epsilon).item() == pytest.approx(epsilon)


def test_frequencies_are_shares_of_prompts_at_a_threshold():
    heads = np.zeros((2, 4, 1, 2), dtype=bool)
    heads[0, :3, 0, 1] = heads[1, 2, 0, 1] = True
    mlps = np.array([[[True]] * 4, [[True], [False], [False], [True]]])
    found = Routes(heads, mlps, np.zeros((4, 1, 2)), (0.01, 0.04))
    assert found.frequency(0.01).tolist() == [[0, 0.75]]
    assert found.frequency().tolist() == [[0, 0.25]]
    assert (found.mlp_frequency(0.01).tolist(), found.mlp_frequency().tolist()) == ([1], [0.5])
    for call in (found.used, found.frequency, found.mlp_frequency):
        with pytest.raises(InputError, match=r"no routes at τ = 0\.02; they were taken at 0\.01, 0\.04"):
            call(0.02)
