"""Latent language on mixtures and hybrids, and as a measure of a sweep: on workers, and going on where it was."""

from __future__ import annotations

import numpy as np
import pytest

from babelscope import load_model
from babelscope.errors import PlanError
from babelscope.evolution import RayOptions, SweepOptions, plan_from, run_sweep
from babelscope.evolution.points import plan_points
from babelscope.models import Model
from babelscope.results import open_run
from babelscope.studies.latent import study_latent
from babelscope.studies.latent_settings import LatentSettings

from .sweep_helpers import folder_of_checkpoints
from .tiny_mixtures import mixture_weights
from .tiny_models import tiny_model

QUICK = {
    "words": "pocket", "languages": ["en", "fr", "zh"], "n": 16, "draws": 100, "permutations": 19, "matched": 5,
    "demonstrations": 2, "trials": 4, "parts": ["lens", "patch"],
}  # fmt: skip
TABLES = ("curves", "verdicts", "entropy", "patch")


def settings() -> LatentSettings:
    return LatentSettings(**QUICK)


def pocket_words():
    return load_model("pocket:pocket-bloom-s").tokenizer


def tiny(family: str, seed: int = 0) -> Model:
    """A random model of a family with the pocket family's words."""
    tokenizer = pocket_words()
    made = mixture_weights if family == "mixtral" else tiny_model
    return Model(made(family, seed=seed, vocab_size=len(tokenizer)), tokenizer, id=f"tiny-{family}")


@pytest.mark.parametrize("family", ["jamba", "lfm2", "mixtral"])
def test_hybrids_and_mixtures_are_read_like_any_other_model(family, tmp_path):
    model = tiny(family)
    run = study_latent(model, settings(), tmp_path / "run")
    curves = run.table("curves")
    assert set(curves.layer) == set(range(model.layers + 1))
    assert np.isfinite(curves[curves.scope == "all"].mass).all()
    assert run.summary["sentences"][0].startswith(f"Translating French to Chinese, tiny-{family} solves 0 of")
    assert "cannot be decided" in run.summary["sentences"][0]


def test_a_trained_mixture_is_asked_by_sentences(tmp_path):
    model = load_model("pocket:pocket-moe")
    asked = LatentSettings(
        words="pocket", task="sentence", parallel="pocket:heldout?n=60", languages=("en", "fr", "zh"), n=40, draws=100,
        permutations=19, matched=5,
    )  # fmt: skip
    run = study_latent(model, asked, tmp_path / "run")
    verdicts = run.table("verdicts")
    assert set(verdicts.language) == {"en", "fr"}
    assert run.table("curves").mass.between(0, 1).all()


def plan(folder, **latent):
    measures = {"latent": {**QUICK, "from": ["fr"], "to": ["zh"], **latent}}
    return plan_from({"models": [{"id": str(folder), "revisions": "all"}], "measures": measures})


def test_the_key_of_a_point_follows_words_and_settings(tmp_path):
    folder = folder_of_checkpoints(tmp_path / "models", [1])
    keys = [
        plan_points(plan(folder, **changes))[0].key for changes in ({}, {"n": 7}, {"to": ["en"]}, {"words": "concepts"})
    ]
    assert len(set(keys)) == 4
    with pytest.raises(PlanError, match=r"latent\.tuned: unknown key"):
        plan(folder, tuned="lens.safetensors")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("latent") / "models"
    for seed in (1, 2):
        one = tiny("bloom", seed)
        one.hf.save_pretrained(root / f"step{seed}")
        one.tokenizer.save_pretrained(root / f"step{seed}")
    return root


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_two_workers_find_what_one_process_finds_and_nothing_is_computed_twice(checkpoints, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    one = run_sweep(plan(checkpoints), tmp_path / "one")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        two = run_sweep(plan(checkpoints), tmp_path / "two", SweepOptions(engine="ray", ray=RayOptions(cpus=1)))
    finally:
        ray.shutdown()
    points = one.table("points")
    assert points.status.tolist() == two.table("points").status.tolist() == ["done"] * 2
    for key in points.key:
        mine, theirs = (open_run(run.path / key / "latent") for run in (one, two))
        assert mine.summary["sentences"] == theirs.summary["sentences"]
        for name in TABLES:
            assert mine.table(name).equals(theirs.table(name)), name
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.joinpath("one").glob("*/latent/run.json")}
    assert len(stamps) == 2
    run_sweep(plan(checkpoints), tmp_path / "one")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
