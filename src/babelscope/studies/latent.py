"""Which language does a model work in? From a model and a word list to a run with verdicts (latent language).

Steps: a lens for each pair of languages and kind of lens, the tuned lens before them, patching, residual alignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from babelscope._version import __version__
from babelscope.corpora import ParallelCorpus, TextCollection, load_corpus
from babelscope.errors import InputError
from babelscope.latent.census import refuse_empty
from babelscope.latent.frequencies import counts_by_item, read_counts
from babelscope.latent.geometry import MatchedRows, target_projection
from babelscope.latent.judging import Pair, Rules
from babelscope.latent.lens import Readings, averaging, check_lens, items_of, read, solved, states
from babelscope.latent.patching import Patched, patch
from babelscope.latent.prompts import Prompt, sentence_prompts, word_prompts
from babelscope.latent.running import running_text
from babelscope.latent.separation import separation
from babelscope.latent.tokens import TokenSets, token_sets
from babelscope.latent.trials import asked_tokens, languages_of, trials
from babelscope.latent.tuned import TunedLens, fit_kl, fit_ridge, scored, warning
from babelscope.latent.verdict import sentence, thinks_in
from babelscope.latent.words import WordList
from babelscope.models import Model
from babelscope.regions.residual import record_residual
from babelscope.results import Run, RunWriter, open_run, run_key
from babelscope.results.checksums import file_hash
from babelscope.studies import latent_tables as tables
from babelscope.studies.latent_settings import Asking, Judgement, LatentSettings, LensKind, Patching, Tuning, Words
from babelscope.studies.latent_texts import chosen_words, read_texts
from babelscope.studies.progress import Progress, silent
from babelscope.studies.steps import AnyStep, Apart, Given, KeptSteps, Results, Step, run_steps
from babelscope.wording import short_name

__all__ = ["LatentSettings", "census_of", "study_latent"]

LENS_TABLES = ("census", "curves", "entropy", "verdicts", "controls")
PIVOT = "en"
"""the language that every page answers for first"""
TUNED_FILE = "tuned_lens.safetensors"


@dataclass(frozen=True)
class Question:
    """What a lens step and a patching step are asked."""

    words: Words
    asking: Asking
    """with one source and one target"""
    judgement: Judgement
    candidates: tuple[str, ...]
    lens: LensKind

    @property
    def pair(self) -> tuple[str, str]:
        return self.asking.pairs[0]


@dataclass(frozen=True)
class PatchQuestion:
    """What a patching step is asked."""

    words: Words
    asking: Asking
    patching: Patching
    draws: int


@dataclass(frozen=True)
class LensFound:
    """What one lens shows of one pair of languages."""

    lens: str
    source: str
    target: str
    sentence: str
    frames: dict[str, pd.DataFrame]


@dataclass(frozen=True)
class PatchFound:
    """What patching one pair of languages shows."""

    sentence: str
    frame: pd.DataFrame


def study_latent(
    model: Model,
    settings: LatentSettings,
    out: str | Path,
    overwrite: bool = False,
    corpus: ParallelCorpus | None = None,
    texts: Mapping[str, TextCollection] | None = None,
    progress: Progress = silent,
    fresh: bool = False,
) -> Run:
    """Lens by language with controls and verdicts, patching and residual alignment; writes a run and opens it.

    `corpus` and `texts` take the place of the settings' specifications when already loaded; `fresh` forgets the steps
    that a stopped study left. Raises InputError for a word list, language or text that does not serve, with the census
    where no concept can be compared.

    >>> study_latent(model, LatentSettings(words="planted"), "runs/latent").summary["sentences"][0]  # doctest: +SKIP
    'Translating French to Chinese, pocket:planted-pivot solves 40 of 40 concepts and passes through English: …'
    """
    words = chosen_words(settings)
    parallel, running = read_texts(settings, words, corpus, texts)
    steps = LatentSteps(model, settings, words, parallel, running)
    with (
        KeptSteps(out, "fresh" if fresh else "resume") as beside,
        RunWriter(out, kind="latent", overwrite=overwrite) as run,
    ):
        store = beside.open()
        results = run_steps(steps.all, steps.inputs, store, progress)
        found = [results[step] for step in steps.lenses]
        lens: TunedLens | None = results[steps.tuned] if steps.tuned else None
        for name in LENS_TABLES:
            kept = [one.frames[name] for one in found if name != "census" or one.lens == settings.lens[0]]
            if kept:
                run.table(name, tables.joined(kept))
        if lens is not None:
            run.table("tuned", tables.tuned_frame(lens))
            lens.save(run.file(TUNED_FILE))
        patched = [results[step] for step in steps.patches]
        if patched:
            run.table("patch", tables.joined([one.frame for one in patched]))
        if steps.alignment is not None:
            run.table("alignment", results[steps.alignment])
        run.manifest.update(_manifest(model, settings, words, steps.inputs))
        run.manifest["corpus_notes"] = [] if parallel is None else list(parallel.notes)
        first = headline(short_name(model.id), found, settings.lens[0])
        run.manifest["summary"] = {
            "headline": "".join(first),
            "sentences": [
                *first,
                *(one.sentence for one in (*found, *patched)),
            ],
            "languages": list(words.languages),
            "layers": model.layers,
            "pairs": ["→".join(pair) for pair in settings.pairs],
            "concepts": len(words),
            "least": settings.least,
            "tuned_lens": None if lens is None else (warning(model, lens) or "fitted on enough text"),
        }
    return open_run(out)


def headline(model: str, found: Sequence[LensFound], lens: str) -> list[str]:
    """Whether the model thinks in English, over all pairs of other languages; nothing for a single pair, which says it.

    Read off the first lens, on solved concepts.
    """
    rows = tables.joined([one.frames["verdicts"] for one in found if one.lens == lens])
    if not len(rows):
        return []
    own = rows[(rows.language == PIVOT) & (rows.scope == "solved") & (rows.source != PIVOT) & (rows.target != PIVOT)]
    return [thinks_in(model, own.outcome.tolist(), PIVOT)] if len(own) > 1 else []


@dataclass(frozen=True, eq=False)
class LatentElsewhere:
    """The study as another process makes it, its tuned lens fitted before."""

    settings: LatentSettings
    words: WordList
    parallel: ParallelCorpus | None
    lens: TunedLens | None

    def steps(self, model: Model) -> tuple[list[AnyStep], dict[str, str]]:
        """All steps, and the hashes that they depend on."""
        made = LatentSteps(model, self.settings, self.words, self.parallel, None, self.lens)
        return made.all, made.inputs


class LatentSteps:
    """The steps of one study, and what all of them depend on."""

    def __init__(
        self,
        model: Model,
        settings: LatentSettings,
        words: WordList,
        parallel: ParallelCorpus | None,
        running: Mapping[str, TextCollection] | None,
        lens: TunedLens | None = None,
    ) -> None:
        """`lens`: a tuned lens that was fitted before."""
        self.model, self.settings, self.words, self.parallel, self.running = model, settings, words, parallel, running
        self.lens = lens
        self.inputs = {
            "model": model.function_hash,
            "tokenizer": model.tokenizer_hash,
            "dtype": str(model.dtype),
            "words": words.hash,
        }
        aligned = {"parallel": parallel.hash} if parallel is not None else {}
        self.apart = Apart(model, self._elsewhere)
        self.tuned = self._tuned_step() if "tuned" in settings.lens else None
        self.lenses = [self._lens_step(pair, lens, aligned) for pair in settings.pairs for lens in settings.lens]
        self.lenses = self.lenses if "lens" in settings.parts else []
        patching = settings.pairs if "patch" in settings.parts else []
        self.patches = [self._patch_step(pair) for pair in patching if pair[0] != pair[1]]
        self.alignment: Step[Words, pd.DataFrame] | None = None
        if "align" in settings.parts:
            words_asked = settings.part(Words)
            self.alignment = Step("residual alignment", words_asked, self._align, inputs=aligned, apart=self.apart)

    @property
    def all(self) -> list[AnyStep]:
        """In order: the tuned lens first."""
        first = [self.tuned] if self.tuned else []
        last = [self.alignment] if self.alignment else []
        return [*first, *self.lenses, *self.patches, *last]

    def _asking(self, pair: tuple[str, str]) -> Asking:
        return replace(self.settings.part(Asking), from_=(pair[0],), to=(pair[1],))

    def _lens_step(
        self, pair: tuple[str, str], lens: LensKind, aligned: Mapping[str, str]
    ) -> Step[Question, LensFound]:
        settings = self.settings
        candidates = settings.candidates or self.words.languages
        question = Question(settings.part(Words), self._asking(pair), settings.part(Judgement), tuple(candidates), lens)
        needs = (self.tuned,) if lens == "tuned" and self.tuned else ()
        inputs = {**aligned, **({"counts": file_hash(str(settings.counts))} if settings.counts is not None else {})}
        return Step(f"{lens} lens {'-'.join(pair)}", question, self._look, needs, inputs, apart=self.apart)

    def _tuned_step(self) -> Step[Tuning, TunedLens]:
        hashes = {code: text.hash for code, text in (self.running or {}).items()}
        if self.settings.tuned is not None:
            hashes = {"file": file_hash(str(self.settings.tuned))}
        return Step("tuned lens", self.settings.part(Tuning), self._tune, inputs=hashes)

    def _patch_step(self, pair: tuple[str, str]) -> Step[PatchQuestion, PatchFound]:
        settings = self.settings
        question = PatchQuestion(settings.part(Words), self._asking(pair), settings.part(Patching), settings.draws)
        return Step(f"patching {'-'.join(pair)}", question, self._patch, apart=self.apart)

    def _elsewhere(self, results: Results) -> LatentElsewhere:
        lens = None if self.tuned is None else results[self.tuned]
        return LatentElsewhere(self.settings, self.words, self.parallel, lens)

    def _tune(self, own: Tuning, given: Given) -> TunedLens:
        if self.lens is not None:
            return self.lens
        if own.tuned is not None:
            return TunedLens.load(own.tuned, self.model)
        assert self.running is not None
        assert own.text is not None
        text = running_text(self.model, self.running, own.text, own.text_tokens, own.window, self.settings.seed)
        windows = len(text.all("fit"))
        if own.fit == "ridge":
            with given.progress("tuned lens", windows + len(text.all("validation")), "windows") as step:
                lens = fit_ridge(self.model, text, step)
        else:
            with given.progress("tuned lens", own.steps * max(1, own.step_tokens // own.window), "windows") as step:
                lens = fit_kl(self.model, text, own.steps, own.step_tokens, self.settings.seed, step)
        with given.progress("tuned lens: test", 2 * len(text.all("test")), "windows") as step:
            scores = (*scored(self.model, None, text, step), *scored(self.model, lens, text, step))
        return replace(lens, scores=scores)

    def _look(self, own: Question, given: Given) -> LensFound:
        translate = given[self.tuned] if own.lens == "tuned" and self.tuned else None
        pair = pair_of(self.model, own, self.words, self.parallel, translate, given.progress)
        rules = rules_of(own)
        scopes = {"solved": pair.solved, "all": np.ones_like(pair.solved)}
        found = {scope: pair.verdicts(chosen, rules) for scope, chosen in scopes.items()}
        told = sentence(
            short_name(self.model.id), pair.source, pair.target, pair.accuracy, found["solved"], own.asking.task
        )
        through = "" if own.lens == "logit" else "Through the tuned lens: "
        frames = {
            "census": tables.census_frame(pair),
            "curves": tables.curves_frame(pair, own.lens, scopes, rules),
            "entropy": tables.entropy_frame(pair, own.lens),
            "verdicts": tables.verdicts_frame(pair, own.lens, found),
            "controls": tables.controls_frame(pair, own.lens, found, rules),
        }
        return LensFound(own.lens, pair.source, pair.target, through + told, frames)

    def _patch(self, own: PatchQuestion, given: Given) -> PatchFound:
        patching, special = own.patching, own.asking.special
        into = (patching.patch_from, patching.patch_to)
        languages = languages_of(self.words, own.asking.pairs[0], into if into[0] and into[1] else None)  # pyright: ignore[reportArgumentType]
        tokens = asked_tokens(self.model, self.words, languages, special)
        drawn = trials(self.words, tokens, languages, patching.trials, own.words.seed)
        with given.progress("patching", len(drawn), "pairs") as step:
            found: Patched = patch(self.model, tokens, languages, drawn, special, own.words.seed, step)
        verdict = separation(found, own.draws, own.words.seed)
        return PatchFound(verdict.sentence, tables.patch_frame(found, verdict))

    def _align(self, own: Words, given: Given) -> pd.DataFrame:
        assert self.parallel is not None
        sample = self.parallel.sample(min(own.n, len(self.parallel)), own.seed)
        with given.progress("residuals", len(sample) * len(sample.languages), "sentences") as step:
            pooled = record_residual(self.model, sample, special=self.settings.special, progress=step)
        return tables.alignment_frame(pooled, own.seed)


def rules_of(question: Question) -> Rules:
    """How intervals, null and verdict of a question are made."""
    own = question.judgement
    return Rules(own.draws, own.permutations, own.matched, own.least, seed=question.words.seed)


def asked(
    model: Model, question: Question, words: WordList, parallel: ParallelCorpus | None
) -> tuple[list[Prompt], TokenSets]:
    """The prompts of one pair of languages, and the token sets behind them."""
    own = question.asking
    source, target = question.pair
    if own.task == "sentence":
        if parallel is None:
            raise InputError("the task sentence needs a parallel corpus")
        prompts = sentence_prompts(words, parallel, source, target, own.prompts, question.words.seed)
    else:
        prompts = word_prompts(words, own.task, source, target, own.prompts, own.demonstrations, question.words.seed)
    languages = list(dict.fromkeys([source, target, *question.candidates]))
    return prompts, token_sets(model, words, prompts, languages, own.reading, own.special)


def pair_of(
    model: Model,
    question: Question,
    words: WordList,
    parallel: ParallelCorpus | None,
    translate: TunedLens | None,
    progress: Progress = silent,
) -> Pair:
    """Everything that one lens reads for one pair of languages; refuses an empty census before anything runs."""
    source, target = question.pair
    special = question.asking.special
    prompts, tokens = asked(model, question, words, parallel)
    items = items_of(prompts, tokens)
    bare = Pair(words, tokens, source, target, _nothing(tokens), np.zeros(len(tokens.concepts), bool))
    refuse_empty(tables.census_rows(bare))
    check_lens(model, prompts[0].text, special)
    with progress(f"prompts {source} to {target}", len(prompts), "prompts") as step:
        hidden = states(model, [prompt.text for prompt in prompts], special, step)
    with progress("lens and control", 2 * len(hidden) * len(prompts), "positions") as step:
        readings = read(model, hidden, items, tokens, translate, done=step)
        project = target_projection(model, tokens, items, source, target)
        projected = read(model, hidden, items, tokens, translate, project, step)
    moved = hidden if translate is None else translate.moved(hidden)
    matched = MatchedRows(model, moved, averaging(items, len(tokens.concepts))) if question.judgement.matched else None
    right = solved(readings, items, tokens, target)
    counts = question.judgement.counts
    known = {} if counts is None else counts_by_item(words, tokens, read_counts(counts))
    return Pair(words, tokens, source, target, readings, right, projected, matched, known)


def census_of(model: Model, settings: LatentSettings, corpus: ParallelCorpus | None = None) -> pd.DataFrame:
    """The census of every pair, without a pass through the model."""
    words = chosen_words(settings)
    parallel = corpus or (load_corpus(settings.parallel) if settings.parallel else None)
    steps = LatentSteps(model, replace(settings, parts=("lens",), lens=("logit",)), words, parallel, None)
    frames: list[pd.DataFrame] = []
    for step in steps.lenses:
        prompts, tokens = asked(model, step.settings, words, parallel)
        del prompts
        source, target = step.settings.pair
        nobody = np.zeros(len(tokens.concepts), bool)
        frames.append(tables.census_frame(Pair(words, tokens, source, target, _nothing(tokens), nobody)))
    return tables.joined(frames)


def _nothing(tokens: TokenSets) -> Readings:
    return Readings({}, np.zeros((0, len(tokens.concepts))), np.zeros(0, np.int64))


def _manifest(model: Model, settings: LatentSettings, words: WordList, inputs: Mapping[str, str]) -> dict[str, object]:
    asked_for = {key: _plain(value) for key, value in asdict(settings).items()}
    return {
        "babelscope": __version__,
        "asked": asked_for,
        "model": model.facts(),
        "tokenizer_hash": model.tokenizer_hash,
        "task": settings.task,
        "words": {"list": words.name, "concepts": [concept.id for concept in words.concepts]},
        "seeds": [settings.seed],
        "run_key": run_key({"settings": asked_for, "inputs": dict(inputs), "version": __version__}),
    }


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
