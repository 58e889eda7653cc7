"""Counts, names and refusals of models at the number from which they hold."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from babelscope.errors import InputError, ModelError, UnsupportedModel
from babelscope.models import Model, scales
from babelscope.models.decoding import _parts
from babelscope.models.families import Family, complete
from babelscope.models.head_checks import head_shapes
from babelscope.models.hooks import Site, hook_count
from babelscope.models.loading import _place
from babelscope.models.mixtures import Mixture, Neuron, Part
from babelscope.models.ray_workers import RayWorkers, _room
from babelscope.models.refusals import refuse_sizes

from .tiny_models import tiny_model, tiny_tokenizer


def test_hooks_of_either_kind_are_counted_wherever_they_hang():
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert hook_count(module) == 0
    handles = [module[0].register_forward_hook(lambda *_: None)]
    assert hook_count(module) == 1
    handles.append(module[1][0].register_forward_pre_hook(lambda *_: None))
    handles.append(module[0].register_forward_pre_hook(lambda *_: None))
    assert hook_count(module) == 3
    for handle in handles:
        handle.remove()
    assert hook_count(module) == 0


def mixture() -> Mixture:
    """Three experts of four neurons, a shared expert of five and a dense MLP of six beside them."""
    experts = SimpleNamespace(num_experts=3, down_proj=torch.zeros(3, 8, 4), is_transposed=False)
    parts = (Part("shared", nn.Identity(), 5), Part("dense", nn.Identity(), 6))
    return Mixture(7, nn.Identity(), nn.Identity(), experts, nn.Identity(), parts)


def test_columns_of_a_mixture_are_experts_then_what_stands_beside_them():
    one = mixture()
    assert (one.count, one.units, one.routed, one.width) == (3, 4, 12, 23)
    assert [one.expert(place) for place in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert [(part.name, columns) for part, columns in one.columns()] == [
        ("shared", slice(12, 17)),
        ("dense", slice(17, 23)),
    ]
    named = {0: ("expert", 0, 0), 3: ("expert", 0, 3), 6: ("expert", 1, 2), 11: ("expert", 2, 3)}
    named |= {12: ("shared", None, 0), 16: ("shared", None, 4), 17: ("dense", None, 0), 22: ("dense", None, 5)}
    assert {column: one.neuron(column) for column in named} == {
        column: Neuron(7, *name) for column, name in named.items()
    }


def test_weights_need_embedding_and_two_squares_a_layer():
    """3 layers of width 4: 3 · 2 · 16 = 96 weights; 10 words of width 4: 40; of 2 bytes each: 272."""
    config = SimpleNamespace(num_hidden_layers=3, hidden_size=4, vocab_size=10)
    refuse_sizes(config, "m", 2, room=272)
    with pytest.raises(ModelError, match="m: 3 layers of width 4 and 10 words need at least 0 GiB"):
        refuse_sizes(config, "m", 2, room=271)
    config = SimpleNamespace(num_hidden_layers=32, hidden_size=1 << 15, vocab_size=1 << 16)  # 2^36 + 2^31 weights
    with pytest.raises(ModelError, match="need at least 264 GiB; there are 8 GiB here"):
        refuse_sizes(config, "m", 4, room=8 << 30)


def cluster(**resources: float) -> SimpleNamespace:
    return SimpleNamespace(cluster_resources=lambda: resources)


def test_workers_get_what_the_cluster_has_and_no_more():
    assert _room(cluster(CPU=8.0, GPU=4.0), RayWorkers(4, cpus=2.0, gpus=1.0)) == 4
    assert _room(cluster(CPU=9.0, GPU=8.0), RayWorkers(cpus=2.0, gpus=2.0)) == 4
    assert _room(cluster(CPU=9.0), RayWorkers(cpus=2.0)) == 4
    with pytest.raises(InputError, match=r"^5 workers with 2 CPU each need 10; the cluster has 8$"):
        _room(cluster(CPU=8.0), RayWorkers(5, cpus=2.0))
    with pytest.raises(InputError, match=r"^1 workers with 0\.5 GPU each need 0\.5; the cluster has 0$"):
        _room(cluster(CPU=8.0), RayWorkers(gpus=0.5))


def test_a_built_in_model_is_opened_at_the_revision_that_its_name_or_the_option_gives(monkeypatch):
    monkeypatch.setattr("babelscope.pocket.models.path", lambda name, revision: f"{name} at {revision}")
    assert _place("pocket:a@r", None) == ("a at r", None)
    assert _place("pocket:a@r", "r") == ("a at r", None)
    assert _place("pocket:a", "s") == ("a at s", None)
    assert _place("pocket:a", None) == ("a at None", None)
    with pytest.raises(ModelError, match=r"^pocket:a@r names revision 'r' already: leave --revision s out$"):
        _place("pocket:a@r", "s")


def test_a_joint_projection_makes_queries_keys_and_values_of_every_head():
    model = Model(tiny_model("bloom"), tiny_tokenizer(), id="bloom")
    head_shapes(model, torch.zeros(0))
    whole = 3 * model.heads * model.head_width
    joint = model.part(model.family.qkv[0], 1)
    joint.weight = nn.Parameter(joint.weight[: whole - 1])
    told = f"of layer 1 has {whole - 1} rows; queries, keys and values need {whole}$"
    with pytest.raises(UnsupportedModel, match=told):
        head_shapes(model, torch.zeros(0))


def test_what_a_row_leaves_out_is_the_parent_of_what_it_names():
    row = Family("any", blocks="layers", neurons="mlp.down", attention_output="attn.out", final_norm="norm")
    made = complete(row)
    assert (made.attention, made.attention_write) == ("attn", "attn.out")
    assert (made.mlp_read, made.mlp_write) == ("mlp", "mlp.down")
    own = complete(replace(row, attention="whole", attention_write="attn.post", mlp_read="norm2", mlp_write="mlp.post"))
    assert (own.attention, own.attention_write, own.mlp_read, own.mlp_write) == (
        "whole",
        "attn.post",
        "norm2",
        "mlp.post",
    )


def test_the_multiple_that_is_nearest_is_known_but_of_nothing():
    """(1, 2) · (3, 4) over 1 + 4; of zeros every multiple is zero."""
    assert scales._slope(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])) == pytest.approx(2.2)
    assert scales._slope(torch.zeros(2), torch.ones(2)) is None


def test_a_prefix_is_kept_as_keys_by_plain_attention_alone():
    kept = {name: Model(tiny_model(name), tiny_tokenizer()).keeps_keys for name in ("llama", "deepseek_v3", "jamba")}
    assert kept == {"llama": True, "deepseek_v3": False, "jamba": False}


def test_keys_of_latent_attention_come_before_values():
    """Of each head's row of the up-projection the last `head_width` are values."""
    model = Model(tiny_model("deepseek_v3"), tiny_tokenizer())
    keys, values = (model.locate(Site(kind, 0)).rows for kind in ("k", "v"))
    assert values.shape == (model.heads, model.head_width)
    assert torch.cat([keys, values], 1).flatten().tolist() == list(range(keys.numel() + values.numel()))


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_prompts_are_continued_at_most_so_many_at_a_time(batch):
    rows, jobs = [[1]] * 4 + [[1, 2]] * 3, [(place, 0) for place in range(7)]
    parts = _parts(Model(tiny_model("llama"), tiny_tokenizer()), rows, jobs, batch, 5)
    assert [job for part in parts for job in part] == jobs
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= batch
