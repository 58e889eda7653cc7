"""The paper's numbers beside ours, from one run: base perplexities, increases, region sizes (Tables 1 and 4)."""

from __future__ import annotations

from math import nan

import pandas as pd

from babelscope.results import Run
from babelscope.results.rows import read_rows, rows_frame
from babelscope.results.schemas.regions import Perplexity
from babelscope.results.schemas.sweep import BesidePublished


def beside_published(run: Run, name: str) -> pd.DataFrame:
    """One row per published number, as `BesidePublished` says; NaN where we have none.

    `name`: bloom-7b1 or llama-2-7b. Items: `base_perplexity`, `increase_percent` (ours for `random` is the mean over
    its draws), `region_size`.
    """
    from babelscope.figures.published import published

    facts = published(name)
    base, increase = _ours(run)
    sizes: dict[str, float] = dict(run.summary.get("region_size") or {})
    rows: list[BesidePublished] = []

    def row(item: str, language: str, deactivated: str, theirs: float, ours: float | None) -> None:
        value = nan if ours is None else float(ours)
        rows.append(
            BesidePublished(
                item=item,
                language=language,
                deactivated=deactivated,
                published=float(theirs),
                ours=value,
                difference=value - theirs,
            )
        )

    for code in facts.languages:
        row("base_perplexity", code, "base", facts.base_perplexity[code], base.get(code))
        row("region_size", code, code, facts.region_size[code], sizes.get(code))
        for region, value in facts.increase_percent[code].items():
            row("increase_percent", code, region, value, increase.get((code, region)))
    return rows_frame(BesidePublished, rows)


def _ours(run: Run) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    base: dict[str, float] = {}
    cells: dict[tuple[str, str], list[float]] = {}
    for row in read_rows(run, Perplexity):
        if row.deactivated == "base":
            base[row.language] = row.perplexity
        else:
            cells.setdefault((row.language, row.deactivated), []).append(row.increase_percent)
    return base, {cell: sum(values) / len(values) for cell, values in cells.items()}
