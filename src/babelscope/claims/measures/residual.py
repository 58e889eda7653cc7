"""What claims about the residual stream measure: how alike translations are, and what that predicts.

Sentences are resampled (a tenth left out at a time); claims about languages resample languages too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from babelscope.claims.case import Case, named_model
from babelscope.claims.measures.lens import english_mass
from babelscope.claims.measures.regions import units_of
from babelscope.claims.measures.sweeps import changed, right_endings
from babelscope.claims.verdict import Part, ends, same_point, spread_ends
from babelscope.languages import language
from babelscope.models import Model
from babelscope.regions import nulls, similarity
from babelscope.regions.alignment import alignment
from babelscope.regions.recording import Recording
from babelscope.regions.residual import record_residual
from babelscope.stats import pearson

PIVOT = "en"


def middle(layers: int) -> list[int]:
    """The middle third of a number of layers.

    >>> middle(7)
    [2, 3, 4]
    """
    third = layers // 3
    return list(range(third, layers - third))


def cosine_gap(case: Case) -> list[Part]:
    """Cosine of translations minus that of other sentences of the same two languages (SADS), middle third of layers;
    control: ids permuted within languages. And the excess of English words in sentences translated without English."""
    recording = record_residual(case.loaded(), case.sentences(), ("mean",)).recordings["mean"]
    return [_gap_part(recording, case, 2), english_mass(case)]


def _gap_part(recording: Recording, case: Case, parts: int) -> Part:
    estimate, drawn, null = _gap(recording, case)
    low, high = ends(drawn.tolist(), parts)
    return Part("gap", estimate, low, high, *units_of(recording), float(np.quantile(null, 0.975)))


def _gap(recording: Recording, case: Case) -> tuple[float, np.ndarray, np.ndarray]:
    """SADS over the middle layers: estimate, bootstrap draws, draws with ids permuted."""
    estimates: list[float] = []
    drawn: list[np.ndarray] = []
    null: list[np.ndarray] = []
    for layer in middle(recording.layers):
        gram = similarity.gram(recording, layer)
        estimates.append(float(similarity.layer_means(recording).sads[layer]))
        resampled = similarity.bootstrap_means(
            gram, case.bootstrap, case.seed, documents=nulls.owners(recording.documents)
        )
        drawn.append(resampled.sads.double().numpy())
        null.append(nulls.sentence_null(gram, case.draws, case.seed).sads.double().numpy())
    return float(np.mean(estimates)), np.mean(drawn, 0), np.mean(null, 0)


def similarity_falls(case: Case) -> list[Part]:
    """Residual similarity and CKA of translations in the middle third, largest model minus smallest (`less`).

    Paired over sentences; the control of similarity is the 2.5 % point with ids permuted in both, that of CKA, which
    has no bias left, is 0.
    """
    if case.models[0] == case.models[-1]:
        return [same_point(name, case.n, "sentences") for name in ("similarity", "CKA")]
    points = [
        record_residual(named_model(model), case.sentences(), ("mean",)).recordings["mean"]
        for model in (case.models[0], case.models[-1])
    ]

    def similarities(recording: Recording) -> NDArray[np.float64]:
        estimate, drawn, null = _gap(recording, case)
        return np.concatenate([[estimate], drawn, null])

    def kernels(recording: Recording) -> NDArray[np.float64]:
        rng = np.random.default_rng(case.seed)
        count = len(recording.ids)
        kept = [np.sort(rng.choice(count, count // 2, replace=False)) for _ in range(SUBSAMPLES)]
        return np.array([_cka(recording), *(_cka(recording, some) for some in kept)])

    gap = changed(case, similarities, points)
    low, high = ends(gap[1 : -case.draws].tolist(), 2)
    null = float(np.quantile(gap[-case.draws :], 0.025))
    similar = Part("similarity", float(gap[0]), low, high, *units_of(points[0]), null)
    cka = changed(case, kernels, points)
    # half samples without replacement spread as the whole does (Politis and Romano): ends are of the deviations
    low, high = spread_ends(float(cka[0]), cka[1:], case.n, 2)
    return [similar, Part("CKA", float(cka[0]), low, high, case.n, "sentences")]


SUBSAMPLES = 100
STRONG = 0.95
"""a correlation that has to be able to hold, or nothing is decided"""


def _cka(recording: Recording, kept: np.ndarray | None = None) -> float:
    """Linear CKA without bias (Nguyen et al. 2021), mean over pairs of languages and the middle third of layers."""
    found: list[float] = []
    for layer in middle(recording.layers):
        x = recording.layer(layer).double().numpy()
        x = x if kept is None else x[:, kept]
        grams = x @ x.transpose(0, 2, 1)
        hsic = _hsic(grams)
        scale = np.sqrt(np.diag(hsic))
        values = hsic / scale[:, None] / scale[None]
        found.append(float(values[np.triu_indices(len(values), 1)].mean()))
    return float(np.mean(found))


def _hsic(grams: np.ndarray) -> np.ndarray:
    """Song's unbiased HSIC of every pair of Gram matrices [L, n, n]."""
    k = grams.copy()
    n = k.shape[1]
    k[:, range(n), range(n)] = 0
    rows, totals = k.sum(2), k.sum((1, 2))
    trace = np.einsum("aij,bji->ab", k, k)
    found = trace + totals[:, None] * totals[None] / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return found / (n * (n - 3))


def mexa_accuracy(case: Case) -> list[Part]:
    """Pearson over languages of MEXA with English (residual stream, position-weighted, mean over layers) and accuracy
    of the cross-lingual story cloze; also with tokens per sentence and script partialled out. Fisher's interval."""
    corpus = case.sentences()
    model = case.loaded()
    pooled = record_residual(model, corpus, ("weighted",)).recordings["weighted"]
    [mexa] = alignment(pooled, ["mexa"])
    pivot = corpus.languages.index(PIVOT)
    others = [place for place in range(len(corpus.languages)) if place != pivot]
    scores = mexa.values[:, pivot, others].double().mean(0).numpy()
    codes = [corpus.languages[place] for place in others]
    return correlated(scores, story_accuracy(model, codes, case), fertility(pooled, others), codes, case)


def fertility(recording: Recording, places: Sequence[int]) -> np.ndarray:
    """Mean tokens per sentence."""
    return recording.tokens.double().mean(1).numpy()[list(places)]


def story_accuracy(model: Model, codes: Sequence[str], case: Case) -> np.ndarray:
    """Share of stories whose right English ending is the likelier, by language."""
    stories = case.told(codes)
    return right_endings(model, [stories[code] for code in codes]).mean(1)


def correlated(
    x: np.ndarray, y: np.ndarray, tokens: np.ndarray, codes: Sequence[str], case: Case, sign: int = 1
) -> list[Part]:
    """Two parts: Pearson over languages, and with log tokens and script taken off both by least squares.

    The interval is Fisher's, n − 3 degrees of freedom (n − 5 where two things are taken off). Control: the 97.5 % point
    (2.5 % where `sign` is −1) with accuracies permuted. In the twin they are permuted once. No interval where so few
    languages could never show a correlation of 0.95.
    """
    rng = np.random.default_rng(case.seed)
    y = rng.permutation(y) if case.twin == "languages" else y
    latin = np.array([language(code).script == "Latn" for code in codes], dtype=float)
    beside = np.column_stack([np.ones(len(x)), np.log(tokens), latin])
    orders = [rng.permutation(len(y)) for _ in range(max(200, case.draws))]
    parts: list[Part] = []
    for name, free in (("Pearson", len(x) - 3), ("partial Pearson", len(x) - 5)):
        a, b = (x, y) if name == "Pearson" else (_residue(x, beside), _residue(y, beside))
        r = pearson(a, b)
        if not np.isfinite(r) or free < 1:
            why = "too few languages" if free < 1 else "one of the two does not vary over languages"
            why = "the model answers equally well in all languages" if np.ptp(y) == 0 else why
            parts.append(Part(name, r, float("nan"), float("nan"), len(x), "languages", 0.0, why))
            continue
        half = float(norm.ppf(1 - 0.0125)) / free**0.5
        low, high = np.tanh(np.arctanh(np.clip(r, -0.999999, 0.999999)) + np.array([-half, half]))
        null = [pearson(a, b[order]) for order in orders]
        bar = float(np.nanquantile(null, 0.975 if sign > 0 else 0.025))
        if not np.tanh(np.arctanh(STRONG) - half) > abs(bar):
            # such an n could only ever say "does not hold", whatever is true
            why = f"too few: n = {len(x)} languages; not even a correlation of {STRONG} could pass the bar of {bar:.2g}"
            parts.append(Part(name, r, float("nan"), float("nan"), len(x), "languages", bar, why))
            continue
        parts.append(Part(name, r, float(low), float(high), len(x), "languages", bar))
    return parts


def _residue(values: np.ndarray, beside: np.ndarray) -> np.ndarray:
    left = values - beside @ np.linalg.lstsq(beside, values, rcond=None)[0]
    # what is left of values that follow from those beside them is rounding
    return left if np.abs(left).max() > 1e-12 * np.abs(values).max() else np.zeros_like(left)
