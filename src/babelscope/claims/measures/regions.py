"""What claims about regions and similarity measure: parts with interval, n and control.

A claim's sets come from permuted labels in its twin, and are evaluated on true texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor

from babelscope.claims.case import Case, permuted_labels
from babelscope.claims.verdict import Part, ends, spread_ends
from babelscope.corpora import ParallelCorpus, load_corpus, load_texts
from babelscope.models import Model
from babelscope.regions import masks, nulls, similarity, stability
from babelscope.regions.deactivation import deactivate
from babelscope.regions.localisation import (
    key_regions,
    within_language_scores,
    within_language_sums,
)
from babelscope.regions.methods import localise
from babelscope.regions.perplexity import Loss, Windows, cut_windows, score
from babelscope.regions.perplexity import selectivity as selective
from babelscope.regions.recording import Recording, record
from babelscope.regions.relevance import relevances, relevant_regions

THRESHOLD = 2.0
"""on z, as in the paper"""
LAPE_SHARE = 0.03
"""of all neurons: at the paper's 1 % a pocket model has 31"""


# -- similarity ----------------------------------------------------------------------------------------------------


def lrds(case: Case) -> list[Part]:
    """LRDS of the whole model; control: language labels permuted within sentences."""
    recording = case.recorded()
    null = nulls.label_null(similarity.gram(recording), case.draws, case.seed, recording.documents)
    return [score_part("LRDS", recording, null, case)]


def sads(case: Case) -> list[Part]:
    """SADS of the whole model; control: sentence ids permuted within languages."""
    recording = case.recorded()
    null = nulls.sentence_null(similarity.gram(recording), case.draws, case.seed)
    return [score_part("SADS", recording, null, case)]


def score_part(name: str, recording: Recording, null: similarity.Means, case: Case) -> Part:
    """LRDS or SADS of a recording with its interval over sentences, or documents, and the 97.5 % point of its null."""
    observed = similarity.whole_means(recording)
    drawn = similarity.bootstrap_means(
        similarity.gram(recording), case.bootstrap, case.seed, documents=nulls.owners(recording.documents)
    )
    low, high = ends(score_of(drawn, name).tolist(), 1)
    control = float(score_of(null, name).double().quantile(0.975))
    return Part(name, float(score_of(observed, name)), low, high, *units_of(recording), control)


def units_of(recording: Recording) -> tuple[int, str]:
    """How many are resampled, and what they are."""
    return recording.document_count, "documents" if recording.documents else "sentences"


def score_of(means: similarity.Means, name: str) -> Tensor:
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


@lru_cache(2)
def _sizes(case: Case) -> tuple[Tensor, Tensor, Tensor, int]:
    recording = case.recorded()
    null = nulls.score_null(recording, case.draws, THRESHOLD, case.seed)
    drawn = stability.bootstrap_regions(recording, 100, THRESHOLD, case.seed).sizes
    return null.observed, null.sizes, drawn, recording.neurons


def _excess_part(
    name: str, observed: Tensor, null: Tensor, drawn: Tensor, neurons: int, case: Case, parts: int
) -> Part:
    """Excess ± t(n−1) · √(variance over resampled sentences + variance of the null / B), the null's mean held fixed."""
    excess = (float(observed) - float(null.double().mean())) / neurons
    error = (float(drawn.double().var()) + float(null.double().var()) / len(null)) ** 0.5 / neurons
    half = float(t.ppf(1 - 0.025 / parts, case.n - 1)) * error
    return Part(name, excess, excess - half, excess + half, case.n, "sentences")


def depth_contrast(case: Case) -> list[Part]:
    """Share of a layer's neurons in any region: first (last) tenth minus middle third; control: permuted labels."""
    recording = case.recorded()
    observed = _depths(any_region(recording))
    rng = np.random.default_rng(case.seed)
    drawn = np.array(
        [_depths(any_region(recording, rng.integers(0, case.n, case.n))) for _ in range(min(case.bootstrap, 50))]
    )
    corpus = case.sentences()
    control = np.array(
        [
            _depths(any_region(_relabelled(recording, nulls.permutations(1, case.n, len(corpus.languages), seed)[0])))
            for seed in range(case.draws)
        ]
    )
    parts: list[Part] = []
    for place, name in enumerate(("first", "last")):
        # resampled sentences make noisier regions everywhere: ends are of the deviations, around the estimate
        low, high = spread_ends(observed[place], drawn[:, place], case.n, 2)
        bar = float(np.quantile(control[:, place], 0.975))
        parts.append(Part(name, observed[place], low, high, case.n, "sentences", bar))
    return parts


def lape_depth(case: Case) -> list[Part]:
    """Share of LAPE's neurons in the first and last three layers (of fewer than nine: the first and last third), minus
    that of an equal spread; control: the same under permuted labels. Sentences are resampled."""
    model, corpus = case.loaded(), case.sentences()
    observed = _lape_ends(case.recorded(activity=True))
    drawn = np.array([_lape_ends(record(model, _resampled(corpus, draw), activity=True)) for draw in range(LAPE_DRAWS)])
    control = np.array(
        [
            _lape_ends(record(model, permuted_labels(corpus, case.seed + 1 + draw), activity=True))
            for draw in range(LAPE_DRAWS)
        ]
    )
    parts: list[Part] = []
    for place, name in enumerate(("bottom", "top")):
        low, high = spread_ends(observed[place], drawn[:, place], case.n, 2)
        bar = float(np.quantile(control[:, place], 0.975))
        parts.append(Part(name, observed[place], low, high, case.n, "sentences", bar))
    return parts


LAPE_DRAWS = 12
"""resampled corpora, and permuted ones: each is a pass of its own, since shares of tokens are not kept by sentence"""


def _resampled(corpus: ParallelCorpus, draw: int) -> ParallelCorpus:
    picks = np.random.default_rng([draw, len(corpus)]).integers(0, len(corpus), len(corpus))
    texts = {code: [corpus.texts[code][pick] for pick in picks] for code in corpus.languages}
    return ParallelCorpus.from_texts(texts, spec=f"{corpus.spec} resampled")


def _lape_ends(recording: Recording) -> tuple[float, float]:
    regions = localise(recording, "lape", share=LAPE_SHARE)
    by_layer = torch.stack([mask.sum(1) for mask in regions.masks.values()]).double().sum(0)
    count = 3 if recording.layers >= 9 else max(1, recording.layers // 3)
    even = count / recording.layers
    shares = by_layer / by_layer.sum().clamp(min=1)
    return float(shares[:count].sum()) - even, float(shares[-count:].sum()) - even


def any_region(recording: Recording, picks: np.ndarray | None = None) -> Tensor:
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

    The interval is over documents, differences within parallel ones (of a text without documents: Welch's, windows).
    """
    model = case.loaded()
    recording = case.recorded()
    found = key_regions(within_language_scores(within_language_sums(recording)), THRESHOLD)
    return _selective(model, masks.from_matrix(found, recording.languages, recording.layout, method="z-score"), case)


def selectivity_lape(case: Case) -> list[Part]:
    """The same for LAPE's neurons, 3 % of all."""
    model = case.loaded()
    recording = case.recorded(activity=True)
    return _selective(model, localise(recording, "lape", share=LAPE_SHARE), case)


def relevance_gain(case: Case) -> list[Part]:
    """Selectivity of the most relevant neurons minus that of LAPE's, equally many in every layer; by language.

    Relevance is gradient × activation on sentences that are not evaluated on. Control: random sets in the place of the
    relevant ones. Twin: relevance taken for the next language.
    """
    model, (rivals, windows, others, bars) = case.loaded(), _rivals(replace(case, twin=""))
    chosen = relevant_regions(relevances(model, _windows(model, case.corpus, case)), rivals.by_layer())
    if case.twin:
        chosen = _next_language(chosen)
    return [
        _selective_part(code, _losses(model, windows, chosen[code]), others[code], bars[code])
        for code in rivals.languages
    ]


@lru_cache(1)
def _rivals(
    case: Case,
) -> tuple[masks.RegionSet, Mapping[str, Windows], Mapping[str, Mapping[str, Loss]], Mapping[str, float]]:
    """LAPE's neurons, the text, its losses without them, and the bar by language; claim and twin share them."""
    model = case.loaded()
    rivals = localise(case.recorded(activity=True), "lape", share=LAPE_SHARE)
    windows = _windows(model, case.texts, case)
    others: dict[str, Mapping[str, Loss]] = {}
    bars: dict[str, float] = {}
    for code in rivals.languages:
        others[code] = _losses(model, windows, rivals[code])
        controls = [
            masks.random_region_by_layer(rivals.by_layer()[code], model.widths, case.seed + draw)
            for draw in range(max(5, case.draws // 8))
        ]
        # what both sets add to the same documents is compared: the text as it is falls out
        null = [_selective_part(code, _losses(model, windows, mask), others[code]).estimate for mask in controls]
        bars[code] = float(np.quantile(null, 0.975))
    return rivals, windows, others, bars


def _next_language(regions: masks.RegionSet) -> masks.RegionSet:
    codes = regions.languages
    return replace(regions, masks={code: regions[codes[place - 1]] for place, code in enumerate(codes)})


def _windows(model: Model, spec: str, case: Case) -> dict[str, Windows]:
    texts = load_texts(spec, case.languages or load_corpus(case.corpus).languages)
    return {
        code: cut_windows(model, text, case.window, max(1, case.tokens // case.window)) for code, text in texts.items()
    }


def _selective(model: Model, regions: masks.RegionSet, case: Case) -> list[Part]:
    windows = _windows(model, case.texts, case)
    base = _losses(model, windows, None)
    sizes = torch.stack([mask.sum(1) for mask in regions.masks.values()]).double().mean(0).round().int().tolist()
    controls = [
        _losses(model, windows, masks.random_region_by_layer(sizes, model.widths, case.seed + draw))
        for draw in range(case.draws)
    ]
    parts: list[Part] = []
    for code in regions.languages:
        bar = float(np.quantile([_selective_part(code, losses, base).estimate for losses in controls], 0.975))
        parts.append(_selective_part(code, _losses(model, windows, regions[code]), base, bar))
    return parts


def _losses(model: Model, windows: Mapping[str, Windows], mask: Tensor | None) -> dict[str, Loss]:
    if mask is None or not bool(mask.any()):
        return {code: score(model, text) for code, text in windows.items()}
    with deactivate(model, mask):
        return {code: score(model, text) for code, text in windows.items()}


def _selective_part(code: str, changed: Mapping[str, Loss], base: Mapping[str, Loss], bar: float = 0.0) -> Part:
    """Own change of the loss minus the mean of the other languages' changes, one part of as many as languages."""
    others = {other: (changed[other], before) for other, before in base.items() if other != code}
    found = selective(changed[code], base[code], others, 1 - 0.05 / len(base))
    n = int((base[code].counts > 0).sum())
    return Part(code, found.value, found.low, found.high, n, "documents", bar, found.why)
