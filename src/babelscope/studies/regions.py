"""The first main job, end to end: from a model and parallel text to a run directory with regions and their effects."""

from __future__ import annotations

import platform
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from babelscope._version import __version__
from babelscope.corpora import ParallelCorpus, TextCollection, load_corpus, load_texts
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.regions import localisation, masks, similarity
from babelscope.regions.perplexity import Windows, cut_windows
from babelscope.regions.recording import Recording, record
from babelscope.regions.table import DeactivationTable, deactivation_table
from babelscope.results import Run, RunWriter, open_run, run_key
from babelscope.studies import calibration, probes
from babelscope.studies.progress import Progress, silent
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.routing import write_routing

__all__ = ["RegionsSettings", "study_regions", "versions"]

MAP_SENTENCES = 100
"""sentences per language whose pairs are kept for the map"""
IN_MEMORY = 1 << 30
"""bytes of mean activations above which a recording lies in a temporary file"""
INTERVAL_ITEMS = 4000
"""above so many items the (nL)² map is not made, and intervals by bootstrap are left out with that reason"""


def study_regions(
    model: Model,
    settings: RegionsSettings,
    out: str | Path,
    overwrite: bool = False,
    corpus: ParallelCorpus | None = None,
    texts: Mapping[str, TextCollection] | None = None,
    progress: Progress = silent,
) -> Run:
    """Record, map, localise, deactivate; write a run directory and open it.

    `corpus` and `texts` take the place of the settings' specifications when already loaded. Raises the errors of every
    step before anything is measured where possible: an unattainable threshold, a missing language, too little text.

    >>> run = study_regions(model, RegionsSettings("bible:texts", samples=100), "runs/first")   # doctest: +SKIP
    >>> run.summary["sklr"]                                                                    # doctest: +SKIP
    1312
    """
    whole = corpus or load_corpus(settings.corpus, settings.languages)
    sample = whole.sample(settings.samples, settings.seed)
    localisation.check_threshold(settings.threshold, len(sample.languages))
    if settings.texts and texts is None:
        texts = load_texts(settings.texts, sample.languages)
    windows = _windows(model, texts, settings) if texts else {}
    with RunWriter(out, kind="regions", overwrite=overwrite) as run, _room(model, sample) as room:
        with progress("recording", len(sample) * len(sample.languages), "sentences") as step:
            recording = record(model, sample, settings.special, "lape" in settings.methods, store=room, progress=step)
        found = _localise(model, recording, settings, sample)
        _write_recording(run, recording, sample, found, settings)
        summary = _summary(recording, found, settings)
        if windows:
            table = _deactivation(model, windows, found, settings, progress)
            _write_table(run, table)
            summary["perplexity"] = table.perplexities()
        sets = _calibrate(run, recording, found, settings, summary, progress)
        summary |= write_routing(run, model, sample, windows, settings, progress)
        _probe(run, model, sample, recording, sets, windows, settings, summary, progress)
        _manifest(run, model, settings, sample, windows, summary)
    return open_run(out)


@contextmanager
def _room(model: Model, sample: ParallelCorpus) -> Generator[Path | None]:
    """A file for a recording that would fill the memory, gone afterwards; None for one that is held there."""
    size = 4 * len(sample.languages) * len(sample) * model.neurons
    if size <= IN_MEMORY:
        yield None
        return
    with TemporaryDirectory(prefix="babelscope-recording-") as folder:
        yield Path(folder) / "means.npy"


def _windows(model: Model, texts: Mapping[str, TextCollection], settings: RegionsSettings) -> dict[str, Windows]:
    window = settings.window or min(2048, model.context.window)
    # not model.tokenize: this text is cut into windows, and may well be longer than the model's context
    beginnings = (_beginning(text, window) for text in texts.values())
    shortest = min(
        len(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in beginnings
    )
    if settings.window is None:
        window = min(window, max(shortest, 2))
    limit = None if settings.text_tokens is None else max(1, settings.text_tokens // window)
    return {
        code: cut_windows(model, _enough(text, limit, window), window, limit, settings.joint)
        for code, text in texts.items()
    }


def _beginning(text: TextCollection, window: int) -> str:
    """Enough characters to fill one window, if the text has them."""
    joined, needed = "", 16 * window
    for document in text.documents:
        joined += document.text
        if len(joined) >= needed:
            break
    return joined


def _enough(text: TextCollection, limit: int | None, window: int) -> TextCollection:
    """The first documents that surely fill `limit` windows, so that a huge text is not tokenised for a few of them."""
    if limit is None:
        return text
    # no known tokenizer makes fewer than one token of sixteen characters on average
    needed, kept = 16 * limit * window, 0
    for count, document in enumerate(text.documents, start=1):
        kept += len(document.text)
        if kept >= needed:
            return TextCollection(text.language, text.documents[:count], text.spec, text.notes)
    return text


@dataclass(frozen=True)
class _Found:
    regions: masks.RegionSet
    scores: torch.Tensor
    z: torch.Tensor
    whole: similarity.Means
    layers: similarity.Means
    pairs: similarity.Means | None
    similarity: torch.Tensor | None
    draws: similarity.Means | None
    layer_draws: list[similarity.Means]


def _localise(model: Model, recording: Recording, settings: RegionsSettings, sample: ParallelCorpus) -> _Found:
    scores = localisation.within_language_scores(localisation.within_language_sums(recording))
    z = localisation.standard_scores(scores)
    regions = masks.from_matrix(
        localisation.key_regions(scores, settings.threshold),
        recording.languages,
        recording.layers,
        method="z-score",
        facts={
            "model": model.id,
            "revision": model.revision,
            "weight_hash": model.weight_hash,
            "site": "input of the MLP output projection",
            "threshold": settings.threshold,
            "corpus_hash": sample.hash,
            "sentences": len(sample),
            "version": __version__,
        },
    )
    whole, layers = similarity.whole_means(recording), similarity.layer_means(recording)
    if len(recording.ids) * len(recording.languages) > INTERVAL_ITEMS:
        return _Found(regions, scores, z, whole, layers, None, None, None, [])
    grams = [similarity.gram(recording, layer) for layer in [None, *range(recording.layers)]]
    draws = [similarity.bootstrap_means(one, settings.bootstrap, settings.seed) for one in grams]
    pairs = similarity.pair_means(grams[0])
    return _Found(regions, scores, z, whole, layers, pairs, grams[0], draws[0], draws[1:])


def _write_recording(
    run: RunWriter, recording: Recording, sample: ParallelCorpus, found: _Found, settings: RegionsSettings
) -> None:
    run.arrays(_arrays(recording, found))
    masks.save_regions(found.regions, run.file("regions/z-score.safetensors"))
    shown = min(len(sample), MAP_SENTENCES)
    rows = [
        {"id": id, "language": code, "text": sample.texts[code][place], "tokens": int(recording.tokens[order, place])}
        for order, code in enumerate(sample.languages)
        for place, id in enumerate(sample.ids[:shown])
    ]
    run.table("sentences", pd.DataFrame(rows))
    sizes = found.regions.by_layer()
    depth = np.arange(recording.layers)
    run.table(
        "region_size",
        pd.DataFrame(
            {
                "language": code,
                "size": sum(by_layer),
                "share": sum(by_layer) / recording.neurons,
                "mean_depth": float(np.average(depth, weights=by_layer)) if sum(by_layer) else float("nan"),
                "threshold": settings.threshold,
                "n": len(recording.ids),
                "no_interval": "a count of one recording; table stability has its interval over sentences",
            }
            for code, by_layer in sizes.items()
        ),
    )


def _arrays(recording: Recording, found: _Found) -> xr.Dataset:
    languages, layers = list(recording.languages), recording.layers

    def by_layer(matrix: torch.Tensor) -> Any:
        return ("language", "layer", "neuron"), matrix.reshape(len(languages), layers, -1).float().numpy()

    data: dict[str, Any] = {
        "score": by_layer(found.scores),
        "z": by_layer(found.z),
        "region_size_layer": (("language", "layer"), np.array(list(found.regions.by_layer().values()))),
        "first_position_share": ((), recording.first_position_share),
        "top10_share": ((), recording.top_share()),
    }
    curves = {
        "lrds_layer": (found.layers.lrds, [one.lrds for one in found.layer_draws]),
        "sads_layer": (found.layers.sads, [one.sads for one in found.layer_draws]),
        "same_language_layer": (found.layers.same_language, [one.same_language for one in found.layer_draws]),
        "same_sentence_layer": (found.layers.same_sentence, [one.same_sentence for one in found.layer_draws]),
        "neither_layer": (found.layers.neither, [one.neither for one in found.layer_draws]),
    }
    for name, (values, draws) in curves.items():
        data[name] = ("layer", values.numpy())
        if draws:
            bounds = np.array([similarity.interval(one) for one in draws])
            data[f"{name}_low"], data[f"{name}_high"] = ("layer", bounds[:, 0]), ("layer", bounds[:, 1])
    coordinates: dict[str, Any] = {"language": languages, "layer": list(range(layers))}
    if found.pairs is not None and found.similarity is not None:
        pairs = ("language", "language2")
        data["lrds_pair"], data["sads_pair"] = (pairs, found.pairs.lrds.numpy()), (pairs, found.pairs.sads.numpy())
        data["similarity_pair"] = (pairs, found.pairs.same_sentence.numpy())
        shown = min(len(recording.ids), MAP_SENTENCES)
        items = len(languages) * shown
        part = found.similarity[:, :shown, :, :shown].reshape(items, items)
        data["similarity"] = (("item", "item2"), part.float().numpy())
        coordinates |= {
            "language2": languages,
            "item_language": ("item", np.repeat(languages, shown)),
            "item_sentence": ("item", np.tile(recording.ids[:shown], len(languages))),
        }
    return xr.Dataset(data, coordinates)


def _summary(recording: Recording, found: _Found, settings: RegionsSettings) -> dict[str, Any]:
    intervals: dict[str, Any] = {}
    if found.draws is not None:
        intervals = {"lrds": similarity.interval(found.draws.lrds), "sads": similarity.interval(found.draws.sads)}
        if found.similarity is not None and len(recording.languages) > 2:
            both = similarity.bootstrap_means(found.similarity, settings.bootstrap, settings.seed, languages_too=True)
            intervals["lrds_over_languages"] = similarity.interval(both.lrds)
            intervals["sads_over_languages"] = similarity.interval(both.sads)
    else:
        intervals["none_because"] = f"more than {INTERVAL_ITEMS} items: the (nL)² map is not made"
    return {
        "lrds": float(found.whole.lrds),
        "sads": float(found.whole.sads),
        "same_language": float(found.whole.same_language),
        "same_sentence": float(found.whole.same_sentence),
        "neither": float(found.whole.neither),
        "sklr": found.regions.total,
        "sklr_share": found.regions.total / recording.neurons,
        "region_size": found.regions.sizes,
        "neurons": recording.neurons,
        "layers": recording.layers,
        "threshold": settings.threshold,
        "largest_z": localisation.largest_z(len(recording.languages)),
        "languages": list(recording.languages),
        "n": len(recording.ids),
        "intervals": intervals,
        "first_position_share": recording.first_position_share,
        "top10_share": recording.top_share(),
    }


def _calibrate(
    run: RunWriter,
    recording: Recording,
    found: _Found,
    settings: RegionsSettings,
    summary: dict[str, Any],
    progress: Progress,
) -> dict[str, masks.RegionSet]:
    steadiness = calibration.steadiness(recording, found.scores, settings)
    if steadiness is not None:
        summary |= calibration.write_steadiness(run, steadiness, recording, settings.threshold)
    null = None
    if settings.permutations:
        null, told = calibration.calibrate(
            run, recording, found.regions, found.whole, found.similarity, settings, progress
        )
        summary |= told
    sets = calibration.compare_methods(run, recording, found.regions, found.z, null, settings)
    summary["methods"] = {name: regions.sizes for name, regions in sets.items()}
    return sets


def _probe(
    run: RunWriter,
    model: Model,
    sample: ParallelCorpus,
    recording: Recording,
    sets: Mapping[str, masks.RegionSet],
    windows: Mapping[str, Windows],
    settings: RegionsSettings,
    summary: dict[str, Any],
    progress: Progress,
) -> None:
    if settings.alignment:
        summary["matched_negatives"] = probes.write_alignment(run, model, recording, sample)
    if settings.alignment_neurons:
        probes.write_alignment_neurons(run, model, sample, recording, windows, settings)
    if settings.doses:
        probes.write_doses(run, model, recording, sets, windows, settings, progress)
    if settings.generate or settings.steer:
        steered = probes.write_generations(run, model, recording, sets["z-score"], sample, settings, progress)
        if steered:
            summary["steering"] = steered


def _deactivation(
    model: Model, windows: dict[str, Windows], found: _Found, settings: RegionsSettings, progress: Progress
) -> DeactivationTable:
    passes = 1 + len(found.regions.masks) + 2 * settings.controls
    tokens = passes * sum(text.ids.numel() for text in windows.values())
    with progress("deactivation table", tokens, "tokens") as step:
        return deactivation_table(model, windows, found.regions, settings.controls, settings.seed, progress=step)


def _write_table(run: RunWriter, table: DeactivationTable) -> None:
    run.table("perplexity", pd.DataFrame(asdict(row) for row in table.rows))
    if table.selectivity:
        run.table("selectivity", pd.DataFrame(asdict(row) for row in table.selectivity))


def _manifest(
    run: RunWriter,
    model: Model,
    settings: RegionsSettings,
    sample: ParallelCorpus,
    windows: Mapping[str, Windows],
    summary: dict[str, Any],
) -> None:
    facts = model.facts()
    corpus = {
        "spec": sample.spec,
        "hash": sample.hash,
        "languages": list(sample.languages),
        "sentence_ids": list(sample.ids),
        "dropped": dict(sample.dropped),
    }
    decided = {
        "settings": asdict(settings),
        "weights": model.weight_hash,
        "tokenizer": model.tokenizer_hash,
        "corpus": sample.hash,
        "dtype": facts["dtype"],
        "version": __version__,
    }
    run.manifest.update(
        babelscope=__version__,
        asked=asdict(settings),
        defaults={"token_budget": token_budget(model.device), "window": _window_facts(windows)},
        model=facts,
        tokenizer_hash=model.tokenizer_hash,
        corpus=corpus,
        seeds={"sample": settings.seed, "controls": settings.seed, "bootstrap": settings.seed},
        versions=versions(),
        key=run_key(decided),
        summary={"model": model.id, **summary},
    )


def _window_facts(windows: Mapping[str, Windows]) -> dict[str, Any]:
    return {code: {"tokens": text.ids.shape[1], "windows": text.ids.shape[0]} for code, text in windows.items()}


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "xarray", "zarr")
    return {
        "python": platform.python_version(),
        "babelscope": __version__,
        **{name: version(name) for name in packages},
    }
