"""What attention makes of what it reads: queries, keys and values by head, also by way of latents (DeepSeek).

D width · E head width
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from babelscope.models.hooks import Reading
from babelscope.models.norms import plain
from babelscope.models.offload import weight_of

if TYPE_CHECKING:
    from babelscope.models.model import Model


def latent(model: Model, kind: Reading, layer: int, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch L"]:
    """What the projection of a kind is applied to: its latent behind its norm, or `value` where there is none."""
    family = model.family
    paths = family.query_latent if kind == "q" else family.key_latent
    if not paths or kind in ("shared_key", "gate"):
        return value
    down, norm = (model.part(path, layer) for path in paths)
    rows = _linear(down, value)
    return plain(norm, rows if kind == "q" else rows[..., : model.latent_width])


def project(
    model: Model, kind: Reading, layer: int, value: Float[Tensor, "*batch D"]
) -> Float[Tensor, "*batch heads E"]:
    """Every head's query, key or value of `value`, native: before rotary embedding and norms of heads."""
    if kind == "shared_key":
        return _linear(model.part(model.family.key_latent[0], layer), value)[..., None, model.latent_width :]
    made = torch.einsum("...d,hed->...he", latent(model, kind, layer, value), model.projection_weight(kind, layer))
    bias = model.projection_bias(kind, layer)
    return made if bias is None else made + bias


def _linear(module: nn.Module, value: Tensor) -> Tensor:
    weight = weight_of(module)
    assert weight is not None
    return nn.functional.linear(value, weight.to(value.device), weight_of(module, "bias"))
