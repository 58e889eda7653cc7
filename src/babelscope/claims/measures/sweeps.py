"""What claims about several points measure: checkpoints of a training, or sizes, first to last.

Points share their sentences, so they are resampled in pairs; the twin has the last point at every place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from babelscope.claims.case import Case
from babelscope.claims.measures.regions import any_region, score_of
from babelscope.claims.verdict import Part, ends, mean_part, same_point, spread_ends
from babelscope.evaluation.items import ClozeStory
from babelscope.models import Model, load_model
from babelscope.regions import nulls, similarity
from babelscope.regions.recording import record

# -- sweeps --------------------------------------------------------------------------------------------------------


def alignment_grows(case: Case) -> list[Part]:
    """SADS of the last point minus the first, and of story cloze accuracy; sentences and stories resampled in pairs."""
    first, *_, last = case.ordered()
    return [_difference("SADS", first, last, case, 2), _accuracy(first, last, case, 2)]


def regions_shrink(case: Case) -> list[Part]:
    """LRDS and the share of neurons in regions, last point minus first (`less`: the control is the 2.5 % point)."""
    first, *_, last = case.ordered()
    return [_region_share(first, last, case, 2), _difference("LRDS", first, last, case, 2, low_control=True)]


def scale(case: Case) -> list[Part]:
    """LRDS, SADS and story cloze accuracy of the largest model minus the smallest."""
    first, *_, last = case.ordered()
    return [
        _difference("LRDS", first, last, case, 3, low_control=True),
        _difference("SADS", first, last, case, 3),
        _accuracy(first, last, case, 3),
    ]


def _difference(name: str, first: str, last: str, case: Case, parts: int, low_control: bool = False) -> Part:
    """Paired over sentences: both points read the same resampled sentences. Control: labels (ids) permuted in both."""
    if first == last:
        return same_point(name, case.n, "sentences")
    recordings = [record(load_model(model), case.sentences()) for model in (first, last)]
    grams = [similarity.gram(recording) for recording in recordings]
    observed = [float(score_of(similarity.whole_means(recording), name)) for recording in recordings]
    drawn = [score_of(similarity.bootstrap_means(gram, case.bootstrap, case.seed), name).double() for gram in grams]
    permute = nulls.label_null if name == "LRDS" else nulls.sentence_null
    null = [score_of(permute(gram, case.draws, case.seed), name).double() for gram in grams]
    low, high = ends((drawn[1] - drawn[0]).tolist(), parts)
    control = float((null[1] - null[0]).quantile(0.025 if low_control else 0.975))
    return Part(name, observed[1] - observed[0], low, high, case.n, "sentences", control)


def _region_share(first: str, last: str, case: Case, parts: int) -> Part:
    name = "share of neurons in regions"
    if first == last:
        return same_point(name, case.n, "sentences")
    recordings = [record(load_model(model), case.sentences()) for model in (first, last)]
    shares = [float(any_region(recording).mean()) for recording in recordings]
    rng = np.random.default_rng(case.seed)
    drawn: list[float] = []
    for _ in range(50):
        picks = rng.integers(0, case.n, case.n)
        before, after = (float(any_region(recording, picks).mean()) for recording in recordings)
        drawn.append(after - before)
    estimate = shares[1] - shares[0]
    # resampled sentences make noisier regions at both points: ends are of the deviations, around the estimate
    low, high = spread_ends(estimate, drawn, case.n, parts)
    return Part(name, estimate, low, high, case.n, "sentences")


def _accuracy(first: str, last: str, case: Case, parts: int) -> Part:
    """Cross-lingual story cloze of the languages other than English, paired over stories."""
    from babelscope.evaluation import load_stories

    stories = load_stories(f"pocket:?n={case.n}")
    told = [stories[code] for code in stories if code != "en"]
    if first == last:
        return same_point("accuracy", len(told[0]), "stories")
    right = [right_endings(load_model(model), told) for model in (first, last)]
    change = (right[1] - right[0]).mean(0)
    return mean_part("accuracy", change, "stories", parts, within=(-1.0, 1.0))


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
