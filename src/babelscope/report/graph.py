"""The layered graph of a circuit: heads with a role, feed-forward blocks, and the edges between them."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import pandas as pd

from babelscope.errors import RunError
from babelscope.plots import frames
from babelscope.plots.style import holds
from babelscope.report.blocks import Block, Chart
from babelscope.results import Run

_HEAD = re.compile(r"^\D*(\d+)\D+(\d+)(?:\D.*)?$")
_MLP = re.compile(r"^(?:mlp|ffn|m)\D*(\d+)", re.IGNORECASE)
_ENDS = {
    "embedding": "input",
    "embed": "input",
    "input": "input",
    "logits": "output",
    "logit": "output",
    "output": "output",
    "unembedding": "output",
}
_SENDER, _RECEIVER = ("sender", "writer", "from", "source"), ("receiver", "reader", "to", "target")
_MOST_EDGES = 400


def circuit_graph(run: Run) -> Block | None:
    """Nodes and edges of every language's circuit, when the run names any heads."""
    nodes = _nodes(run)
    if not nodes:
        return None
    edges = [edge for code in run.languages for edge in _edges(run, code)]
    for edge in edges:
        for end in (edge["from"], edge["to"]):
            if end not in {"input", "output"} and end not in nodes:
                nodes[end] = _node(end)
            if end in nodes:
                nodes[end]["languages"].setdefault(edge["language"], {})
    shape = frames.heads(run, frames.head_measures(run)[0]).sizes if frames.head_measures(run) else {}
    layers = max([shape.get("layer", 0), *(node["layer"] + 1 for node in nodes.values())])
    heads = max([shape.get("head", 0), *(node["head"] + 1 for node in nodes.values() if node["head"] is not None)])
    spec = {"layers": layers, "heads": heads, "languages": run.languages, "nodes": list(nodes.values()), "edges": edges}
    told = f" and {len(edges)} edges" if edges else "; the run holds no edges, so only the heads are drawn"
    caption = (
        f"The circuit of the task {run.manifest.get('task', '')}: {len(nodes)} nodes{told}. Layers upwards, heads to "
        "the right. A circle "
        "is in the circuit of every language shown, a diamond in several, a square in one. Point at a node, or "
        "reach it with Tab, to read its "
        "numbers; click or Enter pins it."
    )
    return Chart(
        "circuit-graph", "The circuit", caption, kind="graph", spec=spec, frame=_frame(nodes), twin="circuit_graph"
    )


def _node(name: str) -> dict[str, Any]:
    kind, layer, head = _parts(name)
    return {"id": name, "kind": kind, "layer": layer, "head": head, "languages": {}}


def _nodes(run: Run) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def at(code: str, layer: Any, head: Any) -> dict[str, Any]:
        name = f"{int(layer)}.{int(head)}"
        return found.setdefault(name, _node(name))["languages"].setdefault(str(code), {})

    for code, heads in dict(run.summary.get("heads") or {}).items():
        for layer, head in heads:
            at(code, layer, head)
    if holds(run, "table:roles"):
        for _, row in run.table("roles").iterrows():
            score = row.get("score")
            number = round(float(score), 4) if pd.notna(score) else None
            at(row["language"], row["layer"], row["head"]).setdefault("roles", []).append([str(row["role"]), number])
    _add_measures(run, found)
    _add_tokens(run, found)
    return found


def _add_measures(run: Run, nodes: dict[str, dict[str, Any]]) -> None:
    for name in frames.head_measures(run)[:3]:
        array = frames.heads(run, name).load()
        for node in nodes.values():
            for code, facts in node["languages"].items():
                if code in array.language.values and node["layer"] in array.layer.values:
                    value = float(array.sel(language=code, layer=node["layer"], head=node["head"]))
                    facts.setdefault("measures", {})[name.replace("_", " ")] = round(value, 4)


def _add_tokens(run: Run, nodes: dict[str, dict[str, Any]]) -> None:
    if not holds(run, "table:promoted"):
        return
    for at, rows in run.table("promoted").groupby(["language", "layer", "head"]):
        code, layer, head = cast("tuple[str, int, int]", at)
        facts = nodes.get(f"{layer}.{head}", {"languages": {}})["languages"].get(str(code))
        if facts is not None:
            facts["promotes"] = rows.sort_values("attribution", ascending=False).token.astype(str).head(5).tolist()


def _edges(run: Run, code: str) -> list[dict[str, Any]]:
    listed = [item for name in (f"circuits/{code}.json", f"circuits/{code}-edges.json") for item in _listed(run, name)]
    found = [edge for edge in (_edge(item, code) for item in listed) if edge is not None]
    return sorted(found, key=lambda edge: -abs(edge["score"]))[:_MOST_EDGES]


def _listed(run: Run, name: str) -> list[Any]:
    """The edges that a circuit file states: as edges, or as the senders and receivers of the steps of a search."""
    try:
        stated: Any = json.loads(run.file(name).read_text(encoding="utf-8"))
    except (RunError, OSError, ValueError):
        return []
    if not isinstance(stated, Mapping):
        return []
    edges = list(stated.get("edges") or [])
    # effects of a search are relative, scores of edges are not: they are not drawn on one scale
    for step in [] if edges else stated.get("steps") or []:
        receivers = step.get("receivers")
        for node in [*(step.get("supporting") or []), *(step.get("opposing") or [])]:
            for receiver in receivers if isinstance(receivers, list) else []:
                edges.append({"sender": node.get("node"), "receiver": receiver, "score": node.get("effect")})
    return edges


def _edge(item: Any, code: str) -> dict[str, Any] | None:
    if isinstance(item, Mapping):
        sender = next((item[key] for key in _SENDER if key in item), None)
        receiver = next((item[key] for key in _RECEIVER if key in item), None)
        score = item.get("score", 1.0)
    elif isinstance(item, list) and len(item) in {2, 3}:
        sender, receiver, score = item[0], item[1], item[2] if len(item) == 3 else 1.0
    else:
        return None
    ends = [_end(sender), _end(receiver)]
    if None in ends or not isinstance(score, int | float):
        return None
    return {"from": ends[0], "to": ends[1], "score": float(score), "language": code}


def _end(name: Any) -> str | None:
    if isinstance(name, list) and len(name) >= 2 and all(isinstance(part, int) for part in name[:2]):
        return f"{name[0]}.{name[1]}"
    text = str(name).lower()
    for word, end in _ENDS.items():
        if text.startswith(word):
            return end
    if match := _MLP.match(text):
        return f"mlp {match[1]}"
    if match := _HEAD.match(text):
        return f"{match[1]}.{match[2]}"
    return None


def _parts(name: str) -> tuple[str, int, int | None]:
    if name.startswith("mlp "):
        return "mlp", int(name[4:]), None
    layer, head = name.split(".")
    return "head", int(layer), int(head)


def _frame(nodes: dict[str, dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "node": name,
                "layer": node["layer"],
                "head": node["head"],
                "language": code,
                "roles": "; ".join(f"{role} {score}" for role, score in facts.get("roles", [])),
                **facts.get("measures", {}),
                "promotes": " ".join(facts.get("promotes", [])),
            }
            for name, node in nodes.items()
            for code, facts in node["languages"].items()
        ]
    )
