"""A circuit as a layered drawing: nodes by layer, edges as wide as they are strong, roles in colour."""

# pyright: reportAttributeAccessIssue=false, reportUnknownMemberType=false, reportArgumentType=false
# matplotlib's and pandas' stubs leave members partly unknown; the shapes are checked by tests.

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from babelscope.errors import InputError, RunError
from babelscope.plots.style import COLOURS, Labels, canvas, figure, label
from babelscope.results import Run

_NODE = re.compile(r"(?:(\d+)\.(\d+)|m(\d+))(?:\.[qkv])?")
Place = tuple[float, float]
MOST = 60
"""Edges drawn per language, the strongest"""


@figure("circuits", "table:cross_edges")
def circuit_edges(run: Run, languages: str | None = None, labels: Labels = "code", most: int = MOST) -> Figure:
    """The edges of each language's circuit (`languages`: codes by commas, else the first three), layers upwards.

    Blue edges work for the answer, red ones against it; edges into queries are dashed, into keys dotted.
    """
    codes = [code.strip() for code in languages.split(",")] if languages else run.languages[:3]
    missing = [code for code in codes if code not in run.languages]
    if missing:
        raise InputError(f"the run has no language {missing[0]!r}; it has: {', '.join(run.languages)}")
    told = {code: _circuit(run, code) for code in codes}
    roles = sorted({node["role"] for each in told.values() for node in each["nodes"] if node.get("role")})
    colours = {role: COLOURS[(index + 2) % len(COLOURS)] for index, role in enumerate(roles)}
    drawing = canvas(4.2 * len(codes) + (1.4 if roles else 0.2), 4.6)
    places = drawing.subplots(1, len(codes), squeeze=False, sharey=True)[0]
    for axes, code in zip(places, codes):
        _panel(axes, told[code], colours, most)
        axes.set_title(f"{label(code, labels)} ({len(told[code]['edges'])} edges)", size=9)
    places[0].set_ylabel("layer")
    kinds = {"works for the answer": (COLOURS[0], "-"), "works against it": (COLOURS[1], "-")}
    kinds |= {"into queries": ("black", "--"), "into keys": ("black", ":")}
    handles = [Line2D([], [], color=colour, linestyle=dash, label=name) for name, (colour, dash) in kinds.items()]
    handles += [Line2D([], [], color=c, marker="o", linestyle="", label=role) for role, c in colours.items()]
    places[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def _circuit(run: Run, code: str) -> dict[str, Any]:
    try:
        told: Any = json.loads(run.file(f"circuits/{code}.json").read_text(encoding="utf-8"))
    except (RunError, OSError, ValueError) as error:
        raise RunError(f"the run {run.source} holds no edges of the circuit in {code}") from error
    if not isinstance(told, dict) or "edges" not in told or "nodes" not in told:
        raise RunError(f"the run {run.source} holds no edges of the circuit in {code}")
    return told


def _panel(axes: Axes, told: Mapping[str, Any], colours: Mapping[str, str], most: int) -> None:
    layers, heads = int(told["wiring"]["layers"]), int(told["wiring"]["heads"])
    ends: dict[str, Place] = {"embedding": (heads / 2, -1.0), "logits": (heads / 2, float(layers) + 0.3)}
    edges = sorted(told["edges"], key=lambda edge: -abs(edge["score"]))[:most]
    strongest = max((abs(edge["score"]) for edge in edges), default=1.0) or 1.0
    for edge in reversed(edges):
        first, last = (_place(edge[end], heads, ends) for end in ("sender", "receiver"))
        width = 0.4 + 3.2 * abs(edge["score"]) / strongest
        dash = {"q": "--", "k": ":"}.get(edge["receiver"][-1], "-")
        colour = COLOURS[0] if edge["score"] < 0 else COLOURS[1]
        bend = "arc3,rad=0.12" if first[0] == last[0] else "arc3"
        axes.add_patch(
            FancyArrowPatch(
                first, last, arrowstyle="-|>", mutation_scale=7, linewidth=width, linestyle=dash, color=colour,
                alpha=0.65, shrinkA=7, shrinkB=8, connectionstyle=bend, zorder=1,
            )
        )  # fmt: skip
    known = {node["node"]: node.get("role") for node in told["nodes"]}
    for name in dict.fromkeys([*ends, *known, *(_node(edge[end]) for edge in edges for end in ("sender", "receiver"))]):
        x, y = _place(name, heads, ends)
        colour = colours.get(str(known.get(name)), "#dddddd")
        axes.text(
            x, y, name, ha="center", va="center", size=6.5, zorder=2,
            bbox=dict(boxstyle="round,pad=0.25", facecolor=colour, edgecolor="black", linewidth=0.6),
        )  # fmt: skip
    axes.set(xlim=(-0.8, heads + 0.9), ylim=(-1.6, layers + 0.8), xticks=[*range(heads), heads])
    axes.set_xticklabels([*map(str, range(heads)), "MLP"])
    axes.set_yticks(range(layers))
    axes.set_xlabel("head")
    axes.grid(False)


def _node(name: str) -> str:
    """The node that a reader belongs to: 2.1 of 2.1.q."""
    return re.sub(r"\.[qkv]$", "", name)


def _place(name: str, heads: int, ends: Mapping[str, Place]) -> Place:
    if name in ends:
        return ends[name]
    match = _NODE.fullmatch(name)
    if match is None:
        raise RunError(f"{name!r} is no node of a circuit")
    layer, head, mlp = match.groups()
    # the MLP stands behind its layer's heads, and a little above them, since it reads what they write
    return (float(heads), float(mlp) + 0.35) if mlp is not None else (float(head), float(layer))
