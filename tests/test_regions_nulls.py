"""The permutation null: exact against a loop, calibrated on permuted data, and what it costs nothing to check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from babelscope.errors import InputError
from babelscope.regions import gram, key_regions, standard_scores, whole_means
from babelscope.regions import within_language_scores as scores_of
from babelscope.regions import within_language_sums as sums_of
from babelscope.regions.nulls import (
    label_null,
    permutations,
    reached,
    score_null,
    sentence_null,
)
from babelscope.regions.stability import (
    bootstrap_regions,
    split_half_regions,
    weighted_scores,
    without_each_language,
)
from babelscope.stats import benjamini_hochberg

from . import reference
from .region_data import noise, planted, recording


def units(rec):
    return torch.cat([x for _, x in rec.unit_chunks()], dim=-1)


@pytest.mark.parametrize("sentences", [8, 9])
def test_draws_equal_a_loop_over_permuted_recordings(sentences):
    rec = noise(languages=7, sentences=sentences, neurons=30)
    null = score_null(rec, draws=20, threshold=2.0, seed=3)
    x, drawn = units(rec), permutations(20, sentences, 7, seed=3)
    rows = torch.arange(sentences)
    permuted = [torch.stack([x[one[:, label], rows] for label in range(7)]) for one in drawn]
    zs = torch.stack([standard_scores(reference.pair_loop_scores(one)) for one in permuted])
    observed = standard_scores(reference.pair_loop_scores(x))
    assert torch.equal(null.sizes, (zs > 2).sum(2))
    assert torch.equal(null.observed, (observed > 2).sum(1))
    counts = torch.stack([(zs >= one).sum((0, 1)) + (observed >= one).sum(0) for one in observed])
    # sums in float32: equal but for near ties, which may fall on either side
    assert (counts / (21 * 7) - null.p).abs().max() <= 1.5 / (21 * 7)
    assert null.p.min() >= 1 / (21 * 7) - 1e-9
    assert null.excess == pytest.approx(null.sklr - float(null.sizes.sum(1).double().mean()))


def test_the_chunks_of_a_memory_map_change_nothing(monkeypatch, tmp_path):
    rec = noise(languages=6, sentences=6, neurons=50)
    np.save(tmp_path / "means.npy", rec.means)
    stored = type(rec)(rec.languages, rec.ids, 1, np.load(tmp_path / "means.npy", mmap_mode="r"), rec.tokens, 0.0)
    whole = score_null(rec, draws=10)
    monkeypatch.setattr("babelscope.regions.nulls.CHUNK", 7)
    monkeypatch.setattr("babelscope.regions.nulls.DRAWS_AT_ONCE", 3)
    parts = score_null(stored, draws=10)
    assert torch.equal(whole.sizes, parts.sizes)
    assert torch.allclose(whole.p, parts.p)


def test_a_silent_or_constant_neuron_is_in_no_region_and_never_significant():
    v = torch.from_numpy(noise(languages=6, sentences=6, neurons=10).means).clone()
    v[..., 0], v[..., 1] = 0, 0
    v[0, 0, 1] = 5  # active in one sentence alone: no pair of sentences shares it
    null = score_null(recording(v), draws=10)
    assert (null.p[:, 0] == 1).all()
    assert not key_regions(scores_of(sums_of(recording(v))))[:, :2].any()


def test_null_data_are_calibrated():
    """Excess about 0, p uniform, and nothing kept at the stated rate, over 60 repetitions of pure noise."""
    excess, p, p_effect, inside, kept, kept_effect = [], [], [], 0, 0, 0
    for seed in range(60):
        null = score_null(noise(languages=6, sentences=6, neurons=12, seed=seed), draws=400, seed=seed)
        low, high = null.null_ends
        excess.append(null.excess)
        inside += low <= null.sklr <= high
        # one value per recording: the neurons of a recording are not independent of one another
        p.append(float(null.p[seed % 6, seed % 12]))
        p_effect.append(float(null.p_effect[seed % 6, seed % 12]))
        kept += bool(benjamini_hochberg(null.p.numpy(), 0.1).any())
        kept_effect += bool(benjamini_hochberg(null.p_effect.numpy(), 0.1).any())
    assert inside >= 53  # of 60 at 95 %: fewer has probability 0.01
    assert abs(np.mean(excess)) < 3 * np.std(excess) / 60**0.5
    assert kstest(p, "uniform").pvalue > 0.01
    assert kstest(p_effect, "uniform").pvalue > 0.01
    # 6 expected at most; more than 13 has probability below 0.01
    assert kept <= 13
    assert kept_effect <= 13


def test_permuted_real_structure_is_calibrated_too():
    """Strong languages and meanings, labels permuted within each sentence: nothing is left."""
    generator = torch.Generator().manual_seed(0)
    excess, p = [], []
    base = torch.from_numpy(planted(3.0, languages=6, sentences=8, neurons=60, per_language=8)[0].means)
    for seed in range(50):
        order = torch.rand(6, 8, generator=generator).argsort(0)
        null = score_null(recording(base.gather(0, order[..., None].expand_as(base))), draws=100, seed=seed)
        excess.append(null.excess)
        p.append(float(null.p[seed % 6, seed]))
    assert abs(np.mean(excess)) < 3 * np.std(excess) / 50**0.5
    assert kstest(p, "uniform").pvalue > 0.01


def test_planted_neurons_are_beyond_chance():
    rec, truth = planted(4.0, languages=9, sentences=20, neurons=200, per_language=4)
    null = score_null(rec, draws=300)
    assert null.sklr > null.null_ends[1]
    assert null.p_sklr < 0.02
    kept = torch.from_numpy(benjamini_hochberg(null.p_effect.numpy(), 0.05))
    assert (kept & truth).sum() >= 0.95 * truth.sum()


def test_what_has_no_null_is_refused():
    few = score_null(noise(languages=5), draws=2)
    assert few.sklr == 0
    assert few.p.min() < 1
    with pytest.raises(InputError, match="one draw; there are 8 and 0"):
        score_null(noise(), draws=0)
    assert reached(3.0, torch.tensor([1.0, 3.0, 5.0])) == 3 / 4


@pytest.mark.parametrize("alike", [False, True])
def test_nulls_of_lrds_and_sads_equal_permuted_recordings(alike):
    rec = noise(languages=4, sentences=5, neurons=30)
    if alike:  # all sentences point much the same way
        rec = replace(rec, means=rec.means + 3)
    similarity = gram(rec)
    v = torch.from_numpy(rec.means)
    labels, drawn = label_null(similarity, 6, seed=2), permutations(6, 5, 4, seed=2)
    for draw in range(6):
        moved = torch.stack([v[drawn[draw][:, label], torch.arange(5)] for label in range(4)])
        wanted = whole_means(recording(moved))
        assert float(labels.lrds[draw]) == pytest.approx(float(wanted.lrds), abs=1e-12)
        assert float(labels.sads[draw]) == pytest.approx(float(wanted.sads), abs=1e-12)
    ids, drawn = sentence_null(similarity, 6, seed=2), permutations(6, 4, 5, seed=2)
    for draw in range(6):
        moved = torch.stack([v[language, drawn[draw][language]] for language in range(4)])
        wanted = whole_means(recording(moved))
        assert float(ids.sads[draw]) == pytest.approx(float(wanted.sads), abs=1e-12)
        assert float(ids.same_language[draw]) == pytest.approx(float(wanted.same_language), abs=1e-12)


def test_weighted_scores_are_scores_of_the_drawn_sentences_without_pairs_of_one():
    x = units(noise(languages=3, sentences=5, neurons=7))
    ones = torch.ones(1, 5, dtype=torch.float64)
    assert torch.allclose(weighted_scores(x, ones)[:, 0], reference.pair_loop_scores(x), rtol=1e-12)
    half = torch.tensor([[1.0, 0, 1, 1, 0]], dtype=torch.float64)
    assert torch.allclose(weighted_scores(x, half)[:, 0], reference.pair_loop_scores(x[:, [0, 2, 3]]), rtol=1e-12)


def test_planted_regions_are_found_again_and_noise_is_not():
    rec, _ = planted(6.0, languages=9, sentences=16, neurons=300, per_language=30)
    steady, loose = bootstrap_regions(rec, 20), bootstrap_regions(noise(9, 16, 300), 20)
    for code in rec.languages:
        assert steady.by_language()[code].mean > 0.6
    assert np.mean([one.mean for one in loose.by_language().values()]) < 0.5
    halves, chance = split_half_regions(rec, 10), split_half_regions(noise(9, 16, 300), 10)
    assert np.mean([one.mean for one in halves.by_language().values()]) > 0.5
    expected = np.mean(list(chance.chance_by_language().values()))
    assert np.mean([one.mean for one in chance.by_language().values()]) == pytest.approx(expected, abs=0.03)


def test_split_halves_need_four_sentences_and_leaving_out_needs_seven_languages():
    with pytest.raises(InputError, match="at least four sentences"):
        split_half_regions(noise(sentences=3))
    scores = scores_of(sums_of(noise(languages=7)))
    left = without_each_language(scores)
    assert list(left) == list(range(7))
    assert torch.equal(left[2], key_regions(scores[[0, 1, 3, 4, 5, 6]]))
    assert without_each_language(scores[:6], 2.0) == {}
    assert without_each_language(scores[:6], 1.9) != {}


def test_a_neuron_that_one_sentence_alone_uses_is_in_no_region_of_any_draw():
    """A sentence makes no pair with itself, however often it is drawn: of such scores nothing but rounding is left."""
    x = torch.zeros(6, 10, 60, dtype=torch.float64)
    for neuron in range(60):
        x[neuron % 6, neuron % 10, neuron] = 1 / (3 + neuron)
    drawn = torch.from_numpy(np.random.default_rng(0).multinomial(10, [0.1] * 10, size=40)).double()
    assert (weighted_scores(x, drawn) == 0).all()


def test_a_draw_of_one_sentence_alone_is_no_draw():
    found = bootstrap_regions(noise(9, 2, 40), 40)
    assert len(found.sizes) < 40
    whole = key_regions(scores_of(sums_of(noise(9, 2, 40)))).sum(1)
    assert (found.sizes == whole).all()


def test_five_languages_never_exceed_two_whatever_rounding_leaves():
    v = torch.zeros(5, 10, 300, dtype=torch.float64)
    v[torch.arange(300) % 5, :, torch.arange(300)] = noise(1, 300, 10).stored()[0].abs()
    found = score_null(recording(v), 20)
    assert int(found.observed.sum()) == int(found.sizes.sum()) == 0
    assert int(bootstrap_regions(recording(v), 20).sizes.sum()) == 0


def test_a_neuron_far_from_zero_leaves_the_others_their_z():
    """Rounding is judged by each neuron's own sums, not by those of the neurons beside it."""
    v = torch.from_numpy(noise(languages=7, sentences=8, neurons=20).means).clone()
    v[..., 0] += 1e7
    v[2, :, 5:9] += 4
    rec = replace(recording(v), norm="none")
    regions = key_regions(scores_of(sums_of(rec)))
    assert regions[2, 5:9].all()
    assert score_null(rec, draws=3).observed.tolist() == regions.sum(1).tolist()
