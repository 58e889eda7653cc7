"""The first main job, end to end: from a model and parallel text to a run directory with regions and their effects."""

from __future__ import annotations

import math
import platform
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from babelscope._version import __version__
from babelscope.corpora import ParallelCorpus, TextCollection, load_corpus, load_texts
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.regions import masks
from babelscope.regions.headlines import rarefied_excess
from babelscope.regions.perplexity import Windows, cut_windows
from babelscope.regions.recording import Span, record
from babelscope.regions.table import DeactivationTable, deactivation_table
from babelscope.results import Run, RunWriter, open_run, run_key
from babelscope.studies import calibration, probes
from babelscope.studies.progress import Progress, silent
from babelscope.studies.region_scores import RegionScores, score_regions, summary, write_headlines, write_scores
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.routing import write_routing

__all__ = ["RegionsSettings", "study_regions", "versions"]

IN_MEMORY = 1 << 30
"""bytes of mean activations above which a recording lies in a temporary file"""


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
    settings.check_languages(sample.languages)
    if settings.texts and texts is None:
        texts = load_texts(settings.texts, sample.languages)
    windows = _windows(model, texts, settings) if texts else {}
    with RunWriter(out, kind="regions", overwrite=overwrite) as run, _room(model, sample) as room:
        with progress("recording", len(sample) * len(sample.languages), "sentences") as step:
            recording = record(
                model, sample, settings.special, "lape" in settings.methods, store=room, progress=step,
                span=Span(settings.first, settings.tokens),
            )  # fmt: skip
        sample = sample.select(recording.ids)
        found = score_regions(model, recording, sample, settings)
        write_scores(run, found, sample, settings)
        told = summary(found, settings)
        if windows:
            table = _deactivation(model, windows, found.main, settings, progress)
            _write_table(run, table)
            told["perplexity"] = table.perplexities()
        sets = _calibrate(run, found, settings, told, progress)
        told |= write_routing(run, model, recording, windows, settings)
        _probe(run, model, sample, found, sets, windows, settings, told, progress)
        _manifest(run, model, settings, sample, windows, told)
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
            return replace(text, documents=text.documents[:count])
    return text


def _calibrate(
    run: RunWriter, found: RegionScores, settings: RegionsSettings, told: dict[str, Any], progress: Progress
) -> dict[str, masks.RegionSet]:
    excess = {"excess_sklr_rarefied": rarefied_excess(found.recording, settings.threshold, settings.rarefy)}
    steadiness = calibration.steadiness(found, settings)
    if steadiness is not None:
        told |= calibration.write_steadiness(run, steadiness, found.recording, settings.threshold)
    null = None
    if settings.permutations:
        null, more, interval = calibration.calibrate(run, found, steadiness, settings, progress)
        told |= more
        excess["excess_sklr"] = interval
    for name, one in excess.items():
        told[name] = None if math.isnan(one.value) else one.value
        told["interval_methods"][name] = one.method
        if not math.isnan(one.low):
            told["intervals"][name] = [one.low, one.high]
        if one.why:
            told["why"][name] = one.why
    share = {"language_share": found.headlines.language_share, "strong_neurons": found.headlines.strong_neurons}
    write_headlines(run, {**share, **excess, **found.intervals}, found.recording)
    sets = calibration.compare_methods(run, found, null, settings)
    told["methods"] = {name: regions.sizes for name, regions in sets.items()}
    return sets


def _probe(
    run: RunWriter,
    model: Model,
    sample: ParallelCorpus,
    found: RegionScores,
    sets: Mapping[str, masks.RegionSet],
    windows: Mapping[str, Windows],
    settings: RegionsSettings,
    told: dict[str, Any],
    progress: Progress,
) -> None:
    recording = found.recording
    if settings.alignment:
        told["matched_negatives"] = probes.write_alignment(run, model, recording, sample)
    if settings.alignment_neurons:
        probes.write_alignment_neurons(run, model, sample, recording, windows, settings)
    if settings.doses:
        probes.write_doses(run, model, recording, sets, windows, settings, progress)
    if settings.generate or settings.steer:
        steered = probes.write_generations(run, model, recording, found.main, sample, settings, progress)
        if steered:
            told["steering"] = steered


def _deactivation(
    model: Model, windows: dict[str, Windows], regions: masks.RegionSet, settings: RegionsSettings, progress: Progress
) -> DeactivationTable:
    passes = 1 + len(regions.masks) + 2 * settings.controls
    tokens = passes * sum(text.ids.numel() for text in windows.values())
    with progress("deactivation table", tokens, "tokens") as step:
        return deactivation_table(model, windows, regions, settings.controls, settings.seed, progress=step)


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
    told: dict[str, Any],
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
        summary={"model": model.id, **told},
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
