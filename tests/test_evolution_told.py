"""What a sweep says: to who listens, of a model without the revisions asked for, of workers that were lost."""

from __future__ import annotations

import json

import pytest

from babelscope.errors import ModelError
from babelscope.evolution import SweepOptions, plan_from, ray_engine, run_sweep
from babelscope.evolution.attempt import Listener
from babelscope.evolution.sources import revisions
from babelscope.evolution.store import SweepStore

from .sweep_helpers import FakeMeasure, cloze_plan, folder_of_checkpoints


class Noting(Listener):
    def __init__(self) -> None:
        self.all: list[str] = []
        self.finished: set[str] = set()

    def planned(self, points, finished) -> None:
        self.all, self.finished = [point.key for point in points], finished


def test_a_damaged_point_is_not_told_as_finished(tmp_path):
    models, out = folder_of_checkpoints(tmp_path / "models", [1, 2]), tmp_path / "out"
    first, second = run_sweep(cloze_plan(models), out, compute=FakeMeasure()).table("points").key
    (out / first / "run.json").write_text("{")
    folder_of_checkpoints(tmp_path / "models", [3])
    told = Noting()
    run_sweep(cloze_plan(models), out, listener=told, compute=FakeMeasure())
    assert told.all[:2] == [first, second]
    assert told.finished == {second}
    mended = Noting()
    run_sweep(cloze_plan(models), out, SweepOptions(mend=True), mended, compute=FakeMeasure())
    assert mended.finished == {second, told.all[2]}


def nothing_matches(folder, pattern: str) -> str:
    """The error of a plan that asks a folder of checkpoints for a pattern that none has."""
    measures = {"story_cloze": {"stories": "pocket:?n=2", "languages": ["en", "fr"]}}
    plan = plan_from({"models": [{"id": str(folder), "revisions": pattern}], "measures": measures})
    with pytest.raises(ModelError) as error:
        revisions(plan.models[0])
    return str(error.value)


def test_a_pattern_that_nothing_matches_is_answered_with_what_is_there(tmp_path):
    few = folder_of_checkpoints(tmp_path / "few", [20, 3])
    assert nothing_matches(few, "final*") == f"{few} has no revision that matches final*; it has step3, step20"
    twelve = folder_of_checkpoints(tmp_path / "twelve", range(1, 13))
    assert nothing_matches(twelve, "final*").endswith("it has " + ", ".join(f"step{step}" for step in range(1, 13)))
    more = folder_of_checkpoints(tmp_path / "more", range(1, 14))
    assert nothing_matches(more, "final*").endswith("step11, step12, …")
    none = tmp_path / "none"
    none.mkdir()
    assert nothing_matches(none, "step*").endswith("leave --revisions out for itself")


def test_a_point_whose_workers_died_is_done_where_its_run_is_there_and_failed_elsewhere(tmp_path):
    models, out = folder_of_checkpoints(tmp_path / "models", [1]), tmp_path / "out"
    told: list = []

    class Keeping(Listener):
        def planned(self, points, finished) -> None:
            told.extend(points)

    run_sweep(cloze_plan(models), out, listener=Keeping(), compute=FakeMeasure())
    (point,), store, died = told, SweepStore(str(out)), RuntimeError("the node\nis gone")
    assert ray_engine._lost(point, store, died).status == "done"
    store.discard(point.key)
    outcome = ray_engine._lost(point, store, died)
    assert (outcome.status, outcome.error) == ("failed", "RuntimeError: the node")
    (failure,) = [json.loads(file.read_text()) for file in out.rglob(f"*{point.key}*.json")]
    assert "the node" in failure["error"]
