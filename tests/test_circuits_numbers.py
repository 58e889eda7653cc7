"""Which heads pass, by numbers made by hand: screens and their samples, thresholds, growth, counterfactuals."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.core.effects import Effects, Screening
from babelscope.circuits.core.nodes import EMBEDDING, MLP, Head, Mixer
from babelscope.circuits.patching.counterfactual import of_pairs_with_a_partner, same_answer
from babelscope.circuits.patching.screen import Screen, Slopes, _once, _views, missed, screened, spread_over
from babelscope.circuits.patching.search import SearchSettings, _Work
from babelscope.circuits.patching.selection import growth, select
from babelscope.errors import InputError, NonFinite
from babelscope.stats import hypergeometric_upper
from babelscope.tasks.steps import Step
from tests.random_pairs import random_pair

HEADS = [Head(layer, head) for layer in range(10) for head in range(10)]
SIZES = {"layers": 10, "heads": 10}


def effects(change, senders=None, base=1.0, **more):
    """Effects whose differences are these, of unpatched logit differences `base`."""
    change = np.asarray(change, dtype=float)
    clean = np.full(change.shape[1], float(base))
    senders = tuple(HEADS[: len(change)] if senders is None else senders)
    return Effects(senders, clean + change, clean, clean - 2, settings=dict(SIZES), **more)


def around(means, spread=0.0, pairs=8):
    """Prompts that vary evenly about each mean."""
    return np.asarray(means, dtype=float)[:, None] + spread * np.resize([1.0, -1.0], pairs)


# -- the screen --------------------------------------------------------------------------------------------------------


def sweep_of(truth, asked=None):
    def sweep(pairs, senders):
        if asked is not None:
            asked.append((list(pairs), list(senders)))
        return effects([[truth.get(node, 0.0)] * len(pairs) for node in senders], senders)

    return sweep


def kept(found):
    return set(found.senders) - set(found.screening.sampled)


def test_heads_at_the_least_estimate_are_kept_and_those_below_are_not():
    """Half act by +1, half by −1: every one is one deviation strong."""
    truth = {node: (-1.0) ** place for place, node in enumerate(HEADS)}
    pairs = list(range(20))
    assert len(kept(screened(sweep_of(truth), pairs, HEADS, Screen(above=1.0, sample=0, least=0)))) == 100
    few = screened(sweep_of(truth), pairs, HEADS, Screen(above=1.001, sample=0, least=0))
    assert few.senders == tuple(HEADS[:10])  # a tenth, in order where all are equally strong
    assert (few.screening.asked, few.screening.kept, few.screening.sampled) == (100, 10, ())


def test_the_larger_of_both_estimates_counts_and_of_views_the_one_that_says_most():
    dice = np.random.default_rng(4)
    views = dice.normal(0, 1, (5, 10, 10)) * dice.choice([1, 4], (5, 10, 10), p=[0.95, 0.05])
    truth = {node: float(value) for node, value in zip(HEADS, dice.normal(0, 1, 100) ** 3)}
    asked, seen = [], []

    def estimate(pairs):
        seen.append(list(pairs))
        return views

    screen = Screen(above=1.7, share=0.02, sample=0, least=0, pairs=4, trial=3)
    found = screened(sweep_of(truth, asked), list(range(20)), HEADS, screen, (), estimate)
    largest = [max((view[node.layer, node.head] for view in views), key=abs) for node in HEADS]
    told = np.abs(np.array(largest) / np.std(largest))
    tried = np.abs(np.array([truth[node] for node in HEADS]) / np.std(list(truth.values())))
    expected = {node for node, one, two in zip(HEADS, told, tried) if max(one, two) >= 1.7}
    assert kept(found) == expected
    assert any(one >= 1.7 > two for one, two in zip(told, tried))
    assert any(two >= 1.7 > one for one, two in zip(told, tried))
    assert seen == [[0, 6, 13, 19]]
    assert [pairs for pairs, _ in asked] == [[0, 10, 19], [n for n in range(20) if n not in (0, 10, 19)]]
    assert [len(senders) for _, senders in asked] == [100, len(expected)]


def test_what_costs_nothing_and_what_is_no_head_is_always_patched_in_the_order_given():
    senders = [MLP(0), *HEADS, EMBEDDING]
    free = HEADS[30:40]
    found = screened(sweep_of({HEADS[0]: 9.0}), list(range(9)), senders, Screen(least=3, sample=0.05), free)
    assert found.screening.asked == 90
    assert found.screening.kept == 9  # a tenth of those asked
    assert len(found.screening.sampled) == 4  # 0.05 of 81
    assert [node for node in senders if node in found.senders] == list(found.senders)
    assert {MLP(0), EMBEDDING, HEADS[0], *free} <= set(found.senders)
    assert not set(free) & set(found.screening.sampled)
    assert len(found.senders) == 2 + 10 + 9 + 4


def test_samples_are_seeded_and_every_other_head_is_as_likely():
    truth = dict.fromkeys(HEADS[:10], 9.0)
    drawn = [screened(sweep_of(truth), list(range(9)), HEADS, Screen(seed=seed, least=30)) for seed in range(60)]
    assert len({found.screening.sampled for found in drawn}) == 60
    again = screened(sweep_of(truth), list(range(9)), HEADS, Screen(seed=7, least=30))
    assert again.screening.sampled == drawn[7].screening.sampled
    counts = np.array([sum(node in found.screening.sampled for found in drawn) for node in HEADS])
    assert counts[:10].tolist() == [0] * 10
    assert counts[10:].sum() == 60 * 30
    assert counts[10:].min() > 5
    assert counts[10:].max() < 35  # 20 expected, deviation 3.7
    assert list(drawn[0].screening.sampled) == sorted(drawn[0].screening.sampled)


def test_the_bound_on_what_was_missed_is_that_of_the_sample_without_those_seen():
    made = Screening(100, 20, tuple(HEADS[20:40]))
    found = effects(around([0.0] * 40), screening=made)
    assert made.left == 60
    assert missed(effects(around([0.0])), []) is None
    told = missed(found, [HEADS[0], HEADS[1], HEADS[20], HEADS[39], MLP(3)])
    assert (told.heads, told.kept, told.sampled, told.passed, told.sampled_passed) == (100, 20, 20, 4, 2)
    assert told.at_most == hypergeometric_upper(2, 20, 80) - 2
    assert missed(found, []).at_most == hypergeometric_upper(0, 20, 80)


@pytest.mark.parametrize(
    ("of", "count", "chosen"),
    [(10, 4, [0, 3, 6, 9]), (5, 2, [0, 4]), (5, 1, [0]), (3, 3, [0, 1, 2]), (2, 3, [0, 1]), (4, 3, [0, 2, 3])],
)
def test_prompts_are_spread_from_the_first_to_the_last(of, count, chosen):
    assert spread_over(range(of), count) == chosen


def test_a_position_that_is_said_again_counts_once():
    positions, once = _once(torch.tensor([[2, 3, 3], [0, 1, 2], [5, 5, 5]]))
    assert positions.tolist() == [[2, 3, 3], [0, 1, 2], [5, 5, 5]]
    assert once.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]


def test_gradients_are_taken_at_three_points_and_without_some_layers():
    points = [(0.0, -1), (0.5, -1), (1.0, -1)]
    seen = [_views(SimpleNamespace(layers=9), Screen(drops=4, seed=seed)) for seed in range(9)]
    assert all(views[:3] == points for views in seen)
    assert all(share == 0.0 for views in seen for share, _ in views[3:])
    layers = [[layer for _, layer in views[3:]] for views in seen]
    assert all(len(set(own)) == 4 and own == sorted(own) for own in layers)
    assert {layer for own in layers for layer in own} == set(range(9))
    assert [layer for _, layer in _views(SimpleNamespace(layers=3), Screen(drops=4))[3:]] == [0, 1, 2]
    assert _views(SimpleNamespace(layers=3), Screen(drops=0)) == points


def test_defaults_of_a_screen():
    assert vars(Screen()) == {
        "pairs": 32, "drops": 4, "trial": 8, "above": 0.5, "share": 0.1, "sample": 0.1, "least": 8, "fewest": 64,
        "seed": 0,
    }  # fmt: skip


def test_gradients_that_were_never_kept_are_none():
    assert Slopes([("q", None)]).of(SimpleNamespace(), (0.0, -1), [], None) is None
    assert Slopes([("q", "END"), ("mlp", None), ("q", "END")]).wanted == [("mlp_in", None), ("q", "END")]


# -- selection ---------------------------------------------------------------------------------------------------------


def test_the_rule_of_deviation_by_hand():
    """Effects 0.6, −0.2, 0, 0: μ 0.1, σ 0.3; thresholds 0.1 + (2 + 0.1 · distance) · 0.3."""
    found = effects(around([0.6, -0.2, 0.0, 0.0]))
    chosen = select(found, "deviation", distance=[0, 1, 2, 3])
    assert chosen.threshold == pytest.approx([0.7, 0.73, 0.76, 0.79])
    assert chosen.nodes == ()
    assert np.isnan(chosen.p).all()
    by_node = dict(zip(found.senders, [3, 2, 1, 0]))
    assert select(found, "deviation", distance=by_node).threshold == pytest.approx([0.79, 0.76, 0.73, 0.7])
    assert select(found, "deviation").threshold == pytest.approx([0.1 + (2 + 0.9) * 0.3] * 4)  # layer 0 of 10
    mixed = effects(around([0.0] * 3), (Head(9, 0), MLP(4), EMBEDDING))
    assert select(mixed, "deviation").threshold == pytest.approx([0.02] * 3)


def test_the_rule_of_deviation_keeps_what_is_above_both_limits_strongest_first():
    means = [0.0] * 20
    means[3], means[7] = -0.5, 0.9
    chosen = select(effects(around(means)), "deviation", distance=[0] * 20)
    assert chosen.nodes == (HEADS[7], HEADS[3])
    small = [0.0] * 60
    small[5], small[6] = 0.03, -0.019
    assert select(effects(around(small)), "deviation", distance=[0] * 60).nodes == (HEADS[5],)
    assert select(effects(around(small)), "deviation", distance=[0] * 60, floor=0.018).nodes == (HEADS[5], HEADS[6])
    assert select(effects(around(small)), "deviation", distance=[0] * 60, floor=0.031).nodes == ()


def test_significant_heads_must_reach_their_deviations():
    """Effects 1, −1: σ is 1, and both are exactly at one deviation."""
    found = effects(around([1.0, -1.0], 0.1))
    assert set(select(found, sigmas=1.0).nodes) == set(found.senders)
    assert select(found, sigmas=1.001).nodes == ()
    assert select(found, sigmas=1.0).threshold.tolist() == [1, 1]
    assert select(effects(around([0.0, 0.0], 0.1)), sigmas=0.0).nodes == ()  # no effect is none, at any threshold
    assert select(effects(around([1.0, -1.0], 0.1, pairs=5)), sigmas=1.0).nodes == ()


def test_a_null_is_taken_off_pair_by_pair_where_it_is_known():
    signal = np.array([[1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 9.0], [0.5, -0.5] * 3 + [0.0]])
    null = np.zeros_like(signal)
    null[0, :6] = [0.1, -0.1] * 3
    null[:, 6] = np.nan
    chosen = select(effects(signal), null=effects(null), sigmas=0.0)
    from scipy.stats import ttest_1samp

    assert chosen.p == pytest.approx(ttest_1samp((signal - null)[:, :6], 0, axis=1).pvalue)
    assert chosen.nodes == (HEADS[0],)
    part = select(effects(signal), null=effects(null[:1]), sigmas=0.0)
    assert part.p[0] == chosen.p[0]
    assert np.isnan(part.p[1])
    for odd in (effects(null[:, :5]), effects(null[:1], [MLP(0)]), effects(null, HEADS[1:3])):
        with pytest.raises(InputError, match="other senders or another number of pairs"):
            select(effects(signal), null=odd)
    with pytest.raises(InputError, match="no selection rule 'size'; there are deviation and significance"):
        select(effects(signal), rule="size")


def test_growth_by_hand():
    """Of a mean logit difference of 2: from 0.2 to 0.8, unchanged, from −0.4 to 0, a head that is gone."""
    then = around([0.2, 0.6, -0.4, 0.0], 0.01)
    now = np.array([[0.8], [0.6], [0.0], [1.0]]) + 0.01 * np.array([1, -1, 0, 1, -1, 0, 0.5, -0.5])
    before, after = (effects(change, base=2.0) for change in (then, now))
    found = growth(before, after, [HEADS[3]])
    assert found.before == pytest.approx([0.1, 0.3, -0.2, 0.0])
    assert found.after == pytest.approx([0.4, 0.3, 0.0, 0.5])
    assert found.growth == pytest.approx([0.3, 0.0, 0.2, 0.5])
    assert found.backups == (HEADS[0],)
    assert np.isnan(found.p[3])
    assert found.p[0] < 1e-6
    assert (found.low < found.growth).all()
    assert (found.growth < found.high).all()
    row = found.row(HEADS[1])
    assert (row["before"], row["after"]) == pytest.approx((0.3, 0.3))
    assert set(row) == {"before", "after", "growth", "low", "high", "p"}
    for odd in (effects(now[:3], base=2.0), effects(now[:, :5], base=2.0), effects(now, HEADS[1:5], base=2.0)):
        with pytest.raises(InputError, match="before and after a knock-out are of other senders"):
            growth(before, odd, [])


@pytest.mark.parametrize(("by", "backups"), [(0.021, 1), (0.019, 0), (-0.021, 1), (-0.019, 0)])
def test_a_backup_grows_by_two_hundredths_of_the_whole_difference(by, backups):
    before, after = (effects(around([value], 1e-4), base=-1.0) for value in (0.1 * np.sign(by), 0.1 * np.sign(by) + by))
    after = replace(after, patched=after.patched + 1e-5 * np.arange(8))
    found = growth(before, after, [])
    assert len(found.backups) == backups
    assert found.growth == pytest.approx([by], abs=1e-4)


def test_the_strongest_backup_comes_first():
    now = np.array([[0.3], [-0.9], [0.6]]) + 0.01 * np.array([1, -1, 0, 1, -1, 0, 0.5, -0.5])
    assert growth(effects(around([0.0] * 3)), effects(now), []).backups == (HEADS[1], HEADS[2], HEADS[0])


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, HEADS[:2]),  # effects 1, −1, 0.5 and 0, of which one deviation is 0.75
        ({"sigmas": 0.6}, HEADS[:3]),
        ({"sigmas": 0.0}, HEADS[:3]),
        ({"sigmas": 2.0}, None),
        ({"rule": "deviation"}, None),
        ({"null": False}, None),
        ({"screen": None}, "all"),
    ],
)
def test_the_null_is_asked_of_what_may_be_selected(monkeypatch, change, asked):
    seen = []

    def effects_of(self, pairs, into, gone, suffix, only=None):
        seen.append((suffix, only))
        return effects(around([0.0], pairs=len(pairs)))

    monkeypatch.setattr(_Work, "_effects", effects_of)
    settings = replace(SearchSettings(sigmas=1.0, screen=Screen()), **change)
    pairs = [prompt(1, 2, 3, 9), prompt(4, 5, 6, 9)]
    work = _Work(None, pairs, Step("a"), settings, None, None, (), None)
    found = work._nothing(effects(around([1.0, -1.0, 0.5, 0.0])), [], [])
    assert (found is None) == (asked is None)
    assert seen == ([] if asked is None else [("-null", None if asked == "all" else asked)])
    alone = [replace(prompt(n, 2, 3, 9), template=str(n)) for n in range(2)]
    work = _Work(None, alone, Step("a"), settings, None, None, (), None)
    assert work._nothing(effects(around([1.0, -1.0, 0.5, 0.0])), [], []) is None


# -- effects -----------------------------------------------------------------------------------------------------------


def test_effects_and_recovery_by_hand():
    patched = np.array([[3.0, 1.0], [0.0, 0.0]])
    found = Effects((Head(0, 1), MLP(1)), patched, np.array([5.0, 3.0]), np.array([1.0, -1.0]), settings=SIZES)
    assert found.effect == pytest.approx([-0.5, -1.0])
    assert found.recovery == pytest.approx([0.5, 0.0])
    assert found.parts() == pytest.approx(np.array([[-0.5 + 0.125, -0.5 - 0.125], [-1.0, -1.0]]))
    other = replace(found, direction="denoising")
    assert other.effect == pytest.approx([0.5, 0.0])
    assert other.base.tolist() == [1.0, -1.0]
    assert replace(found, unit=np.array([8.0, 8.0])).effect == pytest.approx([-0.25, -0.5])
    assert found.heads()[0, 1] == -0.5
    assert np.isnan(found.heads()).sum() == 99
    assert found.heads(np.array([7.0, 8.0]))[0, 1] == 7
    assert found.mlps()[1] == -1
    assert np.isnan(found.mlps()).sum() == 9
    assert found.mlps(np.array([7.0, 8.0]))[1] == 8
    assert np.isnan(found.mixers()).all()
    mixed = Effects((Mixer(2),), patched[:1], found.clean, found.corrupted, settings=SIZES)
    assert (mixed.mixers()[2], mixed.of(Mixer(2))) == (-0.5, -0.5)
    assert mixed.mixers(np.array([3.0]))[2] == 3
    assert (found.mean, found.deviation) == (-0.75, 0.25)


def test_effects_of_nothing_to_be_relative_to():
    nothing = Effects((Head(0, 0),), np.ones((1, 2)), np.array([1.0, -1.0]), np.array([1.0, -1.0]), settings=SIZES)
    with pytest.raises(NonFinite, match="the mean logit difference of the clean prompts is zero"):
        _ = nothing.effect
    for call in (lambda: replace(nothing, direction="denoising").effect, lambda: nothing.recovery):
        with pytest.raises(NonFinite, match="clean and corrupted runs score the same"):
            call()
    with pytest.raises(NonFinite):
        _ = replace(nothing, clean=np.array([np.inf, 1.0])).effect


def test_some_senders_of_a_sweep_keep_their_order_and_their_divergence():
    found = effects(around([1.0, 2.0, 3.0]), divergence=around([0.1, 0.2, 0.3]))
    some = found.only([HEADS[2], HEADS[0]])
    assert some.senders == (HEADS[0], HEADS[2])
    assert some.effect.tolist() == [1, 3]
    assert some.divergence[:, 0].tolist() == [0.1, 0.3]
    assert effects(around([1.0])).only([]).divergence is None


# -- counterfactuals ---------------------------------------------------------------------------------------------------


def prompt(*clean, roles=None, **more):
    return replace(random_pair(0), clean=clean, corrupted=clean, roles=roles or {"IO": (1, 2), "END": (3, 4)}, **more)


def test_a_counterfactual_is_another_prompt_with_the_own_answer_in_it():
    pairs = [prompt(1, 2, 3, 9), prompt(4, 5, 6, 9)]
    first, second = same_answer(pairs, ("IO", "S1"))
    assert (first.corrupted, second.corrupted) == ((4, 2, 6, 9), (1, 5, 3, 9))
    assert (first.clean, first.corrupted_text) == ((1, 2, 3, 9), "")
    pool = [prompt(7, 7, 7, 8), prompt(1, 2, 3, 9, template="other"), prompt(7, 7, 7, 8, 8)]
    (alone,) = same_answer(pairs[:1], ("IO", "END"), pool=pool)
    assert alone.corrupted == (7, 2, 7, 9)
    seen = {
        same_answer(pairs[:1], ("IO",), seed, [prompt(7, 0, n, 8) for n in range(4)])[0].corrupted for seed in range(40)
    }
    assert seen == {(7, 2, n, 8) for n in range(4)}


def test_there_are_counterfactuals_where_half_of_the_prompts_have_one():
    alike = [prompt(1, 2, 3, 9), prompt(4, 5, 6, 9)]
    alone = [replace(prompt(n, 2, 3, 9), template=f"own{n}") for n in range(3)]
    found = same_answer([*alike, *alone[:2]])
    assert [twin.corrupted == twin.clean for twin in found] == [False, False, True, True]
    assert same_answer([*alike, *alone]) is None
    null = effects(around([1.0, 2.0], pairs=4))
    told = of_pairs_with_a_partner(null, found)
    assert np.isnan(told.patched).tolist() == [[False, False, True, True]] * 2
    assert of_pairs_with_a_partner(null, found[:2]) is null
