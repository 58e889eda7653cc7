"""What differs between architectures: one row per family, and nothing about families anywhere else.

A row says where the blocks are, which module's input holds the neurons and the heads, how queries, keys and values are
laid out, what is written to the residual stream and by which norm it is read. Paths are relative to the model or to a
block. An unknown architecture may borrow the row whose paths all exist in it; it is then taken only if the conformance
suite passes (`babelscope.models.conformance`).

H query heads · K key/value heads · E head width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from babelscope.errors import UnsupportedModel
from babelscope.models.mixtures import mixture_of

Layout = Literal["separate", "blocks", "grouped"]


@dataclass(frozen=True)
class Family:
    """Where the parts of a transformer block are."""

    name: str
    blocks: str
    """the list of blocks, from the causal language model"""
    neurons: str
    """the MLP's output projection: its input is the vector of neurons"""
    attention_output: str
    """the attention's output projection: its input is the concatenation of the heads' outputs z"""
    qkv: tuple[str, ...]
    """one fused projection or three separate ones"""
    layout: Layout
    """rows of a fused projection: `blocks` = all q, all k, all v; `grouped` = per key/value head its queries, k, v"""
    attention_norm: str | None
    """the norm through which q, k and v read the residual; None where they read it bare"""
    mlp_norm: str | None
    final_norm: str | None
    """from the causal language model; None where the last block's output goes on as it is"""
    attention_write: str = ""
    """the module whose output joins the residual; the output projection unless a post-norm follows"""
    mlp_write: str = ""
    parallel: bool = False
    """attention and MLP read the same residual"""
    mlp_read: str = ""
    """the module whose input is what the MLP reads, after the norm"""
    qk_norms: tuple[str, str] | None = None
    """norms over all heads at once between projection and heads (OLMo 2): q and k are hooked behind them"""
    left_pad: bool = True
    """logits survive left padding with nothing but a mask (we pad on the right, so this is for the user's knowledge)"""
    residual_sum: bool = True
    """the residual stream is the sum of what was written; False: a norm stands on the stream itself"""
    flattens: bool = False
    """the MLP works on [B·T, ·] instead of [B, T, ·] (OPT)"""
    discovered: bool = False
    """found by structure, not known by name"""

    @property
    def post_norms(self) -> bool:
        """A norm stands between an output projection and the residual stream."""
        return self.attention_write != self.attention_output


def _row(name: str, **row: Any) -> Family:
    row.setdefault("attention_write", row["attention_output"])
    row.setdefault("mlp_write", row["neurons"])
    return Family(name=name, **row)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = _row(
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
)
_GEMMA = replace(
    _LLAMA,
    name="gemma",
    mlp_norm="pre_feedforward_layernorm",
    attention_write="post_attention_layernorm",
    mlp_write="post_feedforward_layernorm",
)
_OLMO2 = replace(
    _LLAMA,
    name="olmo2",
    qk_norms=("self_attn.q_norm", "self_attn.k_norm"),
    attention_norm=None,
    mlp_norm=None,
    attention_write="post_attention_layernorm",
    mlp_write="post_feedforward_layernorm",
)
_COHERE = replace(_LLAMA, name="cohere", mlp_norm="input_layernorm", parallel=True)
_PHI3 = replace(_LLAMA, name="phi3", qkv=("self_attn.qkv_proj",), layout="blocks", mlp_read="mlp")
_APERTUS = replace(_LLAMA, name="apertus", attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm")
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
_XGLM = replace(_OPT, name="xglm", flattens=False, blocks="model.layers", final_norm="model.layer_norm", left_pad=False)


def _neox(config: Any) -> Family:
    return replace(_NEOX, parallel=bool(config.use_parallel_residual))


def _opt(config: Any) -> Family:
    if config.do_layer_norm_before:
        return _OPT
    return replace(_OPT, name="opt-350m", attention_norm=None, mlp_norm=None, final_norm=None, residual_sum=False)


def _falcon(config: Any) -> Family:
    if config.new_decoder_architecture and getattr(config, "num_ln_in_parallel_attn", None) != 1:
        attention_norm, mlp_norm = "ln_attn", "ln_mlp"
    else:
        attention_norm = "input_layernorm"
        mlp_norm = "input_layernorm" if config.parallel_attn else "post_attention_layernorm"
    parallel = bool(config.parallel_attn or config.new_decoder_architecture)
    return replace(_BLOOM, name="falcon", attention_norm=attention_norm, mlp_norm=mlp_norm, parallel=parallel)


ROWS: dict[str, Family | Callable[[Any], Family]] = {
    "bloom": _BLOOM,
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, name="mistral"),
    "qwen2": replace(_LLAMA, name="qwen2"),
    "qwen3": replace(_LLAMA, name="qwen3"),
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
}
"""the families known by name (`config.model_type`)"""


def find(root: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or None."""
    for name in path.split("."):
        child = getattr(root, name, None)
        if not isinstance(child, nn.Module):
            return None
        root = child
    return root


def family_of(model: nn.Module, config: Any) -> Family:
    """The row of a model: by `config.model_type`, else the first known row whose every path exists in it.

    Raises UnsupportedModel with the reason when the structure is not one that can be measured.
    """
    _refuse_bypassed(config)
    known = ROWS.get(config.model_type)
    if known is not None:
        row = known if isinstance(known, Family) else known(config)
        missing = missing_paths(model, row)
        if missing:
            raise UnsupportedModel(f"{config.model_type}: no module at {', '.join(missing)}; {_experts(model)}")
        return row
    candidates = [row if isinstance(row, Family) else None for row in ROWS.values()]
    # rows with more norms are more specific: a Gemma-like block also has every path of a LLaMA block
    for row in sorted(
        filter(None, candidates), key=lambda row: -len({row.attention_write, row.mlp_norm, row.mlp_write})
    ):
        if not missing_paths(model, row):
            return replace(row, name=config.model_type, discovered=True)
    raise UnsupportedModel(
        f"unknown architecture {config.model_type!r}: its structure matches none of {', '.join(sorted(ROWS))}; "
        f"{_experts(model)}"
    )


def missing_paths(model: nn.Module, row: Family) -> list[str]:
    """Paths of a row that do not exist in the model (in the first block, and at the top)."""
    blocks = find(model, row.blocks)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        return [row.blocks]
    inside = [row.neurons, row.attention_output, *row.qkv, row.attention_write, row.mlp_write, row.mlp_read]
    inside += [path for path in (row.attention_norm, row.mlp_norm) if path]
    missing = [path for path in dict.fromkeys(inside) if find(blocks[0], path) is None]
    if missing and mixture_of(blocks[0], 0, row.name) is not None:
        missing = [path for path in missing if path not in (row.neurons, row.mlp_write, row.mlp_read)]
    if row.final_norm and find(model, row.final_norm) is None:
        missing.append(row.final_norm)
    return missing


def _refuse_bypassed(config: Any) -> None:
    if getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1:
        raise UnsupportedModel(
            "slow_but_exact with pretraining_tp > 1 bypasses the output projections; "
            "set slow_but_exact=False in config.json"
        )


def _experts(model: nn.Module) -> str:
    mixture = any("expert" in name for name, _ in model.named_modules())
    return (
        "mixtures of experts split the neurons and are not supported yet"
        if mixture
        else "see docs: a new family is one row"
    )
