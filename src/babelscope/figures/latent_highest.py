"""How high each candidate language comes on the way from source to target, beside the least that counts as a sign."""

from __future__ import annotations

from math import isnan

from babelscope.figures.facts import chosen, distinct, frame_of, interval_words, languages_axis, rows_of
from babelscope.figures.latent import SOLVED
from babelscope.figures.register import View, figure
from babelscope.figures.spec import NAN, Axis, Code, Figure, Panel, Points, Rule
from babelscope.languages import english_name
from babelscope.results import Run
from babelscope.results.schemas.latent import Curve, LatentVerdict

PIVOT = "en"
COLOURS = {"no sign": 0, "passes through": 1, "readable, no detour": 2, "undecided": 5, "not decidable": 7}
"""verdicts, in the order in which they are drawn, with their places in the palette"""


def _pairs(rows: list[LatentVerdict]) -> list[str]:
    return distinct(f"{row.source}→{row.target}" for row in rows)


def _verdicts(run: Run) -> list[LatentVerdict]:
    return [row for row in rows_of(run, LatentVerdict) if row.scope == SOLVED]


def _candidates(rows: list[LatentVerdict]) -> list[str]:
    """English first: it is what the page answers for."""
    return sorted(distinct(row.language for row in rows), key=lambda code: code != PIVOT)


def _views(run: Run) -> list[View]:
    rows = _verdicts(run)
    lenses = distinct(row.lens for row in rows)
    if len(_pairs(rows)) < 2:
        return [View(f"{lens} lens", {"lens": lens}) for lens in lenses]
    return [
        View(f"{english_name(code)}, {lens} lens", {"candidate": code, "lens": lens})
        for lens in lenses
        for code in _candidates(rows)
    ]


def highest(curve: list[Curve]) -> Curve | None:
    """The inner layer whose simultaneous upper end is highest; None where no layer has a band.

    It decides *no sign*: that end lies below the least that counts.
    """
    known = [row for row in curve if not isnan(row.excess_high)]
    return max(known, key=lambda row: row.excess_high, default=None)


@figure("latent", "table:curves", "table:verdicts", views=_views, choose="Show")
def latent_highest(run: Run, candidate: str | None = None, lens: str | None = None) -> Figure:
    """Highest excess of one candidate in every pair of languages; with one pair, of every candidate."""
    every = _verdicts(run)
    lens = chosen(lens, distinct(row.lens for row in every), "lens")
    several = len(_pairs(every)) > 1
    rows = [row for row in every if row.lens == lens]
    if several:
        candidate = chosen(candidate, _candidates(every), "candidate")
        rows = [row for row in rows if row.language == candidate]
    curves: dict[tuple[str, str, str], list[Curve]] = {}
    for row in rows_of(run, Curve):
        if (row.scope, row.lens) == (SOLVED, lens):
            curves.setdefault((row.source, row.target, row.language), []).append(row)
    found = [highest(curves.get((row.source, row.target, row.language), [])) for row in rows]
    values = [NAN if one is None else one.excess for one in found]
    # so few concepts have intervals that would hide all others
    drawn = [None if row.outcome == "not decidable" else one for row, one in zip(rows, found)]
    lows = [NAN if one is None else one.excess_low for one in drawn]
    highs = [NAN if one is None else one.excess_high for one in drawn]
    marks: list[Points | Rule] = []
    for outcome, place in COLOURS.items():
        own = [at for at, row in enumerate(rows) if row.outcome == outcome]
        if own:
            y, low, high = ([column[at] for at in own] for column in (values, lows, highs))
            marks.append(Points(outcome, [float(at) for at in own], y, low, high, place, large=True))
    least = float(run.summary.get("least", 0.01))
    marks += [Rule(least, "least that counts", dash="dotted"), Rule(0.0)]
    what = "of the chosen language in every pair" if several else "of every candidate"
    caption = (
        "Excess (how much likelier the lens finds the concept's own word than other words on the same prompt, and than "
        f"the same word on other prompts) {what}, in the inner layer where its band reaches highest; solved concepts. "
        f"{interval_words(lows, highs, ['none where it is not decidable, on so few concepts'])} "
        "They hold in all inner layers at once: below the dotted line it is no sign of the language; across it, "
        "undecided, unless the strength over all layers says more. Not decidable: too few concepts are solved, or too "
        "few of them can be compared."
    )
    names = tuple(_pairs(rows))
    axis = Axis("pair", names=names) if several else languages_axis([row.language for row in rows], "candidate")
    panel = Panel(tuple(marks), axis, Axis("highest excess"), data=frame_of(one for one in found if one is not None))
    asked = Code(candidate or "") if several else names[0]
    title = "Highest excess in every pair of languages" if several else "Highest excess of every candidate"
    return Figure(title, caption, (panel,), about=f"{run.model_name}, {asked}, {lens} lens")
