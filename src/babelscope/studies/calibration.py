"""The part of a regions study that says how much of the regions chance explains, and what other methods find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from babelscope.regions import agreement, localisation, masks, nulls, stability
from babelscope.regions.methods import PERMUTED, Choices, localise
from babelscope.regions.nulls import ScoreNull
from babelscope.regions.recording import Recording
from babelscope.regions.similarity import Means, interval
from babelscope.regions.treatments import language_means
from babelscope.results import RunWriter
from babelscope.studies.progress import Progress
from babelscope.studies.region_settings import RegionsSettings

RESAMPLES = 200
"""of regions by sentence; each costs as much as a fifth of a permutation"""


@dataclass(frozen=True)
class Steadiness:
    """Regions found again in resampled sentences and in halves of them."""

    bootstrap: stability.Overlaps
    halves: stability.Overlaps | None
    without: dict[str, int]
    """SKLR with one language left out, where the threshold can be reached then"""


def steadiness(recording: Recording, scores: torch.Tensor, settings: RegionsSettings) -> Steadiness | None:
    """Bootstrap and split halves of the regions; None where no draws are wanted."""
    draws = min(settings.bootstrap, RESAMPLES)
    if draws < 1:
        return None
    boot = stability.bootstrap_regions(recording, draws, settings.threshold, settings.seed)
    enough = len(recording.ids) >= 4
    halves = (
        stability.split_half_regions(recording, max(1, draws // 4), settings.threshold, settings.seed)
        if enough
        else None
    )
    left = stability.without_each_language(scores, settings.threshold)
    without = {recording.languages[place]: int(regions.sum()) for place, regions in left.items()}
    return Steadiness(boot, halves, without)


def write_steadiness(run: RunWriter, found: Steadiness, recording: Recording, threshold: float) -> dict[str, Any]:
    """The table `stability`, and what the summary says of it."""
    again = found.bootstrap.by_language()
    halves = found.halves.by_language() if found.halves else {}
    chance = found.bootstrap.chance_by_language()
    rows: list[dict[str, Any]] = []
    for place, code in enumerate(recording.languages):
        sizes = found.bootstrap.sizes[:, place].double()
        low, high = interval(sizes)
        half = halves.get(code, stability.Spread(float("nan"), float("nan"), float("nan")))
        rows.append(
            {
                "language": code,
                "size_mean": float(sizes.mean()),
                "size_low": low,
                "size_high": high,
                "bootstrap_jaccard": again[code].mean,
                "bootstrap_low": again[code].low,
                "bootstrap_high": again[code].high,
                "split_half_jaccard": half.mean,
                "split_half_low": half.low,
                "split_half_high": half.high,
                "chance_jaccard": chance[code],
                "sklr_without": found.without.get(code),
                "draws": len(sizes),
                "n": len(recording.ids),
            }
        )
    run.table("stability", pd.DataFrame(rows))
    sklr = found.bootstrap.sizes.sum(1).double()
    told: dict[str, Any] = {"sklr_bootstrap_mean": float(sklr.mean()), "sklr_bootstrap_interval": interval(sklr)}
    if found.without:
        told["sklr_without_a_language"] = [min(found.without.values()), max(found.without.values())]
    else:
        reachable = localisation.largest_z(len(recording.languages) - 1)
        told["sklr_without_a_language_left_out"] = (
            f"z > {threshold:g} needs more languages than are left: {reachable:g}"
        )
    return told


def calibrate(
    run: RunWriter,
    recording: Recording,
    regions: masks.RegionSet,
    whole: Means,
    similarity: torch.Tensor | None,
    settings: RegionsSettings,
    progress: Progress,
) -> tuple[ScoreNull, dict[str, Any]]:
    """Permutation nulls of region sizes, LRDS and SADS: table `calibration`, group `null`, and the summary's part."""
    with progress("permutations", recording.neurons, "neurons") as step:
        null = nulls.score_null(recording, settings.permutations, settings.threshold, settings.seed, step)
    _calibration_table(run, null, regions, settings.fdr, len(recording.ids))
    arrays: dict[str, Any] = {
        "sklr_null": ("draw", null.sklr_null.numpy()),
        "size_null": (("draw", "language"), null.sizes.numpy()),
    }
    shape = (len(recording.languages), recording.layers, -1)
    for name, values in {"p": null.p, "p_effect": null.p_effect}.items():
        arrays[name] = (("language", "layer", "neuron"), values.reshape(shape).numpy())
    told: dict[str, Any] = {
        "permutations": null.draws,
        "expected_sklr": float(null.sklr_null.double().mean()),
        "excess_sklr": null.excess,
        "excess_sklr_interval": null.excess_interval,
        "p_sklr": null.p_sklr,
    }
    if similarity is not None:
        labels = nulls.label_null(similarity, settings.permutations, settings.seed)
        ids = nulls.sentence_null(similarity, settings.permutations, settings.seed)
        for name, observed, draws in (("lrds", float(whole.lrds), labels.lrds), ("sads", float(whole.sads), ids.sads)):
            arrays[f"{name}_null"] = ("draw", draws.numpy())
            told[f"{name}_null_interval"] = interval(draws)
            told[f"p_{name}"] = nulls.reached(observed, draws)
    coordinates = {"language": list(recording.languages), "layer": list(range(recording.layers))}
    run.arrays(xr.Dataset(arrays, coordinates), group="null")
    return null, told


def _calibration_table(run: RunWriter, null: ScoreNull, regions: masks.RegionSet, rate: float, n: int) -> None:
    # fdr_needs: the smallest p is 1 / ((B + 1) L), so at least so many (language, neuron) pairs must reach it
    kept, kept_effect = (benjamini_hochberg(p.numpy(), rate).sum(1) for p in (null.p, null.p_effect))
    rows: list[dict[str, Any]] = []
    for place, (code, observed) in enumerate(regions.sizes.items()):
        draws = null.sizes[:, place].double()
        low, high = interval(observed - draws)
        expected = float(draws.mean())
        rows.append(
            {
                "language": code,
                "observed": observed,
                "expected_null": expected,
                "excess": observed - expected,
                "excess_low": low,
                "excess_high": high,
                "p": nulls.reached(observed, draws),
                "fdr": int(kept[place]),
                "fdr_effect": int(kept_effect[place]),
                "rate": rate,
                "fdr_needs": math.ceil(null.p.numel() / (rate * (null.draws + 1) * len(null.languages))),
                "draws": null.draws,
                "n": n,
            }
        )
    run.table("calibration", pd.DataFrame(rows))


def compare_methods(
    run: RunWriter,
    recording: Recording,
    regions: masks.RegionSet,
    z: torch.Tensor,
    null: ScoreNull | None,
    settings: RegionsSettings,
) -> dict[str, masks.RegionSet]:
    """Regions by every method asked for: their files, and the tables `methods` and `agreement`."""
    choices = Choices(threshold=settings.threshold, rate=settings.fdr, seed=settings.seed)
    shape = (len(recording.languages), recording.layers, -1)
    scores = dict(zip(recording.languages, z.float().reshape(shape)))
    sets = {"z-score": masks.RegionSet(regions.masks, regions.method, regions.facts, scores)}
    wanted = [*settings.methods, *(PERMUTED if null else ())]
    for name in dict.fromkeys(wanted):
        if name == "z-score":
            continue
        facts: Mapping[str, Any] = {key: value for key, value in regions.facts.items() if key != "threshold"}
        draws = settings.permutations or choices.permutations
        sets[name] = localise(recording, name, choices, regions, null, facts, permutations=draws)
        masks.save_regions(
            masks.RegionSet(sets[name].masks, name, sets[name].facts), run.file(f"regions/{name}.safetensors")
        )
    if len(sets) > 1:
        means = language_means(recording)
        run.table("methods", pd.DataFrame(row for found in sets.values() for row in _sizes(found, means)))
        rows = [{**asdict(row), "no_interval": "a fact of one recording"} for row in agreement.agreement_matrix(sets)]
        run.table("agreement", pd.DataFrame(rows))
    return sets


def _sizes(found: masks.RegionSet, means: torch.Tensor) -> list[dict[str, Any]]:
    # a contribution to similarity is blind to sign: many members may be those that a language keeps low
    raised = means * len(means) > means.sum(0)
    stacked = torch.stack(list(found.masks.values()))
    shared = stacked.sum(0) > 1
    rows: list[dict[str, Any]] = []
    for place, (code, mask) in enumerate(found.masks.items()):
        by_layer = mask.sum(1).numpy()
        size = int(by_layer.sum())
        rows.append(
            {
                "method": found.method,
                "language": code,
                "size": size,
                "share": size / mask.numel(),
                "mean_depth": float(np.average(np.arange(len(by_layer)), weights=by_layer)) if size else float("nan"),
                "shared_with_others": int((mask & shared).sum()),
                "raised": int((mask & raised[place]).sum()),
                "neurons": mask.numel(),
                "n": found.facts.get("sentences"),
            }
        )
    return rows
