"""What ablating one edge does, for many edges: the truth that fast attribution is held against (section 7).

With a single edge missing everything up to its reader is as in the clean run, so the pass is resumed there, with that
reader's value made from the stream without the edge; edges into one layer are stacked along the batch.

S edge · N row · T position · D width · E head width · W writer · R reader · P pair
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import Reference
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import Recorded, Runs, run
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import MLP, Head, Mixer, Receiver, Sender
from babelscope.circuits.core.residual import (
    AttentionKind,
    Values,
    attention_write,
    head_parts,
    read_head,
    read_mlp,
)
from babelscope.circuits.patching.path_passes import site_of, to_the_end
from babelscope.models.batches import token_budget
from babelscope.models.hooks import Change, Site
from babelscope.models.norms import plain

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Edge = tuple[int, int]


@torch.no_grad()
def edge_effects(
    model: Model,
    pairs: Sequence[PromptPair],
    edges: Sequence[Edge],
    reference: Reference,
    budget: int | None = None,
) -> Float[Array, "edges P"]:
    """True change of LD when one edge (row, column) at a time is ablated: what attribution estimates.

    Raises UnsupportedModel where writes do not add up, TaskError for bad pairs.
    """
    wiring = Wiring.of(model)
    _ = model.block_returns_tuple
    found = np.zeros((len(edges), len(pairs)))
    order = sorted(range(len(edges)), key=lambda place: edges[place][1])
    budget = budget or token_budget(model.device)
    for rows in batches(pairs, budget, model.device):
        base = run(model, rows.clean, keys=True)
        runs = Runs(rows, base, base)
        ablated = reference(rows)
        differences = _differences(model, base, ablated, {wiring.writers[row] for row, _ in edges})
        first = _first(rows, differences) if model.keeps_keys else 0
        own = logit_diff.scores(model, rows, base.final[None, :, rows.length - rows.answer :])[0]
        size = max(1, budget // max(1, len(rows) * (rows.length - first)))
        for _, group in groupby(order, key=lambda place: _layer(wiring, edges[place])):
            members = list(group)
            for start in range(0, len(members), size):
                part = members[start : start + size]
                asked = [(wiring.readers[edges[p][1]], differences[wiring.writers[edges[p][0]]]) for p in part]
                change = logit_diff.scores(model, rows, _final(model, runs, asked, first)) - own
                for place, values in zip(part, change.cpu().double().numpy()):
                    np.add.at(found[place], list(rows.index), values)
    return found


def _layer(wiring: Wiring, edge: Edge) -> int:
    reader = wiring.readers[edge[1]]
    return wiring.layers if reader.kind == "logits" else reader.layer


def _first(rows: Rows, differences: Mapping[Sender, Tensor]) -> int:
    """First position at which anything that is ablated differs from what was there: what is before stays as it is."""
    changed = [(value != 0).any(-1).any(0) for value in differences.values()]
    anywhere = torch.stack(changed).any(0).nonzero()
    return min(int(anywhere[0]) if len(anywhere) else rows.length, rows.length - rows.answer)


def _differences(
    model: Model, base: Recorded, ablated: Values, writers: set[Sender]
) -> dict[Sender, Float[Tensor, "N T D"]]:
    """What each writer put on the stream, minus what stands for it when it is ablated."""
    found: dict[Sender, Tensor] = {}
    for layer in {node.layer for node in writers if isinstance(node, Head)}:
        own, other = head_parts(model, layer, base.z[layer]), head_parts(model, layer, ablated.z[layer])
        for node in writers:
            if isinstance(node, Head) and node.layer == layer:
                found[node] = own[node.head] - other[node.head]
    for node in writers:
        if isinstance(node, MLP):
            found[node] = base.mlp[node.layer] - ablated.mlp[node.layer]
        elif isinstance(node, Mixer):
            found[node] = base.state[node.layer] - ablated.state[node.layer]
        elif not isinstance(node, Head):
            found[node] = base.residual[0] - ablated.embedding
    return found


def _final(model: Model, runs: Runs, asked: Sequence[tuple[Receiver, Tensor]], first: int) -> Float[Tensor, "S N A D"]:
    """Final hidden states with each reader of one layer seeing its stream without what one writer put there."""
    base, rows = runs.base, runs.rows
    if asked[0][0].kind == "logits":
        norm = model.norm("final")
        seen = torch.stack([base.residual[model.layers] - gone for _, gone in asked])[:, :, rows.length - rows.answer :]
        return plain(norm, seen) if norm is not None else seen
    layer = asked[0][0].layer
    puts: dict[Site, list[tuple[int, int, Tensor]]] = {}
    for copy, (reader, gone) in enumerate(asked):
        if reader.kind == "mlp":
            stream = base.residual[layer] - gone
            if not model.family.parallel:
                stream = stream + attention_write(model, layer, base.z[layer]) if layer in base.z else stream
                stream = stream + base.state[layer] if layer in base.state else stream
            value = read_mlp(model, layer, stream)
        else:
            value = read_head(model, _kind(reader), layer, reader.head, base.residual[layer] - gone)
        puts.setdefault(site_of(reader), []).append((copy, reader.head, value[:, first:]))
    changes = {site: _put(entries, len(asked)) for site, entries in puts.items()}
    return to_the_end(model, runs, layer, len(asked), first, changes)


def _kind(reader: Receiver) -> AttentionKind:
    assert reader.kind not in ("mlp", "logits")
    return reader.kind


def _put(entries: Sequence[tuple[int, int, Tensor]], copies: int) -> Change:
    """The change of a site that gives some of the stacked copies another value, in one head or in the whole width."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        stacked: Callable[[Tensor], Tensor] = lambda value: value.view(copies, -1, *value.shape[1:])  # noqa: E731
        for copy, head, value in entries:
            if head < 0:
                stacked(changed)[copy] = value.to(changed)
            else:
                stacked(changed)[copy][:, :, head] = value.to(changed)
        return changed

    return change
