"""What differs between architectures: one row per family, and nothing about families anywhere else.

A row says where the blocks are, which module's input holds the neurons and the heads, how queries, keys and values are
laid out, what is written to the residual stream and by which norm it is read. Paths are relative to the model or to a
block, and hold in every block (`babelscope.models.structure` looks at each). A row without `attention_output` is for
regions only. Numbers (write multipliers, logit scale) are never in a row: they are measured on the model.

H query heads · K key/value heads · E head width
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

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


def find(root: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or None."""
    for name in path.split("."):
        child = getattr(root, name, None)
        if not isinstance(child, nn.Module):
            return None
        root = child
    return root
