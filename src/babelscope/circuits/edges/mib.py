"""Circuits in the JSON graph format of EAP-IG and the MIB benchmark, read and written.

    {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
     "nodes": {"input" | "a0.h1" | "m3" | "logits": {"in_graph"}},
     "edges": {"a0.h1->m3" | "input->a0.h0<q>": {"score", "in_graph"}}}

Two differences are bridged. Their scores are changes of a loss, so positive edges work for the answer: the sign turns.
They know no key/value heads: an edge into one is written once for every query head it serves, with an equal share of
its score, and summed again on reading.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from babelscope.circuits.core.graph import Wiring, sized
from babelscope.circuits.core.nodes import EMBEDDING, MLP, Head, Receiver, Sender
from babelscope.circuits.edges.circuit import Circuit
from babelscope.errors import InputError
from babelscope.json_text import read_json
from babelscope.results.whole import whole_file

_EDGE = re.compile(r"(input|a(\d+)\.h(\d+)|m(\d+))->(?:a(\d+)\.h(\d+)<([qkv])>|m(\d+)|logits)")


def to_graph(circuit: Circuit, width: int = 0) -> dict[str, object]:
    """The circuit as that format's object; `width` is the model's D, which some readers want.

    >>> wiring = Wiring(layers=1, heads=1, kv_heads=1)
    >>> empty = Circuit(wiring, wiring.allowed & False, wiring.allowed * 0.0)
    >>> list(to_graph(empty)["edges"])[:3]
    ['input->a0.h0<q>', 'input->a0.h0<k>', 'input->a0.h0<v>']
    """
    wiring, nodes = circuit.wiring, set(circuit.nodes)
    _check_known(wiring)
    group = wiring.heads // wiring.kv_heads
    edges: dict[str, dict[str, object]] = {}
    for column, receiver in enumerate(wiring.readers):
        shared = group if receiver.kind in ("k", "v") else 1
        for row in range(wiring.before(receiver)):
            entry = {
                "score": -float(circuit.scores[row, column]) / shared + 0.0,
                "in_graph": bool(circuit.edges[row, column]),
            }
            for name in _readers(receiver, group):
                edges[f"{_writer(wiring.writers[row])}->{name}"] = dict(entry)
    return {
        "cfg": {
            "n_layers": wiring.layers,
            "n_heads": wiring.heads,
            "parallel_attn_mlp": wiring.parallel,
            "d_model": width,
        },
        "nodes": {_writer(node): {"in_graph": node in nodes} for node in wiring.writers}
        | {"logits": {"in_graph": True}},
        "edges": edges,
    }


def from_graph(graph: object, wiring: Wiring | None = None) -> Circuit:
    """The circuit that such an object describes, for a model of this `wiring` (else: no key/value heads are shared).

    Raises InputError naming what is wrong: missing parts, an unknown edge, sizes of another model, a score that is no
    number, masks of single neurons (a circuit here holds whole nodes).
    """
    if not isinstance(graph, dict) or not {"cfg", "edges"} <= graph.keys():  # pyright: ignore[reportUnknownMemberType]
        raise InputError("not a circuit graph: it needs the keys cfg, nodes and edges")
    try:
        sizes: dict[str, int] = graph["cfg"]
        layers, heads = sizes["n_layers"], sizes["n_heads"]
        own = sized(Wiring(layers, heads, heads, _truth(sizes["parallel_attn_mlp"])))
        listed: dict[str, dict[str, object]] = dict(graph["edges"])
        nodes: dict[str, object] = dict(graph.get("nodes") or {})  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not a circuit graph: {error!r} in its cfg, nodes or edges") from error
    if own.edges > SPARSEST * max(len(listed), 1):
        raise InputError(
            f"a graph of {layers} layers of {heads} heads has {own.edges} edges, and {len(listed)} are listed"
        )
    for name, node in nodes.items():
        if isinstance(node, dict) and node.get("neurons") is not None:  # pyright: ignore[reportUnknownMemberType]
            raise InputError(f"node {name} of the graph holds a mask of neurons; circuits here are of whole nodes")
    wiring = wiring or own
    _check_known(wiring)
    if (own.layers, own.heads, own.parallel) != (wiring.layers, wiring.heads, wiring.parallel):
        raise InputError(
            f"the graph is of {own.layers} layers of {own.heads} heads{', parallel' if own.parallel else ''}; "
            f"the model has {wiring.layers} of {wiring.heads}{', parallel' if wiring.parallel else ''}"
        )
    edges, scores = np.zeros(wiring.allowed.shape, dtype=bool), np.zeros(wiring.allowed.shape)
    for name, entry in listed.items():
        row, column = _place(wiring, name)
        try:
            scores[row, column] -= _number(entry.get("score"))
            edges[row, column] |= _truth(entry["in_graph"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"edge {name} of the graph: {error!r}") from error
    return Circuit(wiring, edges, scores, about={"format": "EAP-IG JSON"})


SPARSEST = 1000
"""a graph that lists fewer than one edge in so many says that it is of another size than it is"""


def _truth(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _number(value: object) -> float:
    if value is None:  # the reference writes null where an edge was never scored
        return 0.0
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        raise ValueError(f"{value!r} is no score")
    return float(value)


def _check_known(wiring: Wiring) -> None:
    if wiring.kinds or wiring.shared_key or wiring.gates:
        strange = "linear mixers" if "s" in "".join(wiring.kinds) else "layers of several kinds"
        strange = strange if wiring.kinds else "shared keys" if wiring.shared_key else "gates of heads"
        raise InputError(f"the format of EAP-IG knows heads and MLPs in every layer, and no {strange}")


def write_graph(circuit: Circuit, path: Path, width: int = 0) -> None:
    """Write a circuit to a .json file in that format; raises InputError where the place cannot be written."""
    with whole_file(Path(path)) as hidden:
        hidden.write_text(json.dumps(to_graph(circuit, width)), encoding="utf-8")


def read_graph(path: Path, wiring: Wiring | None = None) -> Circuit:
    """Read a circuit from a .json file in that format; raises InputError."""
    if Path(path).suffix == ".pt":
        raise InputError(f"{path} is a pickle, which is never read: write the graph with to_json first")
    graph = read_json(Path(path), f"{path} is no circuit graph: it", non_finite=True)
    return from_graph(graph, wiring)


def _writer(node: Sender) -> str:
    if isinstance(node, Head):
        return f"a{node.layer}.h{node.head}"
    return f"m{node.layer}" if isinstance(node, MLP) else "input"


def _readers(receiver: Receiver, group: int) -> list[str]:
    if receiver.kind in ("logits", "mlp"):
        return ["logits" if receiver.kind == "logits" else f"m{receiver.layer}"]
    heads = [receiver.head] if receiver.kind == "q" else [receiver.head * group + step for step in range(group)]
    return [f"a{receiver.layer}.h{head}<{receiver.kind}>" for head in heads]


def _place(wiring: Wiring, name: str) -> tuple[int, int]:
    match = _EDGE.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} names no edge: they look like a0.h1->m3, input->a0.h0<q> or m3->logits")
    _, layer, head, mlp, to_layer, to_head, kind, to_mlp = match.groups()
    sender: Sender = EMBEDDING
    if layer is not None:
        sender = Head(int(layer), int(head))
    elif mlp is not None:
        sender = MLP(int(mlp))
    receiver = Receiver("logits")
    if to_mlp is not None:
        receiver = Receiver("mlp", int(to_mlp))
    elif kind is not None:
        at = int(to_head)
        shared = at if kind == "q" else at // (wiring.heads // wiring.kv_heads)
        receiver = Receiver("q" if kind == "q" else "k" if kind == "k" else "v", int(to_layer), shared)
    inside = all(
        getattr(node, "layer", -1) < wiring.layers and getattr(node, "head", -1) < wiring.heads
        for node in (sender, receiver)
    )
    if not inside:
        raise InputError(f"edge {name}: the model has {wiring.layers} layers of {wiring.heads} heads")
    row, column = wiring.writer(sender), wiring.reader(receiver)
    if not wiring.allowed[row, column]:
        raise InputError(f"edge {name} leads backwards")
    return row, column
