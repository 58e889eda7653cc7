"""From a plan to points: one revision of one model on one corpus, with the key of its numbers.

The key is known before any weights are loaded: it hashes what the weights are (commit, or content of the folder), the
corpus, texts and stories by content, every setting, the number type, and the version of this package.
"""

from __future__ import annotations

from babelscope._version import __version__
from babelscope.errors import ModelError
from babelscope.evolution.measures import measures_of
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
    found = [(model.id, *one) for model in plan.models for one in _sources(model)]
    asked: dict[str, set[str]] = {}
    for asked_as, _, source, _ in found:
        if source is not None:
            asked.setdefault(source.model, set()).add(asked_as)
    points: list[Point] = []
    for asked_as, revision, source, problem in found:
        # folders of one name are two models, not two checkpoints of one
        name = source.model if source is not None and len(asked[source.model]) == 1 else asked_as
        for (corpus, work), content in zip(works, contents):
            decided = {"work": _settled(work), "content": content, "version": __version__}
            weights = [source.kind, source.identity] if source else ["unknown", asked_as, revision.name]
            step = revision.step if revision.step is not None or source is None else source.step
            points.append(
                Point(
                    key=run_key({**decided, "weights": weights}),
                    model=name,
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
    return Work(
        plan.dtype, plan.attention, plan.trust_remote_code, tuple(measures_of(plan.measures, corpus, plan.languages))
    )


def _contents(work: Work) -> dict[str, object]:
    """Hashes of all text that a point reads. Raises the readers' errors."""
    return {name: content for one in work.measures for name, content in one.contents().items()}


def _settled(work: Work) -> dict[str, object]:
    """Every setting, the defaults filled in."""
    return {"dtype": work.dtype, "attention": work.attention} | {one.name: one.decided() for one in work.measures}
