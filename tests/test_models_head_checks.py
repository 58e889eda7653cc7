"""Each check of attention and mixers meets a model that must fail it, by an amount that is known beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from babelscope.models import head_checks
from babelscope.models.mixture_checks import difference

from .planted_faults import IDS, by_head, entering, fixed_weight, model, near, output, twice


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_an_output_projection_that_is_not_its_weight_is_seen_in_each_layer(family, layer):
    one = model(family)
    with torch.inference_mode():
        assert head_checks.head_weights(one, IDS) <= 1e-5
        with output(one.part(one.family.attention_output, layer), twice):
            assert head_checks.head_weights(one, IDS) == near(0.5)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("layer", [0, 2])
def test_queries_keys_and_values_that_are_not_their_weights_are_seen(place, layer):
    one = model()
    with torch.inference_mode():
        assert head_checks.projection_weights(one, IDS) <= 1e-5
        with output(one.part(one.family.qkv[place], layer), twice):
            assert head_checks.projection_weights(one, IDS) == near(0.5)


@pytest.mark.parametrize(("factor", "error"), [(0.5, 0.0), (2.0, 0.5), (-1.0, 1.0)])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_head_is_a_share_of_its_value_and_no_multiple(factor, error, layer):
    one = model()
    with torch.inference_mode():
        assert head_checks.value_layout(one, IDS) <= 1e-5
        with entering(one.part("self_attn.o_proj", layer), by_head(lambda heads: heads.mul_(factor))):
            assert head_checks.value_layout(one, IDS) == near(error)


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
def test_a_head_that_has_the_value_of_another_group_is_seen(family):
    one = model(family)

    def swapped(heads: Tensor) -> None:
        heads[:] = heads[..., [0, 2, 1, 3], :].clone()

    with torch.inference_mode():
        assert head_checks.value_layout(one, IDS) <= 1e-4
        with entering(one.part("self_attn.o_proj", one.attention_layers[0]), by_head(swapped)):
            assert head_checks.value_layout(one, IDS) > 0.05


@pytest.mark.parametrize(("other", "head", "seen"), [(1, 0, True), (0, 3, True), (3, 0, True), (0, 1, False)])
def test_a_query_that_moves_another_head_is_seen(other, head, seen):
    """Of the first and the last head; what flows from a head between them is not asked about."""
    one = model()

    def leak(heads: Tensor) -> None:
        heads[..., other, :] += heads[..., head, :]

    with torch.inference_mode():
        assert head_checks.query_key_layout(one, IDS) == 0
        with entering(one.part("self_attn.o_proj", 2), by_head(leak)):
            found = head_checks.query_key_layout(one, IDS)
    assert (found > 0.01) is seen
    assert found != float("inf")


@pytest.mark.parametrize("head", [0, 3])
def test_a_head_that_its_query_does_not_move_is_seen(head):
    one = model()
    with torch.inference_mode():
        with entering(one.part("self_attn.o_proj", 2), by_head(lambda heads: heads[..., head, :].zero_())):
            assert head_checks.query_key_layout(one, IDS) == float("inf")
        with entering(one.part("self_attn.o_proj", 1), by_head(lambda heads: heads[..., head, :].zero_())):
            assert head_checks.query_key_layout(one, IDS) == 0


@pytest.mark.parametrize("member", range(4))
def test_a_key_moves_every_head_of_its_group(member):
    one = model()

    def still(heads: Tensor) -> None:
        heads[..., member, :] = 1.0

    with torch.inference_mode(), entering(one.part("self_attn.o_proj", 2), by_head(still)):
        assert head_checks.query_key_layout(one, IDS) == float("inf")


@pytest.mark.parametrize(("layer", "seen"), [(0, False), (1, True), (2, False)])
def test_weights_that_do_nothing_are_seen_in_the_layer_in_the_middle(layer, seen):
    """What is missed is what the last head writes there."""
    one = model()
    with torch.inference_mode():
        assert head_checks.head_ablation(one, IDS) <= 1e-5
        whole = one.trunk(IDS)
        with entering(one.part("self_attn.o_proj", layer), by_head(lambda heads: heads[..., 3, :].zero_())):
            missed = difference(one.trunk(IDS), whole)
        with fixed_weight(one.part("self_attn.o_proj", layer)):
            found = head_checks.head_ablation(one, IDS)
    assert missed > 0.01
    assert found == near(missed if seen else 0.0)


def test_a_mixer_whose_weights_do_nothing_is_seen():
    one = model("qwen3_5")
    assert one.mixer_layers == (0, 2)
    with torch.inference_mode():
        assert head_checks.mixer_ablation(one, IDS) <= 1e-5
        for layer in one.mixer_layers:
            with fixed_weight(one.part(one.family.state_output, layer)):
                assert head_checks.mixer_ablation(one, IDS) > 0.01


@pytest.mark.parametrize(("family", "path"), [("phi", "self_attn.dense"), ("gpt2", "attn.c_proj")])
def test_weights_of_a_head_stand_again_after_they_were_zeroed(family, path):
    one = model(family)
    part = one.part(path, 1)
    weight, bias = part.weight, part.bias
    with torch.inference_mode():
        whole = one.trunk(IDS)
        gone = head_checks._without(one, 1, path, IDS, slice(24, 32))
        assert part.weight is weight
        assert part.bias is bias
        assert torch.equal(one.trunk(IDS), whole)
        with entering(part, by_head(lambda heads: heads[..., 3, :].zero_())):
            torch.testing.assert_close(gone, one.trunk(IDS))


def test_a_projection_without_its_weights_puts_out_nothing():
    one = model("phi")
    part = one.part("self_attn.dense", 1)
    bias = part.bias
    with torch.inference_mode():
        gone = head_checks._without(one, 1, "self_attn.dense", IDS)
        assert part.bias is bias
        with output(part, torch.zeros_like):
            torch.testing.assert_close(gone, one.trunk(IDS))
