"""Recordings of which one block exists at a time give the numbers of whole ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions import localisation
from babelscope.regions.blocks import RecomputedMeans, scores_in_blocks
from babelscope.regions.nulls import score_null

from .region_data import noise


def blocked(neurons: int = 40, budget: int = 4 * 6 * 8 * 7):
    whole = noise(neurons=neurons)
    whole = replace(whole, means=whole.means.astype(np.float32))
    means = RecomputedMeans(whole.means.shape, lambda columns: whole.means[:, :, columns].copy(), budget)
    return whole, replace(whole, means=means)


def test_any_columns_are_those_of_the_whole():
    whole, parts = blocked()
    for columns in (slice(0, 40), slice(3, 4), slice(5, 29), slice(7, 14), slice(39, 40), slice(10, 10)):
        assert np.array_equal(parts.means[:, :, columns], whole.means[:, :, columns])


def test_a_sweep_makes_each_block_once():
    _, parts = blocked()
    for start in range(0, 40, 2):
        parts.means[:, :, slice(start, start + 2)]
    assert parts.means.width == 7
    # a pair that lies on an edge needs both blocks, in order
    assert parts.means.passes == 6


def test_scores_norms_and_nulls_agree():
    whole, parts = blocked()
    scores, z, regions = scores_in_blocks(parts)
    expected = localisation.within_language_scores(localisation.within_language_sums(whole))
    torch.testing.assert_close(scores.double(), expected, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(z.double(), localisation.standard_scores(expected), atol=1e-4, rtol=1e-4)
    assert torch.equal(regions, localisation.key_regions(expected))
    torch.testing.assert_close(parts.norms(), whole.norms())
    assert torch.equal(score_null(parts, 20).p, score_null(whole, 20).p)


def test_a_budget_below_one_neuron_is_refused():
    with pytest.raises(InputError, match="does not hold one neuron of 900 sentences"):
        RecomputedMeans((9, 100, 5), lambda columns: np.zeros((9, 100, 1)), budget=100)
