"""Directions, edits and controls: planted truth, identities, files."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
import torch

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.models import Site, capture
from babelscope.models.rows import Flow, edited_rows
from babelscope.regions.masks import random_region_by_layer
from babelscope.steering.controls import random_covariance_unit, random_unit, shuffled_unit, third_unit
from babelscope.steering.directions import (
    METHODS,
    components,
    direction,
    dominance,
    intersection_layer,
    ledoit_wolf,
    separation,
    separation_layer,
)
from babelscope.steering.edits import arithmetic_changes, direction_edit, region_edit, steering_change, strength
from babelscope.steering.fitted import Fitted, How, Setting, fit_neurons
from babelscope.steering.moments import Moments, collect, collect_tokens

from .region_data import corpus, model

LANGUAGES = ("en", "fr", "es", "zh")
WIDTH, LAYERS, DOCUMENTS = 24, 5, 30


@lru_cache(4)
def planted(layer=2, size=3.0, seed=0, spread=1.0):
    """Documents of parallel noise; French is moved along v, at `layer` clearly and elsewhere a little."""
    generator = np.random.default_rng(seed)
    v = generator.standard_normal(WIDTH)
    v /= np.linalg.norm(v)
    base = generator.standard_normal((DOCUMENTS, LAYERS, WIDTH))
    states = base + spread * 0.5 * generator.standard_normal((len(LANGUAGES), DOCUMENTS, LAYERS, WIDTH))
    states[1, :, layer] += size * v
    states[1, :, [place for place in range(LAYERS) if place != layer]] += 0.2 * size * v
    sums = torch.from_numpy(states)
    names = tuple(f"d{place}" for place in range(DOCUMENTS))
    counts = torch.ones(len(LANGUAGES), DOCUMENTS, dtype=torch.float64)
    norms = sums.norm(dim=-1).mean((0, 1))
    return Moments(LANGUAGES, names, sums, counts, norms), torch.from_numpy(v)


def planted_tokens(v, seed=0, size=3.0):
    """Tokens whose covariance is far from a sphere, French moved along v."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((WIDTH, WIDTH)) / 6 + np.eye(WIDTH)
    found = {}
    for code in LANGUAGES:
        states = generator.standard_normal((2000, WIDTH)) @ mixing
        found[code] = torch.from_numpy(states + (size * v.numpy() @ (mixing.T @ mixing) if code == "fr" else 0))
    return found


def cosine(one, other):
    return float(one @ other / one.norm() / other.norm())


# -- directions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["diffmean", "centred", "rest"])
def test_a_planted_direction_is_found(method):
    moments, v = planted()
    found = direction(moments, "en", "fr", 2, method)
    assert cosine(found.unit, v) > 0.95
    assert float(found.unit.norm()) == pytest.approx(1)
    d = moments.mean("fr")[2] - moments.mean("en")[2]
    assert found.gap == pytest.approx(float(d.norm()))
    assert found.at_target - found.at_source == pytest.approx(float(d @ found.unit))


def test_lda_finds_the_planted_direction_where_the_difference_of_means_does_not():
    moments, v = planted()
    tokens = planted_tokens(v)
    found = direction(moments, "en", "fr", 2, "lda", tokens=tokens)
    assert cosine(found.unit, v) > 0.95
    means = tokens["fr"].mean(0) - torch.cat([tokens[code] for code in ("en", "es", "zh")]).mean(0)
    assert cosine(means, v) < 0.95


def test_centred_by_one_is_the_difference_of_means():
    moments, _ = planted()
    one, other = (direction(moments, "en", "fr", 2, method).unit for method in ("centred", "diffmean"))
    assert torch.allclose(one, other)
    assert not torch.allclose(direction(moments, "en", "fr", 2, "centred", beta=0.5).unit, other)


def test_directions_are_those_of_plain_loops():
    moments, _ = planted()
    m = {code: sum(moments.sums[place]) / DOCUMENTS for place, code in enumerate(LANGUAGES)}
    rest = (m["en"] + m["es"] + m["zh"]) / 3
    expected = m["fr"][3] - rest[3]
    assert torch.allclose(direction(moments, "en", "fr", 3, "rest").unit, expected / expected.norm())


def test_components_are_the_singular_vectors_and_point_towards_the_target():
    states = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)
    found = components(states, 3)
    vectors = torch.linalg.svd(states.double() - states.double().mean(0)).Vh[:3]
    assert torch.allclose((found * vectors).sum(1).abs(), torch.ones(3, dtype=torch.float64), atol=1e-8)


def test_shrinkage_is_that_of_a_plain_loop_and_of_a_known_case():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * torch.arange(1, 7)
    x = x - x.mean(0)
    n, p = x.shape
    sample = sum(torch.outer(row, row) for row in x) / n
    mu = float(sample.trace() / p)
    d2 = float((sample - mu * torch.eye(p)).square().sum())
    b2 = sum(float((torch.outer(row, row) - sample).square().sum()) for row in x) / n**2
    share = min(b2, d2) / d2
    expected = share * mu * torch.eye(p, dtype=torch.float64) + (1 - share) * sample
    assert torch.allclose(ledoit_wolf(x), expected)


def test_the_sweep_s_rules_find_the_planted_layer():
    moments, _ = planted(layer=3)
    assert separation_layer(moments, "en", "fr") == 3
    assert separation(moments, "en", "fr").argmax() == 3
    assert dominance(moments).shape == (LAYERS,)
    assert 0 <= intersection_layer(moments) < LAYERS - 1
    share = dominance(moments)
    units = torch.stack([_rest(moments, code, 1)
                         for code in LANGUAGES])  # fmt: skip
    values = np.linalg.eigvalsh(np.corrcoef(units.numpy())).clip(min=0)
    assert float(share[1]) == pytest.approx(values.max() / values.sum())


def _rest(moments, code, layer):
    others = [one for one in LANGUAGES if one != code]
    d = moments.mean(code)[layer] - sum(moments.mean(one)[layer] for one in others) / 3
    return d / d.norm()


def test_what_cannot_be_a_direction_is_refused():
    moments, _ = planted()
    with pytest.raises(InputError, match="not from en to itself"):
        direction(moments, "en", "en", 1)
    with pytest.raises(InputError, match="no states of 'de'"):
        direction(moments, "en", "de", 1)
    with pytest.raises(InputError, match="layers 0 to 4"):
        direction(moments, "en", "fr", 9)
    with pytest.raises(InputError, match="lda needs the states"):
        direction(moments, "en", "fr", 1, "lda")
    same = dataclasses.replace(moments, sums=moments.sums[:1].expand(4, -1, -1, -1).clone())
    with pytest.raises(InputError, match="direction is zero"):
        direction(same, "en", "fr", 1)
    with pytest.raises(InputError, match="four languages"):
        dominance(
            dataclasses.replace(moments, languages=LANGUAGES[:2], sums=moments.sums[:2], counts=moments.counts[:2])
        )


# -- states of a model ---------------------------------------------------------------------------------------------


def test_means_are_those_of_a_plain_loop_without_first_tokens():
    loaded, texts = model("llama"), corpus(3, 6)
    for weighting in ("sentences", "tokens"):
        moments = collect(loaded, texts, weighting, budget=20)
        kept = [
            row for row in range(6) if all(len(loaded.tokenize([texts.texts[c][row]])[0]) > 1 for c in texts.languages)
        ]
        states = []
        for row in kept:
            ids = torch.tensor(loaded.tokenize([texts.texts["zh"][row]]))
            with capture(loaded, [Site("residual", 2)]) as seen, torch.no_grad():
                loaded.trunk(ids)
            states.append(seen[Site("residual", 2)][0, 1:].double())
        expected = (
            torch.stack([one.mean(0) for one in states]).mean(0)
            if weighting == "sentences"
            else torch.cat(states).mean(0)
        )
        assert torch.allclose(moments.mean("zh")[2], expected, atol=1e-6)
    tokens = collect_tokens(loaded, [texts.texts["zh"][row] for row in kept], 2, budget=20)
    assert torch.allclose(tokens.double(), torch.cat(states), atol=1e-6)
    assert len(collect_tokens(loaded, texts.texts["zh"], 2, limit=3)) == 3


# -- edits ---------------------------------------------------------------------------------------------------------


def plain_edit(h, one, alpha, edit, keep):
    """Token by token, from the definition."""
    out = []
    for state in h.double():
        if edit == "add":
            new = state + alpha * one.gap * one.unit
        else:
            new = state + (one.at_source + alpha * (one.at_target - one.at_source) - state @ one.unit) * one.unit
        out.append(new * state.norm() / new.norm() if keep else new)
    return torch.stack(out)


@pytest.mark.parametrize("edit", ["add", "move"])
@pytest.mark.parametrize("keep", [False, True])
def test_edits_are_their_definition(edit, keep):
    moments, _ = planted()
    one = direction(moments, "en", "fr", 2)
    h = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    made = steering_change(one, 1.5, edit, keep)(h)
    assert torch.allclose(made[1].double(), plain_edit(h[1], one, 1.5, edit, keep), atol=1e-5)
    if edit == "add" and not keep:
        mean = moments.mean("en")[2]
        assert torch.allclose(steering_change(one, 1.0)(mean), moments.mean("fr")[2])
    control = random_unit(WIDTH, 0, 0)
    steps = steering_change(one, 1.5, edit, along=control)(h) - h
    assert torch.allclose(steps.norm(dim=-1), (steering_change(one, 1.5, edit)(h) - h).norm(dim=-1), atol=1e-4)
    assert cosine(steps[0, 0].double().abs(), control.abs()) == pytest.approx(1, abs=1e-4)


def test_strengths_are_recorded_in_three_units_and_pca_adds_along_the_state_s_own_part():
    moments, _ = planted()
    one = direction(moments, "en", "fr", 2)
    sizes = strength(one, 2.0, "norm")
    assert sizes.absolute == pytest.approx(2 * one.norm)
    assert sizes.gap * one.gap == pytest.approx(sizes.absolute)
    tokens = planted_tokens(one.unit)
    pca = direction(moments, "en", "fr", 2, "pca", tokens=tokens)
    h = torch.randn(1, 3, WIDTH, dtype=torch.float64)
    step = steering_change(pca, 1.0)(h) - h
    part = h @ pca.basis.T @ pca.basis
    assert torch.allclose(step, pca.gap * part / part.norm(dim=-1, keepdim=True))
    with pytest.raises(InputError, match="subspace"):
        direction_edit([pca], 1.0, "move")
    with pytest.raises(InputError, match="no unit"):
        strength(one, 1.0, "miles")


def fitted_tiny(family="llama"):
    loaded, texts = model(family), corpus(4, 12)
    return Fitted(loaded, texts, collect(loaded, texts), How(), fit_neurons(loaded, texts, 0.2))


@pytest.mark.parametrize("method", METHODS)
def test_adding_nothing_leaves_the_model_and_leaving_a_context_restores_it(method):
    fitted = fitted_tiny()
    loaded, ids = fitted.model, torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        before = loaded.hf(ids).logits
    setting = Setting("en", "fr", method, 1, 0.0)
    assert fitted.edit(setting) is None
    strong = fitted.edit(dataclasses.replace(setting, alpha=2.0))
    with edited_rows(loaded, [None]), torch.no_grad():
        assert torch.equal(loaded.hf(ids).logits, before)
    with edited_rows(loaded, [None, strong]) as flow, torch.no_grad():
        flow.rows = torch.tensor([0, 1])
        both = loaded.hf(ids.expand(2, -1)).logits
    assert not torch.allclose(both[1, -1], before[0, -1], atol=1e-3)
    assert torch.allclose(both[0], before[0], atol=1e-5)
    with torch.no_grad():
        assert torch.equal(loaded.hf(ids).logits, before)


def test_move_by_nothing_is_an_edit_onto_the_source_s_mean():
    fitted = fitted_tiny()
    fitted.how = How("move")
    edit = fitted.edit(Setting("en", "fr", "diffmean", 1, 0.0))
    assert edit is not None
    [one] = fitted.directions(Setting("en", "fr", "diffmean", 1, 0.0))
    h = torch.randn(1, 4, len(one.unit), dtype=torch.float64)
    assert torch.allclose(edit.changes[Site("residual", 1)](h) @ one.unit, torch.full((1, 4), one.at_source).double())


def test_generated_leaves_the_prompt_and_prompt_leaves_what_is_written():
    fitted = fitted_tiny()
    loaded, ids = fitted.model, torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    setting = Setting("en", "fr", "diffmean", 1, 3.0)
    with torch.no_grad():
        before = loaded.hf(ids).logits
    for where in ("generated", "prompt"):
        fitted.how = How(where=where)
        with edited_rows(loaded, [fitted.edit(setting)], Flow(prompt=torch.tensor([4]))), torch.no_grad():
            after = loaded.hf(ids).logits
        same = (after == before).all(-1)[0].tolist()
        assert same[:4] == ([True, True, True, False] if where == "generated" else [True, False, False, False])
    site = Site("residual", 1)
    with capture(loaded, [site]) as seen, edited_rows(loaded, [fitted.edit(setting)], Flow(prompt=torch.tensor([4]))):
        with capture(loaded, [site]) as inner, torch.no_grad():
            loaded.trunk(ids)
    moved = (inner[site] != seen[site]).any(-1)[0]
    assert not bool(moved[4:].any())


def test_arithmetic_and_regions_by_plain_loops():
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(2, 6, generator=generator) < 0.5 for _ in range(2))
    means, others, h = (torch.randn(2, 6, generator=generator) for _ in range(3))
    for mode, raised in (
        ("additive", h + 2 * means),
        ("replacement", 2 * means),
        ("diffmean", h + 2 * (means - others)),
    ):
        changes = arithmetic_changes(source, target, means, others, 2.0, mode, off=-0.5)
        for layer in range(2):
            found = changes[Site("neurons", layer)](h[layer][None, None])[0, 0]
            for neuron in range(6):
                expected = raised[layer, neuron] if target[layer, neuron] else (
                    -0.5 if source[layer, neuron] else h[layer, neuron])  # fmt: skip
                assert float(found[neuron]) == pytest.approx(float(expected), abs=1e-6)
    kept = region_edit(target, means, 3.0).changes[Site("neurons", 0)](h[:1, None])[0, 0]
    assert torch.allclose(kept, torch.where(target[0], 3 * means[0], h[0]))
    scaled = region_edit(target, None, 3.0).changes[Site("neurons", 0)](h[:1, None])[0, 0]
    assert torch.allclose(scaled, torch.where(target[0], 3 * h[0], h[0]))


# -- controls ------------------------------------------------------------------------------------------------------


def test_controls_are_seeded_unit_vectors_and_shuffled_labels_lose_the_direction():
    moments, v = planted(size=6.0, spread=0.3)
    units = [random_unit(WIDTH, 0, draw) for draw in range(200)]
    assert torch.equal(units[3], random_unit(WIDTH, 0, 3))
    assert float(torch.stack(units).mean(0).norm()) < 0.2
    covariance = torch.diag(torch.tensor([100.0, *[1e-4] * (WIDTH - 1)]))
    assert abs(float(random_covariance_unit(covariance, 0, 1)[0])) > 0.99
    found = torch.stack([shuffled_unit(moments, "en", "fr", 2, 0, draw) for draw in range(40)])
    assert torch.allclose(found.norm(dim=1), torch.ones(40, dtype=torch.float64))
    # a coin for each document instead of an exact half gives back ± the direction itself
    assert float((found @ v).abs().mean()) < 0.35
    coins = np.random.default_rng(0).random((40, DOCUMENTS)) < 0.5
    by_coin = torch.stack([direction(moments.swapped("en", "fr", row.tolist()), "en", "fr", 2).unit for row in coins])
    assert float((by_coin @ v).abs().mean()) > 0.6
    one = direction(moments, "en", "fr", 2)
    assert torch.allclose(third_unit(moments, one, "es"), direction(moments, "en", "es", 2).unit)
    with pytest.raises(InputError, match="no third language"):
        third_unit(moments, one, "fr")


def test_swapping_documents_exchanges_their_states():
    moments, _ = planted()
    swapped = moments.swapped("en", "fr", [True] + [False] * (DOCUMENTS - 1))
    assert torch.equal(swapped.sums[0, 0], moments.sums[1, 0])
    assert torch.equal(swapped.sums[1, 0], moments.sums[0, 0])
    assert torch.equal(swapped.sums[:, 1:], moments.sums[:, 1:])


def test_controls_of_neurons_are_as_many_in_the_same_layers():
    fitted = fitted_tiny()
    for method in ("neurons", "scaled", "arithmetic"):
        setting = Setting("en", "fr", method, -1, 2.0)
        one, other = fitted.edit(setting), fitted.control(setting, "random-neurons", 0)
        assert set(one.changes) == set(other.changes)
        h = torch.ones(1, 1, fitted.model.neurons_per_layer)
        for site in one.changes:
            assert int((one.changes[site](h) != h).sum()) == int((other.changes[site](h) != h).sum())
    assert int(random_region_by_layer([3, 0], [5, 5], 0).sum()) == 3


# -- files ---------------------------------------------------------------------------------------------------------


def test_documents_of_one_token_sentences_are_refused():
    with pytest.raises(InputError, match="no sentence has two tokens"):
        collect(model("llama"), ParallelCorpus.from_texts({"en": ["a", "b"], "fr": ["c", "de"]}))
