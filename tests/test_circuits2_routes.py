"""Information flow routes against the sums with everything in memory; identities; statistics of two languages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits.comparison.head_frequency import compare, reliability, rows
from babelscope.circuits.heads import routes
from babelscope.circuits.heads.routes import SWEEP, flow_routes, layer_of, shares
from babelscope.errors import InputError, TaskError, UnsupportedModel
from babelscope.models import Model
from babelscope.models.hooks import hook_count
from tests.random_pairs import random_pairs
from tests.reference_routes import flow_parts, naive_shares
from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer

SUMMING = [family for family in FAMILIES if family != "opt-350m"]
IDS = torch.tensor([[5, 9, 33, 8, 71, 40, 12]])


def tiny(family, **changes):
    return Model(tiny_model(family, **changes), tiny_tokenizer(), id=family)


@pytest.fixture(scope="module", params=SUMMING)
def model(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


@torch.no_grad()
def taken_apart(model, layer, ids=IDS):
    with routes.eager(model):
        seen = routes._record(model, ids)
    return layer_of(model, seen, layer, 0, ids.shape[1])


def test_parts_residual_and_bias_are_the_whole(model):
    for layer in range(model.layers):
        parts, entering, bias, attention, mlp = flow_parts(model, IDS, layer)
        whole = entering + bias + parts.sum((1, 2))
        assert torch.allclose(whole, entering + attention, atol=1e-4)
        mine = taken_apart(model, layer)
        assert torch.allclose(mine.entering + mine.attention + mine.mlp, whole + mlp, atol=1e-4)


@torch.no_grad()
def test_shares_equal_the_plain_loop_and_sum_to_one(model):
    targets = [0, 3, 6]
    for layer in range(model.layers):
        mine = shares(taken_apart(model, layer), targets)
        heads, residual, feed = naive_shares(model, IDS, layer, routes.EPSILON)
        assert torch.allclose(mine.heads, heads[targets], atol=1e-5)
        assert torch.allclose(mine.residual, residual[targets], atol=1e-5)
        assert torch.allclose(mine.mlp, feed[targets], atol=1e-5)
        total = mine.heads.sum((1, 2)) + mine.residual
        if mine.mid is None:
            total = total + mine.mlp
        else:
            assert torch.allclose(mine.mlp + mine.mid, torch.ones(3), atol=1e-6)
        assert torch.allclose(total, torch.ones(3), atol=1e-5)


@torch.no_grad()
def test_few_targets_at_a_time_give_the_same(llama, monkeypatch):
    layer = taken_apart(llama, 1)
    whole = shares(layer, range(7)).heads
    monkeypatch.setattr(routes, "ELEMENTS", {"cpu": 1})
    assert torch.allclose(shares(layer, range(7)).heads, whole, atol=1e-7)


def test_routes_are_monotone_in_the_threshold(llama):
    found = flow_routes(llama, random_pairs(), SWEEP)
    assert found.heads.shape == (len(SWEEP), 5, 3, 4)
    for lower, higher in zip(found.heads, found.heads[1:]):
        assert (lower | ~higher).all()
    for lower, higher in zip(found.mlps, found.mlps[1:]):
        assert (lower | ~higher).all()
    assert found.heads[0].sum() > found.heads[-1].sum()
    assert ((found.strength > SWEEP[0]) == found.heads[0]).all()


def test_thresholds_swept_together_are_thresholds_taken_alone(llama):
    together = flow_routes(llama, random_pairs(), SWEEP)
    for tau in (0.02, 0.05):
        alone = flow_routes(llama, random_pairs(), (tau,))
        assert (alone.used(tau) == together.used(tau)).all()
        assert np.array_equal(alone.mlp_frequency(tau), together.mlp_frequency(tau))


def test_batch_size_and_padding_change_no_route(llama):
    prompts = random_pairs()
    whole, alone = flow_routes(llama, prompts, SWEEP), flow_routes(llama, prompts, SWEEP, budget=1)
    assert (whole.heads == alone.heads).all()
    assert np.allclose(whole.strength, alone.strength, atol=1e-6)
    assert (flow_routes(llama, [pair.clean for pair in prompts], SWEEP).heads == whole.heads).all()


def test_a_silent_head_is_on_no_route():
    model = tiny("gpt2")
    with torch.no_grad():
        model.hf.transformer.h[1].attn.c_proj.weight[8:16] = 0  # head 1
    found = flow_routes(model, random_pairs(), (0.005,))
    assert not found.used(0.005)[:, 1, 1].any()
    assert found.used(0.005)[:, 1].any()


def test_the_model_and_its_kernel_are_left_as_they_were(llama):
    hooks, kernel = hook_count(llama.hf), llama.config._attn_implementation
    flow_routes(llama, random_pairs()[:1])
    assert (hook_count(llama.hf), llama.config._attn_implementation) == (hooks, kernel)


def test_bad_input_is_one_clear_line(llama):
    with pytest.raises(InputError, match="between 0 and 1, got 0, 2"):
        flow_routes(llama, random_pairs(), (0, 2))
    with pytest.raises(TaskError, match="no prompt"):
        flow_routes(llama, [])
    with pytest.raises(InputError, match="no routes at τ"):
        flow_routes(llama, random_pairs()[:1]).frequency(0.9)
    with pytest.raises(UnsupportedModel, match="writes miss the final residual"):
        flow_routes(tiny("opt-350m"), random_pairs())


# -- two languages ----------------------------------------------------------------------------------------------------


def draws(rate, prompts, seed):
    return np.random.default_rng(seed).random((prompts, *rate.shape)) < rate


def test_samples_of_one_source_correlate_at_their_ceiling():
    rate = np.random.default_rng(0).beta(0.5, 0.5, (4, 8))
    found = compare(draws(rate, 40, 1), draws(rate, 40, 2), controls=(rate, rate), draws=100)
    assert found.correlation.pearson == pytest.approx(found.ceiling, abs=0.03)
    assert found.low <= found.correlation.pearson <= found.high + 0.02
    assert found.correlation.p < 0.01
    assert found.control == pytest.approx(1, abs=0.05)
    table = rows({("en", "zh"): found})
    assert [row.measure for row in table] == ["head_frequency_pearson", "head_frequency_spearman"]
    assert table[0].language2 == "zh"


def test_what_only_layers_share_is_what_the_null_gives():
    layers = np.array([0.1, 0.3, 0.6, 0.9])[:, None] + np.zeros(8)
    first, second = (np.clip(layers + np.random.default_rng(s).normal(0, 0.08, (4, 8)), 0, 1) for s in (1, 2))
    found = compare(draws(first, 200, 3), draws(second, 200, 4), draws=50)
    assert found.correlation.pearson > 0.8
    assert found.correlation.pearson_null > 0.8
    assert found.correlation.p > 0.05


def test_one_prompt_has_no_halves():
    assert np.isnan(reliability(np.ones((1, 2, 2), dtype=bool)))
