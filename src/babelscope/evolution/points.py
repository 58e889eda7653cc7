"""From a plan to points: one revision of one model on one corpus, with the key of its numbers.

The key is known before any weights are loaded: it hashes what the weights are (commit, or content of the folder), the
corpus, texts and stories by content, every setting, the number type, and the version of this package.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from babelscope._version import __version__
from babelscope.errors import ModelError
from babelscope.evolution import measures
from babelscope.evolution.plan import Plan
from babelscope.evolution.sources import find, revisions
from babelscope.evolution.types import PlannedModel, Point, Revision, Source, Work
from babelscope.results import run_key

_SPECS = ("corpus", "texts")


def plan_points(plan: Plan) -> list[Point]:
    """The points of a plan, model by model, in the order of training; all corpora of a revision stand together.

    A model that cannot be found becomes a point with its problem. Raises InputError when a corpus, a text or a setting
    cannot be used: that would be wrong at every point.
    """
    works = [(corpus, _work(plan, corpus)) for corpus in plan.corpora or (None,)]
    contents = [_contents(work) for _, work in works]
    points: list[Point] = []
    for model in plan.models:
        for revision, source, problem in _sources(model):
            for (corpus, work), content in zip(works, contents):
                decided = {"work": _settled(work), "content": content, "version": __version__}
                weights = [source.kind, source.identity] if source else ["unknown", model.id, revision.name]
                step = revision.step if revision.step is not None or source is None else source.step
                points.append(
                    Point(
                        key=run_key({**decided, "weights": weights}),
                        model=source.model if source else model.id,
                        revision=revision.name or (source.revision if source else None),
                        step=step,
                        corpus=corpus,
                        source=source,
                        work=work,
                        problem=problem,
                    )
                )
    return points


def _sources(model: PlannedModel) -> list[tuple[Revision, Source | None, str]]:
    try:
        wanted = revisions(model)
    except ModelError as error:
        return [(Revision(None), None, str(error))]
    found: list[tuple[Revision, Source | None, str]] = []
    for revision in wanted:
        try:
            found.append((revision, find(model.id, revision.name), ""))
        except ModelError as error:
            found.append((revision, None, str(error)))
    return found


def _work(plan: Plan, corpus: str | None) -> Work:
    asked = plan.measures
    settings: dict[str, Any] | None = None
    if {"regions", "alignment", "perplexity"} & set(asked):
        settings = {"corpus": corpus, "languages": plan.languages}
        for name in ("regions", "alignment", "perplexity"):
            settings |= asked.get(name, {})
        if "alignment" in asked:
            settings["alignment"] = True
    cloze = asked.get("story_cloze")
    circuits = asked.get("circuits")
    if circuits is not None and plan.languages is not None:
        circuits = {"languages": plan.languages, **circuits}
    latent = asked.get("latent")
    if latent is not None and plan.languages is not None:
        latent = {"languages": plan.languages, **latent}
    return Work(
        dtype=plan.dtype,
        attention=plan.attention,
        trust_remote_code=plan.trust_remote_code,
        regions=settings,
        stories=cloze["stories"] if cloze else None,
        story_languages=(cloze.get("languages") or plan.languages) if cloze else None,
        circuits=circuits,
        latent=latent,
    )


def _contents(work: Work) -> dict[str, object]:
    """Hashes of all text that a point reads. Raises the readers' errors, and those of impossible settings."""
    from babelscope.evaluation.items import stories_hash

    found: dict[str, object] = {}
    if work.regions is not None:
        settings = measures.regions_settings(work.regions)
        sample = measures.corpus_of(settings.corpus, settings.languages).sample(settings.samples, settings.seed)
        found["corpus"] = sample.hash
        if settings.texts:
            texts = measures.texts_of(settings.texts, sample.languages)
            found["texts"] = {code: text.hash for code, text in texts.items()}
    if work.stories is not None:
        found["stories"] = stories_hash(measures.stories_of(work.stories, work.story_languages))
    if work.latent is not None:
        found["latent"] = measures.latent_contents(measures.latent_settings(work.latent))
    return found


def _settled(work: Work) -> dict[str, object]:
    """Every setting, the defaults filled in; where texts lie does not count, what they say does."""
    found: dict[str, object] = {"dtype": work.dtype, "attention": work.attention, "stories": work.stories is not None}
    if work.regions is not None:
        settings = asdict(measures.regions_settings(work.regions))
        found["regions"] = {name: value for name, value in settings.items() if name not in _SPECS}
    if work.circuits is not None:
        settings = measures.circuits_settings(work.circuits)
        found["circuits"] = {one.name: getattr(settings, one.name) for one in fields(settings)}
    if work.latent is not None:
        asked = asdict(measures.latent_settings(work.latent))
        found["latent"] = {name: value for name, value in asked.items() if name not in ("words", "parallel", "text")}
    return found
