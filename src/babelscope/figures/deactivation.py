"""Figures of deactivation: how the loss rises in each language when each region is switched off."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd

from babelscope.figures.facts import (
    Matrix,
    distinct,
    frame_of,
    grouped,
    in_order,
    interval_words,
    languages_axis,
    rows_of,
)
from babelscope.figures.palette import language_place
from babelscope.figures.published import SOURCE, Published, published, published_for
from babelscope.figures.register import View, figure
from babelscope.figures.spec import NAN, Axis, Bars, Cells, Code, Figure, Label, Line, Panel, Rule
from babelscope.results import Run
from babelscope.results.schemas.regions import Dose, Perplexity, Selectivity
from babelscope.wording import decimals, number

CONTROLS = ("random", "random-layer")
BASE = "base"


@dataclass(frozen=True)
class PerplexityGrid:
    """Increase of perplexity in percent: a row per evaluated language, a column per deactivated set."""

    base: dict[str, float]
    """perplexity with nothing switched off, by language"""
    columns: list[str]
    increase: Matrix
    """[language, column], controls averaged over their draws"""
    spread: Matrix
    """standard deviation over the draws of a random control; NaN elsewhere"""
    draws: dict[str, int]
    """of each random control"""

    def at(self, language: str, deactivated: str) -> float:
        """One increase, in percent."""
        return float(self.increase[list(self.base).index(language), self.columns.index(deactivated)])


def perplexity_grid(run: Run) -> PerplexityGrid:
    """The perplexity table of a run as a grid, controls averaged over their draws."""
    rows = rows_of(run, Perplexity)
    known = {row.language for row in rows}
    changed = [row for row in rows if row.deactivated != BASE]
    languages = in_order(run, known)
    base = {
        code: float(np.mean([row.perplexity for row in rows if (row.language, row.deactivated) == (code, BASE)]))
        for code in languages
    }
    sets = {row.deactivated for row in changed}
    columns = [name for name in CONTROLS if name in sets] + in_order(run, sets - set(CONTROLS))
    increase, spread = np.full((2, len(languages), len(columns)), np.nan)
    for (code, name), own in grouped(changed, lambda row: (row.language, row.deactivated)):
        place = languages.index(code), columns.index(name)
        values = [row.increase_percent for row in own]
        increase[place] = np.mean(values)
        spread[place] = np.std(values) if name in CONTROLS else np.nan
    draws = {
        name: len({row.draw for row in changed if row.deactivated == name}) for name in columns if name in CONTROLS
    }
    return PerplexityGrid(base, columns, increase, spread, draws)


def published_grid(facts: Published, languages: list[str]) -> PerplexityGrid:
    """The published table, for those of `languages` that it has."""
    shared = [code for code in languages if code in facts.languages]
    columns = ["random", *shared]
    values = np.array([[float(facts.increase_percent[code].get(name, NAN)) for name in columns] for code in shared])
    values = values.reshape(len(shared), len(columns))
    base = {code: facts.base_perplexity[code] for code in shared}
    return PerplexityGrid(base, columns, values, np.full_like(values, np.nan), {"random": 1})


@figure("regions", "table:perplexity", choose="Numbers")
def perplexity_heatmap(run: Run, beside: str | None = None) -> Figure:
    """Increase of perplexity in percent under deactivation (Tables 1 and 4), with random controls.

    The published table stands beside it when the run's model is one of the paper's, or when `beside` names one.
    """
    grid = perplexity_grid(run)
    facts = published(beside) if beside else published_for(run.model_name)
    panels = [_panel(grid, "this run" if facts else "", run.table("perplexity"))]
    other = published_grid(facts, list(grid.base)) if facts else None
    compared = ""
    if facts is not None and other is not None and other.increase.size:
        panels.append(_panel(other, f"{facts.name}, {facts.table}", None))
        compared = (
            f" For comparison, the published table of {facts.name} ({facts.table} of {SOURCE}; {facts.neurons} "
            f"neurons; XL-Sum, random control: one draw of {facts.random_control_size} neurons). Other texts: compare "
            "patterns, not numbers."
        )
    tokens = [row.tokens for row in rows_of(run, Perplexity) if not isnan(row.tokens)]
    window = _window(run)
    windows = f"; windows of {window} tokens" if window else ""
    brackets = f" ({int(max(tokens))} tokens at most{windows})" if tokens else ""
    caption = (
        f"Increase of perplexity in percent. Rows: evaluated language, base perplexity in brackets{brackets}. Columns: "
        f"what was switched off{_controls(grid)}. "
        "A region is its language's own when the diagonal stands out against its row, its column and the controls."
        f"{_rounds(run)}{compared} No intervals in the cells: those of ΔNLL are in the download."
    )
    return Figure("Perplexity under deactivation", caption, tuple(panels), about=run.model_name,
                  height=140 + 36 * len(grid.base))  # fmt: skip


def _controls(grid: PerplexityGrid) -> str:
    """What the controls are that the run has."""
    told = {
        "random": "; random: as many neurons as the mean region holds",
        "random-layer": "; by layer: as many of every layer as the row's own region holds",
    }
    draws = max(grid.draws.values(), default=0)
    spread = f"; mean ± spread of {draws} draws" if draws > 1 else "; one draw" if draws else "; no random controls"
    return "".join(told[name] for name in CONTROLS if name in grid.draws) + spread


def _rounds(run: Run) -> str:
    reading = run.summary.get("deactivation")
    if not reading or reading["fixed"]:
        return ""
    return " Text was read in rounds, and no further where an interval was ± a tenth of the effect beside it."


def _window(run: Run) -> object:
    window = (run.manifest.get("defaults") or {}).get("window")
    if isinstance(window, dict):
        return max((facts.get("tokens", 0) for facts in window.values()), default=None)
    return window


def _panel(grid: PerplexityGrid, title: str, data: pd.DataFrame | None) -> Panel:
    texts = tuple(
        tuple(
            cell(value) if isnan(spread) or grid.draws.get(name, 1) < 2 else f"{cell(value)} ± {cell(spread)}"
            for name, value, spread in zip(grid.columns, values, spreads)
        )
        for values, spreads in zip(grid.increase.tolist(), grid.spread.tolist())
    )
    controls = sum(name in CONTROLS for name in grid.columns)
    names: list[Label] = [name.replace("-", "\nby ") if name in CONTROLS else Code(name) for name in grid.columns]
    rows: tuple[Label, ...] = tuple((Code(code), f"({_base(base)})") for code, base in grid.base.items())
    cells = Cells(
        grid.increase, "increase of perplexity, %", "percent", texts=texts, rules=(controls,) if controls else ()
    )
    return Panel(
        (cells,), Axis("deactivated", tuple(names)), Axis("evaluated (base perplexity)", rows), title, data=data
    )


def _base(perplexity: float) -> str:
    """Three digits, and thousands in full."""
    return f"{perplexity:.3g}" if perplexity < 999.5 else number(float(round(perplexity)))


def cell(value: float, digits: int = 0) -> str:
    """A percentage as short as it is still readable.

    >>> cell(4.2), cell(-0.31), cell(-0.01), cell(27093.0)
    ('4.2', '−0.3', '0.0', '27k')
    """
    if isnan(value):
        return "–"
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    return decimals(value, digits if abs(value) >= 10 else 1)


@figure("regions", "table:selectivity")
def selectivity(run: Run) -> Figure:
    """Selectivity of each region: its own language's ΔNLL minus the mean of the others', with interval and control."""
    rows = rows_of(run, Selectivity)
    languages = [row.language for row in rows]
    low, high = [row.low for row in rows], [row.high for row in rows]
    bars = Bars("region", [row.selectivity for row in rows], low, high,
                colours=tuple(language_place(run, code) for code in languages))  # fmt: skip
    random = _random_selectivity(run, languages)
    marks: list[Bars | Rule] = [bars, Rule(0.0)]
    beside = ""
    if any(value == value for value in random):
        marks.insert(1, Bars("random neurons", random, colour=7))
        beside = (
            " Beside it the same difference with as many random neurons switched off as the mean region holds (mean of "
            "the draws, no interval)."
        )
    reasons = [row.why for row in rows]
    if not any(reasons) and any(row.documents == row.documents for row in rows):
        fewest = int(min(row.documents for row in rows if row.documents == row.documents))
        reasons = [f"as few as {fewest} document{'s' if fewest != 1 else ''} a language: give more text"]
    caption = (
        "How much more the loss of a region's own language rises than that of the others when it is switched off, in "
        f"nats per token ({len(rows)} regions). {interval_words(low, high, reasons)}{beside} Zero: the region serves "
        "no language in particular."
    )
    panel = Panel(tuple(marks), languages_axis(languages), Axis("ΔNLL, own − others, nats"),
                  data=run.table("selectivity"))  # fmt: skip
    return Figure("Selectivity", caption, (panel,), about=run.model_name, height=320)


def _random_selectivity(run: Run, languages: list[str]) -> list[float]:
    """Own ΔNLL minus the mean of the others' under the random neurons that all languages share, mean over draws."""
    rows = [row for row in rows_of(run, Perplexity) if row.deactivated == CONTROLS[0]]
    own = {code: [row.delta_nll for row in its] for code, its in grouped(rows, lambda row: row.language)}
    means = {code: float(np.mean(values)) for code, values in own.items()}
    if len(means) < 2:
        return [NAN for _ in languages]
    return [
        means[code] - float(np.mean([value for other, value in means.items() if other != code]))
        if code in means else NAN
        for code in languages
    ]  # fmt: skip


def _doses(run: Run) -> list[View]:
    keys = distinct((row.kind, row.matched) for row in rows_of(run, Dose))
    return [View(f"{kind}: {region}", {"kind": kind, "region": region}) for kind, region in keys]


@figure("regions", "table:dose", views=_doses, choose="Treatment and region")
def dose(run: Run, kind: str | None = None, region: str | None = None) -> Figure:
    """Loss by language as more and more of one ranking is treated, beside random neurons of the same layers."""
    rows = rows_of(run, Dose)
    kind, region = kind or rows[0].kind, region or rows[0].matched
    rows = [row for row in rows if (row.kind, row.matched) == (kind, region)]
    lines: list[Line] = []
    for code, own in grouped((row for row in rows if row.region == region), lambda row: row.language):
        own = sorted(own, key=lambda row: row.share)
        main = code == region
        low, high = ([row.delta_low for row in own], [row.delta_high for row in own]) if main else ([], [])
        lines.append(Line(Code(code), [row.share for row in own], [row.delta_nll for row in own],
                          low, high, language_place(run, code), strong=main))  # fmt: skip
    control = sorted(grouped((row for row in rows if row.region != region and row.language == region),
                             lambda row: row.share))  # fmt: skip
    if control:
        means = [float(np.mean([row.delta_nll for row in own])) for _, own in control]
        lines.append(Line((Code(region), "random neurons"), [share for share, _ in control], means, colour=7,
                          dash="dashed"))  # fmt: skip
    caption = (
        "Rise of the loss, in nats per token, as a growing share of all neurons is treated, from the top of one "
        "language's ranking downwards. The dashed line is the same language under random neurons of the same layers; "
        "bands are 95 % intervals over documents."
    )
    axes = Axis("share of all neurons treated", percent=True), Axis("ΔNLL")
    panel = Panel(tuple(lines), *axes, data=frame_of(rows))
    return Figure("Dose and response", caption, (panel,), about=f"{run.model_name}, {kind}: {region}")
