"""Two runs beside each other, by numbers made by hand: signs of differences, chance, pairs and heads in common."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from babelscope.evolution.differences import (
    _overlap,
    compare_alignment,
    compare_circuits,
    compare_headlines,
    compare_map,
    compare_points,
    compare_regions,
)
from babelscope.evolution.measures import CircuitsMeasure, ClozeMeasure, LatentMeasure, RegionsMeasure
from babelscope.evolution.points import _work
from babelscope.evolution.weights import is_whole
from babelscope.regions.masks import RegionSet, save_regions
from babelscope.studies.circuit_settings import CircuitsSettings
from babelscope.studies.latent_settings import LatentSettings
from babelscope.studies.region_settings import RegionsSettings


def run(folder: Path, name: str, arrays: dict[str, xr.DataArray] | None = None, **summary: object) -> SimpleNamespace:
    """What is asked of a run: arrays, summary, tables."""
    path = folder / name
    (path / "arrays.zarr").mkdir(parents=True)
    return SimpleNamespace(
        path=path, arrays=lambda: xr.Dataset(arrays or {}), summary=summary, manifest={"kind": summary.get("kind")},
        file=lambda inner: path / inner, table=lambda inner: summary[inner], tables=list(summary), source=name,
    )  # fmt: skip


def test_headlines_differ_by_the_second_less_the_first(tmp_path):
    one = run(tmp_path, "a", lrds=0.2, sads=0.5, threshold=2.0, method="lape", n=9)
    two = run(tmp_path, "b", lrds=0.5, sads=0.1, threshold=3.0, method="lape", n=9)
    found = compare_headlines(one, two).set_index("measure")
    assert found.difference.to_dict() == pytest.approx({"lrds": 0.3, "sads": -0.4, "n": 0.0})
    assert found.overlap.tolist() == [None, None, None]


def regions(folder: Path, name: str, masks: dict[str, list[list[int]]]) -> SimpleNamespace:
    found = {code: torch.tensor(mask).bool() for code, mask in masks.items()}
    sizes = xr.DataArray(
        [mask.sum(1).tolist() for mask in found.values()], dims=("language", "layer"), coords={"language": list(found)}
    )
    made = run(folder, name, {"region_size_layer": sizes})
    (made.path / "regions").mkdir()
    save_regions(RegionSet(found, "z-score"), made.path / "regions/z-score.safetensors")
    return made


def test_regions_share_what_both_name_and_chance_is_that_of_random_sets(tmp_path):
    """4 and 5 of 20 neurons, 2 in both: 2 of 7; by chance 4 · 5 / 20 = 1 is in both, of 8."""
    first = {"en": [[1, 1, 0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]], "zh": [[0] * 10] * 2}
    second = {"en": [[1, 0, 0, 0, 0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]], "zh": [[0] * 10] * 2}
    found = compare_regions(regions(tmp_path, "a", first), regions(tmp_path, "b", second)).set_index("language")
    en, zh = found.loc["en"], found.loc["zh"]
    assert (en["first"], en["second"], en.shared) == (4, 5, 2)
    assert en.jaccard == pytest.approx(2 / 7)
    assert en.jaccard_by_chance == pytest.approx(1 / 8)
    assert en.depth_overlap == pytest.approx(0.5 + 0.2)
    assert zh.shared == 0
    assert all(math.isnan(zh[name]) for name in ("jaccard", "jaccard_by_chance", "depth_overlap"))
    other = compare_regions(
        regions(tmp_path, "c", first), regions(tmp_path, "d", {"en": [[1, 0, 0], [1, 1, 1], [0, 0, 0]]})
    )
    assert other.language.tolist() == ["en"]
    assert math.isnan(other.jaccard[0])
    assert other.depth_overlap[0] == pytest.approx(0.75 / 3 + 1 / 3)  # densities 0.75, 2.25, 0 beside 1


def pairs(values: list[list[float]]) -> xr.DataArray:
    codes = ["en", "fr", "zh"]
    return xr.DataArray(values, dims=("language", "language2"), coords={"language": codes, "language2": codes})


def test_alignment_differs_by_the_second_less_the_first_and_each_pair_stands_once(tmp_path):
    nan = math.nan
    layers = {"lrds_layer": xr.DataArray([0.1, 0.5], dims="layer", coords={"layer": [0, 1]})}
    later = {"lrds_layer": xr.DataArray([0.4, 0.3], dims="layer", coords={"layer": [0, 1]})}
    one = layers | {"similarity_pair": pairs([[nan, 0.1, 0.2], [0.1, nan, 0.3], [0.2, 0.3, nan]])}
    two = later | {"similarity_pair": pairs([[nan, 0.5, 0.5], [0.5, nan, 0.5], [0.5, 0.5, nan]])}
    found = compare_alignment(run(tmp_path, "a", one), run(tmp_path, "b", two))
    assert dict(zip(found.item, found.difference)) == pytest.approx(
        {"0": 0.3, "1": -0.2, "en – fr": 0.4, "en – zh": 0.3, "fr – zh": 0.2}
    )
    assert len(found) == 5


def test_maps_are_compared_where_language_and_sentence_are_the_same(tmp_path):
    def similarity(values: list[list[float]], codes: list[str], sentences: list[str]) -> dict[str, xr.DataArray]:
        named = {"item_language": ("item", codes), "item_sentence": ("item", sentences)}
        return {"similarity": xr.DataArray(values, dims=("item", "item2"), coords=named)}

    one = similarity([[1, 0.1, 0.2], [0.1, 1, 0.4], [0.2, 0.4, 1]], ["en", "en", "zh"], ["1", "2", "1"])
    moved = [[1, 0.4, 9, 0.3], [0.4, 1, 9, 0.7], [9, 9, 1, 9], [0.3, 0.7, 9, 1]]  # zh 1, en 2, fr 1, en 1
    two = similarity(moved, ["zh", "en", "fr", "en"], ["1", "2", "1", "1"])
    found = compare_map(run(tmp_path, "a", one), run(tmp_path, "b", two))
    # pairs: en 1 – en 2: 0.1 and 0.7; en 1 – zh 1: 0.2 and 0.3; en 2 – zh 1: 0.4 and 0.4
    assert found == pytest.approx(
        {
            "items": 3,
            "mean_difference": 0.7 / 3,
            "largest_difference": 0.6,
            "pearson": np.corrcoef([0.1, 0.2, 0.4], [0.7, 0.3, 0.4])[0, 1],
        }
    )
    assert compare_map(run(tmp_path, "c", one), run(tmp_path, "d", {})) is None


def test_points_differ_by_the_second_less_the_first(tmp_path):
    same = {"model": ["m", "m"], "revision": ["1", "2"], "corpus": ["c", "c"]}
    one = run(tmp_path, "a", kind="sweep", points=pd.DataFrame({**same, "lrds": [0.1, 0.4]}))
    two = run(tmp_path, "b", kind="sweep", points=pd.DataFrame({**same, "lrds": [0.3, 0.1]}))
    found = compare_points(one, two)
    assert found.difference.tolist() == pytest.approx([0.2, -0.3])
    assert found.measure.tolist() == ["lrds", "lrds"]
    assert compare_points(one, run(tmp_path, "c", kind="regions")).empty


def test_heads_in_common_are_the_largest_of_either_sign_that_both_have(tmp_path):
    def heads(values: list[list[float]]) -> dict[str, xr.DataArray]:
        array = xr.DataArray([values], dims=("language", "layer", "head"), coords={"language": ["en"]})
        return {"path_logits": array}

    one = heads([[5.0, -4.0, 0.1], [0.2, math.nan, 1.0]])
    two = heads([[-3.0, 0.0, 0.3], [2.0, 9.0, 0.5]])
    found = compare_circuits(run(tmp_path, "a", one), run(tmp_path, "b", two), top=2).iloc[0]
    # largest: heads 0 and 1 of the first, 0 and 3 of the second; the head that is NaN in one is in neither
    assert (found.shared_top, found.top) == (1, 2)
    assert found.pearson == pytest.approx(np.corrcoef([5, -4, 0.1, 0.2, 1], [-3, 0, 0.3, 2, 0.5])[0, 1])
    assert compare_circuits(run(tmp_path, "c", one), run(tmp_path, "d", heads([[1.0, 2.0]]))).empty


def test_what_a_point_measures_is_what_the_plan_asks_for():
    plan = SimpleNamespace(
        dtype="float32", attention=None, trust_remote_code=False, languages=("en", "zh"),
        measures={"regions": {"samples": 9}},
    )  # fmt: skip
    assert _work(plan, "memory").measures == (
        RegionsMeasure(RegionsSettings(corpus="memory", languages=("en", "zh"), samples=9)),
    )
    plan.measures = {"alignment": {}, "circuits": {"languages": ("fr", "es")}, "story_cloze": {"stories": "s"}}
    assert _work(plan, "memory").measures == (
        RegionsMeasure(RegionsSettings(corpus="memory", languages=("en", "zh"), alignment=True)),
        ClozeMeasure("s", ("en", "zh")),
        CircuitsMeasure(CircuitsSettings(languages=("fr", "es"))),
    )
    plan.measures = {"latent": {"from": ("en",)}}
    assert _work(plan, "memory").measures == (LatentMeasure(LatentSettings(languages=("en", "zh"), from_=("en",))),)


def test_a_folder_of_weights_is_whole_with_every_file_that_its_index_lists(tmp_path):
    assert not is_whole(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not is_whole(tmp_path)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_text("")
    assert not is_whole(tmp_path)
    (tmp_path / "model-2.safetensors").write_text("")
    assert is_whole(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert not is_whole(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert not is_whole(tmp_path)
    (tmp_path / "model.safetensors").write_text("")
    assert is_whole(tmp_path)


@pytest.mark.parametrize(
    ("one", "two", "meet"),
    [
        ((0, 1), (2, 3), False),
        ((2, 3), (0, 1), False),
        ((0, 1), (1, 2), True),
        ((1, 2), (0, 1), True),
        ((0, 9), (4, 5), True),
        ((4, 5), (0, 9), True),
        ((1, 1), (1, 1), True),
        (None, (0, 1), None),
        ([None, None], [0, 1], None),
        ((0, 1), None, None),
    ],
)
def test_intervals_overlap_where_some_number_is_in_both(one, two, meet):
    assert _overlap(one, two) is meet


def test_headlines_tell_whether_their_intervals_overlap(tmp_path):
    one = run(tmp_path, "a", lrds=0.2, sads=0.5, intervals={"lrds": [0.1, 0.3], "sads": [0.4, 0.6]})
    two = run(tmp_path, "b", lrds=0.5, sads=0.7, intervals={"lrds": [0.4, 0.6], "sads": [0.6, 0.8]})
    assert compare_headlines(one, two).overlap.tolist() == [False, True]


def test_thresholds_are_compared_where_regions_of_either_are_by_z(tmp_path):
    lape, z, old = (
        run(tmp_path, "a", threshold=2.0, method="lape"),
        run(tmp_path, "b", threshold=3.5, method="z-score"),
        run(tmp_path, "c", threshold=3.0),
    )
    assert compare_headlines(lape, z).difference.tolist() == [1.5]
    assert compare_headlines(old, lape).difference.tolist() == [-1.0]
    assert compare_headlines(lape, lape).empty


def test_what_grows_with_the_corpus_is_subtracted_where_both_read_as_much(tmp_path):
    small = run(tmp_path, "a", excess_sklr=3.0, lrds=0.5, n=10, documents=2)
    large = run(tmp_path, "b", excess_sklr=9.0, lrds=0.75, n=40)
    found = compare_headlines(small, large).set_index("measure")
    assert math.isnan(found.difference["excess_sklr"])
    assert found.why["excess_sklr"] == "grows with the corpus: n = 10, 2 documents against n = 40"
    assert (found.difference["lrds"], found.why["lrds"]) == (0.25, "")
    other = run(tmp_path, "c", excess_sklr=4.0, n=10, documents=2)
    assert compare_headlines(small, other).set_index("measure").difference["excess_sklr"] == 1.0
    split = run(tmp_path, "d", excess_sklr=4.0, n=10, documents=5)
    assert math.isnan(compare_headlines(small, split).set_index("measure").difference["excess_sklr"])


def test_values_by_direction_stand_in_both_orders(tmp_path):
    """A pair that differs by its direction is no pair that is told twice."""
    one = {"lrds_pair": pairs([[0.0, 1.0, 2.0], [3.0, 0.0, 4.0], [5.0, 6.0, 0.0]])}
    found = compare_alignment(run(tmp_path, "a", one), run(tmp_path, "b", one))
    assert len(found) == 9
    assert found.set_index("item")["first"][["en – fr", "fr – en"]].tolist() == [1.0, 3.0]
    nothing = compare_alignment(run(tmp_path, "c", one), run(tmp_path, "d", {}))
    assert nothing.empty
    assert nothing.columns.tolist() == ["measure", "item", "first", "second", "difference"]


def test_two_items_in_common_are_no_map(tmp_path):
    def similarity(sentences: list[str]) -> dict[str, xr.DataArray]:
        named = {"item_language": ("item", ["en"] * 3), "item_sentence": ("item", sentences)}
        return {"similarity": xr.DataArray(np.eye(3), dims=("item", "item2"), coords=named)}

    one, two = run(tmp_path, "a", similarity(["1", "2", "3"])), run(tmp_path, "b", similarity(["1", "2", "4"]))
    assert compare_map(one, two) is None
    assert compare_map(one, run(tmp_path, "c", similarity(["3", "2", "1"])))["items"] == 3


def test_points_are_compared_by_what_both_sweeps_measured(tmp_path):
    same = {"model": ["m"], "revision": ["1"], "corpus": ["c"]}
    one = run(tmp_path, "a", kind="sweep", points=pd.DataFrame({**same, "lrds": [0.1], "sads": [0.4]}))
    two = run(tmp_path, "b", kind="sweep", points=pd.DataFrame({**same, "sads": [0.1], "sklr": [3.0]}))
    found = compare_points(one, two)
    assert found[["measure", "first", "second"]].values.tolist() == [["sads", 0.4, 0.1]]
    three = run(tmp_path, "c", kind="sweep", points=pd.DataFrame({**same, "revision": ["2"], "sads": [0.1]}))
    assert compare_points(one, three).empty


def test_the_heads_that_count_are_the_largest_not_the_smallest(tmp_path):
    """Both share their two largest, by size and not by sign, and neither of their two smallest."""

    def heads(values: list[float]) -> dict[str, xr.DataArray]:
        array = xr.DataArray([[values]], dims=("language", "layer", "head"), coords={"language": ["en"]})
        return {"path_logits": array}

    one, two = run(tmp_path, "a", heads([9, -8, 1, 2, 3, 4])), run(tmp_path, "b", heads([-7, 6, 4, 3, 2, 1]))
    assert compare_circuits(one, two, top=2).shared_top.tolist() == [2]
    # three heads are level at the end of the two largest of c, one acts in d at all: it is none of c's
    three, four = run(tmp_path, "c", heads([9, 1, 1, 1, 0, 0])), run(tmp_path, "d", heads([0, 0, 0, 0, 0, 5]))
    assert compare_circuits(three, four, top=2)[["top", "shared_top"]].values.tolist() == [[4, 0]]
    assert compare_circuits(three, three, top=2)[["top", "shared_top"]].values.tolist() == [[4, 4]]


def test_lines_of_two_corpora_are_not_one_sentence_because_they_have_one_number(tmp_path):
    def made(name: str, texts: list[str]) -> SimpleNamespace:
        named = {"item_language": ("item", ["en"] * 4), "item_sentence": ("item", ["1", "2", "3", "4"])}
        similarity = xr.DataArray(np.eye(4), dims=("item", "item2"), coords=named)
        told = pd.DataFrame({"id": ["1", "2", "3", "4"], "language": "en", "text": texts, "tokens": 3.0})
        return run(tmp_path, name, {"similarity": similarity}, sentences=told)

    one = made("a", ["It rains.", "It snows.", "It hails.", "It is hot."])
    assert compare_map(one, made("b", ["I came.", "I saw.", "I left.", "I slept."])) is None
    assert compare_map(one, made("c", ["It rains.", "I saw.", "It hails.", "It is hot."]))["items"] == 3


def test_what_a_point_reads_from_files_is_part_of_its_key(tmp_path):
    """A file that says something else makes another point, under the same settings."""

    def told(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    def contents(text: str) -> list[dict[str, object]]:
        pairs = told("pairs/en.tsv", text)
        edit, lens, counts = (told(name, text) for name in ("edit", "lens", "counts"))
        return [
            CircuitsMeasure(CircuitsSettings(task=f"minimal-pairs:{pairs}", languages=("en",))).contents(),
            CircuitsMeasure(CircuitsSettings(task=f"ioi:mib:{tmp_path / 'pairs'}", languages=("en",))).contents(),
            CircuitsMeasure(
                CircuitsSettings(task=f"minimal-pairs:{tmp_path}/pairs/{{language}}.tsv", languages=("en",))
            ).contents(),
            RegionsMeasure(
                RegionsSettings(
                    "pocket:heldout", languages=("en", "fr"), samples=5, texts="pocket:heldout", edits=(edit,)
                )
            ).contents(),
            LatentMeasure(LatentSettings(tuned=Path(lens), lens=("tuned",))).contents(),
            LatentMeasure(LatentSettings(counts=Path(counts))).contents(),
        ]

    first, same, other = contents("a"), contents("a"), contents("b")
    assert first == same
    assert all(one != two for one, two in zip(first, other, strict=True))
    assert CircuitsMeasure(CircuitsSettings()).contents() == {}
    asked = RegionsSettings(
        "pocket:heldout", languages=("en", "fr"), samples=5, alignment_neurons=(0.1,), stories="pocket:?n=3"
    )
    more = replace(asked, stories="pocket:?n=4")
    assert RegionsMeasure(asked).contents() != RegionsMeasure(more).contents()
