"""The parts of a regions study that ask for more: alignment metrics, alignment neurons, doses and writing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import nan

import torch
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.models import Model
from babelscope.regions import alignment, confounds, generation
from babelscope.regions.alignment_neurons import Removals, Task, deactivate_alignment
from babelscope.regions.identification import Identifier
from babelscope.regions.masks import RegionSet
from babelscope.regions.methods import PERMUTED
from babelscope.regions.perplexity import Windows, score
from babelscope.regions.recording import Recording
from babelscope.regions.table import RANDOM, conditions
from babelscope.regions.treatments import Doses, Treatment, dose_response
from babelscope.results.rows import write_rows
from babelscope.results.schemas.regions import (
    Alignment,
    AlignmentMean,
    AlignmentNeurons,
    Continuation,
    Dose,
    TextMeans,
    WrittenShare,
)
from babelscope.studies.progress import Progress
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.steps import Sink


def write_alignment(run: Sink, model: Model, recording: Recording, corpus: ParallelCorpus) -> dict[str, object]:
    """Table `alignment`: every metric by layer and pair, SADS against matched negatives, token overlap and script.

    Table `alignment_means`: the mean over pairs of languages by layer, with an interval of its own.
    """
    languages = recording.languages
    sequences = [ids for code in languages for ids in model.tokenize(corpus.texts[code])]
    overlap = confounds.token_overlap(sequences, len(languages))
    controls = [confounds.length_matched(recording.tokens), confounds.overlap_matched(overlap)]
    found = alignment.alignment(recording, negatives=controls)
    n, documents = len(recording.ids), recording.document_count if recording.documents else nan
    rows = [
        Alignment(metric=one.metric, layer=float(layer), language=pair[0], language2=pair[1], value=value, low=low,
                  high=high, interval=one.interval, why=_why(one, low), n=n)
        for one in found
        for place, layer in enumerate(recording.layout.with_neurons)
        for pair, value, low, high in _pairs(languages, one.values[place], one.low[place], one.high[place])
    ]  # fmt: skip
    # no layer: these are facts of texts, not of activations
    facts = {"token-overlap": overlap.translations(), "same-script": confounds.same_script(languages)}
    for name, matrix in facts.items():
        rows += [
            Alignment(metric=name, layer=nan, language=pair[0], language2=pair[1], value=value, n=n,
                      why="a fact of the texts")
            for pair, value, _, _ in _pairs(languages, matrix, matrix, matrix)
        ]  # fmt: skip
    write_rows(run, Alignment, rows)
    means = [
        AlignmentMean(metric=one.metric, layer=layer, value=value, low=low, high=high, interval=one.interval,
                      why=_why(one, low), n=n, documents=documents)
        for one in found
        for layer, value, low, high in zip(
            recording.layout.with_neurons, one.mean.tolist(), one.mean_low.tolist(), one.mean_high.tolist()
        )
    ]  # fmt: skip
    write_rows(run, AlignmentMean, means)
    return {control.name: dict(control.facts) for control in controls}


def _why(one: alignment.Alignment, low: float) -> str:
    return one.why or ("" if low == low else "documents do not differ")


def _pairs(
    languages: Sequence[str], value: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> list[tuple[tuple[str, str], float, float, float]]:
    return [
        ((one, other), float(value[i, j]), float(low[i, j]), float(high[i, j]))
        for i, one in enumerate(languages)
        for j, other in enumerate(languages)
        if i < j
    ]


def write_alignment_neurons(
    run: Sink,
    model: Model,
    corpus: ParallelCorpus,
    recording: Recording,
    windows: Mapping[str, Windows],
    settings: RegionsSettings,
) -> None:
    """Table `alignment_neurons`: SADS, LRDS, loss and story cloze without the neurons that carry SADS."""
    rows = deactivate_alignment(
        model,
        corpus,
        recording,
        windows,
        Removals(settings.alignment_neurons, settings.controls, settings.seed),
        settings.special,
        {"story_cloze": _story_cloze(model, settings.stories, recording.languages)} if settings.stories else None,
    )
    write_rows(run, AlignmentNeurons, rows)


def _story_cloze(model: Model, spec: str, languages: Sequence[str]) -> Task:
    from babelscope.evaluation.cloze import evaluate_cloze
    from babelscope.evaluation.items import load_stories

    stories = load_stories(spec, list(languages))

    def accuracy() -> dict[str, tuple[float, float, float, int]]:
        rows = evaluate_cloze(model, stories).to_dict("records")
        return {str(row["language"]): (row["accuracy"], row["low"], row["high"], row["n"]) for row in rows}

    return accuracy


def write_doses(
    run: Sink,
    model: Model,
    recording: Recording,
    sets: Mapping[str, RegionSet],
    windows: Mapping[str, Windows],
    settings: RegionsSettings,
    progress: Progress,
) -> None:
    """Table `dose`: loss by language as more and more of each method's ranking is treated, by every kind of treatment.

    All methods at equal sizes, each against random neurons of the same layers. Methods that rank by p-values alone are
    left out: their ties leave no order to follow.
    """
    ranked = {name: found for name, found in sets.items() if name not in (*PERMUTED, "random", "random-layer")}
    controls = min(settings.controls, 1)
    passes = 1 + len(ranked) * len(settings.kinds) * len(settings.doses) * len(recording.languages) * (1 + controls)
    rows: list[Dose] = []
    with progress("doses", passes * sum(text.ids.numel() for text in windows.values()), "tokens") as step:
        base = {code: score(model, text, progress=step) for code, text in windows.items()}
        for name, found in ranked.items():
            doses = dose_response(
                model, windows, found, Doses(settings.doses, settings.kinds, controls, settings.seed), recording,
                progress=step, base=base,
            )  # fmt: skip
            rows += [replace(row, method=name) for row in doses]
    write_rows(run, Dose, rows)


def write_generations(
    run: Sink,
    model: Model,
    recording: Recording,
    regions: RegionSet,
    corpus: ParallelCorpus,
    settings: RegionsSettings,
    progress: Progress,
) -> None:
    """Tables `generations` and `generation_shares`; raises MissingExtra without py3langid."""
    sampling = generation.Sampling(settings.generate_tokens, seed=settings.seed)
    prompts = {
        code: generation.cut_prompts(
            model, corpus.texts[code], settings.prompt_tokens, settings.generate, settings.special
        )
        for code in recording.languages
    }
    made = [one for one in conditions(regions, min(settings.controls, 2), settings.seed) if one.deactivated != RANDOM]
    rows: list[Continuation] = []
    with progress("generations", len(made) * sum(map(len, prompts.values())), "texts") as step:
        for code, own in prompts.items():
            chosen = [(one.deactivated, one.draw, _treatment(one.on(code))) for one in made]
            rows += generation.generations(model, {code: own}, chosen, sampling, recording.languages, step)
    order = [(one.deactivated, one.draw) for one in made]
    rows.sort(key=lambda row: order.index((row.deactivated, row.draw)))
    write_rows(run, WrittenShare, written_shares(rows, Identifier(recording.languages).unknown))
    write_rows(run, Continuation, rows)


def _treatment(mask: Tensor | None) -> Treatment | None:
    return None if mask is None else Treatment(mask)


def written_shares(rows: Sequence[Continuation], unknown: Collection[str]) -> list[WrittenShare]:
    """By language and condition; no share of a language that is never identified."""
    groups: dict[tuple[str, str], list[Continuation]] = {}
    for row in rows:
        groups.setdefault((row.language, row.deactivated), []).append(row)
    return [
        WrittenShare(
            language=language, deactivated=condition, n=len(found), own_share=own.value, own_low=own.low,
            own_high=own.high, text=TextMeans(**generation.means_of(found)),
        )
        for (language, condition), found in groups.items()
        for own in [generation.share([row.identified == language for row in found if language not in unknown])]
    ]  # fmt: skip
