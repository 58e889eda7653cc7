"""What claims about the routers of a mixture measure: how far languages are routed apart, by depth and by family.

Distances are Jensen–Shannon divergences between the languages' mean routing: pooled over sentences, because the
divergence of translations is symmetric and permuted labels hardly move it. Sentences are resampled.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from babelscope.claims.case import Case
from babelscope.claims.measures.residual import PIVOT, correlated, fertility, story_accuracy
from babelscope.claims.verdict import Part, ends
from babelscope.errors import InputError
from babelscope.languages import language
from babelscope.models import Model
from babelscope.regions.routed import Routing


def _routing(case: Case) -> tuple[Model, Routing]:
    model = case.loaded()
    found = case.recorded().routing
    if found is None:
        raise InputError(f"{model.id} has no routers; this claim is about mixtures of experts")
    return model, found


def mean_routing(routing: Routing, counts: np.ndarray) -> np.ndarray:
    """[draw, language, layer, expert]: mean routing over tokens, sentences counted `counts` [draw, sentence] times."""
    p = routing.probabilities[:, :, routing.measured].double().numpy()
    tokens = routing.tokens.double().numpy()
    weight = counts[:, None] * tokens[None]
    totals = np.einsum("bln,lnme->blme", weight, p)
    return totals / weight.sum(2)[:, :, None, None]


def normalised_divergence(q: np.ndarray, r: np.ndarray, experts: np.ndarray | None = None) -> np.ndarray:
    """Jensen–Shannon divergence over the last axis, over the most that the two entropies allow: from 0 to 1.

    `experts`: how many there are in each layer, the axis before, where the last one is wider than that.
    """
    count = np.float64(q.shape[-1]) if experts is None else experts
    entropies = (_entropy(q) + _entropy(r)) / 2
    most = np.maximum(np.log(count) - entropies, 1e-9)
    return np.asarray(np.maximum(_entropy((q + r) / 2) - entropies, 0) / most)


def measured_experts(routing: Routing) -> np.ndarray:
    """Experts of each layer whose router chooses by what it reads."""
    return np.array([routing.experts[place] for place in routing.measured], dtype=np.float64)


def _entropy(q: np.ndarray) -> np.ndarray:
    return np.asarray(-np.where(q > 0, q * np.log(np.maximum(q, 1e-300)), 0).sum(-1))


def _contrast(by_layer: np.ndarray) -> np.ndarray:
    """[…, layer] → [2, …]: first third minus middle third, last third minus middle third."""
    layers = by_layer.shape[-1]
    third = max(1, layers // 3)
    middle = by_layer[..., third : layers - third].mean(-1)
    return np.stack([by_layer[..., :third].mean(-1) - middle, by_layer[..., -third:].mean(-1) - middle])


def depth_contrast(case: Case) -> list[Part]:
    """Divergence from English, mean over languages: outer thirds of the layers minus the middle third.

    Control: the 97.5 % point between two halves of the English sentences.
    """
    _, routing = _routing(case)
    own = routing.languages.index(PIVOT)
    n = len(routing.ids)
    rng = np.random.default_rng(case.seed)
    counts = np.vstack([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), case.bootstrap)])
    q, experts = mean_routing(routing, counts), measured_experts(routing)
    others = [place for place in range(len(routing.languages)) if place != own]
    found = _contrast(normalised_divergence(q[:, others], q[:, own : own + 1], experts).mean(1))
    halves: list[np.ndarray] = []
    for _ in range(case.draws):
        inside = rng.permutation(n) < n // 2
        one, other = mean_routing(routing, np.stack([inside, ~inside]).astype(float))[:, own]
        halves.append(_contrast(normalised_divergence(one, other, experts)))
    parts: list[Part] = []
    for place, name in enumerate(("first third", "last third")):
        low, high = ends((found[place, 1:] - found[place, 1:].mean() + found[place, 0]).tolist(), 2)
        bar = float(np.quantile([half[place] for half in halves], 0.975))
        parts.append(Part(name, float(found[place, 0]), low, high, n, "sentences", bar))
    return parts


def accuracy_correlation(case: Case) -> list[Part]:
    """Pearson over languages of the middle layers' divergence from English and the accuracy of the story cloze."""
    model, routing = _routing(case)
    own = routing.languages.index(PIVOT)
    others = [place for place in range(len(routing.languages)) if place != own]
    q = mean_routing(routing, np.ones((1, len(routing.ids))))[0]
    third = max(1, q.shape[1] // 3)
    layers = slice(third, q.shape[1] - third)
    distance = normalised_divergence(q[others], q[own : own + 1], measured_experts(routing))[:, layers].mean(1)
    codes = [routing.languages[place] for place in others]
    recording = case.recorded()
    return correlated(distance, story_accuracy(model, codes, case), fertility(recording, others), codes, case, sign=-1)


def family_gap(case: Case) -> list[Part]:
    """How much nearer languages of one family are routed, script and shared tokens held: a coefficient of least squares
    over pairs of languages, its interval by leaving out a language at a time. Control: family labels permuted."""
    model, routing = _routing(case)
    codes = list(routing.languages)
    q = mean_routing(routing, np.ones((1, len(routing.ids))))[0]
    experts = measured_experts(routing)
    near = np.array([[1 - normalised_divergence(a, b, experts).mean() for b in q] for a in q])
    shared = _shared_tokens(model, case, codes)
    families = [language(code).family for code in codes]
    rng = np.random.default_rng(case.seed)
    if case.twin == "families":
        families = [str(one) for one in rng.permutation(families)]
    estimate = _gap(near, shared, codes, families)
    left = np.array([_gap(near, shared, codes, families, without=place) for place in range(len(codes))])
    if not np.isfinite(left).all():
        why = "without one of the languages no family has two"
        return [Part("family gap", estimate, float("nan"), float("nan"), len(codes), "languages", 0.0, why)]
    from babelscope.stats import jackknife_t

    interval = jackknife_t(estimate, left)
    null = [
        _gap(near, shared, codes, [str(one) for one in rng.permutation(families)]) for _ in range(max(200, case.draws))
    ]
    bar = float(np.nanquantile(null, 0.975))
    return [Part("family gap", estimate, interval.low, interval.high, len(codes), "languages", bar)]


def _shared_tokens(model: Model, case: Case, codes: list[str]) -> np.ndarray:
    """Jaccard index of the tokens of any two languages' sentences."""
    corpus = case.sentences()
    sets = [{token for ids in model.tokenize(list(corpus.texts[code])) for token in ids} for code in codes]
    return np.array([[len(a & b) / len(a | b) for b in sets] for a in sets])


def _gap(
    near: np.ndarray, shared: np.ndarray, codes: list[str], families: list[str], without: int | None = None
) -> float:
    rows: list[list[float]] = []
    values: list[float] = []
    for a, b in combinations([place for place in range(len(codes)) if place != without], 2):
        script = float(language(codes[a]).script == language(codes[b]).script)
        rows.append([1.0, float(families[a] == families[b]), script, shared[a, b]])
        values.append(near[a, b])
    design = np.array(rows)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return float("nan")
    return float(np.linalg.lstsq(design, np.array(values), rcond=None)[0][1])
