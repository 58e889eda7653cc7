"""What a study of steering will cost: its parts are rehearsed on few prompts of the first pair, then counted."""

from __future__ import annotations

import time

from babelscope.corpora import ParallelCorpus
from babelscope.languages import language
from babelscope.models import Model
from babelscope.steering.confusion import OfflineRule
from babelscope.steering.directions import METHODS
from babelscope.steering.inference import LIMITS
from babelscope.steering.losses import retrieval_gains, text_loss
from babelscope.studies.plan import StudyPlan
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
    few = split.fit.select(split.fit.ids[: SENTENCES[1]])
    small = SteeringSteps(model, settings, Split(few, split.choose, split.report), OfflineRule(found.languages))
    pair = Pair(model, small.fitted(small.fit(few)), settings, small.judge, *pairs[0])
    choose = small.prompts(pair.source, split.choose, settings.choose_prompts, 0)
    report = small.prompts(pair.source, split.report, settings.report_prompts, 1)
    told = told_of(report, language(pair.target).name, model, settings, settings.prompts == CORPUS)
    grids = {method: pair.grid(method) for method in settings.method}
    edits = [pair.fitted.edit(setting) for grid in grids.values() for setting in grid[:EDITS]][:EDITS]

    def answers(rows: int) -> None:
        pair.answers(Asked(report.ids[:rows], report.texts[:rows], report.documents[:rows]), edits)

    sizes = tuple(min(len(report.ids), count) for count in PROMPTS)
    per_row = rehearsed(model, answers, (sizes[0], sizes[1]), 1000.0, clock) * (1 / 1000 / len(edits))
    chosen_texts, report_texts = running(split.choose, pair.target), running(split.report, pair.target)
    _, choosing_loss = spent(model, lambda: text_loss(model, chosen_texts, edits[0]), clock)
    _, report_loss = spent(model, lambda: text_loss(model, report_texts, edits[0]), clock)

    def fit(count: int) -> None:
        small.fit(split.fit.select(split.fit.ids[:count]))

    def gains(count: int) -> None:
        retrieval_gains(model, list(report.texts[:count]), list(report.texts[:count]), seed=settings.seed)

    gain = rehearsed(model, gains, (sizes[0], sizes[1]), len(report.ids), clock)
    languages = 2 + min(settings.third, max(0, len(found.languages) - 2))
    controls = sum((3 if method in METHODS else 1) * settings.controls + languages - 2 for method in settings.method)
    methods, count = len(settings.method), len(pairs)
    grid = sum(map(len, grids.values()))
    reported = CHOSEN * methods
    written = len(choose.ids) * grid, len(told.ids) + len(report.ids) * (1 + reported), len(report.ids) * controls
    parts: dict[str, tuple[Spent, str]] = {
        "fit": (rehearsed(model, fit, SENTENCES, len(split.fit), clock), "--samples, --languages"),
        "choosing": ((per_row * written[0] + choosing_loss * (grid + 1)) * count, "--choose-prompts, --alpha, --layer"),
        "reporting": (per_row * written[1] * count, "--report-prompts, --tokens"),
        "controls": (per_row * written[2] * count, "--controls, --third, --report-prompts"),
        "damage": (report_loss * ((languages + 1) * reported + languages) * count, "--third"),
        "fidelity and continuation": (gain * (1 + reported + 1 + methods) * count, "--report-prompts"),
    }
    return planned(parts)
