"""Inference of steering by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from babelscope.steering.inference import (
    Scores,
    best_within,
    document_interval,
    front_shares,
    harmonic,
    holm,
    on_front,
    p_of_draws,
    paired_interval,
)
from babelscope.steering.losses import (
    fidelity,
)


def test_intervals_over_documents_by_hand():
    found = document_interval(Scores([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "c"]))
    left = [1.0, 2 / 3, 2 / 3]
    error = (2 / 3 * sum((one - np.mean(left)) ** 2 for one in left)) ** 0.5
    assert found.value == 0.75
    assert found.low == pytest.approx(max(0, 0.75 - 4.3027 * error), abs=1e-4)
    assert found.high == 1.0
    none = document_interval(Scores([0.0] * 6, list("aabbcc")))
    assert none.low == 0.0
    assert none.high == pytest.approx(0.5615, abs=1e-4)  # Wilson of 0 in 3 documents
    assert math.isnan(document_interval(Scores([math.nan], ["a"])).value)
    one = document_interval(Scores([0.5, 0.5], ["a", "a"]))
    assert math.isnan(one.low)
    assert one.why == "one document"


def test_paired_differences_are_of_the_same_documents():
    first, second = Scores([1.0, 1.0, 0.0, 1.0], list("abcd")), Scores([0.0, 0.5, 0.0, 0.0, 1.0], list("abcdx"))
    found = paired_interval(first, second)
    assert found.value == pytest.approx(0.75 - 0.125)
    differences = np.array([1.0, 0.5, 0.0, 1.0])
    assert found.high - found.value == pytest.approx(3.1824 * differences.std(ddof=1) / 2, rel=1e-3)
    assert math.isnan(paired_interval(first, Scores([1.0], ["z"])).value)


def test_p_values_holm_and_the_front_by_hand():
    assert p_of_draws(0.5, [0.5, 0.4, math.nan]) == pytest.approx(2 / 3)
    assert math.isnan(p_of_draws(0.5, []))
    found = holm({"a": 0.03, "b": 0.01, "c": 0.02, "d": math.nan})
    assert found["b"] == pytest.approx(0.03)
    assert found["c"] == found["a"] == pytest.approx(0.04)
    assert math.isnan(found["d"])
    success, rises = [0.9, 0.9, 0.5, 0.2, math.nan], [0.5, 0.4, 0.1, 0.3, 0.0]
    # the first is no worse in success than the second, only more damaging: both stay
    assert on_front(success, rises).tolist() == [True, True, True, False, False]
    assert best_within(success, rises, 0.45) == 1
    assert best_within(success, rises, 0.05) is None
    assert harmonic(0.5, -1.0) == 0.0
    assert harmonic(0.5, 0.5) == 0.5
    table = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, math.nan]])
    shares = front_shares(table, np.array([[1.0, 1.0], [2.0, 2.0]]), draws=20)
    assert shares.tolist() == [1.0, 0.0]


def test_a_long_document_counts_by_its_tokens_on_the_front():
    # per token the first setting harms more, but in the short document alone
    success, harm = np.array([[0.9, 0.9], [0.8, 0.8]]), np.array([[1.0, 0.1], [0.2, 0.2]])
    plain = front_shares(success, harm, draws=200)
    weighted = front_shares(success, harm, draws=200, sizes=np.array([1.0, 1000.0]))
    assert plain[1] > 0.6
    assert weighted[1] < 0.4


def test_sentences_of_one_document_are_one_when_the_judge_is_judged():
    gains, strong = np.array([0.2, 0.3, 0.4]), np.array([0.5, 0.5, 0.5, 0.6, 0.6, 0.6])
    own = fidelity(gains, ["a", "b", "c"], strong)
    grouped = fidelity(gains, ["a", "b", "c"], strong, ["a", "a", "a", "b", "b", "b"])
    assert grouped.reference_high - grouped.reference_low > own.reference_high - own.reference_low
