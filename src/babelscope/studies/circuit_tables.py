"""The tables of a circuits study, each from results that were already computed or computed here for that table alone.

P pair · L layer · H head
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from babelscope.circuits.core.batching import Rows as PatchRows
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.metrics import Behaviour, behaviour
from babelscope.circuits.core.nodes import MLP, Head
from babelscope.circuits.core.statistics import bootstrap_mean, correlate, resampled_weights, wilson
from babelscope.circuits.heads.ablation import Ablation, Ablator, Part, ablated_differences
from babelscope.circuits.heads.dla import promoted
from babelscope.circuits.heads.knockout import faithfulness_curve, knock_out
from babelscope.circuits.heads.roles import Roles
from babelscope.circuits.patching.search import Found, Search
from babelscope.models import Model
from babelscope.models.hooks import Change, Site
from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Rows = list[dict[str, Any]]

ROLES: Mapping[str, tuple[str, str, str]] = {
    "s_inhibition": ("S-inhibition", "anti-S-inhibition", "attention END→S2"),
    "previous_token": ("previous-token", "previous-token, opposing", "previous-token"),
    "queries": ("feeds queries", "feeds queries, opposing", "writes target − foil"),
    "keys": ("feeds keys", "feeds keys, opposing", "writes target − foil"),
    "values": ("feeds values", "feeds values, opposing", "writes target − foil"),
    "values_verb": ("feeds values of the verb", "feeds values of the verb, opposing", "writes target − foil"),
    "ffn_inputs": ("feeds FFNs", "feeds FFNs, opposing", "writes target − foil"),
}
"""search step → role of its supporting heads, of its opposing heads, and the score that goes with it"""
TENSE_ROLES = ("past-tense head", "copy head", "tense and copy head")
MUCH = 2.0
"""one corruption moves a head "much more" than the other when it does so by this factor"""
AVERAGE = 0.2
"""copy scores of average heads stay below this (section 4), so no head is named after copying by less"""
PAIRED = 10
"""fewest items that two languages must share for their difference to be taken item by item"""


def behaviour_rows(language: str, pairs: Sequence[PromptPair], seen: Behaviour, by_heldout: bool = False) -> Rows:
    """One row per split and stratum (and half, kept for evaluation or not); strata are never averaged together."""
    groups: dict[tuple[str, str, bool], list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault((pair.split, pair.stratum, by_heldout and pair.heldout), []).append(place)
    return [
        {"language": language, "split": split, "stratum": stratum}
        | ({"heldout": heldout} if by_heldout else {})
        | seen.row(places)
        for (split, stratum, heldout), places in sorted(groups.items())
    ]


def role_rows(language: str, found: Search, roles: Roles) -> Rows:
    """A label for every head that the search found, with the number that earns it and the effect that found it."""
    rows: Rows = []
    for step in found.steps:
        if step.effects is None:
            continue
        low, high = step.effects.interval()
        for node in (*step.supporting, *step.opposing):
            if not isinstance(node, Head):
                continue
            role, score = label(step, node, roles, found)
            place = step.effects.senders.index(node)
            rows.append(
                {
                    "language": language,
                    "layer": node.layer,
                    "head": node.head,
                    "role": role,
                    "score": float(roles.scores[score][node.layer, node.head]) if score in roles.scores else np.nan,
                    "score_name": score,
                    "step": step.step.name,
                    "effect": step.effects.of(node),
                    "effect_low": float(low[place]),
                    "effect_high": float(high[place]),
                }
            )
    return rows


def label(step: Found, node: Head, roles: Roles, found: Search) -> tuple[str, str]:
    """Role of a head that a step found, and the name of the score that stands for it."""
    supporting = node in step.supporting
    name = step.step.name
    if name in ROLES:
        for_it, against, score = ROLES[name]
        return (for_it if supporting else against), score
    if name.endswith("name_movers"):
        return _mover(name.startswith("backup"), supporting, node, roles)
    if name == "duplicate_induction":
        kinds = [kind for kind in ("duplicate-token", "induction") if kind in roles.scores]
        best = max(kinds, key=lambda kind: roles.scores[kind][node.layer, node.head], default="duplicate-token")
        return best, best
    if name in ("direct", "direct_verb") and found.settings.get("corruptions") != ["pabc"]:
        return _tense_role(node, found)
    return name.replace("_", " "), "writes target − foil"


def _mover(backup: bool, supporting: bool, node: Head, roles: Roles) -> tuple[str, str]:
    """A head that acts on the names' logits: by copying, or by suppressing what it reads (for S, that helps)."""
    copy, negative = (roles.scores[name][node.layer, node.head] for name in ("copy", "negative copy"))
    copies = bool(copy >= negative)
    if max(copy, negative) < AVERAGE:
        name = "direct" if supporting else "direct, opposing"
    elif supporting:
        name = "name mover" if copies else "copy suppression"
    else:
        name = "name mover, opposing" if copies else "negative name mover"
    return ("backup " if backup else "") + name, "copy" if copies else "negative copy"


def _tense_role(node: Head, found: Search) -> tuple[str, str]:
    """Past-tense head: the tense flip moves it more than twice as much as the verb swap; copy head: the reverse."""
    effects = {step.step.name: step.effects for step in found.steps if step.effects is not None}
    if "direct" not in effects or "direct_verb" not in effects:
        return "direct", "writes target − foil"
    tense, verb = (abs(effects[name].of(node)) for name in ("direct", "direct_verb"))
    if tense > MUCH * verb:
        return "past-tense head", "writes target − foil of other prompts"
    if verb > MUCH * tense:
        return "copy head", "attention END→VERB1"
    return "tense and copy head", "writes target − foil"


def ffn_rows(language: str, found: Search) -> Rows:
    """The FFNs that the search found, and by which step."""
    return [
        {"language": language, "step": step.step.name, "layer": node.layer, "effect": step.effects.of(node)}
        for step in found.steps
        if step.effects is not None
        for node in (*step.supporting, *step.opposing)
        if isinstance(node, MLP)
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
) -> tuple[Rows, Array]:
    """Accuracy and logit difference without each set, stratum by stratum, with paired intervals; and LD [set, P].

    `low` and `high` bound the accuracy (Wilson), `delta_*` its change (paired bootstrap), `ld_*` the logit difference.
    Mean probabilities of target and foil (in tense: of the past and the base form) are taken for the sets that are
    not random draws.
    """
    ablator = Ablator.prepare(model, pairs, kind)
    scores = ablated_differences(model, pairs, [(), *(each.nodes for each in sets)], ablator)
    strata = sorted({pair.stratum for pair in pairs})
    rows: Rows = []
    for each, after in zip(sets, scores[1:]):
        said = behaviour(model, pairs, edits=partial(_without, ablator, each.nodes)) if each.draw < 0 else None
        for stratum in strata:
            at = [place for place, pair in enumerate(pairs) if pair.stratum == stratum]
            row = _ablation_row(each, language, stratum, scores[0][at], after[at], seed)
            row["target_probability"] = np.nan if said is None else float(np.exp(said.target[at]).mean())
            row["foil_probability"] = np.nan if said is None else float(np.exp(said.foil[at]).mean())
            rows.append(row)
    return rows, scores


def _without(ablator: Ablator, nodes: Sequence[Part], rows: PatchRows) -> Mapping[Site, Change]:
    source = run(ablator.model, rows.corrupted) if ablator.kind is Ablation.RESAMPLE else None
    return ablator.changes(rows, nodes, source)


def _ablation_row(each: AblationSet, language: str, stratum: str, before: Array, after: Array, seed: int) -> Any:
    accuracy = wilson(int((after > 0).sum()), len(after))
    delta = bootstrap_mean((after > 0).astype(float) - (before > 0), seed=seed)
    change = bootstrap_mean(after - before, seed=seed)
    return {
        "set": each.name,
        "found_in": each.found_in,
        "language": language,
        "stratum": stratum,
        "size": len(each.nodes),
        "n": len(after),
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "delta": delta.value,
        "delta_low": delta.low,
        "delta_high": delta.high,
        "logit_difference": float(after.mean()),
        "ld_delta": change.value,
        "ld_delta_low": change.low,
        "ld_delta_high": change.high,
        "draw": each.draw,
    }


def selectivity_rows(
    sets: Sequence[AblationSet], scores: Mapping[str, Array], prompts: Mapping[str, Sequence[PromptPair]], seed: int
) -> Rows:
    """Change of LD, relative to the whole model's, in one language minus another; paired where enough items are shared.

    More than one stratum of a language is never mixed: each pair of strata has its row.
    """
    rows: Rows = []
    codes = list(scores)
    for first, second in ((a, b) for i, a in enumerate(codes) for b in codes[i + 1 :]):
        for one, other in ((x, y) for x in _strata(prompts[first]) for y in _strata(prompts[second])):
            left, right = one[1], other[1]
            shared = sorted(set(left) & set(right))
            for place, each in enumerate(sets, start=1):
                if len(shared) >= PAIRED:
                    a, b = (
                        _relative(scores[code], place, [where[item] for item in shared])
                        for code, where in ((first, left), (second, right))
                    )
                    interval = bootstrap_mean(a - b, seed=seed)
                    value, low, high = interval.value, interval.low, interval.high
                else:
                    a, b = (_relative(scores[c], place, list(w.values())) for c, w in ((first, left), (second, right)))
                    value, (low, high) = float(a.mean() - b.mean()), _unpaired(a, b, seed)
                rows.append(
                    {
                        "set": each.name,
                        "found_in": each.found_in,
                        "draw": each.draw,
                        "language": first,
                        "stratum": one[0],
                        "language2": second,
                        "stratum2": other[0],
                        "selectivity": value,
                        "low": low,
                        "high": high,
                        "items": len(shared),
                        "paired": len(shared) >= PAIRED,
                    }
                )
    return rows


def _strata(pairs: Sequence[PromptPair]) -> list[tuple[str, dict[int, int]]]:
    """Each stratum with the place of each of its items."""
    found: dict[str, dict[int, int]] = {}
    for place, pair in enumerate(pairs):
        found.setdefault(pair.stratum, {}).setdefault(pair.item, place)
    return sorted(found.items())


def _relative(scores: Array, row: int, places: Sequence[int]) -> Array:
    whole = float(scores[0][list(places)].mean())
    return (scores[row] - scores[0])[list(places)] / (abs(whole) or 1.0)


def _unpaired(first: Array, second: Array, seed: int) -> tuple[float, float]:
    a, b = (resampled_weights(x.size, 1000, seed + place) @ x for place, x in enumerate((first, second)))
    low, high = np.quantile(a - b, [0.025, 0.975])
    return float(low), float(high)


@torch.no_grad()
def promoted_rows(model: Model, language: str, pairs: Sequence[PromptPair], heads: Sequence[Head], top: int) -> Rows:
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
        {
            "language": language,
            "layer": node.layer,
            "head": node.head,
            "rank": rank + 1,
            "token": model.tokenizer.decode([int(words[place, rank])]),
            "token_id": int(words[place, rank]),
            "attribution": float(values[place, rank]),
        }
        for place, node in enumerate(heads)
        for rank in range(values.shape[1])
    ]


def correlation_rows(matrices: Mapping[str, Mapping[str, Array]], permutations: int, seed: int) -> Rows:
    """Per measure and pair of languages: Pearson and Spearman with the layer-stratified permutation null."""
    rows: Rows = []
    for measure, by_language in matrices.items():
        codes = [code for code, matrix in by_language.items() if np.isfinite(matrix).all()]
        for first, second in ((a, b) for i, a in enumerate(codes) for b in codes[i + 1 :]):
            found = correlate(by_language[first], by_language[second], permutations, seed)
            for name, value, null, p in (
                ("pearson", found.pearson, found.pearson_null, found.p),
                ("spearman", found.spearman, found.spearman_null, found.spearman_p),
            ):
                measured = f"{name} of {measure}"
                row = {"language": first, "language2": second, "measure": measured, "value": value}
                rows.append({**row, "null": null, "p": p})
    return rows


def faithfulness_rows(
    model: Model, language: str, pairs: Sequence[PromptPair], ranked: Sequence[Head], kind: str, seed: int
) -> Rows:
    """Faithfulness of the first k heads of the ranking, beside k heads drawn at random."""
    sizes = sorted({0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, len(ranked)} & {*range(len(ranked) + 1)})
    ablator = Ablator.prepare(model, pairs, kind)
    shuffled = [ranked[int(place)] for place in np.random.default_rng(seed).permutation(len(ranked))]
    rows: Rows = []
    for order, heads in (("ranking", ranked), ("random", shuffled)):
        rows += [
            {"language": language, "order": order, "heads": size, "faithfulness": i.value, "low": i.low, "high": i.high}
            for size, i in faithfulness_curve(model, pairs, heads, ablator, sizes)
        ]
    return rows


def cross_rows(
    model: Model,
    prompts: Mapping[str, Sequence[PromptPair]],
    circuits: Mapping[str, Collection[Head]],
    draws: Sequence[Sequence[Head]],
    kind: str,
) -> Rows:
    """The circuit found in one language run on another's prompts, beside random circuits of the same size per layer."""
    rows: Rows = []
    for language, pairs in prompts.items():
        ablator = Ablator.prepare(model, pairs, kind)
        names = [code for code, heads in circuits.items() if heads]
        found = knock_out(model, pairs, [*(circuits[code] for code in names), *draws], ablator)
        random = [result.faithfulness for result in found[len(names) :]]
        for code, result in zip(names, found):
            interval = result.interval()
            rows.append(
                {
                    "found_in": code,
                    "run_on": language,
                    "faithfulness": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "random": float(np.mean(random)) if random else np.nan,
                    "random_high": float(np.quantile(random, 0.975)) if random else np.nan,
                    "heads": len(circuits[code]),
                }
            )
    return rows
