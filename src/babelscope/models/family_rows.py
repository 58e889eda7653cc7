"""Rows of the families known by name, but for those with another attention (`babelscope.models.hybrids`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from babelscope.models.families import Family, complete

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _row(name: str, **row: Any) -> Family:
    return complete(Family(name=name, **row))


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LLAMA = _row(
    "llama",
    blocks="model.layers",
    neurons="mlp.down_proj",
    attention_output="self_attn.o_proj",
    qkv=_QKV,
    layout="separate",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    final_norm="model.norm",
    mlp_read="mlp",
    gated=True,
)
_GEMMA = replace(
    LLAMA,
    name="gemma",
    mlp_norm="pre_feedforward_layernorm",
    attention_write="post_attention_layernorm",
    mlp_write="post_feedforward_layernorm",
)
_OLMO2 = replace(
    LLAMA,
    name="olmo2",
    qk_norms=("self_attn.q_norm", "self_attn.k_norm"),
    attention_norm=None,
    mlp_norm=None,
    attention_write="post_attention_layernorm",
    mlp_write="post_feedforward_layernorm",
)
_COHERE = replace(LLAMA, name="cohere", mlp_norm="input_layernorm", parallel=True)
_PHI3 = replace(LLAMA, name="phi3", qkv=("self_attn.qkv_proj",), layout="blocks", mlp_read="mlp")
_APERTUS = replace(
    LLAMA, name="apertus", attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm", gated=False
)
_GLM4 = replace(LLAMA, name="glm4", attention_write="post_self_attn_layernorm", mlp_write="post_mlp_layernorm")
_EXAONE4 = replace(_OLMO2, name="exaone4", qk_norms=None)
_MLLAMA = replace(LLAMA, name="mllama", attention_output="", attention_write="", qkv=(), skipped="cross_attn")
_STARCODER2 = replace(LLAMA, name="starcoder2", neurons="mlp.c_proj", mlp_write="mlp.c_proj", gated=False)
_PHI = _row(
    "phi",
    blocks="model.layers",
    neurons="mlp.fc2",
    attention_output="self_attn.dense",
    qkv=_QKV,
    layout="separate",
    attention_norm="input_layernorm",
    mlp_norm="input_layernorm",
    final_norm="model.final_layernorm",
    parallel=True,
    mlp_read="mlp",
)
_BLOOM = _row(
    "bloom",
    blocks="transformer.h",
    neurons="mlp.dense_4h_to_h",
    attention_output="self_attention.dense",
    qkv=("self_attention.query_key_value",),
    layout="grouped",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    final_norm="transformer.ln_f",
    mlp_read="mlp",
    adds_residual=True,
)
_GPT2 = _row(
    "gpt2",
    blocks="transformer.h",
    neurons="mlp.c_proj",
    attention_output="attn.c_proj",
    qkv=("attn.c_attn",),
    layout="blocks",
    attention_norm="ln_1",
    mlp_norm="ln_2",
    final_norm="transformer.ln_f",
    left_pad=False,
    mlp_read="mlp",
)
_NEOX = _row(
    "gpt_neox",
    blocks="gpt_neox.layers",
    neurons="mlp.dense_4h_to_h",
    attention_output="attention.dense",
    qkv=("attention.query_key_value",),
    layout="grouped",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    final_norm="gpt_neox.final_layer_norm",
    parallel=True,
    mlp_read="mlp",
)
_OPT = _row(
    "opt",
    blocks="model.decoder.layers",
    neurons="fc2",
    attention_output="self_attn.out_proj",
    qkv=_QKV,
    layout="separate",
    attention_norm="self_attn_layer_norm",
    mlp_norm="final_layer_norm",
    final_norm="model.decoder.final_layer_norm",
    mlp_read="fc1",
    flattens=True,
)
_GPTJ = _row(
    "gptj",
    blocks="transformer.h",
    neurons="mlp.fc_out",
    attention_output="attn.out_proj",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_norm="ln_1",
    mlp_norm="ln_1",
    final_norm="transformer.ln_f",
    parallel=True,
)
_CODEGEN = replace(_GPTJ, name="codegen", qkv=("attn.qkv_proj",), layout="codegen")
_GPT_NEO = _row(
    "gpt_neo",
    blocks="transformer.h",
    neurons="mlp.c_proj",
    attention_output="attn.attention.out_proj",
    qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
    attention_norm="ln_1",
    mlp_norm="ln_2",
    final_norm="transformer.ln_f",
    left_pad=False,
)
_MPT = _row(
    "mpt",
    blocks="transformer.blocks",
    neurons="ffn.down_proj",
    attention_output="attn.out_proj",
    qkv=("attn.Wqkv",),
    layout="blocks",
    attention_norm="norm_1",
    mlp_norm="norm_2",
    final_norm="transformer.norm_f",
)
_PERSIMMON = _row(
    "persimmon",
    blocks="model.layers",
    neurons="mlp.dense_4h_to_h",
    attention_output="self_attn.dense",
    qkv=("self_attn.query_key_value",),
    layout="grouped",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    final_norm="model.final_layernorm",
)
_BIOGPT = replace(_OPT, name="biogpt", flattens=False, blocks="biogpt.layers", final_norm="biogpt.layer_norm")
_MBART = replace(_OPT, name="mbart", flattens=False, final_norm="model.decoder.layer_norm")
"""decoders of encoder–decoders by themselves, norms before each part; their attention to the other side is idle"""
_MOSHI = _row(
    "moshi",
    blocks="model.layers",
    neurons="mlp.fc2",
    attention_output="self_attn.o_proj.linear",
    attention="self_attn",
    qkv=("self_attn.q_proj.linear", "self_attn.k_proj.linear", "self_attn.v_proj.linear"),
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    final_norm="model.norm",
    gated=True,
)
_CTRL = _row(
    "ctrl",
    blocks="transformer.h",
    neurons="ffn.2",
    attention_output="multi_head_attention.dense",
    qkv=("multi_head_attention.Wq", "multi_head_attention.Wk", "multi_head_attention.Wv"),
    attention_norm="layernorm1",
    mlp_norm="layernorm2",
    final_norm="transformer.layernorm",
)
_XGLM = replace(_OPT, name="xglm", flattens=False, blocks="model.layers", final_norm="model.layer_norm", left_pad=False)


def _neox(config: PreTrainedConfig) -> Family:
    return replace(_NEOX, parallel=bool(config.use_parallel_residual))


def _opt(config: PreTrainedConfig) -> Family:
    if config.do_layer_norm_before:
        return _OPT
    return replace(_OPT, name="opt-350m", attention_norm=None, mlp_norm=None, final_norm=None, residual_sum=False)


def _falcon(config: PreTrainedConfig) -> Family:
    if config.new_decoder_architecture and getattr(config, "num_ln_in_parallel_attn", None) != 1:
        attention_norm, mlp_norm = "ln_attn", "ln_mlp"
    else:
        attention_norm = "input_layernorm"
        mlp_norm = "input_layernorm" if config.parallel_attn else "post_attention_layernorm"
    parallel = bool(config.parallel_attn or config.new_decoder_architecture)
    if config.new_decoder_architecture:
        kv_heads = int(config.num_kv_heads)
    else:
        kv_heads = 1 if config.multi_query else int(config.num_attention_heads)
    return replace(
        _BLOOM,
        name="falcon",
        attention_norm=attention_norm,
        mlp_norm=mlp_norm,
        parallel=parallel,
        kv_heads=kv_heads,
        adds_residual=False,
    )


def _bigcode(config: PreTrainedConfig) -> Family:
    return replace(_GPT2, name="gpt_bigcode", kv_heads=1 if config.multi_query else None, left_pad=True)


def _hyperclovax(config: PreTrainedConfig) -> Family:
    row = replace(LLAMA, name="hyperclovax")
    return replace(row, attention_write="post_norm1", mlp_write="post_norm2") if config.use_post_norm else row


def _mpt(config: PreTrainedConfig) -> Family:
    # clipped projections are not what attention reads, so heads cannot be patched there
    clipped = config.attn_config.clip_qkv is not None
    return replace(_MPT, attention_output="", attention_write="") if clipped else _MPT


def _codegen(config: PreTrainedConfig) -> Family:
    return _CODEGEN if config.num_attention_heads % 4 == 0 else replace(_CODEGEN, attention_output="")


ROWS: dict[str, Family | Callable[[PreTrainedConfig], Family]] = {
    "bloom": _BLOOM,
    "llama": LLAMA,
    "mistral": replace(LLAMA, name="mistral"),
    "qwen2": replace(LLAMA, name="qwen2"),
    "qwen3": replace(LLAMA, name="qwen3"),
    "gemma2": replace(_GEMMA, name="gemma2"),
    "gemma3_text": replace(_GEMMA, name="gemma3"),
    "gpt2": _GPT2,
    "gpt_neox": _neox,
    "opt": _opt,
    "xglm": _XGLM,
    "phi": _PHI,
    "phi3": _PHI3,
    "falcon": _falcon,
    "olmo2": _OLMO2,
    "cohere": _COHERE,
    "cohere2": replace(_COHERE, name="cohere2"),
    "apertus": _APERTUS,
    "glm4": _GLM4,
    "exaone4": _EXAONE4,
    "gpt_bigcode": _bigcode,
    "hyperclovax": _hyperclovax,
    "mllama_text_model": _MLLAMA,
    "granite": replace(LLAMA, name="granite"),
    "starcoder2": _STARCODER2,
    "vaultgemma": replace(LLAMA, name="vaultgemma", mlp_norm="pre_feedforward_layernorm"),
    "gptj": _GPTJ,
    "codegen": _codegen,
    "gpt_neo": _GPT_NEO,
    "mpt": _mpt,
    "persimmon": _PERSIMMON,
    "biogpt": _BIOGPT,
    "mbart": _MBART,
    "pegasus": replace(_MBART, name="pegasus"),
    "blenderbot": replace(_MBART, name="blenderbot"),
    "whisper": replace(_MBART, name="whisper"),
    "bigbird_pegasus": replace(_MBART, name="bigbird_pegasus", final_norm="model.decoder.layernorm_embedding"),
    "moshi": _MOSHI,
    "ctrl": _CTRL,
    "nanochat": replace(
        LLAMA, name="nanochat", neurons="mlp.fc2", mlp_write="mlp.fc2", gated=False, norms_embedding=True
    ),
}
"""the families known by name (`config.model_type`)"""
