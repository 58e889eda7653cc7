"""How the row of a model is found, what a model says of itself, and how long a text may be."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import structure
from babelscope.models.families import Family, complete, find
from babelscope.models.known import ROWS
from babelscope.models.registry import digest, family_from_file, register_family, row_from_data, unregister_family

from .tiny_models import CONFIGS, tiny_config, tiny_model

# -- rows -----------------------------------------------------------------------------------------------------------


def rows() -> dict[str, Family]:
    found = {}
    for name in CONFIGS:
        config = tiny_config(name)
        row = ROWS.get(config.model_type)
        if row is not None:
            found[name] = row if isinstance(row, Family) else row(config)
    return found


FLAGS = {
    "parallel": {"gpt_neox", "phi", "falcon-7b", "falcon-40b", "cohere", "cohere2", "gptj", "codegen"},
    "adds_residual": {"bloom"},
    "flattens": {"opt", "opt-350m"},
    "norms_embedding": {"nanochat"},
    "mixed": {"qwen3_5", "qwen3_next", "lfm2", "lfm3", "bamba", "jamba", "recurrent_gemma", "bailing_hybrid"},
}
UNLIKE = {
    "left_pad": {"gpt2", "gpt_neo", "xglm"},
    "residual_sum": {"opt-350m"},
    "gated": {
        "apertus", "biogpt", "bloom", "codegen", "ctrl", "falcon-40b", "falcon-7b", "falcon-rw", "gpt2", "gpt_neo",
        "gpt_neox", "gpt_neox-sequential", "gptj", "mbart", "mpt", "nanochat", "opt", "opt-350m", "persimmon", "phi",
        "starcoder2", "xglm",
    },
}  # fmt: skip


def test_what_rows_say_of_their_families():
    for flag, names in FLAGS.items():
        assert {name for name, row in rows().items() if getattr(row, flag)} == names, flag
    for flag, names in UNLIKE.items():
        assert {name for name, row in rows().items() if not getattr(row, flag)} == names, flag


def row_of(kind: str, **settings: Any) -> Family:
    found = ROWS[kind]
    assert not isinstance(found, Family)
    return found(SimpleNamespace(model_type=kind, **settings))  # pyright: ignore[reportArgumentType]


def falcon(new: bool = False, parallel: bool = True, multi: bool = True, **more: int) -> tuple[Any, ...]:
    row = row_of("falcon", new_decoder_architecture=new, parallel_attn=parallel, multi_query=multi, num_kv_heads=2,
                 num_attention_heads=4, **more)  # fmt: skip
    return row.attention_norm, row.mlp_norm, row.parallel, row.kv_heads


def test_rows_that_follow_the_configuration():
    assert falcon() == ("input_layernorm", "input_layernorm", True, 1)
    assert falcon(parallel=False, multi=False) == ("input_layernorm", "post_attention_layernorm", False, 4)
    assert falcon(new=True, parallel=False) == ("ln_attn", "ln_mlp", True, 2)
    assert falcon(new=True, num_ln_in_parallel_attn=1) == ("input_layernorm", "input_layernorm", True, 2)
    assert falcon(new=True, num_ln_in_parallel_attn=2) == ("ln_attn", "ln_mlp", True, 2)
    assert [row_of("gpt_bigcode", multi_query=one).kv_heads for one in (True, False)] == [1, None]
    assert row_of("gpt_bigcode", multi_query=True).left_pad
    assert [row_of("hyperclovax", use_post_norm=one).post_norms for one in (True, False)] == [True, False]
    clipped = [row_of("mpt", attn_config=SimpleNamespace(clip_qkv=one)).levels for one in (None, 0.0, 8.0)]
    assert clipped == [("regions", "circuits"), ("regions",), ("regions",)]
    assert [row_of("codegen", num_attention_heads=one).levels[-1] for one in (4, 6, 8)] == [
        "circuits", "regions", "circuits",
    ]  # fmt: skip
    assert [row_of("deepseek_v3", q_lora_rank=one).query_latent != () for one in (16, None)] == [True, False]


def test_what_follows_from_a_row():
    row = complete(Family("a", "b", "mlp.n", attention_output="attn.o", qkv=("attn.q", "attn.k", "attn.v")))
    assert (row.levels, row.post_norms, row.query_gates, row.discovered) == (
        ("regions", "circuits"),
        False,
        False,
        False,
    )
    assert replace(row, attention_write="post").post_norms
    assert replace(row, head_gates="attn.q").query_gates
    assert not replace(row, head_gates="attn.g").query_gates
    assert replace(row, origin="structure").discovered
    assert replace(row, mixed=True).levels == ("regions",)
    assert replace(row, mixed=True, state_output="s").levels == ("regions", "circuits")
    assert replace(row, attention_output="").levels == ("regions",)
    root = nn.Sequential(nn.Sequential(nn.Linear(1, 1)))
    assert find(root, "0.0") is root[0][0]
    assert find(root, "0.1") is None
    assert find(root, "0.0.weight") is None


# -- finding a row --------------------------------------------------------------------------------------------------


def test_paths_that_a_model_lacks_are_told_with_four_layers_at_most():
    assert structure._told({"a": [], "b": [1], "c": [0, 1], "d": [0, 1, 2, 3], "e": [0, 1, 2, 3, 4]}) == (
        "a, b (layer 1), c (layers 0, 1), d (layers 0, 1, 2, 3), e (layers 0, 1, 2, 3, …)"
    )


def test_a_path_is_missing_where_a_block_lacks_it():
    hf, row = tiny_model("llama"), rows()["llama"]
    assert structure.missing_paths(hf, row) == {}
    del hf.model.layers[1].mlp.down_proj
    assert structure.missing_paths(hf, row) == {"mlp.down_proj": [1]}
    mixed = replace(row, mixed=True, state_output="self_attn.o_proj")
    assert structure.missing_paths(hf, mixed) == {}
    for layer in (0, 2):
        del hf.model.layers[layer].mlp.down_proj
    assert structure.missing_paths(hf, mixed) == {"mlp.down_proj": [0, 1, 2]}
    assert structure.missing_paths(hf, replace(row, blocks="model.nothing")) == {"model.nothing": []}
    assert structure.missing_paths(hf, replace(row, neurons="mlp.up_proj", mlp_write="mlp", final_norm="model.x")) == {
        "model.x": []
    }
    hf.model.layers = nn.ModuleList()
    assert structure.find_blocks(hf, row) is None


def test_paths_of_a_row_in_a_block():
    row = rows()["llama"]
    assert structure.paths_in_block(row) == [
        "mlp.down_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp",
        "self_attn", "input_layernorm", "post_attention_layernorm",
    ]  # fmt: skip
    assert structure.paths_in_block(replace(row, attention_output="")) == ["mlp.down_proj"]
    assert structure.paths_in_block(rows()["olmo2"])[-2:] == ["self_attn.q_norm", "self_attn.k_norm"]


def test_norms_of_a_row_are_counted():
    counts = {name: structure._norm_count(rows()[name]) for name in ("llama", "gemma2", "phi", "olmo2", "opt-350m")}
    assert counts == {"llama": 2, "gemma2": 4, "phi": 1, "olmo2": 2, "opt-350m": 0}


def test_norms_over_all_heads_are_as_wide_as_all_heads():
    row = rows()["olmo2"]
    whole, each = tiny_model("olmo2"), tiny_model("qwen3")
    assert structure._norms_fit(whole, row, whole.config)
    assert not structure._norms_fit(each, row, each.config)
    assert structure._norms_fit(each, rows()["llama"], each.config)
    plain = replace(row, qk_norms=None)
    assert structure._with_wide_norms(whole, plain).qk_norms == row.qk_norms
    assert structure._with_wide_norms(each, plain).qk_norms is None
    assert structure._with_wide_norms(whole, replace(plain, layout="blocks")).qk_norms is None


@pytest.mark.parametrize(("exact", "pieces", "refused"), [(True, 2, True), (True, 1, False), (False, 2, False)])
def test_projections_that_are_bypassed_are_refused(exact, pieces, refused):
    config = SimpleNamespace(slow_but_exact=exact, pretraining_tp=pieces)
    if refused:
        with pytest.raises(UnsupportedModel, match=r"slow_but_exact with pretraining_tp > 1 bypasses"):
            structure._refuse_bypassed(config)  # pyright: ignore[reportArgumentType]
    else:
        structure._refuse_bypassed(config)  # pyright: ignore[reportArgumentType]


def trunk(module: nn.Module, path: str = "") -> structure.Trunk:
    return structure.Trunk(path, module, False)


def test_the_longest_list_of_blocks_is_the_text_models():
    root = nn.Module()
    root.few, root.many = nn.ModuleList([nn.Identity()] * 2), nn.ModuleList([nn.Identity() for _ in range(3)])
    root.vision_tower = nn.ModuleList([nn.Identity() for _ in range(9)])
    root.many[0].inner = nn.ModuleList([nn.Identity() for _ in range(7)])
    assert structure._blocks_of(trunk(root)) == "many"
    assert structure._blocks_of(trunk(root, "model")) == "model.many"
    assert structure._blocks_of(trunk(nn.Identity())) is None
    equal = nn.Module()
    equal.first, equal.second = nn.ModuleList([nn.Identity()]), nn.ModuleList([nn.Identity()])
    assert structure._blocks_of(trunk(equal)) == "first"


def test_a_projection_into_the_stream_has_its_width():
    def fits(module: nn.Module | None, **settings: int) -> bool:
        return structure._is_projection(module, SimpleNamespace(**settings))  # pyright: ignore[reportArgumentType]

    for name in ("hidden_size", "n_embd", "d_model"):
        assert fits(nn.Linear(5, 3), **{name: 3})
        assert not fits(nn.Linear(5, 3), **{name: 4})
    assert fits(nn.Linear(5, 3))
    assert not fits(nn.LayerNorm(3), hidden_size=3)
    assert not fits(None)


def test_why_no_neurons_are_known():
    config, root = SimpleNamespace(model_type="odd"), nn.Module()
    told = structure.why_no_neurons(root, config, trunk(root))  # pyright: ignore[reportArgumentType]
    assert told == "unknown architecture 'odd': it has no list of blocks; add a row with register_family"
    root.layers = nn.ModuleList([nn.Sequential(nn.Identity(), nn.Identity())])
    told = structure.why_no_neurons(root, config, trunk(root))  # pyright: ignore[reportArgumentType]
    assert "no MLP at a place that is known in its blocks (layers: Sequential of 0, 1); add a row" in told


# -- rows from outside ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("kv_heads", 1, [0, -1, True, 1.0, "1"]),
        ("qkv", ["a"], ["a", [1], 3]),
        ("qk_norms", ["a", "b"], [["a"], ["a", "b", "c"]]),
        ("query_latent", ["a", "b"], [["a"]]),
        ("key_latent", ["a", "b"], [["a", "b", "c"]]),
        ("layout", "latent", ["odd", ""]),
        ("mixed", True, [1, "true"]),
        ("attention", "x", [1, False]),
    ],
)
def test_a_field_of_a_row_has_its_type(field, good, bad):
    base: dict[str, object] = {"name": "a", "blocks": "b", "neurons": "c.d"}
    row = row_from_data({**base, field: good}, "here")
    assert getattr(row, field) == (tuple(good) if isinstance(good, list) else good)
    assert (row.origin, row.mlp_read, row.mlp_write) == ("file", "c", "c.d")
    for value in bad:
        with pytest.raises(InputError, match=rf"^here: {field} is .*, and should be "):
            row_from_data({**base, field: value}, "here")


def test_an_empty_text_stands_for_nothing_where_nothing_is_possible():
    row = row_from_data({"name": "a", "blocks": "b", "neurons": "c", "final_norm": "", "attention": ""}, "here")
    assert (row.final_norm, row.attention) == (None, "")


def test_registered_rows_come_and_go(tmp_path):
    row = Family("mine", "a", "b")
    with pytest.raises(InputError, match=r"^no family 'mine' was registered$"):
        unregister_family("mine")
    register_family(row, "mine")
    with pytest.raises(InputError, match=r"^the family 'mine' is registered already"):
        register_family(row, "mine")
    register_family(row, "mine", overwrite=True)
    unregister_family("mine")
    with pytest.raises(InputError, match=r"^no family 'mine'"):
        unregister_family("mine")
    assert digest(row) != digest(replace(row, name="other"))
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"bad\.toml is not TOML: "):
        family_from_file(tmp_path / "bad.toml")
