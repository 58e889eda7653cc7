"""Every edge of a model, as one matrix: who may write into what is read where.

Writers in the order of the stream: embedding, heads of layer 0, MLP 0, heads of layer 1, … Readers likewise: queries of
layer 0, its keys and values (native key/value heads), MLP 0, …, the final residual. What can reach a reader is then
always a prefix of the writers.

W writer · R reader
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Logits, Node, Receiver, Sender, check_model

if TYPE_CHECKING:
    from babelscope.models import Model

Mask = NDArray[np.bool_]
MOST = 10_000
"""heads in all layers; the largest models have half of that"""
MOST_CELLS = 50_000_000
"""writers times readers: 80 layers of 64 heads that share 8 key/value heads have 34 million"""


@dataclass(frozen=True)
class Wiring:
    """Sizes of a model from which all its nodes and edges follow (section 6).

    >>> wiring = Wiring(layers=2, heads=4, kv_heads=2)
    >>> wiring.allowed.shape, int(wiring.allowed.sum())
    ((11, 19), 82)
    """

    layers: int
    heads: int
    kv_heads: int
    parallel: bool = False
    """attention and MLP of a layer read the same stream"""

    @classmethod
    def of(cls, model: Model) -> Wiring:
        """The wiring of a model; raises UnsupportedModel where writes do not add up to the stream."""
        check_model(model)
        return cls(model.layers, model.heads, model.kv_heads, model.family.parallel)

    @cached_property
    def writers(self) -> tuple[Sender, ...]:
        blocks = [[*(Head(layer, head) for head in range(self.heads)), MLP(layer)] for layer in range(self.layers)]
        return (EMBEDDING, *(node for block in blocks for node in block))

    @cached_property
    def readers(self) -> tuple[Receiver, ...]:
        found: list[Receiver] = []
        for layer in range(self.layers):
            found += [Receiver("q", layer, head) for head in range(self.heads)]
            found += [Receiver("k", layer, head) for head in range(self.kv_heads)]
            found += [Receiver("v", layer, head) for head in range(self.kv_heads)]
            found.append(Receiver("mlp", layer))
        return (*found, FINAL)

    def writer(self, node: Sender) -> int:
        """Row of a writer."""
        if isinstance(node, Head):
            return 1 + node.layer * (self.heads + 1) + node.head
        return 1 + node.layer * (self.heads + 1) + self.heads if isinstance(node, MLP) else 0

    def reader(self, receiver: Receiver) -> int:
        """Column of a reader."""
        if receiver.kind == "logits":
            return len(self.readers) - 1
        start = receiver.layer * (self.heads + 2 * self.kv_heads + 1)
        offsets = {"q": 0, "k": self.heads, "v": self.heads + self.kv_heads, "mlp": self.heads + 2 * self.kv_heads}
        return start + offsets[receiver.kind] + max(receiver.head, 0)

    def first_readers(self, layer: int) -> tuple[Receiver, ...]:
        """The first query, key and value head of a layer, and its MLP: each begins a run of neighbouring columns."""
        return (Receiver("q", layer, 0), Receiver("k", layer, 0), Receiver("v", layer, 0), Receiver("mlp", layer))

    def before(self, receiver: Receiver) -> int:
        """How many writers a reader can see; they are the first ones."""
        if receiver.kind == "logits":
            return len(self.writers)
        seen = 1 + receiver.layer * (self.heads + 1)
        return seen + self.heads if receiver.kind == "mlp" and not self.parallel else seen

    @cached_property
    def allowed(self) -> Bool[Mask, "W R"]:
        """Which edges exist at all."""
        mask = np.zeros((len(self.writers), len(self.readers)), dtype=bool)
        for column, receiver in enumerate(self.readers):
            mask[: self.before(receiver), column] = True
        return mask

    @property
    def edges(self) -> int:
        """How many edges exist, counted without listing them."""
        inner = self.heads + 2 * self.kv_heads
        seen = [1 + layer * (self.heads + 1) for layer in range(self.layers)]
        late = 0 if self.parallel else self.heads
        return sum(before * inner + before + late for before in seen) + 1 + self.layers * (self.heads + 1)

    @cached_property
    def feeds(self) -> Bool[Mask, "R W"]:
        """Which node each reader belongs to: a key/value head belongs to every query head that it serves."""
        group = self.heads // self.kv_heads
        mask = np.zeros((len(self.readers), len(self.writers)), dtype=bool)
        for row, receiver in enumerate(self.readers):
            if receiver.kind == "mlp":
                mask[row, self.writer(MLP(receiver.layer))] = True
            elif receiver.kind != "logits":
                own = range(receiver.head * group, (receiver.head + 1) * group)
                heads = [receiver.head] if receiver.kind == "q" else own
                mask[row, [self.writer(Head(receiver.layer, head)) for head in heads]] = True
        return mask

    def readers_of(self, node: Node) -> list[Receiver]:
        """What a node reads with."""
        if isinstance(node, Logits):
            return [FINAL]
        if isinstance(node, MLP):
            return [Receiver("mlp", node.layer)]
        if not isinstance(node, Head):
            return []
        shared = node.head // (self.heads // self.kv_heads)
        return [
            Receiver("q", node.layer, node.head),
            Receiver("k", node.layer, shared),
            Receiver("v", node.layer, shared),
        ]

    def pruned(self, edges: Bool[Mask, "W R"]) -> Bool[Mask, "W R"]:
        """The edges that lie on some path from the embedding to the logits within `edges`."""
        edges = edges & self.allowed
        reached, leads = self._reached(edges), self._leads(edges)
        return edges & reached[:, None] & leads[None, :]

    def _reached(self, edges: Mask) -> Mask:
        reached = np.zeros(len(self.writers), dtype=bool)
        reached[0] = True
        for row in range(1, len(reached)):
            reached[row] = bool((edges[reached][:, self.feeds[:, row]]).any())
        return reached

    def _leads(self, edges: Mask) -> Mask:
        leads = np.zeros(len(self.readers), dtype=bool)
        leads[-1] = True
        for row in reversed(range(1, len(self.writers))):
            if edges[row, leads].any():
                leads |= self.feeds[:, row]
        return leads

    def facts(self) -> dict[str, Any]:
        return {"layers": self.layers, "heads": self.heads, "kv_heads": self.kv_heads, "parallel": self.parallel}


def sized(wiring: Wiring) -> Wiring:
    """The same wiring, where its sizes are those of a model; raises ValueError before a matrix of them fills memory."""
    sizes = (wiring.layers, wiring.heads, wiring.kv_heads)
    whole = all(type(size) is int and size > 0 for size in sizes) and type(wiring.parallel) is bool
    if (
        not whole
        or wiring.layers * wiring.heads > MOST
        or wiring.heads % wiring.kv_heads
        or _cells(wiring) > MOST_CELLS
    ):
        raise ValueError(f"{sizes} are not the sizes of a model")
    return wiring


def _cells(wiring: Wiring) -> int:
    writers = 1 + wiring.layers * (wiring.heads + 1)
    return writers * (1 + wiring.layers * (wiring.heads + 2 * wiring.kv_heads + 1))
