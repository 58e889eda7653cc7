"""Verdicts of claims: rules by hand, calibration on nulls, power on effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from babelscope.claims import Part, Verdict, aggregate, judge
from babelscope.claims.measures.steering import _paired
from babelscope.claims.verdict import ends, mean_part, same_point, spread_ends, with_twin
from babelscope.errors import InputError

NAN = float("nan")
HOLDS, NOT, OPEN = "holds", "does not hold", "cannot be decided"


def part(low, high, control=0.0, n=100, name="x", estimate=None):
    return Part(name, (low + high) / 2 if estimate is None else estimate, low, high, n, "sentences", control)


@pytest.mark.parametrize(
    ("rule", "low", "high", "control", "answer"),
    [
        ("greater", 0.11, 0.2, 0.0, HOLDS),
        ("greater", 0.11, 0.2, 0.15, OPEN),
        ("greater", 0.11, 0.2, 0.2, NOT),
        ("greater", -0.2, 0.1, 0.0, NOT),
        ("greater", 0.1, 0.2, 0.0, OPEN),
        ("less", -0.2, -0.11, 0.0, HOLDS),
        ("less", -0.2, -0.11, -0.15, OPEN),
        ("less", -0.1, 0.2, 0.0, NOT),
        ("less", 0.5, 0.6, 0.0, NOT),
        ("equal", -0.05, 0.05, 0.0, HOLDS),
        ("equal", -0.5, 0.5, 0.0, OPEN),
        ("equal", 0.1, 0.5, 0.0, NOT),
        ("equal", -0.5, -0.1, 0.0, NOT),
        ("not less", -0.05, 0.5, 0.3, HOLDS),
        ("not less", -0.2, 0.5, 0.0, OPEN),
        ("not less", -0.3, -0.1, 0.0, NOT),
    ],
)
def test_rules_with_a_least_effect_of_a_tenth(rule, low, high, control, answer):
    assert judge(part(low, high, control), rule, 0.1).answer == answer


def test_what_is_missing_is_never_a_verdict():
    gone = replace(part(0.2, 0.3), low=NAN, why="fewer items than asked")
    assert judge(gone, "greater", 0.1) == Verdict(OPEN, "fewer items than asked")
    with pytest.raises(InputError, match="number above 0"):
        judge(part(0.2, 0.3), "greater", 0.0)


def test_a_part_without_spread_or_control_is_never_decided():
    assert judge(part(0.2, 0.2), "greater", 0.1) == Verdict(OPEN, "every draw is the same: no interval")
    assert judge(part(0.2, 0.3, NAN), "greater", 0.1) == Verdict(OPEN, "no control")
    known = same_point("accuracy", 60, "stories")
    assert "by construction" in known.why
    assert judge(known, "greater", 0.1).answer == judge(known, "less", 0.1).answer == NOT


def test_equal_items_have_an_interval_only_within_bounds():
    assert np.isnan(mean_part("x", [2.0] * 40, "concepts", 1).low)
    bounded = mean_part("x", [2.0] * 40, "concepts", 1, within=(-4.0, 4.0))
    others = 1 - 0.025 ** (1 / 40)
    assert (bounded.low, bounded.high) == pytest.approx((2 - 6 * others, 2 + 2 * others))
    # a share of others just below that leaves 40 equal items more often than 2.5 % of the time
    assert (1 - 0.99 * others) ** 40 > 0.025
    alone = mean_part("x", [2.0], "concepts", 1, within=(-4.0, 4.0))
    assert np.isnan(alone.low)
    assert "fewer than two" in alone.why


def test_intervals_of_means_hold_at_the_level_of_several_parts():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        found = mean_part("x", rng.normal(1.0, 1.0, 12), "documents", 5)
        held += found.low <= 1.0 <= found.high
    assert held / 300 > 0.975
    drawn = rng.normal(0.0, 0.5, 50)
    low, high = spread_ends(3.0, drawn, 60, 2)
    assert (low + high) / 2 == pytest.approx(3.0)
    assert np.isnan(spread_ends(3.0, [1.0, 1.0], 60, 2)[0])


def test_pairs_of_languages_of_one_document_are_one_item():
    rows = [
        ("en", target, f"d{k}", method, value)
        for target in ("fr", "es", "pt")
        for k in range(4)
        for method, value in (("arithmetic", 0.1 * k), ("neurons", 0.0))
    ]
    frame = pd.DataFrame(rows, columns=["source", "target", "document", "method", "hit"])
    assert _paired(frame, "hit") == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_the_n_that_would_decide_by_hand():
    # half width 1/8, distance from the bar 1/16: 2 · 100 · 4
    verdict = judge(part(0.0625, 0.3125), "greater", 0.125)
    assert verdict.needed == 800
    assert "800 would decide" in verdict.reason
    assert "no n in reach" in judge(part(0.0, 0.25), "greater", 0.125).reason


def test_the_printed_n_decides_at_least_seven_in_ten():
    rng = np.random.default_rng(0)
    decided = tried = 0
    for _ in range(400):
        values = rng.normal(0.25, 1, 60)
        first = judge(_part_of(values), "greater", 0.01)
        if first.needed is None or first.needed > 4000:
            continue
        tried += 1
        decided += judge(_part_of(rng.normal(0.25, 1, first.needed)), "greater", 0.01).answer != OPEN
    assert tried > 80
    assert decided / tried > 0.7


def _part_of(values):
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return Part("x", values.mean(), values.mean() - half, values.mean() + half, len(values), "sentences")


@pytest.mark.parametrize("parts", [1, 5])
def test_calibration_on_nulls_and_power_on_effects(parts):
    from scipy.stats import norm

    rng, z = np.random.default_rng(parts), float(norm.ppf(1 - 0.025 / parts))

    def verdict(truth):
        seen = rng.normal(truth, 1.0, parts)
        return aggregate({str(k): judge(part(x - z, x + z, name=str(k)), "greater", 0.1) for k, x in enumerate(seen)})

    false = np.mean([verdict(0.1).answer == HOLDS for _ in range(400)])
    assert false <= 0.025 + 2 * (0.025 * 0.975 / 400) ** 0.5
    assert np.mean([verdict(0.1 + z + 3).answer == HOLDS for _ in range(400)]) >= 0.8


def test_parts_are_added_up():
    yes, no, open_ = Verdict(HOLDS), Verdict(NOT), Verdict(OPEN, "too few", 300)
    assert aggregate({"a": yes, "b": yes}).answer == HOLDS
    assert aggregate({"a": yes, "b": no, "c": open_}).answer == NOT
    assert aggregate({"a": yes, "b": open_}) == Verdict(OPEN, "b: too few", 300)
    assert aggregate({"a": yes, "b": yes, "c": no}, "most").answer == HOLDS
    assert aggregate({"a": yes, "b": no, "c": open_}, "most").answer == OPEN
    assert aggregate({"a": yes, "b": no, "c": no}, "most").answer == NOT


def test_a_twin_that_holds_withholds_the_verdict():
    assert with_twin(Verdict(HOLDS), Verdict(NOT)).answer == HOLDS
    assert "withheld" in with_twin(Verdict(HOLDS), Verdict(HOLDS)).reason
    assert with_twin(Verdict(NOT), Verdict(OPEN, "too few")).answer == OPEN


def test_ends_of_several_parts_are_wider():
    draws = np.arange(10001)
    assert ends(draws, 1) == pytest.approx((250, 9750))
    assert ends(draws, 5) == pytest.approx((50, 9950))
