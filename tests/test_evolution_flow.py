"""Flow of neurons against plain sets, and overlap over depth against numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.errors import InputError
from babelscope.evolution import depth_overlap, depth_profile, flow, scale_overlap
from babelscope.evolution.index import mark_duplicates
from babelscope.regions.masks import RegionSet

LANGUAGES = ("en", "fr", "zh")


def random_regions(seed, layers=3, neurons=40, disjoint=True):
    generator = torch.Generator().manual_seed(seed)
    if disjoint:
        owner = torch.randint(0, len(LANGUAGES) + 3, (layers, neurons), generator=generator)
        return RegionSet({code: owner == place for place, code in enumerate(LANGUAGES)}, "z-score")
    return RegionSet({code: torch.rand(layers, neurons, generator=generator) < 0.4 for code in LANGUAGES}, "z-score")


def plain_flow(before, after, code, layer):
    """The definition, neuron by neuron."""
    found = dict.fromkeys(("kept", "born", "moved", "left", "lost"), 0)
    for neuron in range(before[code].shape[1]):
        was = {other for other in LANGUAGES if before[other][layer, neuron]}
        now = {other for other in LANGUAGES if after[other][layer, neuron]}
        if code in was and code in now:
            found["kept"] += 1
        elif code in now:
            found["moved" if was else "born"] += 1
        elif code in was:
            found["left" if now else "lost"] += 1
    return found


@pytest.mark.parametrize("disjoint", [True, False])
def test_flow_equals_the_plain_count(disjoint):
    before, after = random_regions(1, disjoint=disjoint), random_regions(2, disjoint=disjoint)
    for row in flow(before, after).table.to_dict("records"):
        expected = plain_flow(before, after, row["language"], row["layer"])
        assert {name: row[name] for name in expected} == expected


def test_flow_adds_up():
    before, after = random_regions(1), random_regions(2)
    found = flow(before, after)
    by_language = found.table.groupby("language")[["kept", "born", "moved", "left", "lost"]].sum()
    for code in LANGUAGES:
        row = by_language.loc[code]
        assert row.kept + row.left + row.lost == before.sizes[code]
        assert row.kept + row.born + row.moved == after.sizes[code]
    assert by_language.moved.sum() == by_language.left.sum()
    pairs = found.pairs.set_index(["language", "language2"]).neurons
    assert pairs["fr", "fr"] == by_language.kept["fr"]
    assert pairs["", "fr"] == by_language.born["fr"]
    assert pairs["fr", ""] == by_language.lost["fr"]


def test_nothing_flows_between_equal_checkpoints():
    regions = random_regions(3)
    assert flow(regions, regions).table[["born", "moved", "left", "lost"]].to_numpy().sum() == 0


def test_different_models_have_no_flow():
    with pytest.raises(InputError, match="different models"):
        flow(random_regions(1), random_regions(1, layers=4))


def test_overlap_over_depth_equals_the_integral():
    rng = np.random.default_rng(0)
    first, second = rng.random(5), rng.random(7)
    grid = (np.arange(70_000) + 0.5) / 70_000
    one = first[(grid * 5).astype(int)] / first.sum() * 5
    two = second[(grid * 7).astype(int)] / second.sum() * 7
    assert depth_overlap(first, second) == pytest.approx(np.minimum(one, two).mean(), abs=1e-6)
    assert depth_overlap(first, np.repeat(first, 3)) == pytest.approx(1.0)
    assert np.isnan(depth_overlap(first, np.zeros(3)))


def test_a_profile_over_depth_sums_to_one():
    assert depth_profile(np.array([1.0, 5.0, 0.0]), 10).sum() == pytest.approx(1.0)
    assert np.isnan(depth_profile(np.zeros(3))).all()
    assert depth_profile(np.array([2.0, 0.0, 2.0]), 3).tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert depth_profile(np.array([1.0, 5.0, 0.0]), 2).tolist() == pytest.approx([3.5 / 6, 2.5 / 6])


def test_overlap_of_scales_has_a_comparison_with_other_languages():
    deep, shallow = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    table = scale_overlap({"small": {"en": deep, "fr": shallow}, "large": {"en": deep, "fr": shallow}})
    assert table.overlap.tolist() == pytest.approx([1.0, 1.0])
    assert table.others.tolist() == [0.0, 0.0]


def test_the_same_weights_are_named():
    rows = [
        {"model": "m", "revision": "a", "label": "m@a", "weight_hash": "1", "corpus": "x", "duplicate_of": None},
        {"model": "m", "revision": "b", "label": "m@b", "weight_hash": "1", "corpus": "x", "duplicate_of": None},
        {"model": "m", "revision": "b", "label": "m@b", "weight_hash": "1", "corpus": "y", "duplicate_of": None},
        {"model": "n", "revision": "c", "label": "n@c", "weight_hash": "1", "corpus": "x", "duplicate_of": None},
        {"model": "n", "revision": "d", "label": "n@d", "weight_hash": None, "corpus": "x", "duplicate_of": None},
    ]
    mark_duplicates(rows)
    assert [row["duplicate_of"] for row in rows] == [None, "a", None, "m@a", None]
