"""Figures of what a circuit does: accuracy, ablation, faithfulness, and how far languages share it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from babelscope.errors import InputError, RunError
from babelscope.figures.facts import (
    Matrix,
    chosen,
    distinct,
    frame_of,
    grouped,
    in_order,
    interval_words,
    languages_axis,
    rows_of,
    square,
    written,
)
from babelscope.figures.heads import task_text
from babelscope.figures.palette import language_place
from babelscope.figures.register import View, figure
from babelscope.figures.spec import Arrow, Axis, Bars, Boxes, Cells, Code, Dash, Figure, Key, Label, Line, Panel, Rule
from babelscope.results import Run
from babelscope.results.schemas.circuit_edges import CrossEdges, EdgeCurve, Overlap
from babelscope.results.schemas.circuits import Ablation, Behaviour, CrossFaithfulness, HeadFaithfulness
from babelscope.stats import percentile
from babelscope.wording import decimals

CHANCE = 0.5
"""accuracy of a coin between target and foil"""


@figure("circuits", "table:behaviour")
def behaviour(run: Run) -> Figure:
    """Accuracy of the model on the task, by language, with intervals and chance."""
    rows = rows_of(run, Behaviour)
    parts = [part for part in ("split", "stratum", "model") if len({getattr(row, part) for row in rows}) > 1]
    names: list[Label] = [(Code(row.language), *(str(getattr(row, part)) for part in parts)) for row in rows]
    low, high = [row.seen.low for row in rows], [row.seen.high for row in rows]
    bars = Bars("accuracy", [row.seen.accuracy for row in rows], low, high,
                colours=tuple(language_place(run, row.language) for row in rows))  # fmt: skip
    counts = [int(row.seen.n) for row in rows if row.seen.n == row.seen.n]
    few, most = (min(counts), max(counts)) if counts else (0, 0)
    n = f"n = {few} to {most} prompts" if few < most else f"n = {most} prompts" if most else "prompts"
    caption = (
        f"Share of prompts on which the answer beats its foil ({task_text(run)}; {n}). {interval_words(low, high)} "
        "Chance is 0.5."
    )
    axes = Axis("", tuple(names)), Axis("accuracy", low=0.0, high=1.05)
    panel = Panel((bars, Rule(CHANCE, "chance", dash="dotted")), *axes, data=run.table("behaviour"))
    return Figure(
        "Accuracy", caption, (panel,), about=f"{run.model_name}, {run.manifest.get('task', 'task')}", height=320
    )


@dataclass(frozen=True)
class Without:
    """Accuracy in one language and stratum without each set; of random sets the middle 95 % of their draws."""

    language: str
    stratum: str
    """and the model, where a run has two"""
    accuracy: dict[str, tuple[float, float, float]]
    """set → value, low, high"""


def ablated(run: Run, rows: list[Ablation]) -> list[Without]:
    """Strata are never averaged, nor ends of intervals.

    A set has its own interval; of random sets stand the mean over the draws and the middle 95 % of them.
    """
    two = len({row.model for row in rows}) > 1
    found: list[Without] = []
    for model in distinct(row.model for row in rows):
        its = [row for row in rows if row.model == model]
        for code in in_order(run, (row.language for row in its)):
            for stratum, own in grouped((row for row in its if row.language == code), lambda row: row.stratum):
                name = f"{stratum} {model}".strip() if two else stratum
                sets = {key: _over_draws(members) for key, members in grouped(own, lambda row: row.set_)}
                found.append(Without(code, name, sets))
    return found


def _over_draws(rows: list[Ablation]) -> tuple[float, float, float]:
    if len(rows) == 1:
        return rows[0].accuracy, rows[0].low, rows[0].high
    values = [row.accuracy for row in rows]
    low, high = percentile(values)
    return float(np.mean(values)), low, high


def is_ffn(name: str) -> bool:
    """Whether a set of an ablation table is a feed-forward block: `ffn 3`, `mlp_3`."""
    return re.match(r"(?i)^(?:ffn|mlp)\D*\d+$", name) is not None


@figure("circuits", "table:ablation", choose="Removed")
def ablation_bars(run: Run) -> Figure:
    """Accuracy after removing each set of heads or layers, by language and stratum; random sets with their spread."""
    rows = rows_of(run, Ablation)
    panels: list[Panel] = []
    for title, own in (
        ("sets of heads", [row for row in rows if not is_ffn(row.set_)]),
        ("feed-forward blocks", [row for row in rows if is_ffn(row.set_)]),
    ):
        if not own:
            continue
        sets = distinct(row.set_ for row in own)
        marks: list[Bars | Rule] = []
        seen: dict[str, int] = {}
        for one in ablated(run, own):
            values = [one.accuracy.get(name, (np.nan,) * 3) for name in sets]
            place = language_place(run, one.language)
            order = seen[one.language] = seen.get(one.language, -1) + 1
            marks.append(Bars((Code(one.language), one.stratum), *([v[end] for v in values] for end in range(3)),
                              colour=place + len(run.languages) * order))  # fmt: skip
        marks.append(Rule(CHANCE, "chance", dash="dotted"))
        data = frame_of(own)
        axes = Axis("", tuple(name.replace("_", " ") for name in sets)), Axis("accuracy", low=0.0, high=1.05)
        panels.append(Panel(tuple(marks), *axes, title, data=data))
    caption = (
        f"Accuracy after removing each set, by language and stratum ({task_text(run)}; whiskers: 95 % intervals; of "
        "random sets the mean over their draws, whiskers the middle 95 % of them). A set matters when it falls well "
        "below the random sets of its size. Chance is 0.5."
    )
    return Figure("Ablation", caption, tuple(panels), about=run.model_name)


def _of_size(rows: list[tuple[str, str, list[tuple[float, float, float, float]]]], run: Run) -> tuple[Line, ...]:
    return tuple(
        Line((Code(code), order), *([point[part] for point in points] for part in range(4)),
             colour=language_place(run, code), dash="dashed" if order else "solid")
        for code, order, points in rows
    )  # fmt: skip


@figure("circuits", "table:faithfulness")
def head_faithfulness(run: Run) -> Figure:
    """Faithfulness of the first k heads of each language's ranking, beside k heads drawn at random."""
    rows = rows_of(run, HeadFaithfulness)
    models = distinct(row.model for row in rows)
    panels: list[Panel] = []
    for model in models:
        own = [row for row in rows if row.model == model]
        curves = [
            (code, "random" if order == "random" else "",
             [(float(one.heads), one.faithfulness, one.low, one.high) for one in sorted(its, key=lambda x: x.heads)])
            for (code, order), its in grouped(own, lambda row: (row.language, row.order))
        ]  # fmt: skip
        marks = (*_of_size(curves, run), Rule(1.0, dash="dotted"), Rule(0.0))
        axes = Axis("heads kept", whole=True), Axis("faithfulness")
        panels.append(Panel(marks, *axes, model if len(models) > 1 else "", data=frame_of(own)))
    caption = (
        f"How much of the task is left when all heads but the first k of a language's ranking are ablated "
        f"({task_text(run)}; on the very prompts that ranked them): 1 is the whole model, 0 the empty circuit. Dashed: "
        "k heads drawn at random. Bands: 95 % intervals over prompts."
    )
    return Figure("Faithfulness of heads by size", caption, tuple(panels), about=run.model_name)


@figure("circuits", "table:edge_curve", choose="Ranking")
def edge_faithfulness(run: Run) -> Figure:
    """Faithfulness of the strongest edges of each language's ranking, by the share of edges that is kept."""
    rows = rows_of(run, EdgeCurve)
    panels: list[Panel] = []
    for area, own in grouped(rows, lambda row: row.area):
        budgets = sorted({row.budget for row in own})
        curves = [
            (
                code,
                "",
                [
                    (row.budget, row.found.faithfulness, row.found.low, row.found.high)
                    for row in sorted(its, key=lambda row: row.budget)
                ],
            )
            for code, its in grouped(own, lambda row: row.language)
        ]
        x = Axis("share of all edges kept", log=True, ticks=tuple(budgets),
                 tick_names=tuple(f"{100 * budget:g} %" for budget in budgets))  # fmt: skip
        title = "signed scores (CPR)" if area == "cpr" else "absolute scores (CMD)"
        data = frame_of(own)
        marks = (*_of_size(curves, run), Rule(1.0, "whole model", dash="dotted"), Rule(0.0))
        panels.append(Panel(marks, x, Axis("faithfulness"), title, data=data))
    halves = {row.half for row in rows} - {""}
    on = "prompts that did not rank them" if halves == {"test"} else "the very prompts that ranked them"
    n = max((row.prompts for row in rows), default=float("nan"))
    caption = (
        f"How much of the task is left when only the strongest edges are kept ({task_text(run)}; on {on}"
        + (f", n = {n:g}" if n == n else "")
        + "): 1 is the whole model, 0 the empty circuit. The share of edges is logarithmic. Bands: 95 % intervals over "
        "prompts. The random circuits beside the chosen size stand in the matrix of languages."
    )
    return Figure("Faithfulness of edges by size", caption, tuple(panels), about=run.model_name)


_ROOMY = 4
"""languages up to which a cell has room for its interval"""


@dataclass(frozen=True)
class Beside:
    """A matrix of languages with what chance gives: named matrices that are read together, on one scale."""

    name: str
    table: str
    parts: dict[str, tuple[list[str], Matrix]]
    """what each matrix is → its languages and numbers; the first is what was measured"""
    ends: tuple[Matrix, Matrix] | None = None
    """95 % interval of the first"""


def cross_matrices(run: Run) -> list[Beside]:
    """Faithfulness across languages with its controls, and each measure of overlap with its null."""
    own = run.summary.get("model")  # a study against another model holds both in the same tables
    heads = rows_of(run, CrossFaithfulness)
    edges = [row for row in rows_of(run, CrossEdges) if row.model in ("", own)]
    overlaps = [row for row in rows_of(run, Overlap) if row.model in ("", own)]
    found: list[Beside] = []
    two = len({row.model for row in heads}) > 1
    for model, rows in grouped(heads, lambda row: row.model):
        name = f"faithfulness, {model}" if two else "faithfulness"
        found.append(_faithful(name, "cross_faithfulness", rows, run, {"random heads": "random"}))
    if edges:
        controls = {"random edges": "random", "control task": "control"}
        found.append(_faithful("faithfulness of edges", "cross_edges", edges, run, controls))
    for measure, shared in grouped(overlaps, lambda row: row.measure):
        parts: dict[str, tuple[list[str], Matrix]] = {}
        for part, said in (("value", "measured"), ("null", "by chance")):
            cells = [(row.language, row.language2, getattr(row, part)) for row in shared]
            languages, matrix = square(cells, run.languages)
            parts[said] = languages, np.where(np.isnan(matrix), matrix.T, matrix)
        found.append(Beside(measure.replace("_", " "), "overlap", parts))
    return [one for one in map(_with_numbers, found) if one.parts]


def _faithful(
    name: str,
    table: str,
    rows: Sequence[CrossFaithfulness] | Sequence[CrossEdges],
    run: Run,
    controls: Mapping[str, str],
) -> Beside:
    def of(part: str) -> tuple[list[str], Matrix]:
        return square([(row.found_in, row.run_on, float(getattr(row, part))) for row in rows], run.languages)

    parts = {"measured": of("faithfulness"), **{said: of(part) for said, part in controls.items()}}
    return Beside(name, table, parts, (of("low")[1], of("high")[1]))


def _with_numbers(one: Beside) -> Beside:
    """Without matrices that hold no number."""
    return replace(one, parts={said: part for said, part in one.parts.items() if np.isfinite(part[1]).any()})


def _matrices(run: Run) -> list[View]:
    return [View(one.name, {"matrix": one.name}) for one in cross_matrices(run)]


@figure("circuits", views=_matrices, choose="Matrix")
def cross_language(run: Run, matrix: str | None = None) -> Figure:
    """How well one language's circuit works in another, and how much their circuits overlap, beside chance."""
    every = cross_matrices(run)
    if not every:
        raise InputError("the run compares no two languages")
    one = {each.name: each for each in every}[chosen(matrix, [each.name for each in every], "matrix")]
    values = [part for _, part in one.parts.values()]
    low = min(0.0, *(float(np.nanmin(part)) for part in values))
    high = max(1.0, *(float(np.nanmax(part)) for part in values))
    data = run.table(one.table)
    if one.table == "overlap":
        data = data.loc[data["measure"].astype(str).str.replace("_", " ") == one.name]
    across, down = ("", "") if one.table == "overlap" else ("run on", "circuit found in")
    panels: list[Panel] = []
    for said, (languages, part) in one.parts.items():
        roomy = said == "measured" and one.ends is not None and len(languages) <= _ROOMY
        texts = _with_ends(part, one.ends) if roomy and one.ends is not None else written(part)
        cells = Cells(part, one.name, low=low, high=high, texts=texts)
        axes = languages_axis(languages, across), languages_axis(languages, down)
        panels.append(Panel((cells,), *axes, said, data=data))
    caption = (
        f"Faithfulness: the circuit found in the row's language, run on prompts of the column's ({task_text(run)}); 1 "
        "is the whole model, 0 the empty circuit (of heads, found by search, the diagonal on the very prompts of the "
        "search; of edges, found by attribution on other prompts where there are eight). Overlap: how many heads and "
        "edges two circuits share, or how their scores correlate. Beside what was measured stands what random circuits "
        "of the same size, the control task or permuted labels give, on the same scale. 95 % intervals stand below the "
        f"numbers of up to {_ROOMY} languages, and in the download, where there are any."
    )
    deep = max(len(languages) for languages, _ in one.parts.values())
    return Figure("Circuits across languages", caption, tuple(panels), grid=True, about=f"{run.model_name}, {one.name}",
                  height=230 + 46 * deep)  # fmt: skip


def _with_ends(matrix: Matrix, ends: tuple[Matrix, Matrix]) -> tuple[tuple[str, ...], ...]:
    """Each number with its interval on a line below."""
    return tuple(
        tuple(
            text if np.isnan(low) or np.isnan(high) else f"{text}\n{decimals(low)} to {decimals(high)}"
            for text, low, high in zip(*line)
        )
        for line in zip(written(matrix), *(end.tolist() for end in ends))
    )


MOST_EDGES = 60
"""edges drawn per language, the strongest"""
_NODE = re.compile(r"(?:(\d+)\.(\d+)|m(\d+))(?:\.[qkv])?")
_DASHES: dict[str, Dash] = {"q": "dashed", "k": "dotted"}


@figure("circuits", "table:cross_edges", choose="Language")
def circuit_edges(run: Run, languages: str | None = None) -> Figure:
    """The edges of each language's circuit (`languages`: codes by commas, else the first three), layers upwards.

    Blue edges work for the answer, red ones against it; edges into queries are dashed, into keys dotted.
    """
    wanted = [code.strip() for code in languages.split(",")] if languages else run.languages[:3]
    missing = [code for code in wanted if code not in run.languages]
    if missing:
        raise InputError(f"the run has no language {missing[0]!r}; it has: {', '.join(run.languages)}")
    told = {code: _circuit(run, code) for code in wanted}
    roles = sorted({str(node["role"]) for one in told.values() for node in one["nodes"] if node.get("role")})
    colours = {role: place + 2 for place, role in enumerate(roles)}
    keys = (
        Key("works for the answer", 0), Key("works against it", 1), Key("into queries", None, "dashed"),
        Key("into keys", None, "dotted"), *(Key(role, place, dot=True) for role, place in colours.items()),
    )  # fmt: skip
    panels = tuple(_edges_panel(told[code], colours, code, keys if code == wanted[-1] else ()) for code in wanted)
    caption = (
        f"The strongest edges of each language's circuit, {MOST_EDGES} at most ({task_text(run)}): as wide as they are "
        "strong, layers upwards, heads to the right, MLPs behind them. No intervals: scores of one ranking."
    )
    return Figure("Edges of the circuits", caption, panels, about=run.model_name, height=520)


def _circuit(run: Run, code: str) -> dict[str, Any]:
    lacking = f"the run {run.source} holds no edges of the circuit in {code}"
    try:
        told: Any = json.loads(run.file(f"circuits/{code}.json").read_text(encoding="utf-8"))
    except (RunError, OSError, ValueError) as error:
        raise RunError(lacking) from error
    if not isinstance(told, dict) or "edges" not in told or "nodes" not in told:
        raise RunError(lacking)
    return told


def _edges_panel(told: dict[str, Any], colours: dict[str, int], code: str, keys: tuple[Key, ...]) -> Panel:
    layers, heads = int(told["wiring"]["layers"]), int(told["wiring"]["heads"])
    ends = {"embedding": (heads / 2, -1.0), "logits": (heads / 2, layers + 0.3)}
    edges = sorted(told["edges"], key=lambda edge: -abs(edge["score"]))[:MOST_EDGES]
    strongest = max((abs(edge["score"]) for edge in edges), default=1.0) or 1.0
    arrows = [
        Arrow(_place(edge["sender"], heads, ends), _place(edge["receiver"], heads, ends),
              0.4 + 3.2 * abs(edge["score"]) / strongest, 0 if edge["score"] < 0 else 1,
              _DASHES.get(edge["receiver"][-1], "solid"))
        for edge in reversed(edges)
    ]  # fmt: skip
    known = {str(node["node"]): str(node.get("role") or "") for node in told["nodes"]}
    names = distinct([*ends, *known, *(_node(edge[end]) for edge in edges for end in ("sender", "receiver"))])
    places = [_place(name, heads, ends) for name in names]
    boxes = Boxes([x for x, _ in places], [y for _, y in places], tuple(names),
                  tuple(colours.get(known.get(name, "")) for name in names))  # fmt: skip
    ticks = tuple(float(head) for head in range(heads + 1))
    x = Axis("head", low=-0.8, high=heads + 0.9, ticks=ticks, tick_names=(*map(str, range(heads)), "MLP"))
    y = Axis("layer", low=-1.6, high=layers + 0.8, whole=True)
    data = pd.DataFrame(told["edges"])
    return Panel((*arrows, boxes, *keys), x, y, (Code(code), f"({len(told['edges'])} edges)"), data=data)


def _node(name: str) -> str:
    """The node that a reader belongs to: 2.1 of 2.1.q."""
    return re.sub(r"\.[qkv]$", "", name)


def _place(name: str, heads: int, ends: dict[str, tuple[float, float]]) -> tuple[float, float]:
    if name in ends:
        return ends[name]
    match = _NODE.fullmatch(name)
    if match is None:
        raise RunError(f"{name!r} is no node of a circuit")
    layer, head, mlp = match.groups()
    # the MLP stands behind its layer's heads, and a little above them, since it reads what they write
    return (float(heads), float(mlp) + 0.35) if mlp is not None else (float(head), float(layer))
