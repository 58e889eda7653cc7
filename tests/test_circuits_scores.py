"""Scores of circuits against plain loops and numbers made by hand: tests, areas, batches, answers, comparisons."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from babelscope.circuits.comparison.head_frequency import compare
from babelscope.circuits.comparison.head_frequency import rows as overlap_rows
from babelscope.circuits.comparison.head_matching import match_heads, shuffled
from babelscope.circuits.comparison.method_agreement import _strongest, agreements, top_k_recall
from babelscope.circuits.core import skew
from babelscope.circuits.core.faithfulness import BUDGETS, Curve, Scored, completeness, curves, minimality, score
from babelscope.circuits.core.skew import _reference, _shown, _tail, skewed_test
from babelscope.circuits.core.statistics import correlate, drawn_ends, permutation_p, prompt_test
from babelscope.circuits.heads.roles import Roles
from babelscope.errors import InputError
from babelscope.stats import mean_ends

# -- tests over prompts ------------------------------------------------------------------------------------------------


def test_the_t_of_prompts_is_student_s():
    values = np.random.default_rng(0).normal(0.3, 1, (3, 4, 9))
    for alternative in ("two-sided", "greater"):
        expected = scipy_stats.ttest_1samp(values, 0, axis=-1, alternative=alternative).pvalue
        assert prompt_test(values, alternative) == pytest.approx(expected)
    assert np.isnan(prompt_test(np.full((2, 7), np.nan))).all()
    assert prompt_test(np.full(7, -2.0)) < 1e-9
    assert prompt_test(np.full(7, -2.0), "greater") == 1
    assert prompt_test(np.zeros((2, 7)), "greater").tolist() == [1, 1]
    assert prompt_test(np.full(1000, 5.0)) > 0


def test_skewed_heads_are_held_against_both_tails(monkeypatch):
    """What `_tail` is given: t and the skewness that makes it heavy; p is never below Student's."""
    asked = []
    monkeypatch.setattr(skew, "_tail", lambda *given: asked.append(given) or np.full(len(given[0]), 0.1))
    values = np.random.default_rng(0).exponential(1, (5, 8)) - 0.8
    values[4] = 3.0  # no spread: Student's alone
    t = scipy_stats.ttest_1samp(values[:4], 0, axis=1).statistic
    skewness = scipy_stats.skew(values[:4], axis=1)
    two, one = skewed_test(values), skewed_test(values, "greater")
    above, below = asked[0], asked[1]
    assert (above[0], below[0]) == (pytest.approx(t), pytest.approx(-t))
    assert (above[1], below[1]) == (pytest.approx(-skewness), pytest.approx(skewness))
    assert asked[2][0] == pytest.approx(t)
    assert (above[2], len(asked)) == (8, 3)
    assert two[:4] == pytest.approx(np.maximum(prompt_test(values[:4]), 0.2))
    assert one[:4] == pytest.approx(np.maximum(prompt_test(values[:4], "greater"), 0.1))
    assert two[4] == prompt_test(values[4])
    assert np.isnan(skewed_test(values[:, :5])).all()


@pytest.mark.parametrize(
    ("skewness", "shape"),
    [
        ([1.5], 20.0),
        ([3**0.5 - 1e-9], 20.0),
        ([3**0.5 + 1e-9], 10.0),
        ([2.5], 10.0),
        ([1.0, 2.0], 20.0),
        ([1.0, -9.0], 40.0),
    ],
)
def test_the_shape_is_the_last_that_looks_as_skewed(monkeypatch, skewness, shape):
    asked = []
    monkeypatch.setattr(skew, "SHAPES", (10.0, 20.0, 30.0, 40.0, 50.0))
    monkeypatch.setattr(
        skew, "_shown", lambda one, count: {10: 5.0, 20: 3.0, 30: 2.0, 40: 1.0, 50: 0.5}[one] + 0 * count
    )

    def drawn(one, count):
        asked.append((one, count))
        return np.array([-1.0, 0.0, 1.0, 2.0])

    monkeypatch.setattr(skew, "_reference", drawn)
    assert _tail(np.array([1.0, 1.5, 9.0, -9.0]), np.array(skewness), 7).tolist() == [0.6, 0.4, 0.2, 1.0]
    assert asked == [(shape, 7)]


def test_what_is_hardly_skewed_keeps_student_s_t(monkeypatch):
    monkeypatch.setattr(skew, "_shown", lambda *_: 1.0)
    for skewness in ([0.9], [-3.0], [0.0]):
        assert _tail(np.array([1.0, 2.0]), np.array(skewness), 7).tolist() == [0, 0]


@pytest.mark.parametrize(("shape", "count"), [(0.5, 8), (20.0, 12)])
def test_reference_distributions_are_those_of_gamma_samples(shape, count):
    """Against samples of another seed, by scipy's own skewness and t."""
    sample = np.random.default_rng(99).gamma(shape, 1, (40_000, count))
    skewness = scipy_stats.skew(sample, axis=1)
    assert _shown(shape, count) == pytest.approx(np.mean(skewness[skewness > 0] ** 2), rel=0.06)
    t = -scipy_stats.ttest_1samp(sample, shape, axis=1).statistic
    drawn = _reference(shape, count)
    assert (len(drawn), len(skew.SHAPES)) == (200_000, 16)
    assert (np.diff(drawn) >= 0).all()
    levels = [0.05, 0.5, 0.95, 0.99]
    assert np.quantile(drawn, levels) == pytest.approx(np.quantile(t, levels), rel=0.06, abs=0.03)


def test_correlations_are_held_against_heads_shuffled_in_their_layers():
    """Two layers of three heads: 36 equally likely shuffles."""
    dice = np.random.default_rng(5)
    first, second = dice.normal(size=(2, 3)), dice.normal(size=(2, 3))
    every = [np.array([a, b]) for a in permutations(second[0]) for b in permutations(second[1])]
    r = np.array([np.corrcoef(first.ravel(), other.ravel())[0, 1] for other in every])
    rho = np.array([scipy_stats.spearmanr(first.ravel(), other.ravel()).statistic for other in every])
    found = correlate(first, second, permutations=3000)
    assert (found.pearson, found.spearman) == pytest.approx((r[0], rho[0]))
    assert (found.pearson_null, found.spearman_null) == pytest.approx((r.mean(), rho.mean()), abs=0.04)
    assert found.p == pytest.approx((r >= r[0] - 1e-12).mean(), abs=0.04)
    assert found.spearman_p == pytest.approx((rho >= rho[0] - 1e-12).mean(), abs=0.04)
    holes = [np.where([[True, True, True], [True, False, True]], one, np.nan) for one in (first, second)]
    alone = correlate(*holes, permutations=200)
    known = [one[np.isfinite(one)] for one in holes]
    assert alone.pearson == pytest.approx(np.corrcoef(*known)[0, 1])
    assert correlate(holes[0], second, permutations=200, seed=0) == alone
    assert correlate(holes[0], second, permutations=200, seed=1) != alone


def test_what_cannot_be_tested_is_nan():
    for value, null in ((np.nan, [1.0]), (1.0, [1.0, np.nan]), (1.0, [])):
        assert np.isnan(permutation_p(value, np.array(null)))
    assert np.isnan(drawn_ends(np.full(4, np.nan))).all()
    assert np.isnan(drawn_ends(np.array([]))).all()
    assert np.isfinite(drawn_ends(np.array([1.0, 1 + 1e-8]))).all()


# -- how faithful a circuit is -----------------------------------------------------------------------------------------


def scored_pairs():
    dice = np.random.default_rng(1)
    return Scored(dice.normal(1, 1, (3, 6)), dice.normal(0, 0.1, 6), dice.normal(2, 1, 6))


def test_faithfulness_is_a_ratio_of_means():
    scored = scored_pairs()
    empty, whole = scored.empty.mean(), scored.whole.mean()
    expected = (scored.circuits.mean(1) - empty) / (whole - empty)
    assert scored.faithfulness() == pytest.approx(expected)
    assert scored.parts().mean(1) == pytest.approx(expected)
    f, span = expected[0], scored.whole - scored.empty
    assert scored.parts()[0] == pytest.approx(f + (scored.circuits[0] - scored.empty - f * span) / span.mean())
    weights = np.array([[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0]])
    two = scored.faithfulness(weights)
    assert two.shape == (2, 3)
    assert two[1] == pytest.approx((scored.circuits - scored.empty)[:, 5] / span[5])
    assert two[0] == pytest.approx((scored.circuits - scored.empty)[:, :2].sum(1) / span[:2].sum())
    low, high = mean_ends(scored.parts(), 200, 3)
    ends = scored.intervals(200, 3)
    assert [(one.value, one.low, one.high) for one in ends] == [
        pytest.approx(three) for three in zip(expected, low, high)
    ]


@pytest.mark.parametrize(("change", "defined"), [(3e-6, True), (1.5e-6, False), (-3e-6, True), (0.0, False)])
def test_a_model_that_does_no_better_than_nothing_has_no_faithfulness(change, defined):
    """At logit differences of 2, rounding is 2e-6."""
    scored = Scored(np.ones((1, 4)), np.full(4, 2.0) - change, np.full(4, 2.0))
    assert scored.defined is defined
    assert np.isfinite(scored.faithfulness()).all() == defined
    small = Scored(np.ones((1, 4)), np.zeros(4), np.full(4, 0.01) * (change != 0))
    assert small.defined == (change != 0)


class Ranked:
    """Two prompts; a circuit's logit difference is the number of its parts, on the second prompt twice that."""

    whole = np.ones(4, dtype=bool)

    def differences(self, circuits):
        return np.array([[mask.sum(), 2 * mask.sum()] for mask in circuits], dtype=float)


def test_the_areas_under_a_curve_by_hand():
    masks = {"cpr": [np.arange(4) < 1, np.arange(4) < 2, np.arange(4) < 4], "cmd": [np.arange(4) < 3] * 3}
    found = curves(Ranked(), masks, budgets := (0.25, 0.5, 1.0))
    assert found["cpr"].sizes == (1, 2, 4)
    assert found["cpr"].faithfulness == pytest.approx([0.25, 0.5, 1.0])
    assert found["cpr"].value == pytest.approx(0.375 * 0.25 + 0.75 * 0.5)
    assert (found["cmd"].sizes, found["cmd"].budgets) == ((3, 3, 3), budgets)
    assert found["cmd"].value == pytest.approx(0.25 * 0.75)
    one = score(Ranked(), [np.arange(4) < 3])
    assert (one.circuits.tolist(), one.empty.tolist(), one.whole.tolist()) == ([[3, 6]], [0, 0], [4, 8])
    assert BUDGETS == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def test_the_interval_of_cmd_turns_with_the_side_of_one():
    """f = 0.75 and 1.25 at two budgets: |1 − f| moves against the first and with the second."""
    whole, empty = np.array([1.0, 3.0, 2.0, 2.0, 1.5, 2.5, 1.0, 3.0]), np.zeros(8)
    noise = np.array([0.1, -0.1, 0.2, -0.2, 0.3, -0.1, -0.1, -0.1])
    scored = Scored(np.array([0.75 * whole + noise, 1.25 * whole - 2 * noise]), empty, whole)
    found = Curve("cmd", (0.0, 1.0), (1, 2), scored)
    parts = scored.parts()
    by_hand = ((1 - parts[0]) + (parts[1] - 1)) / 2
    low, high = mean_ends(by_hand, 100, 0)
    told = found.interval(100, 0)
    assert (told.value, told.low, told.high) == pytest.approx((0.25, float(low), float(high)))
    own = mean_ends(parts.mean(0), 100, 0)
    told = Curve("cpr", (0.0, 1.0), (1, 2), scored).interval(100, 0)
    assert (told.value, told.low, told.high) == pytest.approx((1.0, float(own[0]), float(own[1])))


class Either:
    """Parts 0 and 1 do the same thing: either is enough; part 2 adds 3."""

    whole = np.ones(3, dtype=bool)

    def __init__(self):
        self.asked = []

    def differences(self, circuits):
        self.asked += circuits
        return np.array([[(mask[0] or mask[1]) + 3.0 * mask[2]] * 2 for mask in circuits])


def test_a_part_with_a_double_is_needed_where_its_class_is_gone():
    parts = {name: np.eye(3, dtype=bool)[place] for place, name in enumerate("abc")}
    space = Either()
    assert minimality(space, space.whole, parts) == {"a": 0, "b": 0, "c": 0.75}
    assert minimality(space, space.whole, parts, {"x": ["a", "b"], "y": ["c"]}) == {"a": 0.25, "b": 0.25, "c": 0.75}
    assert minimality(space, np.array([True, False, False]), {"a": parts["a"]}) == {"a": 0.25}


def test_completeness_takes_random_halves_out_of_circuit_and_model_alike():
    space, circuit = Either(), np.array([True, False, True])
    found = completeness(space, circuit, draws=40, seed=3)
    masks = space.asked[1:]
    assert space.asked[0].all()
    left, right = masks[:40], masks[40:]
    gone = [circuit & ~mask for mask in left]
    assert all((whole == ~part).all() for whole, part in zip(right, gone))
    assert {tuple(part) for part in gone} == {(a, False, b) for a in (True, False) for b in (True, False)}
    assert found.circuit_without.tolist() == [mask[0] + 3.0 * mask[2] for mask in left]
    assert found.whole_without.tolist() == [1 + 3.0 * mask[2] for mask in left]
    assert found.gap == pytest.approx(np.mean([not mask[0] for mask in left]) / 4)
    assert len(completeness(space, circuit).circuit_without) == 10


# -- comparisons -------------------------------------------------------------------------------------------------------


def test_recall_of_the_strongest_by_hand():
    found, true = np.array([[3.0, -2.0], [1.0, 0.0]]), np.array([[0.1, 5.0], [-4.0, 0.0]])
    assert [top_k_recall(found, true, k) for k in (1, 2, 3, 4, 9)] == [0, 0.5, 1, 1, 1]
    assert np.isnan(top_k_recall(found, true, 0))
    # every order of level scores counts alike: any two of these three, of which one and two are true
    assert top_k_recall(np.array([1.0, 1.0, 1.0, 0.0]), np.array([3.0, 2.0, 1.0, 0.0]), 2) == pytest.approx(2 / 3)
    assert top_k_recall(np.array([3.0, 2.0, 1.0, 0.0]), np.ones(4), 2) == pytest.approx(1 / 2)
    assert top_k_recall(np.array([5.0, 1.0, 1.0, 0.0]), np.array([9.0, 0.0, 8.0, 0.0]), 2) == pytest.approx(3 / 4)
    (row,) = agreements({"a": np.append(found, np.nan), "b": np.append(true, 1.0)}, k=2, what="edges", language="en")
    assert (row.method, row.method2, row.k, row.n, row.top_k_recall) == ("a", "b", 2, 4, 0.5)
    assert row.pearson == pytest.approx(np.corrcoef(found.ravel(), true.ravel())[0, 1])
    assert row.spearman == pytest.approx(scipy_stats.spearmanr(np.abs(found).ravel(), np.abs(true).ravel()).statistic)
    three = agreements(dict.fromkeys("abc", found))
    assert [(one.method, one.method2) for one in three] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert three[0].k == 4
    assert _strongest(np.array([[1.0, -3.0], [np.nan, 2.0]]), 2).tolist() == [1, 3]
    assert _strongest(np.array([[1.0, -3.0], [np.nan, 2.0]]), 9).tolist() == [1, 3, 0]


def test_head_frequencies_and_their_controls():
    dice = np.random.default_rng(0)
    used = [dice.random((30, 2, 3)) < dice.random((2, 3)) for _ in range(2)]
    controls = (dice.random((2, 3)), dice.random((2, 3)))
    found = compare(*used, controls, draws=40)
    r = [np.corrcoef(one.mean(0).ravel(), other.ravel())[0, 1] for one, other in zip(used, controls)]
    assert found.control == pytest.approx(sum(r) / 2)
    assert found.low < found.correlation.pearson < found.high
    one, two = overlap_rows({("en", "fr"): found})
    assert (one.measure, two.measure) == ("head_frequency_pearson", "head_frequency_spearman")
    assert (one.value, one.null, one.p) == (
        found.correlation.pearson,
        found.correlation.pearson_null,
        found.correlation.p,
    )
    assert (two.value, two.control, one.ceiling) == (found.correlation.spearman, found.control, found.ceiling)
    assert compare(*used, draws=5).control is None


def roles_of(**scores):
    return Roles.of_scores({name: np.array(values, dtype=float) for name, values in scores.items()})


def test_heads_are_matched_by_standardised_scores_and_held_against_draws():
    first = roles_of(copy=[[0.0, 10.0], [20.0, 30.0]], only=[[0, 0], [0, 0]])
    second = roles_of(copy=[[31.0, 1.0, 10.5], [500.0, 20.0, 500.0]])
    same = [roles_of(copy=[[0.0, 10.0, 20.0], [30.0, 500.0, 500.0]])] * 3
    far = roles_of(copy=[[900.0] * 3] * 2)
    found = match_heads(first, second, [*same, far])
    spread = np.std([0, 10, 20, 30, 31, 1, 10.5, 500, 20, 500])
    assert found.distance == pytest.approx(np.array([0, 0.5, 1, 1]) / spread)
    pairs = {str(a): str(b) for a, b in found.pairs}
    assert pairs == {"0.0": "0.1", "0.1": "0.2", "1.0": "1.1", "1.1": "0.0"}
    assert str(found.pairs[0][0]) == "1.0"
    assert found.p == 4 / 5
    assert found.pair_p == pytest.approx([4 / 5] * 4)
    assert found.null == pytest.approx(np.array([870, 880, 890, 900]) / spread / 4)
    alone = match_heads(first, second)
    assert np.isnan([alone.p, *alone.null, *alone.pair_p]).all()
    with pytest.raises(InputError, match="share no role score"):
        match_heads(first, second, names=["only"])


def test_shuffled_scores_keep_their_values_and_no_head_its_own():
    roles = roles_of(a=np.arange(12.0).reshape(3, 4), b=np.arange(12.0).reshape(3, 4))
    found = shuffled(roles, np.random.default_rng(0)).scores
    assert sorted(found["a"].ravel()) == sorted(found["b"].ravel()) == list(range(12))
    assert (found["a"] != found["b"]).any()
    assert found["a"].shape == (3, 4)
