"""The study from end to end: what a run holds, that it comes back, and what the command line refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope import load_model
from babelscope.cli import main
from babelscope.errors import InputError, RunError, UnattainableThreshold
from babelscope.regions import load_regions
from babelscope.results import open_run
from babelscope.steering.files import SavedEdit, save_edit
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.regions import study_regions

from .region_data import corpus, model, texts

METHODS = ("lape", "average-precision", "eta-squared", "mean-difference", "random", "random-layer")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = RegionsSettings(
        "memory",
        samples=10,
        threshold=1.9,
        texts="memory",
        window=16,
        text_tokens=64,
        controls=1,
        bootstrap=20,
        permutations=20,
        methods=METHODS,
        alignment=True,
        alignment_neurons=(0.05,),
        doses=(0.05,),
        kinds=("zero", "mean-others"),
        generate=2,
        generate_tokens=3,
        prompt_tokens=3,
        method="z-score",
    )
    out = tmp_path_factory.mktemp("runs") / "all"
    given = corpus(6, 10)
    return study_regions(model("bloom"), settings, out, corpus=given, texts=texts(6))


def test_a_run_is_whole_and_comes_back(run):
    again = open_run(run.path)
    again.validate()
    assert again.summary == run.summary
    assert again.kind == "regions"
    assert again.manifest["seeds"]["sample"] == 0
    assert again.manifest["model"]["weight_hash"] == model("bloom").weight_hash


def test_a_run_holds_what_the_contract_says(run):
    arrays, layers = run.arrays(), 3
    assert arrays.score.dims == arrays.z.dims == ("language", "layer", "neuron")
    assert arrays.similarity.shape == (60, 60)
    assert arrays.item_sentence.values[:10].tolist() == [str(place) for place in arrays.item_sentence.values[:10]]
    for name in ("lrds_layer", "sads_layer", "same_language_layer", "same_sentence_layer", "neither_layer"):
        assert arrays[name].shape == (layers,)
        assert (arrays[f"{name}_low"] <= arrays[f"{name}_high"]).all()
    for name in ("lrds_pair", "sads_pair", "similarity_pair"):
        assert arrays[name].shape == (6, 6)
    wanted = {
        "agreement", "alignment", "alignment_means", "alignment_neurons", "calibration", "dose", "generation_shares",
        "generations", "headlines", "methods", "perplexity", "region_size", "selectivity", "sentences", "stability",
    }  # fmt: skip
    assert set(run.tables) == wanted
    assert all("n" in run.table(name) for name in ("alignment", "calibration", "stability", "methods"))


def test_scores_add_up_and_regions_are_those_of_the_scores(run):
    arrays, summary = run.arrays(), run.summary
    assert float(arrays.score.sum()) / 6 == pytest.approx(summary["same_language"], rel=1e-4)
    members = (arrays.z > 1.9).sum(("layer", "neuron"))
    stored = load_regions(run.file("regions/z-score.safetensors"))
    assert dict(zip(arrays.language.values.tolist(), members.values.tolist())) == stored.sizes
    assert summary["sklr"] == stored.total
    stored = load_regions(run.file("regions/contrast.safetensors"))
    assert stored.sizes == summary["methods"]["contrast"]
    sizes = run.table("region_size")
    assert set(sizes.method) == {"contrast", "z-score"}
    assert stored.facts["weight_hash"] == model("bloom").weight_hash
    drawn = load_regions(run.file("regions/z-score.safetensors"))
    assert arrays.region_size_layer.values.tolist() == list(drawn.by_layer().values())


def test_the_calibration_is_observed_minus_expected(run):
    table, null, summary = run.table("calibration"), run.arrays("null"), run.summary
    assert np.allclose(table.excess, table.observed - table.expected_null)
    assert null.sklr_null.shape == null.lrds_null.shape == null.sads_null.shape == (20,)
    assert null.p.shape == (6, 3, model("bloom").neurons_per_layer)
    assert summary["excess_sklr"] == pytest.approx(summary["sklr"] - float(null.sklr_null.mean()))
    low, high = summary["intervals"]["excess_sklr"]
    assert low < summary["excess_sklr"] < high
    assert (table.null_low <= table.expected_null).all()
    assert summary["excess_sklr_rarefied"] is None
    assert summary["why"]["excess_sklr_rarefied"] == "needs 25 sentences; there are 10"
    # random sentences mean nothing, and have languages only by their letters
    assert summary["sads_null_ends"][0] - 0.05 < summary["sads"] < summary["sads_null_ends"][1] + 0.05


def test_every_method_left_a_file_and_rows(run):
    for name in (*METHODS, "contrast", "z-score", "fdr", "fdr-effect"):
        assert load_regions(run.file(f"regions/{name}.safetensors")).method == name
    assert set(run.table("methods").method) == {*METHODS, "contrast", "z-score", "fdr", "fdr-effect"}
    assert len(run.table("agreement")) == 6 * 10 * 9 // 2
    table = run.table("methods")
    assert (table.raised <= table["size"]).all()
    # by definition a neuron is raised where it tells a language best, or has its highest mean
    assert (table[table.method == "eta-squared"].raised == table[table.method == "eta-squared"]["size"]).all()
    assert run.summary["methods"]["random"] == run.summary["region_size"]


def test_alignment_has_controls_and_confounds(run):
    table = run.table("alignment")
    assert {"mexa", "cka", "anc", "sads-length-matched", "sads-overlap-matched"} <= set(table.metric)
    beside = table[table.layer.isna()]
    assert set(beside.metric) == {"token-overlap", "same-script"}
    assert set(run.summary["matched_negatives"]) == {"length-matched", "overlap-matched"}
    means = run.table("alignment_means").set_index(["metric", "layer"])
    pairs = table[(table.metric == "anc") & (table.layer == 1)].value
    assert means.loc[("anc", 1), "value"] == pytest.approx(pairs.mean())
    assert means.loc[("anc", 1), "low"] < pairs.mean() < means.loc[("anc", 1), "high"]
    assert (means.loc["mexa-at-25"].why == "fewer than 25 sentences").all()
    assert means.loc["mexa-at-25"].value.isna().all()


def test_writing_is_tabled(run):
    rows = run.table("generations")
    assert {"base", "en", "zh", "random-layer"} <= set(rows.deactivated)
    assert len(rows[rows.deactivated == "base"]) == 2 * 6


def test_alignment_on_the_residual_stands_beside_that_on_neurons(tmp_path):
    loaded, given = model("bloom"), corpus(3, 12)
    settings = RegionsSettings("memory", samples=12, bootstrap=20, alignment_sites=("residual",))
    table = study_regions(loaded, settings, tmp_path / "run", corpus=given).table("alignment_residual")
    assert set(table.pooling) == {"mean", "last", "weighted"}
    assert set(table[table.metric == "sads"].layer) == set(range(loaded.layers + 1))
    begun = study_regions(loaded, replace(settings, special="bos"), tmp_path / "bos", corpus=given)
    assert not np.allclose(begun.table("alignment_residual").value, table.value)  # read as the neurons are
    with pytest.raises(InputError, match="neurons are always measured"):
        RegionsSettings("memory", alignment_sites=("head",))
    with pytest.raises(InputError, match="no mixture of experts"):
        asked = RegionsSettings("memory", samples=12, bootstrap=20, alignment_sites=("router",))
        study_regions(loaded, asked, tmp_path / "router", corpus=given)


def test_alignment_on_routers_of_a_mixture(tmp_path):
    settings = RegionsSettings(
        "pocket:heldout", samples=20, bootstrap=20, languages=("en", "fr", "zh"), alignment_sites=("router",)
    )
    found = study_regions(load_model("pocket:pocket-moe"), settings, tmp_path / "run")
    table = found.table("alignment_router")
    assert set(table.metric) == {"lrds", "sads", "mexa", "cka", "anc"}
    assert len(table[table.metric == "mexa"]) == 6 * 3
    sads = table[table.metric == "sads"]
    assert sads.value.mean() > sads.shuffled.mean()


def test_text_is_read_under_saved_edits_beside_random_ones_of_their_size(tmp_path):
    loaded = model("bloom")
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    mask[1, :6] = True
    save_edit(SavedEdit(mask=mask, values=3 * mask.float()), tmp_path / "to-zh.safetensors")
    settings = RegionsSettings(
        "memory", samples=10, bootstrap=20, texts="memory", window=6, controls=2, methods=("relevance",),
        edits=(str(tmp_path / "to-zh.safetensors"),),
    )  # fmt: skip
    found = study_regions(loaded, settings, tmp_path / "run", corpus=corpus(6, 10), texts=texts(6))
    table = found.table("edited_text")
    assert set(table.condition) == {"edit", "random"}
    assert len(table) == 3 * 6
    assert (table.delta_nll != 0).all()
    agreement = found.table("methods")
    sizes = agreement[agreement.method == "relevance"]["size"]
    assert len(set(sizes)) == 1
    for wrong in ({"edits": ("x",)}, {"methods": ("relevance",)}):
        with pytest.raises(InputError, match="needs --texts"):
            RegionsSettings("memory", **wrong)


def test_the_same_settings_give_the_same_numbers(run, tmp_path):
    settings = RegionsSettings("memory", samples=10, threshold=1.9, bootstrap=20)
    one = study_regions(model("bloom"), settings, tmp_path / "a", corpus=corpus(6, 10))
    two = study_regions(model("bloom"), settings, tmp_path / "b", corpus=corpus(6, 10))
    assert one.key == two.key != run.key
    assert one.summary == two.summary
    assert one.summary["lrds"] == run.summary["lrds"]
    assert one.summary["methods"]["contrast"] == one.summary["region_size"]
    with pytest.raises(RunError, match="exists; give --overwrite"):
        study_regions(model("bloom"), settings, tmp_path / "a", corpus=corpus(6, 10))


def test_z_needs_six_languages_and_contrast_two(tmp_path):
    given = corpus(5, 6)
    with pytest.raises(UnattainableThreshold):
        study_regions(
            model("bloom"), RegionsSettings("memory", samples=4, method="z-score"), tmp_path / "a", corpus=given
        )
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="name two or more"):
        study_regions(
            model("bloom"), RegionsSettings("memory", samples=4), tmp_path / "a", corpus=given.restrict(["en"])
        )
    for languages in (2, 5):
        settings = RegionsSettings("memory", samples=6, permutations=3)
        few = study_regions(model("bloom"), settings, tmp_path / str(languages), corpus=corpus(languages, 6))
        reason = {2: "z is ±1 for every neuron with two languages", 5: "z > 2 needs six languages"}[languages]
        assert few.summary["sklr"] is None
        assert few.summary["why"]["sklr"] == few.summary["why"]["excess_sklr"] == reason
        assert few.arrays().z.isnull().all()
        assert few.table("calibration").excess.isnull().all()
        assert not (few.path / "regions" / "z-score.safetensors").exists()


def test_regions_of_a_run_have_the_scores_of_their_sign(tmp_path):
    settings = RegionsSettings("memory", samples=6, sign="lowered", threshold=1.2)
    low = study_regions(model("bloom"), settings, tmp_path / "low", corpus=corpus(3, 6))
    found, d = load_regions(low.path), low.arrays().d
    for code in found.languages:
        assert np.array_equal(found.scores[code].numpy(), -d.sel(language=code).values, equal_nan=True)


def test_reasons_of_the_calibration_stand_beside_those_of_the_scores(tmp_path, monkeypatch):
    settings = RegionsSettings("memory", samples=6, threshold=1.9, bootstrap=10, permutations=3)
    given = corpus(3, 6)
    one = study_regions(model("bloom"), settings, tmp_path / "whole", corpus=given).summary["why"]
    monkeypatch.setattr("babelscope.studies.calibration.MAP_ITEMS", 1)
    two = study_regions(model("bloom"), settings, tmp_path / "large", corpus=given).summary["why"]
    assert "sklr" in one
    assert two == one | {"p_lrds": "more than 1 items: the (nL)² map is not made"}


def test_the_papers_numbers_keep_their_names(tmp_path):
    settings = RegionsSettings("memory", samples=10, threshold=1.9, paper=True)
    run = study_regions(model("bloom"), settings, tmp_path / "a", corpus=corpus(6, 10))
    assert (run.summary["norm"], run.summary["method"], run.summary["too_short"]) == ("paper", "z-score", 0)
    assert run.summary["sklr"] == sum(run.summary["region_size"].values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, "at least two sentences"),
        ({"controls": -1}, "counted from 0"),
        ({"permutations": -1}, "counted from 0"),
        ({"fdr": 1.5}, "between 0 and 1"),
        ({"bootstrap": 0}, "at least one draw"),
        ({"methods": ("magic",)}, "magic: there are contrast, z-score"),
        ({"doses": (0.1,)}, "needs --texts"),
        ({"alignment_neurons": (2.0,)}, "above 0 and are at most 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        RegionsSettings("memory", **changes)


def run_cli(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(part) for part in arguments])
    return stopped.value.code


def test_region_files_are_shown_compared_and_exchanged(run, tmp_path, capsys):
    assert run_cli("regions", "show", run.path) in (0, None)
    assert "z-score, 6 languages" in capsys.readouterr().out
    assert run_cli("regions", "compare", run.path, run.path / "regions" / "lape.safetensors") in (0, None)
    assert "Jaccard" in capsys.readouterr().out
    assert run_cli("regions", "export", run.path, "--out", tmp_path / "r.json") in (0, None)
    assert run_cli("regions", "import", tmp_path / "r.json", "--out", tmp_path / "r.safetensors") in (0, None)
    assert load_regions(tmp_path / "r.safetensors").sizes == run.summary["region_size"]
    capsys.readouterr()
    assert run_cli("regions", "export", run.path, "--out", tmp_path / "r.json") == 2
    assert "exists; give --overwrite" in capsys.readouterr().err
    torch.save([[torch.tensor([1])]], tmp_path / "masks")
    given = ("--languages", "en", "--layers", 1, "--neurons", 4)
    assert run_cli("regions", "import", tmp_path / "masks", "--out", tmp_path / "m.safetensors") == 2
    assert "--languages, --layers and --neurons" in capsys.readouterr().err
    assert run_cli("regions", "import", tmp_path / "masks", *given, "--out", tmp_path / "m.safetensors") in (0, None)
    assert load_regions(tmp_path / "m.safetensors").total == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kinds", "zero,half"), "--kinds: half is none of zero, mean"),
        (("--doses", "much"), "--doses: much is not a number"),
        (("--special", "eos"), 'Choose from: "auto", "none", "bos", "bos-excluded", "own"'),
        (("--methods", "magic"), "--methods magic"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(arguments, message, tmp_path, capsys):
    assert run_cli("regions", "nowhere", "--corpus", "lines:x", "--out", tmp_path / "o", *arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
