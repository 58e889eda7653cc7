"""Numbers of regions by hand: poolings, ranks, rivals, stand-ins, thresholds, shares of routed tokens, relevance."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch

from babelscope.models.experts import Routed
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.models.routers import FORBIDDEN
from babelscope.regions import alignment_measures, methods, residual, routing, stability, treatments
from babelscope.regions.alignment import alignment
from babelscope.regions.alignment_measures import Layer
from babelscope.regions.alignment_neurons import Removals, _conditions
from babelscope.regions.confounds import length_matched, overlap_matched, token_overlap
from babelscope.regions.document_means import DocumentMap, document_map, pair_ends
from babelscope.regions.expert_deactivation import Dropped, _forbid, _without, matched_experts
from babelscope.regions.expert_pooling import pooled_pairs
from babelscope.regions.headlines import headlines
from babelscope.regions.localisation import largest_z, reachable, standard_scores
from babelscope.regions.masks import RegionSet
from babelscope.regions.relevance import predicted_rise, relevant_regions, selective
from babelscope.regions.residual import anisotropy, residual_alignment, shuffled

from .region_data import noise, recording


def close(found, wanted):
    return torch.as_tensor(found).double().flatten().tolist() == pytest.approx(
        torch.as_tensor(wanted).double().flatten().tolist(), nan_ok=True
    )


def test_poolings_weigh_the_tokens_that_count():
    mask, ends = torch.tensor([[1.0, 1, 1, 0], [0, 1, 1, 1]]), torch.tensor([2, 4])
    assert close(residual._weights("mean", mask, ends), [[1 / 3, 1 / 3, 1 / 3, 0], [0, 1 / 3, 1 / 3, 1 / 3]])
    assert close(residual._weights("weighted", mask, ends), [[1 / 6, 2 / 6, 3 / 6, 0], [0, 1 / 6, 2 / 6, 3 / 6]])
    assert residual._weights("last", mask, ends).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_anisotropy_is_the_mean_cosine_of_two_different_sentences():
    rec = replace(noise(2, 4, 10, mean=0.7), layers=2)
    for layer, found in enumerate(anisotropy(rec)):
        rows = rec.layer(layer).flatten(0, 1).double()
        pairs = [float(a @ b / a.norm() / b.norm()) for a, b in combinations(rows, 2)]
        assert found == pytest.approx(sum(pairs) / len(pairs))


def test_shuffled_sentences_stay_in_their_language():
    rec = noise(3, 9, 5)
    moved = torch.as_tensor(shuffled(rec, 4).means)
    own = torch.as_tensor(rec.means)
    orders = [[int((row == own[code]).all(-1).nonzero()) for row in moved[code]] for code in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert not torch.equal(torch.as_tensor(shuffled(rec, 5).means), moved)


def test_every_treatment_stands_beside_shuffled_sentences():
    rec = replace(noise(2, 6, 16), layers=2)
    found = residual_alignment(rec, seed=3, shuffles=2)
    told = [(one.treatment, one.alignment.metric) for one in found]
    plain = ["lrds", "sads", "mexa", "cka", "anc", "sads-length-matched"]
    assert told == [("plain", name) for name in plain] + [
        (treatment, name) for treatment in ("centred", "language-centred") for name in ("lrds", "sads", "mexa")
    ]
    for treatment, centre, name in (("plain", "none", "mexa"), ("language-centred", "language", "sads")):
        one = found[told.index((treatment, name))]
        drawn = [alignment(shuffled(rec, seed), [name], centre=centre)[0].values for seed in (3, 4)]
        assert close(one.shuffled, sum(drawn) / 2)
        assert close(one.alignment.values, alignment(rec, [name], centre=centre)[0].values)
        assert not one.alignment.low[0, 0, 1].isnan()


PAIRS = Routed(
    values=torch.tensor([[1.0, -2], [3, 4], [5, 6], [-1, 8]]),
    experts=torch.tensor([0, 0, 1, 1]),
    tokens=torch.tensor([1, 2, 2, 5]),
    weights=torch.tensor([0.5, 0.25, 1.0, 2.0]),
    index=torch.tensor([[0], [0], [0], [1], [1], [1]]),
    count=2,
)
"""two sentences of three tokens: the first routes its second token to expert 0 and its third to both"""


@pytest.mark.parametrize("first", [1, 2])
def test_routed_neurons_pooled_by_hand(first):
    weights = torch.tensor([[0.0, 1, 1], [0, 1, 1]])
    mean, beginning, active = pooled_pairs(PAIRS, weights, weights / 2, first, True)
    means = [[2.0, 1, 2.5, 3], [0, 0, -0.5, 4]]
    assert mean.tolist() == means
    # what the opening token carries of each mean: its value times its share
    values = {1: [1.0, -2, 0, 0], 2: [3.0, 4, 5, 6]}[first]
    assert beginning[0].tolist() == [m * v / 2 for m, v in zip(means[0], values)]
    assert beginning[1].tolist() == ([0, 0, 0, 0] if first == 1 else [0, 0, 0.25, 16])
    assert active.tolist() == [[2, 1, 1, 1], [0, 0, 0, 1]]
    assert len(pooled_pairs(PAIRS, weights, weights / 2, first, False)) == 2


def test_routed_neurons_times_their_weight_and_short_batches():
    weights = torch.tensor([[0.0, 1, 1], [0, 1, 1]])
    mean, beginning = pooled_pairs(PAIRS, weights, weights / 2, 5, False, weighted=True)
    assert mean.tolist() == [[0.625, 0, 2.5, 3], [0, 0, -1, 8]]
    # the batch ends before position 5: its last one is looked at
    assert beginning.tolist() == [[0.625 * 0.375, 0, 2.5 * 2.5, 9], [0, 0, 1, 64]]


def test_experts_that_are_off_leave_their_weight_to_the_others_or_to_nobody():
    mask = torch.tensor([True, False, False])
    index, weights = torch.tensor([[0, 1], [1, 2], [0, 0]]), torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.5, 0.5]])
    told = Dropped()
    _, left = _without(told, mask, "drop-renormalised", index, weights)
    assert left.tolist() == [[0, 1], [0.5, 0.5], [0, 0]]
    assert (told.passes, told.without_expert, told.still_used) == (1, 1, 0)
    _without(told, mask, "drop-renormalised", index, weights)
    assert (told.passes, told.without_expert) == (2, 2)
    kept, same = _without(told, mask, "reroute", index, torch.tensor([[0.0, 1], [1, 0], [0.5, 0.5]]))
    assert (told.still_used, told.without_expert, kept is index, same.tolist()[2]) == (2, 2, True, [0.5, 0.5])
    # a fourth class, for tokens that are given to none, stays open
    forbidden = _forbid(mask, torch.ones(1, 1, 4))
    assert forbidden[0, 0].tolist() == [FORBIDDEN, 1, 1, 1]


def test_matched_experts_are_of_the_three_nearest_and_end_where_there_are_none():
    choices = torch.tensor([[9.0] * 7, [0.5, 0.1, 0.52, 0.47, 0.9, 0.55, 0.0]])
    drawn = matched_experts(choices, 1, [0], 60)
    assert {one for own in drawn for one in own} == {2, 3, 5}
    assert all(len(set(own)) == len(own) == 2 for own in matched_experts(choices, 1, [0, 1], 20))
    assert not {0, 1} & {one for own in matched_experts(choices, 1, [0, 1], 20) for one in own}
    assert [len(own) for own in matched_experts(choices[:, :3], 1, [0, 1], 2)] == [1, 1]
    assert matched_experts(choices, 1, [0], 9, 3) == matched_experts(choices, 1, [0], 9, 3)
    assert matched_experts(choices, 1, [0], 9, 3) != matched_experts(choices, 1, [0], 9, 4)


def test_equal_effects_of_all_neurons_are_strong_though_they_do_not_differ():
    """Every neuron is one deviation higher in one language: what d varies by is noise, and each d* is the mean."""
    v = torch.randn(2, 40, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    v[0] += 1
    rec = replace(recording(v), norm="none")
    found = headlines(rec, effect=0.8)
    assert found.strong_neurons.value == 60
    assert headlines(rec, effect=1.2).strong_neurons.value == 0


def test_tiny_scores_have_the_z_of_large_ones():
    scores = torch.tensor([[1.0, 5], [0, 5], [0, 5], [0, 5], [0, 5]], dtype=torch.float64)
    for size in (1e-12, 1.0, 1e12):
        z = standard_scores(scores * size)
        assert close(z[:, 0], [2, -0.5, -0.5, -0.5, -0.5])
        assert (z[:, 1] == -math.inf).all()
    assert (largest_z(5), largest_z(10), largest_z(2)) == (2, 3, 1)
    assert (reachable(2.0, 5), reachable(1.99, 5), reachable(3.0, 11)) == (math.inf, 1.99, 3.0)


def test_ranks_states_and_rivals_by_hand():
    v = torch.tensor([[[3.0, 1, 1, 2], [0, -1, 0, 0]]], dtype=torch.float64)
    assert alignment_measures.ranks(v).tolist() == [[[1.5, -1, -1, 0.5], [0.5, -1.5, 0.5, 0.5]]]
    assert alignment_measures.binary(v).tolist() == [[[1, 1, 1, 1], [0, 0, 0, 0]]]
    similarity = torch.tensor([[0.5, 0.5, 0.1], [0.2, 0.9, 0.3], [0.0, 0.2, 0.4]])
    # 0 has 1 (0.5 from its side), 1 has none, 2 has none
    assert alignment_measures.rivals(similarity).tolist() == [[False, True, False], [False] * 3, [False] * 3]


def test_a_sentence_keeps_its_place_among_fewer_by_counting_draws():
    counts, sizes = torch.tensor([[0.0, 1, 3, 20]]), torch.tensor([[30.0]])
    ways = math.comb(29, 24)
    wanted = [math.comb(29 - int(count), 24) / ways for count in counts[0]]
    assert close(alignment_measures._unrivalled(counts, sizes, 25), wanted)
    assert close(alignment_measures._unrivalled(counts[:, :2], torch.tensor([[3.0]]), 2), [1, 1 / 2])


def test_silent_sentences_match_nothing():
    """No neuron of three sentences is active in either language: every other is as near as the translation."""
    v = torch.zeros(2, 3, 4, dtype=torch.float64)
    layer = Layer(v, torch.arange(3))
    assert close(alignment_measures.neuron_matching(layer)[0], [[math.nan, 0], [0, math.nan]])
    v[:, :, 0] = torch.tensor([1.0, 0, 0])
    assert float(alignment_measures.neuron_matching(Layer(v, torch.arange(3)))[0, 0, 1]) == pytest.approx(1 / 3)


def test_sads_against_chosen_sentences_is_the_plain_mean():
    v = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    picked = {pair: own.fill_diagonal_(0) for pair, own in zip(((0, 1), (1, 0)), drawn)}
    documents = torch.tensor([0, 0, 1, 2, 2])
    found = alignment_measures.sads_against(lambda one, other: picked[one, other], Layer(v, documents))
    x = v / v.norm(dim=-1, keepdim=True)
    for row, left in enumerate((None, 0, 1, 2)):
        kept = [place for place in range(5) if int(documents[place]) != left]
        same = sum(float(x[0, i] @ x[1, i]) for i in kept) / len(kept)
        means = []
        for one, other in ((0, 1), (1, 0)):
            weight = {(i, j): float(picked[one, other][i, j]) for i, j in product(kept, kept)}
            cosines = sum(w * float(x[one, i] @ x[other, j]) for (i, j), w in weight.items())
            means.append(cosines / sum(weight.values()))
        assert float(found[row, 0, 1]) == pytest.approx(same - sum(means) / 2)


def test_facts_of_matched_sentences_by_hand():
    """One nearest each. Lengths 1, 2, 4: 1 apart, 1 apart, 2 apart; lengths 3, 3, 9: 0, 0 and 6 (both are as near)."""
    assert length_matched(torch.tensor([[1, 2, 4]]), 1).facts == {"mean_difference_tokens": 4 / 3}
    assert length_matched(torch.tensor([[3, 3, 9], [1, 2, 4]]), 1).facts == {"mean_difference_tokens": 10 / 6}
    # translations share 1/2, 1/3, 0 of their tokens
    overlap = token_overlap([[1], [2, 3], [4], [1, 5], [2, 6], [7]], 2)
    assert overlap.of_pair(0, 1).diagonal().tolist() == pytest.approx([1 / 2, 1 / 3, 0])
    facts = overlap_matched(overlap, 1).facts
    assert facts["mean_overlap_translation"] == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert facts["mean_overlap_gap"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert close(overlap.translations(), [[1, 5 / 18], [5 / 18, 1]])


def test_means_of_documents_are_those_of_their_sentences():
    x = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    blocks = document_map([x[..., :3], x[..., 3:]], groups)
    assert blocks.sizes.tolist() == [2, 1, 3]
    for kept in ([1.0, 1, 1], [1, 0, 1]):
        rows = [place for place in range(6) if kept[int(groups[place])]]
        found, whole = blocks.pair_means(torch.tensor([kept]).double()), blocks.means(torch.tensor([kept]).double())
        inner = {pair: _inner(x, rows, *pair) for pair in product(range(3), range(3))}
        across = [pair for pair in inner if pair[0] != pair[1]]
        for one, other in across:
            assert float(found.same_sentence[0, one, other]) == pytest.approx(inner[one, other][0])
            assert float(found.neither[0, one, other]) == pytest.approx(inner[one, other][1])
            own = (inner[one, one][1] + inner[other, other][1]) / 2
            assert float(found.same_language[0, one, other]) == pytest.approx(own)
        assert float(whole.same_language) == pytest.approx(sum(inner[one, one][1] for one in range(3)) / 3)
        assert float(whole.same_sentence) == pytest.approx(sum(inner[pair][0] for pair in across) / 6)
        assert float(whole.neither) == pytest.approx(sum(inner[pair][1] for pair in across) / 6)


def _inner(x, rows, one, other):
    same = [float(x[one, i] @ x[other, i]) for i in rows]
    others = [float(x[one, i] @ x[other, j]) for i in rows for j in rows if i != j]
    return sum(same) / len(same), sum(others) / len(others)


def test_ends_of_two_documents_and_of_one():
    values = torch.tensor([[2.0]], dtype=torch.float64)
    low, high, why = pair_ends(values, torch.tensor([[[1.0]], [[3.0]]]).double())
    # √(1/2 · (1 + 1)) = 1, t(1; 0.975) = 12.7062
    assert (float(low), float(high)) == pytest.approx((2 - 12.70620474, 2 + 12.70620474))
    assert why == "few documents: too narrow where they are skewed"
    low, high, why = pair_ends(values, values[None])
    assert (math.isnan(float(low)), math.isnan(float(high)), why) == (True, True, "one document")
    ones = torch.ones(1, 2, 1, 2, dtype=torch.float64)
    assert DocumentMap(ones, ones[:, 0], torch.tensor([1, 1])).each_left_out().shape == (0, 2)


def test_halves_of_the_sentences_are_halves(monkeypatch):
    seen: list[torch.Tensor] = []
    none = torch.zeros(30, 6, dtype=torch.long)
    nothing = stability.Overlaps(noise().languages, none, none, none, none.double())

    def keep(_rec, weights, *_, **__):
        seen.append(weights)
        return nothing

    monkeypatch.setattr(stability, "_compare", keep)
    stability.split_half_regions(noise(6, 7, 5), 30)
    assert seen[0].shape == (60, 7)
    assert set(seen[0].flatten().tolist()) == {0, 1}
    assert (seen[0].sum(1).reshape(30, 2) == torch.tensor([3, 4])).all()
    assert (seen[0][0::2] + seen[0][1::2] == 1).all()
    assert len({tuple(row.tolist()) for row in seen[0][0::2]}) > 15


def test_the_middle_of_draws():
    found = stability.spread(torch.tensor([math.nan, *range(1, 102)], dtype=torch.float64))
    assert (found.mean, found.low, found.high) == pytest.approx((51, 3.5, 98.5))
    overlaps = stability.Overlaps(
        ("en", "zh"), *(torch.tensor([[1, 0], [2, 0]]),) * 2, torch.tensor([[4, 0], [4, 0]]), torch.ones(2, 2).double()
    )
    assert overlaps.by_language()["en"].mean == pytest.approx(3 / 8)
    assert math.isnan(overlaps.by_language()["zh"].mean)


def test_relevance_for_a_language_is_beyond_that_for_the_others():
    r = {"en": torch.tensor([[3.0, 0, 1]]), "zh": torch.tensor([[1.0, 2, 1]]), "fr": torch.tensor([[0.0, 4, 1]])}
    found = selective(r)
    assert {code: one.tolist() for code, one in found.items()} == {
        "en": [[2.5, -3, 0]], "zh": [[-0.5, 0, 0]], "fr": [[-2, 3, 0]],
    }  # fmt: skip
    regions = relevant_regions(r, {"en": [2], "zh": [0], "fr": [1]})
    assert {code: regions[code].tolist() for code in r} == {
        "en": [[True, False, True]], "zh": [[False] * 3], "fr": [[False, True, False]],
    }  # fmt: skip
    assert (regions.method, regions.scores["en"].tolist()) == ("relevance", [[2.5, -3, 0]])
    assert predicted_rise(r["en"], regions["en"]) == 4


def test_methods_by_hand():
    scores = torch.tensor([[3.0, -math.inf, 1, 2], [-1, 0, 5, math.nan]])
    assert methods.largest(scores[:1], 2).tolist() == [[True, False, False, True]]
    assert methods.largest(scores[:1], 9).tolist() == [[True, False, True, True]]
    assert not methods.largest(scores, 0).any()
    rec = noise(3, 6, 10)
    r = torch.arange(30.0).reshape(3, 10)
    found = methods.localise(rec, "relevance", relevance=r, share=0.2)
    assert {code: mask.nonzero()[:, 1].tolist() for code, mask in found.masks.items()} == {
        code: [8, 9] for code in ("en", "zh", "fr")
    }
    assert found.scores["zh"].tolist() == [r[1].tolist()]
    assert found.facts["sentences"] == 6


def test_removals_that_take_nothing_out_are_no_condition():
    rec = noise(3, 6, 20)
    found = list(_conditions(rec, Removals((0.01, 0.1), 2, 5)))
    assert [(name, share, draw, int(mask.sum())) for name, share, draw, mask in found] == [
        ("alignment", 0.1, -1, 2), ("random-layer", 0.1, 0, 2), ("random-layer", 0.1, 1, 2),
    ]  # fmt: skip


def test_doses_that_take_nothing_are_left_out():
    scores = torch.tensor([[0.5, math.nan, 0.9], [0.1, 0.2, -math.inf]])
    layout = NeuronLayout((3, 3))
    assert treatments.top_share(scores, 0.5, layout).tolist() == [[True, False, True], [False, True, False]]
    regions = RegionSet({"en": scores > 0}, "m", scores={"en": scores})
    found = list(treatments._doses(regions, treatments.Doses((0.2, 0.5), ("zero", "scale"), 1, 3)))
    assert [(code, kind, share, draw, mask.sum(1).tolist()) for code, kind, share, draw, mask in found] == [
        ("en", kind, share, draw, sizes)
        for share, sizes in ((0.2, [1, 0]), (0.5, [2, 1])) for kind in ("zero", "scale") for draw in (-1, 0)
    ]  # fmt: skip


def test_owners_and_shares_of_experts_at_their_thresholds():
    shares = torch.tensor([[[0.4, 0.39, math.nan, 0.6]], [[0.35, 0.3, math.nan, 0.4]], [[0.25, 0.31, math.nan, 0.0]]])
    assert routing.owner(shares, 0.4).tolist() == [[0, -1, -1, 0]]
    assert routing.shared(shares, torch.tensor([1, 2]), 0.4).tolist() == [[True, True, False, False]]
    assert routing.shared(shares, torch.tensor([2]), 0.4).tolist() == [[True, True, False, False]]
    choices = torch.tensor([[[0.5, 0.1]], [[0.2, 0.4]], [[0.1, 0.5]]], dtype=torch.float64)
    assert routing.specialised(choices, 1, 0.25).tolist() == [[[True, False]], [[False, False]], [[False, False]]]
    assert close(routing.language_shares(choices, 1), [[[1, 0]], [[0, 4 / 9]], [[0, 5 / 9]]])
    assert close(routing.language_shares(choices, 2), [[[5 / 8, 0.1]], [[2 / 8, 0.4]], [[1 / 8, 0.5]]])


def test_divergence_in_nats_and_over_what_entropies_allow():
    q, r = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.5, 0.5, 0, 0])
    # H(mean) = H(3/4, 1/4), halves 0 and log 2
    mean = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    plain = mean - math.log(2) / 2
    assert float(routing.jensen_shannon(q, r)) == pytest.approx(plain)
    assert float(routing.divergence(q, r)) == pytest.approx(plain / (math.log(4) - math.log(2) / 2))
    assert float(routing.divergence(q, r, 3)) == pytest.approx(plain / (math.log(3) - math.log(2) / 2))
    assert float(routing.entropy(torch.full((4,), 0.25))) == pytest.approx(math.log(4))
    assert np.isnan(float(routing.divergence(torch.full((4,), 0.25), torch.full((4,), 0.25))))
