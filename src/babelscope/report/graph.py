"""The layered graph of a circuit: heads with a role, feed-forward blocks, and the edges between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from babelscope.errors import RunError
from babelscope.figures.facts import grouped, own_rows
from babelscope.figures.heads import head_measures, heads, task_text
from babelscope.languages import english_name
from babelscope.report.blocks import Block, Chart
from babelscope.results import Run
from babelscope.results.schemas.circuits import Promoted, Role

_HEAD = re.compile(r"(\d+)\.(\d+)(?:\.[qkv])?")
_MLP = re.compile(r"(?:m|mlp )(\d+)")
_ENDS = {"embedding": "input", "logits": "output"}
_MOST_EDGES = 400


@dataclass
class Told:
    """What a run says of one node in one language."""

    roles: list[tuple[str, float | None]] = field(default_factory=list[tuple[str, float | None]])
    measures: dict[str, float] = field(default_factory=dict[str, float])
    promotes: list[str] = field(default_factory=list[str])

    def data(self) -> dict[str, object]:
        """What the script reads; parts that say nothing are left out."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass
class Node:
    """A head or a feed-forward block, by layer, with what is known of it in each language."""

    id: str
    layer: int
    head: int | None
    languages: dict[str, Told] = field(default_factory=dict[str, Told])

    def data(self) -> dict[str, object]:
        """What the script reads."""
        told = {code: one.data() for code, one in self.languages.items()}
        kind = "mlp" if self.head is None else "head"
        return {"id": self.id, "kind": kind, "layer": self.layer, "head": self.head, "languages": told}


@dataclass(frozen=True)
class Edge:
    """From one node to another, in the circuit of one language."""

    sender: str
    receiver: str
    score: float
    language: str

    def data(self) -> dict[str, object]:
        """What the script reads."""
        return {"from": self.sender, "to": self.receiver, "score": self.score, "language": self.language}


def circuit_drawing(run: Run) -> Block | None:
    """Nodes and edges of every language's circuit, when the run names any heads."""
    nodes = _nodes(run)
    if not nodes:
        return None
    edges = [edge for code in run.languages for edge in _edges(run, code)]
    for edge in edges:
        for end in (edge.sender, edge.receiver):
            if end not in _ENDS.values():
                node = nodes.setdefault(end, _node(end))
                node.languages.setdefault(edge.language, Told())
    measures = head_measures(run)
    shape = heads(run, measures[0]).sizes if measures else {}
    layers = max([shape.get("layer", 0), *(node.layer + 1 for node in nodes.values())])
    count = max([shape.get("head", 0), *(node.head + 1 for node in nodes.values() if node.head is not None)])
    spec: dict[str, object] = {
        "layers": layers, "heads": count, "languages": run.languages,
        "names": {code: english_name(code) for code in run.languages},
        "nodes": [node.data() for node in nodes.values()], "edges": [edge.data() for edge in edges],
    }  # fmt: skip
    most = max((sum(edge.language == code for edge in edges) for code in run.languages), default=0)
    strongest = f", the {_MOST_EDGES} strongest of a language" if most >= _MOST_EDGES else ""
    different = len({(edge.sender, edge.receiver) for edge in edges})
    told = f" and {different} edges{strongest}" if edges else "; the run holds no edges, so only the heads are drawn"
    caption = (
        f"The circuit ({task_text(run)}): {len(nodes)} nodes{told}. Layers upwards, heads to the right. A circle is in "
        "the circuit of every language shown, a diamond in several, a square in one. Point at a node, or reach it with "
        "Tab, to read its numbers; click or Enter pins it."
    )
    return Chart("circuit-graph", "The circuit", caption, kind="graph", spec=spec, frame=_frame(nodes),
                 twin="circuit_graph")  # fmt: skip


def _node(name: str) -> Node:
    if match := _MLP.fullmatch(name):
        return Node(name, int(match[1]), None)
    layer, head = name.split(".")
    return Node(name, int(layer), int(head))


def _nodes(run: Run) -> dict[str, Node]:
    found: dict[str, Node] = {}

    def at(code: str, layer: int, head: int) -> Told:
        name = f"{layer}.{head}"
        return found.setdefault(name, Node(name, layer, head)).languages.setdefault(code, Told())

    stated: Mapping[str, list[tuple[int, int]]] = run.summary.get("heads") or {}
    for code, listed in stated.items():
        for layer, head in listed:
            at(code, layer, head)
    for row in own_rows(run, Role):
        score = _short(row.score) if row.score == row.score else None
        at(row.language, row.layer, row.head).roles.append((row.role, score))
    _add_measures(run, found)
    for (code, layer, head), rows in grouped(own_rows(run, Promoted), lambda row: (row.language, row.layer, row.head)):
        node = found.get(f"{layer}.{head}")
        if node is not None and code in node.languages:
            ranked = sorted(rows, key=lambda row: -row.attribution)
            node.languages[code].promotes = [row.token for row in ranked[:5]]
    return found


def _add_measures(run: Run, nodes: Mapping[str, Node]) -> None:
    for name in head_measures(run)[:3]:
        array = heads(run, name)
        for node in nodes.values():
            for code, told in node.languages.items():
                if code in array.language.values and node.layer in array.layer.values:
                    value = float(array.sel(language=code, layer=node.layer, head=node.head))
                    if value != value:  # a screen leaves heads unpatched
                        continue
                    told.measures[name.replace("_", " ")] = _short(value)


def _short(value: float) -> float:
    """Four digits that count, however small the number is."""
    return float(f"{value:.4g}")


def _edges(run: Run, code: str) -> list[Edge]:
    files = f"circuits/{code}.json", f"circuits/{code}-edges.json"
    found = [edge for name in files for edge in _stated(run, name, code)]
    return sorted(found, key=lambda edge: -abs(edge.score))[:_MOST_EDGES]


def _stated(run: Run, name: str, code: str) -> Iterator[Edge]:
    """The edges that a circuit file states: as edges, or as the senders and receivers of the steps of a search."""
    try:
        stated: object = json.loads(run.file(name).read_text(encoding="utf-8"))
    except (RunError, OSError, ValueError):
        return
    if not isinstance(stated, Mapping):
        return
    for edge in stated.get("edges") or []:
        yield from _edge(edge.get("sender"), edge.get("receiver"), edge.get("score"), code)
    # effects of a search are relative, scores of edges are not: they are not drawn on one scale
    for step in [] if stated.get("edges") else stated.get("steps") or []:
        for node in [*(step.get("supporting") or []), *(step.get("opposing") or [])]:
            for receiver in step.get("receivers") or []:
                yield from _edge(node.get("node"), receiver, node.get("effect"), code)


def _edge(sender: object, receiver: object, score: object, code: str) -> Iterator[Edge]:
    ends = [_end(sender), _end(receiver)]
    if ends[0] is not None and ends[1] is not None and isinstance(score, int | float):
        yield Edge(ends[0], ends[1], float(score), code)


def _end(name: object) -> str | None:
    text = str(name)
    if match := _MLP.fullmatch(text):
        return f"mlp {match[1]}"
    if match := _HEAD.fullmatch(text):
        return f"{match[1]}.{match[2]}"
    return _ENDS.get(text)


def _frame(nodes: Mapping[str, Node]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "node": name,
                "layer": node.layer,
                "head": node.head,
                "language": code,
                "roles": "; ".join(role if score is None else f"{role} {score}" for role, score in told.roles),
                **told.measures,
                "promotes": " ".join(told.promotes),
            }
            for name, node in nodes.items()
            for code, told in node.languages.items()
        ]
    )
