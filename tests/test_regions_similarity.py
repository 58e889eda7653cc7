"""The similarity map, its means, shares, and intervals."""

from __future__ import annotations

import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions import gram, layer_means, pair_means, whole_means
from babelscope.regions.similarity import (
    alignment_shares,
    bootstrap_means,
    neuron_means,
    unit,
)
from babelscope.stats import percentile

from . import reference
from .region_data import noise, recording


@pytest.fixture(scope="module")
def toy():
    return noise(languages=5, sentences=6, neurons=24)


def vectors(rec):
    return torch.cat([x for _, x in rec.unit_chunks(7)], dim=-1)


def test_the_closed_forms_equal_the_loop_over_pairs(toy):
    found = whole_means(toy)
    wanted = reference.pair_loop_means(vectors(toy))
    parts = [float(one) for one in (found.same_language, found.same_sentence, found.neither)]
    assert parts == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_shares_of_neurons_sum_to_the_whole(toy):
    shares, whole = alignment_shares(toy), whole_means(toy)
    assert shares.sads.shape == (24,)
    assert float(shares.sads.sum()) == pytest.approx(float(whole.sads), rel=1e-12)
    assert float(shares.lrds.sum()) == pytest.approx(float(whole.lrds), rel=1e-12)


def test_layers_are_normalised_each_on_its_own():
    rec = noise(languages=3, sentences=4, neurons=20)
    two = recording(torch.from_numpy(rec.means), layers=2)
    for layer in range(2):
        x = unit(two.layer(layer))
        assert float(layer_means(two).lrds[layer]) == pytest.approx(float(neuron_means(x).lrds.sum()), rel=1e-12)


def test_a_silent_layer_is_named():
    v = torch.rand(3, 4, 8, dtype=torch.float64)
    v[1, 2, 4:] = 0
    with pytest.raises(InputError, match="layer 1: all neurons are silent for language 1, sentence 2"):
        layer_means(recording(v, layers=2))


def test_the_map_is_symmetric_with_ones_and_its_pairs_average_to_the_means(toy):
    similarity = gram(toy)
    flat = similarity.reshape(30, 30)
    assert torch.allclose(flat, flat.T)
    assert torch.allclose(flat.diagonal(), torch.ones(30, dtype=torch.float64))
    pairs, whole = pair_means(similarity), whole_means(toy)
    off = ~torch.eye(5, dtype=torch.bool)
    assert float(pairs.same_sentence[off].mean()) == pytest.approx(float(whole.same_sentence), rel=1e-12)
    assert float(pairs.neither[off].mean()) == pytest.approx(float(whole.neither), rel=1e-12)
    assert float(pairs.same_language.diagonal().mean()) == pytest.approx(float(whole.same_language), rel=1e-12)
    assert pairs.same_sentence.diagonal().isnan().all()


def meaningful(languages=6, sentences=12, neurons=30, seed=0):
    """Activations made of a language's part, a meaning's part, and noise."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return recording(
        draw(languages, 1, neurons) + draw(1, sentences, neurons) + 0.3 * draw(languages, sentences, neurons)
    )


def test_shuffled_sentence_ids_take_sads_away_and_leave_the_similarity_within():
    rec = meaningful()
    before, v = whole_means(rec), torch.from_numpy(rec.means)
    generator = torch.Generator().manual_seed(1)
    draws = [
        whole_means(recording(torch.stack([one[torch.randperm(12, generator=generator)] for one in v])))
        for _ in range(40)
    ]
    sads = torch.stack([one.sads for one in draws])
    assert before.sads > 0.3
    assert abs(float(sads.mean())) < 3 * float(sads.std()) / 40**0.5 + 1e-3
    assert all(float(one.same_language) == pytest.approx(float(before.same_language), rel=1e-12) for one in draws)


def test_labels_permuted_within_sentences_take_lrds_away():
    rec = meaningful()
    generator = torch.Generator().manual_seed(1)
    v = torch.from_numpy(rec.means)
    values = []
    for _ in range(40):
        order = torch.rand(6, 12, generator=generator).argsort(0)
        values.append(whole_means(recording(v.gather(0, order[..., None].expand_as(v)))).lrds)
    lrds = torch.stack(values)
    assert whole_means(rec).lrds > 0.3
    assert abs(float(lrds.mean())) < 3 * float(lrds.std()) / 40**0.5 + 1e-3


def test_a_bootstrap_of_every_sentence_once_is_the_whole(monkeypatch):
    rec = meaningful()
    ones = lambda draws, size, generator: torch.ones(draws, size, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr("babelscope.regions.similarity._counts", ones)
    drawn, whole = bootstrap_means(gram(rec), draws=2), whole_means(rec)
    for name in ("same_language", "same_sentence", "neither"):
        assert float(getattr(drawn, name)[0]) == pytest.approx(float(getattr(whole, name)), rel=1e-12)


@pytest.mark.parametrize("languages_too", [False, True])
def test_bootstrap_intervals_hold_the_value(languages_too):
    rec = meaningful()
    low, high = percentile(bootstrap_means(gram(rec), 300, 0, languages_too).sads.numpy())
    assert low < float(whole_means(rec).sads) < high


def test_one_sentence_or_language_is_refused():
    with pytest.raises(InputError, match="two languages and two sentences; there are 1 and 4"):
        neuron_means(torch.rand(1, 4, 3))
