"""Untrained models of the pocket family, as `transformers` builds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from babelscope.pocket.models import PocketModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

COMMON: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "initializer_range": 0.06}
"""A wider start than the usual 0.02, which suits widths in the thousands: attention that copies forms far sooner."""


def configuration(model: PocketModel, words: int) -> PretrainedConfig:
    """The configuration of a model with a vocabulary of `words`; without dropout, embeddings tied."""
    from transformers import BloomConfig, GPT2Config, LlamaConfig, MixtralConfig

    width, layers, heads, length = model.width, model.layers, model.heads, model.recipe.length
    if model.family == "bloom":
        return BloomConfig(
            vocab_size=words, hidden_size=width, n_layer=layers, n_head=heads,
            hidden_dropout=0.0, attention_dropout=0.0, **COMMON,
        )  # fmt: skip
    if model.family == "llama":
        return LlamaConfig(
            vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=model.key_value_heads, intermediate_size=3 * width, max_position_embeddings=length,
            tie_word_embeddings=True, **COMMON,
        )  # fmt: skip
    if model.family == "mixtral":
        return MixtralConfig(
            vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=model.key_value_heads, intermediate_size=model.expert_units,
            num_local_experts=model.experts, num_experts_per_tok=model.experts_per_token,
            max_position_embeddings=length, tie_word_embeddings=True, **COMMON,
        )  # fmt: skip
    return GPT2Config(
        vocab_size=words, n_embd=width, n_layer=layers, n_head=heads, n_positions=length,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **COMMON,
    )  # fmt: skip


def build(model: PocketModel, words: int, seed: int) -> PreTrainedModel:
    """The model with random weights; the same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(configuration(model, words), attn_implementation="eager")
