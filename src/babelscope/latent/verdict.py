"""What the curves of one candidate language amount to (section 1, "Verdict"): five outcomes, in order.

not decidable · no sign · passes through · readable, no detour · undecided
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from babelscope.latent.inference import Band
from babelscope.stats import Interval, wilson

Outcome = Literal["not decidable", "no sign", "passes through", "readable, no detour", "undecided"]
LEAST_SOLVED, LEAST_ACCURACY = 30, 0.2
LEAST_EXCESS = 0.01
"""excess below which nothing is called a sign (`--least`)"""
LEVEL = 0.05
HALF = 0.5


@dataclass(frozen=True)
class Accuracy:
    """How many concepts are solved, with Wilson's interval."""

    solved: int
    asked: int

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the share, 0 and 1 where nothing was asked."""
        found = wilson(self.solved, self.asked)
        return (found.low, found.high) if self.asked else (0.0, 1.0)


@dataclass(frozen=True)
class Evidence:
    """All that a verdict on one candidate rests on."""

    language: str
    accuracy: Accuracy
    concepts: int
    """solved and comparable"""
    inner: Band
    """e_k over layers 1 … L−1"""
    curve: NDArray[np.float64]
    """mean e_k over all layers 0 … L"""
    target: NDArray[np.float64]
    """mean e_b over all layers"""
    strength: Interval
    """A_k"""
    p: float
    """adjusted over candidates"""
    against: Mapping[str, Interval]
    """A_k − A_j of every other candidate"""
    over_target: Band
    """e_k − e_b over layers 1 … L−1"""
    frequency: Interval
    """A_k under control 1"""
    geometry: Interval
    """A_k under control 2"""
    matched: float
    """95 % quantile of A_k under control 3"""


@dataclass(frozen=True)
class Verdict:
    """The outcome, and for a candidate that is readable but no detour what failed."""

    outcome: Outcome
    failed: tuple[str, ...] = ()
    why: str = ""


def decide(evidence: Evidence, least: float = LEAST_EXCESS, solved: int = LEAST_SOLVED) -> Verdict:
    """The rules in order; NaN fulfils no condition.

    `solved`: concepts that must be solved for anything to be decided.
    """
    low, _ = evidence.accuracy.interval
    if evidence.accuracy.solved < solved:
        return Verdict("not decidable", why=f"{evidence.accuracy.solved} concepts solved, {solved} are needed")
    if low < LEAST_ACCURACY:
        return Verdict("not decidable", why=f"accuracy may be as low as {low:.2f}, {LEAST_ACCURACY} is needed")
    if evidence.concepts < solved:
        return Verdict("not decidable", why=f"{evidence.concepts} solved concepts can be compared, {solved} are needed")
    inner = evidence.inner
    # a layer that gives every concept the very same excess has no interval: there the value itself is compared
    if bool((np.where(np.isnan(inner.high), inner.value, inner.high) < least).all()):
        return Verdict("no sign", why=f"simultaneous upper end below {least:g} in every layer")
    if not _readable(evidence):
        return Verdict("undecided", why="; ".join(_unreadable(evidence)))
    failed = tuple(_failing(evidence))
    return Verdict("readable, no detour", failed, "; ".join(failed)) if failed else Verdict("passes through")


def _readable(evidence: Evidence) -> bool:
    return evidence.strength.low > 0 and evidence.p < LEVEL


def _unreadable(evidence: Evidence) -> list[str]:
    strength = "" if evidence.strength.low > 0 else "the interval of A reaches 0"
    chance = "" if evidence.p < LEVEL else f"p = {evidence.p:.2g} against permuted concepts"
    return [reason for reason in (strength, chance) if reason]


def _failing(evidence: Evidence) -> list[str]:
    rivals = [code for code, ends in evidence.against.items() if not ends.low > 0]
    top = float(np.nanmax(evidence.inner.value))
    checks = (
        (not rivals, f"A is not above that of {', '.join(rivals)}"),
        (bool((evidence.over_target.low > 0).any()), "its excess is above the target's in no layer"),
        (float(evidence.curve[-1]) <= HALF * top, "its excess at the last layer is above half of its peak"),
        (evidence.frequency.low > 0, "nothing is left against words of like frequency"),
        (evidence.geometry.low > 0, "nothing is left without the directions of source and target"),
        (evidence.strength.value > evidence.matched, "rows of matched spectrum give as much"),
    )
    return [reason for holds, reason in checks if not holds]


def sentence(
    model: str,
    source: str,
    target: str,
    accuracy: Accuracy,
    found: Mapping[str, tuple[Evidence, Verdict]],
    task: str = "translation",
) -> str:
    """The first sentence of the page: what the model does, or that it cannot be decided."""
    from babelscope.languages import language

    def named(code: str) -> str:
        return language(code).name

    low, high = accuracy.interval
    doing = {
        "repetition": f"Repeating {named(source)}",
        "cloze": f"Filling gaps in {named(target)}",
        "sentence": f"Translating {named(source)} sentences to {named(target)}",
    }.get(task, f"Translating {named(source)} to {named(target)}")
    solves = f"{doing}, {model} solves {accuracy.solved} of {accuracy.asked} concepts"
    if not found or all(verdict.outcome == "not decidable" for _, verdict in found.values()):
        reasons = list(dict.fromkeys(verdict.why for _, verdict in found.values()))
        share = accuracy.solved / accuracy.asked if accuracy.asked else float("nan")
        because = f" ({'; '.join(reasons)})" if reasons else ""
        interval = f"({100 * share:.0f} %, {100 * low:.0f} to {100 * high:.0f} %)"
        return f"{solves} {interval}; which language it passes through cannot be decided{because}."
    order: tuple[Outcome, ...] = ("passes through", "readable, no detour")
    for outcome in order:
        best = [code for code, (_, verdict) in found.items() if verdict.outcome == outcome]
        if best:
            code = max(best, key=lambda one: found[one][0].strength.value)
            evidence, verdict = found[code]
            verb = "passes through" if outcome == order[0] else "lets"
            rest = "" if outcome == order[0] else f" be read, no detour ({verdict.why})"
            return f"{solves} and {verb} {named(code)}{rest}: {_at_peak(evidence, named(code), named(target))}."
    silent = [code for code, (_, verdict) in found.items() if verdict.outcome == "no sign"]
    if len(silent) == len(found):
        return f"{solves} and shows no sign of {_listed([named(code) for code in silent])}."
    few = [named(code) for code, (_, verdict) in found.items() if verdict.outcome == "not decidable"]
    open_ones = [named(code) for code, (_, verdict) in found.items() if verdict.outcome == "undecided"]
    parts = [f"shows no sign of {_listed([named(code) for code in silent])}"] if silent else []
    parts += [f"is undecided about {_listed(open_ones)}"] if open_ones else []
    parts += [f"has too few concepts to decide about {_listed(few)}"] if few else []
    return f"{solves} and {_listed(parts)}."


def thinks_in(model: str, outcomes: Sequence[Outcome], code: str = "en") -> str:
    """What the pairs of languages together say about one candidate, in one sentence.

    >>> thinks_in("M", ["no sign", "no sign", "undecided"])
    'M does not think in English as far as the lens sees: of 3 pairs of other languages 2 show no sign of it, 1 is \
undecided.'
    """
    from babelscope.languages import language

    name, pairs = language(code).name, len(outcomes)
    counted = {outcome: list(outcomes).count(outcome) for outcome in get_args(Outcome)}
    through, read, silent = counted["passes through"], counted["readable, no detour"], counted["no sign"]
    among = f"{pairs} pairs of other languages" if pairs != 1 else "1 pair of other languages"
    said = (
        (silent, "shows no sign of it", "show no sign of it"),
        (read, "lets it be read without a detour", "let it be read without a detour"),
        (counted["undecided"], "is undecided", "are undecided"),
        (counted["not decidable"], "has too few solved concepts to tell", "have too few solved concepts to tell"),
    )
    if through:
        others = [_counted(count, one, more) for count, one, more in ((read + silent, "does not", "do not"), *said[2:])]
        told = ", ".join(filter(None, others))
        return f"{model} passes through {name} in {through} of {among}{'; ' if told else ''}{told}."
    told = ", ".join(filter(None, (_counted(count, one, more) for count, one, more in said)))
    if 2 * (silent + read) > pairs:
        return f"{model} does not think in {name} as far as the lens sees: of {among} {told}."
    return f"Whether {model} thinks in {name} cannot be decided: of {among} {told}."


def _counted(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}" if count else ""


def _at_peak(evidence: Evidence, own: str, target: str) -> str:
    from babelscope.latent.excess import handover

    layer = int(np.nanargmax(evidence.inner.value))
    band = evidence.inner
    taken = handover(evidence.curve, evidence.target)
    after = f"{target} takes over at layer {taken}" if taken is not None else f"{target} does not take over"
    return (
        f"at layer {layer + 1} the {own} word gains {band.value[layer]:.3f} "
        f"({band.low[layer]:.3f} to {band.high[layer]:.3f}) over controls; {after}"
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
