"""Changes of a share over the same items, means over languages: coverage, cases by hand, what they refuse."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from babelscope.errors import InputError
from babelscope.proportions import change_of_share, mean_share
from babelscope.stats import wilson


def items(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.repeat([True, True, False, False], [both, lost, won, neither])
    return before, np.repeat([True, False, True, False], [both, lost, won, neither])


@pytest.mark.parametrize(
    ("n", "lost", "won", "kept", "least"),
    [
        (10, 0.1, 0.0, 0.9, 0.93), (10, 0.5, 0.0, 0.5, 0.93), (40, 0.1, 0.0, 0.9, 0.93), (100, 0.05, 0.0, 0.95, 0.93),
        (20, 0.2, 0.1, 0.5, 0.93), (20, 0.3, 0.0, 0.6, 0.93), (30, 0.05, 0.05, 0.6, 0.93),
    ],
)  # fmt: skip
def test_it_holds_the_truth_as_often_as_it_says(n, lost, won, kept, least):
    """Exact: every outcome of n items, with its multinomial probability."""
    held = 0.0
    for a, b in product(range(n + 1), repeat=2):
        for c in range(n + 1 - a - b if won else 1):
            rest = n - a - b - c
            if rest < 0 or (rest and lost + won + kept > 1 - 1e-9):
                continue
            p = comb(n, a) * comb(n - a, b) * comb(n - a - b, c) * kept**a * lost**b * won**c
            p *= (1 - kept - lost - won) ** rest if rest else 1.0
            found = change_of_share(*items(a, b, c, rest))
            held += p * (found.low <= won - lost <= found.high)
    assert held >= least


def test_the_other_way_round_is_the_mirror_image():
    before, after = items(12, 5, 2, 3)
    there, back = change_of_share(before, after), change_of_share(after, before)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert there.value == pytest.approx(-3 / 22)
    assert there.low < there.value < there.high


def test_no_change_of_many_items_has_an_interval():
    found = change_of_share(np.ones(100, dtype=bool), np.ones(100, dtype=bool))
    assert found.value == 0
    assert (found.low, found.high) == pytest.approx((-0.037, 0.037), abs=1e-3)


def test_each_end_is_a_change_that_the_score_test_just_rejects():
    # the likelihood of 12 lost and 2 won of 50 under a true change, maximised by search
    won, lost, n = 2, 12, 50
    found = change_of_share(*items(36, lost, won, 0))
    for end in (found.low, found.high):
        shares = np.linspace(max(0, -end), (1 - end) / 2, 200_001)[1:-1]
        likely = won * np.log(shares + end) + lost * np.log(shares) + (n - won - lost) * np.log(1 - 2 * shares - end)
        share = shares[np.argmax(likely)]
        error = (n * (2 * share + end * (1 - end))) ** 0.5
        assert abs(won - lost - n * end) / error == pytest.approx(1.96, abs=2e-3)


@pytest.mark.wrong_kind
def test_other_items_are_refused_and_none_have_no_change():
    with pytest.raises(InputError, match="2 items before, 3 after"):
        change_of_share(np.ones(2, dtype=bool), np.ones(3, dtype=bool))
    assert change_of_share(np.ones(0, dtype=bool), np.ones(0, dtype=bool)).why == "no item"


# -- the mean over languages -------------------------------------------------------------------------------------------


def told(*rows: str) -> dict[str, dict[str, bool]]:
    """A language a row; 1: right, 0: wrong, a blank: not asked."""
    return {str(place): {str(n): sign == "1" for n, sign in enumerate(row) if sign != " "}
            for place, row in enumerate(rows)}  # fmt: skip


def ends(found) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def test_an_item_is_one_observation_in_however_many_languages():
    assert ends(mean_share(told("1101000111"))) == pytest.approx(ends(wilson(6, 10)))
    assert ends(mean_share(told(*["11010"] * 9))) == pytest.approx(ends(wilson(3, 5)))
    assert ends(mean_share(told("1100", "1011"))) == pytest.approx(ends(wilson(2.5, 4)))  # (1/2 + 3/4) / 2 of four
    # no item in common: all eight are observations
    assert ends(mean_share(told("1100    ", "    1011"))) == pytest.approx(ends(wilson(5, 8)))


def test_nothing_but_right_answers_is_no_certainty():
    """The low end of n in n is n / (n + 1.96²)."""
    for languages in (1, 9):
        assert ends(mean_share(told(*["1" * 10] * languages))) == pytest.approx((1, 10 / (10 + 1.959964**2), 1))


def test_a_language_that_was_asked_less_counts_as_much():
    """Its one item is half of the mean, and an eighth more: 1 / (0.625² + 3 · 0.125²) items."""
    found, count = mean_share(told("1111", "0   ")), 1 / (0.625**2 + 3 * 0.125**2)
    assert ends(found) == pytest.approx(ends(wilson(count / 2, count)))
    assert np.isnan(ends(mean_share({"en": {}}))).all()


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("items", "share"), [(20, 0.9), (50, 0.7), (10, 0.5), (50, 0.96)])
def test_the_mean_over_languages_lies_inside_as_often_as_it_says(items, share, alike):
    """Nine languages, which answer as one in a share `alike` of the items; a bootstrap held 0.77 at 20, 0.9, 0.5."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        one = rng.random(items) < share
        right = np.where(rng.random(items) < alike, one, rng.random((9, items)) < share)
        found = mean_share({str(n): dict(zip(map(str, range(items)), row.tolist())) for n, row in enumerate(right)})
        held += found.low <= share <= found.high
    assert held / 1000 >= 0.93
