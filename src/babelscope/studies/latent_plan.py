"""What a study of latent language will cost: each kind of step is rehearsed on few concepts of the first pair."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from babelscope.corpora import ParallelCorpus, TextCollection
from babelscope.errors import InputError
from babelscope.latent.tuned import TunedLens
from babelscope.models import Model
from babelscope.studies.latent import LatentSteps
from babelscope.studies.latent_settings import LatentSettings
from babelscope.studies.latent_texts import chosen_words, read_texts
from babelscope.studies.plan import WRITING, StudyPlan
from babelscope.studies.rehearsal import Clock, Spent, planned, rehearsed
from babelscope.studies.steps import AnyStep, run_steps

CONCEPTS = (8, 16)
"""concepts of a rehearsal"""
TOKENS = (1024, 2048)
"""a language, of a rehearsed tuned lens"""
DESCENT = (2, 4)
"""steps of a rehearsed descent"""

SHARED = ("logit lens", "tuned lens,", "patching", "residual alignment")
"""steps that workers do at once, each pair and kind of lens by itself; a tuned lens is fitted before"""


def plan_latent(
    model: Model,
    settings: LatentSettings,
    corpus: ParallelCorpus | None = None,
    texts: Mapping[str, TextCollection] | None = None,
    clock: Clock = time.perf_counter,
) -> StudyPlan:
    """Time, passes and tokens of each kind of step of `study_latent`, all pairs counted; nothing is written.

    Raises what the study itself would raise before it measures.

    >>> plan_latent(model, LatentSettings(words="pocket", to=("fr",), from_=("en",))).seconds      # doctest: +SKIP
    41.2
    """
    started = clock()
    words = chosen_words(settings)
    parallel, running = read_texts(settings, words, corpus, texts)
    reading = clock() - started
    whole = LatentSteps(model, settings, words, parallel, running)
    rehearse = _Rehearsal(whole, clock)
    found: dict[str, tuple[Spent, str]] = {}
    if whole.tuned is not None:
        found["tuned lens"] = rehearse.tuned(), "--text-tokens"
    for lens in settings.lens if "lens" in settings.parts else ():
        pairs = sum(step.settings.lens == lens for step in whole.lenses)
        one = rehearse.words(lambda steps, lens=lens: next(s for s in steps.lenses if s.settings.lens == lens))
        found[f"{lens} lens, {pairs} pairs"] = one * pairs, "--n, --draws, --permutations"
    if whole.patches:
        one = rehearse.words(lambda steps: steps.patches[0], settings.trials)
        found[f"patching, {len(whole.patches)} pairs"] = one * len(whole.patches), "--trials"
    if whole.alignment is not None:
        found["residual alignment"] = rehearse.words(lambda steps: steps.alignment), "--n"
    found["texts read, run written"] = Spent(reading + WRITING), ""
    return planned(found)


class _Rehearsal:
    """The same study with few concepts, one pair at a time."""

    def __init__(self, whole: LatentSteps, clock: Clock) -> None:
        self.model, self.settings, self.all_words = whole.model, whole.settings, whole.words
        self.parallel, self.running, self.clock = whole.parallel, whole.running, clock
        self.lens: TunedLens | None = None

    def words(self, choose: Callable[[LatentSteps], AnyStep | None], trials: int | None = None) -> Spent:
        """One step at two numbers of concepts, or of trials."""
        whole = len(self.all_words) if trials is None else trials
        for times in (1, 2, 4, 8):
            sizes = tuple(min(whole, times * count) for count in CONCEPTS)
            try:
                return rehearsed(self.model, lambda size: self._once(choose, size), sizes, whole, self.clock)  # pyright: ignore[reportArgumentType]
            except InputError:  # so few concepts may leave none that the tokenizer can tell apart
                if sizes[0] == whole:
                    raise
        return rehearsed(self.model, lambda size: self._once(choose, size), (whole, whole), whole, self.clock)

    def _once(self, choose: Callable[[LatentSteps], AnyStep | None], size: int) -> None:
        concepts = self.all_words.concepts
        few = replace(self.all_words, concepts=concepts[: max(3, min(size, len(concepts)))])
        asked = self.settings
        source, target = asked.pairs[0]
        changed: dict[str, object] = {"to": (target,), "n": len(few)}
        if asked.task in ("translation", "sentence"):
            changed["from_"] = (source,)
        if "patch" in asked.parts:
            changed["trials"] = size
        if asked.tuned is None and "tuned" in asked.lens:
            changed["text_tokens"] = min(asked.text_tokens or TOKENS[0], TOKENS[0])
            changed |= {"steps": DESCENT[0]} if asked.fit == "kl" else {}
        own = replace(asked, **changed)
        steps = LatentSteps(self.model, own, few, self.parallel, self.running, self.lens)
        step = choose(steps)
        assert step is not None
        results = run_steps([*step.needs, step], steps.inputs)
        if step.needs and steps.tuned is not None:
            self.lens = results[steps.tuned]  # fitted in the round that is not timed

    def tuned(self) -> Spent:
        """The tuned lens on little text, or on few steps of the descent."""
        own = self.settings
        if own.tuned is not None:
            return Spent()

        def fit(size: int) -> None:
            by_steps = own.fit == "kl"
            some = replace(own, steps=size) if by_steps else replace(own, text_tokens=size)
            steps = LatentSteps(self.model, some, self.all_words, self.parallel, self.running)
            assert steps.tuned is not None
            run_steps([steps.tuned], steps.inputs)

        if own.fit == "kl":
            return rehearsed(self.model, fit, DESCENT, own.steps, self.clock)
        longest = max(len(ids) for ids in self._token_counts())
        whole = min(own.text_tokens or longest, longest)
        return rehearsed(self.model, fit, (min(TOKENS[0], whole), min(TOKENS[1], whole)), whole, self.clock)

    def _token_counts(self) -> list[list[int]]:
        assert self.running is not None
        texts = ("\n".join(one.text for one in text.documents) for text in self.running.values())
        return [self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
