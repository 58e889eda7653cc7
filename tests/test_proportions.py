"""The change of a share over the same items: exact coverage by enumeration, mirror images, what it refuses."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from babelscope.errors import InputError
from babelscope.proportions import change_of_share


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
