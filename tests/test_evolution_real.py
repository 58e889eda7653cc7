"""A sweep of real tiny checkpoints, one planted twice and one broken; and the verbs of the command line on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from babelscope.cli import main
from babelscope.errors import NonFinite
from babelscope.evolution import plan_from, run_sweep
from babelscope.evolution.differences import compare_alignment, compare_map, compare_points, compare_regions
from babelscope.evolution.store import SweepStore
from babelscope.regions.masks import RegionSet, save_regions
from babelscope.results import open_run

from .sweep_helpers import LANGUAGES, FakeMeasure, copy_checkpoint, save_tiny


@pytest.fixture(scope="module")
def real_sweep(tmp_path_factory):
    """Three real tiny checkpoints and a fourth with a NaN: step2 holds the weights of step1."""
    root = tmp_path_factory.mktemp("real")
    save_tiny(root / "models" / "step1", seed=1)
    copy_checkpoint(root / "models" / "step1", root / "models" / "step2")
    save_tiny(root / "models" / "step4", seed=4)
    save_tiny(root / "models" / "step8", seed=8, spoil=True)
    plan = plan_from(
        {
            "models": [{"id": str(root / "models"), "revisions": "all"}],
            "corpora": ["pocket:heldout?n=20"],
            "languages": LANGUAGES,
            "measures": {
                "regions": {"samples": 6, "threshold": 1.0, "bootstrap": 20},
                "story_cloze": {"stories": "pocket:?n=4"},
            },
        }
    )
    return plan, run_sweep(plan, root / "out")


def test_a_planted_duplicate_and_a_broken_checkpoint_are_flagged(real_sweep):
    _, run = real_sweep
    table = run.table("points").set_index("revision")
    assert table.status.to_dict() == {"step1": "done", "step2": "done", "step4": "done", "step8": "failed"}
    assert table.duplicate_of["step2"] == "step1"
    assert table.duplicate_of[["step1", "step4"]].isna().all()
    assert table.lrds["step1"] == table.lrds["step2"]
    assert "NaN" in table.error["step8"]
    failure = json.loads((run.path / "failed" / f"{table.key['step8']}.json").read_text())
    assert failure["kind"] == NonFinite.__name__
    assert np.isnan(table.lrds["step8"])


def test_a_real_sweep_has_what_the_figures_draw(real_sweep):
    from babelscope.figures import draw, figure_names
    from babelscope.figures.sweep import checkpoints, measures

    _, run = real_sweep
    points = checkpoints(run)
    assert [point.row.revision for point in points] == ["step1", "step2", "step4"]
    accuracies = [name for name in measures(points) if "accuracy" in name]
    assert accuracies[0] == "accuracy_story_cloze"
    assert not [name for name in accuracies if name.endswith(("_low", "_high"))]
    assert all(point.interval("lrds")[0] <= point.values["lrds"] for point in points)
    assert run.table("flow")["from"].unique().tolist() == ["step1"]
    assert run.table("flow").to.unique().tolist() == ["step4"]
    for name in ("training_curves", "layers_over_training", "sizes_over_training", "neuron_flow"):
        assert name in figure_names(run)
        draw(run, name)


def test_a_finished_real_sweep_computes_nothing_again(real_sweep, tmp_path):
    plan, run = real_sweep
    log, store = tmp_path / "log", shutil.copytree(run.path, tmp_path / "copy")
    again = run_sweep(plan, store, compute=FakeMeasure(log=log))
    assert len(log.read_text().splitlines()) == 1  # the broken one is tried again
    again.validate()


@pytest.mark.nightly  # ten kills of a small sweep are tried by day
def test_a_real_sweep_that_is_killed_twice_ends_the_same(real_sweep, tmp_path):
    plan, run = real_sweep
    for blow in (0.4, 1.5):
        child = os.fork()
        if not child:
            run_sweep(plan, tmp_path / "out")
            os._exit(0)
        time.sleep(blow)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    again = run_sweep(plan, tmp_path / "out")
    again.validate()
    for key in run.table("points").query("status == 'done'").key:
        one, two = (open_run(place / key).arrays().load() for place in (run.path, tmp_path / "out"))
        assert one.identical(two)


def test_a_point_is_a_run_that_can_be_opened_alone(real_sweep):
    _, run = real_sweep
    point = SweepStore(run.path).open(run.table("points").key[0])
    point.validate()
    assert point.kind == "regions"
    assert set(point.table("cloze").language) == {*LANGUAGES, "mean", "others"}
    assert point.manifest["point"]["revision"] == "step1"


def test_comparing_a_run_with_itself_finds_nothing(real_sweep):
    _, run = real_sweep
    point = SweepStore(run.path).open(run.table("points").key[0])
    regions = compare_regions(point, point)
    assert (regions.jaccard[regions["first"] > 0] == 1).all()
    assert regions.depth_overlap[regions["first"] > 0].tolist() == pytest.approx(
        [1.0] * int((regions["first"] > 0).sum())
    )
    assert (compare_alignment(point, point).difference == 0).all()
    assert compare_map(point, point)["largest_difference"] == 0


def test_sweeps_are_compared_point_by_point(real_sweep):
    _, run = real_sweep
    points = compare_points(run, run)
    assert set(points.measure) >= {"lrds", "sads", "sklr"}
    assert (points.difference.dropna() == 0).all()
    assert compare_regions(run, run).empty
    point = SweepStore(run.path).open(run.table("points").key[0])
    assert compare_points(run, point).empty


def verb(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out, shown.err


def test_compare_puts_two_points_side_by_side(real_sweep, capsys, tmp_path):
    _, run = real_sweep
    keys = run.table("points").key
    code, out, _ = verb(capsys, "compare", run.path / keys[0], run.path / keys[2], "--out", tmp_path / "tables")
    assert code == 0
    for word in ("model.weight_hash", "jaccard", "lrds_layer", "map: Pearson"):
        assert word in out
    assert (tmp_path / "tables" / "regions.csv").is_file()
    assert verb(capsys, "compare", run.path / keys[0], run.path / keys[2], "--out", tmp_path / "tables")[0] == 2


def test_evaluate_with_and_without_a_region(real_sweep, capsys, tmp_path, monkeypatch):
    plan, run = real_sweep
    key, model = run.table("points").key[0], f"{plan.models[0].id}/step1"
    arguments = ["evaluate", model, "--stories", "pocket:?n=3", "--languages", "en,fr", "--device", "cpu"]
    code, out, _ = verb(capsys, *arguments, "--deactivate", f"{run.path / key}:fr", "--out", tmp_path / "run")
    assert code == 0
    assert "others" in out
    table = open_run(tmp_path / "run").table("cloze")
    assert set(table.condition) == {"base", "fr"}
    regions = "runs-of-six.safetensors"
    save_regions(RegionSet({"fr": torch.ones(6, 8, dtype=torch.bool)}, "hand"), tmp_path / regions)
    with monkeypatch.context() as patch:  # of another depth: refused before the weights are read
        patch.setattr("babelscope.cli.options.load", lambda *_: pytest.fail("the model was loaded"))
        code, _, error = verb(capsys, *arguments, "--deactivate", f"{tmp_path / regions}:fr")
    assert code == 2
    assert "the region of fr is one of 6 layers" in error
    for wrong, says in (("fr", "write REGIONFILE:LANGUAGE"), (f"{run.path / key}:xx", "no region for 'xx'")):
        code, _, error = verb(capsys, *arguments, "--deactivate", wrong)
        assert code == 2
        assert says in error


def test_sweep_on_the_command_line(real_sweep, capsys, tmp_path):
    plan, _ = real_sweep
    flags = [
        "--model",
        plan.models[0].id,
        "--revisions",
        "step1,step8",
        "--stories",
        "pocket:?n=2",
        "--languages",
        "fr",
    ]
    code, out, error = verb(capsys, "sweep", *flags, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 1
    assert "1 failed" in error
    code, out, _ = verb(capsys, "sweep", "status", tmp_path / "out")
    assert "1 done, 1 failed" in out
    code, out, _ = verb(capsys, "sweep", "list")
    assert "paper-table-1" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pocket-scales"], "--out DIR"),
        (["--out", "x"], "name a plan file or preset"),
        (["status"], "DIRECTORY is missing"),
        (["pocket-scales", "x", "--out", "y"], "nothing takes 'x'"),
        (["pocket-scales", "--out", "y", "--engine", "dask"], 'Choose from: "local", "ray"'),
        (["pocket-scales", "--out", "y", "--keep-weights", "some"], 'Choose from: "none", "last", "all"'),
        (["--revisions", "a", "--out", "y"], "exactly one --model"),
        (["--model", "a", "--out", "y"], "the key measures is missing"),
    ],
)
def test_what_cannot_be_swept_is_said_in_one_line(capsys, arguments, says):
    code, _, error = verb(capsys, "sweep", *arguments)
    assert code == 2
    assert says in error
    assert error.count("\n") == 1
