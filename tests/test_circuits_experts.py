"""Experts as senders of patching: against edits of routed neurons, sums against the mixture, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits import MLP, Expert, Head, activation_patching, parse_node, path_patching
from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.cache import record
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import check_nodes, experts_of
from babelscope.circuits.patching.expert_nodes import expert_changes
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.errors import InputError
from babelscope.models import Model, load_model
from babelscope.models.experts import Routed, attach
from babelscope.models.hooks import Site, capture
from babelscope.report.page import build_page
from babelscope.results.rows import read_rows
from babelscope.results.schemas.circuits import ExpertEffect
from babelscope.studies.circuit_experts import PatchedExperts, expert_rows
from babelscope.studies.circuit_measures import prompts_of
from babelscope.studies.circuits import CircuitsSettings, study_circuits
from tests import reference
from tests.random_pairs import random_pairs
from tests.tiny_mixtures import mixture
from tests.tiny_models import tiny_model, tiny_tokenizer

TYPES = ("mixtral", "qwen2_moe", "gpt_oss", "olmoe", "glm4_moe", "phimoe")


def by_edit(model, pair, node):
    """LD of the clean prompt in which one expert's neurons are those that it makes of the corrupted prompt's input."""
    finals = []
    experts = model.mixtures[node.layer].experts
    for ids, corrupted in zip(reference.prompts_of(pair, "clean"), reference.prompts_of(pair, "corrupted")):
        with torch.no_grad(), capture(model, [Site("mlp_in", node.layer)]) as seen:
            model.trunk(corrupted)
        read = seen[Site("mlp_in", node.layer)].flatten(0, 1)

        def other(pairs: Routed, read=read):
            rows = pairs.experts == node.expert
            wide = read[pairs.tokens[rows]]
            name = "gate_up_proj" if experts.has_gate else "up_proj"
            weight = getattr(experts, name)[node.expert]
            raised = wide @ weight if experts.is_transposed else wide @ weight.T
            if experts.has_bias:
                raised = raised + getattr(experts, f"{name}_bias")[node.expert]
            made = experts._apply_gate(raised) if experts.has_gate else experts.act_fn(raised)
            return pairs.values.index_put((rows.nonzero()[:, 0],), made)

        handle = attach(model.mixtures[node.layer], other)
        try:
            with torch.no_grad():
                finals.append(model.trunk(ids))
        finally:
            handle.remove()
    return reference.logit_difference(model, finals, pair.target, pair.foil)


@pytest.mark.parametrize("name", TYPES)
def test_an_expert_is_patched_as_an_edit_of_its_neurons_patches_it(name):
    model, pairs = mixture(name), random_pairs()[:1]
    last = max(model.mixtures)
    nodes = [Expert(last, expert) for expert in range(3)]
    found = activation_patching(model, pairs, nodes).patched
    wanted = [[by_edit(model, pair, node) for pair in pairs] for node in nodes]
    assert np.allclose(found, wanted, atol=2e-5)
    assert not np.allclose(found, activation_patching(model, pairs, nodes).base, atol=1e-6)
    direct = path_patching(model, pairs, senders=nodes, at=None).patched
    assert np.allclose(direct, found, atol=2e-5)  # behind the last mixture nothing but the final norm is left


def test_an_expert_before_a_norm_is_patched_through_it():
    model, pairs = Model(tiny_model("afmoe"), tiny_tokenizer(), id="afmoe"), random_pairs()[:1]
    nodes = [Expert(max(model.mixtures), expert) for expert in range(3)]
    found = activation_patching(model, pairs, nodes)
    assert np.allclose(found.patched, [[by_edit(model, pairs[0], node)] for node in nodes], atol=2e-5)
    assert not np.allclose(found.patched, found.base, atol=1e-3)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "olmoe"])
def test_free_experts_add_up_to_the_mixture(name):
    model, pairs = mixture(name), random_pairs()[:2]
    layer = min(model.mixtures)
    for rows in batches(pairs, 512, model.device):
        with torch.no_grad():
            runs = record(model, rows)
            positions = rows.span(None, rows.clean, rows.corrupted)
            every = list(range(model.mixtures[layer].count))
            changes = expert_changes(model, runs, layer, every, positions, "free")
            frozen = expert_changes(model, runs, layer, every, positions, "frozen")
        place = torch.arange(len(positions))[:, None]
        whole = (runs.source.mlp[layer] - runs.base.mlp[layer])[place, positions]
        assert torch.allclose(changes.sum(0), whole, atol=1e-5)
        assert not torch.allclose(frozen.sum(0), whole, atol=1e-3)


def test_heads_mlps_and_experts_go_together_in_one_sweep():
    model, pairs = mixture("mixtral"), random_pairs()[:2]
    nodes = [Head(0, 1), MLP(1), Expert(1, 0), Expert(1, 3), Expert(0, 2)]
    for patching in (
        lambda some: activation_patching(model, pairs, some, at="B"),
        lambda some: path_patching(model, pairs, senders=some),
        lambda some: path_patching(model, pairs, senders=some, mlps="frozen"),
        lambda some: path_patching(model, pairs, senders=some, sweep=Sweep(routing="free")),
    ):
        together = patching(nodes).patched
        alone = np.concatenate([patching([node]).patched for node in nodes])
        assert np.allclose(together, alone, atol=1e-5)
    frozen, free = (
        activation_patching(model, pairs, nodes[2:], sweep=Sweep(routing=one)).patched for one in ("frozen", "free")
    )
    assert not np.allclose(frozen, free, atol=1e-5)


def test_experts_have_names_and_bounds():
    model = mixture("qwen3_moe")
    assert parse_node("m1.3") == Expert(1, 3)
    assert str(Expert(1, 3)) == "m1.3"
    assert experts_of(model)[0] == Expert(min(model.mixtures), 0)
    with pytest.raises(InputError, match=r"m0.1: layer 0 of tiny-qwen3_moe has not experts: layers 1, 2 have"):
        check_nodes(model, [Expert(0, 1)])
    with pytest.raises(InputError, match="experts 0 to 5"):
        check_nodes(model, [Expert(1, 6)])


def test_a_study_patches_the_experts_when_it_is_asked_to(tmp_path):
    model = load_model("pocket:pocket-moe")
    small = dict(languages=("en",), n=8, draws=2, repeats=(10,), windows=(1,), permutations=50, edges=False)
    run = study_circuits(model, CircuitsSettings(**small, experts="frozen"), tmp_path / "run")
    rows = read_rows(run, ExpertEffect)
    assert len(rows) == len(experts_of(model))
    pairs = prompts_of(model, CircuitsSettings(**small), "en").main
    wanted = activation_patching(model, pairs, experts_of(model)).effect
    found = [row.effect for row in sorted(rows, key=lambda row: (row.layer, row.expert))]
    assert np.allclose(found, wanted, atol=1e-5)
    assert abs(rows[0].effect) == max(abs(row.effect) for row in rows)
    assert all(row.effect_low <= row.effect <= row.effect_high for row in rows if np.isfinite(row.effect_low))
    assert any(row.effect != 0 for row in rows)
    assert {row.selected for row in rows} <= {"yes", ""}
    assert "Each routed expert of the mixture" in build_page([run])


def test_experts_of_a_model_without_any_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no experts; leave the option out"):
        study_circuits(load_model("pocket:pocket-bloom-s"), CircuitsSettings(experts="free"), tmp_path / "run")


def test_the_expert_that_acts_is_selected_and_a_silent_one_has_no_interval():
    rng = np.random.default_rng(0)
    nodes = tuple(Expert(0, place) for place in range(8))
    base = np.full(20, 4.0)
    change = rng.normal(0, 0.1, (8, 20))
    change[3] -= 2.0  # half of the logit difference
    change[5] = 0.0  # no patched token goes there
    found = Effects(nodes, base + change, base, base - 8)
    null = Effects(nodes, base + rng.normal(0, 0.1, (8, 20)), base, base)
    rows = {row.expert: row for row in expert_rows({"en": PatchedExperts(found, found, null)}, CircuitsSettings())}
    assert [expert for expert, row in rows.items() if row.selected] == [3]
    assert rows[3].effect == pytest.approx(-0.5, abs=0.02)
    assert rows[3].effect_low < -0.5 < rows[3].effect_high < 0
    assert rows[3].p < 1e-6 < rows[0].p
    assert rows[5].effect == 0
    assert np.isnan(rows[5].effect_low)
