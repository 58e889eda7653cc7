"""Norms, layouts of neurons and hashes on numbers made by hand."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import hashing
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.models.norms import NormMap, frozen_norm

# -- norms ----------------------------------------------------------------------------------------------------------


class RMS(nn.Module):
    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(gain)

    def forward(self, value: Tensor) -> Tensor:
        return value * torch.rsqrt(value.square().mean(-1, keepdim=True) + 1e-6) * self.gain


class Squared(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value**2


GAIN = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, 2.0])


def layer_norm() -> nn.LayerNorm:
    norm = nn.LayerNorm(6)
    with torch.no_grad():
        norm.weight.copy_(GAIN)
        norm.bias.copy_(torch.arange(6.0))
    return norm


def test_gain_bias_and_centring_are_read_off_a_norms_answers():
    whole = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 9.0]])
    found = NormMap.of(layer_norm(), 6, whole)
    assert found.centred
    assert found.bias.tolist() == pytest.approx([0, 1, 2, 3, 4, 5], abs=1e-3)
    assert (found.gain / found.gain[0]).tolist() == pytest.approx((GAIN / GAIN[0]).tolist(), rel=1e-4)
    assert found.through(whole)[0].tolist() == pytest.approx((found.gain * (whole[0] - 4)).tolist())
    rms = NormMap.of(RMS(GAIN), 6, whole)
    assert not rms.centred
    assert rms.bias.tolist() == [0] * 6
    assert rms.through(whole)[0].tolist() == pytest.approx((rms.gain * whole[0]).tolist())


@pytest.mark.parametrize("norm", [layer_norm(), RMS(GAIN)])
def test_parts_of_a_frozen_norm_add_up_to_what_it_makes(norm):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 4, 6, generator=generator)
    with torch.no_grad():
        made = norm(first + second)
        frozen = frozen_norm(norm, first + second)
        torch.testing.assert_close(frozen.part(first) + frozen.part(second) + frozen.bias, made)
        assert frozen.factor.shape == (3, 4, 1)
        torch.testing.assert_close(frozen.map.scale(first + second), frozen.factor)  # pyright: ignore[reportOptionalMemberAccess]
        norm.register_forward_hook(lambda _m, _a, out: out * 2)
        torch.testing.assert_close(frozen_norm(norm, first + second).part(first), frozen.part(first))


def test_where_there_is_no_norm_every_part_passes():
    whole = torch.ones(2, 6, dtype=torch.bfloat16)
    frozen = frozen_norm(None, whole)
    assert frozen.part(whole).dtype == torch.float32
    assert frozen.part(whole).tolist() == whole.tolist()
    assert (frozen.factor.tolist(), frozen.bias.tolist()) == ([1.0], [0.0] * 6)


def test_what_is_no_norm_has_no_linear_part():
    with pytest.raises(UnsupportedModel, match=r"^Squared is neither a LayerNorm nor an RMSNorm: no linear part"):
        frozen_norm(Squared(), torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 9.0]]))


@pytest.mark.parametrize(("share", "refused"), [(0.005, False), (0.02, True)])
def test_a_norm_misses_its_linear_part_by_a_hundredth_at_most(share, refused):
    class Bent(RMS):
        def forward(self, value: Tensor) -> Tensor:
            made = super().forward(value)
            made[..., 0] = made[..., 0] + (0 if value.shape == (1, 6) else share) * made.abs().max()
            return made

    whole = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if refused:
            with pytest.raises(UnsupportedModel, match="Bent is neither"):
                frozen_norm(Bent(GAIN), whole)
        else:
            frozen_norm(Bent(GAIN), whole)


# -- layouts --------------------------------------------------------------------------------------------------------


def test_a_layout_in_words_and_numbers():
    even, odd, none = NeuronLayout.even(2, 6), NeuronLayout((2, 0, 3)), NeuronLayout(())
    assert (even.widths, str(even), even.alike, even.offsets) == ((3, 3), "2 layers × 3 neurons", True, (0, 3, 6))
    assert (str(odd), odd.alike, odd.neurons, odd.widest) == ("3 layers of 0 to 3 neurons", False, 5, 3)
    assert (odd.with_neurons, odd.offsets, odd.layers) == ([0, 2], (0, 2, 2, 5), 3)
    assert (none.alike, none.neurons, none.widest, none.offsets) == (True, 0, 0, (0,))
    assert [odd.columns(layer) for layer in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 5)]
    assert [odd.name(place) for place in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert [odd.place(*name) for name in ((0, 0), (0, 1), (2, 0), (2, 2))] == [0, 1, 2, 4]
    assert NeuronLayout.even(1, 5).widths == (5,)
    assert NeuronLayout.even(3, 0).widths == (0, 0, 0)


@pytest.mark.parametrize(("layers", "neurons"), [(0, 6), (-1, 6), (4, 6), (2, 7)])
def test_neurons_that_do_not_divide_are_told(layers, neurons):
    with pytest.raises(InputError, match=f"^{neurons} neurons do not divide into {layers} layers: say how many"):
        NeuronLayout.even(layers, neurons)


@pytest.mark.parametrize(
    ("layer", "neuron", "told"),
    [
        (3, 0, "there is no layer 3: layers 0–2"),
        (-1, 0, "there is no layer -1: layers 0–2"),
        (0, 2, "there is no neuron 2 in layer 0: it has neurons 0–1"),
        (0, -1, "there is no neuron -1 in layer 0: it has neurons 0–1"),
        (1, 0, "there is no neuron 0 in layer 1: it has none"),
    ],
)
def test_a_neuron_that_is_not_there_is_told(layer, neuron, told):
    with pytest.raises(InputError, match=f"^{told}$"):
        NeuronLayout((2, 0, 3)).place(layer, neuron)


def test_neurons_in_a_row_and_by_layer():
    odd, row = NeuronLayout((2, 0, 3)), torch.arange(10.0).reshape(2, 5)
    table = odd.by_layer(row, -1)
    assert table.tolist() == [
        [[0, 1, -1], [-1, -1, -1], [2, 3, 4]],
        [[5, 6, -1], [-1, -1, -1], [7, 8, 9]],
    ]
    assert torch.equal(odd.in_a_row(table), row)
    even = NeuronLayout((2, 2))
    assert even.by_layer(torch.arange(4), 0).tolist() == [[0, 1], [2, 3]]
    assert even.in_a_row(torch.arange(8).reshape(2, 2, 2)).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert odd.exists.tolist() == [[True, True, False], [False] * 3, [True] * 3]


@pytest.mark.wrong_kind
def test_regions_are_no_mask():
    with pytest.raises(InputError, match=r"^a mask \[layer, neuron\] is needed, got dict; of a set of regions"):
        NeuronLayout((2, 0, 3)).check({}, "m")  # pyright: ignore[reportArgumentType]


def test_a_mask_fits_its_layers():
    odd = NeuronLayout((2, 0, 3))
    odd.check(odd.exists, "m")
    with pytest.raises(InputError, match=r"^a mask of shape \(3, 2\) does not fit m: layers × neurons are \(3, 3\)$"):
        odd.check(torch.zeros(3, 2, dtype=torch.bool), "m")
    for layer, neuron, width in ((0, 2, 2), (1, 0, 0)):
        mask = odd.exists.clone()
        mask[layer, neuron] = True
        told = f"^a mask names neuron {neuron} of layer {layer}, but that layer of m has {width}$"
        with pytest.raises(InputError, match=told):
            odd.check(mask, "m")


# -- hashes ---------------------------------------------------------------------------------------------------------


def test_the_hash_of_weights_is_of_names_shapes_types_and_bytes():
    part = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        part.weight.copy_(torch.tensor([[1.0, 2.0]]))
    wanted = hashlib.sha256(b"a (1, 2) torch.float32" + b"\x00\x00\x80?\x00\x00\x00@").hexdigest()
    assert hashing.weight_hash({"a": (part, "weight")}) == wanted
    assert hashing.weight_hash({"b": (part, "weight"), "a": (part, "weight")}) == wanted, "one tensor of two names"
    views = nn.Module()
    storage = torch.arange(4.0)
    views.first, views.second = nn.Parameter(storage[:2]), nn.Parameter(storage[:1])
    views.empty = nn.Parameter(torch.zeros(0))
    parts = {name: (views, name) for name in ("first", "second", "empty")}
    digest = hashlib.sha256()
    for name, tensor in (("empty", torch.zeros(0)), ("first", storage[:2]), ("second", storage[:1])):
        digest.update(f"{name} {tuple(tensor.shape)} torch.float32".encode() + tensor.numpy().tobytes())
    assert hashing.weight_hash(parts) == digest.hexdigest()


def test_settings_that_no_state_depends_on_are_not_hashed():
    def config(**settings: object) -> SimpleNamespace:
        return SimpleNamespace(to_dict=lambda: settings)

    wanted = hashlib.sha256(json.dumps({"a": 1, "b": 2}).encode()).hexdigest()
    idle = dict.fromkeys(hashing._NO_MATTER, 7)
    assert hashing.config_hash(config(b=2, a=1, **idle)) == wanted  # pyright: ignore[reportArgumentType]
    assert hashing.config_hash(config(b=3, a=1)) != wanted  # pyright: ignore[reportArgumentType]


def test_under_others_hooks_nothing_is_the_same_in_another_process(monkeypatch):
    plain = hashing.function_hash("w", "c", "sdpa", [])
    assert plain == hashlib.sha256(json.dumps(["w", "c", "sdpa", [], ""]).encode()).hexdigest()
    hooked = hashing.function_hash("w", "c", "sdpa", [("part", 3)])
    monkeypatch.setattr(hashing, "_PROCESS", "another")
    assert hashing.function_hash("w", "c", "sdpa", []) == plain
    assert hashing.function_hash("w", "c", "sdpa", [("part", 3)]) != hooked
