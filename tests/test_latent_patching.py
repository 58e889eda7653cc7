"""Language and concept patching: identities, the plain loop, verdicts by hand and on planted models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from babelscope.errors import InputError
from babelscope.latent.lens import normed, read_out, states
from babelscope.latent.patching import MASSES, SOURCES, Patched, layers_from, patch, single_layers
from babelscope.latent.separation import separation
from babelscope.latent.trials import Languages, asked_tokens, end_at_word, languages_of, trials
from babelscope.latent.variants import cache_serves, final_states, final_states_plainly
from babelscope.latent.words import load_words
from babelscope.models import Model
from babelscope.pocket.planted import planted

from . import reference_latent as reference
from .tiny_models import tiny_model, tiny_tokenizer


@cache
def patched(kind: str) -> Patched:
    model = Model(*planted(kind), id=kind)  # pyright: ignore[reportArgumentType]
    words = load_words("planted")
    pair = languages_of(words, ("fr", "zh"))
    tokens = asked_tokens(model, words, pair, "none")
    return patch(model, tokens, pair, trials(words, tokens, pair, 32, demonstrations=1))


# -- planted truth -----------------------------------------------------------------------------------------------------


def test_a_concept_that_is_the_same_in_every_language_separates():
    found = separation(patched("none"), draws=300)
    assert found.pairs == 32
    assert found.separable
    assert found.shared
    assert found.recovery("mean of languages").share.value > 0.95
    assert abs(found.recovery("other concept").share.value) < 0.05
    assert abs(found.recovery("random").share.value) < 0.2
    # in this model language and concept arrive together, at block 2
    assert (found.language_layer, found.concept_layer) == (2, 2)
    assert found.language_first == 0
    assert "separable" in found.sentence


def test_a_concept_that_is_another_thing_in_every_language_does_not():
    found = separation(patched("entangled"), draws=300)
    assert found.pairs == 32
    assert found.separable is False
    assert found.recovery("mean of languages").share.value < 0.2
    assert "not separable" in found.sentence
    assert "mean over languages" not in found.sentence


def test_own_into_own_changes_nothing():
    for kind in ("none", "entangled"):
        found = patched(kind)
        own = found.word[:, SOURCES.index("own")]
        assert np.allclose(own, found.unpatched[:, 2:3], atol=1e-6)


def test_at_the_last_layer_the_source_speaks():
    found = patched("none")
    assert (found.last[:, -1, MASSES.index("c1 in b")] > 0.99).all()
    assert (found.unpatched[:, MASSES.index("c2 in d")] > 0.99).all()
    assert (found.ceiling > 0.99).all()


# -- the cached way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bloom", "llama", "gpt2", "gemma2", "opt", "falcon-7b", "olmo2", "cohere"])
def test_cached_prefixes_give_what_whole_passes_give(family):
    model = Model(tiny_model(family), tiny_tokenizer(), id=family)
    ids = model.tokenize(["hello world"])[0]
    source = states(model, ["abc d"])[:, 0]
    for position, rows in ((len(ids) - 1, single_layers(source)), (4, layers_from(source)), (0, layers_from(source))):
        fast = final_states(model, ids, position, *rows)
        plain = final_states_plainly(model, ids, position, *rows)
        assert torch.allclose(fast, plain, rtol=1e-5, atol=1e-5)
    assert cache_serves(model, ids)


@pytest.mark.parametrize("family", ["bloom", "llama"])
def test_patching_the_last_position_is_the_plain_hook(family):
    model = Model(tiny_model(family), tiny_tokenizer(), id=family)
    source, target = "abc d", "hello world"
    ids, words = model.tokenize([target])[0], torch.tensor([5, 17, 40])
    rows = single_layers(states(model, [source])[:, 0])
    answers = read_out(model, final_states(model, ids, len(ids) - 1, *rows), words).answers
    for layer in range(1, model.layers + 1):
        p = reference.patched_last(model, source, target, layer)
        assert torch.allclose(answers[layer - 1].double(), p[words], atol=2e-6)
    own = read_out(model, normed(model, states(model, [source])[-1]), words).answers[0]
    assert torch.allclose(answers[-1], own, atol=2e-6)  # E1 at L: the source's distribution


def test_rows_of_the_second_experiment_replace_all_later_layers():
    _, replaced = layers_from(torch.zeros(4, 2))
    assert replaced.int().tolist() == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    _, replaced = single_layers(torch.zeros(4, 2))
    assert replaced.int().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


# -- trials ------------------------------------------------------------------------------------------------------------


def test_trials_keep_four_token_sets_apart_and_end_at_the_word():
    model = Model(*planted("none"), id="none")
    words = load_words("planted")
    pair = languages_of(words, ("fr", "zh"))
    assert pair.target == ("en", "fr")
    assert pair.averaged[0] == ("fr", "zh")
    assert all(first != "en" for first, _ in pair.averaged)
    tokens = asked_tokens(model, words, pair, "none")
    for trial in trials(words, tokens, pair, 50):
        c1, c2, c3 = trial.concepts
        assert len({c1, c2, c3}) == 3
        assert trial.word == end_at_word(words, trial.target, "en", "fr", c2)
        assert trial.word.endswith(f'"en{c2:02}')
        assert trial.target.startswith(trial.word + '"')
        assert trial.sources[0].endswith(f'"fr{c1:02}')
        assert trial.sources[1].endswith(f'"zh{c1:02}')
        assert trial.third[0].endswith(f'"fr{c3:02}')
        assert trial.demonstrations[0] == trial.sources[0] == trial.others[0]
        assert len(set(trial.demonstrations)) == len(pair.averaged)
        assert trial.asked.split("\n")[:-1] == trial.target.split("\n")[:-1]


def test_languages_that_cannot_be_told_apart_are_refused():
    words = load_words("planted")
    with pytest.raises(InputError, match="must differ"):
        languages_of(words, ("fr", "zh"), ("en", "zh"))


# -- verdicts by hand --------------------------------------------------------------------------------------------------


def made(pairs: int = 40, mean: float = 0.8, third: float = 0.1, one: float = 0.8, solved: bool = True) -> Patched:
    """E2 peaks at layer 1; language moves at layer 2, concept at layer 3."""
    generator = np.random.default_rng(0)
    word = np.zeros((pairs, len(SOURCES), 4))
    for kind, height in zip(SOURCES, (mean, one, third, 0.0, one, 0.0, 0.0)):
        word[:, SOURCES.index(kind), 1] = height + 0.02 * generator.normal(size=pairs)
    word += 0.001 * generator.random(word.shape)
    last = np.zeros((pairs, 4, 4))
    last[:, 0, 0] = last[:, 1, 1] = last[:, 2, 3] = last[:, 3, 3] = 0.9
    return Patched(
        Languages(("fr", "zh"), ("en", "fr"), (("fr", "zh"), ("zh", "en"))),
        np.arange(pairs),
        np.full(pairs, solved),
        np.tile([0.9, 0.0, 0.0, 0.0], (pairs, 1)),
        np.ones(pairs),
        last,
        word,
        True,
    )


def test_recovery_and_order_by_hand():
    found = separation(made(), draws=200)
    assert found.recovery("mean of languages").share.value == pytest.approx(0.8, abs=0.02)
    assert found.recovery("mean of languages").layers == (1, 1)
    assert (found.language_layer, found.concept_layer) == (2, 3)
    assert found.language_first == 1
    assert found.separable
    assert found.shared


@pytest.mark.parametrize(
    ("changes", "separable", "shared"),
    [
        ({"mean": 0.4, "one": 0.4}, False, True),
        ({"third": 0.8}, False, True),
        ({"mean": 0.6, "one": 0.8}, True, False),
    ],
)
def test_each_condition_of_separable_and_shared(changes, separable, shared):
    found = separation(made(**changes), draws=200)
    assert (found.separable, found.shared) == (separable, shared)


def test_what_every_concept_gives_alike_is_no_failure():
    one = made()
    one.word[:] = one.word.mean(0)  # no spread at all: the mean over languages does as well as one language
    found = separation(replace(one, word=one.word + 0), draws=200)
    assert np.isnan(found.languages_over_demonstrations.low)
    assert found.separable
    assert found.shared
    assert "nan" not in found.sentence
    without = replace(one, ceiling=np.zeros(40))
    undecided = separation(without, draws=200)
    assert undecided.separable is None
    assert "cannot be decided" in undecided.sentence


def test_recovery_is_one_ratio_of_both_halves():
    one = made()
    room = np.where(np.arange(40) % 2, 1.0, 0.01)
    found = separation(replace(one, ceiling=room), draws=200).recovery("mean of languages")
    layers = one.word[:, 0, 1]
    assert found.share.value == pytest.approx(layers.sum() / room.sum(), rel=1e-9)


def test_an_open_order_is_said_to_be_open():
    one = made()
    generator = np.random.default_rng(3)
    last = one.last.copy()
    swapped = generator.random(40) < 0.5
    last[swapped] = last[swapped][..., [0, 2, 1, 3]]
    found = separation(replace(one, last=last), draws=400)
    assert 0.05 < found.language_first < 0.95
    assert "is open" in found.sentence


@pytest.mark.parametrize("changes", [{"pairs": 29}, {"solved": False}])
def test_too_few_solved_pairs_decide_nothing(changes):
    found = separation(made(**changes), draws=200)
    assert not found.decidable
    assert found.separable is None
    assert np.isnan(found.recovery("random").share.value)
    assert "cannot be decided" in found.sentence
