"""What one recording says before any chance is computed: scores, regions and headline numbers, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import xarray as xr

from babelscope._version import __version__
from babelscope.corpora import ParallelCorpus
from babelscope.models import Model
from babelscope.regions import localisation, masks, similarity
from babelscope.regions.contrast import Contrast, contrast
from babelscope.regions.document_means import layer_map, pair_ends, score_intervals, whole_map
from babelscope.regions.headlines import Headlines, headlines, z_reason
from babelscope.regions.methods import ranked
from babelscope.regions.recording import Recording
from babelscope.regions.similarity import Means
from babelscope.regions.sinks import COUPLED, KEPT, Sink, length_coupling, normalised
from babelscope.results import RunWriter
from babelscope.results.rows import write_rows
from babelscope.results.schemas.regions import Headline, RegionSize, Sentence
from babelscope.stats import JACKKNIFE, Interval, no_interval
from babelscope.studies.region_settings import RegionsSettings

MAP_SENTENCES = 100
"""sentences per language whose pairs are kept for the map"""
SITES = {"neurons": "input of the MLP output projection", "residual": "residual stream"}
FIRST_SHARE = 0.1
"""of ‖v‖² in the first position, above which captions name --first drop"""
CURVES = ("lrds", "sads", "same_language", "same_sentence", "neither")


@dataclass(frozen=True)
class Pairs:
    """LRDS or SADS of each pair of languages with its interval, [L, L]."""

    values: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


@dataclass(frozen=True)
class RegionScores:
    """Everything that is computed from one recording without permutations."""

    recording: Recording
    """under the norm that was asked for"""
    sinks: list[Sink]
    length_coupling: float
    sets: dict[str, masks.RegionSet]
    """regions by method, the main one first"""
    contrast: Contrast
    scores: torch.Tensor
    z: torch.Tensor
    """NaN where the threshold cannot be reached"""
    whole: Means
    layers: Means
    intervals: dict[str, Interval]
    layer_intervals: list[dict[str, Interval]]
    pairs: dict[str, Pairs]
    headlines: Headlines

    @property
    def main(self) -> masks.RegionSet:
        """The regions that are switched off and drawn."""
        return next(iter(self.sets.values()))


def z_attainable(settings: RegionsSettings, languages: int) -> bool:
    """Whether any neuron could have a z above the threshold."""
    return languages > 2 and settings.threshold < localisation.largest_z(languages)


def as_asked(recording: Recording, settings: RegionsSettings) -> tuple[Recording, list[Sink]]:
    """The recording under the norm and documents of the settings, and the sinks that were left out."""
    if settings.documents == "none":
        recording = replace(recording, documents=())
    return normalised(recording, settings.norm, settings.sink_share)


def score_regions(model: Model, raw: Recording, sample: ParallelCorpus, settings: RegionsSettings) -> RegionScores:
    """Scores, intervals and regions of a recording."""
    recording, sinks = as_asked(raw, settings)
    scores = localisation.within_language_scores(localisation.within_language_sums(recording))
    attainable = z_attainable(settings, len(recording.languages))
    z = localisation.standard_scores(scores) if attainable else torch.full_like(scores, torch.nan)
    found = contrast(recording, settings.contrast, settings.seed)
    blocks = whole_map(recording, settings.seed)
    every = torch.ones(1, len(blocks.sizes), dtype=torch.float64)
    left = blocks.each_left_out()
    whole, layers = similarity.whole_means(recording), similarity.layer_means(recording)
    by_pair, by_pair_left = blocks.pair_means(every), blocks.pair_means(left)
    pairs = {
        name: Pairs(value[0], *pair_ends(value[0], drawn)[:2])
        for name, value, drawn in (
            ("lrds", by_pair.lrds, by_pair_left.lrds),
            ("sads", by_pair.sads, by_pair_left.sads),
            ("similarity", by_pair.same_sentence, by_pair_left.same_sentence),
        )
    }
    return RegionScores(
        recording,
        sinks,
        length_coupling(recording),
        _sets(model, recording, sample, settings, scores, z if attainable else None, found),
        found,
        scores,
        z,
        whole,
        layers,
        score_intervals(whole, blocks),
        _layer_intervals(recording, layers, settings.seed),
        pairs,
        headlines(recording, settings.effect, settings.seed),
    )


def _layer_intervals(recording: Recording, layers: Means, seed: int) -> list[dict[str, Interval]]:
    found: list[dict[str, Interval]] = []
    for layer, width in enumerate(recording.layout.widths):
        if width == 0:
            found.append(dict.fromkeys(CURVES, no_interval(math.nan, "the layer has no neurons")))
            continue
        blocks = layer_map(recording, layer, seed)
        whole = Means(layers.same_language[layer], layers.same_sentence[layer], layers.neither[layer])
        found.append(score_intervals(whole, blocks))
    return found


def _sets(
    model: Model,
    recording: Recording,
    sample: ParallelCorpus,
    settings: RegionsSettings,
    scores: torch.Tensor,
    z: torch.Tensor | None,
    found: Contrast,
) -> dict[str, masks.RegionSet]:
    facts = {
        "model": model.id,
        "revision": model.revision,
        "weight_hash": model.weight_hash,
        "site": SITES[recording.span.site],
        "corpus_hash": sample.hash,
        "sentences": len(recording.ids),
        "documents": recording.document_count,
        "norm": recording.norm,
        "version": __version__,
    }

    def made(method: str, members: torch.Tensor, values: torch.Tensor, own: Mapping[str, object]) -> masks.RegionSet:
        return masks.from_matrix(
            members, recording.languages, recording.layout, values, method=method, facts={**facts, **own}
        )

    chosen = settings.contrast
    sets = {
        "contrast": made(
            "contrast",
            found.members(chosen.sign),
            ranked(found, chosen.sign),
            {**asdict(chosen), "why": found.why},
        )
    }
    if z is not None:
        members = localisation.key_regions(scores, settings.threshold)
        sets["z-score"] = made("z-score", members, z, {"threshold": settings.threshold})
    return {settings.method: sets.pop(settings.method), **sets}


# -- what a run holds of it --------------------------------------------------------------------------------------------


def arrays(found: RegionScores) -> xr.Dataset:
    """Scores by neuron, curves by layer, matrices by language pair and the shown part of the similarity map."""
    recording = found.recording
    languages, layers = list(recording.languages), recording.layers

    def by_layer(matrix: torch.Tensor) -> object:
        return ("language", "layer", "neuron"), recording.layout.by_layer(matrix.float(), torch.nan).numpy()

    data: dict[str, object] = {
        "score": by_layer(found.scores),
        "z": by_layer(found.z),
        "d": by_layer(found.contrast.d),
        "d_low": by_layer(found.contrast.d_low),
        "d_high": by_layer(found.contrast.d_high),
        "p_raised": by_layer(found.contrast.p_raised),
        "p_lowered": by_layer(found.contrast.p_lowered),
        "region_size_layer": (("language", "layer"), np.array(list(found.main.by_layer().values()))),
        "first_position_share": ((), recording.first_position_share),
        "top10_share": ((), recording.top_share()),
    }
    for name in CURVES:
        data[f"{name}_layer"] = ("layer", getattr(found.layers, name).numpy())
        ends = [one[name] for one in found.layer_intervals]
        data[f"{name}_layer_low"] = ("layer", np.array([one.low for one in ends]))
        data[f"{name}_layer_high"] = ("layer", np.array([one.high for one in ends]))
    pair = ("language", "language2")
    for name, one in found.pairs.items():
        data[f"{name}_pair"] = (pair, one.values.numpy())
        data[f"{name}_pair_low"], data[f"{name}_pair_high"] = (pair, one.low.numpy()), (pair, one.high.numpy())
    shown = min(len(recording.ids), MAP_SENTENCES)
    items = len(languages) * shown
    part = similarity.gram(recording.subset(range(shown))).reshape(items, items)
    data["similarity"] = (("item", "item2"), part.float().numpy())
    coordinates: dict[str, object] = {
        "language": languages,
        "layer": list(range(layers)),
        "language2": languages,
        "item_language": ("item", np.repeat(languages, shown)),
        "item_sentence": ("item", np.tile(recording.ids[:shown], len(languages))),
    }
    return xr.Dataset(data, coordinates)


def write_scores(run: RunWriter, found: RegionScores, sample: ParallelCorpus, settings: RegionsSettings) -> None:
    """Arrays, region files, and the tables `sentences`, `region_size`, `headlines` and (if any) `sinks`."""
    recording = found.recording
    run.arrays(arrays(found))
    for name, regions in found.sets.items():
        stored = replace(regions, method=name, scores={})
        masks.save_regions(stored, run.file(f"regions/{name}.safetensors"))
    shown = min(len(recording.ids), MAP_SENTENCES)
    rows = [
        Sentence(id=id, language=code, text=sample.texts[code][place], tokens=int(recording.tokens[order, place]))
        for order, code in enumerate(sample.languages)
        for place, id in enumerate(sample.ids[:shown])
    ]
    write_rows(run, Sentence, rows)
    write_rows(run, RegionSize, (row for name in found.sets for row in _sizes(found, name, settings)))
    if found.sinks:
        write_rows(run, Sink, found.sinks)


def at(recording: Recording) -> str:
    """What sizes that grow with the corpus hold at.

    Sizes of regions that are chosen by p-values, and excess over them, are compared only at equal n and documents.
    """
    if not recording.documents:
        return f"n = {len(recording.ids)}, sentences taken as independent"
    return f"n = {len(recording.ids)}, {recording.document_count} documents"


def _sizes(found: RegionScores, method: str, settings: RegionsSettings) -> list[RegionSize]:
    depth = np.arange(found.recording.layers)
    why = found.contrast.why if method == "contrast" else ""
    lowered = found.contrast.lowered.sum(1).tolist()
    two = len(found.recording.languages) == 2
    rows: list[RegionSize] = []
    for place, (code, by_layer) in enumerate(found.sets[method].by_layer().items()):
        size = sum(by_layer)
        row = RegionSize(
            method=method,
            language=code,
            size=math.nan if why else size,
            share=math.nan if why else size / found.recording.neurons,
            mean_depth=float(np.average(depth, weights=by_layer)) if size else math.nan,
            lowered=math.nan if why or two or method != "contrast" else lowered[place],
            effect=settings.effect if method == "contrast" else math.nan,
            threshold=settings.threshold if method == "z-score" else math.nan,
            n=len(found.recording.ids),
            at=at(found.recording),
            why=why or "a count of one recording: no interval" + (TWO if two else ""),
        )
        rows.append(row)
    return rows


TWO = "; raised in one of two languages is lowered in the other, counted once"


def summary(found: RegionScores, settings: RegionsSettings) -> dict[str, object]:
    """Headline numbers with `intervals` ([low, high] by name), how they were made, and why one is missing."""
    recording = found.recording
    count, neurons = len(recording.languages), recording.neurons
    named = {
        **found.intervals,
        "language_share": found.headlines.language_share,
        "strong_neurons": found.headlines.strong_neurons,
    }
    key_regions = found.sets.get("z-score")
    told: dict[str, object] = {
        "method": settings.method,
        "language_share": named["language_share"].value,
        "strong_neurons": named["strong_neurons"].value,
        "lrds": float(found.whole.lrds),
        "sads": float(found.whole.sads),
        "same_language": float(found.whole.same_language),
        "same_sentence": float(found.whole.same_sentence),
        "neither": float(found.whole.neither),
        "sklr": None if key_regions is None else key_regions.total,
        "sklr_share": None if key_regions is None else key_regions.total / neurons,
        "region_size": found.main.sizes,
        "region_neurons": int(torch.stack([*found.main.masks.values()]).any(0).sum()),
        "at": at(recording),
        "neurons": neurons,
        "layers": recording.layers,
        "threshold": settings.threshold,
        "effect": settings.effect,
        "rarefy": settings.rarefy,
        "largest_z": localisation.largest_z(count),
        "languages": list(recording.languages),
        "n": len(recording.ids),
        "documents": recording.document_count if recording.documents else None,
        "norm": recording.norm,
        "sinks": sum(one.scope == "model" for one in found.sinks),
        "length_coupling": found.length_coupling,
        "first_position_share": recording.first_position_share,
        "first_share": recording.first_share(),
        "top10_share": recording.top_share(),
        "too_short": recording.too_short,
        "notes": notes(found),
    }
    told["intervals"] = {name: [one.low, one.high] for name, one in named.items() if not math.isnan(one.low)}
    told["interval_methods"] = {name: one.method for name, one in named.items()}
    why = {name: one.why for name, one in named.items() if one.why}
    if key_regions is None:
        why["sklr"] = z_reason(settings.threshold, count)
    elif identical(found):
        told |= {"sklr": None, "sklr_share": None, "language_share": None}
        why |= dict.fromkeys(("sklr", "language_share"), SAME)
    told["why"] = why
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in told.items()}


SAME = "the texts are the same in all languages"


def identical(found: RegionScores) -> bool:
    """Whether every sentence leaves the same activations in all languages."""
    return found.recording.norm != "none" and float(found.whole.same_sentence) > 1 - 1e-9


def notes(found: RegionScores) -> list[str]:
    """Sentences that a reader needs beside the numbers."""
    recording = found.recording
    told: list[str] = []
    if recording.span.site == "residual":
        told.append(
            "What is called a neuron here is a dimension of the residual stream: layer l is the stream before block l, "
            "the last one that behind all blocks."
        )
    if not recording.documents:
        told.append("Sentences are taken as independent: the corpus names no documents, or they were not asked for.")
    sinks = sum(one.scope == "model" for one in found.sinks)
    if sinks:
        told.append(
            f"{sinks} {'neuron that fires' if sinks == 1 else 'neurons that fire'} at one position stand outside the "
            "norm and every score (table sinks)."
        )
    coupled = sorted({one.layer for one in found.sinks if one.scope == KEPT})
    if coupled:
        told.append(
            f"In layer {', '.join(map(str, coupled))} more than a twentieth of the neurons follow sentence length, or "
            "fire at the first token: the curves by layer follow length there too."
        )
    if recording.norm == "robust" and math.isnan(found.length_coupling):
        told.append("Sentences of a language are too alike in length to know a sink by its slope: its share decides.")
    if abs(found.length_coupling) > COUPLED or recording.first_share() > FIRST_SHARE:
        what = (
            f"length-coupled (slope of log norm on log tokens {found.length_coupling:.2f})"
            if abs(found.length_coupling) > COUPLED
            else f"carried to {recording.first_share():.0%} by the first position"
        )
        told.append(f"Activations are {what}: compare with --first drop before believing LRDS and region sizes.")
    if recording.too_short:
        told.append(f"{recording.too_short} sentences with a single token in some language are left out.")
    if identical(found):
        told.append(f"{SAME[0].upper()}{SAME[1:]}: there is no language to find.")
    return told


def write_headlines(run: RunWriter, rows: Mapping[str, Interval], recording: Recording) -> None:
    """The table `headlines`: measure, value, low, high, interval, why, n, documents."""
    documents = recording.document_count if recording.documents else math.nan
    found = (
        Headline(
            measure=name,
            value=one.value,
            low=one.low,
            high=one.high,
            interval=one.method or ("" if math.isnan(one.low) else JACKKNIFE),
            why=one.why,
            n=len(recording.ids),
            documents=documents,
        )
        for name, one in rows.items()
    )
    write_rows(run, Headline, found)
