"""The first main job, end to end: from a model and parallel text to a run directory with regions and their effects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from babelscope._version import __version__
from babelscope.corpora import ParallelCorpus, TextCollection, load_corpus, load_texts
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.models.encoders import refuse_next_word
from babelscope.regions.headlines import rarefied_excess
from babelscope.regions.perplexity import Windows, cut_windows
from babelscope.regions.table import DeactivationTable
from babelscope.results import Run, RunWriter, open_run, run_key
from babelscope.results.manifest import versions
from babelscope.results.rows import write_rows
from babelscope.results.schemas.regions import Perplexity, Selectivity
from babelscope.studies import calibration
from babelscope.studies.progress import Progress, silent
from babelscope.studies.region_scores import summary, write_headlines, write_scores
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.region_steps import RegionsStudy
from babelscope.studies.steps import Kept, KeptSteps, Results, run_steps

__all__ = ["RegionsSettings", "study_regions"]


def study_regions(
    model: Model,
    settings: RegionsSettings,
    out: str | Path,
    overwrite: bool = False,
    corpus: ParallelCorpus | None = None,
    texts: Mapping[str, TextCollection] | None = None,
    progress: Progress = silent,
    kept: Kept = "resume",
) -> Run:
    """Record, map, localise, deactivate; write a run directory and open it.

    `corpus` and `texts` take the place of the settings' specifications when already loaded. Raises the errors of every
    step before anything is measured where possible: an unattainable threshold, a missing language, too little text.
    Finished steps are kept beside `out` until the run is whole, so that a study that was stopped goes on where it was;
    `kept` "fresh" begins anew, "off" keeps none.

    >>> run = study_regions(model, RegionsSettings("bible:texts", samples=100), "runs/first")   # doctest: +SKIP
    >>> run.summary["sklr"]                                                                    # doctest: +SKIP
    1312
    """
    study = regions_study(model, settings, corpus, texts)
    with KeptSteps(out, kept) as beside, RunWriter(out, kind="regions", overwrite=overwrite) as run:
        store = beside.open()
        results = run_steps(study.steps, study.inputs, store, progress)
        _write(run, study, results)
    return open_run(out)


def regions_study(
    model: Model,
    settings: RegionsSettings,
    corpus: ParallelCorpus | None = None,
    texts: Mapping[str, TextCollection] | None = None,
) -> RegionsStudy:
    """The steps of a study, its text read; raises what `study_regions` raises before it measures."""
    if settings.texts or texts or settings.generate:
        refuse_next_word(model.encoder, model.id)
    whole = corpus or load_corpus(settings.corpus, settings.languages)
    if settings.normalise:
        whole = whole.normalised(settings.normalise)  # what came in memory; nothing is left to change in the rest
    sample = whole.sample(settings.samples, settings.seed)
    settings.check_languages(sample.languages)
    if settings.texts and texts is None:
        texts = load_texts(settings.texts, sample.languages)
    windows = _windows(model, texts, settings) if texts else {}
    return RegionsStudy(model, settings, sample, windows)


def _write(run: RunWriter, study: RegionsStudy, results: Results) -> None:
    """Everything that the steps left, as arrays, tables and files of the run."""
    settings, found = study.settings, results[study.regions]
    sample = study.corpus.select(found.recording.ids)
    write_scores(run, found, sample, settings)
    told = summary(found, settings)
    if study.windows:
        table = results[study.table]
        _write_table(run, table)
        told["perplexity"] = table.perplexities()
        told["deactivation"] = table.reading
    _write_calibration(run, study, results, told)
    for step in (
        study.edited,
        study.routing,
        study.alignment,
        study.sites,
        study.alignment_neurons,
        study.doses,
        study.writing,
    ):
        if step in study.steps:
            results[step].write(run)
            told |= results[step].summary
    _manifest(run, study.model, settings, sample, study.windows, told)


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
        code: cut_windows(model, _enough(text, limit, window), window, limit, settings.joint, settings.special)
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


def _write_calibration(run: RunWriter, study: RegionsStudy, results: Results, told: dict[str, Any]) -> None:
    settings, found = study.settings, results[study.regions]
    excess = {"excess_sklr_rarefied": rarefied_excess(found.recording, settings.threshold, settings.rarefy)}
    steadiness = results[study.steadiness]
    if steadiness is not None:
        told |= calibration.write_steadiness(run, steadiness, found.recording, settings.threshold)
    if settings.permutations:
        null = results[study.null]
        more, excess["excess_sklr"] = calibration.write_calibration(run, found, steadiness, null, settings)
        # reasons of its own stand beside those that were there
        told |= more | {"why": told["why"] | more.get("why", {})}
    for name, one in excess.items():
        told[name] = None if math.isnan(one.value) else one.value
        told["interval_methods"][name] = one.method
        if not math.isnan(one.low):
            told["intervals"][name] = [one.low, one.high]
        if one.why:
            told["why"][name] = one.why
    share = {"language_share": found.headlines.language_share, "strong_neurons": found.headlines.strong_neurons}
    write_headlines(run, {**share, **excess, **found.intervals}, found.recording)
    sets = results[study.methods]
    calibration.write_methods(run, found, sets)
    told["methods"] = {name: regions.sizes for name, regions in sets.items()}


def _write_table(run: RunWriter, table: DeactivationTable) -> None:
    write_rows(run, Perplexity, table.rows)
    if table.selectivity:
        write_rows(run, Selectivity, table.selectivity)


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
        "notes": list(sample.notes),
    }
    decided = {
        "settings": asdict(settings),
        "model": model.function_hash,
        "tokenizer": model.tokenizer_hash,
        "corpus": sample.hash,
        "dtype": facts["dtype"],
        "version": __version__,
    }
    run.manifest.update(
        babelscope=__version__,
        asked=asdict(settings),
        defaults={
            "token_budget": token_budget(model.device),
            "window": _window_facts(windows),
            "special": model.special(settings.special),
        },
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
