"""Heads patched at some positions: their own block is run at these alone, and all positions from the next one on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.circuits.core.cache import Runs, attention_output, output_changes, take
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.patching.path_passes import frozen_attention, passed_over, replaced, stacked, to_the_end
from babelscope.circuits.patching.swept_batches import Group
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import Change, Site, capture, edit, resume

if TYPE_CHECKING:
    from babelscope.models import Model


def from_next_block(
    model: Model, runs: Runs, group: Group, positions: Int[Tensor, "N P"], first: int
) -> Float[Tensor, "S N A D"]:
    """Heads, perhaps with their layer's MLP: what they write stays at its positions until the next attention reads
    it, so their own block is run at these alone."""
    layer = group[0].layer if isinstance(group[0], Head) else 0
    heads = [node.head for node in group if isinstance(node, Head)]
    output = stacked(attention_output(model, layer, take(runs.base.z[layer], positions)), len(group))
    change = output_changes(model, runs, layer, heads, positions).flatten(0, 1)
    output[: len(change)] += change
    write: dict[Site, Change] = {}
    if len(heads) < len(group):
        moved = take(runs.source.mlp[layer], positions) - take(runs.base.mlp[layer], positions)
        write = {Site("mlp_write", layer): added_last(moved)}
    value = behind_block(model, runs, layer, output, positions, write)
    hidden = stacked(runs.base.residual[layer + 1][:, first:], len(group))
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    hidden[rows, stacked(positions - first, len(group)).to(hidden.device)] = value
    return to_the_end(model, runs, layer + 1, len(group), first, hidden=hidden)


def behind_block(
    model: Model,
    runs: Runs,
    layer: int,
    output: Float[Tensor, "rows P D"],
    positions: Int[Tensor, "N P"],
    changes: Mapping[Site, Change],
) -> Float[Tensor, "rows P D"]:
    """The stream behind a block at `positions`, run as tokens of their own, when its attention puts out `output`."""
    copies = len(output) // len(positions)
    forwards = frozen_attention(model, {layer: output}, set()) | passed_over(model, range(layer + 1, model.layers))
    entering = stacked(take(runs.base.residual[layer], positions), copies)
    behind = Site("residual", layer + 1)
    with ExitStack() as stack:
        stack.enter_context(replaced(forwards))
        stack.enter_context(fused_gelu(model))
        stack.enter_context(resume(model, layer, entering))
        stack.enter_context(edit(model, changes))
        seen = stack.enter_context(capture(model, [behind]))
        model.trunk(stacked(take(runs.base.ids, positions), copies))
    return seen[behind]


def added_last(more: Float[Tensor, "N T D"]) -> Change:
    """Added to the last rows, at the last positions where only those are run."""

    def change(write: Tensor) -> Tensor:
        changed = write.clone()
        changed[-len(more) :] += more[:, -write.shape[1] :].to(write)
        return changed

    return change
