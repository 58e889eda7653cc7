"""The paper's numbers beside ours, from one run: base perplexities, increases, region sizes (Tables 1 and 4)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from babelscope.results import Run


def beside_published(run: Run, name: str) -> pd.DataFrame:
    """One row per published number: item, language, deactivated, published, ours, difference; NaN where we have none.

    `name`: bloom-7b1 or llama-2-7b. Items: `base_perplexity`, `increase_percent` (ours for `random` is the mean over
    its draws), `region_size`.
    """
    from babelscope.figures.published import published

    facts = published(name)
    base, increase = _ours(run)
    sizes: dict[str, Any] = dict(run.summary.get("region_size") or {})
    rows: list[dict[str, Any]] = []

    def row(item: str, language: str, deactivated: str, theirs: float, ours: Any) -> None:
        value = float("nan") if ours is None else float(ours)
        rows.append(
            {"item": item, "language": language, "deactivated": deactivated, "published": float(theirs), "ours": value}
        )

    for code in facts.languages:
        row("base_perplexity", code, "base", facts.base_perplexity[code], base.get(code))
        row("region_size", code, code, facts.region_size[code], sizes.get(code))
        for region, value in facts.increase_percent[code].items():
            row("increase_percent", code, region, value, increase.get((code, region)))
    frame = pd.DataFrame(rows)
    return frame.assign(difference=frame.ours - frame.published)


def _ours(run: Run) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    if "perplexity" not in run.tables:
        return {}, {}
    base: dict[str, float] = {}
    cells: dict[tuple[str, str], list[float]] = {}
    for entry in run.table("perplexity").to_dict("records"):
        language, region = str(entry["language"]), str(entry["deactivated"])
        if region == "base":
            base[language] = float(entry["perplexity"])
        else:
            cells.setdefault((language, region), []).append(float(entry["increase_percent"]))
    return base, {cell: sum(values) / len(values) for cell, values in cells.items()}
