"""Sentences on a regions run: what switching off does, how alike translations are, what stands above chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from babelscope.findings.sentence import Estimate, Finding, count, named, percent_range
from babelscope.results import Run
from babelscope.wording import decimals, number

NAN = float("nan")
OWN_AND_CONTROL = "random-layer"
"""the control that a region is held against: as many random neurons in the same layers"""


@dataclass(frozen=True)
class Deactivated:
    """What switching off one language's region did to the perplexity of texts."""

    language: str
    own: float
    """rise in its own language, percent"""
    low: float
    """lower end of the 95 % interval of its own ΔNLL, nats; NaN: none"""
    others: tuple[float, ...]
    """rise in each other language, percent"""
    control: tuple[float, ...]
    """rise in its own language under each draw of as many random neurons of the same layers, percent"""
    control_delta: float
    """the largest ΔNLL of those draws, nats"""
    documents: int


def region_findings(run: Run) -> list[Finding]:
    """All sentences that a regions run gives."""
    found = [deactivation(list(_deactivated(run)))]
    n = int(run.summary.get("n") or 0)
    sads, lrds = _estimate(run.summary, "sads"), _estimate(run.summary, "lrds")
    if sads is not None:
        found.append(translations(sads, n, len(run.languages)))
    if lrds is not None:
        found.append(languages_apart(lrds, n, len(run.languages)))
    share = _estimate(run.summary, "language_share")
    if share is not None:
        found.append(language_share(share))
    chance = _above_chance(run.summary)
    return [*found, chance] if chance else found


def deactivation(rows: Sequence[Deactivated]) -> Finding:
    """Whether regions matter to their own language more than random neurons of the same layers do.

    A language counts when the lower end of its own ΔNLL lies above the largest draw of the control. An effect: it does
    in most languages. None: in no language. Undecided: in a minority, or where intervals are missing.
    """
    figure = "perplexity-heatmap"
    if not rows:
        return Finding("not measured", "What the regions do was not measured: give --texts.", figure)
    fewest = min(row.documents for row in rows)
    if any(row.low != row.low for row in rows):
        text = f"Too little text to say what the regions do: {count(fewest, 'document')} in a language."
        return Finding("undecided", f"{text} Give more with --text-tokens.", figure)
    if not all(row.control for row in rows):
        return Finding("undecided", "What the regions do has no control to compare with: give --controls.", figure)
    above = [row.language for row in rows if row.low > row.control_delta]
    own = [row.own for row in rows]
    measured = (
        f"its own language's perplexity by {percent_range(own)} (median {decimals(median(own), 0)} %), the other "
        f"languages' by {percent_range([value for row in rows for value in row.others])}; as many random neurons of "
        f"the same layers raise it by {percent_range([value for row in rows for value in row.control])}"
    )
    draws = len(rows[0].control)
    n = f"{count(fewest, 'document')} a language or more, {count(draws, 'random draw')}"
    if 2 * len(above) > len(rows):
        where = f"above every draw in {len(above)} of {len(rows)} languages"
        return Finding("effect", f"Switching off a language's region raises {measured}: {where} ({n}).", figure)
    if not above:
        text = f"Switching off a language's region does no more than random neurons do: it raises {measured} ({n})."
        return Finding("none", text, figure)
    text = f"Regions matter more than random neurons in {named(above)} only: switching one off raises {measured} ({n})."
    return Finding("undecided", text, figure)


def translations(sads: Estimate, n: int, languages: int) -> Finding:
    """Whether translations are more alike than unrelated sentences (SADS above 0)."""
    where = f"by {sads.said(3)} in cosine similarity (SADS); {count(n, 'sentence')} in each of {languages} languages"
    return _against_zero(
        sads,
        f"Translations are more alike than unrelated sentences, {where}.",
        f"Translations are no more alike than unrelated sentences: they differ {where}.",
        f"Whether translations are more alike than unrelated sentences cannot be said: they differ {where}.",
        "similarity",
    )


def languages_apart(lrds: Estimate, n: int, languages: int) -> Finding:
    """Whether sentences of one language are more alike than those of two (LRDS above 0)."""
    where = (
        f"by {lrds.said(3)} in cosine similarity (LRDS; lower is more shared); {count(n, 'sentence')} in each of "
        f"{languages} languages"
    )
    return _against_zero(
        lrds,
        f"Sentences of one language are more alike than sentences of two, {where}.",
        f"Sentences of one language are no more alike than sentences of two: they differ {where}.",
        f"Whether sentences of one language are more alike than sentences of two cannot be said: they differ {where}.",
        "similarity",
    )


def language_share(share: Estimate) -> Finding:
    """How much of what neurons do differs between languages."""
    return _against_zero(
        share,
        f"The language of a sentence accounts for {share.said(1)} % of the variance of its neurons, on average.",
        f"The language of a sentence accounts for none of the variance of its neurons: {share.said(1)} %.",
        f"What share of the variance of neurons the language accounts for cannot be said: {share.said(1)} %.",
        "region-sizes",
    )


def _against_zero(estimate: Estimate, above: str, below: str, undecided: str, figure: str) -> Finding:
    if not estimate.known or estimate.low <= 0 <= estimate.high:
        return Finding("undecided", undecided, figure)
    return Finding("effect", above, figure) if estimate.low > 0 else Finding("none", below, figure)


def _above_chance(summary: Mapping[str, Any]) -> Finding | None:
    """How many neurons the regions hold beyond permuted labels."""
    size, expected, p = summary.get("sklr"), summary.get("expected_sklr"), summary.get("p_sklr")
    if size is None or expected is None:
        return None
    said = (
        f"hold {count(int(size), 'neuron')} in all (SKLR), where permuted language labels give "
        f"{number(round(expected))} on average (p = {_p(p)})"
    )
    if p is None or p > 0.05:
        return Finding("none", f"The key regions are no larger than chance: they {said}.", "calibration")
    return Finding("effect", f"The key regions {said}.", "calibration")


def _p(p: float | None) -> str:
    """Three decimals, or one digit where they would say 0."""
    if p is None:
        return "–"
    return decimals(p, 3) if p >= 0.0005 else f"{p:.1g}"


def _estimate(summary: Mapping[str, Any], key: str) -> Estimate | None:
    value = summary.get(key)
    if not isinstance(value, int | float):
        return None
    ends = (summary.get("intervals") or {}).get(key)
    if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
        return Estimate(float(value))
    return Estimate(float(value), *(float(end) for end in ends))


def _low(own: Any) -> float:
    """The lower end of ΔNLL; what changed nothing, as an empty region does, is known to be 0 without an interval."""
    if "why" in own and own.why.iloc[0] == "nothing changed":
        return 0.0
    return float(own.delta_low.iloc[0]) if "delta_low" in own else NAN


def _deactivated(run: Run) -> Iterator[Deactivated]:
    if "perplexity" not in run.tables:
        return
    table = run.table("perplexity")
    for code in run.languages:
        own = table[(table.deactivated == code) & (table.language == code)]
        if own.empty:
            continue
        others = table[(table.deactivated == code) & (table.language != code)]
        control = table[(table.deactivated == OWN_AND_CONTROL) & (table.language == code)]
        yield Deactivated(
            code,
            float(own.increase_percent.iloc[0]),
            _low(own),
            tuple(others.increase_percent.astype(float)),
            tuple(control.increase_percent.astype(float)),
            float(control.delta_nll.max()) if len(control) and "delta_nll" in control else NAN,
            int(own.documents.iloc[0]) if "documents" in own else 0,
        )
