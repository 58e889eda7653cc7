"""Numbers of the latent study that rounding, trials of one concept and trials without a number must not move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from babelscope.latent.inference import mean_interval, simultaneous
from babelscope.latent.patching import SOURCES, Patched
from babelscope.latent.separation import separation
from babelscope.latent.trials import Languages
from babelscope.studies.latent_tables import patch_frame


@pytest.mark.parametrize("rounding", [0.0, 2e-15])
def test_a_layer_that_is_the_same_in_every_concept_has_no_ends_and_moves_no_others(rounding):
    generator = np.random.default_rng(0)
    values = generator.normal(1, 0.3, (4, 60))
    flat = 11.3 + rounding * generator.choice([-1, 1], (1, 60))
    band, alone = simultaneous(np.vstack([flat, values])), simultaneous(values)
    assert np.isnan([band.low[0], band.high[0]]).all()
    assert (band.high[1:] == alone.high).all()
    assert (band.low[1:] == alone.low).all()


def test_a_large_mean_costs_a_band_no_digits():
    values = np.random.default_rng(0).normal(0, 1e-6, (3, 40))
    near, far = simultaneous(values), simultaneous(values + 1000)
    assert far.high - far.value == pytest.approx(near.high - near.value, rel=1e-5)
    assert far.value - far.low == pytest.approx(near.value - near.low, rel=1e-5)


def patched(concepts: int = 10, times: int = 4) -> Patched:
    """Every concept several times over, with the very same masses."""
    generator = np.random.default_rng(0)
    place = np.tile(np.arange(concepts), times)
    last = generator.random((concepts, 3, 4))[place]
    word = generator.random((concepts, len(SOURCES), 3))[place]
    languages = Languages(("fr", "zh"), ("en", "fr"), (("fr", "zh"), ("zh", "en")))
    solved, unpatched = np.ones(len(place), bool), generator.random((concepts, 4))[place]
    return Patched(languages, place, solved, unpatched, np.ones(len(place)), last, word, True)


def row_of(found: Patched, what: str, **where: object) -> object:
    frame = patch_frame(found, separation(found, draws=50))
    frame = frame[frame["what"] == what]
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame.iloc[0]


def test_a_concept_that_is_asked_four_times_is_one_concept():
    row = row_of(patched(), "c2 in d", patched="last", layer=1)
    once = mean_interval(patched(times=1).last[:, 0, 0])
    assert [row.value, row.value_low, row.value_high] == pytest.approx([once.value, once.low, once.high])
    assert row.pairs == 40


def test_pairs_are_counted_that_have_a_number():
    found = patched()
    word = found.word.copy()
    word[:7] = np.nan  # the word runs together with its quote
    found = replace(found, word=word)
    assert row_of(found, "c1 in d", patched="random", layer=1).pairs == 33
    assert row_of(found, "recovery", patched="random").pairs == 33
    assert row_of(found, "c1 in d", patched="last", layer=1).pairs == 40
