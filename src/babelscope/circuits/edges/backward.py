"""One forward and one backward pass, with the gradient of the logit difference kept wherever a node reads.

Gradients are taken at the native q, k and v projections: grouped heads need no ungrouping, and the residual stream is
never copied per head.

N row · T position · D width · E head width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import Rows
from babelscope.circuits.core.residual import attention_write
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import Site, capture, edit, resume, tracked

if TYPE_CHECKING:
    from babelscope.models import Model


@dataclass(frozen=True)
class Gradients:
    """∂LD/∂value, summed over nothing: every row has its own LD."""

    at: dict[Site, Tensor]
    attention_stream: list[Float[Tensor, "N T D"]]
    """the stream that q, k and v of each layer read"""
    mlp_stream: list[Float[Tensor, "N T D"]]
    scores: Float[Tensor, " N"]
    """LD of each row in this very run"""


def gradients(
    model: Model,
    rows: Rows,
    embedding: Float[Tensor, "N T D"],
    sites: Sequence[Site] | None = None,
    frozen_patterns: bool = False,
    ids: Tensor | None = None,
    value: Callable[[Float[Tensor, "S N A D"]], Float[Tensor, "S N"]] | None = None,
) -> Gradients:
    """Gradients at `sites` (everywhere a node reads, unless given) of a run that starts from `embedding`.

    `frozen_patterns`: attention patterns are constants, so q and k get no gradient. `value`: what is followed, of the
    final hidden states at the answer's positions; None: the logit difference.
    """
    kept: dict[Site, Tensor] = {}
    layers = range(model.layers)
    if sites is None:
        sites = [*reading_sites(model), Site("residual", model.layers)]

    changes = tracked(sites, kept)
    if frozen_patterns:
        cut = [site for site in reading_sites(model) if site.kind in ("q", "k", "shared_key")]
        changes |= dict.fromkeys(cut, _cut)
    streams = [Site("residual", layer) for layer in layers]
    streams += [Site("z", layer) for layer in model.attention_layers]
    streams += [Site("state_write", layer) for layer in model.mixer_layers]
    with torch.enable_grad():
        start = embedding.detach().clone().requires_grad_()
        with fused_gelu(model), resume(model, 0, start), capture(model, streams) as seen, edit(model, changes):
            final = model.trunk(rows.clean if ids is None else ids)
        ends = final[None, :, rows.length - rows.answer :]
        scores = (logit_diff.scores(model, rows, ends) if value is None else value(ends))[0]
        wanted = [site for site in sites if site in kept]
        found = torch.autograd.grad(scores.sum(), [kept[site] for site in wanted], allow_unused=True)
    at = {
        site: torch.zeros_like(kept[site]) if grad is None else grad
        for site, grad in zip(wanted, cast("Sequence[Tensor | None]", found))
    }
    attention = [start.detach(), *(seen[Site("residual", layer)] for layer in layers[1:])]
    if model.family.parallel:
        return Gradients(at, attention, attention, scores.detach())
    with torch.no_grad():
        mlp = [_before_mlp(model, layer, attention[layer], seen) for layer in layers]
    return Gradients(at, attention, mlp, scores.detach())


def reading_sites(model: Model) -> list[Site]:
    """Where nodes read, layer by layer."""
    found: list[Site] = []
    for layer in range(model.layers):
        found += [Site(kind, layer) for kind in model.readings] if layer in model.attention_layers else []
        found += [Site("mlp_in", layer)] if layer in model.neuron_layers else []
    return found


def _before_mlp(model: Model, layer: int, entering: Tensor, seen: Mapping[Site, Tensor]) -> Tensor:
    for site in (Site("z", layer), Site("state_write", layer)):
        if site in seen:
            write = attention_write(model, layer, seen[site]) if site.kind == "z" else seen[site]
            entering = entering + write
    return entering


def _cut(value: Tensor) -> Tensor:
    return value.detach()
