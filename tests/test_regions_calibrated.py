"""The intervals of the calibrated tables: over values, over shares, over pairs of languages."""

from __future__ import annotations

import math
import sys
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks._intervals import cell, mantel, over, spread, wilson


def test_a_mean_has_students_interval_and_one_value_none():
    mean, low, high = over([1.0, 2.0, 3.0, float("nan")])
    # t(0.975, 2) = 4.3027
    assert (mean, high - mean) == (2.0, pytest.approx(4.3027 / 3**0.5, rel=1e-4))
    assert low == pytest.approx(4 - high)
    assert math.isnan(over([1.0])[1])
    assert math.isnan(over([])[0])
    assert spread([0.5]) == "0.5"
    assert wilson([True] * 8 + [False] * 2) == "0.8 (0.49 to 0.943)"


def test_cells_are_short():
    found = [cell(value) for value in (float("nan"), 1234.5, 0.0, 0.12345, 7, None)]
    assert found == ["–", "1234", "0", "0.123", "7", "–"]


def test_languages_are_permuted_and_not_pairs():
    pairs = pd.MultiIndex.from_tuples(list(combinations("abcdefg", 2)))
    values = pd.Series([float(place) for place in range(len(pairs))], pairs)
    rho, p = mantel(values, values * 2, draws=200)
    assert rho == pytest.approx(1)
    assert p == pytest.approx(1 / 201)
    assert mantel(values, -values, draws=20)[0] == pytest.approx(-1)
