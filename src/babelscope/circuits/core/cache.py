"""Passes A and B of path patching: what a batch of pairs computes by itself, kept to be mixed afterwards.

N row · T position · D width · H query head · K key/value head · E head width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from babelscope.circuits.core.batching import PROMPT, Rows
from babelscope.circuits.core.nodes import check_model
from babelscope.models.families import find
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import Change, Reading, Site, capture, edit
from babelscope.models.places import matrix

if TYPE_CHECKING:
    from babelscope.models import Model

Direction = Literal["noising", "denoising"]


@dataclass(frozen=True)
class Recorded:
    """One run of one batch."""

    ids: Int[Tensor, "N T"]
    residual: list[Float[Tensor, "N T D"]]
    """entering each block, and entering the final norm"""
    z: dict[int, Float[Tensor, "N T H E"]]
    """by layer, of those that have heads"""
    mlp: dict[int, Float[Tensor, "N T D"]]
    """what each MLP writes to the stream, by layer; empty when not asked for"""
    state: dict[int, Float[Tensor, "N T D"]]
    """what each linear mixer writes to the stream, by layer"""
    final: Float[Tensor, "N T D"]
    """after the final norm"""
    keys: list[tuple[Float[Tensor, "N K T E"], Float[Tensor, "N K T E"]]]
    """keys and values as attention reads them; empty when not asked for, or where they are not all that is kept"""


@dataclass(frozen=True)
class Runs:
    """The run that is changed (`base`) and the run that the senders' values come from (`source`)."""

    rows: Rows
    base: Recorded
    source: Recorded


def record(
    model: Model,
    rows: Rows,
    direction: Direction = "noising",
    mlps: bool = True,
    pattern: bool = False,
    changes: Mapping[Site, Change] | None = None,
) -> Runs:
    """Passes A and B: noising runs the clean prompt with values of the corrupted one, denoising the reverse.

    With `pattern`, the source's head outputs are those of the base run under the source's attention patterns.
    `changes` stand in the model during both (a knock-out).
    """
    check_model(model)  # which a model under an edit is not asked
    _ = model.block_returns_tuple  # learned from a pass of its own, so before any module is replaced
    base_ids, source_ids = (rows.clean, rows.corrupted) if direction == "noising" else (rows.corrupted, rows.clean)
    with edit(model, changes or {}):
        base = run(model, base_ids, mlps=mlps, keys=True)
        source = run(model, source_ids, mlps=mlps)
    if pattern:
        source = replace(source, z=_under_patterns(model, base, source_ids))
    return Runs(rows, base, source)


def run(model: Model, ids: Int[Tensor, "N T"], mlps: bool = True, keys: bool = False) -> Recorded:
    """One pass over a batch, with everything kept that patching needs.

    Raises UnsupportedModel where circuits cannot be computed, InputError for prompts longer than the model's context.
    """
    from transformers import DynamicCache

    check_model(model)
    model.check_length(ids.shape[1], PROMPT)
    sites = [Site("residual", layer) for layer in range(model.layers + 1)]
    sites += [Site("z", layer) for layer in model.attention_layers]
    sites += [Site("state_write", layer) for layer in model.mixer_layers]
    sites += [Site("mlp_write", layer) for layer in model.neuron_layers] if mlps else []
    cache: Any = DynamicCache() if keys and model.keeps_keys else None
    with fused_gelu(model), capture(model, sites) as seen:
        final = model.trunk(ids, cache=cache)
    return Recorded(
        ids=ids,
        residual=[seen[Site("residual", layer)] for layer in range(model.layers + 1)],
        z={layer: seen[Site("z", layer)] for layer in model.attention_layers},
        mlp={layer: seen[Site("mlp_write", layer)] for layer in model.neuron_layers} if mlps else {},
        state={layer: seen[Site("state_write", layer)] for layer in model.mixer_layers},
        final=final,
        keys=[(part.keys, part.values) for part in cache.layers] if cache is not None else [],
    )


def first_position(model: Model, positions: Int[Tensor, "N P"]) -> int:
    """Where a pass has to start when values stand at `positions`: at the first of them, or at 0 where a cache of keys
    does not give back what came before."""
    return int(positions.min()) if model.keeps_keys else 0


def _under_patterns(model: Model, base: Recorded, source_ids: Int[Tensor, "N T"]) -> dict[int, Tensor]:
    """Head outputs of the base run with every pattern taken from the source: its queries and keys, the base's values.

    Every block is fed the base's own residual, so one pass serves all layers without mixing them.
    """
    layers = model.attention_layers
    kinds: list[Reading] = [kind for kind in model.readings if kind in ("q", "k", "shared_key")]
    with capture(model, [Site(kind, layer) for layer in layers for kind in kinds]) as seen:
        model.trunk(source_ids)
    changes = {site: _constant(value) for site, value in seen.items()}
    changes |= {Site("residual", layer): _constant(base.residual[layer]) for layer in range(model.layers)}
    with edit(model, changes), capture(model, [Site("z", layer) for layer in layers]) as mixed:
        model.trunk(base.ids)
    return {layer: mixed[Site("z", layer)] for layer in layers}


def _constant(value: Tensor) -> Change:
    return lambda _: value.clone()


def take(value: Shaped[Tensor, "N T *rest"], positions: Int[Tensor, "N P"]) -> Shaped[Tensor, "N P *rest"]:
    """Each row at its own positions."""
    rows = torch.arange(len(value), device=value.device)[:, None]
    return value[rows, positions.to(value.device)]


def projection(model: Model, layer: int) -> nn.Module:
    """The attention's output projection."""
    found = find(model.blocks[layer], model.family.attention_output)
    assert found is not None
    return found


def attention_output(model: Model, layer: int, z: Float[Tensor, "*batch H E"]) -> Float[Tensor, "*batch D"]:
    """What the output projection puts out (with its bias, before a post-norm)."""
    module = projection(model, layer)
    bias = getattr(module, "bias", None)
    return nn.functional.linear(z.flatten(-2), matrix(module), bias if isinstance(bias, Tensor) else None)


def output_changes(
    model: Model, runs: Runs, layer: int, heads: list[int], positions: Int[Tensor, "N P"]
) -> Float[Tensor, "heads N P D"]:
    """(z_h(source) − z_h(base)) W_O[h] of each head: the change of the projection's output if that head is patched."""
    change = take(runs.source.z[layer], positions) - take(runs.base.z[layer], positions)
    weight = model.output_weight(layer)
    if heads != list(range(len(weight))):  # indexing copies all of W_O, which takes longer than the product
        change, weight = change[:, :, heads], weight[heads]
    return torch.einsum("nphe,hed->hnpd", change, weight)


def stream_changes(
    model: Model, runs: Runs, layer: int, heads: list[int], positions: Int[Tensor, "N P"]
) -> Float[Tensor, "heads N P D"]:
    """Change of what attention writes to the stream if one head is patched (through a post-norm if there is one)."""
    change = output_changes(model, runs, layer, heads, positions)
    factor = model.scales.attention[layer]
    if not model.family.post_norms:
        return change if factor == 1 else change * factor
    norm = find(model.blocks[layer], model.family.attention_write)
    assert norm is not None
    whole = attention_output(model, layer, take(runs.base.z[layer], positions))
    return (norm(whole + change) - norm(whole)) * factor
