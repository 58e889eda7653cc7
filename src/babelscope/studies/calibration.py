"""The part of a regions study that says how much of the regions chance explains, and what other methods find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from babelscope.regions import agreement, localisation, masks, nulls, similarity, stability
from babelscope.regions.headlines import z_reason
from babelscope.regions.methods import PERMUTED, Choices, localise
from babelscope.regions.nulls import ScoreNull
from babelscope.regions.recording import Recording
from babelscope.regions.treatments import language_means
from babelscope.results import RunWriter
from babelscope.results.rows import write_rows
from babelscope.results.schemas.regions import Agreement, Calibration, MethodSize, Stability
from babelscope.stats import Interval, benjamini_hochberg, no_interval, percentile, t_ends
from babelscope.studies.progress import Progress
from babelscope.studies.region_scores import RegionScores, at
from babelscope.studies.region_settings import RegionsSettings

RESAMPLES = 200
"""of regions by document; each costs as much as a fifth of a permutation"""
MAP_ITEMS = 4000
"""above so many items the (nL)² map is not made, and LRDS and SADS have no permutation null"""


@dataclass(frozen=True)
class Steadiness:
    """Regions found again in resampled sentences and in halves of them."""

    bootstrap: stability.Overlaps
    halves: stability.Overlaps | None
    without: dict[str, int]
    """SKLR with one language left out, where the threshold can be reached then"""


def steadiness(found: RegionScores, settings: RegionsSettings) -> Steadiness | None:
    """Bootstrap by document and split halves of the z-score regions; None where z cannot reach the threshold."""
    recording, draws = found.recording, min(settings.bootstrap, RESAMPLES)
    if draws < 1 or "z-score" not in found.sets:
        return None
    boot = stability.bootstrap_regions(recording, draws, settings.threshold, settings.seed)
    enough = len(recording.ids) >= 4 and recording.document_count > 1
    halves = (
        stability.split_half_regions(recording, max(1, draws // 4), settings.threshold, settings.seed)
        if enough
        else None
    )
    left = stability.without_each_language(found.scores, settings.threshold)
    without = {recording.languages[place]: int(regions.sum()) for place, regions in left.items()}
    return Steadiness(boot, halves, without)


def write_steadiness(run: RunWriter, found: Steadiness, recording: Recording, threshold: float) -> dict[str, object]:
    """The table `stability`, and what the summary says of it."""
    again = found.bootstrap.by_language()
    halves = found.halves.by_language() if found.halves else {}
    chance = found.bootstrap.chance_by_language()
    rows: list[Stability] = []
    for place, code in enumerate(recording.languages):
        sizes = found.bootstrap.sizes[:, place].double()
        low, high = percentile(sizes.numpy())
        half = halves.get(code, stability.Spread(float("nan"), float("nan"), float("nan")))
        rows.append(
            Stability(
                language=code,
                size_mean=float(sizes.mean()),
                size_low=low,
                size_high=high,
                bootstrap_jaccard=again[code].mean,
                bootstrap_low=again[code].low,
                bootstrap_high=again[code].high,
                split_half_jaccard=half.mean,
                split_half_low=half.low,
                split_half_high=half.high,
                chance_jaccard=chance[code],
                sklr_without=found.without.get(code, math.nan),
                draws=len(sizes),
                n=len(recording.ids),
            )
        )
    write_rows(run, Stability, rows)
    sklr = found.bootstrap.sizes.sum(1).double()
    told: dict[str, object] = {
        "sklr_bootstrap_mean": float(sklr.mean()),
        "sklr_bootstrap_interval": percentile(sklr.numpy()),
    }
    if found.without:
        told["sklr_without_a_language"] = [min(found.without.values()), max(found.without.values())]
    else:
        reachable = localisation.largest_z(len(recording.languages) - 1)
        told["sklr_without_a_language_left_out"] = (
            f"z > {threshold:g} needs more languages than are left: {reachable:g}"
        )
    return told


def null_of(
    recording: Recording, draws: int, settings: RegionsSettings, progress: Progress, device: torch.device
) -> ScoreNull:
    """Region sizes and p-values with languages permuted, added up where the model is."""
    with progress("permutations", recording.neurons, "neurons") as step:
        return nulls.score_null(recording, draws, settings.threshold, settings.seed, step, device)


def write_calibration(
    run: RunWriter,
    found: RegionScores,
    steadiness: Steadiness | None,
    null: ScoreNull,
    settings: RegionsSettings,
) -> tuple[dict[str, object], Interval]:
    """Permutation nulls of region sizes, LRDS and SADS: table `calibration`, group `null`, the summary, excess SKLR.

    What chance gives (`null_low`, `null_high`: middle 95 % of the draws) stands apart from the interval of the excess.
    """
    recording = found.recording
    write_rows(run, Calibration, _calibration_rows(null, found, steadiness, settings.fdr))
    values: dict[str, object] = {
        name: (("language", "layer", "neuron"), recording.layout.by_layer(one, torch.nan).numpy())
        for name, one in {"p": null.p, "p_effect": null.p_effect}.items()
    }
    told: dict[str, object] = {"permutations": null.draws}
    excess = no_interval(math.nan, z_reason(settings.threshold, len(recording.languages)))
    if "z-score" in found.sets:
        values |= {
            "sklr_null": ("draw", null.sklr_null.numpy()),
            "size_null": (("draw", "language"), null.sizes.numpy()),
        }
        low, high = null.null_ends
        told |= {
            "expected_sklr": float(null.sklr_null.double().mean()),
            "sklr_null_ends": [low, high],
            "p_sklr": null.p_sklr,
        }
        if steadiness is not None:
            excess = nulls.excess_interval(null, steadiness.bootstrap.sizes.sum(1), recording.document_count)
    if len(recording.ids) * len(recording.languages) <= MAP_ITEMS:
        values |= _score_nulls(found, settings, told)
    else:
        told["why"] = {"p_lrds": f"more than {MAP_ITEMS} items: the (nL)² map is not made"}
    coordinates = {"language": list(recording.languages), "layer": list(range(recording.layers))}
    run.arrays(xr.Dataset(values, coordinates), group="null")
    return told, excess


def _score_nulls(found: RegionScores, settings: RegionsSettings, told: dict[str, object]) -> dict[str, object]:
    """Draws of LRDS and SADS; their middle 95 % and p-values go into `told`."""
    recording, whole = found.recording, found.whole
    products = similarity.gram(recording)
    labels = nulls.label_null(products, settings.permutations, settings.seed, recording.documents)
    ids = nulls.sentence_null(products, settings.permutations, settings.seed)
    values: dict[str, object] = {}
    for name, observed, draws in (("lrds", float(whole.lrds), labels.lrds), ("sads", float(whole.sads), ids.sads)):
        values[f"{name}_null"] = ("draw", draws.numpy())
        told[f"{name}_null_ends"] = percentile(draws.numpy())
        told[f"p_{name}"] = nulls.reached(observed, draws)
    return values


def _calibration_rows(
    null: ScoreNull, found: RegionScores, steadiness: Steadiness | None, rate: float
) -> list[Calibration]:
    recording = found.recording
    kept, kept_effect = (benjamini_hochberg(p.numpy(), rate).sum(1) for p in (null.p, null.p_effect))
    rows: list[Calibration] = []
    for place, code in enumerate(recording.languages):
        row = Calibration(
            language=code,
            expected_null=math.nan,
            excess=math.nan,
            fdr=int(kept[place]),
            fdr_effect=int(kept_effect[place]),
            rate=rate,
            # the smallest p is 1 / ((B + 1) L), so at least so many (language, neuron) pairs must reach it
            fdr_needs=math.ceil(null.p.numel() / (rate * (null.draws + 1) * len(null.languages))),
            draws_needed=math.ceil(recording.neurons / rate) - 1,
            draws=null.draws,
            n=len(recording.ids),
            at=at(recording),
            why="" if steadiness else z_reason(null.threshold, len(recording.languages)),
        )
        rows.append(_with_excess(row, null, place, steadiness, recording.document_count) if steadiness else row)
    return rows


def _with_excess(row: Calibration, null: ScoreNull, place: int, steadiness: Steadiness, documents: int) -> Calibration:
    draws, resampled = null.sizes[:, place].double(), steadiness.bootstrap.sizes[:, place].double()
    observed, expected = int(null.observed[place]), float(draws.mean())
    low, high = percentile(draws.numpy())
    error = math.sqrt(float(resampled.var()) + float(draws.var()) / null.draws)
    ends = t_ends(observed - expected, error, documents - 1) if documents > 1 else (math.nan, math.nan)
    return replace(
        row,
        observed=observed,
        expected_null=expected,
        null_low=low,
        null_high=high,
        excess=observed - expected,
        excess_low=float(ends[0]),
        excess_high=float(ends[1]),
        p=nulls.reached(observed, draws),
    )


def method_sets(
    found: RegionScores, null: ScoreNull | None, settings: RegionsSettings, relevance: torch.Tensor | None = None
) -> dict[str, masks.RegionSet]:
    """Regions by every method asked for, the main one first."""
    recording, like = found.recording, found.main
    choices = Choices(threshold=settings.threshold, rate=settings.fdr, seed=settings.seed, contrast=settings.contrast)
    sets = dict(found.sets)
    wanted = [*settings.methods, *(PERMUTED if null else ())]
    own = ("threshold", "effect", "rate", "sign", "against", "why")
    for name in dict.fromkeys(wanted):
        if name in sets:
            continue
        facts: Mapping[str, object] = {key: value for key, value in like.facts.items() if key not in own}
        draws = settings.permutations or choices.permutations
        sets[name] = localise(recording, name, choices, like, null, facts, relevance, permutations=draws)
    return sets


def write_methods(run: RunWriter, found: RegionScores, sets: Mapping[str, masks.RegionSet]) -> None:
    """The files of regions by further methods, and the tables `methods` and `agreement`."""
    recording = found.recording
    for name in sets.keys() - found.sets.keys():
        stored = replace(sets[name], method=name, scores={})
        masks.save_regions(stored, run.file(f"regions/{name}.safetensors"))
    means = language_means(recording)
    sizes = [row for regions in sets.values() for row in _sizes(regions, means, at(recording))]
    write_rows(run, MethodSize, sizes)
    if len(sets) > 1:
        write_rows(run, Agreement, agreement.agreement_matrix(sets))


def _sizes(found: masks.RegionSet, means: torch.Tensor, where: str) -> list[MethodSize]:
    # a contribution to similarity is blind to sign: many members may be those that a language keeps low
    raised = means * len(means) > means.sum(0)
    stacked = torch.stack(list(found.masks.values()))
    shared = stacked.sum(0) > 1
    rows: list[MethodSize] = []
    for place, (code, mask) in enumerate(found.masks.items()):
        by_layer = mask.sum(1).numpy()
        size = int(by_layer.sum())
        rows.append(
            MethodSize(
                method=found.method,
                language=code,
                size=size,
                share=size / found.layout.neurons,
                mean_depth=float(np.average(np.arange(len(by_layer)), weights=by_layer)) if size else math.nan,
                shared_with_others=int((mask & shared).sum()),
                raised=int((mask & raised[place]).sum()),
                neurons=found.layout.neurons,
                n=found.facts.get("sentences", math.nan),
                at=where,
            )
        )
    return rows
