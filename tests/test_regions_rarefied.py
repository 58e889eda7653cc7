"""Excess SKLR without p-values, and at a fixed number of sentences: against the null it is taken from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions.headlines import NULL_DRAWS, SUBSETS, rarefied_excess
from babelscope.regions.nulls import excess_sklr, score_null

from .region_data import noise


@pytest.mark.parametrize("sentences", [2, 8, 9, 130])
def test_the_excess_is_that_of_the_whole_null(sentences):
    rec = noise(languages=7, sentences=sentences, neurons=300)
    for threshold in (1.5, 2.0):
        null = score_null(rec, draws=70, threshold=threshold, seed=3)
        assert excess_sklr(rec, 70, threshold, seed=3) == pytest.approx(null.excess, abs=1e-9)


def test_documents_are_permuted_whole_and_sinks_left_out():
    rec = noise(languages=7, sentences=12, neurons=40)
    documents = tuple(f"d{place // 3}" for place in range(12))
    out = np.zeros(40, dtype=bool)
    out[5] = True
    rec = replace(rec, documents=documents, out=torch.from_numpy(out))
    assert excess_sklr(rec, 20, seed=1) == pytest.approx(score_null(rec, 20, seed=1).excess, abs=1e-9)
    assert excess_sklr(rec, 20, seed=1) != pytest.approx(excess_sklr(replace(rec, documents=()), 20, seed=1))


def test_of_all_sentences_it_is_the_mean_over_the_draws_of_the_whole():
    """A subset of as many sentences as there are is the whole corpus: what is left are twenty seeds of the null."""
    rec = noise(languages=7, sentences=10, neurons=60)
    found = rarefied_excess(rec, 2.0, rarefy=10, seed=4)
    alone = [score_null(rec, NULL_DRAWS, 2.0, 4 + place).excess for place in range(SUBSETS)]
    assert found.value == pytest.approx(float(np.mean(alone)))
    assert found.method == ""
    assert "of 10 sentences" in found.why


def test_one_sentence_or_no_draw_is_refused():
    rec = noise(languages=7, sentences=4, neurons=10)
    with pytest.raises(InputError, match="two sentences and one draw"):
        excess_sklr(rec, 0)
    with pytest.raises(InputError, match="two sentences and one draw"):
        excess_sklr(rec.subset([0]), 5)
    with pytest.raises(InputError, match="rarefy 1: a similarity within a language needs two sentences"):
        rarefied_excess(rec, rarefy=1)
    assert np.isfinite(rarefied_excess(rec, rarefy=2).value)
