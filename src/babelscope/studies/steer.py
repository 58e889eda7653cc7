"""The study of steering: fit on some documents, choose layer and strength on others, report on the rest.

Each pair of languages is a step of its own, so that an interrupted study of many pairs goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import nan
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.corpora.files import read_lines
from babelscope.errors import CorpusError, InputError
from babelscope.languages import language
from babelscope.models import Model
from babelscope.models.chat import prompt_ids
from babelscope.models.decoding import ignored_settings, stop_ids
from babelscope.results import RunWriter
from babelscope.results.checksums import file_hash
from babelscope.results.rows import rows_frame, write_rows
from babelscope.results.schemas.steering import (
    Answer,
    Ceiling,
    Continuation,
    Damage,
    Directed,
    Fidelity,
    Front,
    Steered,
    SteeredConfusion,
    SteeringControl,
)
from babelscope.steering.benchmark import own_prompts, read_benchmark
from babelscope.steering.ceiling import ceilings
from babelscope.steering.confusion import OfflineRule, kinds_of
from babelscope.steering.controls import CONTROLS, PROMPTED, STEERED, UNSTEERED, generator_of
from babelscope.steering.directions import METHODS
from babelscope.steering.files import SavedEdit, save_edit
from babelscope.steering.fitted import Fitted, Neurons, Setting, fit_neurons
from babelscope.steering.inference import holm
from babelscope.steering.losses import text_loss
from babelscope.steering.moments import Moments, collect
from babelscope.steering.sentences import first_sentence
from babelscope.studies.progress import Progress, silent
from babelscope.studies.steer_pair import Asked, Pair, PairTables, asked_of, how_of, told_of
from babelscope.studies.steer_settings import BENCHMARK, CORPUS, EVERYDAY, SteerSettings
from babelscope.studies.steps import AnyStep, Given, KeptSteps, Step, run_steps

if TYPE_CHECKING:
    from babelscope.results import Run

SHARES = (0.5, 0.2)
"""of the documents: fit, choose; the rest is reported on"""


@dataclass(frozen=True)
class Split:
    """Three corpora that share no document."""

    fit: ParallelCorpus
    choose: ParallelCorpus
    report: ParallelCorpus


def split_documents(corpus: ParallelCorpus, seed: int) -> Split:
    """Documents drawn into fit, choose and report; raises InputError with fewer than six."""
    names = list(dict.fromkeys(corpus.groups.get(one, one) for one in corpus.ids))
    if len(names) < 6:
        raise InputError(f"{corpus.spec} has {len(names)} documents; fit, choose and report need six or more")
    order = [names[place] for place in generator_of("split", seed).permutation(len(names))]
    first, second = round(SHARES[0] * len(order)), round(sum(SHARES) * len(order))
    parts = [set(order[:first]), set(order[first:second]), set(order[second:])]
    return Split(*(corpus.select(one for one in corpus.ids if corpus.groups.get(one, one) in part) for part in parts))


def read_corpus(settings: SteerSettings, corpus: ParallelCorpus | None = None) -> ParallelCorpus:
    """The parallel text that the settings ask for, unless it is given, in the form and number that they ask for."""
    found = corpus or load_corpus(settings.corpus, list(settings.languages) or None)
    if settings.normalise:
        found = found.normalised(settings.normalise)
    return found.sample(settings.samples, settings.seed) if settings.samples else found


@dataclass(frozen=True, eq=False)
class FitResult:
    """What the first step leaves."""

    moments: Moments
    neurons: Neurons | None


def study_steering(
    model: Model,
    settings: SteerSettings,
    out: str | PathLike[str],
    overwrite: bool = False,
    corpus: ParallelCorpus | None = None,
    progress: Progress = silent,
    fresh: bool = False,
) -> Run:
    """Steer every pair by every method and write the run; `fresh` forgets the steps that a stopped study left.

    Raises InputError for a corpus of too few documents, MissingExtra without py3langid.

    >>> study_steering(model, SteerSettings(corpus="pocket:heldout", fixed=True), "runs/steer")    # doctest: +SKIP
    """
    from babelscope.results import open_run

    found = read_corpus(settings, corpus)
    split = split_documents(found, settings.seed)
    pairs = settings.wanted(tuple(found.languages))
    judge = OfflineRule(found.languages)
    study = SteeringSteps(model, settings, split, judge, progress)
    steps = study.steps(pairs)
    inputs = {"model": model.function_hash, "tokenizer": model.tokenizer_hash, "corpus": found.hash}
    place = Path(settings.prompts.removeprefix(BENCHMARK))
    if settings.prompts not in (CORPUS, EVERYDAY) and place.exists():
        inputs["prompts"] = file_hash(place)
    with (
        KeptSteps(out, "fresh" if fresh else "resume") as beside,
        RunWriter(out, kind="steering", overwrite=overwrite) as run,
    ):
        store = beside.open()
        results = run_steps(steps, inputs, store, progress)
        tables = [results[step] for step in steps[1:]]
        steered = _with_holm([row for one in tables for row in one.steering])
        drawn = {row.control for one in tables for row in one.controls}
        steered = steered.drop(columns=[kind for kind in CONTROLS if kind not in drawn])
        answers = [row for one in tables for row in one.answers]
        rises = rows_frame(Damage, (row for one in tables for row in one.damage))
        kept = rows_frame(Fidelity, (row for one in tables for row in one.fidelity))
        run.table(Steered.TABLE, steered)
        write_rows(run, Answer, answers)
        run.table(Damage.TABLE, rises)
        run.table(Fidelity.TABLE, kept)
        write_rows(run, Continuation, (row for one in tables for row in one.continuation))
        write_rows(run, SteeringControl, (row for one in tables for row in one.controls))
        write_rows(run, Front, (row for one in tables for row in one.front))
        write_rows(run, Directed, (row for one in tables for row in one.directions))
        write_rows(run, SteeredConfusion, _confusion(answers))
        write_rows(run, Ceiling, ceilings(judge, split.report, [row.judged.text for row in answers]))
        fitted = study.fitted(results[steps[0]])
        files = _save_edits(run, steered, fitted, model, settings, found)
        sentences = [first_sentence(rows, rises, kept) for rows in _headlines(steered)]
        run.manifest.update(
            asked=asdict(settings), model=model.facts(), tokenizer_hash=model.tokenizer_hash, corpus_hash=found.hash,
            corpus_notes=list(found.notes),
            splits={name: len(getattr(split, name)) for name in ("fit", "choose", "report")}, edits=files,
            generation={"ignored": ignored_settings(model), "stop": list(stop_ids(model)),
                        **study.first_prompt(pairs[0][0])},
            seeds=[settings.seed], languages=list(found.languages),
            summary={"first": sentences[:1], "sentences": sentences},
        )  # fmt: skip
    return open_run(out)


class SteeringSteps:
    """The steps of a study."""

    def __init__(
        self, model: Model, settings: SteerSettings, split: Split, judge: OfflineRule, progress: Progress = silent
    ) -> None:
        self.model, self.settings, self.split, self.judge, self.progress = model, settings, split, judge, progress

    def steps(self, pairs: Sequence[tuple[str, str]]) -> list[AnyStep]:
        """Fitting, and one step for each pair."""
        fit: Step[SteerSettings, FitResult] = Step("fit", self.settings, self._fit)
        return [fit, *(Step(f"{s}-{t}", self.settings, self._pair(fit, s, t), needs=(fit,)) for s, t in pairs)]

    def _fit(self, settings: SteerSettings, given: Given) -> FitResult:
        return self.fit(self.split.fit)

    def fit(self, corpus: ParallelCorpus) -> FitResult:
        """Means of states, and neurons where a method needs them, from parallel text."""
        settings = self.settings
        with self.progress("states", len(corpus) * len(corpus.languages), "sentences") as step:
            moments = collect(self.model, corpus, settings.weighting, progress=step)
        return FitResult(
            moments, fit_neurons(self.model, corpus, settings.lape_share) if settings.by_neurons() else None
        )

    def fitted(self, result: FitResult) -> Fitted:
        return Fitted(self.model, self.split.fit, result.moments, how_of(self.settings), result.neurons)

    def _pair(
        self, fit: Step[SteerSettings, FitResult], source: str, target: str
    ) -> Callable[[SteerSettings, Given], PairTables]:
        def run(settings: SteerSettings, given: Given) -> PairTables:
            pair = Pair(self.model, self.fitted(given[fit]), settings, self.judge, source, target)
            choose = self.prompts(source, self.split.choose, settings.choose_prompts, 0)
            report = self.prompts(source, self.split.report, settings.report_prompts, 1)
            self._work(pair, choose, report)
            return pair.tables

        return run

    def _work(self, pair: Pair, choose: Asked, report: Asked) -> None:
        settings, plain = self.settings, self.settings.prompts == CORPUS
        told = told_of(report, language(pair.target).name, self.model, settings, plain)
        chosen_texts = running(self.split.choose, pair.target)
        report_texts = {code: running(self.split.report, code) for code in self._measured(pair)}
        losses = {code: text_loss(self.model, texts) for code, texts in report_texts.items()}
        base = text_loss(self.model, chosen_texts)
        pair.measure_reference(self.split.report, settings.report_prompts)
        unsteered = pair.baselines(report, told)
        pair.continue_text(None, self.split.report, settings.report_prompts)
        with self.progress(f"{pair.source} to {pair.target}", len(settings.method), "methods") as step:
            for method in settings.method:
                pair.describe(method)
                for place, (setting, why) in enumerate(pair.choose(method, choose, chosen_texts, base)):
                    pair.report(setting, why, report, unsteered, full=place == 0)
                    pair.report_damage(setting, report_texts, losses)
                    if place == 0:
                        pair.continue_text(setting, self.split.report, settings.report_prompts)
                step(1)

    def _measured(self, pair: Pair) -> list[str]:
        others = [code for code in self.split.report.languages if code not in (pair.source, pair.target)]
        return [pair.target, pair.source, *others[: self.settings.third]]

    def prompts(self, source: str, corpus: ParallelCorpus, count: int, part: int) -> Asked:
        """Prompts in one language: of the documents of a part, or every second of a set that has no documents."""
        where = self.settings.prompts
        if where == CORPUS:
            rows = _spread(corpus, count)
            texts = [corpus.texts[source][row] for row in rows]
            names = [corpus.groups.get(corpus.ids[row], corpus.ids[row]) for row in rows]
            return asked_of(self.model, texts, names, self.settings, True)
        texts = self._set(source, where)[part::2][:count]
        if not texts:
            raise InputError(f"--prompts {where}: too few prompts in {source}")
        return asked_of(self.model, texts, [f"{part}/{place}" for place in range(len(texts))], self.settings, False)

    def first_prompt(self, source: str) -> dict[str, str]:
        """What a run records of its prompts: the hash of the chat template, and the first one as the model reads it."""
        settings, plain = self.settings, self.settings.prompts == CORPUS
        texts = self.prompts(source, self.split.choose, 1, 0).texts
        made = prompt_ids(self.model, texts, "off" if plain else settings.chat, None if plain else settings.system)
        return {"template": made.template, "first_prompt": made.first}

    def _set(self, source: str, where: str) -> list[str]:
        if where == EVERYDAY:
            return own_prompts([source])[source]
        if where.startswith(BENCHMARK):
            prompts = read_benchmark(where.removeprefix(BENCHMARK), ("monolingual",))
            return [one.text for one in prompts if one.language == source]
        try:
            return [line.strip() for line in read_lines(Path(where)) if line.strip()]
        except CorpusError as error:
            raise InputError(f"--prompts {where}: corpus, everyday, lcb:FOLDER, or a text file ({error})") from error


def _spread(corpus: ParallelCorpus, count: int) -> list[int]:
    """Rows of sentences, taken in turn from every document."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(corpus.ids):
        places.setdefault(corpus.groups.get(name, name), []).append(row)
    turns = [rows[turn] for turn in range(len(corpus)) for rows in places.values() if turn < len(rows)]
    return sorted(turns[:count])


def running(corpus: ParallelCorpus, code: str) -> list[str]:
    """The documents of a language, each as one text."""
    return [text for _, text in corpus.documents(code)]


def _with_holm(steered: Sequence[Steered]) -> pd.DataFrame:
    """The table, with p-values of a method adjusted over its pairs."""
    frame = rows_frame(Steered, steered)
    for _, rows in frame[frame.p.notna()].groupby("method"):
        adjusted = holm({str(index): float(p) for index, p in rows.p.items()})
        for index in rows.index:
            frame.loc[index, "p_holm"] = adjusted[str(index)]
    return frame


def _confusion(answers: Sequence[Answer]) -> list[SteeredConfusion]:
    """Kinds of confusion by condition and pair."""
    groups: dict[tuple[str, str, str, str, float, float], list[Answer]] = {}
    for row in answers:
        if row.condition in (UNSTEERED, PROMPTED, STEERED):
            place = (row.layer, row.alpha) if row.condition == STEERED else (nan, nan)
            groups.setdefault((row.source, row.target, row.condition, row.method, *place), []).append(row)
    found: list[SteeredConfusion] = []
    for (source, target, condition, method, layer, alpha), own in sorted(groups.items(), key=lambda group: group[0]):
        counted = [row.judged.all_target for row in own if row.judged.kind != "skipped"]
        found.append(SteeredConfusion(
            source=source, target=target, condition=condition, method=method, layer=layer, alpha=alpha,
            kinds=kinds_of([row.judged.kind for row in own]), n=len(own),
            lpr=sum(counted) / len(counted) if counted else nan,
        ))  # fmt: skip
    return found


def _headlines(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows that one sentence is about: a pair's baselines and one method's chosen setting, p known."""
    found: list[pd.DataFrame] = []
    steered = frame.loc[frame["condition"] == STEERED]
    for _, rows in steered.groupby(["source", "target", "method"], sort=False):
        first = rows.iloc[0]
        same = (frame["source"] == first["source"]) & (frame["target"] == first["target"])
        found.append(pd.concat([rows.head(1), frame.loc[same & (frame["condition"] != STEERED)]]))
    return found


def _save_edits(
    run: RunWriter, frame: pd.DataFrame, fitted: Fitted, model: Model, settings: SteerSettings, corpus: ParallelCorpus
) -> list[str]:
    """The chosen directions and regions as files, with their facts."""
    names: list[str] = []
    for rows in _headlines(frame):
        row = rows.iloc[0]
        told = row.to_dict()
        setting = Setting(
            str(told["source"]), str(told["target"]), str(told["method"]), int(told["layer"]), float(told["alpha"])
        )  # fmt: skip
        facts = {
            "model": model.id, "weight_hash": model.weight_hash, "corpus": corpus.spec, "corpus_hash": corpus.hash,
            "fit_documents": len(fitted.moments.documents), "method": setting.method, "success": float(told["success"]),
        }  # fmt: skip
        name = f"edits/{setting.source}-{setting.target}-{setting.method}.safetensors"
        saved: SavedEdit | None = None
        how = how_of(settings)
        if setting.method in METHODS:
            saved = SavedEdit(
                tuple(fitted.directions(setting)), alpha=setting.alpha, edit=how.edit, keep=how.keep, unit=how.unit,
                where=how.where, first=how.first, facts=facts,
            )  # fmt: skip
        elif fitted.neurons is not None and setting.method == "arithmetic":
            known = fitted.neurons
            others = [known.means[code] for code in known.means if code != setting.target]
            saved = SavedEdit(
                mask=known.lape[setting.target], values=known.means[setting.target], alpha=setting.alpha,
                off=known.lape[setting.source] & ~known.lape[setting.target], others=torch.stack(others).mean(0),
                arithmetic=how.mode, where=how.where, first=how.first, facts=facts,
            )  # fmt: skip
        elif fitted.neurons is not None:
            mask, means = fitted.neurons.regions[setting.target], fitted.neurons.means[setting.target]
            values = setting.alpha * means if setting.method == "neurons" else None
            saved = SavedEdit(mask=mask, values=values, alpha=1.0 if values is not None else setting.alpha,
                              where=how.where, first=how.first, facts=facts)  # fmt: skip
        if saved is not None:
            save_edit(saved, run.file(name))
            names.append(name)
    return names
