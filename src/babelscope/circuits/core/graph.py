"""Every edge of a model, as one matrix: who may write into what is read where.

Writers in the order of the stream: embedding, heads of layer 0, its linear mixer, MLP 0, heads of layer 1, … Readers
likewise: queries of layer 0, its keys and values (native key/value heads), MLP 0, …, the final residual; a layer has of
these what the model has there. What can reach a reader is then always a prefix of the writers.

W writer · R reader
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from babelscope.circuits.core.nodes import (
    EMBEDDING,
    FINAL,
    MLP,
    Embedding,
    Head,
    Logits,
    Mixer,
    Node,
    Receiver,
    Sender,
    check_model,
)
from babelscope.models.hooks import Reading

if TYPE_CHECKING:
    from babelscope.models import Model

Mask = NDArray[np.bool_]
KINDS = {"a", "s", "m", "as", "am", "sm", "asm"}
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
    kinds: tuple[str, ...] = ()
    """what each layer has: a (heads), s (a linear mixer), m (an MLP), in this order; empty: heads and MLP everywhere"""
    shared_key: bool = False
    """keys come out of a latent, and all heads of a layer share their rotary part"""
    gates: bool = False
    """heads' outputs are multiplied by gates, which read the stream"""

    @classmethod
    def of(cls, model: Model) -> Wiring:
        """The wiring of a model; raises UnsupportedModel where writes do not add up to the stream."""
        check_model(model)
        layers = (("a", model.attention_layers), ("s", model.mixer_layers), ("m", model.neuron_layers))
        kinds = tuple("".join(name for name, has in layers if layer in has) for layer in range(model.layers))
        usual = set(kinds) == {"am"}
        shared, gates = ("shared_key" in model.readings, "gate" in model.readings)
        sizes = (model.layers, model.heads, model.kv_heads, model.family.parallel)
        return cls(*sizes, () if usual else kinds, shared, gates)

    def has(self, layer: int, kind: str) -> bool:
        """Whether a layer has heads (a), a linear mixer (s), an MLP (m)."""
        return kind in (self.kinds[layer] if self.kinds else "am")

    def _written(self, layer: int) -> int:
        return self.heads * self.has(layer, "a") + self.has(layer, "s") + self.has(layer, "m")

    @cached_property
    def attention_readers(self) -> dict[Reading, int]:
        """How many readers of each kind a layer's attention has, in their order."""
        found: dict[Reading, int] = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        if self.shared_key:
            found["shared_key"] = 1
        if self.gates:
            found["gate"] = self.heads
        return found

    @property
    def _attending(self) -> int:
        return sum(self.attention_readers.values())

    def _read(self, layer: int) -> int:
        return self._attending * self.has(layer, "a") + self.has(layer, "m")

    @cached_property
    def _first_writers(self) -> tuple[int, ...]:
        """Row of each layer's first writer."""
        return tuple(accumulate((self._written(layer) for layer in range(self.layers)), initial=1))

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """First column of each layer's readers, and that of the logits."""
        return tuple(accumulate((self._read(layer) for layer in range(self.layers)), initial=0))

    @cached_property
    def writers(self) -> tuple[Sender, ...]:
        found: list[Sender] = [EMBEDDING]
        for layer in range(self.layers):
            found += [Head(layer, head) for head in range(self.heads)] if self.has(layer, "a") else []
            found += [Mixer(layer)] if self.has(layer, "s") else []
            found += [MLP(layer)] if self.has(layer, "m") else []
        return tuple(found)

    @cached_property
    def readers(self) -> tuple[Receiver, ...]:
        found: list[Receiver] = []
        for layer in range(self.layers):
            if self.has(layer, "a"):
                kinds = self.attention_readers
                found += [Receiver(kind, layer, head) for kind in kinds for head in range(kinds[kind])]
            found += [Receiver("mlp", layer)] if self.has(layer, "m") else []
        return (*found, FINAL)

    def writer(self, node: Sender) -> int:
        """Row of a writer."""
        if isinstance(node, Embedding):
            return 0
        start = self._first_writers[node.layer]
        if isinstance(node, Head):
            return start + node.head
        start += self.heads * self.has(node.layer, "a")
        return start + (self.has(node.layer, "s") if isinstance(node, MLP) else 0)

    def reader(self, receiver: Receiver) -> int:
        """Column of a reader."""
        if receiver.kind == "logits":
            return self.columns[-1]
        start = self.columns[receiver.layer]
        if receiver.kind == "mlp":
            return start + self._attending * self.has(receiver.layer, "a")
        kinds = list(self.attention_readers)
        earlier = kinds[: kinds.index(receiver.kind)]
        return start + sum(self.attention_readers[kind] for kind in earlier) + max(receiver.head, 0)

    def first_readers(self, layer: int) -> tuple[Receiver, ...]:
        """The first query, key, value of a layer and so on, and its MLP, as far as it has them: each begins a run of
        neighbouring columns."""
        attention = [Receiver(kind, layer, 0) for kind in self.attention_readers] if self.has(layer, "a") else []
        return (*attention, *([Receiver("mlp", layer)] if self.has(layer, "m") else []))

    def before(self, receiver: Receiver) -> int:
        """How many writers a reader can see; they are the first ones."""
        if receiver.kind == "logits":
            return len(self.writers)
        seen = self._first_writers[receiver.layer]
        if receiver.kind != "mlp" or self.parallel:
            return seen
        return seen + self.heads * self.has(receiver.layer, "a") + self.has(receiver.layer, "s")

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
        total = 0
        for layer, seen in enumerate(self._first_writers[:-1]):
            late = 0 if self.parallel else self.heads * self.has(layer, "a") + self.has(layer, "s")
            total += seen * self._read(layer) + late * self.has(layer, "m")
        return total + self._first_writers[-1]

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
                own = range(self.heads) if receiver.kind == "shared_key" else own
                heads = [receiver.head] if receiver.kind in ("q", "gate") else own
                mask[row, [self.writer(Head(receiver.layer, head)) for head in heads]] = True
        return mask

    def readers_of(self, node: Node) -> list[Receiver]:
        """What a node reads with; a linear mixer reads the whole stream, with no reader of its own."""
        if isinstance(node, Logits):
            return [FINAL]
        if isinstance(node, MLP):
            return [Receiver("mlp", node.layer)]
        if not isinstance(node, Head):
            return []
        shared = node.head // (self.heads // self.kv_heads)
        found = [
            Receiver("q", node.layer, node.head),
            Receiver("k", node.layer, shared),
            Receiver("v", node.layer, shared),
        ]
        found += [Receiver("shared_key", node.layer, 0)] if self.shared_key else []
        return found + ([Receiver("gate", node.layer, node.head)] if self.gates else [])

    def pruned(self, edges: Bool[Mask, "W R"]) -> Bool[Mask, "W R"]:
        """The edges that lie on some path from the embedding to the logits within `edges`."""
        edges = edges & self.allowed
        reached, leads = self._reached(edges), self._leads(edges)
        return edges & reached[:, None] & leads[None, :]

    def _reached(self, edges: Mask) -> Mask:
        reached = np.zeros(len(self.writers), dtype=bool)
        reached[0] = True
        for row in range(1, len(reached)):
            # a linear mixer reads the whole stream, so the embedding reaches it
            whole = isinstance(self.writers[row], Mixer)
            reached[row] = whole or bool((edges[reached][:, self.feeds[:, row]]).any())
        return reached

    def _leads(self, edges: Mask) -> Mask:
        leads = np.zeros(len(self.readers), dtype=bool)
        leads[-1] = True
        for row in reversed(range(1, len(self.writers))):
            if edges[row, leads].any():
                leads |= self.feeds[:, row]
        return leads

    def facts(self) -> dict[str, int | bool | list[str]]:
        found = {"layers": self.layers, "heads": self.heads, "kv_heads": self.kv_heads, "parallel": self.parallel}
        found |= {"kinds": list(self.kinds)} if self.kinds else {}
        found |= {"shared_key": True} if self.shared_key else {}
        return found | ({"gates": True} if self.gates else {})


def sized(wiring: Wiring) -> Wiring:
    """The same wiring, where its sizes are those of a model; raises ValueError before a matrix of them fills memory."""
    sizes = (wiring.layers, wiring.heads, wiring.kv_heads)
    whole = all(type(size) is int and size > 0 for size in sizes) and type(wiring.parallel) is bool
    whole = whole and type(wiring.shared_key) is bool and type(wiring.gates) is bool
    layered = not wiring.kinds or (len(wiring.kinds) == wiring.layers and set(wiring.kinds) <= KINDS)
    if not layered:
        raise ValueError("its layers are not of kinds that exist")
    if (
        not whole
        or wiring.layers * wiring.heads > MOST
        or wiring.heads % wiring.kv_heads
        or _cells(wiring) > MOST_CELLS
    ):
        raise ValueError(f"{sizes} are not the sizes of a model")
    return wiring


def _cells(wiring: Wiring) -> int:
    writers = 1 + wiring.layers * (wiring.heads + 2)
    readers = wiring.heads * (1 + wiring.gates) + 2 * wiring.kv_heads + 2
    return writers * (1 + wiring.layers * readers)
