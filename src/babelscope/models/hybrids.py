"""Rows of families whose attention is not the usual one: hybrids of heads and linear mixers, keys and values out of a
latent, heads behind gates.

A linear mixer (state space, gated delta rule, convolution) is told by its output projection; layers that have heads are
those in which every path of attention exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from babelscope.models.families import Family, complete
from babelscope.models.family_rows import LLAMA

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LATENT = replace(
    LLAMA,
    name="deepseek_v3",
    qkv=("self_attn.q_b_proj", "self_attn.kv_b_proj"),
    layout="latent",
    query_latent=("self_attn.q_a_proj", "self_attn.q_a_layernorm"),
    key_latent=("self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm"),
)
_KEY_LATENT = replace(_LATENT, qkv=("self_attn.q_proj", "self_attn.kv_b_proj"), query_latent=())
_QWEN = complete(replace(LLAMA, head_gates="self_attn.q_proj", state_output="linear_attn.out_proj", mixed=True))
_AFMOE = replace(
    LLAMA,
    name="afmoe",
    head_gates="self_attn.gate_proj",
    attention_write="post_attention_layernorm",
    mlp_norm="pre_mlp_layernorm",
    mlp_write="post_mlp_layernorm",
)
_BAMBA = complete(
    Family(
        "bamba",
        blocks="model.layers",
        neurons="feed_forward.down_proj",
        attention_output="self_attn.o_proj",
        qkv=LLAMA.qkv,
        attention_norm="input_layernorm",
        mlp_norm="pre_ff_layernorm",
        final_norm="model.final_layernorm",
        state_output="mamba.out_proj",
        mixed=True,
        gated=True,
    )
)
_LFM2 = complete(
    Family(
        "lfm2",
        blocks="model.layers",
        neurons="feed_forward.w2",
        attention_output="self_attn.out_proj",
        qkv=LLAMA.qkv,
        attention_norm="operator_norm",
        mlp_norm="ffn_norm",
        final_norm="model.embedding_norm",
        state_output="conv.out_proj",
        mixed=True,
        gated=True,
    )
)
_LFM3 = replace(
    _LFM2,
    name="lfm3",
    attention_output="self_attn.o_proj",
    attention_write="post_operator_norm",
    state_write="post_operator_norm",
    mlp_write="post_ffn_norm",
    head_gates="self_attn.g_proj",
)
_GRIFFIN = complete(
    Family(
        "recurrent_gemma",
        blocks="model.layers",
        neurons="mlp_block.down_proj",
        attention_output="temporal_block.o_proj",
        qkv=("temporal_block.q_proj", "temporal_block.k_proj", "temporal_block.v_proj"),
        attention_norm="temporal_pre_norm",
        mlp_norm="channel_pre_norm",
        final_norm="model.final_norm",
        state_output="temporal_block.linear_out",
        mixed=True,
        gated=True,
    )
)
_GRANITE = complete(
    replace(
        LLAMA,
        name="granitemoehybrid",
        neurons="shared_mlp.output_linear",
        mlp_write="shared_mlp",
        mlp_read="shared_mlp",
        state_output="mamba.out_proj",
        mixed=True,
    )
)
_KIMI = complete(replace(_KEY_LATENT, name="kimi_linear", state_output="self_attn.o_proj", mixed=True))


def _latent(config: PreTrainedConfig) -> Family:
    return replace(_LATENT if config.q_lora_rank is not None else _KEY_LATENT, name=config.model_type)


HYBRIDS: dict[str, Family | Callable[[PreTrainedConfig], Family]] = {
    "deepseek_v2": _latent,
    "deepseek_v3": _latent,
    "glm4_moe_lite": _latent,
    "minicpm3": replace(_LATENT, name="minicpm3"),
    "youtu": _latent,
    "axk1": _latent,
    "qwen3_next": replace(_QWEN, name="qwen3_next"),
    "qwen3_5_text": replace(_QWEN, name="qwen3_5_text"),
    "qwen3_5_moe_text": replace(_QWEN, name="qwen3_5_moe_text"),
    "afmoe": _AFMOE,
    "laguna": replace(LLAMA, name="laguna", head_gates="self_attn.g_proj"),
    "lfm2": _LFM2,
    "lfm2_moe": replace(_LFM2, name="lfm2_moe"),
    "lfm3": _LFM3,
    "bamba": _BAMBA,
    "jamba": replace(_BAMBA, name="jamba"),
    "falcon_h1": replace(_BAMBA, name="falcon_h1", mixed=False),
    "granitemoehybrid": _GRANITE,
    "recurrent_gemma": _GRIFFIN,
    "kimi_linear": _KIMI,
    "bailing_hybrid": replace(_KIMI, name="bailing_hybrid", head_gates="self_attn.g_proj"),
}
"""by `config.model_type`"""
