"""The whole study on a built-in model: one command, a valid run directory, a page, and clear lines for bad input."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from babelscope.circuits.core.nodes import Head
from babelscope.errors import InputError, NoPromptSurvives, RunError, TaskError
from babelscope.figures.facts import own_rows
from babelscope.models import load_model
from babelscope.report import build_page
from babelscope.results import open_run
from babelscope.results.schemas.circuits import ExampleToken
from babelscope.studies import circuit_measures
from babelscope.studies.circuit_edges import control_prompts
from babelscope.studies.circuits import CircuitsSettings, preset, study_circuits
from babelscope.tasks import PromptPair
from tests.command import command

QUICK = dict(n=8, draws=2, repeats=(10,), windows=(1, 3), permutations=50)


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket:pocket-gpt2-en")


@pytest.fixture(scope="module")
def ioi(pocket, tmp_path_factory):
    settings = CircuitsSettings(languages=("en",), **{**QUICK, "n": 20})
    return study_circuits(pocket, settings, tmp_path_factory.mktemp("study") / "ioi")


def test_a_study_leaves_a_valid_run_and_nothing_beside_it(ioi):
    assert ioi.manifest["kind"] == "circuits"
    assert [path.name for path in ioi.path.parent.iterdir() if "lock" not in path.name] == ["ioi"]
    ioi.validate()
    assert {"behaviour", "census", "role_scores", "ablation", "faithfulness"} <= set(ioi.tables)
    assert {"agreement", "edge_curve", "cross_edges"} <= set(ioi.tables)
    assert ioi.arrays().head_frequency.dims == ("language", "layer", "head")
    assert ioi.file("circuits/en.safetensors").is_file()


def test_arrays_are_labelled_and_agree_with_the_summary(ioi):
    arrays = ioi.arrays()
    assert arrays.activation_patching.dims == ("language", "layer", "head")
    assert arrays.attention_role.dims == ("language", "role", "role2", "layer", "head")
    step = arrays.step_name_movers.sel(language="en").values
    assert np.allclose(step, arrays.path_logits.sel(language="en").values, atol=1e-5)
    assert (arrays.path_logits_low <= arrays.path_logits_high).all()
    assert ioi.summary["accuracy"]["en"] == pytest.approx(ioi.table("behaviour").accuracy.iloc[0])


def test_every_role_carries_its_number(ioi):
    if "roles" not in ioi.tables:
        pytest.skip("with so few prompts the search found no head")
    roles = ioi.table("roles")
    assert roles.effect.notna().all()
    assert roles.score.notna().all()
    assert all(
        [row["layer"], row["head"]] in ioi.summary["heads"]["en"]
        for _, row in roles.iterrows()
        if row["role"] != "also acts after knock-out"
    )
    assert roles.role.str.startswith("candidate").equals(roles.why != "")


def test_ablation_says_what_was_removed_and_by_how_much(ioi):
    table = ioi.table("ablation")
    assert set(table.columns) >= {"set", "language", "accuracy", "delta", "low", "high", "draw", "ld_delta"}
    assert {f"ffn {layer}" for layer in range(4)} <= set(table["set"])
    assert (table.low <= table.accuracy).all()
    assert set(ioi.table("ffn_windows")["set"].str[:15]) == {"ffn window of 3"}


def test_the_circuit_of_all_heads_is_faithful(ioi):
    curve = ioi.table("faithfulness").query("order == 'ranking'").set_index("heads").faithfulness
    assert curve[0] == pytest.approx(0)
    assert curve[curve.index.max()] == pytest.approx(1)


def test_two_languages_are_compared_stratum_by_stratum(tmp_path):
    model = load_model("pocket:pocket-bloom-m@step256")
    settings = CircuitsSettings(task="past-tense", edges=False, **QUICK)
    run = study_circuits(model, settings, tmp_path / "tense")
    behaved = run.table("behaviour")
    assert set(behaved.language) == {"en", "zh"}
    assert {"copy", "aspect"} <= set(behaved.stratum)
    assert run.summary["patched_stratum"]["zh"] == "copy"
    assert set(run.table("overlap").measure) == {
        f"{how} of {what}" for how in ("pearson", "spearman") for what in ("path_logits", "activation_patching")
    }
    assert set(run.table("selectivity").columns) >= {"set", "selectivity", "low", "high", "stratum", "stratum2"}
    assert run.arrays().lens_after.dims == ("language", "layer")


def test_the_command_line_does_the_same_and_writes_a_page(tmp_path):
    out = str(tmp_path / "run")
    arguments = ["circuits", "pocket:pocket-gpt2-en", "--languages", "en", "--n", "6", "--draws", "1"]
    arguments += ["--no-edges", "--out", out]
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert open_run(out).manifest["task"] == "ioi"
    page = command("report", out)
    assert page.exit_code == 0, page.output


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (dict(rule="luck"), "--rule luck: there are"),
        (dict(windows=(2,)), "odd"),
        (dict(ablation="optimal"), "--ablation optimal: there are"),
        (dict(languages=()), "no language is named"),
        (dict(mlps="gone"), "--mlps gone: there are"),
        (dict(edge_share=0.0), "share of the edges"),
    ],
)
def test_bad_settings_are_one_clear_line(settings, line):
    with pytest.raises(InputError, match=line):
        CircuitsSettings(**settings)


def test_bad_input_stops_before_anything_is_measured(pocket, ioi, tmp_path):
    with pytest.raises(RunError, match="overwrite"):
        study_circuits(pocket, CircuitsSettings(languages=("en",), **QUICK), ioi.path)
    with pytest.raises(NoPromptSurvives, match="zh"):
        study_circuits(pocket, CircuitsSettings(languages=("zh",), **QUICK), tmp_path / "zh")
    with pytest.raises(TaskError, match="no stratum 'x'"):
        study_circuits(
            pocket,
            CircuitsSettings(task="past-tense", languages=("en",), stratum={"en": "x"}, **QUICK),
            tmp_path / "x",
        )
    with pytest.raises(InputError, match="no preset 'mine'; there are ioi-bloom"):
        preset("mine")
    assert preset("tense-qwen").model == "Qwen/Qwen2-0.5B-Instruct"
    assert not list(tmp_path.iterdir())


def test_lengths_that_do_not_fit_are_refused(pocket, tmp_path):
    settings = CircuitsSettings(languages=("en",), **{**QUICK, "repeats": (10, 100_000)})
    with pytest.raises(InputError, match="--repeats 100000: twice that does not fit"):
        study_circuits(pocket, settings, tmp_path / "long")
    assert not list(tmp_path.iterdir())


def test_the_second_model_is_studied_in_full_and_stands_in_the_same_tables(pocket, tmp_path):
    other = load_model("pocket:pocket-gpt2-zh")
    settings = CircuitsSettings(
        languages=("en",), against_language="zh", edges=False, **{**QUICK, "n": 6, "draws": 1, "windows": (1,)}
    )
    run = study_circuits(pocket, settings, tmp_path / "pair", against=other)
    cells = {(pocket.id, "en"), (other.id, "zh")}
    for name in ("behaviour", "role_scores", "ablation", "census"):
        table = run.table(name)
        assert set(zip(table["model"], table.language)) == cells, name
    assert {"copy", "negative copy", "own-word logit"} <= set(run.table("role_scores"))
    matched = run.table("matching")
    assert set(matched["null"]) == {"shuffle"}
    assert matched.matching_p.nunique() == 1
    assert matched.p.nunique() > 1
    assert matched.p.min() >= 1 / 201 - 1e-12
    assert run.summary["against"]["model"] == other.id
    assert run.file("circuits/zh.json").is_file()
    # figures beside the arrays, which are the first model's, hold its rows alone
    assert [row.language for row in own_rows(run, ExampleToken)] == ["en"] * len(own_rows(run, ExampleToken)) != []
    assert "could not be made" not in build_page([run.path], static=False)


def test_two_models_of_one_name_stand_apart():
    def called(revision: str | None, name: str = "m") -> SimpleNamespace:
        return SimpleNamespace(id=name, revision=revision)

    name = circuit_measures.name_beside
    assert name(called("step1"), called("step1", "other")) == "other"
    assert name(called("step1"), called("step2")) == name(called(None), called("step2")) == "m@step2"
    assert name(called("step1"), called(None)) == name(called(None), called(None)) == "m (against)"


@pytest.mark.parametrize(
    ("name", "asked"),
    [("bloom-m", {"heldout": True}), ("bloom-m", {"heldout": False}), ("gpt2-en", {"split": "relaxed"})],
)
def test_every_part_of_a_study_has_the_prompts_that_were_asked_for(name, monkeypatch, asked):
    """Those of messages, of counterfactuals and of the control task too."""
    pocket = load_model(f"pocket:pocket-{name}")
    settings = CircuitsSettings(languages=("zh",), n=4, **asked)
    seen: list[PromptPair] = []
    monkeypatch.setattr(circuit_measures, "path_patching", lambda _model, pairs, *_, **_asked: seen.extend(pairs))
    movers = {"name_movers": SimpleNamespace(supporting=(Head(1, 0),))}
    circuit_measures.decomposed(pocket, settings, movers, "zh", "recomputed")
    assert len(seen) == 8  # tokens alone, and positions alone
    seen += circuit_measures.pool_of(pocket, settings, "zh")
    seen += control_prompts(pocket, "ioi", ["zh"], circuit_measures.options_of(settings))["zh"]
    assert {getattr(pair, name) for pair in seen for name in asked} == {*asked.values()}
