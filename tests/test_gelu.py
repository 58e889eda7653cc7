"""GELU in one pass: what the model's own steps give, for as long as it is asked for, and never over another forward."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from babelscope.circuits.core.cache import run
from babelscope.models import Model
from babelscope.models.foreign import foreign_registrations
from babelscope.models.gate import require
from babelscope.models.gelu import fused_gelu
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.arange(24).reshape(2, 12) % 20 + 5


def tiny(family: str, dtype: torch.dtype = torch.float32) -> Model:
    return Model(tiny_model(family).to(dtype), tiny_tokenizer(), id=family)


def activations(model):
    name = "gelu_impl" if hasattr(model.blocks[0].mlp, "gelu_impl") else "act"
    return [getattr(block.mlp, name) for block in model.blocks]


@pytest.mark.parametrize("family", ["bloom", "gpt2"])
def test_it_gives_what_the_steps_give_and_the_same_slope(family):
    model = tiny(family, torch.float64)
    own = activations(model)[0]
    value = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    expected = 0.5 * value * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (value + 0.044715 * value**3)))
    (slope,) = torch.autograd.grad(expected.sum(), value)
    with fused_gelu(model):
        found = own(value)
    # BLOOM writes √(2/π) with eight digits
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.allclose(own(value), expected, atol=1e-7)
    assert torch.allclose(torch.autograd.grad(found.sum(), value)[0], slope, atol=1e-12)


@pytest.mark.parametrize("family", ["bloom", "gpt2"])
@torch.no_grad()
def test_a_recorded_run_is_the_models_own(family):
    model = tiny(family)
    found = run(model, IDS)
    assert torch.allclose(found.final, model.trunk(IDS), atol=1e-5)
    assert all("forward" not in part.__dict__ for part in activations(model))


@torch.no_grad()
def test_it_is_used_inside_and_hooks_still_run():
    model, seen = tiny("bloom"), []
    handles = [part.register_forward_hook(lambda *_: seen.append(1)) for part in activations(model)]
    try:
        with fused_gelu(model), fused_gelu(model):
            assert all("forward" in part.__dict__ for part in activations(model))
            model.trunk(IDS)
        assert all("forward" not in part.__dict__ for part in activations(model))
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == model.layers


@torch.no_grad()
def test_what_stands_in_its_place_stays():
    model = tiny("bloom")
    part = activations(model)[1]
    part.forward = torch.zeros_like
    with fused_gelu(model):
        assert part(torch.ones(3)).eq(0).all()
    assert part(torch.ones(3)).eq(0).all()


def test_narrow_numbers_and_other_activations_are_left_alone():
    narrow, other = tiny("bloom", torch.bfloat16), tiny("gpt2")
    other.blocks[0].mlp.act = nn.GELU()
    with fused_gelu(narrow), fused_gelu(other):
        assert all("forward" not in part.__dict__ for part in activations(narrow))
        assert "forward" not in other.blocks[0].mlp.act.__dict__
        assert "forward" in other.blocks[1].mlp.act.__dict__


def test_another_thread_goes_by_the_steps_and_the_last_to_leave_puts_them_back():
    """Two threads on one model, each inside for a while: what one asks for is not felt in the other, nor taken away."""
    model = tiny("bloom")
    own = activations(model)[0]
    value = torch.linspace(-6, 6, 1001)
    steps, one = own(value), nn.functional.gelu(value, approximate="tanh")
    assert not torch.equal(steps, one)
    inside, leave = threading.Event(), threading.Event()
    seen = {}

    def elsewhere():
        seen["before"] = own(value)
        with fused_gelu(model):
            inside.set()
            leave.wait(60)
            seen["alone"] = own(value)
        seen["after"] = own(value)

    thread = threading.Thread(target=elsewhere)
    with fused_gelu(model):
        thread.start()
        assert inside.wait(60)
        with fused_gelu(model):
            assert torch.equal(own(value), one)
        assert torch.equal(own(value), one)
    assert torch.equal(own(value), steps)
    leave.set()
    thread.join(60)
    assert torch.equal(seen["before"], steps)
    assert torch.equal(seen["alone"], one)
    assert torch.equal(seen["after"], steps)
    assert "forward" not in own.__dict__


def test_it_is_nobody_elses_forward():
    """Asked inside, the gate finds the model that it knows: it does not begin anew while another thread is at work."""
    model = tiny("bloom")
    require(model, "circuits")
    known = model.seen
    with fused_gelu(model):
        assert foreign_registrations(model.hf) == []
        require(model, "circuits")
        assert model.seen == known
