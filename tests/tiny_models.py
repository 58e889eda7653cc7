"""Tiny random models of every architecture family, built offline from real Hugging Face configurations."""

from __future__ import annotations

import sys
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # model classes take seconds to import, which tests without a model need not wait for
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WORDS = 96
_GQA: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8
)
_ROPE: dict[str, Any] = dict(max_position_embeddings=128)

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("bloom", dict(hidden_size=32, n_layer=3, n_head=4)),
    "llama": ("llama", {**_GQA, **_ROPE}),
    "mistral": ("mistral", {**_GQA, **_ROPE, "sliding_window": 64}),
    "qwen2": ("qwen2", {**_GQA, **_ROPE}),
    "qwen3": ("qwen3", {**_GQA, **_ROPE}),
    "gemma2": ("gemma2", {**_GQA, **_ROPE, "sliding_window": 64, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {**_GQA, **_ROPE, "sliding_window": 64, "query_pre_attn_scalar": 8}),
    "gpt2": ("gpt2", dict(n_embd=32, n_layer=3, n_head=4, n_positions=128)),
    "gpt_neox": (
        "gpt_neox",
        dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, **_ROPE),
    ),
    "gpt_neox-sequential": (
        "gpt_neox",
        dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            use_parallel_residual=False,
            **_ROPE,
        ),
    ),
    "opt": (
        "opt",
        dict(hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32, **_ROPE),
    ),
    "xglm": ("xglm", dict(d_model=32, ffn_dim=48, num_layers=3, attention_heads=4, **_ROPE)),
    "phi": (
        "phi",
        dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, **_ROPE),
    ),
    "phi3": ("phi3", {**_GQA, **_ROPE}),
    "falcon-7b": (
        "falcon",
        dict(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            multi_query=True,
            parallel_attn=True,
            new_decoder_architecture=False,
        ),
    ),
    "falcon-40b": (
        "falcon",
        dict(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_kv_heads=2,
            new_decoder_architecture=True,
        ),
    ),
    "falcon-rw": (
        "falcon",
        dict(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            multi_query=False,
            parallel_attn=False,
            alibi=True,
            bias=True,
            new_decoder_architecture=False,
        ),
    ),
    "olmo2": ("olmo2", {**_GQA, **_ROPE}),
    "cohere": ("cohere", {**_GQA, **_ROPE}),
    "cohere2": ("cohere2", {**_GQA, **_ROPE, "sliding_window": 64}),
    "apertus": ("apertus", {**_GQA, **_ROPE}),
}
CONFIGS["opt-350m"] = (
    "opt",
    {**CONFIGS["opt"][1], "word_embed_proj_dim": 16, "do_layer_norm_before": False},
)
FAMILIES = tuple(CONFIGS)
_GPT = dict(hidden_size=32, num_layers=3, num_heads=4, max_position_embeddings=128)
CONFIGS |= {
    "glm4": ("glm4", {**_GQA, **_ROPE}),
    "exaone4": ("exaone4", {**_GQA, **_ROPE, "sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "granite": (
        "granite",
        {**_GQA, **_ROPE, "residual_multiplier": 0.4, "logits_scaling": 3.0, "embedding_multiplier": 1.7},
    ),
    "hyperclovax": ("hyperclovax", {**_GQA, **_ROPE, "residual_multiplier": 0.4, "logits_scaling": 0.3}),
    "starcoder2": ("starcoder2", {**_GQA, **_ROPE}),
    "gptj": ("gptj", dict(n_embd=32, n_layer=3, n_head=4, n_positions=128, rotary_dim=4)),
    "codegen": ("codegen", dict(n_embd=32, n_layer=3, n_head=4, n_positions=128, n_ctx=128, rotary_dim=4)),
    "gpt_neo": ("gpt_neo", {**_GPT, "attention_types": [[["global", "local", "global"], 1]], "window_size": 64}),
    "mpt": ("mpt", dict(d_model=32, n_layers=3, n_heads=4, max_seq_len=128)),
    "persimmon": (
        "persimmon",
        dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, **_ROPE),
    ),
    "biogpt": (
        "biogpt",
        dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, **_ROPE),
    ),
}
RECENT = tuple(name for name in CONFIGS if name not in FAMILIES)
"""families with rows of a later date, checked where rows are checked"""
_LINEAR = dict(
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
_MAMBA = dict(mamba_d_state=8, mamba_expand=2, mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_chunk_size=16)
_LATENT: dict[str, Any] = {
    **dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4),
    **dict(q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=8),
    **_ROPE,
}
_EXPERTS = dict(moe_intermediate_size=16, num_experts_per_tok=2)
_BART = dict(d_model=32, decoder_layers=3, decoder_attention_heads=4, decoder_ffn_dim=48, max_position_embeddings=128)
CONFIGS |= {
    "qwen3_5": ("qwen3_5_text", {**_GQA, **_ROPE, **_LINEAR}),
    "qwen3_next": (
        "qwen3_next",
        {**_GQA, **_ROPE, **_LINEAR, **_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    "lfm2": ("lfm2", {**_GQA, **_ROPE, "layer_types": ["conv", "full_attention", "full_attention"]}),
    "lfm3": ("lfm3", {**_GQA, **_ROPE, "layer_types": ["full_attention", "conv", "full_attention"]}),
    "falcon_h1": ("falcon_h1", {**_GQA, **_ROPE, **_MAMBA, "mamba_d_ssm": 64, "ssm_out_multiplier": 0.7}),
    "bamba": ("bamba", {**_GQA, **_ROPE, **_MAMBA, "attn_layer_indices": [0, 2]}),
    "jamba": (
        "jamba",
        {**_GQA, **_ROPE, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 8},
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        {**_GQA, "lru_width": 32, "attention_window_size": 64, "block_types": ["recurrent", "attention", "recurrent"]},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        {**_LATENT, **_EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    ),
    "minicpm3": ("minicpm3", _LATENT),
    "bailing_hybrid": (
        "bailing_hybrid",
        {
            **_LATENT,
            **_EXPERTS,
            **dict(num_experts=4, n_group=1, topk_group=1, layer_types=["linear_attention", "full_attention"] * 2),
            **dict(num_hidden_layers=4, q_lora_rank=None, head_dim=8),
        },
    ),
    "laguna": ("laguna", {**_GQA, **_ROPE, **_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16}),
    "afmoe": ("afmoe", {**_GQA, **_ROPE, **_EXPERTS, "num_experts": 4, "num_shared_experts": 1, "sliding_window": 64}),
    "mbart": ("mbart", _BART),
    "moshi": ("moshi", {**_GQA, **_ROPE, "sliding_window": 64, "ffn_dim": 48}),
    "ctrl": ("ctrl", dict(n_embd=32, dff=48, n_layer=3, n_head=4, n_positions=128)),
    "nanochat": ("nanochat", {**_GQA, **_ROPE}),
}
LAYERED = tuple(name for name in CONFIGS if name not in (*FAMILIES, *RECENT))
"""families whose layers are not one attention of plain projections and one MLP: mixers, latents, gates, experts"""


def tiny_config(family: str, **changes: Any) -> Any:
    model_type, settings = CONFIGS[family]
    common = dict(vocab_size=WORDS, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **{**common, **settings, **changes})


def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model whose biases and norms are random too, so that nothing is right by being zero or one."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes))
    _in_short_chunks(model)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.1 if parameter.dim() > 1 else 0.2))
            if "embed" in name or "wte" in name or "lm_head" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.to(dtype).eval()


def save_tiny_llama(folder: Path) -> Path:
    """A folder with a model and its tokenizer, as they are loaded from."""
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _in_short_chunks(model: PreTrainedModel) -> None:
    """Linear attention by 16 tokens at a time, not 64: the same sums without a loop over 64 places in every layer."""
    module = sys.modules[type(model).__module__]
    for name in ("chunk_kimi_delta_attention", "torch_chunk_gated_delta_rule"):
        whole = getattr(module, name, None)
        if whole is not None and not isinstance(whole, partial):
            setattr(module, name, partial(whole, chunk_size=16))


@lru_cache(1)
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One word per character, so that any text has an answer: letters of several scripts, the rest is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ .,!?'0123456789的一是不人我在有他这éñçãअकमरहابتثم"
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    for character in characters:
        words.setdefault(character, len(words))
    assert len(words) <= WORDS, len(words)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
