"""The one module of statistics, by numbers made by hand, by scipy, and by measured coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as oracle

from babelscope import stats
from babelscope.errors import InputError


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 17), (499, 1000)])
def test_wilson_equals_scipy(successes, trials):
    one, other = stats.wilson(successes, trials), oracle.binomtest(successes, trials).proportion_ci(method="wilson")
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_no_trials_have_no_share():
    none = stats.wilson(0, 0)
    assert all(math.isnan(end) for end in (none.value, none.low, none.high))
    assert none.why == "no item"
    with pytest.raises(InputError, match="2 successes of 1 trials"):
        stats.wilson(2, 1)


def test_benjamini_hochberg_by_hand():
    # m = 5, rate 0.05: bounds 0.01 0.02 0.03 0.04 0.05; the third passes and takes the second along
    assert stats.benjamini_hochberg([0.9, 0.01, 0.025, 0.03, 0.6]).tolist() == [False, True, True, True, False]
    assert stats.benjamini_hochberg([[0.02, 0.05], [0.05, 0.05]]).all(), "equality rejects"
    assert stats.benjamini_hochberg([0.001, math.nan]).tolist() == [True, False]
    assert stats.benjamini_hochberg([0.03, math.nan]).tolist() == [False, False], "an undefined test counts as a test"


def test_a_constant_has_no_correlation():
    assert math.isnan(stats.pearson([0.1, 0.1, 0.1], [1, 2, 3]))
    assert math.isnan(stats.spearman([1, 2, 3], [4, 4, 4]))
    assert math.isnan(stats.pearson([1.0], [2.0]))


def test_correlations_equal_scipy():
    a, b = np.random.default_rng(0).standard_normal((2, 30))
    b = np.round(b)
    assert stats.pearson(a, b) == pytest.approx(oracle.pearsonr(a, b).statistic, abs=1e-12)
    assert stats.spearman(a, b) == pytest.approx(oracle.spearmanr(a, b).statistic, abs=1e-12)
    assert stats.spearman([-math.inf, 0, 1], [1, 2, 3]) == pytest.approx(1), "−∞ ranks lowest"


def test_percentile_leaves_a_fortieth_on_each_side():
    assert stats.percentile(range(1001)) == pytest.approx((25, 975))
    assert stats.percentile([*range(1001), math.nan]) == pytest.approx((25, 975))


def test_items_of_one_document_share_a_group():
    labels = [f"book {i // 3}" for i in range(300)]
    groups = stats.group_items(labels, most=40, seed=1)
    assert len(set(groups)) == 40
    assert all(len(set(groups[i : i + 3])) == 1 for i in range(0, 300, 3))
    assert (groups == stats.group_items(labels, most=40, seed=1)).all()


def test_jackknife_of_a_mean_is_its_t_interval():
    values = np.array([1.0, 4.0, 2.0, 7.0, 5.0, 5.0])
    left = [np.delete(values, g).mean() for g in range(6)]
    wanted = oracle.ttest_1samp(values, 0).confidence_interval()
    made = stats.jackknife_t(values.mean(), left)
    assert (made.low, made.high) == pytest.approx((wanted.low, wanted.high))
    assert made.why == stats.documents_why(6) != stats.documents_why(10) == ""


def test_one_document_and_equal_documents_have_no_interval():
    assert math.isnan(stats.jackknife_t(2.0, [2.0]).low)
    assert stats.jackknife_t(2.0, [2.0]).why == "one document"
    assert math.isnan(stats.jackknife_t(2.0, [2.0, 2.0, 2.0]).low)


def test_t_test_equals_scipy():
    values = np.random.default_rng(1).standard_normal((4, 7))
    assert stats.t_test(values) == pytest.approx(oracle.ttest_1samp(values, 0, axis=1).pvalue)
    assert np.isnan(stats.t_test(values, least=8)).all()
    assert np.isnan(stats.t_test(np.ones((1, 5)))).all()


def test_welch_against_one_other_equals_scipy():
    a, b = np.random.default_rng(2).standard_normal((2, 4)) * [[1], [3]]
    made, wanted = stats.welch_t(a, [b]), oracle.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (made.low, made.high) == pytest.approx((wanted.low, wanted.high))


def test_a_mean_of_skewed_items_is_covered():
    """Exponential items: Student's t holds 0.88 to 0.92 of five to twenty; normal ones: both hold what they say."""
    rng = np.random.default_rng(0)
    for count in (5, 10, 20):
        low, high = stats.mean_ends(rng.exponential(1, (600, count)) - 1, 400)
        assert 0.915 <= ((low <= 0) & (high >= 0)).mean() <= 0.985
        low, high = stats.mean_ends(rng.standard_normal((600, count)), 400)
        assert 0.93 <= ((low <= 0) & (high >= 0)).mean() <= 0.985


def test_a_bootstrap_t_interval_is_the_plain_loop_and_at_least_students():
    values = np.array([0.1, 0.3, 0.2, 5.0, 0.4, 0.2, 0.9])
    counts = stats.bootstrap_counts(7, 200, 3)
    mean, error = values.mean(), values.std(ddof=1) / 7**0.5
    drawn = [np.repeat(values, count) for count in counts]
    t = [(one.mean() - mean) / (one.std(ddof=1) / 7**0.5) for one in drawn if one.std() > 1e-9]
    low, high = stats.mean_ends(values, 200, 3)
    student = stats.t_ends(mean, error, 6)
    assert low == pytest.approx(min(mean - np.quantile(t, 0.975) * error, float(student[0])))
    assert high == pytest.approx(max(mean - np.quantile(t, 0.025) * error, float(student[1])))
    assert high - mean > 2 * (mean - low)  # the long tail is on the right
    assert stats.bootstrap_mean(values[:4]).method == "t"
    assert stats.bootstrap_mean(np.ones(6)).why == "all items equal"


def test_ratio_error_is_the_plain_leave_one_out_loop():
    total, size = np.array([3.0, 5.0, 4.0, 9.0, 2.0]), np.array([2.0, 3.0, 4.0, 5.0, 1.0])
    left = [np.delete(total, g).sum() / np.delete(size, g).sum() for g in range(5)]
    assert stats.jackknife_error(np.array(left)) == pytest.approx(
        stats._ratio_error(np.ones((1, 5)), total, size)[0], rel=1e-12
    )
    drawn = np.array([[2.0, 1, 0, 1, 1]])
    twice, sizes = np.array([3.0, 3, 5, 9, 2]), np.array([2.0, 2, 3, 5, 1])
    left = [np.delete(twice, g).sum() / np.delete(sizes, g).sum() for g in range(5)]
    assert stats._ratio_error(drawn, total, size)[0] == pytest.approx(stats.jackknife_error(np.array(left)))


def test_ratio_interval_names_its_method_by_the_number_of_documents():
    rng = np.random.default_rng(3)
    made = {g: stats.ratio_t(rng.standard_normal(g) + 3, rng.integers(5, 9, g)) for g in (2, 4, 5)}
    assert [made[g].method for g in (2, 4, 5)] == ["bootstrap t", "leave-one-document-out t", "bootstrap t"]
    assert math.isnan(made[2].low)
    assert made[4].why == stats.documents_why(4) != ""
    assert made[5].low < made[5].value < made[5].high


def test_parts_of_documents_add_up_to_the_ratio():
    total, size = np.array([3.0, 5.0, 4.0]), np.array([2.0, 3.0, 4.0])
    assert stats.document_parts(total, size).mean() == pytest.approx(12 / 9)


@pytest.mark.parametrize("n", [5, 10, 30, 400])
@pytest.mark.parametrize("change", [-1.0, 0.1, 1 / 3])
def test_samples_of_equal_items_say_nothing_of_the_interval(n, change):
    """Most resamples of items of which one differs are all alike: their error is 0 up to rounding, no divisor."""
    items = np.full(n, 1 / 7)
    items[0] += change
    low, high = stats.mean_ends(items)
    assert abs(low - items.mean()) < 5 * abs(change)
    assert abs(high - items.mean()) < 5 * abs(change)
    ratio = stats.ratio_t(items * 3, np.full(n, 3.0))
    assert abs(ratio.low - items.mean()) < 5 * abs(change)
    assert abs(ratio.high - items.mean()) < 5 * abs(change)


@pytest.mark.parametrize("n", [5, 7, 11])
def test_documents_that_do_not_differ_have_no_interval_but_a_reason(n):
    """The mean of seven equal numbers is not always that number: what is left is rounding, and no spread."""
    found = stats.welch_t([0.1] * n, [[0.1] * n, [0.3] * (n + 1)])
    assert found.why == "documents do not differ"
    assert found.value == pytest.approx(-0.1)
