"""What each part writes towards a word: direct logit attribution with the final norm's scale frozen (section 4).

The final residual is a sum of parts and the norm with its scale held is linear, so a word's logit is the sum of the
parts' attributions plus biases.

N row · D width · W word · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.circuits.core.cache import Recorded, attention_output
from babelscope.circuits.core.nodes import EMBEDDING, MLP, Head, Mixer, Sender
from babelscope.models.families import find
from babelscope.models.norms import frozen_norm

if TYPE_CHECKING:
    from babelscope.models import Model


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
    factor = model.scales.attention[layer]
    if not model.family.post_norms:
        return parts * factor, bias * factor
    frozen = frozen_norm(find(model.blocks[layer], model.family.attention_write), whole)
    return frozen.part(parts) * factor, (frozen.part(bias) + frozen.bias) * factor


@torch.no_grad()
def attributions(
    model: Model, recorded: Recorded, words: Int[Tensor, " W"], position: int = -1
) -> tuple[list[Sender], Float[Tensor, "parts N W"], Float[Tensor, "N W"]]:
    """Each part's contribution to the logits of `words` at a position, and what biases add; together the logits.

    `recorded` comes from `run(model, ids)`. The family's logit scale is applied; a soft cap, which is not linear, is
    not, so the sum is the logit before it.
    """
    frozen = frozen_norm(model.norm("final"), recorded.residual[-1][:, position])
    senders: list[Sender] = [EMBEDDING]
    parts = [recorded.residual[0][:, position][None]]
    rest = torch.zeros_like(parts[0][0], dtype=frozen.bias.dtype)
    for layer in range(model.layers):
        if layer in recorded.z:
            heads, bias = head_writes(model, recorded, layer, position)
            rest = rest + bias
            parts.append(heads)
            senders += [Head(layer, index) for index in range(model.heads)]
        for kind, written in ((Mixer, recorded.state), (MLP, recorded.mlp)):
            if layer in written:
                parts.append(written[layer][:, position][None])
                senders.append(kind(layer))
    direction = model.unembedding[words].T.to(frozen.bias.dtype)
    scale = model.logit_scale
    constant = (frozen.part(rest) + frozen.bias) @ direction
    if model.unembedding_bias is not None:
        constant = constant + model.unembedding_bias[words]
    return senders, torch.cat([frozen.part(part) for part in parts]) @ direction * scale, constant * scale


@torch.no_grad()
def promoted(model: Model, recorded: Recorded, heads: Sequence[Head], position: int = -1) -> Float[Tensor, "heads V"]:
    """Mean over a batch of each head's direct attribution to every word (soft caps aside)."""
    frozen = frozen_norm(model.norm("final"), recorded.residual[-1][:, position])
    rows = [frozen.part(head_writes(model, recorded, node.layer, position)[0][node.head]).mean(0) for node in heads]
    return torch.stack(rows) @ model.unembedding.T.to(frozen.bias.dtype) * model.logit_scale
