"""The residual stream taken apart: what each node writes into it, and what each reader makes of what it sees.

Where a post-norm stands between an output projection and the stream (Gemma 2 and 3, OLMo 2), a head's part of the write
is its share with the norm's statistics held: the parts still add up to the write exactly.

W writer · R reader · C token · D width · H query head · K key/value head · E head width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from babelscope.circuits.core.cache import Recorded, attention_output
from babelscope.models.families import find
from babelscope.models.hooks import Reading
from babelscope.models.norms import NormMap, plain
from babelscope.models.places import matrix
from babelscope.models.projections import latent, project

if TYPE_CHECKING:
    from babelscope.models import Model

AttentionKind = Reading


# -- writers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """What every writer puts out, before it is spread over the stream; leading dimensions broadcast.

    Recorded from a run, or the constants that stand for an ablated node.
    """

    embedding: Float[Tensor, "*batch D"]
    z: Mapping[int, Float[Tensor, "*batch H E"]]
    """by layer, of those that have heads"""
    mlp: Mapping[int, Float[Tensor, "*batch D"]]
    state: Mapping[int, Float[Tensor, "*batch D"]]
    """of linear mixers"""

    @classmethod
    def of(cls, run: Recorded) -> Values:
        return cls(run.residual[0], run.z, run.mlp, run.state)

    def listed(self) -> list[Tensor]:
        """The embedding's, every layer's heads', every layer's MLP's, every layer's mixer's."""
        return [self.embedding, *self.z.values(), *self.mlp.values(), *self.state.values()]

    def with_list(self, parts: Sequence[Tensor]) -> Values:
        """Others in the order of `listed`, of the same layers."""
        rest = iter(parts[1:])
        z, mlp, state = ({layer: next(rest) for layer in part} for part in (self.z, self.mlp, self.state))
        return Values(parts[0], z, mlp, state)

    def tokens(self, start: int, end: int) -> Values:
        """Some of the tokens, all rows laid end to end."""
        return Values(
            self.embedding.flatten(0, -2)[start:end],
            {layer: value.flatten(0, -3)[start:end] for layer, value in self.z.items()},
            {layer: value.flatten(0, -2)[start:end] for layer, value in self.mlp.items()},
            {layer: value.flatten(0, -2)[start:end] for layer, value in self.state.items()},
        )


def post_norm(model: Model, layer: int) -> NormMap | None:
    """The norm between attention's output projection and the stream, if there is one."""
    if not model.family.post_norms:
        return None
    module = find(model.blocks[layer], model.family.attention_write)
    assert module is not None
    return NormMap.of(module, model.width, model.output_weight(layer))


def head_parts(
    model: Model, layer: int, z: Float[Tensor, "*batch H E"], heads: Sequence[int] | None = None
) -> Float[Tensor, "heads *batch D"]:
    """What each head (or each of some) writes to the stream; what is left of the whole write is the bias."""
    weight, whole = model.output_weight(layer), z
    if heads is not None and len(heads) < len(weight):
        weight, z = weight[list(heads)], z[..., list(heads), :]
    parts = torch.einsum("...he,hed->h...d", z, weight.to(z.device))
    norm = post_norm(model, layer)
    factor = model.scales.attention[layer]
    if norm is None:
        return parts if factor == 1 else parts * factor
    return norm.through(parts) * (norm.scale(attention_output(model, layer, whole)) * factor)


def attention_write(model: Model, layer: int, z: Float[Tensor, "*batch H E"]) -> Float[Tensor, "*batch D"]:
    """What attention as a whole writes to the stream."""
    whole = attention_output(model, layer, z)
    norm = post_norm(model, layer)
    written = whole if norm is None else plain(norm.module, whole)
    factor = model.scales.attention[layer]
    return written if factor == 1 else written * factor


def all_parts(model: Model, values: Values) -> Float[Tensor, "W *batch D"]:
    """What every writer puts on the stream, in the order of the wiring."""
    found = [values.embedding[None]]
    for layer in range(model.layers):
        found += [head_parts(model, layer, values.z[layer])] if layer in values.z else []
        found += [part[layer][None] for part in (values.state, values.mlp) if layer in part]
    return torch.cat(found)


# -- readers --------------------------------------------------------------------------------------------------------


def read(
    model: Model,
    kind: AttentionKind,
    layer: int,
    seen: Float[Tensor, "R *batch D"],
    heads: Sequence[int] | None = None,
) -> Float[Tensor, "R *batch E"]:
    """Each head's query, key or value when head r sees the stream `seen[r]` (native projections, with their norm).

    `heads`: which these are, where they are not all of the layer's.
    """
    norm = model.norm("attention", layer)
    if norm is None:
        value = seen
    elif seen.stride(0) == 0:  # all heads see the same stream
        value = plain(norm, seen[:1]).expand(seen.shape)
    else:
        value = plain(norm, seen)
    if kind in ("q", "k") and model.family.qk_norms:
        return _read_through_shared_norm(model, kind, layer, value, heads)
    if kind == "shared_key":
        return project(model, kind, layer, value)[..., 0, :]
    value = latent(model, kind, layer, value)
    weight, bias = model.projection_weight(kind, layer), model.projection_bias(kind, layer)
    if heads is not None and len(heads) < len(weight):
        weight, bias = weight[list(heads)], None if bias is None else bias[list(heads)]
    result = torch.einsum("r...d,red->r...e", value, weight.to(value.device))
    if bias is None:
        return result
    return result + bias.to(value.device).reshape(len(bias), *[1] * (value.dim() - 2), -1)


def read_head(
    model: Model, kind: AttentionKind, layer: int, head: int, seen: Float[Tensor, "*batch D"]
) -> Float[Tensor, "*batch E"]:
    """One head's query, key or value when it sees the stream `seen`."""
    if kind == "shared_key":
        return read(model, kind, layer, seen[None])[0]
    weight = model.projection_weight(kind, layer)
    if kind in ("q", "k") and model.family.qk_norms:
        return read(model, kind, layer, seen.expand(len(weight), *seen.shape))[head]
    norm = model.norm("attention", layer)
    value = latent(model, kind, layer, plain(norm, seen) if norm is not None else seen)
    bias = model.projection_bias(kind, layer)
    return nn.functional.linear(value, weight[head].to(value), None if bias is None else bias[head].to(value))


def _read_through_shared_norm(
    model: Model, kind: AttentionKind, layer: int, value: Tensor, chosen: Sequence[int] | None
) -> Tensor:
    """One norm over all heads (OLMo 2): head r is taken from the whole projection of what head r sees."""
    assert model.family.qk_norms is not None
    norm = find(model.blocks[layer], model.family.qk_norms["qk".index(kind)])
    module = find(model.blocks[layer], model.family.qkv["qkv".index(kind)])
    assert norm is not None
    assert module is not None
    whole = plain(norm, nn.functional.linear(value, matrix(module), getattr(module, "bias", None)))
    count = model.kv_heads if kind == "k" else model.heads
    heads = whole.unflatten(-1, (count, -1))  # [R, *batch, heads, E]
    places = range(count) if chosen is None else chosen
    return torch.stack([heads[row][..., head, :] for row, head in enumerate(places)])


def read_mlp(model: Model, layer: int, seen: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """What the MLP is fed when it sees the stream `seen`."""
    norm = model.norm("mlp", layer)
    return plain(norm, seen) if norm is not None else seen


@torch.enable_grad()
def pulled_back(
    model: Model, kind: AttentionKind, layer: int, stream: Float[Tensor, "C D"], gradient: Float[Tensor, "C R E"]
) -> Float[Tensor, "R C D"]:
    """Gradients at heads' projections, carried back to the stream that each head reads, separately for each head."""
    if kind in ("q", "k", "v") and not model.family.qk_norms and model.family.layout != "latent":
        # a projection is linear: its weights carry back, and the norm alone has to be differentiated
        weight = model.projection_weight(kind, layer).to(gradient.device)
        carried, norm = torch.einsum("cre,red->rcd", gradient, weight), model.norm("attention", layer)
        if norm is None:
            return carried
        seen = stream.detach().expand(gradient.shape[1], *stream.shape).clone().requires_grad_()
        return torch.autograd.grad(plain(norm, seen), seen, carried)[0]
    seen = stream.detach().expand(gradient.shape[1], *stream.shape).clone().requires_grad_()
    made = read(model, kind, layer, seen)
    return torch.autograd.grad((made * gradient.transpose(0, 1)).sum(), seen)[0]


@torch.enable_grad()
def pulled_back_mlp(
    model: Model, layer: int, stream: Float[Tensor, "C D"], gradient: Float[Tensor, "C D"]
) -> Float[Tensor, "1 C D"]:
    """The same for what the MLP is fed."""
    if model.norm("mlp", layer) is None:
        return gradient[None]
    seen = stream.detach().clone().requires_grad_()
    return torch.autograd.grad((read_mlp(model, layer, seen) * gradient).sum(), seen)[0][None]
