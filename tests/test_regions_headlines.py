"""Language share and N(d > δ) of documents left out: the products of matrices against leaving them out one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions.alignment import alignment
from babelscope.regions.alignment_neurons import Removals, _conditions
from babelscope.regions.contrast import Stack, reference_weights
from babelscope.regions.deactivation import of_layer
from babelscope.regions.headlines import headlines
from babelscope.regions.masks import RegionSet
from babelscope.regions.recording import Recording
from babelscope.regions.sinks import pooled_slope
from babelscope.regions.treatments import Doses, _doses
from babelscope.stats import jackknife_t

from .region_data import noise

SIZES = (1, 4, 2, 2, 6)


def told(sparse: bool, languages: int = 4, neurons: int = 200, sizes: tuple[int, ...] = SIZES) -> Recording:
    """Sentences of documents of several lengths; where few neurons fire, some fire in one document alone."""
    rec = noise(languages=languages, sentences=sum(sizes), neurons=neurons)
    generator = torch.Generator().manual_seed(3)
    means = torch.as_tensor(rec.means).clone()
    means += torch.randn(languages, 1, neurons, generator=generator).abs() / 4
    documents = tuple(f"d{place}" for place, size in enumerate(sizes) for _ in range(size))
    if sparse:
        means = (means - means.flatten(0, 1).quantile(0.8, dim=0)).clamp(min=0)
        means[:, :, :20] = 0  # a neuron that never fires
        means[:, :, 20:40] *= torch.tensor([name == "d4" for name in documents])[None, :, None]
    return replace(rec, means=means.numpy(), documents=documents)


def left(stack: Stack, group: int) -> Stack:
    kept = [place for place in range(len(stack.sizes)) if place != group]
    return Stack(stack.sums[:, kept], stack.squares[:, kept], stack.sizes[kept])


@pytest.mark.parametrize("sparse", [False, True])
def test_sums_without_a_document_are_those_of_the_others(sparse):
    rec = told(sparse)
    groups = rec.groups()
    x = rec.values(slice(None)).double()
    empty = torch.zeros(len(x), len(SIZES), x.shape[-1], dtype=torch.float64)
    stack = Stack(
        empty.index_add(1, groups, x), empty.index_add(1, groups, x.square()), torch.bincount(groups).double()
    )
    against = reference_weights(rec.languages, None)
    value, s = stack.estimates_without(against)
    errors = stack.errors_without(against)
    for group in range(len(SIZES)):
        one = left(stack, group)
        expected, spread = one.estimates(against)
        torch.testing.assert_close(value[:, group], expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(s[group], spread, rtol=1e-10, atol=0)  # what is nothing is exactly nothing
        torch.testing.assert_close(errors[:, group], one.errors(against), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_intervals_are_those_of_corpora_without_a_document(sparse):
    rec = told(sparse)
    found = headlines(rec, effect=0.2)
    without = [
        headlines(rec.subset([place for place, name in enumerate(rec.documents) if name != gone]), effect=0.2)
        for gone in dict.fromkeys(rec.documents)
    ]
    for name in ("language_share", "strong_neurons"):
        values = torch.tensor([getattr(one, name).value for one in without], dtype=torch.float64)
        expected = jackknife_t(getattr(found, name).value, values.numpy())
        assert getattr(found, name).low == pytest.approx(expected.low, rel=1e-8)
        assert getattr(found, name).high == pytest.approx(expected.high, rel=1e-8)
        assert len({round(float(value), 6) for value in values}) > 1


def test_of_two_documents_there_is_a_value_and_no_interval():
    found = headlines(told(False, sizes=(3, 4))).language_share
    assert math.isfinite(found.value)
    assert math.isnan(found.low)
    assert "two documents" in found.why


def test_one_sentence_has_no_strong_neurons_that_could_be_counted():
    """Without either of two sentences nothing has a deviation: that is no count of 0 without either."""
    found = headlines(noise(3, 2, 40)).strong_neurons
    assert math.isfinite(found.value)
    assert found.why == "two documents: nothing is left to compare when one is left out"


def test_a_neuron_that_is_the_same_everywhere_has_no_share():
    rec = replace(told(False, languages=7), norm="none")
    constant = replace(rec, means=np.concatenate([rec.means, np.full_like(rec.means[..., :50], 0.1)], axis=-1))
    found, expected = headlines(constant).language_share, headlines(rec).language_share
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_the_slope_on_length_and_its_error_are_those_of_a_regression_with_a_level_for_each_language():
    tokens = torch.tensor([[2, 3, 5, 8], [3, 4, 9, 7]])
    y = torch.tensor([[1.0, 0.5, 0.7, -0.4], [3.0, 2.0, 1.5, 2.2]], dtype=torch.float64)
    columns = torch.zeros(8, 3, dtype=torch.float64)
    columns[:, 0] = tokens.double().log().flatten()
    columns[:4, 1] = columns[4:, 2] = 1
    solved = torch.linalg.lstsq(columns, y.flatten()[:, None]).solution
    left = float((y.flatten()[:, None] - columns @ solved).square().sum()) / (8 - 3)
    error = (left * torch.linalg.inv(columns.T @ columns)[0, 0]).sqrt()
    slope, found = pooled_slope(y[..., None], tokens)
    assert float(slope) == pytest.approx(float(solved[0]))
    assert float(found) == pytest.approx(float(error))


def test_controls_of_neighbouring_seeds_are_the_same_draws():
    rec = told(False)
    one = [mask for *_, mask in _conditions(rec, Removals(shares=(0.1,), controls=3, seed=0))]
    other = [mask for *_, mask in _conditions(rec, Removals(shares=(0.1,), controls=2, seed=1))]
    assert torch.equal(one[2], other[1])
    assert torch.equal(one[3], other[2])
    assert not torch.equal(one[1], one[2])
    regions = RegionSet({"en": torch.zeros(2, 9).bool()}, "z", scores={"en": torch.arange(18.0).reshape(2, 9)})
    one = [mask for *_, mask in _doses(regions, Doses(shares=(0.3,), controls=3, seed=0))]
    other = [mask for *_, mask in _doses(regions, Doses(shares=(0.3,), controls=2, seed=1))]
    assert all(torch.equal(one[2 + draw], other[1 + draw]) for draw in range(2))
    assert not torch.equal(other[1], other[2])


def test_a_sentence_that_a_layer_is_silent_for_is_named():
    rec = told(False, neurons=20)
    means = rec.means.copy()
    means[1, 2] = 0
    with pytest.raises(InputError, match="layer 0: all neurons are silent for language 1, sentence 2"):
        alignment(replace(rec, means=means), ["mexa"])


def test_a_mask_that_names_a_neuron_which_a_layer_has_not_is_refused():
    row = torch.tensor([False, True, False, True])
    with pytest.raises(InputError, match="names neuron 3 of a layer that has 2"):
        of_layer(row, torch.zeros(5, 2))
    assert of_layer(row, torch.zeros(5, 4)).tolist() == row.tolist()
    assert of_layer(torch.ones(4), torch.zeros(5, 2)).tolist() == [1, 1]  # values of neurons that are not there
