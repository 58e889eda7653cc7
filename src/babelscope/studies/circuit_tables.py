"""The tables of a circuits study, each from results that were already computed or computed here for that table alone.

P pair · L layer · H head
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from babelscope.circuits.core.cache import run
from babelscope.circuits.core.changes import Part
from babelscope.circuits.core.faithfulness import Scored, score
from babelscope.circuits.core.metrics import Behaviour as Seen
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.core.statistics import correlate, unit_of
from babelscope.circuits.heads.ablation import NodeSpace, ablated_answers, matched_random
from babelscope.circuits.heads.dla import promoted
from babelscope.models import Model
from babelscope.models.workers import Tell, over_workers
from babelscope.proportions import change_of_share
from babelscope.results.schemas.circuit_edges import Correlated
from babelscope.results.schemas.circuits import (
    Ablation,
    Behaviour,
    CrossFaithfulness,
    HeadFaithfulness,
    HeldoutBehaviour,
    Promoted,
    Selective,
)
from babelscope.stats import bootstrap_mean, welch_t, wilson
from babelscope.tasks import PromptPair

Array = NDArray[np.float64]

PAIRED = 10
"""fewest items that two languages must share for their difference to be taken item by item"""


def behaviour_rows(language: str, pairs: Sequence[PromptPair], seen: Seen) -> list[Behaviour]:
    """One row per split and stratum; strata are never averaged together."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault((pair.split, pair.stratum), []).append(place)
    return [
        Behaviour(language=language, split=split, stratum=stratum, seen=seen.row(places))
        for (split, stratum), places in sorted(groups.items())
    ]


def heldout_rows(language: str, pairs: Sequence[PromptPair], seen: Seen) -> list[HeldoutBehaviour]:
    """The same by half: items that are kept for evaluation, and those that are not."""
    groups: dict[tuple[str, str, bool], list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault((pair.split, pair.stratum, pair.heldout), []).append(place)
    return [
        HeldoutBehaviour(language=language, split=split, stratum=stratum, heldout=heldout, seen=seen.row(places))
        for (split, stratum, heldout), places in sorted(groups.items())
    ]


@dataclass(frozen=True)
class AblationSet:
    """Nodes that are removed together."""

    name: str
    nodes: tuple[Part, ...]
    found_in: str = ""
    draw: int = -1


def ablation_rows(
    model: Model, language: str, pairs: Sequence[PromptPair], sets: Sequence[AblationSet], kind: str, seed: int
) -> tuple[list[Ablation], Array]:
    """Accuracy and logit difference without each set, stratum by stratum, with paired intervals; and LD [set, P].

    `low` and `high` bound the accuracy (Wilson), `delta_*` its change over the same prompts (score), `ld_*`
    the logit difference.
    Mean probabilities of target and foil (in tense: of the past and the base form) are taken for the sets that are
    not random draws.
    """
    told = [place for place, each in enumerate(sets, start=1) if each.draw < 0]
    scores, logged = ablated_answers(model, pairs, [(), *(each.nodes for each in sets)], kind, told)
    strata = sorted({pair.stratum for pair in pairs})
    rows: list[Ablation] = []
    for each, after, answers in zip(sets, scores[1:], logged[1:]):
        for stratum in strata:
            at = [place for place, pair in enumerate(pairs) if pair.stratum == stratum]
            row = _ablation_row(each, language, stratum, scores[0][at], after[at], seed)
            target, foil = np.exp(answers[:, at]).mean(1).tolist()
            rows.append(replace(row, target_probability=target, foil_probability=foil))
    return rows, scores


def _ablation_row(each: AblationSet, language: str, stratum: str, before: Array, after: Array, seed: int) -> Ablation:
    accuracy = wilson(int((after > 0).sum()), len(after))
    delta = change_of_share(before > 0, after > 0)
    change = bootstrap_mean(after - before, seed=seed)
    return Ablation(
        set_=each.name, found_in=each.found_in, language=language, stratum=stratum, size=len(each.nodes),
        n=len(after), accuracy=accuracy.value, low=accuracy.low, high=accuracy.high, delta=delta.value,
        delta_low=delta.low, delta_high=delta.high, logit_difference=float(after.mean()), ld_delta=change.value,
        ld_delta_low=change.low, ld_delta_high=change.high, draw=each.draw,
    )  # fmt: skip


def selectivity_rows(
    sets: Sequence[AblationSet], scores: Mapping[str, Array], prompts: Mapping[str, Sequence[PromptPair]], seed: int
) -> list[Selective]:
    """Change of LD, relative to the whole model's, in one language minus another; paired where enough items are shared.

    Strata are never mixed: each pair of strata has its row, those of one language too.
    """
    rows: list[Selective] = []
    cells = [(code, stratum) for code in scores for stratum in _strata(prompts[code])]
    for (first, one), (second, other) in combinations(cells, 2):
        left, right = one[1], other[1]
        shared = sorted(set(left) & set(right))
        for place, each in enumerate(sets, start=1):
            if len(shared) >= PAIRED:
                a, b = (
                    _relative(scores[code], place, [where[item] for item in shared])
                    for code, where in ((first, left), (second, right))
                )
                interval = bootstrap_mean(a - b, seed=seed)
            else:
                a, b = (_relative(scores[c], place, list(w.values())) for c, w in ((first, left), (second, right)))
                interval = welch_t(a, [b], seed=seed)
            rows.append(Selective(
                set_=each.name, found_in=each.found_in, draw=each.draw, language=first, stratum=one[0],
                language2=second, stratum2=other[0], selectivity=interval.value, low=interval.low,
                high=interval.high, interval=interval.method, items=len(shared), paired=len(shared) >= PAIRED,
            ))  # fmt: skip
    return rows


def _strata(pairs: Sequence[PromptPair]) -> list[tuple[str, dict[int, int]]]:
    """Each stratum with the place of each of its items."""
    found: dict[str, dict[int, int]] = {}
    for place, pair in enumerate(pairs):
        found.setdefault(pair.stratum, {}).setdefault(pair.item, place)
    return sorted(found.items())


def _relative(scores: Array, row: int, places: Sequence[int]) -> Array:
    """Each prompt's part in the change of LD as a share of the whole model's, linearised: both means are of prompts."""
    whole = scores[0][list(places)]
    change = scores[row][list(places)] - whole
    unit = abs(unit_of(whole)) or np.nan
    share = float(change.mean()) / unit
    return share + (change - share * np.sign(whole.mean()) * whole) / unit


@torch.no_grad()
def promoted_rows(
    model: Model, language: str, pairs: Sequence[PromptPair], heads: Sequence[Head], top: int
) -> list[Promoted]:
    """The words that each head's own output promotes most at END, mean over (at most 64 of) the prompts."""
    if not heads:
        return []
    total, count = torch.zeros(len(heads), model.vocabulary), 0
    groups: dict[int, list[PromptPair]] = {}
    for pair in pairs[:64]:
        groups.setdefault(len(pair.clean), []).append(pair)
    for group in groups.values():
        seen = run(model, torch.tensor([pair.clean for pair in group], device=model.device), mlps=False)
        total += promoted(model, seen, heads).float().cpu() * len(group)
        count += len(group)
    values, words = (total / count).topk(min(top, model.vocabulary))
    return [
        Promoted(
            language=language, layer=node.layer, head=node.head, rank=rank + 1,
            token=model.tokenizer.decode([int(words[place, rank])]), token_id=int(words[place, rank]),
            attribution=float(values[place, rank]),
        )
        for place, node in enumerate(heads)
        for rank in range(values.shape[1])
    ]  # fmt: skip


def correlation_rows(matrices: Mapping[str, Mapping[str, Array]], permutations: int, seed: int) -> list[Correlated]:
    """Per measure and pair of languages: Pearson and Spearman with the layer-stratified permutation null."""
    rows: list[Correlated] = []
    for measure, by_language in matrices.items():
        codes = [code for code, matrix in by_language.items() if np.isfinite(matrix).any()]
        for first, second in ((a, b) for i, a in enumerate(codes) for b in codes[i + 1 :]):
            found = correlate(by_language[first], by_language[second], permutations, seed)
            for name, value, null, p in (
                ("pearson", found.pearson, found.pearson_null, found.p),
                ("spearman", found.spearman, found.spearman_null, found.spearman_p),
            ):
                rows.append(Correlated(
                    language=first, language2=second, measure=f"{name} of {measure}", value=value, null=null, p=p
                ))  # fmt: skip
    return rows


def faithfulness_rows(
    model: Model, language: str, pairs: Sequence[PromptPair], ranked: Sequence[Head], kind: str, seed: int
) -> list[HeadFaithfulness]:
    """Faithfulness of the first k heads of the ranking, beside k heads drawn at random."""
    sizes = sorted({0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, len(ranked)} & {*range(len(ranked) + 1)})
    space = NodeSpace(model, pairs, kind)
    shuffled = [ranked[int(place)] for place in np.random.default_rng(seed).permutation(len(ranked))]
    rows: list[HeadFaithfulness] = []
    # both orders together: what they have in common, and what stands for ablated heads, is run once
    both = score(space, [space.mask(heads[:size]) for heads in (ranked, shuffled) for size in sizes])
    for order, start in (("ranking", 0), ("random", len(sizes))):
        found = replace(both, circuits=both.circuits[start : start + len(sizes)])
        rows += [
            HeadFaithfulness(
                language=language, order=order, heads=size, faithfulness=f.value, low=f.low, high=f.high
            )
            for size, f in zip(sizes, found.intervals(seed=seed))
        ]  # fmt: skip
    return rows


def _nodes_alone(
    model: Model, asked: tuple[Sequence[Collection[Head]], str]
) -> Callable[[Sequence[PromptPair], Tell], Scored]:
    """Work of `over_workers`: the prompts of one language under sets of heads, everything else ablated."""

    def scored(pairs: Sequence[PromptPair], _tell: Tell) -> Scored:
        space = NodeSpace(model, pairs, asked[1])
        return score(space, [space.mask(nodes) for nodes in asked[0]])

    return scored


def cross_rows(
    model: Model,
    prompts: Mapping[str, Sequence[PromptPair]],
    circuits: Mapping[str, Collection[Head]],
    draws: int,
    kind: str,
    seed: int,
) -> list[CrossFaithfulness]:
    """The circuit found in one language run on another's prompts, each beside random circuits of its size per layer."""
    rows: list[CrossFaithfulness] = []
    names = [code for code, heads in circuits.items() if heads]
    drawn = {code: matched_random(model, circuits[code], draws, seed) for code in names}
    every = [nodes for code in names for nodes in (circuits[code], *drawn[code])]
    units = list(prompts.values())
    for language, found in zip(prompts, over_workers(model, _nodes_alone, (every, kind), units)):
        values, intervals = found.faithfulness(), found.intervals()
        start = 0
        for code in names:
            interval, random = intervals[start], values[start + 1 : start + 1 + len(drawn[code])]
            start += 1 + len(drawn[code])
            rows.append(CrossFaithfulness(
                found_in=code, run_on=language, faithfulness=interval.value, low=interval.low, high=interval.high,
                random=float(np.mean(random)) if len(random) else np.nan,
                random_low=float(np.quantile(random, 0.025)) if len(random) else np.nan,
                random_high=float(np.quantile(random, 0.975)) if len(random) else np.nan,
                random_sets=len(random), heads=len(circuits[code]),
                why="" if found.defined else "the whole model scores as the empty circuit",
            ))  # fmt: skip
    return rows
