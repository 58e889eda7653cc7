"""Alignment metrics equal their definitions, and controls do what they say."""

from __future__ import annotations

import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions import gram, pair_means
from babelscope.regions.alignment import METRICS, alignment, inner_products, plain
from babelscope.regions.confounds import length_matched, overlap_matched, same_script, token_overlap

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
    assert set(found) == set(METRICS)
    for one in found.values():
        assert one.values.shape == (2, 3, 3)
        off = ~torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
        assert one.values[off].isfinite().all(), one.metric
        assert (one.low[off] <= one.values[off]).all()
        assert (one.values[off] <= one.high[off]).all()
        assert torch.allclose(one.values, one.values.transpose(1, 2), equal_nan=True)


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "lrds"])
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
    moved = METRICS["cka"].reduce(inner_products(toy.layer(0)))
    assert torch.allclose(moved, METRICS["cka"].reduce(inner_products(plain(toy.layer(0)))), equal_nan=True)


def test_the_variants_are_what_their_names_say(toy):
    v = toy.layer(0)
    states, ranks = METRICS["sads-binary"].prepare(v), METRICS["sads-rank"].prepare(v)
    assert torch.equal(states > 0, v > 0)
    from scipy.stats import spearmanr

    wanted = spearmanr(v[0, 1].numpy(), v[1, 4].numpy()).statistic
    assert float(ranks[0, 1] @ ranks[1, 4]) == pytest.approx(wanted, rel=1e-9)
    assert METRICS["sads-language-centred"].prepare(v).shape == v.shape


def test_a_neuron_constant_in_a_language_leaves_the_mean_correlation():
    v = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v[:, :, 3] = 1.5
    rest = recording(v[..., [0, 1, 2, 4, 5]])
    one, other = (alignment(rec, ["anc"])[0].values[0, 0, 1] for rec in (recording(v), rest))
    assert float(one) == pytest.approx(float(other), rel=1e-9)


def test_few_sentences_and_unknown_metrics_are_refused(toy):
    with pytest.raises(InputError, match="4 sentences are too few for cka"):
        alignment(noise(3, 4, 8), ["cka"])
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
        assert not control.chosen.diagonal(dim1=1, dim2=3).any()
        assert (control.chosen.sum(3) == 2).all()


def test_the_gap_of_overlap_is_told_of_translations_alone():
    # translations share nothing, and so do their stand-ins: a sentence with itself shares all, and is no translation
    control = overlap_matched(token_overlap([[1], [2], [3], [4], [5], [6]], 2), 1)
    assert control.facts == {"mean_overlap_translation": 0, "mean_overlap_gap": 0}


def test_token_overlap_is_a_jaccard_index():
    overlap = token_overlap([[1, 2, 2], [5], [2, 3], [9]], 2)
    assert overlap.shape == (2, 2, 2, 2)
    assert float(overlap[0, 0, 1, 0]) == pytest.approx(1 / 3)
    assert float(overlap[0, 1, 1, 1]) == 0
    assert float(overlap[0, 0, 0, 0]) == 1


def test_scripts():
    assert same_script(["en", "fr", "zh"]).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
