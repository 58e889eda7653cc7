"""From a plan to points: one revision of one model on one corpus, with the key of its numbers.

The key is known before any weights are loaded: it hashes what the weights are (commit, or content of the folder), the
corpus, texts and stories by content, every setting, the number type, and the version of this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from babelscope._version import __version__
from babelscope.errors import ModelError
from babelscope.evolution.measures import CircuitsMeasure, ClozeMeasure, LatentMeasure, Measure, RegionsMeasure
from babelscope.evolution.plan import Plan
from babelscope.evolution.sources import find, revisions
from babelscope.evolution.types import PlannedModel, Point, Revision, Source, Work
from babelscope.results import run_key


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
    return Work(plan.dtype, plan.attention, plan.trust_remote_code, tuple(_measures(plan, corpus)))


def _measures(plan: Plan, corpus: str | None) -> Iterator[Measure[Any]]:
    """The measures of a point, with checked settings; the plan's languages where a measure names none."""
    from babelscope.studies.circuit_settings import CircuitsSettings
    from babelscope.studies.latent_settings import LatentSettings
    from babelscope.studies.regions import RegionsSettings

    asked = plan.measures
    of_regions = [asked[name] for name in ("regions", "alignment", "perplexity") if name in asked]
    if of_regions:
        given: dict[str, Any] = {"corpus": corpus, "languages": plan.languages}
        for settings in of_regions:
            given |= settings
        if "alignment" in asked:
            given["alignment"] = True
        yield RegionsMeasure(RegionsSettings(**given))
    if (cloze := asked.get("story_cloze")) is not None:
        yield ClozeMeasure(cloze["stories"], cloze.get("languages") or plan.languages)
    languages: dict[str, Any] = {} if plan.languages is None else {"languages": plan.languages}
    if (circuits := asked.get("circuits")) is not None:
        yield CircuitsMeasure(CircuitsSettings(**{**languages, **circuits}))
    if (latent := asked.get("latent")) is not None:
        given = {"from_" if name == "from" else name: value for name, value in latent.items()}
        yield LatentMeasure(LatentSettings(**{**languages, **given}))


def _contents(work: Work) -> dict[str, object]:
    """Hashes of all text that a point reads. Raises the readers' errors."""
    return {name: content for one in work.measures for name, content in one.contents().items()}


def _settled(work: Work) -> dict[str, object]:
    """Every setting, the defaults filled in."""
    return {"dtype": work.dtype, "attention": work.attention} | {one.name: one.decided() for one in work.measures}
