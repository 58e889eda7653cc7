"""Numbers of the latent study that rounding, trials of one concept and trials without a number must not move."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from babelscope.latent.excess import similarity
from babelscope.latent.inference import mean_interval, simultaneous
from babelscope.latent.judging import Pair
from babelscope.latent.lens import Readings
from babelscope.latent.patching import SOURCES, Patched
from babelscope.latent.separation import separation
from babelscope.latent.tokens import TokenSets
from babelscope.latent.trials import Languages
from babelscope.latent.words import Concept, WordList
from babelscope.stats import spearman
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


def test_likeness_of_words_is_asked_of_the_solved_concepts_alone():
    english = ["chat", "cart", "cat", "dog", "horse", "tree"]
    french = ["chat", "carte", "chien", "dogue", "cheval", "arbre"]
    concepts = tuple(Concept(one, {"en": (one,), "fr": (other,)}) for one, other in zip(english, french))
    solved = np.array([True, True, True, True, False, False])
    tokens = TokenSets((0, 1, 2, 3, 4, 5), {"en": (), "fr": ()}, ())
    readings = Readings({}, np.zeros((3, 6)), np.zeros(6, dtype=np.int64))
    pair = Pair(WordList("w", ("en", "fr"), concepts), tokens, "en", "fr", readings, solved)
    strength = np.array([0.4, 0.3, 0.1, 0.2, 0.9, 0.8])
    pair.__dict__["excess"] = {"en": SimpleNamespace(strength=lambda: strength)}
    alike = np.array([similarity([one], [other]) for one, other in zip(english, french)])
    found, every = pair.overlap("en", solved), pair.overlap("en", np.ones(6, dtype=bool))
    assert found.spearman == pytest.approx(spearman(strength[:4], alike[:4]))
    assert every.spearman == pytest.approx(spearman(strength, alike))
    assert found.spearman > 0.9 > 0 > every.spearman
    # half of the four: of "cat" and "dog" the French words are the less alike
    assert np.flatnonzero(found.less_similar).tolist() == [2, 3]
