"""What a study of steering will cost: its parts are rehearsed on few prompts of the first pair, then counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from babelscope.corpora import ParallelCorpus
from babelscope.languages import language
from babelscope.models import Model
from babelscope.models.decoding import stands_left_padding
from babelscope.models.rows import RowEdit
from babelscope.steering.confusion import OfflineRule
from babelscope.steering.directions import METHODS
from babelscope.steering.inference import LIMITS
from babelscope.steering.losses import retrieval_gains, text_loss
from babelscope.studies.plan import Rate, StudyPlan
from babelscope.studies.rehearsal import Clock, Spent, planned, rehearsed, spent
from babelscope.studies.steer import Split, SteeringSteps, read_corpus, running, split_documents
from babelscope.studies.steer_pair import Asked, Pair, told_of
from babelscope.studies.steer_settings import CORPUS, SteerSettings

PROMPTS = (4, 8)
"""prompts of a rehearsal"""
EDITS = 4
"""settings that write at once in it, at most"""
SENTENCES = (8, 16)
"""of a rehearsed fit"""
CHOSEN = 0.5 + len(LIMITS) / 2
"""settings of a method that are reported, about: a limit each, of which some agree"""

SHARED = ("choosing", "reporting", "controls", "damage", "fidelity")
"""parts whose work is shared out where workers hold the model: what is written, and the likelihood of texts"""


def plan_steering(
    model: Model, settings: SteerSettings, corpus: ParallelCorpus | None = None, clock: Clock = time.perf_counter
) -> StudyPlan:
    """Time, passes and tokens of each part of `study_steering`, all pairs and methods counted; nothing is written.

    Answers are taken to be as long as they may be. Raises what the study itself would raise before it measures.

    >>> plan_steering(model, SteerSettings(corpus="pocket:heldout", fixed=True)).seconds           # doctest: +SKIP
    95.3
    """
    found = read_corpus(settings, corpus)
    split = split_documents(found, settings.seed)
    pairs = settings.wanted(tuple(found.languages))
    some = split.fit.select(split.fit.ids[: SENTENCES[1]])
    small = SteeringSteps(model, settings, Split(some, split.choose, split.report), OfflineRule(found.languages))
    pair = Pair(model, small.fitted(small.fit(some)), settings, small.judge, *pairs[0])
    choose = small.prompts(pair.source, split.choose, settings.choose_prompts, 0)
    report = small.prompts(pair.source, split.report, settings.report_prompts, 1)
    told = told_of(report, language(pair.target).name, model, settings, settings.prompts == CORPUS)
    grids = {method: pair.grid(method) for method in settings.method}
    edits = [pair.fitted.edit(setting) for grid in grids.values() for setting in grid[:EDITS]][:EDITS]
    written = _Writing.of(pair, report, edits, clock)
    chosen_texts, report_texts = running(split.choose, pair.target), running(split.report, pair.target)
    _, choosing_loss = spent(model, lambda: text_loss(model, chosen_texts, edits[0]), clock)
    _, report_loss = spent(model, lambda: text_loss(model, report_texts, edits[0]), clock)

    def fit(count: int) -> None:
        small.fit(split.fit.select(split.fit.ids[:count]))

    def gains(count: int) -> None:
        retrieval_gains(model, list(report.texts[:count]), list(report.texts[:count]), seed=settings.seed)

    few, many = (min(len(report.ids), count) for count in PROMPTS)
    gain = rehearsed(model, gains, (few, many), len(report.ids), clock)
    languages = 2 + min(settings.third, max(0, len(found.languages) - 2))
    methods, count, third = len(settings.method), len(pairs), languages - 2
    controls = {method: (3 if method in METHODS else 1) * settings.controls + third for method in settings.method}
    grid, reported = sum(map(len, grids.values())), CHOSEN * methods
    answers = {
        "choosing": [written.cost(choose, len(grids[method])) for method in settings.method],
        "reporting": [written.cost(report, 1), written.cost(told, 1), written.cost(report, 1) * (reported - methods)],
        "controls": [written.cost(report, 1 + controls[method]) for method in settings.method],
    }
    writing = {name: sum(costs, Spent()) for name, costs in answers.items()}
    parts: dict[str, tuple[Spent, str]] = {
        "fit": (rehearsed(model, fit, SENTENCES, len(split.fit), clock), "--samples, --languages"),
        "choosing": (
            (writing["choosing"] + choosing_loss * (grid + 1)) * count,
            "--choose-prompts, --alpha, --layer",
        ),
        "reporting": (writing["reporting"] * count, "--report-prompts, --tokens"),
        "controls": (writing["controls"] * count, "--controls, --third, --report-prompts"),
        "damage": (report_loss * ((languages + 1) * reported + languages) * count, "--third"),
        "fidelity and continuation": (gain * (1 + reported + 1 + methods) * count, "--report-prompts"),
    }
    return planned(parts)


@dataclass(frozen=True)
class _Writing:
    """What answers take: passes of one token each, in batches."""

    rate: Rate
    """of one pass, and of each token in it; the judging of answers is in the second"""
    tokens: int
    batch: int
    padded: bool
    """prompts of different lengths go together"""

    @classmethod
    def of(cls, pair: Pair, asked: Asked, edits: Sequence[RowEdit | None], clock: Clock) -> _Writing:
        """From one prompt, written on a few and on many times."""
        model, settings = pair.model, pair.settings
        few, many = PROMPTS

        def write(rows: int) -> None:
            pair.answers(Asked([asked.ids[0]] * rows, [asked.texts[0]] * rows, [asked.documents[0]] * rows), edits)

        write(few)
        [(_, one), (_, other)] = [spent(model, lambda rows=rows: write(rows), clock) for rows in (few, many)]
        least = 0.2 * other.seconds / other.tokens
        token = max(least, (other.seconds - one.seconds) / max(1.0, other.tokens - one.tokens))
        begun = max(0.0, other.seconds - token * other.tokens) / max(1.0, other.passes)
        return cls(Rate(begun, token), settings.tokens, settings.batch, stands_left_padding(model))

    def cost(self, asked: Asked, edits: int) -> Spent:
        """Of every prompt under so many edits."""
        lengths = Counter(0 if self.padded else len(ids) for ids in asked.ids)
        passes = self.tokens * sum(-(-count * edits // self.batch) for count in lengths.values())
        tokens = edits * sum(len(ids) + self.tokens for ids in asked.ids)
        return Spent(self.rate.begun * passes + self.rate.token * tokens, passes, tokens)
