"""Where parts are: rows of queries, keys and values in every layout, sites of every kind, and layers without a part."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
import torch
from torch import nn

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Model
from babelscope.models.hooks import Location, Site, capture, edit, hook_count, hooked, resume, standing_edits, tracked
from babelscope.models.places import _by_head, matrix

from .planted_faults import IDS, model
from .tiny_mixtures import mixture
from .tiny_models import tiny_model, tiny_tokenizer


@lru_cache(4)
def residual_only() -> Model:
    from .test_residual_site import mamba

    return mamba()


# -- shapes ---------------------------------------------------------------------------------------------------------


def test_the_shape_of_a_model():
    one = model()
    assert (one.layers, one.width, one.heads, one.kv_heads, one.head_width) == (3, 32, 4, 2, 8)
    assert (one.widths, one.neurons, one.neurons_per_layer, one.vocabulary) == ((48,) * 3, 144, 48, 96)
    assert (one.offsets, one.neuron_layers, one.attention_layers, one.mixer_layers) == (
        (0, 48, 96, 144), (0, 1, 2), (0, 1, 2), (),
    )  # fmt: skip
    gpt = model("gpt2")
    assert (gpt.width, gpt.heads, gpt.kv_heads, gpt.head_width, gpt.widths) == (32, 4, 4, 8, (128,) * 3)
    assert model("falcon-7b").kv_heads == 1
    assert (residual_only().heads, residual_only().attention_layers, residual_only().width) == (0, (), 32)


def test_a_decoder_by_itself_has_its_own_heads():
    one = Model(tiny_model("mbart", encoder_attention_heads=2), tiny_tokenizer())
    assert (one.heads, one.kv_heads) == (4, 4)


def test_layers_of_a_hybrid_have_heads_or_a_mixer():
    one = model("qwen3_5")
    assert (one.attention_layers, one.mixer_layers, one.neuron_layers) == ((1,), (0, 2), (0, 1, 2))
    assert one.head_width == 8
    both = Model(tiny_model("falcon_h1"), tiny_tokenizer())
    assert (both.attention_layers, both.mixer_layers) == ((0, 1, 2), (0, 1, 2))
    shared = Model(tiny_model("bailing_hybrid"), tiny_tokenizer())
    assert (shared.attention_layers, shared.mixer_layers) == ((1, 3), (0, 2))
    assert (shared.latent_width, shared.kv_heads) == (16, 4)


def test_every_site_of_a_model_in_its_order():
    one = model("qwen3_5")
    kinds = [[site.kind for site in one.sites() if site.layer == layer] for layer in range(4)]
    mlp = ["mlp_in", "neurons", "mlp_write"]
    assert kinds == [
        ["residual", "state_write", *mlp],
        ["residual", "q", "k", "v", "gate", "z", "attention_write", *mlp],
        ["residual", "state_write", *mlp],
        ["residual"],
    ]
    latent = model("deepseek_v3")
    assert latent.readings == ("q", "k", "v", "shared_key")
    assert [site.kind for site in latent.sites()][:7] == [
        "residual", "q", "k", "v", "shared_key", "z", "attention_write",
    ]  # fmt: skip
    assert "router" not in [site.kind for site in latent.sites() if site.layer == 0]
    assert [site.kind for site in latent.sites() if site.layer == 1][-1] == "router"


# -- rows of a projection -------------------------------------------------------------------------------------------


def rows(family: str, kind: str) -> list[list[int]]:
    """First rows of each head of a projection."""
    found = model(family).locate(Site(kind, 0)).rows  # pyright: ignore[reportArgumentType]
    assert found is not None
    return found[:, [0, -1]].tolist()


def every(starts: list[int], width: int = 8) -> list[list[int]]:
    return [[start, start + width - 1] for start in starts]


@pytest.mark.parametrize(
    ("family", "q", "k", "v"),
    [
        # separate projections count from 0 each
        ("llama", [0, 8, 16, 24], [0, 8], [0, 8]),
        # all queries, all keys, all values
        ("gpt2", [0, 8, 16, 24], [32, 40, 48, 56], [64, 72, 80, 88]),
        ("phi3", [0, 8, 16, 24], [32, 40], [48, 56]),
        # by key/value head its queries, its key, its value
        ("bloom", [0, 24, 48, 72], [8, 32, 56, 80], [16, 40, 64, 88]),
        ("falcon-40b", [0, 8, 32, 40], [16, 48], [24, 56]),
        ("falcon-7b", [0, 8, 16, 24], [32], [40]),
        # four quarters of the heads, each its queries, values, keys
        ("codegen", [0, 24, 48, 72], [16, 40, 64, 88], [8, 32, 56, 80]),
    ],
)
def test_rows_of_queries_keys_and_values(family, q, k, v):
    assert [rows(family, kind) for kind in "qkv"] == [every(q), every(k), every(v)]


def test_gates_stand_behind_the_query_of_each_head():
    one = model("qwen3_5")
    q, gate = (one.locate(Site(kind, 1)).rows for kind in ("q", "gate"))
    assert q is not None
    assert gate is not None
    assert q[:, [0, -1]].tolist() == every([0, 16, 32, 48])
    assert gate[:, [0, -1]].tolist() == every([8, 24, 40, 56])
    alone = Model(tiny_model("afmoe"), tiny_tokenizer())
    assert alone.locate(Site("gate", 0)).rows[:, [0, -1]].tolist() == every([0, 8, 16, 24])  # pyright: ignore[reportOptionalSubscript]


def test_keys_that_all_heads_share_stand_behind_the_latent():
    one = model("deepseek_v3")
    shared = one.locate(Site("shared_key", 0))
    assert (one.latent_width, one.head_width) == (16, 8)
    assert shared.rows.tolist() == [[16, 17, 18, 19]]  # pyright: ignore[reportOptionalMemberAccess]
    assert one.locate(Site("q", 0)).rows.shape == (4, 10)  # pyright: ignore[reportOptionalMemberAccess]
    assert one.locate(Site("k", 0)).rows[:, [0, -1]].tolist() == every([0, 14, 28, 42], 6)  # pyright: ignore[reportOptionalSubscript]
    assert one.locate(Site("v", 0)).rows[:, [0, -1]].tolist() == every([6, 20, 34, 48])  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("family", ["llama", "bloom", "falcon-40b", "codegen", "gpt2", "phi3", "qwen3_5"])
def test_weights_by_head_are_the_rows_of_the_projection(family):
    one = model(family)
    layer = one.attention_layers[-1]
    for kind in one.readings:
        place = one.locate(Site(kind, layer))
        assert place.rows is not None
        wanted = matrix(one._projection(kind, layer).module)[place.rows]  # pyright: ignore[reportArgumentType]
        assert torch.equal(one.projection_weight(kind, layer), wanted)  # pyright: ignore[reportArgumentType]
        bias = one.projection_bias(kind, layer)  # pyright: ignore[reportArgumentType]
        if bias is not None:
            assert torch.equal(bias, place.module.bias[place.rows])
    output = matrix(one.part(one.family.attention_output, layer))
    for head in range(one.heads):
        assert torch.equal(one.output_weight(layer)[head], output[:, head * 8 : head * 8 + 8].T)


def test_rows_at_even_distances_are_no_copy():
    weight = torch.arange(24.0).reshape(8, 3)
    for picked in ([[0, 1], [2, 3]], [[1, 2], [5, 6]], [[4, 5]]):
        found = _by_head(weight, torch.tensor(picked))
        assert torch.equal(found, weight[torch.tensor(picked)])
        assert found.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    for picked in ([[0, 2], [4, 6]], [[4, 5], [0, 1]], [[0, 1], [0, 1]], [[0, 1], [2, 3], [5, 6]]):
        found = _by_head(weight, torch.tensor(picked))
        assert torch.equal(found, weight[torch.tensor(picked)])
        assert found.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
    part = weight[2:, 1:]
    assert torch.equal(_by_head(part, torch.tensor([[1, 2], [3, 4]])), part[torch.tensor([[1, 2], [3, 4]])])


# -- what is not there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "site", "told"),
    [
        ("llama", ("neurons", -1), "neurons of layer -1: this model has layers 0 to 2"),
        ("llama", ("z", 3), "z of layer 3: this model has layers 0 to 2"),
        ("llama", ("residual", 4), "residual of layer 4: this model has layers 0 to 2"),
        ("llama", ("router", 1), "layer 1 of llama is no mixture of experts: it has no router"),
        ("llama", ("gate", 0), "the attention of llama has no gate"),
        ("llama", ("shared_key", 0), "the attention of llama has no shared_key"),
        ("llama", ("state_write", 0), "layer 0 of llama has no linear mixer"),
        ("qwen3_5", ("state_write", 1), "layer 1 of qwen3_5 has no linear mixer"),
        ("qwen3_5", ("z", 2), r"layer 2 of qwen3_5 has no heads \(Qwen3_5GatedDeltaNet\): z exists in layers 1$"),
        ("qwen3_5", ("attention_in", 0), r"layer 0 of qwen3_5 has no heads .*: attention_in exists in layers 1$"),
    ],
)
def test_sites_that_a_model_lacks_are_told(family, site, told):
    with pytest.raises(InputError, match=f"^{told}"):
        model(family).locate(Site(*site))


def test_a_part_that_a_layer_lacks_is_told_with_the_layers_that_have_one():
    one = model("qwen3_5")
    with pytest.raises(UnsupportedModel, match=r"^layer 0 of qwen3_5 has no module self_attn\.o_proj; layers 1 have"):
        one.part("self_attn.o_proj", 0)
    with pytest.raises(UnsupportedModel, match=r"^layer 0 of qwen3_5 has no module nothing$"):
        one.part("nothing", 0)
    with pytest.raises(InputError, match=r"^there is no site 'odd'; sites: residual, neurons, z"):
        Site("odd", 0)  # pyright: ignore[reportArgumentType]


def test_of_a_model_whose_attention_is_not_known_regions_work():
    from .test_encoders import encoder

    one = encoder("bert")
    for kind in ("neurons", "mlp_in", "mlp_write", "residual"):
        one.locate(Site(kind, 0))  # pyright: ignore[reportArgumentType]
    for kind in ("z", "q", "attention_write", "state_write"):
        with pytest.raises(UnsupportedModel, match=f"^{kind}: the attention of tiny-bert is not known; regions work"):
            one.locate(Site(kind, 0))  # pyright: ignore[reportArgumentType]


def test_a_matrix_is_a_linear_map_in_floating_point():
    with pytest.raises(UnsupportedModel, match=r"^Identity is no linear map with one weight matrix of its own$"):
        matrix(nn.Identity())
    odd = nn.Module()
    odd.register_buffer("weight", torch.zeros(2, 2, dtype=torch.int8))
    with pytest.raises(UnsupportedModel, match=r"^the weights of Module are quantised and cannot be compared"):
        matrix(odd)
    bare = nn.Module()
    bare.register_buffer("scale", torch.zeros(2))
    with pytest.raises(UnsupportedModel, match=r"^the weights of Module are quantised"):
        matrix(bare)
    assert matrix(nn.Linear(3, 2)).shape == (2, 3)
    assert matrix(model("gpt2").part("attn.c_attn", 0)).shape == (96, 32)


# -- locations, captures and edits ----------------------------------------------------------------------------------


def test_what_is_seen_is_multiplied_and_put_back_divided():
    place = Location(nn.Identity(), "output", factor=0.5)
    value = torch.tensor([2.0, 4.0])
    assert place.view(value).tolist() == [1.0, 2.0]
    assert place.put(value, torch.tensor([3.0, 5.0])).tolist() == [6.0, 10.0]
    plain = Location(nn.Identity(), "output")
    assert plain.view(value) is value
    assert plain.put(value.half(), value).dtype == torch.float16
    heads = Location(nn.Identity(), "output", torch.tensor([[3, 1], [0, 2]]))
    whole = torch.arange(8.0).reshape(2, 4)
    assert heads.view(whole).tolist() == [[[3, 1], [0, 2]], [[7, 5], [4, 6]]]
    assert heads.put(whole, -heads.view(whole)).tolist() == [[-0.0, -1, -2, -3], [-4, -5, -6, -7]]
    assert whole.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_what_is_captured_is_a_copy_unless_gradients_are_wanted():
    one, site = model(), Site("mlp_in", 1)
    with capture(one, [site]) as seen, torch.enable_grad():
        one.trunk(IDS)
    assert not seen[site].requires_grad
    with capture(one, [site], gradients=True) as seen, torch.enable_grad():
        one.trunk(IDS)
    assert seen[site].requires_grad
    with capture(one, [site], keep=lambda value: value.mean()) as seen, torch.inference_mode():
        one.trunk(IDS)
    assert seen[site].dim() == 0
    kept: dict[Site, torch.Tensor] = {}
    with edit(one, tracked([site], kept)), torch.enable_grad():
        one.trunk(IDS).sum().backward(inputs=[kept[site]] if kept else None)
    assert kept[site].shape == (2, 9, 32)
    assert hook_count(one.hf) == 0


def test_edits_are_counted_where_they_stand():
    one, site = model(), Site("neurons", 0)
    assert standing_edits(one.hf) == 0
    with edit(one, {site: lambda value: value}) as fired, torch.inference_mode():
        assert standing_edits(one.hf) == 1
        with edit(one, {Site("neurons", 1): lambda value: value}):
            assert standing_edits(one.hf) == 2
            one.trunk(IDS)
        one.trunk(IDS)
        assert fired == {site: 2}
    assert standing_edits(one.hf) == 0


def test_a_forward_that_somebody_put_stands_again_after_a_resumed_pass():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    block = one.blocks[0]
    own = block.forward
    put = lambda *args, **named: own(*args, **named)  # noqa: E731
    block.forward = put
    with torch.inference_mode():
        with resume(one, 2, torch.ones(2, 9, 32)):
            assert block.__dict__["forward"] is not put
            assert "forward" in one.blocks[1].__dict__
            one.trunk(IDS)
        assert block.__dict__["forward"] is put
        assert "forward" not in one.blocks[1].__dict__


def test_flat_values_are_shown_with_batch_and_positions():
    one = Model(tiny_model("opt"), tiny_tokenizer())
    with capture(one, [Site("neurons", 0), Site("mlp_in", 1)]) as seen, torch.inference_mode():
        one.trunk(IDS)
    assert [tuple(value.shape) for value in seen.values()] == [(2, 9, 48), (2, 9, 32)]
    fold = nn.Identity()
    shapes: list[tuple[int, ...]] = []
    place = Location(fold, "output", block=one.blocks[0])
    with hooked([(place, lambda value: (shapes.append(tuple(value.shape)), value * 2)[1], True)]):
        one.blocks[0].register_forward_hook(lambda *_: None).remove()
        with torch.inference_mode():
            one.trunk(IDS)
            assert fold(torch.ones(18, 5)).tolist() == [[2.0] * 5] * 18
            assert fold(torch.ones(1, 3, 5)).shape == (1, 3, 5)
    assert shapes == [(2, 9, 5), (1, 3, 5)]


def test_a_mixtures_router_is_the_last_of_its_sites():
    assert mixture("mixtral").sites()[-2] == Site("router", 2)
    assert json.dumps([site.kind for site in mixture("qwen3_moe").sites() if site.layer == 0]).count("router") == 0
