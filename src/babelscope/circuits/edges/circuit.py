"""A circuit: a choice of edges with their scores, found in some language; made, pruned, saved and loaded.

W writer · R reader
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from babelscope.circuits.core.graph import Mask, Wiring, sized
from babelscope.circuits.core.nodes import EMBEDDING, LOGITS, Head, Node, Receiver, Sender
from babelscope.errors import InputError, RunError
from babelscope.json_text import parse_json
from babelscope.results.sealed import read_sealed, save_sealed
from babelscope.results.whole import write_whole
from babelscope.terms import Construction

KEY = "circuit"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Circuit:
    """Edges between writers and readers, scored (section 6).

    Scores are estimated or measured changes of the logit difference when the edge is ablated: negative edges work for
    the answer. `roles` names what nodes do; `about` says how the circuit was found.

    >>> import numpy as np
    >>> wiring = Wiring(layers=1, heads=2, kv_heads=2)
    >>> circuit = top_edges(wiring, np.where(wiring.allowed, -1.0, 0.0), count=3, prune=False)
    >>> circuit.size, [str(node) for node in circuit.nodes]
    (3, ['embedding'])
    """

    wiring: Wiring
    edges: Bool[Mask, "W R"]
    scores: Float[Array, "W R"]
    roles: Mapping[str, str] = field(default_factory=dict[str, str])
    about: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def size(self) -> int:
        """Number of edges."""
        return int(self.edges.sum())

    @cached_property
    def nodes(self) -> tuple[Sender, ...]:
        """Writers with an edge out of them (a head that only shares keys and values with one of them is none)."""
        return tuple(node for node, row in zip(self.wiring.writers, self.edges) if row.any())

    @property
    def heads(self) -> tuple[Head, ...]:
        """The attention heads among the nodes."""
        return tuple(node for node in self.nodes if isinstance(node, Head))

    def listed(self) -> list[tuple[Sender, Receiver, float]]:
        """Edges with their scores, strongest first."""
        rows, columns = np.nonzero(self.edges)
        order = np.argsort(-np.abs(self.scores[rows, columns]), kind="stable")
        return [
            (self.wiring.writers[rows[k]], self.wiring.readers[columns[k]], float(self.scores[rows[k], columns[k]]))
            for k in order
        ]

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        rows = [(str(a), str(b), score, self.roles.get(str(a), "")) for a, b, score in self.listed()]
        caption = f"Circuit: {self.size} edges out of {len(self.nodes)} nodes, strongest first"
        return table(caption, ["from", "to", "score", "role"], rows)

    def pruned(self) -> Circuit:
        """Without the edges that lie on no path from the embedding to the logits."""
        return replace(self, edges=self.wiring.pruned(self.edges))

    def with_roles(self, roles: Mapping[Node, str] | Mapping[str, str]) -> Circuit:
        """The same circuit with names of what its nodes do."""
        return replace(self, roles={str(node): role for node, role in roles.items()})

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write `path`.safetensors (the circuit) and `path`.json (its nodes and edges, to be read by people).

        Raises RunError when the place cannot be written.
        """
        import torch

        file, readable = circuit_file(path), circuit_file(path, ".json")
        facts = {"wiring": self.wiring.facts(), "roles": dict(self.roles), "about": dict(self.about)}
        tensors = {"edges": torch.tensor(self.edges), "scores": torch.tensor(self.scores)}
        text = json.dumps(self.described(), ensure_ascii=False, indent=1, sort_keys=True)
        try:
            save_sealed(tensors, file, KEY, json.dumps(facts))
            write_whole(readable, text + "\n")
        except InputError as error:
            raise RunError(f"the circuit cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Circuit:
        """The circuit of a .safetensors file; raises RunError when there is none or it is damaged."""
        from safetensors import SafetensorError

        path = circuit_file(path)
        try:
            text, tensors = read_sealed(path, KEY, RunError)
            facts = parse_json(text, f"{path}: its metadata", RunError)
            edges, scores = tensors["edges"].numpy(), tensors["scores"].numpy()
            told = facts["wiring"] | {"kinds": tuple(facts["wiring"].get("kinds", ()))}  # which JSON has as a list
            wiring, roles, about = sized(Wiring(**told)), dict(facts["roles"]), dict(facts["about"])
        except FileNotFoundError as error:
            raise RunError(f"there is no circuit at {path}") from error
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise RunError(f"{path} holds no circuit: {error}") from error
        if edges.shape != wiring.allowed.shape or scores.shape != edges.shape:
            raise RunError(f"{path} holds no circuit: {edges.shape[0]} × {edges.shape[1]} edges do not fit its model")
        if edges.dtype != bool or scores.dtype.kind != "f" or not np.isfinite(scores).all():
            raise RunError(f"{path} holds no circuit: edges are true or false, and scores finite numbers")
        return cls(wiring, edges.astype(bool), scores.astype(np.float64), roles, about)

    def described(self) -> dict[str, object]:
        """Nodes and edges by name. A key/value head is named by the query heads of the circuit that it serves."""
        edges: list[dict[str, object]] = []
        present = set(self.nodes)
        for sender, receiver, score in self.listed():
            for name in self._reading(receiver, present):
                edges.append({"sender": str(sender), "receiver": name, "score": round(score, 8)})
        nodes = [
            {"node": str(node), "role": self.roles.get(str(node)), "score": round(score, 8)}
            for node, score in zip(self.nodes, self._node_scores())
        ]
        return {"nodes": nodes, "edges": edges, "wiring": self.wiring.facts(), "about": dict(self.about)}

    def _node_scores(self) -> list[float]:
        sums = np.where(self.edges, self.scores, 0).sum(1)
        return [float(sums[self.wiring.writer(node)]) for node in self.nodes]

    def _reading(self, receiver: Receiver, present: set[Sender]) -> list[str]:
        if receiver.kind == "shared_key":
            every = [Head(receiver.layer, head) for head in range(self.wiring.heads)]
            return [f"{node}.shared_key" for node in every if node in present]
        if receiver.kind not in ("k", "v"):
            return [str(receiver)]
        group = self.wiring.heads // self.wiring.kv_heads
        served = [Head(receiver.layer, receiver.head * group + step) for step in range(group)]
        return [f"{node}.{receiver.kind}" for node in served if node in present]


# -- making one from scores -----------------------------------------------------------------------------------------


def circuit_file(path: Path | str, ending: str = ".safetensors") -> Path:
    """The file of a circuit by its name with or without an ending; a dot within the name is no ending.

    >>> circuit_file(Path("qwen2.5")).name, circuit_file(Path("a.json")).name
    ('qwen2.5.safetensors', 'a.safetensors')
    """
    if not Path(path).name:
        raise InputError(f"{str(path)!r} names no file; give the path of a new one")
    return Path(f"{os.fspath(path).removesuffix('.safetensors').removesuffix('.json')}{ending}")


def importance(scores: Float[Array, "W R"], absolute: bool = True) -> Float[Array, "W R"]:
    """What edges are ranked by: the size of their effect, or (signed) how far they work for the answer."""
    return np.abs(scores) if absolute else -scores


def top_edges(
    wiring: Wiring,
    scores: Float[Array, "W R"],
    count: int,
    absolute: bool = True,
    prune: bool = True,
    about: Mapping[str, object] | None = None,
) -> Circuit:
    """The `count` edges of largest importance, then (`prune`) without those on no path: it may end with fewer.

    Raises InputError when there are not so many edges.
    """
    _check_count(wiring, count)
    ranked = np.where(wiring.allowed, importance(scores, absolute), -np.inf).ravel()
    edges = np.zeros(ranked.size, dtype=bool)
    edges[np.argsort(-ranked, kind="stable")[:count]] = True
    made = Circuit(wiring, edges.reshape(scores.shape), scores, about={**(about or {}), **_how("top", count, absolute)})
    return made.pruned() if prune else made


def greedy_edges(
    wiring: Wiring,
    scores: Float[Array, "W R"],
    count: int,
    absolute: bool = True,
    prune: bool = True,
    about: Mapping[str, object] | None = None,
) -> Circuit:
    """`count` edges taken from the logits upwards: each time the most important edge into a node already taken.

    Every edge taken leads to the logits; `prune` takes away those that the embedding does not reach.
    """
    _check_count(wiring, count)
    rank = importance(scores, absolute)
    edges = np.zeros(scores.shape, dtype=bool)
    heap: list[tuple[float, int, int]] = []
    opened: set[int] = set()

    def open_readers(node: Node) -> None:
        for receiver in wiring.readers_of(node):
            column = wiring.reader(receiver)
            if column in opened:
                continue
            opened.add(column)
            for row in range(wiring.before(receiver)):
                heapq.heappush(heap, (-float(rank[row, column]), row, column))

    open_readers(LOGITS)
    taken: set[Node] = {EMBEDDING}
    for _ in range(count):
        if not heap:
            break
        _, row, column = heapq.heappop(heap)
        edges[row, column] = True
        node = wiring.writers[row]
        if node not in taken:
            taken.add(node)
            open_readers(node)
    made = Circuit(wiring, edges, scores, about={**(about or {}), **_how("greedy", count, absolute)})
    return made.pruned() if prune else made


def sized_circuit(
    wiring: Wiring,
    scores: Float[Array, "W R"],
    size: int,
    construction: Construction = "greedy",
    about: Mapping[str, object] | None = None,
    tries: int = 20,
) -> Circuit:
    """The circuit of these scores that has `size` edges (95 to 105 %) once those on no path are gone.

    The count asked for is bisected; where no count does it within `tries`, the nearest is kept (its size says so).
    """
    build = greedy_edges if construction == "greedy" else top_edges
    low, high = size, int(wiring.allowed.sum())
    best: Circuit | None = None
    asked = size
    for _ in range(tries):
        made = build(wiring, scores, asked, about=about)
        if best is None or abs(made.size - size) < abs(best.size - size):
            best = made
        if abs(made.size - size) <= 0.05 * size or low >= high:
            break
        low, high = (asked + 1, high) if made.size < size else (low, asked - 1)
        asked = (low + high) // 2
    assert best is not None
    return best


def _check_count(wiring: Wiring, count: int) -> None:
    most = int(wiring.allowed.sum())
    if not 0 <= count <= most:
        raise InputError(f"a circuit of {count} edges: this model has {most}")


def _how(rule: str, count: int, absolute: bool) -> dict[str, object]:
    return {"construction": rule, "asked_edges": count, "ranked_by": "absolute" if absolute else "signed"}
