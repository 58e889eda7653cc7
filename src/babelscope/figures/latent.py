"""Figures of latent language: excess, mass and entropy by layer, controls, strengths, tuned lens."""

from __future__ import annotations

import numpy as np
import pandas as pd

from babelscope.errors import InputError
from babelscope.figures.facts import distinct, frame_of, grey_words, grouped, interval_words, languages_axis, rows_of
from babelscope.figures.palette import language_place
from babelscope.figures.register import View, figure
from babelscope.figures.spec import NAN, Axis, Bars, Cells, Code, Figure, Line, Panel, Rule
from babelscope.results import Run
from babelscope.results.schemas.latent import (
    Control,
    Curve,
    Entropy,
    LatentVerdict,
    TunedScore,
)

SOLVED = "solved"
OUTCOMES = {"passes through": "▶ ", "readable, no detour": "○ ", "no sign": "× ", "undecided": "? "}
MOVED = {
    "c2 in d": "nothing moved", "c2 in b": "language alone", "c1 in d": "concept alone", "c1 in b": "both",
}  # fmt: skip
LAYER = Axis("layer", whole=True)


def pair_views(run: Run) -> list[View]:
    """A view for every pair and lens, in their order."""
    keys = distinct((f"{row.source}→{row.target}", row.lens) for row in rows_of(run, Curve))
    return [View(f"{pair}, {lens} lens", {"pair": pair, "lens": lens}) for pair, lens in keys]


def shown_pair(run: Run, pair: str | None = None, lens: str = "logit") -> list[Curve]:
    """Curves of one pair (`fr→zh`; by default the first) through one lens: on solved concepts, on all if none is."""
    rows = rows_of(run, Curve)
    lenses = distinct(row.lens for row in rows)
    rows = [row for row in rows if row.lens == (lens if lens in lenses else lenses[0])]
    pairs = distinct(f"{row.source}→{row.target}" for row in rows)
    wanted = pairs[0] if pair is None else pair
    if wanted not in pairs:
        raise InputError(f"the run has no pair {wanted!r}; it has: {', '.join(pairs)}")
    own = [row for row in rows if f"{row.source}→{row.target}" == wanted]
    solved = [row for row in own if row.scope == SOLVED and row.concepts > 0]
    return solved or [row for row in own if row.scope == "all"]


def scope_text(rows: list[Curve]) -> str:
    """`n = 40 solved concepts`."""
    which = "solved " if rows[0].scope == SOLVED else ""
    return f"n = {max(row.concepts for row in rows)} {which}concepts"


def _about(run: Run, rows: list[Curve]) -> str:
    return f"{run.model_name}, {rows[0].source}→{rows[0].target}, {rows[0].lens} lens, {scope_text(rows)}"


@figure("latent", "table:curves", views=pair_views, choose="Pair")
def latent_excess(run: Run, pair: str | None = None, lens: str = "logit") -> Figure:
    """Excess over other words and other prompts by layer, with simultaneous 95 % bands over the inner layers."""
    rows = shown_pair(run, pair, lens)
    lines = tuple(
        Line((Code(code), "asked for") if code == own[0].target else Code(code), [float(row.layer) for row in own],
             [row.excess for row in own], [row.excess_low for row in own], [row.excess_high for row in own],
             language_place(run, code))
        for code, own in grouped(rows, lambda row: row.language)
    )  # fmt: skip
    least = float(run.summary.get("least", 0.01))
    reasons = distinct(row.why for row in rows if row.why and not row.why.startswith("first and last"))
    without = f" Without a band: {'; '.join(reasons)}." if reasons else ""
    caption = (
        "How much likelier the lens finds the concept's own word than other words of that language on the same prompt "
        f"and the same word on other prompts; {scope_text(rows)}. Bands: 95 %, in all inner layers at once; layer 0 "
        f"reads the input back and the last layer is the output, so both stand outside.{without} A language is passed "
        "through where its excess rises above the target's and goes again."
    )
    marks = (*lines, Rule(least, "least that counts", dash="dotted"), Rule(0.0))
    panel = Panel(marks, LAYER, Axis("excess"), data=_table(rows))
    return Figure("Excess by layer", caption, (panel,), about=_about(run, rows))


def _table(rows: list[Curve]) -> pd.DataFrame:
    return frame_of(rows)


@figure("latent", "table:curves", views=pair_views, choose="Pair")
def latent_mass(run: Run, pair: str | None = None, lens: str = "logit") -> Figure:
    """Mass of the concept's word in every language by layer."""
    rows = shown_pair(run, pair, lens)
    lines = tuple(
        Line(Code(code), [float(row.layer) for row in own], [row.mass for row in own], colour=language_place(run, code))
        for code, own in grouped(rows, lambda row: row.language)
    )
    caption = (
        f"Probability of the concept's word in each language, {scope_text(rows)}. It is never the verdict: mass grows "
        "with how frequent a word is, and with how many of its tokens others share. No intervals here: those of the "
        "excess, which is compared with controls, are the ones that count."
    )
    panel = Panel(lines, LAYER, Axis("mass of the word"), data=_table(rows))
    return Figure("Mass by layer", caption, (panel,), about=_about(run, rows))


def _entropy_views(run: Run) -> list[View]:
    keys = distinct((f"{row.source}→{row.target}", row.lens) for row in rows_of(run, Entropy))
    return [View(f"{pair}, {lens} lens", {"pair": pair, "lens": lens}) for pair, lens in keys]


@figure("latent", "table:entropy", views=_entropy_views, choose="Pair")
def latent_entropy(run: Run, pair: str | None = None, lens: str | None = None) -> Figure:
    """Entropy of the next word as a lens sees it, by layer."""
    rows = rows_of(run, Entropy)
    pair, lens = pair or f"{rows[0].source}→{rows[0].target}", lens or rows[0].lens
    rows = [row for row in rows if (f"{row.source}→{row.target}", row.lens) == (pair, lens)]
    line = Line("entropy", [float(row.layer) for row in rows], [row.entropy for row in rows],
                [row.entropy_low for row in rows], [row.entropy_high for row in rows], 7)  # fmt: skip
    caption = "Entropy of the next word as the lens sees it, mean over concepts with a 95 % band over all layers."
    data = frame_of(rows)
    panel = Panel((line,), LAYER, Axis("entropy, bits"), data=data)
    return Figure("Entropy by layer", caption, (panel,), about=f"{run.model_name}, {pair}, {lens} lens")


@figure("latent", "table:controls", "table:curves", views=pair_views, choose="Pair")
def latent_controls(run: Run, pair: str | None = None, lens: str = "logit") -> Figure:
    """Strength of every candidate as it is and under each control, with 95 % intervals."""
    shown = shown_pair(run, pair, lens)
    key = shown[0].source, shown[0].target, shown[0].lens, shown[0].scope
    whole = [row for row in rows_of(run, Control) if (row.source, row.target, row.lens, row.scope) == key]
    rows = [row for row in whole if not row.control.startswith(("minus", "Spearman"))]
    languages = distinct(row.language for row in rows)
    marks: list[Bars | Rule] = []
    for place, (name, own) in enumerate(grouped(rows, lambda row: row.control)):
        by_language = {row.language: row for row in own}
        ends = [(one.value, one.value_low, one.value_high) if (one := by_language.get(code)) else (NAN,) * 3
                for code in languages]  # fmt: skip
        marks.append(Bars("as it is" if name == "none" else name, *([end[part] for end in ends] for part in range(3)),
                          colour=place))  # fmt: skip
    words = interval_words([row.value_low for row in rows], [row.value_high for row in rows], [row.why for row in rows])
    caption = (
        f"Strength as it is and under each control, over {scope_text(shown)}. {words} Rows of matched spectrum stand "
        "for the 95 % quantile of strengths that rows with the same length and the same cosine to the target's give."
    )
    data = frame_of(whole)
    panel = Panel((*marks, Rule(0.0)), languages_axis(languages, "candidate"), Axis("strength A"), data=data)
    return Figure("Controls", caption, (panel,), about=_about(run, shown), height=430)


def _lenses(run: Run) -> list[View]:
    known = [lens for lens in distinct(row.lens for row in rows_of(run, LatentVerdict)) if strengths(run, lens)]
    return [View(f"{lens} lens", {"lens": lens}) for lens in known]


def strengths(run: Run, lens: str = "logit") -> list[LatentVerdict]:
    """Verdicts through one lens on solved concepts; on all where no strength is known."""
    rows = rows_of(run, LatentVerdict)
    lenses = distinct(row.lens for row in rows)
    rows = [row for row in rows if row.lens == (lens if lens in lenses else lenses[0])]
    solved = [row for row in rows if row.scope == SOLVED]
    known = any(row.strength == row.strength for row in solved)
    kept = solved if known else [row for row in rows if row.scope == "all"]
    return kept if any(row.strength == row.strength for row in kept) else []


@figure("latent", "table:verdicts", views=_lenses, choose="Lens")
def latent_strengths(run: Run, lens: str = "logit") -> Figure:
    """Strength A of every candidate (columns) for every pair of languages (rows), marked with its verdict."""
    rows = strengths(run, lens)
    if not rows:
        raise InputError("the run knows no strength of any candidate")
    pairs = distinct(f"{row.source}→{row.target}" for row in rows)
    languages = distinct(row.language for row in rows)
    values = np.full((len(pairs), len(languages)), np.nan)
    texts = [["" for _ in languages] for _ in pairs]
    for row in rows:
        place = pairs.index(f"{row.source}→{row.target}"), languages.index(row.language)
        values[place] = row.strength
        if row.strength == row.strength:
            texts[place[0]][place[1]] = f"{OUTCOMES.get(row.outcome, '')}{_three(row.strength)}"
    # colours reach at least to what counts, so that noise does not look strong
    reach = max(float(np.nanmax(np.abs(values))), float(run.summary.get("least", 0.01)))
    cells = Cells(values, "strength A", "diverging", -reach, reach, tuple(map(tuple, texts)))
    caption = (
        "Strength of every candidate (columns) for every pair of languages (rows). ▶ passes through; ○ readable, no "
        "detour; × no sign; ? undecided; unmarked: not decidable, too few concepts. Intervals and controls stand in "
        f"the verdicts.{grey_words(values)}"
    )
    axes = languages_axis(languages, "candidate"), Axis("pair", names=tuple(pairs))
    panel = Panel((cells,), *axes, data=frame_of(rows))
    return Figure("All pairs", caption, (panel,), about=f"{run.model_name}, {rows[0].lens} lens")


def _three(value: float) -> str:
    """Three decimals, and no sign before a zero."""
    return f"{value if abs(value) >= 0.0005 else 0.0:.3f}".replace("-", "−")


@figure("latent", "table:tuned", choose="Measure")
def latent_tuned(run: Run) -> Figure:
    """How near each lens comes to the model's own next word, and its bias, by layer and language."""
    rows = rows_of(run, TunedScore)
    panels: list[Panel] = []
    for title, value in (
        ("mean KL, bits", lambda row: row.kl), ("bias, bits", lambda row: row.bias),
        ("same likeliest token", lambda row: row.agreement),
    ):  # fmt: skip
        lines = tuple(
            Line("" if lens == "logit" else Code(code), [float(row.layer) for row in own], [value(row) for row in own],
                 colour=language_place(run, code), dash="dotted" if lens == "logit" else "solid")
            for (code, lens), own in grouped(rows, lambda row: (row.language, row.lens))
        )  # fmt: skip
        panels.append(Panel(lines, LAYER, Axis(title), title, data=run.table("tuned")))
    caption = (
        "How near each lens comes to the model's own next word on text that was not fitted; dotted, in the "
        "same colours: the plain lens; "
        f"bias: what the lens says whatever the text. The tuned lens was {run.summary.get('tuned_lens')}. It can turn "
        "a pivot into the target: that a language is absent there refutes nothing. No intervals: means over held-out"
        " text."
    )
    return Figure("Tuned lens", caption, tuple(panels), about=run.model_name)
