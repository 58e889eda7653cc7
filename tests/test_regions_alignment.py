"""Alignment metrics equal their definitions, and controls do what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions import gram, pair_means
from babelscope.regions.alignment import Metric, alignment, cosine
from babelscope.regions.alignment_measures import MEASURES, Cosines, Layer, ranks
from babelscope.regions.confounds import length_matched, overlap_matched, same_script, token_overlap
from babelscope.stats import documents_why

from . import reference
from .region_data import noise, recording


@pytest.fixture(scope="module")
def toy():
    """Two layers; meaning in the first, none in the second."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, 12, 16, generator=generator, dtype=torch.float64)
    v[..., :8] += 2 * torch.randn(1, 12, 8, generator=generator, dtype=torch.float64)
    return recording(v, layers=2)


@pytest.fixture(scope="module")
def found(toy):
    return {one.metric: one for one in alignment(toy)}


def test_every_metric_has_every_layer_and_pair_with_intervals(found):
    assert set(found) == set(MEASURES)
    for one in found.values():
        assert one.values.shape == (2, 3, 3)
        off = ~torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
        if one.metric == "mexa-at-25":  # of 12 sentences
            assert one.values.isnan().all()
            assert one.why == "fewer than 25 sentences"
            continue
        assert one.values[off].isfinite().all(), one.metric
        known = off & one.low.isfinite()  # the share of neighbours may be the same without any sentence
        assert (one.low[known] <= one.values[known]).all()
        assert (one.values[known] <= one.high[known]).all()
        assert torch.allclose(one.values, one.values.transpose(1, 2), equal_nan=True)


@pytest.mark.parametrize("metric", [name for name in MEASURES if name not in ("lrds", "mexa-at-25")])
def test_meaning_shows_where_it_is(found, metric):
    off = ~torch.eye(3, dtype=torch.bool)
    first, second = (found[metric].values[layer][off].mean() for layer in range(2))
    assert first > second + 0.1
    assert abs(second) < 0.3


def test_lrds_and_sads_are_those_of_the_similarity_map(toy, found):
    pairs = pair_means(gram(toy, 1))
    assert torch.allclose(found["sads"].values[1], pairs.sads, equal_nan=True)
    assert torch.allclose(found["lrds"].values[1], pairs.lrds, equal_nan=True)


def test_mexa_anc_and_cka_equal_their_definitions(toy, found):
    a, b = toy.layer(0)[0], toy.layer(0)[2]
    assert float(found["mexa"].values[0, 0, 2]) == pytest.approx(reference.loop_mexa(a, b))
    assert float(found["anc"].values[0, 0, 2]) == pytest.approx(reference.loop_anc(a, b), rel=1e-9)
    k, m = a @ a.T, b @ b.T
    wanted = reference.loop_hsic(k, m) / (reference.loop_hsic(k, k) * reference.loop_hsic(m, m)) ** 0.5
    assert float(found["cka"].values[0, 0, 2]) == pytest.approx(wanted, rel=1e-9)
    # the estimate is blind to where the origin lies
    moved = recording(toy.values() + torch.arange(3.0)[:, None, None], layers=2)
    assert torch.allclose(alignment(moved, ["cka"])[0].values, found["cka"].values, equal_nan=True)


def test_the_variants_are_what_their_names_say(toy):
    from scipy.stats import spearmanr

    v = toy.layer(0)
    wanted = spearmanr(v[0, 1].numpy(), v[1, 4].numpy()).statistic
    cosines = Cosines(Layer(v, torch.zeros(12, dtype=torch.long)), ranks(v), "none")
    assert float(cosines.of_pair(0, 1, 0)[1, 4]) == pytest.approx(wanted, rel=1e-9)


def documents(toy, size=3):
    return replace(toy, documents=tuple(str(place // size) for place in range(len(toy.ids))))


@pytest.mark.parametrize("centre", ["none", "all", "language"])
@pytest.mark.parametrize("name", list(MEASURES))
def test_a_document_left_out_is_a_recording_without_it(name, centre):
    """Whatever is centred is centred anew: every number equals that of the sentences that are left, measured alone."""
    generator = torch.Generator().manual_seed(3)
    v = torch.randn(3, 40, 12, generator=generator, dtype=torch.float64) + 2
    v = v + torch.randn(1, 40, 12, generator=generator, dtype=torch.float64)
    groups = torch.arange(40) % 10  # uneven: every fourth sentence of a document goes
    keep = [place for place in range(40) if place % 10 != 4 and place < 36]
    measure = MEASURES[name].of
    whole = measure(Layer(v[:, :36], groups[:36], centre))
    alone = measure(Layer(v[:, keep], torch.zeros(len(keep), dtype=torch.long), centre))
    assert torch.allclose(whole[5], alone[0], rtol=1e-9, atol=1e-12, equal_nan=True)
    assert whole[0, 0, 1].isfinite()


def test_a_metric_read_off_the_whole_map_has_the_same_numbers(toy):
    """The way of metrics from outside: everything is prepared anew for every document that is left out."""
    whole = Metric(cosine, lambda similarity: pair_means(similarity).sads)
    layer = Layer(documents(toy).layer(0), documents(toy).groups())
    assert torch.allclose(whole.of(layer), MEASURES["sads"].of(layer), equal_nan=True)
    alone = Layer(toy.layer(0), torch.zeros(12, dtype=torch.long))
    assert whole.of(alone)[1].isnan().all()


def test_mexa_at_fewer_sentences_is_the_mean_over_subsets():
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(2, 30, 8, generator=generator, dtype=torch.float64)
    v = v + 1.5 * torch.randn(1, 30, 8, generator=generator, dtype=torch.float64)
    exact = float(alignment(recording(v), ["mexa-at-25"])[0].values[0, 0, 1])
    rng = np.random.default_rng(0)
    drawn = [
        reference.loop_mexa(v[0, chosen], v[1, chosen])
        for chosen in (torch.from_numpy(rng.choice(30, 25, replace=False)) for _ in range(300))
    ]
    assert exact == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 300**0.5)
    assert exact > float(alignment(recording(v), ["mexa"])[0].values[0, 0, 1])


def test_intervals_are_over_documents(toy):
    one = alignment(documents(toy), ["sads"])[0]
    left = []
    for document in range(4):
        kept = [place for place in range(12) if place // 3 != document]
        left.append(float(pair_means(gram(toy.subset(kept), 0)).sads[0, 1]))
    from scipy.stats import t

    error = (3 / 4 * np.square(np.array(left) - np.mean(left)).sum()) ** 0.5
    assert float(one.high[0, 0, 1] - one.values[0, 0, 1]) == pytest.approx(t.ppf(0.975, 3) * error)
    assert one.why == documents_why(4)
    alone = alignment(documents(toy, 12), ["sads"])[0]
    assert alone.why == "one document"
    assert alone.low.isnan().all()
    two_left = alignment(documents(toy, 10), ["cka"])[0]  # without the first document two sentences: CKA needs four
    assert two_left.why == "too few sentences are left without a document"
    assert two_left.low.isnan().all()
    assert alignment(documents(toy, 6), ["cka"])[0].why == documents_why(2)


def test_intervals_cover_by_document():
    """Meaning is stronger in some documents than in others: by document the intervals hold what they say."""
    rng = np.random.default_rng(0)
    fixed = torch.from_numpy(rng.normal(size=(3, 1, 16)))

    def one_run(documents: int):
        strength = torch.from_numpy(np.repeat(1 + 0.5 * rng.normal(size=(documents, 1)), 4, axis=0))
        v = torch.from_numpy(rng.normal(size=(3, 4 * documents, 16))) + fixed
        v = v + strength * torch.from_numpy(rng.normal(size=(1, 4 * documents, 16)))
        labels = tuple(str(place // 4) for place in range(4 * documents))
        return alignment(replace(recording(v), documents=labels), ["sads-centred", "anc"])

    truth = [float(one.mean[0]) for one in one_run(2000)]
    runs = [one_run(10) for _ in range(120)]
    for place, value in enumerate(truth):
        bias = np.mean([float(run[place].mean[0]) for run in runs]) - value
        held = [float(run[place].mean_low[0]) <= value + bias <= float(run[place].mean_high[0]) for run in runs]
        assert 0.90 <= np.mean(held) <= 0.99


def test_a_neuron_constant_in_a_language_leaves_the_mean_correlation():
    v = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v[:, :, 3] = 1.5
    rest = recording(v[..., [0, 1, 2, 4, 5]])
    one, other = (alignment(rec, ["anc"])[0].values[0, 0, 1] for rec in (recording(v), rest))
    assert float(one) == pytest.approx(float(other), rel=1e-9)


def test_few_sentences_and_unknown_metrics_are_refused(toy):
    with pytest.raises(InputError, match="3 sentences are too few for cka: it needs 4"):
        alignment(noise(3, 3, 8), ["cka"])
    # three are left without one: no interval, and why
    assert alignment(noise(3, 4, 8), ["cka"])[0].why == "too few sentences are left without a document"
    with pytest.raises(InputError, match="no alignment metric 'sad'; there are lrds, sads"):
        alignment(toy, ["sad"])


def test_length_matched_negatives_take_length_out_of_sads():
    """Activations that follow the sentence's length alone: SADS is high, and nothing is left against equal lengths."""
    lengths = torch.tensor([3, 3, 3, 9, 9, 9, 20, 20, 20, 40, 40, 40])
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(2, 12, 20, generator=generator, dtype=torch.float64)
    pattern = torch.randn(50, 20, generator=generator, dtype=torch.float64)
    v = 0.3 * v + 3 * pattern[lengths]
    tokens = lengths.expand(2, 12)
    control = length_matched(tokens, nearest=2)
    assert control.facts["mean_difference_tokens"] == 0
    found = {one.metric: one.values[0, 0, 1] for one in alignment(recording(v), ["sads"], [control])}
    assert found["sads"] > 0.3
    assert abs(found["sads-length-matched"]) < 0.05


def test_stand_ins_are_never_the_translation_itself():
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    overlap = token_overlap([[1], [2], [1, 2], [3]] * 2, 2)
    for control in (length_matched(tokens, 2), overlap_matched(overlap, 2)):
        chosen = control.chosen(0, 1)
        assert not chosen.diagonal().any()
        assert (chosen.sum(1) == 2).all()


def test_the_gap_of_overlap_is_told_of_translations_alone():
    # translations share nothing, and so do their stand-ins: a sentence with itself shares all, and is no translation
    control = overlap_matched(token_overlap([[1], [2], [3], [4], [5], [6]], 2), 1)
    assert control.facts == {"mean_overlap_translation": 0, "mean_overlap_gap": 0}


def test_the_gap_of_overlap_by_hand():
    """Translations share 1/2, 1 and 0 of their tokens; the others share nothing, so they lie 1/2, 1 and 0 away."""
    control = overlap_matched(token_overlap([[1], [2], [3], [1, 9], [2], [4]], 2), 2)
    assert control.facts == {"mean_overlap_translation": 0.5, "mean_overlap_gap": 0.5}


def test_token_overlap_is_a_jaccard_index():
    overlap = token_overlap([[1, 2, 2], [5], [2, 3], [9]], 2)
    assert float(overlap.of_pair(0, 1)[0, 0]) == pytest.approx(1 / 3)
    assert float(overlap.of_pair(0, 1)[1, 1]) == 0
    assert float(overlap.of_pair(0, 0)[1, 1]) == 1
    assert float(overlap.translations()[0, 1]) == pytest.approx(1 / 6)


def test_scripts():
    assert same_script(["en", "fr", "zh"]).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("name", ["anc", "sads-rank"])
def test_a_neuron_of_one_document_leaves_with_it(name):
    """Rounding is left of it in the sentences of the others, and no correlation."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(2, 14, 40, generator=generator, dtype=torch.float64).clamp(min=0)
    v[:, :, :30] = 0
    v[:, 5, :30] = torch.rand(2, 30, generator=generator, dtype=torch.float64) + 0.1
    keep = [place for place in range(14) if place != 5]
    whole = MEASURES[name].of(Layer(v, torch.arange(14)))
    alone = MEASURES[name].of(Layer(v[:, keep], torch.zeros(13, dtype=torch.long)))
    assert torch.allclose(whole[6], alone[0], rtol=1e-9, atol=1e-12, equal_nan=True)


def test_equal_neurons_share_their_rank():
    """Spearman's correlation of what a ReLU leaves, whatever the order of neurons."""
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(0)
    v = (torch.randn(1, 2, 60, generator=generator, dtype=torch.float64) - 0.5).clamp(min=0)
    wanted = float(np.asarray(spearmanr(v[0, 0].numpy(), v[0, 1].numpy()).statistic))
    for one in (v, v.flip(-1)):
        r = cosine(ranks(one))[0]
        assert float(r[0] @ r[1]) == pytest.approx(wanted, abs=1e-12)


def test_equally_near_stand_ins_share_the_places_that_are_left():
    """To a sentence of length 3: one at distance 0, then two at distance 1 for one place; whatever their order."""
    chosen = length_matched(torch.tensor([[3, 3, 2, 4, 9]] * 2), 2).chosen(0, 1)
    assert chosen[0].tolist() == [0, 1, 0.5, 0.5, 0]
    assert chosen[4].tolist() == pytest.approx([1 / 2, 1 / 2, 0, 1, 0])


def test_matched_negatives_know_no_order_of_sentences_or_languages():
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, 14, 20, generator=generator, dtype=torch.float64)
    tokens = torch.randint(4, 9, (3, 14), generator=generator)
    found = alignment(recording(v), ["sads"], [length_matched(tokens)])[1].values[0]
    order = torch.randperm(14, generator=generator)
    moved = alignment(recording(v[:, order]), ["sads"], [length_matched(tokens[:, order])])[1].values[0]
    turned = alignment(recording(v.flip(0)), ["sads"], [length_matched(tokens.flip(0))])[1].values[0]
    assert torch.allclose(moved, found, equal_nan=True)
    assert torch.allclose(turned.flip(0, 1), found, equal_nan=True)
