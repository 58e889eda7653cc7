"""What differs between architectures: one row per family, and nothing about families anywhere else.

A row says where the blocks are, which module's input holds the neurons and the heads, how queries, keys and values are
laid out, what is written to the residual stream and by which norm it is read. Paths are relative to the model or to a
block, and hold in every block (`babelscope.models.structure` looks at each). A row without `attention_output` is for
regions only. Numbers (write multipliers, logit scale) are never in a row: they are measured on the model.

H query heads · K key/value heads · E head width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

Layout = Literal["separate", "blocks", "grouped", "codegen", "latent"]
Origin = Literal["built in", "structure", "registered", "file"]
Level = Literal["regions", "circuits"]


@dataclass(frozen=True)
class Family:
    """Where the parts of a transformer block are."""

    name: str
    blocks: str
    """the list of blocks, from the model"""
    neurons: str
    """the MLP's output projection: its input is the vector of neurons"""
    attention_output: str = ""
    """the attention's output projection: its input is the concatenation of the heads' outputs z; empty: regions only"""
    qkv: tuple[str, ...] = ()
    """one fused projection or three separate ones"""
    layout: Layout = "separate"
    """rows of a fused projection: `blocks` = all q, all k, all v; `grouped` = per key/value head its queries, k, v;
    `codegen` = in four parts, each all its q, v, k; `latent` = two projections out of latents, of q and of each head's
    k and v together (DeepSeek)"""
    query_latent: tuple[str, ...] = ()
    """projection and norm that make the queries' latent; empty: the query projection reads the stream"""
    key_latent: tuple[str, ...] = ()
    """the same of the keys' and values' latent; behind its rows the projection holds the rotary key of all heads"""
    attention_norm: str | None = None
    """the norm through which q, k and v read the residual; None where they read it bare"""
    mlp_norm: str | None = None
    final_norm: str | None = None
    """from the model; None where the last block's output goes on as it is"""
    norms_embedding: bool = False
    """the final norm also stands behind the embedding (nanochat), so the last stream is hooked at the last block"""
    attention_write: str = ""
    """the module whose output joins the residual; the output projection unless a post-norm follows"""
    attention: str = ""
    """the module that computes attention; the one that holds the output projection unless stated"""
    head_gates: str = ""
    """projection that makes gates, by which heads' outputs are multiplied after attention (AFMoE); where it is the
    query projection, its rows of each head's query are followed by those of its gate (Qwen 3.5)"""
    state_output: str = ""
    """output projection of the linear mixer (state space, gated delta rule, convolution) of layers that have one"""
    state_write: str = ""
    """the module whose output joins the residual; the mixer's output projection unless a post-norm follows"""
    mlp_write: str = ""
    parallel: bool = False
    """attention and MLP read the same residual"""
    mlp_read: str = ""
    """the module whose input is what the MLP reads, after the norm"""
    qk_norms: tuple[str, str] | None = None
    """norms over all heads at once between projection and heads (OLMo 2): q and k are hooked behind them"""
    value_norm: str = ""
    """a norm of the values without weights of its own kind (Gemma 4): v is hooked behind it"""
    kv_heads: int | None = None
    """key/value heads where the configuration names them in its own way (Falcon); else `num_key_value_heads`"""
    adds_residual: bool = False
    """attention and MLP modules take the residual as an argument and add it themselves (BLOOM)"""
    gated: bool = False
    """a neuron is a product of gate and input"""
    left_pad: bool = True
    """logits survive left padding with nothing but a mask (we pad on the right, so this is for the user's knowledge)"""
    residual_sum: bool = True
    """the residual stream is the sum of what was written; False: a norm stands on the stream itself"""
    flattens: bool = False
    """the MLP works on [B·T, ·] instead of [B, T, ·] (OPT)"""
    skipped: str = ""
    """a module of blocks that a pass over text alone goes round (Mllama's cross-attention): they have no neurons"""
    mixed: bool = False
    """some blocks have no MLP or no attention: paths are looked for in the others"""
    origin: Origin = "built in"
    """known by name, found by structure, registered by a program or a plug-in, or read from a file"""
    version: str = ""
    """of an outside row, as its author states it"""

    @property
    def post_norms(self) -> bool:
        """A norm stands between an output projection and the residual stream."""
        return self.attention_write != self.attention_output

    @property
    def query_gates(self) -> bool:
        """Gates come out of the query projection."""
        return bool(self.head_gates) and self.head_gates == self.qkv[0]

    @property
    def discovered(self) -> bool:
        """Found by structure, not known by name."""
        return self.origin == "structure"

    @property
    def levels(self) -> tuple[Level, ...]:
        """What a row says enough for."""
        known = self.attention_output and (self.state_output or not self.mixed)
        return ("regions", "circuits") if known else ("regions",)


def complete(row: Family) -> Family:
    """A row with what follows from its other fields filled in: output projections write to the stream themselves."""
    return replace(
        row,
        attention_write=row.attention_write or row.attention_output,
        attention=row.attention or row.attention_output.rpartition(".")[0],
        state_write=row.state_write or row.state_output,
        mlp_write=row.mlp_write or row.neurons,
        mlp_read=row.mlp_read or row.neurons.rpartition(".")[0],
    )


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


def _bigcode(config: Any) -> Family:
    return replace(_GPT2, name="gpt_bigcode", kv_heads=1 if config.multi_query else None, left_pad=True)


def _hyperclovax(config: Any) -> Family:
    row = replace(LLAMA, name="hyperclovax")
    return replace(row, attention_write="post_norm1", mlp_write="post_norm2") if config.use_post_norm else row


def _mpt(config: Any) -> Family:
    # clipped projections are not what attention reads, so heads cannot be patched there
    clipped = config.attn_config.clip_qkv is not None
    return replace(_MPT, attention_output="", attention_write="") if clipped else _MPT


def _codegen(config: Any) -> Family:
    return _CODEGEN if config.num_attention_heads % 4 == 0 else replace(_CODEGEN, attention_output="")


ROWS: dict[str, Family | Callable[[Any], Family]] = {
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


def find(root: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or None."""
    for name in path.split("."):
        child = getattr(root, name, None)
        if not isinstance(child, nn.Module):
            return None
        root = child
    return root
