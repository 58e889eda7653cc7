"""What circuits refuse, with the numbers that the line names; and paths that only other families take."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver
from babelscope.circuits.edges import eap, edge_ablation
from babelscope.circuits.edges import faithfulness as edge_faithfulness
from babelscope.circuits.edges.circuit import Circuit, circuit_file
from babelscope.circuits.edges.faithfulness import EdgeSpace
from babelscope.circuits.edges.mib import from_graph, to_graph
from babelscope.circuits.edges.ungrouping import _repeated, ungrouped
from babelscope.circuits.heads import ablation, routes
from babelscope.circuits.heads.roles import repetition
from babelscope.circuits.heads.routes import _check_attention, _record, flow_routes, layer_of, shares
from babelscope.circuits.patching import methods
from babelscope.circuits.patching.methods import path_patching
from babelscope.circuits.patching.search import Search, SearchSettings, find_circuit
from babelscope.circuits.patching.swept_batches import Scored, Sweep
from babelscope.errors import InputError, NonFinite, RunError, UnsupportedModel
from babelscope.models import Model
from babelscope.results.sealed import save_sealed
from babelscope.tasks.steps import Step
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer

SMALL = Wiring(2, 2, 2)


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


# -- files -------------------------------------------------------------------------------------------------------------


def saved(tmp_path, **changes):
    facts = {"wiring": SMALL.facts(), "roles": {}, "about": {}}
    tensors = {"edges": torch.tensor(SMALL.allowed), "scores": torch.zeros(SMALL.allowed.shape)}
    for name, value in changes.items():
        (tensors if name in tensors else facts)[name] = value
    save_sealed(tensors, tmp_path / "c.safetensors", "circuit", json.dumps(facts))
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edges": torch.ones(2, 3, dtype=torch.bool)}, "2 × 3 edges do not fit its model"),
        ({"scores": torch.zeros(2, 3)}, "edges do not fit its model"),
        ({"edges": torch.ones(SMALL.allowed.shape)}, "edges are true or false, and scores finite numbers"),
        ({"scores": torch.zeros(SMALL.allowed.shape, dtype=torch.int64)}, "scores finite numbers"),
        ({"scores": torch.full(SMALL.allowed.shape, torch.nan)}, "scores finite numbers"),
        ({"wiring": SMALL.facts() | {"layers": 0}}, "holds no circuit: .* are not the sizes of a model"),
        ({"wiring": {"layers": 2}}, "holds no circuit"),
    ],
)
def test_files_that_hold_no_circuit(tmp_path, changes, said):
    assert Circuit.load(saved(tmp_path)).size == SMALL.allowed.sum()
    with pytest.raises(RunError, match=said):
        Circuit.load(saved(tmp_path, **changes))


def test_a_circuit_needs_the_name_of_a_file(tmp_path):
    for place in (".", "", "/"):
        with pytest.raises(InputError, match="names no file; give the path of a new one"):
            circuit_file(place)
    assert [circuit_file(tmp_path / name).name for name in ("a", "a.json", "a.safetensors", "a.b")] == [
        "a.safetensors", "a.safetensors", "a.safetensors", "a.b.safetensors",
    ]  # fmt: skip
    assert circuit_file(tmp_path / "a.safetensors", ".json").name == "a.json"


def graph_of(layers, heads, edges=1):
    cfg = {"n_layers": layers, "n_heads": heads, "d_model": 8, "parallel_attn_mlp": False}
    entry = {"score": None, "in_graph": True}
    names = [f"input->a0.h{head}<{kind}>" for kind in "qkv" for head in range(heads)][:edges]
    return {"cfg": cfg, "nodes": {}, "edges": dict.fromkeys(names, entry)}


def test_a_graph_lists_one_edge_in_a_thousand():
    """12 layers of 12 heads have 32 491 edges: 33 of them are enough."""
    found = from_graph(graph_of(12, 12, 33))
    assert (found.size, found.scores.any()) == (33, False)  # scores that nobody made are 0
    with pytest.raises(InputError, match="a graph of 12 layers of 12 heads has 32491 edges, and 32 are listed"):
        from_graph(graph_of(12, 12, 32))
    graph = graph_of(1, 2)
    graph["nodes"] = {"m0": {"neurons": [1]}}
    with pytest.raises(InputError, match="node m0 of the graph holds a mask of neurons"):
        from_graph(graph)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"kinds": ("am", "sm")}, "linear mixers"),
        ({"kinds": ("am", "a")}, "layers of several kinds"),
        ({"shared_key": True}, "shared keys"),
        ({"gates": True}, "gates of heads"),
        ({"kinds": ("am", "a"), "gates": True}, "layers of several kinds"),
    ],
)
def test_what_the_other_format_does_not_know(more, said):
    wiring = Wiring(2, 2, 2, **more)
    with pytest.raises(InputError, match=f"knows heads and MLPs in every layer, and no {said}$"):
        to_graph(Circuit(wiring, wiring.allowed, wiring.allowed * 1.0))


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be(llama):
    pairs = [random_pair(0)]
    with pytest.raises(InputError, match="over the corrupted or the clean prompts, not 'both'"):
        reference(llama, pairs, "mean", over="both")
    with pytest.raises(InputError, match="no repeated sequences were given"):
        repetition(llama, {})
    with pytest.raises(InputError, match="sequences of 4 tokens said twice have 9 tokens, not 10"):
        repetition(llama, {4: torch.zeros(1, 10, dtype=torch.long)}, prefix=1)
    with pytest.raises(InputError, match="heads can be knocked out meanwhile only on paths to the logits"):
        path_patching(llama, pairs, [Receiver("q", 1, 0)], sweep=Sweep(without=(Head(0, 0),)))
    with pytest.raises(InputError, match="the final residual is read at END, so a path into it cannot stand at A"):
        path_patching(llama, pairs, at="A")
    with pytest.raises(InputError, match="a search needs prompts of at least one corruption"):
        find_circuit(llama, {})
    with pytest.raises(KeyError):
        Search(())["s_inhibition"]


def test_a_step_whose_role_or_receivers_are_missing_is_passed_over(llama):
    pairs = [random_pair(0), random_pair(1)]
    steps = [
        Step("first", "logits"),
        Step("second", "q", into="first", at="S2"),
    ]
    for step in (Step("odd", "logits", into="none"), Step("odd", "logits", knocked_out="none")):
        with pytest.raises(InputError, match="step odd builds on none, which is no earlier step"):
            find_circuit(llama, {"x": pairs}, [step])
    with pytest.raises(InputError, match="step odd needs prompts with corruption 'y'"):
        find_circuit(llama, {"x": pairs}, [Step("odd", "logits", corruption="y")])
    found = find_circuit(llama, {"x": pairs}, steps, SearchSettings(rule="deviation", sigmas=0, null=False))
    if found["first"].supporting:
        assert found["second"].skipped == "not every prompt has the role S2"
    else:
        assert found["second"].skipped == "first found no head to receive"


# -- numbers that are none ---------------------------------------------------------------------------------------------


def test_the_first_sender_without_a_number_is_named_with_its_prompt(llama, monkeypatch):
    def broken(model, work, asked, units, done):
        values = np.zeros(2)
        for _ in units:
            yield Scored((1, 2), values, values, [(Head(1, 0), np.array([0.0, np.inf])), (Head(0, 0), values)], [])

    monkeypatch.setattr(methods, "over_workers", broken)
    pairs = [random_pair(item) for item in range(3)]
    with pytest.raises(NonFinite, match=r"^llama: patching 1\.0 gives no number, first for prompt pair 3$"):
        path_patching(llama, pairs, senders=[Head(0, 0), Head(1, 0)])
    monkeypatch.setattr(
        eap, "_inner_products", lambda *_: torch.full(Wiring.of(llama).allowed.shape, torch.nan).double()
    )
    with pytest.raises(NonFinite, match="eap: a score of llama is not finite; try float32"):
        eap.edge_attribution(llama, pairs, "eap")


# -- constants that are fitted to each circuit -------------------------------------------------------------------------


def test_optimal_constants_are_fitted_to_each_set_by_itself(llama, monkeypatch):
    pairs, sets = random_pairs()[:2], [[Head(0, 0)], [], [MLP(1), Head(2, 1)]]
    asked, told = [], []
    silent = reference(llama, pairs, "zero")

    def fitted(model, prompts, nodes, budget=None):
        asked.append(list(nodes))
        return silent, []

    monkeypatch.setattr(ablation, "optimal_values", fitted)
    own, logged = ablation.ablated_answers(llama, pairs, sets, "optimal", [2], done=told.append)
    plain, alone = ablation.ablated_answers(llama, pairs, sets, "zero", [2])
    assert asked == sets
    assert np.allclose(own, plain, atol=1e-5)
    assert np.allclose(logged[2], alone[2], atol=1e-5)
    assert np.isnan(logged[:2]).all()
    assert sum(told) == 3 * 2

    masks = [Wiring.of(llama).allowed, Wiring.of(llama).allowed & False]
    monkeypatch.setattr(edge_faithfulness, "optimal_reference", lambda *_, **__: (silent, []))
    found = EdgeSpace(llama, pairs, "optimal").differences(masks)
    counted = []
    assert np.allclose(
        found, edge_ablation.logit_differences(llama, pairs, masks, silent, done=counted.append), atol=1e-5
    )
    assert sum(counted) == 2 * 2


@torch.no_grad()
def test_what_attribution_follows_by_default_is_the_logit_difference(llama):
    (rows,) = batches([random_pair(0)], 99, llama.device)
    final = torch.randn(2, 1, 1, llama.width, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logit_diff.followed(llama, rows, final, "ld"), logit_diff.scores(llama, rows, final))


# -- routes ------------------------------------------------------------------------------------------------------------


def test_routes_need_heads_and_an_mlp_in_every_layer():
    usual = dict(id="m", layers=3, mixer_layers=(), neuron_layers=(0, 1, 2), family=SimpleNamespace(head_gates=False))
    _check_attention(SimpleNamespace(**usual))
    for change, said in (
        ({"mixer_layers": (1, 2)}, "routes need heads in every layer: layer 1 of m has a linear mixer"),
        ({"neuron_layers": (0, 2)}, "routes need an MLP in every layer: layer 1 of m has none"),
        ({"family": SimpleNamespace(head_gates=True)}, "heads of m are multiplied by gates in layer 0"),
    ):
        with pytest.raises(UnsupportedModel, match=said):
            _check_attention(SimpleNamespace(**(usual | change)))


@torch.no_grad()
def test_patterns_that_are_not_those_of_the_heads_are_refused(llama, monkeypatch):
    ids, trunk = torch.arange(4, 10)[None], llama.trunk_module

    def saying(change):
        def run(**asked):
            return SimpleNamespace(attentions=change(trunk(**asked).attentions))

        monkeypatch.setattr(llama, "trunk_module", run)

    with routes.eager(llama):
        saying(lambda known: [1.01 * part for part in known])
        assert len(_record(llama, ids).patterns) == llama.layers
        saying(lambda known: [1.05 * part for part in known])
        with pytest.raises(UnsupportedModel, match="llama: patterns times values are not its heads' outputs"):
            _record(llama, ids)
        for nothing in (None, [], [None]):
            saying(lambda _, nothing=nothing: nothing)
            with pytest.raises(UnsupportedModel, match="llama: its eager attention returns no patterns"):
                _record(llama, ids)


@torch.no_grad()
def plainly_followed(model, ids, taus, epsilon):
    """Routes of one prompt, one target at a time, at one threshold at a time."""
    with routes.eager(model):
        seen = _record(model, torch.tensor([ids]))
    heads = np.zeros((len(taus), model.layers, model.heads), dtype=bool)
    mlps, strength = np.zeros((len(taus), model.layers), dtype=bool), np.zeros((model.layers, model.heads))
    for level, tau in enumerate(taus):
        active = {len(ids) - 1}
        for layer in reversed(range(model.layers)):
            below = set()
            for target in active:
                parts = shares(layer_of(model, seen, layer, 0, len(ids)), [target], epsilon)
                fed = float(parts.mlp[0]) > tau
                mlps[level, layer] |= fed
                inside = True if parts.mid is None else fed or float(parts.mid[0]) > tau
                if not inside:
                    continue
                edges = parts.heads[0] > tau
                heads[level, layer] |= edges.any(1).numpy()
                if not level:
                    found = torch.where(edges, parts.heads[0], 0).amax(1).double().numpy()
                    strength[layer] = np.maximum(strength[layer], found)
                below |= set(edges.any(0).nonzero()[:, 0].tolist())
                if float(parts.residual[0]) > tau or (parts.mid is None and fed):
                    below.add(target)
            active = below
    return heads, mlps, strength


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_routes_are_followed_down_as_by_one_target_at_a_time(family):
    model, taus = Model(tiny_model(family), tiny_tokenizer(), id=family), (0.005, 0.015, 0.03)
    prompts = [random_pair(0).clean, random_pair(2, length=7, changed=(0, 4)).clean]
    found = flow_routes(model, prompts, taus)
    for place, ids in enumerate(prompts):
        heads, mlps, strength = plainly_followed(model, list(ids), taus, routes.EPSILON)
        assert (found.heads[:, place] == heads).all()
        assert (found.mlps[:, place] == mlps).all()
        assert found.strength[place] == pytest.approx(strength, abs=1e-5)
    assert found.heads[0].sum() > found.heads[1].sum() > 0
    for odd in ((0.0,), (1.0,), (), (0.1, 1.5)):
        with pytest.raises(InputError, match="thresholds of routes lie between 0 and 1"):
            flow_routes(model, prompts, odd)


# -- one key and value head for each query head ------------------------------------------------------------------------


def test_a_projection_is_written_once_for_each_query_head():
    module = torch.nn.Linear(3, 4)
    wide = _repeated(module, 2, 3)
    assert wide.weight.shape == (12, 3)
    for head in range(6):
        assert torch.equal(wide.weight[2 * head : 2 * head + 2], module.weight[2 * (head // 3) : 2 * (head // 3) + 2])
        assert torch.equal(wide.bias[2 * head : 2 * head + 2], module.bias[2 * (head // 3) : 2 * (head // 3) + 2])
    assert _repeated(torch.nn.Linear(3, 4, bias=False), 2, 3).bias is None
    with pytest.raises(UnsupportedModel, match="edges cannot be counted by query head, layer 1 has a linear mixer"):
        ungrouped(SimpleNamespace(id="m", mixer_layers=(1, 2)))
    alike = SimpleNamespace(id="m", mixer_layers=(), heads=2, kv_heads=2)
    assert ungrouped(alike) is alike
    assert str(FINAL) == "logits"
    assert str(EMBEDDING) == "embedding"
