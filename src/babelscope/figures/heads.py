"""Figures of the heads of a circuits run: what each does, by language."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

from babelscope.errors import InputError
from babelscope.figures.facts import array, chosen, codes, distinct, grey_words, in_order, numbers, own_rows, tidy
from babelscope.figures.palette import language_place
from babelscope.figures.register import View, figure, has_arrays
from babelscope.figures.spec import Axis, Cells, Code, Figure, Key, Line, Panel, Points, Rule
from babelscope.results import Run
from babelscope.results.schemas.circuits import Role
from babelscope.stats import pearson

MEASURES = {
    "activation_patching": "activation patching: change of logit difference",
    "path_logits": "direct path to the logits: change of logit difference",
    "head_frequency": "share of prompts in which the head is on a route",
}
_FIRST = ("activation_patching", "path_logits", "head_frequency")
MOST_PAIRS = 36
"""pairs of languages that a page lets a reader choose from"""
MOST_ROLES = 12
"""pairs of roles whose attention a page shows, those with the strongest heads"""


def measure_title(name: str) -> str:
    """What an array by head means, in words."""
    return MEASURES.get(name) or name.removeprefix("step_").replace("_", " ")


def task_text(run: Run) -> str:
    """`task ioi, corruption pABC`."""
    corruption = run.manifest.get("corruption")
    return f"task {run.manifest.get('task', '?')}" + (f", corruption {corruption}" if corruption else "")


def heads(run: Run, name: str) -> xr.DataArray:
    """A `language` × `layer` × `head` array of a circuits run."""
    return array(run, name, "language", "layer", "head")


def head_measures(run: Run) -> list[str]:
    """Names of all arrays by language, layer and head, the searched steps last, without interval bounds."""
    if not has_arrays(run):
        return []
    wanted = {"language", "layer", "head"}
    found = [str(name) for name, one in run.arrays().data_vars.items() if set(one.dims) == wanted]
    known = [name for name in _FIRST if name in found]
    return known + [name for name in found if name not in known and not name.endswith(("_low", "_high"))]


def _measure(run: Run, name: str | None) -> tuple[str, xr.DataArray]:
    known = head_measures(run)
    if not known:
        raise InputError("the run measures no heads")
    if name is not None and name not in known:
        raise InputError(f"the run has no measure {name!r} of heads; it has: {', '.join(known)}")
    name = name or known[0]
    return name, heads(run, name)


def _frequency_first(run: Run) -> str | None:
    return "head_frequency" if "head_frequency" in head_measures(run) else None


def _measures(run: Run) -> list[View]:
    return [View(measure_title(name), {"measure": name}) for name in head_measures(run)]


def _maps(found: xr.DataArray, label: str, signed: bool, top: float) -> tuple[Panel, ...]:
    """A panel for each language, layers upwards, all on one scale."""
    data = tidy(found, "value")
    panels: list[Panel] = []
    for code in codes(found):
        values = numbers(found.sel(language=code).values)
        palette, low = ("diverging", -top) if signed else ("sequential", 0.0)
        cells = Cells(values, label, palette, low, top, upwards=True)
        panels.append(Panel((cells,), Axis("head", whole=True), Axis("layer", whole=True), Code(code), data=data))
    return tuple(panels)


@figure("circuits", "activation_patching", views=_measures, choose="Measure")
def head_heatmap(run: Run, measure: str | None = None) -> Figure:
    """Effect of every head, one map per language, on one scale."""
    name, found = _measure(run, measure or "activation_patching")
    reach = float(np.nanmax(np.abs(found.values))) or 1.0
    caption = (
        f"What each attention head does, by language ({task_text(run)}). Layers upwards, heads to the right; the same "
        "place is the same head, all panels share one scale. Patching: change of the logit difference between answer "
        "and foil, relative to the clean run; negative means that the head works for the answer. No intervals in the "
        "cells; selected heads have theirs in the table of roles."
    )
    signed = float(np.nanmin(found.values)) < 0
    caption += grey_words(found.values) if signed else ""
    panels = _maps(found, measure_title(name), signed, reach)
    rows = -(-len(panels) // 3)
    return Figure("Effect of every head", caption, panels, grid=True, about=run.model_name, height=120 + 260 * rows)


def _role_pairs(run: Run) -> list[View]:
    found = array(run, "attention_role", "language", "role", "role2", "layer", "head")
    strongest = found.max(["language", "layer", "head"]).to_series().dropna().sort_values(ascending=False)
    pairs = [(str(pair[0]), str(pair[1])) for pair in strongest.index[:MOST_ROLES].to_list()]
    return [View(f"{query} → {key}", {"query": query, "key": key}) for query, key in pairs]


@figure("circuits", "attention_role", views=_role_pairs, choose="From → to")
def attention_between_roles(run: Run, query: str | None = None, key: str | None = None) -> Figure:
    """Mean attention of every head from one role of the prompt to another, by language."""
    found = array(run, "attention_role", "language", "role", "role2", "layer", "head")
    roles = [str(role) for role in found.role.values]
    query, key = chosen(query, roles[::-1], "role"), chosen(key, roles, "role")
    part = found.sel(role=query, role2=key).drop_vars(["role", "role2"])
    caption = (
        f"Mean attention of every head from one role of the prompt (the query) to another ({task_text(run)}); the "
        "pairs with the strongest heads. Layers upwards, heads to the right, 0 to 1 in all panels. No intervals: means "
        "over prompts."
    )
    panels = _maps(part, f"attention, {query} to {key}", False, 1.0)
    rows = -(-len(panels) // 3)
    return Figure("Attention between roles", caption, panels, grid=True, about=f"{run.model_name}, {query} → {key}",
                  height=120 + 240 * rows)  # fmt: skip


def _two(found: xr.DataArray, first: str | None, second: str | None) -> tuple[str, str]:
    languages = codes(found)
    first = chosen(first, languages, "language")
    return first, chosen(second, [code for code in languages if code != first] or languages, "language")


def _language_pairs(run: Run) -> list[View]:
    _, found = _measure(run, _frequency_first(run))
    pairs = list(combinations(codes(found), 2))[:MOST_PAIRS]
    return [View(f"{a} and {b}", {"first": a, "second": b}) for a, b in pairs]


@figure("circuits", "language", views=_language_pairs, choose="Languages")
def head_scatter(run: Run, first: str | None = None, second: str | None = None, measure: str | None = None) -> Figure:
    """One dot per head: its measure in one language against another, with Pearson's r."""
    name, found = _measure(run, measure or _frequency_first(run))
    first, second = _two(found, first, second)
    x, y = (numbers(found.sel(language=code).values).ravel() for code in (first, second))
    grid = np.meshgrid(found.layer.values, found["head"].values, indexing="ij")
    known = np.isfinite(x) & np.isfinite(y)  # a screen leaves heads unpatched
    layers, places = (part.ravel()[known] for part in grid)
    x, y = x[known], y[known]
    if not x.size:
        raise InputError(f"no head was patched in {first} and in {second}")
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    texts = tuple(f"{layer}.{head}" for layer, head in zip(layers.tolist(), places.tolist()))
    dots = Points("", x.tolist(), y.tolist(), values=numbers(layers).tolist(), values_label="layer", texts=texts,
                  named=tuple(_apart(x, y)[:6]))  # fmt: skip
    same = Line("", [low, high], [low, high], colour=7, dash="dashed", markers=False)
    r = pearson(x, y)
    data = pd.DataFrame({"layer": layers, "head": places, first: x, second: y})
    panel = Panel((same, dots), Axis(_said(first)), Axis(_said(second)), f"Pearson r = {r:.2f}", data=data)
    caption = (
        f"One dot per head: {measure_title(name)}, in one language against another ({task_text(run)}). Dots on the "
        "diagonal work alike in both languages: "
        f"Pearson's r = {r:.2f} over {len(x)} heads. Its null and ceiling stand in the tables of overlap and agreement."
    )
    return Figure("Heads in two languages", caption, (panel,), about=f"{run.model_name}, {measure_title(name)}",
                  height=440, names=(f"r = {r:.2f}",))  # fmt: skip


def _said(code: str) -> Code:
    return Code(code)


def _apart(x: np.ndarray, y: np.ndarray, least: float = 0.07) -> list[int]:
    """The points farthest from 0 first, without those too close to an earlier one for a name of their own."""
    span = max(float(np.ptp(x)), float(np.ptp(y))) or 1.0
    kept: list[int] = []
    for place in np.argsort(-(np.abs(x) + np.abs(y))).tolist():
        if all(max(abs(x[place] - x[k]), abs(y[place] - y[k])) > least * span for k in kept):
            kept.append(place)
    return kept


@figure("circuits", "language", views=_language_pairs, choose="Languages")
def head_difference(
    run: Run, first: str | None = None, second: str | None = None, measure: str | None = None
) -> Figure:
    """The measure of every head in one language minus the other."""
    name, found = _measure(run, measure or _frequency_first(run))
    first, second = _two(found, first, second)
    values = numbers(found.sel(language=first).values - found.sel(language=second).values)
    cells = Cells(values, measure_title(name), "diverging", upwards=True)
    panel = Panel((cells,), Axis("head", whole=True), Axis("layer", whole=True))
    caption = (
        f"{measure_title(name)} in {first} minus {second}, head by head ({task_text(run)}). Layers upwards, heads to "
        f"the right. No intervals in the cells.{grey_words(values)}"
    )
    return Figure("Difference of two languages", caption, (panel,), about=f"{first} − {second}, {measure_title(name)}")


@figure("circuits", "mlp_patching")
def ffn_curves(run: Run) -> Figure:
    """What each layer's feed-forward block does for the answer when it is patched, by layer and language."""
    found = array(run, "mlp_patching", "language", "layer")
    layers = numbers(found.layer.values).tolist()
    lines = tuple(
        Line(Code(code), layers, numbers(found.sel(language=code).values).tolist(), colour=language_place(run, code))
        for code in codes(found)
    )
    caption = (
        f"What patching the feed-forward block of each layer does to the logit difference, by language "
        f"({task_text(run)}). No intervals: means over prompts. The line at 0 is no effect."
    )
    axes = Axis("layer", whole=True), Axis("change of logit difference")
    panel = Panel((*lines, Rule(0.0)), *axes, data=tidy(found, "value"))
    return Figure("Feed-forward blocks", caption, (panel,), about=run.model_name)


@figure("circuits", "table:roles")
def circuit_graph(run: Run) -> Figure:
    """The heads that were given a role, by layer, in each language; the same head stands at the same height."""
    rows = own_rows(run, Role)
    languages = in_order(run, (row.language for row in rows))
    roles = distinct(row.role for row in rows)
    marks: list[Points | Key] = []
    for place, role in enumerate(roles):
        x: list[float] = []
        own = distinct((row.language, row.layer, row.head) for row in rows if row.role == role)
        for code, layer, head in own:
            beside = distinct((row.head, row.role) for row in rows if (row.language, row.layer) == (code, layer))
            offsets = np.linspace(-0.3, 0.3, len(beside)).tolist() if len(beside) > 1 else [0.0]
            x.append(languages.index(code) + offsets[beside.index((head, role))])
        marks.append(
            Points(role.replace("_", " "), x, [float(layer) for _, layer, _ in own], colour=place, large=True,
                   texts=tuple(f"{layer}.{head}" for _, layer, head in own), named=tuple(range(len(own))))
        )  # fmt: skip
    if not marks:
        raise InputError("the run names no role of a head")
    names = tuple(Code(code) for code in languages)
    x_axis = Axis("", names=names, low=-0.6, high=len(languages) - 0.4)
    panel = Panel(tuple(marks), x_axis, Axis("layer", whole=True), data=run.table("roles"))
    caption = (
        f"The heads that were given a role, by layer, in each language ({task_text(run)}); the same head stands at the "
        "same height. Scores, and why a role is only a candidate, stand in the table of roles."
    )
    return Figure("Heads with a role", caption, (panel,), about=run.model_name)
