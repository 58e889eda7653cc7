"""What claims about the past tense measure: what English loses more than Chinese without an FFN, or without heads.

Heads and windows are chosen on half of the verbs and taken out on the other half. Verbs are the unit: prompts with one
verb and other time words count once. Strata are never averaged: English is its irregular verbs; Chinese verb copy, and
aspect beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from babelscope.circuits.core.changes import Part as Node
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.ablation import ablated_answers, matched_random, windows
from babelscope.circuits.patching.methods import path_patching
from babelscope.circuits.patching.selection import select
from babelscope.claims.case import Case, named_model
from babelscope.claims.verdict import Part, mean_part, not_above_chance, unread
from babelscope.models import Model
from babelscope.stats import welch_t
from babelscope.tasks import PromptPair, build

Array = NDArray[np.float64]
ENGLISH, COPY, ASPECT = ("en", "irregular"), ("zh", "copy"), ("zh", "aspect")
STRATA = (ENGLISH, COPY, ASPECT)
WIDTHS = (1, 3, 5)
"""layers of a window of FFNs"""
MUCH_MORE = 2.0
"""a head of the past tense is moved so many times more by the tense flip than by the swap of verbs"""


@dataclass(frozen=True)
class _Tested:
    """Prompts of one stratum that nothing was chosen on, with each set of nodes taken out."""

    verbs: NDArray[np.int64]
    difference: Array
    """[set, prompt]: logit difference; the first set is empty"""
    probability: Array
    """[set, prompt]: of the answer"""


def ffn_windows(case: Case) -> list[Part]:
    """Change of LD without a window of FFNs, as a share of LD, English minus Chinese copy (and aspect) (`less`).

    Control: the 2.5 % point over all windows of 1, 3 and 5 layers. Twin: English and Chinese verbs dealt anew.
    """
    model = named_model(case.models[0])
    sets = tuple(tuple(nodes) for width in WIDTHS for nodes in windows(model, width))
    choosing, testing = (_taken_out(case, sets, half) for half in (0, 1))
    names = ["against copy", "against aspect"]
    if why := _unsolved(testing):
        return [unread(name, case.n, "prompts", why) for name in names]
    parts: list[Part] = []
    for name, rival in zip(names, (COPY, ASPECT)):
        chosen = int(np.argmin(_by_set(choosing[ENGLISH], choosing[rival])))
        own, other = testing[ENGLISH], testing[rival]
        if case.twin == "languages":
            own, other = _exchanged(own, other, case.seed)
        bar = float(np.quantile(_by_set(own, other), 0.025))
        parts.append(difference(name, _shares(own, chosen), _shares(other, chosen), 2, bar))
    return parts


def heads_of_tense(case: Case) -> list[Part]:
    """Without the heads that the tense flip moves much more than the swap of verbs: change of LD, a share of LD,
    English minus Chinese (`less`); without those that the swap moves: fall of the answer's probability in each.

    Heads act directly on the logits of the verbs they are chosen by, beyond two deviations over all heads (the paper's
    rule); each half of the verbs is tried without the heads that the other half chose. Control: other heads of the same
    layers. Twin: heads drawn from the same layers stand in their place.
    """
    names = [f"heads of the past tense against {stratum}" for _, stratum in (COPY, ASPECT)]
    names += ["copy heads en", "copy heads zh"]
    halves = [_without_heads(case, half) for half in (0, 1)]
    if any(isinstance(half, str) for half in halves):
        why = next(half for half in halves if isinstance(half, str))
        return [unread(name, case.n, "prompts", why) for name in names]
    first, second = (half for half in halves if not isinstance(half, str))
    parts: list[Part] = []
    for name, rival in zip(names, (COPY, ASPECT)):
        null = [
            np.mean([half.by_set(ENGLISH, rival)[draw] for half in (first, second)])
            for draw in range(min(first.random_tense, second.random_tense))
        ]
        own, other = (
            np.concatenate([_shares(half.tested[one], 0) for half in (first, second)]) for one in (ENGLISH, rival)
        )
        parts.append(difference(name, own, other, 4, float(np.quantile(null, 0.025))))
    for name, stratum in zip(names[2:], (ENGLISH, COPY)):
        null = [
            np.mean([half.falls(stratum)[1 + draw].mean() for half in (first, second)]) for draw in range(case.draws)
        ]
        fall = np.concatenate([half.falls(stratum)[0] for half in (first, second)])
        parts.append(mean_part(name, fall, "verbs", 4, float(np.quantile(null, 0.975)), (-1.0, 1.0)))
    return parts


@dataclass(frozen=True)
class _Half:
    """Half of the verbs without the heads that the other half chose: of the past tense, copying, then random ones."""

    tested: Mapping[tuple[str, str], _Tested]
    random_tense: int
    """sets like the heads of the past tense; those like the copying ones follow"""

    def by_set(self, one: tuple[str, str], other: tuple[str, str]) -> Array:
        """What each random set takes from one stratum more than from another, shares of LD."""
        return _by_set(self.tested[one], self.tested[other])[2 : 2 + self.random_tense]

    def falls(self, stratum: tuple[str, str]) -> list[Array]:
        """Fall of the answer's probability by verb: without the copying heads, then without each set like them."""
        found = self.tested[stratum]
        places = [2, *range(3 + self.random_tense, len(found.probability))]
        return [_by_verb(found, found.probability[0] - found.probability[place]) for place in places]


def _without_heads(case: Case, half: int) -> _Half | str:
    """Verbs of the half without heads chosen on the other; or why nothing can be read."""
    tense, copying = _chosen_heads(case.models[0], case.n, case.seed, 1 - half)
    if not tense or not copying:
        return "precondition: no head acts directly under one of the corruptions"
    model = named_model(case.models[0])
    drawn = [matched_random(model, heads, case.draws + 1, case.seed) for heads in (tense, copying)]
    if any(len(some) < 2 for some in drawn):
        return "too few other heads in the same layers: no control"
    if case.twin == "heads":
        tense, copying = (tuple(some[0]) for some in drawn)
    like = [some[1:] for some in drawn]  # the first stands in for the chosen ones in the twin
    like[1] = [like[1][draw % len(like[1])] for draw in range(case.draws)]
    sets = (tense, copying, *(tuple(some) for other in like for some in other))
    tested = _taken_out(case, sets, half)
    return _unsolved(tested) or _Half(tested, len(like[0]))


@lru_cache(4)
def _prompts(model: str, n: int, seed: int, corruption: str) -> Mapping[tuple[str, str], list[PromptPair]]:
    tokenizer = named_model(model).tokenizer
    found: dict[tuple[str, str], list[PromptPair]] = {}
    for code, strata in (("en", 3), ("zh", 2)):
        for pair in build("past-tense", tokenizer, code, n=strata * n, limit=20 * n, seed=seed, corruption=corruption):
            found.setdefault((code, pair.stratum), []).append(pair)
    return found


def _half(pairs: Sequence[PromptPair], half: int, seed: int) -> list[PromptPair]:
    """Prompts of every other verb, in an order of the seed."""
    verbs = sorted({pair.scene["verb"] for pair in pairs})
    order = np.random.default_rng(seed).permutation(len(verbs))
    chosen = {verbs[place] for place in order[half::2]}
    return [pair for pair in pairs if pair.scene["verb"] in chosen]


def _taken_out(case: Case, sets: tuple[tuple[Node, ...], ...], half: int) -> dict[tuple[str, str], _Tested]:
    prompts = _prompts(case.models[0], case.n, case.seed, "tense-flip")
    model = named_model(case.models[0])
    found: dict[tuple[str, str], _Tested] = {}
    for stratum in STRATA:
        pairs = _half(prompts[stratum], half, case.seed)
        found[stratum] = _Tested(
            np.array([pair.scene["verb"] for pair in pairs], dtype=np.int64), *_answers(model, tuple(pairs), sets)
        )
    return found


def _answers(model: Model, pairs: tuple[PromptPair, ...], sets: tuple[tuple[Node, ...], ...]) -> tuple[Array, Array]:
    difference, logged = ablated_answers(model, pairs, [(), *sets], "mean", range(1 + len(sets)))
    return difference, np.exp(logged[:, 0])


@lru_cache(4)
def _chosen_heads(name: str, n: int, seed: int, half: int) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """Heads that only the tense flip moves in English, and those that the swap of verbs moves in either language."""
    model = named_model(name)
    swapped: dict[tuple[str, str], dict[Head, float]] = {}
    tense: dict[Head, float] = {}
    copying: list[Head] = []
    for stratum in (ENGLISH, COPY):
        pairs = _half(_prompts(name, n, seed, "verb-swap")[stratum], half, seed)
        effects = path_patching(model, pairs)
        swapped[stratum] = {
            node: float(value) for node, value in zip(effects.senders, effects.effect) if isinstance(node, Head)
        }
        chosen = select(effects, "deviation").nodes
        copying += [node for node in chosen if isinstance(node, Head) and swapped[stratum][node] < 0]
    effects = path_patching(model, _half(_prompts(name, n, seed, "tense-flip")[ENGLISH], half, seed))
    for node in select(effects, "deviation").nodes:
        value = float(effects.of(node))
        if isinstance(node, Head) and value < 0 and abs(value) > MUCH_MORE * abs(swapped[ENGLISH][node]):
            tense[node] = value
    return tuple(sorted(tense)), tuple(sorted(set(copying) - set(tense)))


def _shares(found: _Tested, place: int) -> Array:
    """Change of LD without a set by verb, a share of the whole model's LD, linearised: both means are of prompts."""
    whole = _by_verb(found, found.difference[0])
    change = _by_verb(found, found.difference[1 + place]) - whole
    unit = abs(float(whole.mean())) or float("nan")
    share = float(change.mean()) / unit
    return share + (change - share * np.sign(whole.mean()) * whole) / unit


def _by_verb(found: _Tested, values: Array) -> Array:
    return np.array([values[found.verbs == verb].mean() for verb in np.unique(found.verbs)])


def _by_set(own: _Tested, other: _Tested) -> Array:
    return np.array([_shares(own, k).mean() - _shares(other, k).mean() for k in range(len(own.difference) - 1)])


def _exchanged(own: _Tested, other: _Tested, seed: int) -> tuple[_Tested, _Tested]:
    """Verbs of both languages dealt anew, as many to each; LD in shares of its language's, so that they compare."""
    both: list[tuple[int, int]] = [(0, verb) for verb in np.unique(own.verbs)]
    both += [(1, verb) for verb in np.unique(other.verbs)]
    dealt = np.random.default_rng(seed).permutation(len(both))
    sides = (own, other)
    scaled = [side.difference / abs(side.difference[0].mean()) for side in sides]
    made: list[_Tested] = []
    for places in (dealt[: len(np.unique(own.verbs))], dealt[len(np.unique(own.verbs)) :]):
        columns: list[tuple[int, NDArray[np.intp]]] = []
        for side, verb in (both[place] for place in places):
            columns.append((side, np.flatnonzero(sides[side].verbs == verb)))
        verbs = np.concatenate([np.full(len(at), number, dtype=np.int64) for number, (_, at) in enumerate(columns)])
        difference = np.concatenate([scaled[side][:, at] for side, at in columns], axis=1)
        probability = np.concatenate([sides[side].probability[:, at] for side, at in columns], axis=1)
        made.append(_Tested(verbs, difference, probability))
    return made[0], made[1]


def difference(
    name: str,
    own: Array,
    other: Array,
    parts: int,
    control: float,
    unit: str = "verbs",
    within: tuple[float, float] | None = None,
) -> Part:
    """Mean of one sample minus that of another, independent one (Welch's t). Samples without spread have an interval
    only where items are known to lie `within` bounds, as in `mean_part`."""
    found = welch_t(own, [other], level=1 - 0.05 / parts)
    low, high, n = found.low, found.high, min(len(own), len(other))
    if within is not None and np.isnan(low) and n > 1:
        reach = (1 - (0.0125 / parts) ** (1 / n)) * (within[1] - within[0])
        low, high = found.value - reach, found.value + reach
    return Part(name, found.value, low, high, n, unit, control, found.why)


def _unsolved(tested: Mapping[tuple[str, str], _Tested]) -> str:
    right = {
        " ".join(stratum): (int((found.difference[0] > 0).sum()), found.difference.shape[1])
        for stratum, found in tested.items()
    }
    return not_above_chance(right)
