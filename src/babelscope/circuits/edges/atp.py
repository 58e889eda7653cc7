"""Attribution patching of nodes with the QK fix (Kramár, Lieberum, Shah and Nanda 2024).

A gradient through the softmax says nothing where attention is saturated. The fix puts in the corrupted queries (or
keys), lets the model make its own patterns of them, and multiplies the true change of every pattern by the gradient:

    s(q_h) = Σ_ij (A(q′, k) − A(q, k))_ij · ∂LD/∂A_ij = Σ_i (z(A(q′, k), v) − z)_i · ∂LD/∂z_i

so no pattern has to be seen, and any attention kernel will do. It costs one more forward pass for queries and one for
keys. Positions are patched together: for queries that is the sum over positions, exactly.

L layer · H query head · K key/value head · N row · T position
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import first_position, record
from babelscope.circuits.core.nodes import check_model
from babelscope.circuits.edges.backward import gradients
from babelscope.circuits.patching.path_passes import to_the_end
from babelscope.models.batches import token_budget
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import Change, Kind, Reading, Site, capture, edit

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NodeScores:
    """Estimated change of the mean logit difference when one node's value comes from the corrupted prompt."""

    heads: Float[Array, "L H"]
    """here and below NaN in layers that have none"""
    queries: Float[Array, "L H"]
    keys: Float[Array, "L K"]
    values: Float[Array, "L K"]
    mlps: Float[Array, " L"]
    mixers: Float[Array, " L"]
    embedding: float
    unfixed_queries: Float[Array, "L H"]
    """the same by gradients through the softmax, without the fix"""
    unfixed_keys: Float[Array, "L K"]
    settings: dict[str, object]


@torch.no_grad()
def attribution_patching(
    model: Model,
    pairs: Sequence[PromptPair],
    qk_fix: bool = True,
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
) -> NodeScores:
    """Scores of all nodes from one backward pass (and two more forward passes with `qk_fix`).

    Keys out of a latent: the rotary part that all heads share counts for each of them, but not without `qk_fix`.

    Raises UnsupportedModel where writes do not add up, TaskError for bad pairs.

    >>> attribution_patching(model, prompts).queries.shape                               # doctest: +SKIP
    (4, 8)
    """
    check_model(model)
    _ = model.block_returns_tuple
    layers, heads, keys = model.layers, model.heads, model.kv_heads
    sums: dict[str, Array] = {
        name: np.full((layers, count), np.nan)
        for name, count in (("z", heads), ("q", heads), ("k", keys), ("v", keys), ("fixed q", heads), ("fixed k", keys))
    }
    for sum_ in sums.values():
        sum_[list(model.attention_layers)] = 0
    mlps, mixers, embedding = np.full(layers, np.nan), np.full(layers, np.nan), 0.0
    mlps[list(model.neuron_layers)] = mixers[list(model.mixer_layers)] = 0
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        clean, corrupted = _seen(model, rows.clean), _seen(model, rows.corrupted)
        start = clean[Site("residual", 0)]
        sites = [site for site in clean if site != Site("residual", 0) and site.kind != "residual"]
        found = gradients(model, rows, start, [*sites, Site("residual", 0)])
        for layer in model.attention_layers:
            for kind in ("z", "q", "k", "v"):
                sums[kind][layer] += _by_head(clean, corrupted, found.at, Site(kind, layer))
        writes: list[tuple[Array, Kind]] = [(mlps, "mlp_write"), (mixers, "state_write")]
        for into, kind in writes:
            for layer in np.flatnonzero(np.isfinite(into)).tolist():
                site = Site(kind, layer)
                into[layer] += float(((corrupted[site] - clean[site]) * found.at[site]).double().sum())
        first = Site("residual", 0)
        embedding += float(((corrupted[first] - clean[first]) * found.at[first]).double().sum())
        for kind in ("q", "k") if qk_fix else ():
            _add_fixed(model, rows, kind, clean, corrupted, found.at, sums[f"fixed {kind}"])
        if done:
            done(len(rows))
    count, fixed = len(pairs), "fixed " if qk_fix else ""
    return NodeScores(
        sums["z"] / count,
        sums[f"{fixed}q"] / count,
        sums[f"{fixed}k"] / count,
        sums["v"] / count,
        mlps / count,
        mixers / count,
        embedding / count,
        sums["q"] / count,
        sums["k"] / count,
        dict(method="atp", qk_fix=qk_fix, pairs=count),
    )


@torch.no_grad()
def input_effects(
    model: Model, pairs: Sequence[PromptPair], kind: Literal["q", "k"], nodes: Sequence[tuple[int, int]]
) -> Float[Array, " nodes"]:
    """True mean change of LD when the queries (or keys) of one head come from the corrupted prompt, at all positions.

    `nodes`: (layer, head), for keys by key/value head. What `attribution_patching` estimates.
    """
    totals = np.zeros(len(nodes))
    budget, count = token_budget(model.device), len(pairs)
    by_layer: dict[int, list[int]] = {}
    for place, (layer, _) in enumerate(nodes):
        by_layer.setdefault(layer, []).append(place)
    for rows in batches(pairs, budget, model.device):
        runs = record(model, rows, mlps=False)
        first = first_position(model, rows.span(None, rows.clean, rows.corrupted))
        with capture(model, [Site(kind, layer) for layer in by_layer]) as corrupted:
            model.trunk(rows.corrupted)
        answers = runs.base.final[None, :, rows.length - rows.answer :]
        base = float(logit_diff.scores(model, rows, answers).double().sum())
        size = max(1, budget // (len(rows) * (rows.length - first)))
        for layer, places in by_layer.items():
            site = Site(kind, layer)
            for start in range(0, len(places), size):
                part = places[start : start + size]
                change = _put_heads(corrupted[site][:, first:], [nodes[place][1] for place in part])
                final = to_the_end(model, runs, layer, len(part), first, {site: change})
                totals[part] += logit_diff.scores(model, rows, final).double().sum(1).cpu().numpy() - base
    return totals / count


def _put_heads(value: Float[Tensor, "N T H E"], heads: Sequence[int]) -> Change:
    """One head's queries (or keys) in each of so many copies of the rows."""

    def change(own: Tensor) -> Tensor:
        mixed = own.clone().unflatten(0, (len(heads), -1))
        for copy, head in enumerate(heads):
            mixed[copy, :, :, head] = value[:, :, head]
        return mixed.flatten(0, 1)

    return change


def _seen(model: Model, ids: Tensor) -> dict[Site, Tensor]:
    kinds: tuple[Kind, ...] = ("residual", *model.readings, "z", "state_write", "mlp_write")
    with fused_gelu(model), capture(model, [site for site in model.sites()[:-1] if site.kind in kinds]) as seen:
        model.trunk(ids)
    return dict(seen)


def _by_head(clean: dict[Site, Tensor], corrupted: dict[Site, Tensor], at: dict[Site, Tensor], site: Site) -> Array:
    product = (corrupted[site] - clean[site]) * at[site]
    return product.double().sum((0, 1, 3)).cpu().numpy()


def _add_fixed(
    model: Model,
    rows: Rows,
    kind: Kind,
    clean: dict[Site, Tensor],
    corrupted: dict[Site, Tensor],
    at: dict[Site, Tensor],
    into: Array,
) -> None:
    """One pass in which every block is fed its own clean stream, with queries (or keys) of the corrupted run."""
    layers = model.attention_layers
    # out of a latent the part that all heads share belongs to each head's key
    kinds: list[Reading] = [one for one in model.readings if one == kind or (kind == "k" and one == "shared_key")]
    changes = {Site(one, layer): _put(corrupted[Site(one, layer)]) for layer in layers for one in kinds}
    changes |= {Site("residual", layer): _put(clean[Site("residual", layer)]) for layer in range(model.layers)}
    sites = [Site("z", layer) for layer in layers]
    with fused_gelu(model), edit(model, changes), capture(model, sites) as mixed:
        model.trunk(rows.clean)
    for site in sites:
        products = ((mixed[site] - clean[site]) * at[site]).double().sum((0, 1, 3)).cpu().numpy()
        into[site.layer] += products.reshape(into.shape[1], -1).sum(1)


def _put(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value.clone()
