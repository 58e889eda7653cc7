"""Scores, z, regions and their files."""

from __future__ import annotations

import json

import pytest
import torch

from babelscope.errors import InputError, UnattainableThreshold
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.regions import (
    RegionSet,
    key_regions,
    load_regions,
    save_regions,
    standard_scores,
    whole_means,
    within_language_scores,
    within_language_sums,
)
from babelscope.regions.localisation import largest_z, sklr
from babelscope.regions.masks import from_matrix, random_region, random_region_by_layer

from . import reference
from .region_data import noise, recording


@pytest.fixture(scope="module")
def toy():
    return noise(languages=5, sentences=6, neurons=24)


def vectors(rec):
    return torch.cat([x for _, x in rec.unit_chunks(7)], dim=-1)


def test_scores_equal_the_pair_loop(toy):
    found = within_language_scores(within_language_sums(toy))
    assert torch.allclose(found, reference.pair_loop_scores(vectors(toy)), rtol=1e-12, atol=1e-12)


def test_scores_sum_to_the_similarity_within_languages(toy):
    found = within_language_scores(within_language_sums(toy))
    assert float(found.sum(1).mean()) == pytest.approx(float(whole_means(toy).same_language), rel=1e-12)


def test_z_equals_the_loop(toy):
    scores = within_language_scores(within_language_sums(toy))
    assert torch.allclose(standard_scores(scores), reference.loop_z(scores), rtol=1e-9)


@pytest.mark.parametrize("languages", [6, 9, 21])
def test_a_neuron_of_one_language_reaches_the_largest_z(languages):
    only_first = torch.zeros(languages, 1, dtype=torch.float64)
    only_first[0] = 1
    assert standard_scores(only_first)[0].item() == pytest.approx((languages - 1) ** 0.5, rel=1e-12)
    assert largest_z(languages) == (languages - 1) ** 0.5


@pytest.mark.parametrize("languages", [6, 9, 21])
def test_a_tie_of_two_languages_shares_the_neuron(languages):
    tie = torch.zeros(languages, 1, dtype=torch.float64)
    tie[:2] = 1
    assert torch.allclose(standard_scores(tie)[:2], torch.tensor(((languages - 2) / 2) ** 0.5, dtype=torch.float64))


def test_five_languages_cannot_reach_two():
    with pytest.raises(UnattainableThreshold, match=r"z > 2 .* 5 languages: .* below 2.000"):
        key_regions(torch.rand(5, 10), threshold=2.0)
    assert key_regions(torch.eye(5), threshold=1.9).sum() == 5


def test_up_to_ten_languages_regions_at_two_are_disjoint():
    generator = torch.Generator().manual_seed(0)
    regions = key_regions(torch.rand(10, 5000, generator=generator) ** 4, 2.0)
    assert regions.sum(0).max() == 1
    assert sklr(regions) == int(regions.sum())


def test_a_constant_neuron_belongs_nowhere():
    assert not key_regions(torch.ones(9, 4)).any()
    assert not key_regions(torch.full((9, 4), 1 / 3).cumsum(1) * 0.1).any()


def test_one_sentence_has_no_pair():
    with pytest.raises(InputError, match="at least two sentences"):
        within_language_sums(recording(torch.rand(6, 1, 4)))


def test_region_files_come_back_as_they_were(tmp_path):
    generator = torch.Generator().manual_seed(0)
    members = torch.rand(2, 12, generator=generator) > 0.5
    scores = {"en": torch.rand(3, 4), "zh": torch.rand(3, 4)}
    regions = from_matrix(
        members, ("en", "zh"), NeuronLayout.even(3, 12), torch.stack([*scores.values()]).flatten(1),
        method="z-score", facts={"threshold": 2.0},
    )  # fmt: skip
    save_regions(regions, tmp_path / "r.safetensors")
    back = load_regions(tmp_path / "r.safetensors")
    assert back.method == "z-score"
    assert back.facts == {"threshold": 2.0}
    assert back.sizes == regions.sizes
    assert back.total == int(members.sum())
    assert all(torch.equal(back[code], regions[code]) for code in ("en", "zh"))
    assert all(torch.equal(back.scores[code], scores[code]) for code in ("en", "zh"))
    with pytest.raises(InputError, match="no region for 'fr'; there are en, zh"):
        back["fr"]


def test_files_that_are_no_regions_are_refused_in_one_line(tmp_path):
    from safetensors.torch import save_file

    def saved(name, tensors, facts):
        save_file(tensors, tmp_path / name, metadata={"babelscope": json.dumps(facts)} if facts is not None else None)
        return tmp_path / name

    mask = torch.zeros(2, 3, dtype=torch.uint8)
    (tmp_path / "text").write_text("no tensors")
    bad = [
        tmp_path / "absent",
        tmp_path / "text",
        saved("bare", {"mask/en": mask}, None),
        saved("list", {"mask/en": mask}, []),
        saved("newer", {"mask/en": mask}, {"format": 2, "method": "z", "languages": ["en"]}),
        saved("lacking", {"mask/en": mask}, {"format": 1, "method": "z", "languages": ["zh"]}),
        saved("empty", {"mask/en": mask}, {"format": 1, "method": "z", "languages": []}),
        saved("flat", {"mask/en": mask.flatten()}, {"format": 1, "method": "z", "languages": ["en"]}),
    ]
    for path in bad:
        with pytest.raises(InputError) as told:
            load_regions(path)
        assert "\n" not in str(told.value)
        assert path.name in str(told.value)


def test_random_regions_have_the_size_asked_for_and_repeat_with_the_seed():
    mask = random_region(7, [5] * 3, seed=1)
    assert mask.shape == (3, 5)
    assert int(mask.sum()) == 7
    assert torch.equal(mask, random_region(7, [5] * 3, seed=1))
    assert not torch.equal(mask, random_region(7, [5] * 3, seed=2))
    assert random_region_by_layer([0, 2, 5], [5] * 3, seed=3).sum(1).tolist() == [0, 2, 5]


def test_sizes_by_layer():
    mask = torch.tensor([[True, False], [True, True]])
    assert RegionSet({"en": mask}, "z-score").by_layer() == {"en": [1, 2]}
