"""What a sweep says: to who listens, of a model without the revisions asked for, of workers that were lost."""

from __future__ import annotations

import json
from io import StringIO
from typing import Literal

import pytest
from rich.console import Console

from babelscope.errors import ModelError
from babelscope.evolution import SweepOptions, plan_from, ray_engine, run_sweep
from babelscope.evolution.attempt import Listener, Outcome
from babelscope.evolution.live import LiveTable
from babelscope.evolution.sources import find, revisions
from babelscope.evolution.store import FAILED, SweepStore
from babelscope.evolution.types import Point, Work
from babelscope.evolution.values import described

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


def point(key: str) -> Point:
    return Point(key, "m", key, None, None, None, Work())


def test_the_table_holds_a_line_for_each_point_with_what_failed():
    table = LiveTable(Console(file=StringIO()))
    points = [point("a"), point("b")]
    table.planned(points, set())
    for one in points:
        table.started(one)
    table.ended(points[0], Outcome("a", "failed", 3.0, "no [room]"))
    table.ended(points[1], Outcome("b", "done", 5.0))
    screen = StringIO()
    Console(file=screen, width=80).print(table)
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert lines[0].strip() == "1 done, 1 failed"
    assert lines[1:] == [
        "point  corpus  status  time",
        "m@a            failed  3.0 s  no [room]",
        "m@b            done    5.0 s",
    ]
    assert table.__rich__().padding == (0, 2, 0, 0)


def test_the_folder_of_failures_goes_with_the_last_of_them(tmp_path):
    store = SweepStore(str(tmp_path / "sweep"))
    for key in "ab":
        store.record_failure(key, {"error": key})
    folder = tmp_path / "sweep" / FAILED
    store.clear_failure("a")
    assert folder.is_dir()
    assert (store.failure("a"), store.failure("b")) == (None, {"error": "b"})
    store.clear_failure("b")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["a/b/c", "./a", "/a", "~/a"])
def test_what_can_be_no_name_on_the_hub_is_a_folder_that_is_missing(name):
    with pytest.raises(ModelError, match="is not a folder; give a model folder, a hub name, or pocket:NAME"):
        find(name, None)


def test_the_words_of_a_choice_are_listed():
    assert described(Literal["a", "b"]) == "one of a, b"
