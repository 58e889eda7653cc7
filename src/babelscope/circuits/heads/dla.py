"""What each part writes towards a word: direct logit attribution with the final norm's scale frozen (section 4).

The final residual is a sum of parts and the norm with its scale held is linear, so a word's logit is the sum of the
parts' attributions plus biases.

N row · D width · W word · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.circuits.core.cache import Recorded, attention_output
from babelscope.circuits.core.nodes import EMBEDDING, MLP, Head, Sender
from babelscope.errors import UnsupportedModel
from babelscope.models.families import find

if TYPE_CHECKING:
    from babelscope.models import Model


@dataclass(frozen=True)
class FrozenNorm:
    """A norm with its scale held at what it was for one input: norm(x) = part(x) + bias, and part is linear."""

    gain: Float[Tensor, " D"]
    bias: Float[Tensor, " D"]
    centred: bool
    """whether the mean over the width is taken out (LayerNorm), or not (RMSNorm)"""
    scale: Float[Tensor, "*batch 1"]

    def part(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """What one summand of the input becomes."""
        centred = value - value.mean(-1, keepdim=True) if self.centred else value
        return centred * self.gain / self.scale


def frozen_norm(norm: nn.Module | None, whole: Float[Tensor, "*batch D"]) -> FrozenNorm:
    """The linear map that a norm (LayerNorm, RMSNorm, with any parametrisation of its gain) applies to `whole`.

    Gain, bias and centring are read off the norm's answers to probes, not off its attributes, which differ by family.
    Raises UnsupportedModel when the map does not give back norm(whole).
    """
    width = whole.shape[-1]
    if norm is None:
        ones = whole.new_ones(width)
        return FrozenNorm(ones, torch.zeros_like(ones), False, whole.new_ones(*whole.shape[:-1], 1))
    probe = torch.linspace(50, 150, width, device=whole.device).to(whole.dtype)
    probe[1::2] *= -1
    probe = probe - probe.mean()
    up, down = norm(probe[None])[0], norm(-probe[None])[0]
    bias = (up + down) / 2
    gain = (up - down) / 2 / probe * probe.square().mean().sqrt()
    centred = torch.allclose(norm(probe[None] + 100)[0], up, rtol=1e-2, atol=1e-3)
    inner = whole - whole.mean(-1, keepdim=True) if centred else whole
    normed = norm(whole)
    scale = (inner * gain).norm(dim=-1, keepdim=True) / (normed - bias).norm(dim=-1, keepdim=True).clamp_min(1e-30)
    found = FrozenNorm(gain, bias, centred, scale)
    error = (found.part(whole) + bias - normed).abs().max() / normed.abs().max().clamp_min(1e-6)
    if float(error) > 1e-2:
        raise UnsupportedModel(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm: no linear part of it exists"
        )
    return found


def head_writes(
    model: Model, recorded: Recorded, layer: int, position: int
) -> tuple[Float[Tensor, "H N D"], Float[Tensor, "N D"]]:
    """What each head of a layer writes to the stream at a position, and the rest of that write (biases).

    Through a post-norm with its scale frozen where there is one.
    """
    z = recorded.z[layer][:, position]
    parts = torch.einsum("nhe,hed->hnd", z, model.output_weight(layer))
    whole = attention_output(model, layer, z)
    bias = whole - parts.sum(0)
    if not model.family.post_norms:
        return parts, bias
    frozen = frozen_norm(find(model.blocks[layer], model.family.attention_write), whole)
    return frozen.part(parts), frozen.part(bias) + frozen.bias


@torch.no_grad()
def attributions(
    model: Model, recorded: Recorded, words: Int[Tensor, " W"], position: int = -1
) -> tuple[list[Sender], Float[Tensor, "parts N W"], Float[Tensor, "N W"]]:
    """Each part's contribution to the logits of `words` at a position, and what biases add; together the logits.

    `recorded` comes from `run(model, ids)`. The family's logit scale is applied; a soft cap, which is not linear, is
    not, so the sum is the logit before it.
    """
    head = model.hf.get_output_embeddings()
    frozen = frozen_norm(model.norm("final"), recorded.residual[-1][:, position])
    senders: list[Sender] = [EMBEDDING]
    parts = [recorded.residual[0][:, position][None]]
    rest = torch.zeros_like(parts[0][0])
    for layer in range(model.layers):
        heads, bias = head_writes(model, recorded, layer, position)
        rest = rest + bias
        parts += [heads, recorded.mlp[layer][:, position][None]]
        senders += [*(Head(layer, index) for index in range(model.heads)), MLP(layer)]
    direction = head.weight[words].T
    scale = float(getattr(model.config, "logit_scale", None) or 1.0)
    constant = (frozen.part(rest) + frozen.bias) @ direction
    if getattr(head, "bias", None) is not None:
        constant = constant + head.bias[words]
    return senders, frozen.part(torch.cat(parts)) @ direction * scale, constant * scale


@torch.no_grad()
def promoted(model: Model, recorded: Recorded, heads: Sequence[Head], position: int = -1) -> Float[Tensor, "heads V"]:
    """Mean over a batch of each head's direct attribution to every word (soft caps aside)."""
    frozen = frozen_norm(model.norm("final"), recorded.residual[-1][:, position])
    scale = float(getattr(model.config, "logit_scale", None) or 1.0)
    rows = [frozen.part(head_writes(model, recorded, node.layer, position)[0][node.head]).mean(0) for node in heads]
    return torch.stack(rows) @ model.unembedding.T * scale
