"""Sentences of one document are no independent draws: in nulls of routing, intervals, halves and claims."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.claims.case import Case
from babelscope.claims.measures.regions import score_part
from babelscope.errors import InputError
from babelscope.regions import nulls, similarity, stability
from babelscope.regions.routed import Routing
from babelscope.regions.routing_nulls import routing_null
from babelscope.stats import ratio_t
from babelscope.studies.routing import _over_documents

from .region_data import recording

DOCUMENTS = tuple("aaaabbbbccccddddeeeeffff")


def routing(seed: int, spread: float, languages: int = 3) -> Routing:
    """Routing of 24 sentences in six documents; each language leans to its own experts in each document anew."""
    rng = np.random.default_rng(seed)
    lean = spread * rng.standard_normal((languages, 6, 1, 4)).repeat(4, axis=1)
    p = torch.from_numpy(lean + 0.3 * rng.standard_normal((languages, 24, 1, 4))).softmax(-1)
    tokens = torch.full((languages, 24), 9)
    return Routing(("en", "fr", "zh")[:languages], tuple(map(str, range(24))), (0,), p, p, tokens, (4,), (1,), (4,), 1,
                   (), "softmax", True)  # fmt: skip


def test_labels_are_shuffled_by_whole_documents():
    """By a plain loop: the same permutation of languages in all sentences of a document."""
    one = routing(0, 1.0)
    null = routing_null(one, "en", draws=9, seed=3, documents=DOCUMENTS)
    orders = nulls.permutations(9, 6, 3, 3)
    for draw, order in enumerate(orders):
        means = [
            torch.stack([one.probabilities[int(order[n // 4, label]), n, 0] for n in range(24)]).mean(0)
            for label in range(3)
        ]
        for label in (1, 2):
            middle = (means[0] + means[label]) / 2
            entropies = [-(q.double() * q.double().log()).sum() for q in (means[0], means[label], middle)]
            wanted = float(entropies[2] - (entropies[0] + entropies[1]) / 2)
            assert float(null.pooled[draw, 0, label]) == pytest.approx(wanted, abs=1e-12)


def test_languages_that_differ_by_chance_in_each_document_pass_as_often_as_stated():
    """Where no language has routing of its own, a p below 0.05 comes in a twentieth of the corpora; taken sentence by
    sentence it came in most."""

    def passed(documents: tuple[str, ...]) -> float:
        found = []
        for seed in range(60):
            one = routing(seed, 1.0)
            null = routing_null(one, "en", draws=60, seed=seed, documents=documents)
            observed = nulls_of(one)
            found.append(nulls.reached(observed, null.pooled[:, 0, 1]) <= 0.05)
        return float(np.mean(found))

    assert passed(DOCUMENTS) <= 0.12
    assert passed(()) >= 0.4


def nulls_of(one: Routing) -> float:
    from babelscope.regions.routing import divergences

    return float(divergences(one, "en").pooled[0, 1])


def test_a_mean_over_sentences_has_its_interval_over_documents():
    each = torch.arange(24.0).double()
    each[3] = torch.nan
    found = _over_documents(each, DOCUMENTS)
    totals = [0 + 1 + 2, *(float(each[4 * n : 4 * n + 4].sum()) for n in range(1, 6))]
    wanted = ratio_t(totals, [3, 4, 4, 4, 4, 4])
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert found.value == pytest.approx(float(each[each.isfinite()].mean()))
    alone = _over_documents(each, ())
    assert alone.value == pytest.approx(found.value)
    assert alone.high - alone.low < 0.7 * (found.high - found.low)  # sentences of a document go together


def test_no_document_stands_in_both_halves(monkeypatch):
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(stability, "_compare", lambda _, weights, *__, **___: seen.append(weights))
    one = replace(recording(torch.rand(6, 24, 5)), documents=DOCUMENTS)
    stability.split_half_regions(one, 20)
    [weights] = seen
    assert weights.shape == (40, 24)
    by_document = weights.reshape(40, 6, 4)
    assert (by_document == by_document[..., :1]).all()
    assert (by_document[..., 0].sum(1) == 3).all()
    assert (weights[0::2] + weights[1::2] == 1).all()
    with pytest.raises(InputError, match="two documents; there are 24 and 1"):
        stability.split_half_regions(replace(one, documents=("a",) * 24), 20)
    seen.clear()
    lopsided = replace(one, documents=("a", *"b" * 23))  # a half of one sentence has no pair
    stability.split_half_regions(lopsided, 20)
    assert seen[0].shape == (0, 24)


def test_a_claim_on_a_corpus_of_documents_is_judged_by_documents():
    """By a plain loop: documents are drawn, a sentence as often as its document."""
    means = torch.rand(3, 24, 5, generator=torch.Generator().manual_seed(1)) + 0.1
    one = replace(recording(means), documents=DOCUMENTS)
    case = Case((), "", "", n=24, bootstrap=40, draws=40)
    gram = similarity.gram(one)
    part = score_part("LRDS", one, nulls.label_null(gram, 40, 0, DOCUMENTS), case)
    assert (part.n, part.unit) == (6, "documents")
    picks = torch.randint(0, 6, (40, 6), generator=torch.Generator().manual_seed(0))
    drawn = []
    for pick in picks.tolist():
        weight = torch.tensor([float(pick.count(n // 4)) for n in range(24)]).double()
        both = weight[:, None] * weight
        both.fill_diagonal_(0)
        within = torch.stack([(gram[a, :, a] * both).sum() for a in range(3)]).mean()
        across = torch.stack([(gram[a, :, b] * both).sum() for a in range(3) for b in range(3) if a != b]).mean()
        drawn.append(float((within - across) / both.sum()))
    assert (part.low, part.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    alone = score_part("LRDS", replace(one, documents=()), nulls.label_null(gram, 40, 0), case)
    assert (alone.n, alone.unit) == (24, "sentences")
