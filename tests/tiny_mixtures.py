"""Tiny random mixtures of experts of every type that passes through transformers' experts interface."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.models import Model

from .tiny_models import WORDS, tiny_tokenizer

EXPERTS, CHOSEN, UNITS, SHARED, WIDTH = 6, 2, 16, 24, 32

_COMMON: dict[str, Any] = dict(
    vocab_size=WORDS,
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
"""what every configuration takes, under these names; names of experts differ"""
_GROUPS: dict[str, Any] = dict(n_group=1, topk_group=1, n_routed_experts=EXPERTS, n_shared_experts=1)
_DENSE_FIRST: dict[str, Any] = dict(first_k_dense_replace=1)
_DEEPSEEK: dict[str, Any] = {**_GROUPS, **_DENSE_FIRST, "moe_intermediate_size": UNITS, "num_experts_per_tok": CHOSEN}
_QWEN: dict[str, Any] = dict(num_experts=EXPERTS, num_experts_per_tok=CHOSEN, moe_intermediate_size=UNITS)
_MIXTRAL: dict[str, Any] = dict(num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN, intermediate_size=UNITS)

MIXTURES: dict[str, dict[str, Any]] = {
    "aria_text": dict(moe_num_experts=EXPERTS, moe_topk=CHOSEN, moe_num_shared_experts=1, intermediate_size=UNITS),
    "cohere2_moe": {**_MIXTRAL, **_QWEN, "num_shared_experts": 1, "sliding_window": 64},
    "ernie4_5_moe": dict(
        moe_num_experts=EXPERTS, moe_k=CHOSEN, moe_intermediate_size=UNITS, moe_num_shared_experts=1,
        moe_layer_start_index=1,
    ),
    "exaone_moe": {**_QWEN, "num_shared_experts": 1, "sliding_window": 64, "n_group": 1, "topk_group": 1},
    "glm4_moe": _DEEPSEEK,
    "gpt_oss": {**_MIXTRAL, "sliding_window": 64},
    "granitemoe": _MIXTRAL,
    "granitemoeshared": {**_MIXTRAL, "shared_intermediate_size": SHARED},
    "minimax_m2": _MIXTRAL,
    "mixtral": _MIXTRAL,
    "olmoe": dict(num_experts=EXPERTS, num_experts_per_tok=CHOSEN, intermediate_size=UNITS),
    "phimoe": _MIXTRAL,
    "qwen2_moe": {**_QWEN, "shared_expert_intermediate_size": SHARED},
    "qwen3_moe": {**_QWEN, "mlp_only_layers": [0]},
}  # fmt: skip
"""those whose attention is one that our rows know too"""
UNREADABLE: dict[str, dict[str, Any]] = {
    "llama4_text": dict(num_local_experts=4, intermediate_size_mlp=48, interleave_moe_layer_step=1),
    "jetmoe": dict(num_local_experts=4, kv_channels=8),
}
"""experts outside the interface"""


def mixture_config(model_type: str, **changes: Any) -> Any:
    settings = {**MIXTURES, **UNREADABLE}[model_type]
    config = AutoConfig.for_model(model_type, **{**_COMMON, **settings, **changes})
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    return config


def mixture_weights(model_type: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """A random mixture whose biases, corrections and gates are random too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(mixture_config(model_type, **changes))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.2 if "embed" in name else 0.1))
        for name, buffer in model.named_buffers():
            if "correction" in name:
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model.to(dtype).eval()


@lru_cache(32)
def mixture(model_type: str, dtype: torch.dtype = torch.float32) -> Model:
    return Model(mixture_weights(model_type, dtype), tiny_tokenizer(), id=f"tiny-{model_type}")
