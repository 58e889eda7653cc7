"""Passes of one batch without many sets of nodes: what sets have in common, from the first block on, is passed once.

Two sets that take the same nodes out of the first blocks leave the same stream behind them, so the second pass goes on
from there. Where all heads of a layer are taken out its attention is not computed, nor an MLP that is.

N row · T position · A answer position · D width
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from babelscope.circuits.core.cache import Runs, attention_output
from babelscope.circuits.core.changes import Part, node_changes
from babelscope.circuits.core.nodes import MLP, Head
from babelscope.circuits.core.residual import Values
from babelscope.circuits.patching.path_passes import Forwards, frozen_attention, frozen_mlps, to_the_end, writes_itself
from babelscope.models.hooks import Change, Site, capture

if TYPE_CHECKING:
    from babelscope.models import Model

Layers = tuple[frozenset[Part], ...]
"""what a set takes out of each layer"""


def finals_without(
    model: Model, runs: Runs, first: int, sets: Sequence[Collection[Part]], values: Values
) -> Iterator[tuple[int, Float[Tensor, "N A D"]]]:
    """Final hidden states at the answer under each set (by its place, in whatever order is cheapest), passes beginning
    at position `first`; `values` stand for what is taken out."""
    layered = [_by_layer(model, nodes) for nodes in sets]
    order = sorted(range(len(sets)), key=lambda place: [sorted(map(str, nodes)) for nodes in layered[place]])
    common = [_alike(layered[one], layered[two]) for one, two in pairwise(order)]
    silent = _Silent(model, runs, first, values)
    kept: list[tuple[int, Tensor]] = []  # streams of the last pass that later ones go on from: layer, what enters it
    final = runs.base.final[:, runs.rows.length - runs.rows.answer :]
    for step, place in enumerate(order):
        alike = common[step - 1] if step else 0
        while kept and kept[-1][0] > alike:
            kept.pop()
        if not sets[place]:
            yield place, runs.base.final[:, runs.rows.length - runs.rows.answer :]
            continue
        if step and alike == model.layers:
            yield place, final
            continue
        start, hidden = min(node.layer for node in sets[place]), None
        if kept and kept[-1][0] > start:
            start, hidden = kept[-1]
        wanted = _branches(common[step:], start)
        changes, forwards = silent.changed(layered[place], start)
        with capture(model, [Site("residual", layer) for layer in wanted]) as seen:
            final = to_the_end(model, runs, start, 1, first, changes, forwards, hidden)[0]
        kept += [(layer, seen[Site("residual", layer)]) for layer in wanted]
        yield place, final


def _by_layer(model: Model, nodes: Collection[Part]) -> Layers:
    return tuple(frozenset(node for node in nodes if node.layer == layer) for layer in range(model.layers))


def _alike(one: Layers, two: Layers) -> int:
    """How many of the first layers two sets take the same nodes out of."""
    return next((layer for layer, (a, b) in enumerate(zip(one, two)) if a != b), len(one))


def _branches(common: Sequence[int], start: int) -> list[int]:
    """Layers behind `start` at which passes to come part from this one, as far as nothing parts before."""
    found: set[int] = set()
    least = None
    for alike in common:
        least = alike if least is None else min(least, alike)
        if least <= start:
            break
        found.add(least)
    return sorted(found)


class _Silent:
    """What layers put out of which all heads, or the MLP, are taken: the same for every set of a batch."""

    def __init__(self, model: Model, runs: Runs, first: int, values: Values) -> None:
        self.model, self.first, self.values = model, first, values
        self.shape = (len(runs.rows), runs.rows.length - first)
        self.attention: dict[int, Tensor] = {}

    def changed(self, layers: Layers, start: int) -> tuple[dict[Site, Change], Forwards]:
        """Edits of a pass from block `start` on without these nodes, and what stands for modules that rest."""
        outputs: dict[int, Tensor] = {}
        writes: dict[int, Tensor] = {}
        rest: list[Part] = []
        for layer, nodes in enumerate(layers[start:], start):
            heads = {node for node in nodes if isinstance(node, Head)}
            mlps = {node for node in nodes if isinstance(node, MLP)} if writes_itself(self.model, layer) else set[MLP]()
            if len(heads) < self.model.heads:
                heads = set[Head]()
            if heads:
                outputs[layer] = self._attention(layer).clone()  # blocks may add into it
            if mlps:
                writes[layer] = self._placed(self.values.mlp[layer], 1)
            rest += nodes - heads - mlps
        forwards = frozen_attention(self.model, outputs, set()) | frozen_mlps(self.model, writes)
        return node_changes(self.model, self.values, rest), forwards

    def _attention(self, layer: int) -> Float[Tensor, "N T D"]:
        if layer not in self.attention:
            self.attention[layer] = attention_output(self.model, layer, self._placed(self.values.z[layer], 2))
        return self.attention[layer]

    def _placed(self, value: Tensor, width: int) -> Tensor:
        """At every position that is run; a constant stands at each."""
        value = value if value.dim() == width else value[:, self.first :]
        return value.to(self.model.dtype).expand(*self.shape, *value.shape[-width:])
