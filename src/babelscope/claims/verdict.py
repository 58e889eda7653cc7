"""From estimates, intervals and controls to a verdict: holds, does not hold, or cannot be decided, and why.

A part's interval [lo, hi] is at level 1 − 0.05/m for m parts; δ > 0 is the least effect of the claim's file, u the
97.5 % point of the control draws on the same scale; the bar is b = max(δ, u). `greater` holds where lo > b and does not
where hi ≤ b; `less` is the same with every sign turned; `equal` holds where −δ < lo and hi < δ, and does not where the
interval lies wholly outside; `not less` (of quality: no worse) holds where lo > −δ and does not where hi ≤ −δ. A part
without interval or control, or with an interval of width 0, is never decided. The verdict is computed from the parts
alone: never from the reported value or a p-value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, isfinite, isnan, nan
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from babelscope.errors import InputError
from babelscope.stats import mean_ends, t_ends, wilson

Rule = Literal["greater", "less", "equal", "not less"]
Answer = Literal["holds", "does not hold", "cannot be decided"]
Aggregate = Literal["all", "most"]

NO_N_IN_REACH = 20
"""half widths: an estimate nearer to the bar than this share of its half width would need a hopeless n"""


@dataclass(frozen=True)
class Part:
    """One number that a claim is about."""

    name: str
    estimate: float
    low: float
    high: float
    """ends of the interval at level 1 − 0.05/m; NaN where there is none"""
    n: int
    unit: str
    """of n: sentences, documents, prompts, …"""
    control: float = 0.0
    """u, the 97.5 % point of the control draws (for `less`: the 2.5 % point); 0 where the null is subtracted already"""
    why: str = ""
    """why there is no interval, or why the part cannot be read at all (a precondition)"""
    exact: bool = False
    """known without sampling, by construction: the same weights at every point of a sweep do not differ"""


@dataclass(frozen=True)
class Verdict:
    """An answer with its reason where it is none."""

    answer: Answer
    reason: str = ""
    needed: int | None = None
    """the n that would decide four times in five, where it is in reach"""


def same_point(name: str, n: int, unit: str) -> Part:
    """The same weights first and last: the difference is 0, and nobody has to draw for it."""
    return Part(name, 0.0, 0.0, 0.0, n, unit, 0.0, "the same weights at every point: 0 by construction", exact=True)


def unread(name: str, n: int, unit: str, why: str) -> Part:
    """A part of which nothing can be said, and why: a precondition, too few items."""
    return Part(name, nan, nan, nan, n, unit, 0.0, why)


def not_above_chance(right: Mapping[str, tuple[int, int]], word: str = "in") -> str:
    """The precondition that is not met by those whose right answers of all may be half or fewer; empty if none.

    >>> not_above_chance({"en": (30, 40), "zh": (22, 40)})
    'precondition: the task is not done above chance in zh'
    """
    poor = [name for name, counts in right.items() if not wilson(*counts).low > 0.5]
    return f"precondition: the task is not done above chance {word} {', '.join(poor)}" if poor else ""


def judge(part: Part, rule: Rule, least_effect: float) -> Verdict:
    """The verdict on one part.

    Raises InputError for a least effect that is not positive, or an unknown rule.

    >>> judge(Part("SADS", 0.03, 0.027, 0.034, 100, "sentences", control=0.0014), "greater", 0.005).answer
    'holds'
    >>> judge(Part("SADS", 0.006, 0.003, 0.009, 100, "sentences"), "greater", 0.005).answer
    'cannot be decided'
    """
    if not least_effect > 0:
        raise InputError(f"the least effect of a claim is a number above 0, not {least_effect}")
    if isnan(part.low) or isnan(part.high) or not isfinite(part.estimate):
        return Verdict("cannot be decided", part.why or "no interval")
    if isnan(part.control):
        return Verdict("cannot be decided", "no control")
    if abs(part.high - part.low) <= 1e-9 * least_effect and not part.exact:  # what is left of equal draws is rounding
        return Verdict("cannot be decided", "every draw is the same: no interval")
    if rule == "equal":
        if -least_effect < part.low and part.high < least_effect:
            return Verdict("holds")
        if part.low >= least_effect or part.high <= -least_effect:
            return Verdict("does not hold")
        return _undecided(part, least_effect if part.estimate >= 0 else -least_effect)
    if rule == "not less":
        if part.low > -least_effect:
            return Verdict("holds")
        return Verdict("does not hold") if part.high <= -least_effect else _undecided(part, -least_effect)
    if rule not in ("greater", "less"):
        raise InputError(f"there is no rule {rule!r}; rules: greater, less, equal, not less")
    sign = 1 if rule == "greater" else -1
    low, high = sorted((sign * part.low, sign * part.high))
    bar = max(least_effect, sign * part.control)
    if low > bar:
        return Verdict("holds")
    if high <= bar:
        return Verdict("does not hold")
    return _undecided(part, sign * bar)


def _undecided(part: Part, bar: float) -> Verdict:
    """Too few: the half width w shrinks with √n, so 2n·(w / |θ − b|)² decides four times in five."""
    half, distance = (part.high - part.low) / 2, abs(part.estimate - bar)
    if distance < half / NO_N_IN_REACH:
        return Verdict("cannot be decided", f"too few: n = {part.n} {part.unit}, half width {half:.3g}; no n in reach")
    needed = ceil(2 * part.n * (half / distance) ** 2)
    return Verdict(
        "cannot be decided",
        f"too few: n = {part.n} {part.unit}, half width {half:.3g}; {needed} would decide four times in five",
        needed,
    )


def aggregate(verdicts: Mapping[str, Verdict], how: Aggregate = "all") -> Verdict:
    """One verdict from those of the parts.

    `all`: holds when each does, does not when one does not. `most`: holds when more than half do, does not when that
    can no longer be reached. Raises InputError without parts.
    """
    if not verdicts:
        raise InputError("a claim has at least one part")
    names: dict[Answer, list[str]] = {"holds": [], "does not hold": [], "cannot be decided": []}
    for name, verdict in verdicts.items():
        names[verdict.answer].append(name)
    if how == "all":
        if names["does not hold"]:
            return Verdict("does not hold", f"not in {', '.join(names['does not hold'])}" if len(verdicts) > 1 else "")
        if not names["cannot be decided"]:
            return Verdict("holds")
    else:
        if 2 * len(names["holds"]) > len(verdicts):
            return Verdict("holds")
        if 2 * (len(names["holds"]) + len(names["cannot be decided"])) <= len(verdicts):
            return Verdict("does not hold", f"not in {', '.join(names['does not hold'])}")
    open_parts = names["cannot be decided"]
    reasons = [
        f"{name}: {verdicts[name].reason}" if len(verdicts) > 1 else verdicts[name].reason for name in open_parts
    ]
    needed = [verdicts[name].needed for name in open_parts]
    known = [n for n in needed if n is not None]
    return Verdict("cannot be decided", "; ".join(reasons[:3]), max(known) if len(known) == len(needed) else None)


def with_twin(original: Verdict, twin: Verdict) -> Verdict:
    """The verdict that may be shown: withheld where a destroyed twin holds, undecided where the twin is."""
    if twin.answer == "holds":
        return Verdict("cannot be decided", "withheld: the twin, in which the structure is destroyed, holds too")
    if twin.answer == "cannot be decided" and original.answer != "cannot be decided":
        reason = f"twin undecided: the same n could not have told a false claim from a true one ({twin.reason})"
        return Verdict("cannot be decided", reason, twin.needed)
    return original


def ends(draws: ArrayLike, parts: int) -> tuple[float, float]:
    """Percentile ends of bootstrap draws at level 1 − 0.05 / parts; NaN where a draw is missing, or there is none.

    >>> ends(range(1001), 1)
    (25.0, 975.0)
    """
    values = np.asarray(draws, dtype=float)
    if not values.size:
        return nan, nan
    tail = 0.025 / parts
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def spread_ends(estimate: float, draws: ArrayLike, n: int, parts: int) -> tuple[float, float]:
    """Estimate ± t times the spread of bootstrap draws, at level 1 − 0.05 / parts; NaN of draws that do not vary.

    For few draws, whose extreme percentiles would be their ends, and for numbers that resampling shifts.

    >>> low, high = spread_ends(1.0, [0.0, 0.5, 1.0], 30, 1)
    >>> round(low, 2), round(high, 2)
    (-1.15, 3.15)
    """
    values = np.asarray(draws, dtype=float)
    low, high = t_ends(estimate, values.std(ddof=1), min(n, values.size) - 1, 1 - 0.05 / parts)
    return float(low), float(high)


def mean_part(
    name: str, values: ArrayLike, unit: str, parts: int, control: float = 0.0, within: tuple[float, float] | None = None
) -> Part:
    """Mean over independent items with its bootstrap-t interval at level 1 − 0.05 / parts.

    Equal items have no spread: where they are known to lie `within` bounds, a share 1 − (0.025/parts)^(1/n) of all may
    be others, at worst at a bound; else there is no interval.

    >>> mean_part("x", [2.0] * 40, "concepts", 1, within=(-4.0, 4.0)).low > 1.4
    True
    """
    items = np.asarray(values, dtype=float)
    mean = float(items.mean()) if items.size else float("nan")
    low, high = (float(end) for end in mean_ends(items, 2000, level=1 - 0.05 / parts))
    why = ""
    if items.size and isnan(mean):
        why = f"not every one of {items.size} {unit} has a number"
    elif isnan(low):
        why = f"every one of {items.size} {unit} gives the same" if items.size > 1 else f"fewer than two {unit}"
        if within is not None and items.size > 1:
            others = 1 - (0.025 / parts) ** (1 / items.size)
            low, high = mean - others * (mean - within[0]), mean + others * (within[1] - mean)
    return Part(name, mean, low, high, int(items.size), unit, control, why)
