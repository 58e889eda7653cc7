"""The tables of a sweep, by points made by hand: depth, flow, accuracy, duplicates and what the manifest says."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import xarray as xr

from babelscope.evolution import index
from babelscope.evolution.published import beside_published
from babelscope.evolution.types import Point, Work
from babelscope.regions.masks import RegionSet, save_regions


def run(folder: Path, name: str, **has: object) -> SimpleNamespace:
    """What is asked of a run: arrays, summary, tables, kind."""
    path = folder / name
    path.mkdir()
    arrays, tables = has.get("arrays"), has.get("tables", {})
    if arrays is not None:
        (path / "arrays.zarr").mkdir()
    return SimpleNamespace(
        path=path, source=name, kind=has.get("kind", "regions"), summary=has.get("summary", {}),
        manifest=has.get("manifest", {}), arrays=lambda: xr.Dataset(arrays), file=lambda inner: path / inner,
        tables=list(tables), table=lambda inner: tables[inner],
    )  # fmt: skip


def row(key: str, model: str = "m", step: int | None = None, **more: object) -> dict[str, object]:
    return {
        "key": key, "model": model, "revision": f"r{key}", "label": f"{model}@r{key}", "step": step, "corpus": "c",
        "status": "done", "duplicate_of": None,
    } | more  # fmt: skip


def sizes(values: dict[str, list[int]]) -> dict[str, xr.DataArray]:
    found = xr.DataArray(list(values.values()), dims=("language", "layer"), coords={"language": list(values)})
    return {"region_size_layer": found}


def test_depth_is_told_in_ten_stretches_from_the_first_layer_to_the_last(tmp_path):
    """2 of 3 neurons in the first of two layers: 2/15 of the region in each of five stretches, then 1/15."""
    runs = {"a": run(tmp_path, "a", arrays=sizes({"en": [2, 1], "zh": [0, 0]})), "b": run(tmp_path, "b")}
    found, overlap = index._depth([row("a"), row("b")], runs)
    en, zh = found[:10], found[10:]
    assert [one.from_depth for one in en] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert [one.to_depth for one in en] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert [one.share for one in en] == pytest.approx([2 / 15] * 5 + [1 / 15] * 5)
    assert {(one.key, one.label, one.language) for one in found} == {("a", "m@ra", "en"), ("a", "m@ra", "zh")}
    assert len(zh) == 10
    assert all(math.isnan(one.share) for one in zh)
    assert overlap.empty


def test_models_are_compared_by_their_last_checkpoints_whatever_stands_first(tmp_path):
    """The last of `m` (step 9, not 2) lies where the region of `n` lies."""
    runs = {
        "a": run(tmp_path, "a", arrays=sizes({"en": [4, 0]})),
        "b": run(tmp_path, "b", arrays=sizes({"en": [0, 4]})),
        "c": run(tmp_path, "c", arrays=sizes({"en": [1, 1, 0, 0]})),
    }
    _, overlap = index._depth([row("a", step=9), row("b", step=2), row("c", "n")], runs)
    assert overlap[["from", "to", "language", "overlap"]].values.tolist() == [["m", "n", "en", 1.0]]
    _, overlap = index._depth([row("a", step=2), row("b", step=9), row("c", "n")], runs)
    assert overlap.overlap.tolist() == [0.0]
    _, overlap = index._depth([row("a"), row("b", step=9), row("c", "n")], runs)  # one without a step is the model
    assert overlap.overlap.tolist() == [1.0]
    _, overlap = index._depth([row("b", step=0), row("c", "n", step=0)], runs)
    assert overlap.overlap.tolist() == [0.0]


def with_regions(folder: Path, name: str, mask: list[int]) -> SimpleNamespace:
    made = run(folder, name)
    (made.path / "regions").mkdir()
    save_regions(RegionSet({"en": torch.tensor([mask]).bool()}, "z-score"), made.path / "regions/z-score.safetensors")
    return made


def test_neurons_flow_from_each_checkpoint_to_the_next_step_of_its_model_and_corpus(tmp_path):
    masks = {"a": [1, 0, 0, 0], "b": [1, 1, 0, 0], "c": [1, 1, 1, 1], "d": [0, 0, 1, 1], "e": [1, 0, 0, 1]}
    runs = {name: with_regions(tmp_path, name, mask) for name, mask in masks.items()} | {"f": run(tmp_path, "f")}
    done = [
        row("c", step=30), row("a", step=0), row("b", step=7), row("d", step=40, duplicate_of="rb"),
        row("e", step=3, corpus="other"), row("d"), row("f", step=5),
    ]  # fmt: skip
    found = index.flows_between(done, runs)
    told = [(one.by_layer[0].from_, one.by_layer[0].to, one.by_layer[0].kept, one.by_layer[0].born) for one in found]
    assert told == [("ra", "rb", 1, 1), ("rb", "rc", 2, 2)]
    assert {(one.by_layer[0].model, one.by_layer[0].corpus) for one in found} == {("m", "c")}


def test_weights_that_were_seen_name_the_earlier_point_on_the_same_corpus():
    rows = [
        row("a", weight_hash="1"), row("b", weight_hash="1"), row("c", "n", weight_hash="1"),
        row("d", weight_hash="1", corpus="other"), row("e", weight_hash=None), row("f", weight_hash=None),
        row("a", weight_hash="1"),
    ]  # fmt: skip
    index.mark_duplicates(rows)
    assert [one["duplicate_of"] for one in rows] == [None, "ra", "m@ra", None, None, None, "m@ra"]


def test_accuracy_is_that_of_the_whole_model_with_its_interval(tmp_path):
    table = pd.DataFrame(
        {
            "language": ["en", "zh", "mean", "others", "en"],
            "condition": ["base", "base", "base", "base", "en"],
            "n": [10, 10, 20, 10, 10],
            "accuracy": [0.9, 0.5, 0.7, 0.5, 0.1],
            "low": [0.6, 0.2, 0.5, 0.3, 0.0],
            "high": [1.0, 0.8, 0.9, 0.75, 0.4],
        }
    )
    assert index._accuracy(run(tmp_path, "a", tables={"cloze": table})) == {
        "story_cloze_en": 0.9, "story_cloze_zh": 0.5,
        "accuracy_story_cloze": 0.7, "accuracy_story_cloze_low": 0.5, "accuracy_story_cloze_high": 0.9,
        "accuracy_story_cloze_not_english": 0.5, "accuracy_story_cloze_not_english_low": 0.3,
        "accuracy_story_cloze_not_english_high": 0.75,
    }  # fmt: skip
    assert index._accuracy(run(tmp_path, "b")) == {}


def point(key: str) -> Point:
    return Point(key, "m", f"r{key}", 3, None, None, Work())


def test_a_row_has_the_headlines_with_their_intervals_and_each_language(tmp_path):
    summary = {
        "lrds": 0.5, "sads": 0.25, "neurons": 12, "sklr": None, "excess_sklr": 7.0,
        "intervals": {"lrds": [0.4, 0.6], "excess_sklr": (6.0, 9.0)},
        "region_size": {"en": 3}, "perplexity": {"base": {"en": 8.5}, "en": {"en": 99.0}},
    }  # fmt: skip
    made = run(tmp_path, "a", summary=summary, manifest={"model": {"parameters": 77, "weight_hash": "h"}})
    found = index._row(point("a"), made, SimpleNamespace(), None)
    told = {
        "label": "m@ra", "status": "done", "step": 3, "corpus": "", "parameters": 77, "weight_hash": "h", "error": None,
        "lrds": 0.5, "lrds_low": 0.4, "lrds_high": 0.6, "sads": 0.25, "sads_low": None, "sads_high": None,
        "neurons": 12, "excess_sklr": 7.0, "excess_sklr_low": 6.0, "excess_sklr_high": 9.0,
        "region_size_en": 3, "perplexity_en": 8.5,
    }  # fmt: skip
    assert {name: found[name] for name in told} == told
    assert not {"sklr", "language_share_low"} & set(found)


def test_a_row_without_a_run_says_what_is_wrong():
    none, failed = (SimpleNamespace(failure=lambda _, it=it: it) for it in (None, {"error": "broken"}))
    said = [index._row(point("a"), None, *rest) for rest in ((none, None), (failed, None), (failed, "torn"))]
    assert [(one["status"], one["error"]) for one in said] == [
        ("waiting", None), ("failed", "broken"), ("failed", "torn"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("interval", "bounds"), [([1, 2], (1, 2)), ((1, 2), (1, 2)), (None, (None, None)), ([1], (None, None)),
                             ([1, 2, 3], (None, None)), ("ab", (None, None))],
)  # fmt: skip
def test_only_two_numbers_are_an_interval(interval, bounds):
    assert index._bounds(interval) == bounds


@pytest.mark.parametrize("none", [{}, {"perplexity": None}, {"perplexity": {}}, {"perplexity": {"base": None}}])
def test_a_summary_without_perplexity_has_none(none):
    assert index._base_perplexity(none) == {}


def test_a_sweep_is_called_by_its_model_or_their_number():
    assert index._title([row("a"), row("b")]) == "m"
    assert index._title([row("a"), row("b", "n")]) == "2 models"
    assert index._title([]) == "0 models"


def test_the_manifest_counts_points_and_tells_the_corpus_of_the_first_run_of_regions(tmp_path):
    facts = {"corpus": {"languages": ["en"], "n": 4, "sentence_ids": ["1"]}, "seeds": [5]}
    runs = {
        "a": run(tmp_path, "a", kind="evaluation", manifest={"seeds": [1], "corpus": {"languages": ["de"]}}),
        "b": run(tmp_path, "b", manifest=facts),
        "c": run(tmp_path, "c", manifest={"seeds": [9]}),
    }
    plan = SimpleNamespace(data={}, name="p", languages=("fr",), corpora=("s",))
    rows = [row("a"), row("b", duplicate_of="ra"), row("c", "l"), row("d", status="failed")]
    found = index._manifest(plan, rows, runs)
    assert (found["languages"], found["seeds"]) == (["en"], [5])
    assert found["corpus"] == {"languages": ["en"], "n": 4, "specs": ["s"]}
    assert found["summary"] == {
        "points": 4, "points_done": 3, "points_failed": 1, "duplicates": 1, "models": ["l", "m"],
    }  # fmt: skip
    none = index._manifest(plan, [], {})
    assert (none["languages"], none["seeds"], none["summary"]["points"]) == (["fr"], [], 0)


def test_tables_of_several_points_are_numbered_through_with_the_point_in_front(tmp_path, monkeypatch):
    table = pd.DataFrame({"language": ["en", "zh"], "accuracy": [0.5, 0.6]}, index=[4, 4])
    monkeypatch.setattr(index, "beside_published", lambda one, name: pd.DataFrame({"ours": [one.source, name]}))
    runs = {key: run(tmp_path, key, tables={"cloze": table, "perplexity": table}) for key in "ab"}
    runs["c"] = run(tmp_path, "c")
    written: dict[str, pd.DataFrame] = {}
    rows = [row("a"), row("b"), row("c", step=1), row("d", status="failed")]
    index._tables(SimpleNamespace(table=written.__setitem__), rows, runs, SimpleNamespace(published="paper"))
    assert set(written) == {"accuracy", "perplexity", "published"}
    for name in ("accuracy", "perplexity"):
        assert written[name].index.tolist() == [0, 1, 2, 3]
        assert written[name].key.tolist() == ["a", "a", "b", "b"]
        assert written[name].columns.tolist() == [
            "label", "model", "revision", "step", "key", "language", "accuracy",
        ]  # fmt: skip
    assert written["published"].index.tolist() == [0, 1, 2, 3, 4, 5]
    assert written["published"].ours.tolist() == ["a", "paper", "b", "paper", "c", "paper"]
    none: dict[str, pd.DataFrame] = {}
    index._tables(SimpleNamespace(table=none.__setitem__), rows[2:], runs, SimpleNamespace(published=None))
    assert none == {}


def test_layers_of_points_stand_side_by_side_and_missing_ones_are_nan(tmp_path):
    curve = xr.DataArray([0.5, 0.25], dims="layer", coords={"layer": [0, 1]})
    shallow = xr.DataArray([[3]], dims=("language", "layer"), coords={"language": ["en"], "layer": [0]})
    deep = xr.DataArray([[1, 2]], dims=("language", "layer"), coords={"language": ["en"], "layer": [0, 1]})
    runs = {
        "a": run(tmp_path, "a", arrays={"region_size_layer": shallow}),
        "b": run(tmp_path, "b", arrays={"region_size_layer": deep, "lrds_layer": curve, "lrds_layer_low": curve - 1}),
        "c": run(tmp_path, "c"), "d": run(tmp_path, "d", arrays={"lrds_layer": curve}),
    }  # fmt: skip
    found = index._arrays(runs)
    assert found.point.values.tolist() == ["a", "b"]
    assert found.region_size_layer.sel(point="b", language="en").values.tolist() == [1, 2]
    first = found.region_size_layer.sel(point="a", language="en").values
    assert first[0] == 3
    assert math.isnan(first[1])
    assert found.lrds_layer_low.sel(point="b").values.tolist() == [-0.5, -0.75]
    assert index._arrays({"c": runs["c"], "d": runs["d"]}) is None


def test_ours_stand_beside_the_published_and_draws_are_averaged(tmp_path, monkeypatch):
    facts = SimpleNamespace(
        languages=["en"], base_perplexity={"en": 10.0}, region_size={"en": 100},
        increase_percent={"en": {"en": 50.0, "random": 2.0, "zh": 1.0}},
    )  # fmt: skip
    monkeypatch.setattr(import_module("babelscope.figures.published"), "published", lambda _: facts)
    table = pd.DataFrame(
        {
            "language": ["en"] * 4,
            "deactivated": ["base", "en", "random", "random"],
            "draw": [0, 0, 0, 1],
            "perplexity": [8.0, 16.0, 8.4, 8.8],
            "increase_percent": [0.0, 100.0, 5.0, 10.0],
        }
    )
    made = run(tmp_path, "a", tables={"perplexity": table}, summary={"region_size": {"en": 130}})
    found = beside_published(made, "paper").set_index(["item", "deactivated"])
    assert found.ours.dropna().to_dict() == {
        ("base_perplexity", "base"): 8.0, ("region_size", "en"): 130.0,
        ("increase_percent", "en"): 100.0, ("increase_percent", "random"): 7.5,
    }  # fmt: skip
    assert found.difference.dropna().tolist() == [-2.0, 30.0, 50.0, 5.5]
    assert math.isnan(found.ours["increase_percent", "zh"])


def test_models_are_compared_on_one_corpus_at_a_time(tmp_path):
    """On the second corpus `n` has no point: the last of `m` there is compared with nothing."""
    runs = {
        "a": run(tmp_path, "a", arrays=sizes({"en": [4, 0]})),
        "b": run(tmp_path, "b", arrays=sizes({"en": [0, 4]})),
        "c": run(tmp_path, "c", arrays=sizes({"en": [4, 0]})),
    }
    _, overlap = index._depth([row("a"), row("b", corpus="d"), row("c", "n")], runs)
    assert overlap[["from", "to", "corpus", "overlap"]].values.tolist() == [["m", "n", "c", 1.0]]
    _, overlap = index._depth([row("a"), row("b", corpus="d"), row("c", "n"), row("a", "n", corpus="d")], runs)
    assert overlap[["corpus", "overlap"]].values.tolist() == [["c", 1.0], ["d", 0.0]]
