"""What claims measure, as a table: name → function from a case to parts, each with interval, n and control.

A measure without a control cannot be registered: each part carries the 97.5 % point of its control draws (the 2.5 %
point for `less`), or says in the docstring that its null is subtracted already. The twin of a case destroys what the
claim is about and leaves all else: labels permuted within sentences, ids permuted within languages, one point at every
place of a sweep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from babelscope.claims.verdict import Part, ends
from babelscope.corpora import ParallelCorpus, load_corpus, load_texts
from babelscope.errors import InputError
from babelscope.evaluation.items import ClozeStory
from babelscope.models import Model, load_model
from babelscope.regions import masks, nulls, similarity, stability
from babelscope.regions.deactivation import deactivate
from babelscope.regions.localisation import (
    key_regions,
    within_language_scores,
    within_language_sums,
)
from babelscope.regions.perplexity import Loss, Windows, cut_windows, score
from babelscope.regions.recording import Recording, record

THRESHOLD = 2.0
"""on z, as in the paper"""


@dataclass(frozen=True)
class Case:
    """A claim's question put to a model and data: the original, or its twin."""

    models: tuple[str, ...]
    """one model, or the points of a sweep in order, first to last"""
    corpus: str
    texts: str
    """running text for perplexity"""
    n: int = 60
    """parallel sentences (prompts for circuits)"""
    seed: int = 0
    draws: int = 40
    """of each control"""
    bootstrap: int = 500
    tokens: int = 512
    """of running text per language"""
    twin: str = ""
    """what is destroyed; empty: nothing"""

    def sentences(self) -> ParallelCorpus:
        """The parallel sentences, in the twin with what it destroys destroyed."""
        corpus = load_corpus(self.corpus).sample(self.n, self.seed)
        if self.twin == "labels":
            return permuted_labels(corpus, self.seed)
        return permuted_ids(corpus, self.seed) if self.twin == "ids" else corpus

    def loaded(self) -> Model:
        """The case's model. Raises InputError where it has several."""
        if len(self.models) != 1:
            raise InputError(f"this claim takes one model, not {len(self.models)}")
        return load_model(self.models[0])

    def ordered(self) -> tuple[str, ...]:
        """The points; in the twin the last one stands at every place: without an order nothing can grow or shrink."""
        return (self.models[-1],) * len(self.models) if self.twin == "order" else self.models


Measure = Callable[[Case], list[Part]]


def permuted_labels(corpus: ParallelCorpus, seed: int) -> ParallelCorpus:
    """The same sentences with the labels of the languages permuted within each."""
    rng = random.Random(f"labels {seed}")
    texts: dict[str, list[str]] = {code: [] for code in corpus.languages}
    for place in range(len(corpus)):
        order = rng.sample(corpus.languages, len(corpus.languages))
        for code, other in zip(corpus.languages, order):
            texts[code].append(corpus.texts[other][place])
    return ParallelCorpus.from_texts(texts, ids=corpus.ids, spec=f"{corpus.spec} with labels permuted")


def permuted_ids(corpus: ParallelCorpus, seed: int) -> ParallelCorpus:
    """The same sentences with their order permuted in each language, so that no two are translations."""
    rng = random.Random(f"ids {seed}")
    texts = {code: rng.sample(corpus.texts[code], len(corpus)) for code in corpus.languages}
    return ParallelCorpus.from_texts(texts, ids=corpus.ids, spec=f"{corpus.spec} with ids permuted")


# -- similarity ----------------------------------------------------------------------------------------------------


def lrds(case: Case) -> list[Part]:
    """LRDS of the whole model; control: language labels permuted within sentences."""
    recording = record(case.loaded(), case.sentences())
    null = nulls.label_null(similarity.gram(recording), case.draws, case.seed)
    return [_score_part("LRDS", recording, null, case)]


def sads(case: Case) -> list[Part]:
    """SADS of the whole model; control: sentence ids permuted within languages."""
    recording = record(case.loaded(), case.sentences())
    null = nulls.sentence_null(similarity.gram(recording), case.draws, case.seed)
    return [_score_part("SADS", recording, null, case)]


def _score_part(name: str, recording: Recording, null: similarity.Means, case: Case) -> Part:
    observed = similarity.whole_means(recording)
    drawn = similarity.bootstrap_means(similarity.gram(recording), case.bootstrap, case.seed)
    low, high = ends(_of(drawn, name).tolist(), 1)
    control = float(_of(null, name).double().quantile(0.975))
    return Part(name, float(_of(observed, name)), low, high, case.n, "sentences", control)


def _of(means: similarity.Means, name: str) -> Tensor:
    return means.lrds if name == "LRDS" else means.sads


# -- regions -------------------------------------------------------------------------------------------------------


def excess_sklr(case: Case) -> list[Part]:
    """Neurons in regions beyond permuted labels, as a share of all; the null is subtracted: the control is 0."""
    observed, null, drawn, neurons = _sizes(case)
    return [_excess_part("all languages", observed.sum(), null.sum(1), drawn.sum(1), neurons, case, 1)]


def excess_region(case: Case) -> list[Part]:
    """The same by language."""
    observed, null, drawn, neurons = _sizes(case)
    codes = case.sentences().languages
    return [
        _excess_part(code, observed[place], null[:, place], drawn[:, place], neurons, case, len(codes))
        for place, code in enumerate(codes)
    ]


def _sizes(case: Case) -> tuple[Tensor, Tensor, Tensor, int]:
    recording = record(case.loaded(), case.sentences())
    null = nulls.score_null(recording, case.draws, THRESHOLD, case.seed)
    drawn = stability.bootstrap_regions(recording, 100, THRESHOLD, case.seed).sizes
    return null.observed, null.sizes, drawn, recording.neurons


def _excess_part(
    name: str, observed: Tensor, null: Tensor, drawn: Tensor, neurons: int, case: Case, parts: int
) -> Part:
    """Excess ± t(n−1) · √(variance over resampled sentences + variance of the null / B), the null's mean held fixed."""
    from scipy.stats import t

    excess = (float(observed) - float(null.double().mean())) / neurons
    error = (float(drawn.double().var()) + float(null.double().var()) / len(null)) ** 0.5 / neurons
    half = float(t.ppf(1 - 0.025 / parts, case.n - 1)) * error
    return Part(name, excess, excess - half, excess + half, case.n, "sentences")


def depth_contrast(case: Case) -> list[Part]:
    """Share of a layer's neurons in any region: first (last) tenth minus middle third; control: permuted labels."""
    recording = record(case.loaded(), case.sentences())
    observed = _depths(_any_region(recording))
    rng = np.random.default_rng(case.seed)
    drawn = np.array(
        [_depths(_any_region(recording, rng.integers(0, case.n, case.n))) for _ in range(min(case.bootstrap, 50))]
    )
    corpus = case.sentences()
    control = np.array(
        [
            _depths(_any_region(_relabelled(recording, nulls.permutations(1, case.n, len(corpus.languages), seed)[0])))
            for seed in range(case.draws)
        ]
    )
    parts: list[Part] = []
    for place, name in enumerate(("first", "last")):
        # resampled sentences make noisier regions everywhere: ends are of the deviations, around the estimate
        low, high = ends((drawn[:, place] - drawn[:, place].mean() + observed[place]).tolist(), 2)
        bar = float(np.quantile(control[:, place], 0.975))
        parts.append(Part(name, observed[place], low, high, case.n, "sentences", bar))
    return parts


def _any_region(recording: Recording, picks: np.ndarray | None = None) -> Tensor:
    used = recording if picks is None else replace(recording, means=np.asarray(recording.means)[:, picks])
    scores = within_language_scores(within_language_sums(used))
    layout, found = recording.layout, key_regions(scores, THRESHOLD).any(0)
    return torch.stack([found[layout.columns(layer)].double().mean() for layer in layout.with_neurons])


def _relabelled(recording: Recording, order: Tensor) -> Recording:
    means = np.asarray(recording.means)
    rows = np.arange(means.shape[1])[:, None]
    return replace(recording, means=means[order.numpy(), rows].transpose(1, 0, 2))


def _depths(shares: Tensor) -> tuple[float, float]:
    layers = len(shares)
    tenth = max(1, layers // 10)
    third = shares[layers // 3 : layers - layers // 3].mean()
    return float(shares[:tenth].mean() - third), float(shares[-tenth:].mean() - third)


def selectivity(case: Case) -> list[Part]:
    """Own ΔNLL minus the mean of the others when a region is switched off; control: layer-matched random sets.

    Interval by resampling documents (of a text without documents: windows) within each language.
    """
    model = case.loaded()
    recording = record(model, case.sentences())
    found = key_regions(within_language_scores(within_language_sums(recording)), THRESHOLD)
    regions = masks.from_matrix(found, recording.languages, recording.layout, method="z-score")
    texts = load_texts(case.texts, recording.languages)
    windows = {code: cut_windows(model, text, 64, max(1, case.tokens // 64)) for code, text in texts.items()}
    base = _losses(model, windows, None)
    sizes = torch.stack([mask.sum(1) for mask in regions.masks.values()]).double().mean(0).round().int().tolist()
    controls = [
        _losses(model, windows, masks.random_region_by_layer(sizes, recording.layout.widths, case.seed + draw))
        for draw in range(case.draws)
    ]
    parts: list[Part] = []
    for code in recording.languages:
        changed = _losses(model, windows, regions[code])
        estimate, drawn = _selectivity(code, changed, base, case)
        low, high = ends(drawn.tolist(), len(windows))
        bar = float(np.quantile([_selectivity(code, losses, base, case, 1)[0] for losses in controls], 0.975))
        documents = int((base[code].counts > 0).sum())
        parts.append(Part(code, estimate, low, high, documents, "documents", bar))
    return parts


def _losses(model: Model, windows: Mapping[str, Windows], mask: Tensor | None) -> dict[str, Loss]:
    if mask is None:
        return {code: score(model, text) for code, text in windows.items()}
    with deactivate(model, mask):
        return {code: score(model, text) for code, text in windows.items()}


def _selectivity(
    code: str, changed: Mapping[str, Loss], base: Mapping[str, Loss], case: Case, draws: int | None = None
) -> tuple[float, np.ndarray]:
    rng = np.random.default_rng(case.seed)
    drawn: dict[str, np.ndarray] = {}
    for other, before in base.items():
        used = (before.counts > 0).numpy()
        difference = (changed[other].by_document - before.by_document).numpy()[used]
        counts = before.counts.numpy()[used]
        picks = rng.integers(0, len(counts), (draws or case.bootstrap, len(counts)))
        drawn[other] = difference[picks].sum(1) / counts[picks].sum(1)
    rest = np.mean([values for other, values in drawn.items() if other != code], axis=0)
    deltas = {other: changed[other].nll - before.nll for other, before in base.items()}
    estimate = deltas[code] - float(np.mean([value for other, value in deltas.items() if other != code]))
    return estimate, drawn[code] - rest


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
    recordings = [record(load_model(model), case.sentences()) for model in (first, last)]
    grams = [similarity.gram(recording) for recording in recordings]
    observed = [float(_of(similarity.whole_means(recording), name)) for recording in recordings]
    drawn = [_of(similarity.bootstrap_means(gram, case.bootstrap, case.seed), name).double() for gram in grams]
    permute = nulls.label_null if name == "LRDS" else nulls.sentence_null
    null = [_of(permute(gram, case.draws, case.seed), name).double() for gram in grams]
    low, high = ends((drawn[1] - drawn[0]).tolist(), parts)
    control = float((null[1] - null[0]).quantile(0.025 if low_control else 0.975))
    return Part(name, observed[1] - observed[0], low, high, case.n, "sentences", control)


def _region_share(first: str, last: str, case: Case, parts: int) -> Part:
    recordings = [record(load_model(model), case.sentences()) for model in (first, last)]
    shares = [float(_any_region(recording).mean()) for recording in recordings]
    rng = np.random.default_rng(case.seed)
    drawn: list[float] = []
    for _ in range(50):
        picks = rng.integers(0, case.n, case.n)
        before, after = (float(_any_region(recording, picks).mean()) for recording in recordings)
        drawn.append(after - before)
    estimate = shares[1] - shares[0]
    # resampled sentences make noisier regions at both points: ends are of the deviations, around the estimate
    low, high = ends((np.array(drawn) - np.mean(drawn) + estimate).tolist(), parts)
    return Part("share of neurons in regions", estimate, low, high, case.n, "sentences")


def _accuracy(first: str, last: str, case: Case, parts: int) -> Part:
    """Cross-lingual story cloze of the languages other than English, paired over stories."""
    from babelscope.evaluation import load_stories

    stories = load_stories(f"pocket:?n={case.n}")
    told = [stories[code] for code in stories if code != "en"]
    right = [_right(load_model(model), told) for model in (first, last)]
    change = (right[1] - right[0]).mean(0)
    rng = np.random.default_rng(case.seed)
    picks = rng.integers(0, len(change), (case.bootstrap, len(change)))
    low, high = ends(change[picks].mean(1).tolist(), parts)
    return Part("accuracy", float(change.mean()), low, high, len(change), "stories")


def _right(model: Model, told: Sequence[Sequence[ClozeStory]]) -> np.ndarray:
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


MEASURES: Mapping[str, Measure] = {
    "regions.lrds": lrds,
    "regions.sads": sads,
    "regions.excess_sklr": excess_sklr,
    "regions.excess_region": excess_region,
    "regions.depth_contrast": depth_contrast,
    "perplexity.selectivity": selectivity,
    "sweep.alignment": alignment_grows,
    "sweep.regions": regions_shrink,
    "sweep.scale": scale,
}
"""name in a claim file → what it measures"""


def measured(name: str, case: Case) -> Sequence[Part]:
    """The parts of a measure on a case. Raises InputError for an unknown measure."""
    if name not in MEASURES:
        raise InputError(f"there is no measure {name!r}; measures: {', '.join(MEASURES)}")
    return MEASURES[name](case)


__all__ = ["MEASURES", "Case", "Measure", "measured", "permuted_ids", "permuted_labels"]
