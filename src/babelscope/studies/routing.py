"""The part of a regions study of a mixture that says which experts serve which language, and what chance would give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from babelscope import stats
from babelscope.models import Model
from babelscope.regions import nulls, similarity
from babelscope.regions import routing as measures
from babelscope.regions.document_means import layer_map, whole_map
from babelscope.regions.perplexity import Windows
from babelscope.regions.recording import Recording
from babelscope.regions.routed import Routing
from babelscope.regions.routing_nulls import RoutingNull, routing_null
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.routing_deactivation import expert_deactivation
from babelscope.studies.steps import Sink

NAN = float("nan")
NOT_ASKED = "no permutations were asked for"
TWO_LANGUAGES = "D is symmetric: with two languages no permutation moves it"
HASHED = "experts follow from the token id alone"


def write_routing(
    run: Sink,
    model: Model,
    recording: Recording,
    windows: Mapping[str, Windows],
    settings: RegionsSettings,
) -> dict[str, Any]:
    """Tables `routing_layer`, `routing_expert` and `routing_similarity`, arrays `routing`, and the summary's part.

    With texts also `routing_deactivation`. A run of a model without experts has none of them. The reference of
    divergences is English, or else the first language.
    """
    found = recording.routing
    if found is None:
        return {}
    reference = "en" if "en" in found.languages else found.languages[0]
    null = routing_null(found, reference, settings.permutations, settings.seed) if settings.permutations else None
    layers, experts = _layers(found, reference, null), _experts(found, reference, null, settings.fdr)
    run.table("routing_layer", pd.DataFrame(layers))
    run.table("routing_expert", pd.DataFrame(experts))
    run.table("routing_similarity", pd.DataFrame(_similarities(found, settings)))
    if windows:
        run.table("routing_deactivation", pd.DataFrame(expert_deactivation(model, windows, found, settings.controls)))
    coordinates = {"language": list(found.languages), "layer": list(found.layers)}
    dimensions = ("language", "layer", "expert")
    run.arrays(
        xr.Dataset(
            {
                "routing_probability": (dimensions, found.language_probabilities().numpy()),
                "routing_choice": (dimensions, found.language_choices().numpy()),
            },
            coordinates,
        ),
        group="routing",
    )
    return {"routing": _summary(found, reference, experts, null, settings.fdr)}


def _summary(
    found: Routing, reference: str, experts: list[dict[str, Any]], null: RoutingNull | None, rate: float
) -> dict[str, Any]:
    table = pd.DataFrame(experts)
    by_language = table[table.chosen].groupby("language").size() if null else None
    return {
        "layers": list(found.layers),
        "experts": list(found.experts),
        "per_token": found.per_token,
        "scoring": found.scoring,
        "scoring_reproduces_weights": found.reproduced,
        "hashed_layers": list(found.hashed),
        "reference": reference,
        "raised_experts": None
        if by_language is None
        else {code: int(by_language.get(code, 0) or 0) for code in found.languages},
        "rate": rate,
    }


def _layers(found: Routing, reference: str, null: RoutingNull | None) -> list[dict[str, Any]]:
    """A row for each layer and language: its distances from the reference, with intervals and what chance gives."""
    distances, even = measures.divergences(found, reference), measures.evenness(found)
    pairs = measures.pair_divergences(found)
    own = found.languages.index(reference)
    rows: list[dict[str, Any]] = []
    for place, layer in enumerate(found.layers):
        for language, code in enumerate(found.languages):
            if language == own:
                continue
            each = pairs[place, :, own, language]
            row: dict[str, Any] = {"layer": layer, "language": code, "reference": reference}
            row |= stats.bootstrap_mean(each[each.isfinite()].numpy()).columns("divergence")
            row["other_sentence"] = float(distances.other_sentence[place, language])
            row["alignment"] = float(distances.alignment[place, language])
            row["pooled_js"] = float(distances.pooled[place, language])
            translations = null.same_sentence if null else None
            row |= _against("divergence", row["divergence"], translations, place, language)
            row |= _against("pooled_js", row["pooled_js"], null.pooled if null else None, place, language)
            row["evenness"] = float(even[language, place])
            row["evenness_reference"] = float(even[own, place])
            row["n"] = len(found.ids)
            if layer in found.hashed:
                row["why"] = HASHED
            elif not null:
                row["why"] = NOT_ASKED
            elif translations is None:
                row["why"] = TWO_LANGUAGES
            rows.append(row)
    return rows


def _against(name: str, value: float, draws: torch.Tensor | None, layer: int, language: int) -> dict[str, float]:
    if draws is None:
        return {f"{name}_null_low": NAN, f"{name}_null_high": NAN, f"{name}_p": NAN}
    own = draws[:, layer, language]
    if not bool(own.isfinite().all()):
        return {f"{name}_null_low": NAN, f"{name}_null_high": NAN, f"{name}_p": NAN}
    low, high = stats.percentile(own.numpy())
    return {f"{name}_null_low": low, f"{name}_null_high": high, f"{name}_p": nulls.reached(value, own)}


def _experts(found: Routing, reference: str, null: RoutingNull | None, rate: float) -> list[dict[str, Any]]:
    """A row for each layer, expert and language: how often it is chosen, and whether chance gives that."""
    f = found.language_choices()
    special = measures.specialised(f, found.languages.index(reference))
    shares = measures.language_shares(f)
    owners = measures.owner(shares)
    raised = null.chosen(rate) if null else torch.zeros_like(f, dtype=torch.bool)
    rows: list[dict[str, Any]] = []
    for place, layer in enumerate(found.layers):
        for expert in range(found.experts[place]):
            for language, code in enumerate(found.languages):
                rows.append(
                    {
                        "layer": layer,
                        "expert": expert,
                        "language": code,
                        "f": float(f[language, place, expert]),
                        "f_others": float((f[:, place, expert].sum() - f[language, place, expert]) / (len(f) - 1)),
                        "p": float(null.p[language, place, expert]) if null else NAN,
                        "chosen": bool(raised[language, place, expert]),
                        "rate": rate,
                        "specialised": bool(special[language, place, expert]),
                        "language_share": float(shares[language, place, expert]),
                        "exclusive": bool(owners[place, expert] == language),
                        "n": len(found.ids),
                        "why": HASHED if layer in found.hashed else "" if null else NOT_ASKED,
                    }
                )
    return rows


def _similarities(found: Routing, settings: RegionsSettings) -> list[dict[str, Any]]:
    """LRDS and SADS of routing, over all layers and by layer, centred and as it is, with intervals and nulls."""
    rows: list[dict[str, Any]] = []
    counts = {found.experts[place] for place in found.measured}
    if len(counts) != 1:
        return [{"layer": None, "why": "layers differ in their number of experts, or none is measured"}]
    for centred in (True, False):
        recording = measures.routing_recording(found, centred)
        for place in (None, *range(recording.layers)):
            gram = similarity.gram(recording, place)
            means = similarity.whole_means(recording) if place is None else similarity.layer_means(recording)
            blocks = whole_map(recording) if place is None else layer_map(recording, place)
            left_out = blocks.means(blocks.each_left_out())
            row: dict[str, Any] = {
                "layer": None if place is None else found.layers[found.measured[place]],
                "centred": centred,
                "n": len(found.ids),
            }
            for name, shuffle in (("lrds", nulls.label_null), ("sads", nulls.sentence_null)):
                value = getattr(means, name)
                row[name] = float(value if place is None else value[place])
                ends = stats.jackknife_t(row[name], getattr(left_out, name).numpy())
                row |= {f"{name}_low": ends.low, f"{name}_high": ends.high}
                if settings.permutations:
                    chance = getattr(shuffle(gram, settings.permutations, settings.seed), name)
                    low, high = stats.percentile(chance.numpy())
                    row |= {f"{name}_null_low": low, f"{name}_null_high": high}
                    row[f"{name}_p"] = nulls.reached(row[name], chance)
                else:
                    row |= {f"{name}_null_low": np.nan, f"{name}_null_high": np.nan, f"{name}_p": np.nan}
            row["why"] = "" if settings.permutations else NOT_ASKED
            rows.append(row)
    return rows
