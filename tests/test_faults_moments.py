"""Locks, folders to work in, kept steps and sweeps struck at every one of their moments: what is left blocks nobody."""

from __future__ import annotations

import errno
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from babelscope.cli.stopping import polite
from babelscope.errors import BabelscopeError
from babelscope.evolution.store import SweepStore
from babelscope.results import open_run
from babelscope.results.lock import RunLock
from babelscope.results.scratch import scratch_in
from babelscope.results.step_store import StepStore

from .fault_points import Struck, strike
from .synthetic_runs import write_regions

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def politely(work) -> None:
    """As the command line does: a signal is an interruption, an error of ours exit code 2."""
    with polite() as stop:
        try:
            work()
        except KeyboardInterrupt:
            raise SystemExit(stop.code) from None
        except BabelscopeError:
            raise SystemExit(2) from None


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def struck_everywhere(work, folder: Path, notes: Path, **how) -> list[tuple[int, Struck, list[str]]]:
    """Each moment, how the child ended, and what it left, which is removed before the next."""
    folder.mkdir()
    moments = strike(partial(politely, work), folder, notes).changes
    found = []
    for at in range(1, moments + 1):
        ended = strike(partial(politely, work), folder, notes, at=at, **how)
        found.append((at, ended, names(folder)))
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return found


def lock_and_release(path: Path) -> None:
    lock = RunLock(path / "lock", path)
    try:
        lock.acquire()
    finally:
        lock.release()


def work_in_scratch(path: Path) -> None:
    with scratch_in(path / "parent") as made:
        (made / "x").write_text("x")


def lock_a_sweep(path: Path) -> None:
    store = SweepStore(path / "sweep")
    with store.lock(), store.scratch() as made:
        (made / "x").write_text("x")


@pytest.mark.parametrize("work", [lock_and_release, work_in_scratch, lock_a_sweep])
def test_who_is_asked_to_stop_at_any_moment_leaves_nothing(tmp_path, work):
    folder = tmp_path / "place"
    for at, ended, left in struck_everywhere(partial(work, folder), folder, tmp_path / "notes", blow=signal.SIGTERM):
        assert ended.code in (0, 128 + signal.SIGTERM), (at, ended)
        assert set(left) <= {"sweep"}, (at, left)


@pytest.mark.parametrize("full", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("work", [work_in_scratch, lock_a_sweep])
def test_a_disk_that_is_full_at_any_moment_is_left_with_nothing(tmp_path, work, full):
    folder = tmp_path / "place"
    for at, ended, left in struck_everywhere(partial(work, folder), folder, tmp_path / "notes", full=full):
        assert ended.code in (0, 2, 99), (at, ended)  # 99: the content of the folder is the caller's own affair
        assert set(left) <= {"sweep"}, (at, left)


def keep_two(out: Path) -> None:
    store = StepStore(out)
    for step in ("first", "second"):
        with store.room(step, "0f") as folder:
            (folder / "more").mkdir()
            store.keep(step, "0f", folder, {"of": step})


def test_kept_steps_killed_while_they_are_removed_are_whole_or_forgotten(tmp_path):
    folder, notes = tmp_path / "place", tmp_path / "notes"
    folder.mkdir()
    out = folder / "run"

    def made_and_removed() -> None:
        keep_two(out)
        StepStore(out).remove()

    moments = strike(made_and_removed, folder, notes).changes
    assert names(folder) == []
    halves = 0
    for at in range(1, moments + 1):
        assert strike(made_and_removed, folder, notes, at=at).code == -signal.SIGKILL
        store = StepStore(out)
        for step in ("first", "second"):
            if store.holds(step, "0f"):
                assert store.read(step, "0f") == {"of": step}, at
                halves += 1
        # the next start takes the folder for its own, and forgets all of it
        keep_two(out) if not store.holds("first", "0f") and not store.holds("second", "0f") else None
        store.remove()
        assert [name for name in names(folder) if not name.endswith(".lock")] == [], at
    assert halves > 2


def test_what_a_killed_sweep_leaves_beside_its_run_is_no_part_of_the_run(tmp_path):
    write_regions(tmp_path / "run")
    (tmp_path / "run" / ".sweep.lock").write_text("{}")
    (tmp_path / "run" / ".scratch" / "work-1").mkdir(parents=True)
    (tmp_path / "run" / ".scratch" / "work-1" / "x").write_text("x")
    open_run(tmp_path / "run").validate()
    (tmp_path / "run" / ".sweep.locks").write_text("{}")
    with pytest.raises(BabelscopeError, match=r"\.sweep\.locks was added"):
        open_run(tmp_path / "run").validate()
