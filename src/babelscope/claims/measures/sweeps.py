"""What claims about several points measure: checkpoints of a training, or sizes, first to last.

Points share their sentences, so they are resampled in pairs; in the twin first and last are exchanged on half of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from babelscope.claims.case import Case, named_model
from babelscope.claims.measures.regions import any_region, score_of, units_of
from babelscope.claims.verdict import Part, ends, mean_part, same_point, spread_ends
from babelscope.evaluation.items import ClozeStory
from babelscope.models import Model
from babelscope.regions import nulls, similarity
from babelscope.regions.recording import Recording

Items = NDArray[np.intp]
REGION_DRAWS = 50

# -- sweeps --------------------------------------------------------------------------------------------------------


def alignment_grows(case: Case) -> list[Part]:
    """SADS of the last point minus the first, and of story cloze accuracy; sentences and stories resampled in pairs."""
    return [_difference("SADS", case, 2), _accuracy(case, 2)]


def regions_shrink(case: Case) -> list[Part]:
    """LRDS and the share of neurons in regions, last point minus first (`less`: the control is the 2.5 % point)."""
    return [_region_share(case, 2), _difference("LRDS", case, 2, low_control=True)]


def scale(case: Case) -> list[Part]:
    """LRDS, SADS and story cloze accuracy of the largest model minus the smallest."""
    return [_difference("LRDS", case, 3, low_control=True), _difference("SADS", case, 3), _accuracy(case, 3)]


def recorded_ends(case: Case) -> list[Recording]:
    """The same sentences in the first and in the last point; claim and twin share them."""
    return [replace(case, models=(model,), twin="").recorded() for model in (case.models[0], case.models[-1])]


def of_items(recording: Recording, items: Items) -> Recording:
    """A recording of some of its sentences."""
    if len(items) == len(recording.ids) and bool((items == np.arange(len(items))).all()):
        return recording
    return replace(
        recording, means=np.asarray(recording.means)[:, items], ids=tuple(recording.ids[item] for item in items),
        tokens=recording.tokens[:, items],
        documents=tuple(recording.documents[item] for item in items) if recording.documents else (),
    )  # fmt: skip


def changed(case: Case, of: Callable[[Recording], NDArray[np.float64]], points: Sequence[Recording]) -> np.ndarray:
    """What `of` gives for the last point minus the first, over the items of the case (in its twin, half exchanged)."""
    total = np.zeros(())
    for weight, items in case.halves(case.n):
        first, last = (of(of_items(recording, items)) for recording in points)
        total = total + weight * (last - first)
    return total


def _difference(name: str, case: Case, parts: int, low_control: bool = False) -> Part:
    """Paired over sentences: both points read the same resampled sentences. Control: labels (ids) permuted in both."""
    if case.models[0] == case.models[-1]:
        return same_point(name, case.n, "sentences")

    def scores(recording: Recording) -> NDArray[np.float64]:
        gram = similarity.gram(recording)
        resampled = similarity.bootstrap_means(
            gram, case.bootstrap, case.seed, documents=nulls.owners(recording.documents)
        )
        permuted = (
            nulls.label_null(gram, case.draws, case.seed, recording.documents)
            if name == "LRDS"
            else nulls.sentence_null(gram, case.draws, case.seed)
        )
        drawn, null = (score_of(means, name).double().numpy() for means in (resampled, permuted))
        return np.concatenate([[float(score_of(similarity.whole_means(recording), name))], drawn, null])

    points = recorded_ends(case)
    found = changed(case, scores, points)
    low, high = ends(found[1 : -case.draws].tolist(), parts)
    control = float(np.quantile(found[-case.draws :], 0.025 if low_control else 0.975))
    return Part(name, float(found[0]), low, high, *units_of(points[0]), control)


def _region_share(case: Case, parts: int) -> Part:
    name = "share of neurons in regions"
    if case.models[0] == case.models[-1]:
        return same_point(name, case.n, "sentences")

    def shares(recording: Recording) -> NDArray[np.float64]:
        rng = np.random.default_rng(case.seed)
        count = len(recording.ids)
        picks = [None, *(rng.integers(0, count, count) for _ in range(REGION_DRAWS))]
        return np.array([float(any_region(recording, chosen).mean()) for chosen in picks])

    found = changed(case, shares, recorded_ends(case))
    # resampled sentences make noisier regions at both points: ends are of the deviations, around the estimate
    low, high = spread_ends(float(found[0]), found[1:], case.n, parts)
    return Part(name, float(found[0]), low, high, case.n, "sentences")


def _accuracy(case: Case, parts: int) -> Part:
    """Cross-lingual story cloze of the languages other than English, paired over stories."""
    if case.models[0] == case.models[-1]:
        return same_point("accuracy", case.n, "stories")
    first, last = (_told_right(model, replace(case, twin="")) for model in (case.models[0], case.models[-1]))
    change = (last - first).mean(0)
    for weight, items in case.halves(len(change)):
        change[items] *= np.sign(weight)
    return mean_part("accuracy", change, "stories", parts, within=(-1.0, 1.0))


@lru_cache(2)
def _told_right(model: str, case: Case) -> NDArray[np.float64]:
    return right_endings(named_model(model), [told for code, told in case.told().items() if code != "en"])


def right_endings(model: Model, told: Sequence[Sequence[ClozeStory]]) -> np.ndarray:
    """[language, story]: 1 where the right ending is the likelier."""
    from babelscope.evaluation.items import cloze_items
    from babelscope.evaluation.scoring import choice_scores

    rows: list[np.ndarray] = []
    for stories in told:
        scores = choice_scores(model, cloze_items(stories))
        labels = np.array([story.label for story in stories])
        every = np.arange(len(stories))
        rows.append((scores[every, labels] > scores[every, 1 - labels]).astype(float))
    return np.array(rows)
