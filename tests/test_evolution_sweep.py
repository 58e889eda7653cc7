"""Sweeps: killed and resumed, failing points, duplicates, budgets for weights, object stores, Ray, a real one."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from babelscope.errors import BabelscopeError, InputError, RunError
from babelscope.evolution import RayOptions, SweepOptions, plan_from, run_sweep, status
from babelscope.evolution import points as points_module
from babelscope.evolution.attempt import Listener
from babelscope.evolution.live import LiveTable
from babelscope.evolution.store import SweepStore
from babelscope.evolution.types import Source
from babelscope.results import open_run

from .sweep_helpers import (
    FakeMeasure,
    cloze_plan,
    folder_of_checkpoints,
    note,
    write_fake_run,
)


def arrays_of(store: str) -> dict[str, np.ndarray]:
    """Every array of every finished point, and of the sweep itself."""
    run = open_run(store)
    found = {"sweep": run.arrays().region_size_layer.values}
    for key in run.table("points").key:
        found[key] = SweepStore(store).open(key).arrays().region_size_layer.values
    return found


def assert_same(first: str, second: str) -> None:
    one, two = arrays_of(first), arrays_of(second)
    assert list(one) == list(two)
    for key, values in one.items():
        np.testing.assert_array_equal(values, two[key])
    measured = ["key", "lrds", "sads", "sklr", "accuracy_story_cloze"]
    first_table, second_table = (open_run(store).table("points")[measured] for store in (first, second))
    assert first_table.equals(second_table)


# -- killed and resumed ------------------------------------------------------------------------------------------------


def sweep_in_a_child(plan, store: Path, log: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        note(log, "begin - -")
        run_sweep(plan, store, compute=FakeMeasure(store, log, pause=0.02))
        code = 0
    finally:
        os._exit(code)
    return 0


def test_ten_kills_change_nothing(tmp_path):
    models = folder_of_checkpoints(tmp_path / "models", range(14))
    plan, log = cloze_plan(models), tmp_path / "log"
    started = time.monotonic()
    run_sweep(plan, tmp_path / "whole", compute=FakeMeasure(pause=0.02))
    typical = (time.monotonic() - started) / 14

    dice, kills = random.Random(7), 0
    store = tmp_path / "killed"
    while kills < 10:
        child = sweep_in_a_child(plan, store, log)
        while log.read_text().count("begin") <= kills if log.exists() else True:
            time.sleep(0.002)
        time.sleep(dice.uniform(0.0, 2.5) * typical)
        os.kill(child, signal.SIGKILL)
        _, ended = os.waitpid(child, 0)
        if not os.WIFSIGNALED(ended):
            break  # it was done before the blow: the sweep is finished
        kills += 1
    run = run_sweep(plan, store, compute=FakeMeasure(store, log))

    lines = [line.split() for line in log.read_text().splitlines()]
    starts = [key for word, key, _ in lines if word in ("start", "AGAIN")]
    assert kills >= 5
    assert not [line for line in lines if line[0] == "AGAIN"], "a finished point was computed again"
    assert set(starts) == set(run.table("points").key)
    assert len(starts) <= 14 + kills  # at most the one point that was under way at each blow
    assert_same(str(tmp_path / "whole"), str(store))
    run.validate()
    assert not [path for path in store.iterdir() if path.name.startswith(".")]


def test_ctrl_c_leaves_a_sweep_that_can_be_read_and_resumed(tmp_path):
    models = folder_of_checkpoints(tmp_path / "models", range(3))
    measure = FakeMeasure()

    def interrupted(point, folder, scratch, where):
        if point.step == 1:
            raise KeyboardInterrupt
        return measure(point, folder, scratch, where)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(cloze_plan(models), tmp_path / "out", compute=interrupted)
    assert open_run(tmp_path / "out").table("points").status.tolist() == ["done", "waiting", "waiting"]
    run = run_sweep(cloze_plan(models), tmp_path / "out", compute=measure)
    assert run.table("points").status.tolist() == ["done"] * 3


def test_two_sweeps_at_once_in_one_folder_are_refused(tmp_path):
    models = folder_of_checkpoints(tmp_path / "models", [1])

    def second(point, folder, scratch, where):
        with pytest.raises(RunError, match="another process"):
            run_sweep(cloze_plan(models), tmp_path / "out", compute=FakeMeasure())
        return write_fake_run(point, scratch)

    run_sweep(cloze_plan(models), tmp_path / "out", compute=second)


def test_a_sweep_that_sleeps_keeps_its_lock(tmp_path):
    """Attack 2: what made a lock look old was a sleep; its owner lives."""
    store = SweepStore(tmp_path / "out")
    with store.lock(), store.scratch() as scratch:
        for path in (tmp_path / "out").rglob("*"):
            os.utime(path, (0, 0))
        with pytest.raises(RunError, match="another process"), SweepStore(tmp_path / "out").lock():
            pass
        assert scratch.is_dir()
    models = folder_of_checkpoints(tmp_path / "models", [1])
    run_sweep(cloze_plan(models), tmp_path / "out", compute=FakeMeasure()).validate()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_scratch_space_of_a_living_worker_is_left_alone(tmp_path):
    store = SweepStore(tmp_path / "out")
    with store.scratch() as scratch:
        (tmp_path / "out" / ".scratch" / "of-a-dead-one").mkdir()
        with SweepStore(tmp_path / "out").lock():
            assert [path.name for path in scratch.parent.iterdir() if path.is_dir()] == [scratch.name]
        assert scratch.is_dir()
    assert not (tmp_path / "out" / ".scratch").exists()


# -- failures ----------------------------------------------------------------------------------------------------------


def broken_once(point, folder, scratch, where):
    if point.step == 1:
        raise ZeroDivisionError("no luck\nsecond line")
    return write_fake_run(point, scratch)


def test_a_failing_point_is_recorded_and_the_others_go_on(tmp_path):
    models = folder_of_checkpoints(tmp_path / "models", range(3))
    run = run_sweep(cloze_plan(models), tmp_path / "out", compute=broken_once)
    table = run.table("points").set_index("step")
    assert table.status.tolist() == ["done", "failed", "done"]
    assert table.error[1] == "ZeroDivisionError: no luck"
    kept = json.loads((tmp_path / "out" / "failed" / f"{table.key[1]}.json").read_text())
    assert "broken_once" in kept["traceback"]
    assert run.summary["points_failed"] == 1
    run.validate()
    assert [row["status"] for row in status(tmp_path / "out")] == ["done", "failed", "done"]

    log = tmp_path / "log"
    mended = run_sweep(cloze_plan(models), tmp_path / "out", compute=FakeMeasure(log=log))
    assert len(log.read_text().splitlines()) == 1
    assert mended.table("points").status.tolist() == ["done"] * 3
    assert not (tmp_path / "out" / "failed" / f"{table.key[1]}.json").exists()


def test_fail_fast_stops_and_leaves_the_rest_waiting(tmp_path):
    models = folder_of_checkpoints(tmp_path / "models", range(3))
    with pytest.raises(BabelscopeError, match="step1 failed: ZeroDivisionError"):
        run_sweep(cloze_plan(models), tmp_path / "out", SweepOptions(fail_fast=True), compute=broken_once)
    assert open_run(tmp_path / "out").table("points").status.tolist() == ["done", "failed", "waiting"]


def test_a_missing_model_is_a_failed_point(tmp_path):
    models = folder_of_checkpoints(tmp_path / "models", [1])
    plan = plan_from(
        {
            "models": [{"id": str(models), "revisions": ["step1", "step9"]}],
            "measures": {"story_cloze": {"stories": "pocket:?n=2", "languages": ["fr"]}},
        }
    )
    table = run_sweep(plan, tmp_path / "out", compute=FakeMeasure()).table("points")
    assert table.status.tolist() == ["done", "failed"]
    assert "no config.json" in table.error[1]


def test_status_of_what_is_no_sweep(tmp_path):
    with pytest.raises(RunError, match="not a sweep"):
        status(tmp_path)


def test_the_live_table_counts_and_guesses(tmp_path):
    from rich.console import Console

    models = folder_of_checkpoints(tmp_path / "models", range(3))
    console = Console(record=True, width=120, file=(tmp_path / "screen").open("w"))
    table = LiveTable(console)
    run_sweep(cloze_plan(models), tmp_path / "out", listener=table, compute=broken_once)
    text = console.export_text()
    assert "3 waiting" in text
    assert "left)" in text
    assert "failed  models@step1" in text
    assert table.headline() == "2 done, 1 failed"
    console.print(table)


# -- other places ------------------------------------------------------------------------------------------------------


def test_an_object_store_works_like_a_folder(tmp_path):
    models = folder_of_checkpoints(tmp_path / "models", range(3))
    url = f"memory://sweeps-{os.getpid()}/one"
    run_sweep(cloze_plan(models), tmp_path / "folder", compute=FakeMeasure())
    log = tmp_path / "log"
    run_sweep(cloze_plan(models), url, compute=broken_once)
    assert [row["status"] for row in status(url)] == ["done", "failed", "done"]
    store = SweepStore(url)
    key = status(url)[1]["key"]
    store.write(f"{key}/tables/half.parquet", "an upload that was cut off")
    run = run_sweep(cloze_plan(models), url, compute=FakeMeasure(log=log))
    run.validate()
    assert len(log.read_text().splitlines()) == 1
    assert_same(str(tmp_path / "folder"), url)


def test_memory_and_ray_do_not_go_together(tmp_path):
    pytest.importorskip("ray")
    models = folder_of_checkpoints(tmp_path / "models", [1])
    with pytest.raises(InputError, match="memory:// lives in one process"):
        run_sweep(cloze_plan(models), f"memory://r-{os.getpid()}/x", SweepOptions(engine="ray"), compute=FakeMeasure())


# -- downloaded weights ------------------------------------------------------------------------------------------------


class FakeHub:
    """Downloads empty models, and remembers what was on the disk when."""

    def __init__(self, monkeypatch, root: Path) -> None:
        self.root, self.asked, self.seen = root, [], []
        self.second = threading.Event()
        monkeypatch.setattr(points_module, "find", self.find)
        monkeypatch.setattr("babelscope.evolution.weights.cached", lambda source: None)

    def find(self, model, revision):
        return Source("hub", model, revision, model, f"{hash(revision):x}", ("*.safetensors",))

    def download(self, source, folder):
        self.asked.append(source.revision)
        folder.mkdir(parents=True)
        if len(self.asked) == 2:
            self.second.set()
        return folder

    def measure(self, point, folder, scratch, where):
        assert folder.is_dir()
        if point.step == 1:
            assert self.second.wait(20), "the next revision was not fetched while this one was measured"
        self.seen.append([path.name for path in self.root.iterdir()])
        return write_fake_run(point, scratch)

    def sweep(self, out, keep):
        plan = plan_from(
            {
                "models": [{"id": "some/model", "revisions": ["step1", "step2", "step3"]}],
                "measures": {"story_cloze": {"stories": "pocket:?n=2", "languages": ["fr"]}},
            }
        )
        options = SweepOptions(keep_weights=keep, weights=self.root)
        return run_sweep(plan, out, options, compute=self.measure, download=self.download)


@pytest.mark.parametrize(("keep", "left"), [("none", 0), ("last", 1), ("all", 3)])
def test_weights_are_fetched_ahead_and_kept_on_a_budget(tmp_path, monkeypatch, keep, left):
    hub = FakeHub(monkeypatch, tmp_path / "weights")
    run = hub.sweep(tmp_path / "out", keep)
    assert run.table("points").status.tolist() == ["done"] * 3
    assert hub.asked == ["step1", "step2", "step3"]
    assert (len(list(hub.root.iterdir())) if hub.root.exists() else 0) == left
    if keep == "none":
        assert max(len(names) for names in hub.seen) <= 2


def test_a_failed_download_is_a_failed_point(tmp_path, monkeypatch):
    hub = FakeHub(monkeypatch, tmp_path / "weights")
    hub.second.set()
    whole = hub.download

    def flaky(source, folder):
        if source.revision == "step2":
            raise ConnectionError("cable cut")
        return whole(source, folder)

    hub.download = flaky
    table = hub.sweep(tmp_path / "out", "none").table("points")
    assert table.status.tolist() == ["done", "failed", "done"]
    assert "cable cut" in table.error[1]


# -- Ray ---------------------------------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_lost_node_costs_nothing_but_time(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    models = folder_of_checkpoints(tmp_path / "models", range(6))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # on a busy machine idle-priority workers would never finish
    log, out = tmp_path / "log", tmp_path / "ray"
    run_sweep(cloze_plan(models), tmp_path / "local", compute=FakeMeasure())
    measure = _by_value(log)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        killer = NodeKiller(cluster, node, log)
        options = SweepOptions(engine="ray", ray=RayOptions(address=cluster.address))
        run = run_sweep(cloze_plan(models), out, options, killer, compute=measure)
    finally:
        cluster.shutdown()
    assert killer.killed
    assert run.table("points").status.tolist() == ["done"] * 6
    assert_same(str(tmp_path / "local"), str(out))
    starts = [line.split()[1] for line in log.read_text().splitlines()]
    assert len(starts) >= 6
    run.validate()


class NodeKiller(Listener):
    """Takes a node away without warning when the first point has ended, while it is at work on another."""

    def __init__(self, cluster, node, log) -> None:
        self.cluster, self.node, self.log, self.killed = cluster, node, log, False

    def ended(self, point, outcome) -> None:
        if not self.killed:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.killed = True


def _by_value(log: Path):
    """A stand-in for measuring that Ray's workers can run, although this test file is no module there."""
    import sys

    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[FakeMeasure.__module__])
    return FakeMeasure(log=log, pause=1.5)
