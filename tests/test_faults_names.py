"""No run touches another: names that look like each other's leftovers, in any order of starts, kills and ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from babelscope.errors import InputError, RunError
from babelscope.results import RunWriter, is_run, open_run
from babelscope.results.hidden import HiddenFolder, clear_leftovers
from babelscope.results.lock import RunLock
from babelscope.results.whole import whole_file

from .fault_points import shown, strike

KILLS = int(os.environ.get("BABELSCOPE_FAULTS", "2"))
EXAMPLES = 2000 if KILLS > 10 else 50
NAMES = [
    "x", "x.y", "x.1a2b3c4d", "x.1a2b3c4d.old", "x.old", "x.tmp", "x.1.tmp", ".x", "x.lock.1", "x ", "[x]", "x*", "x?",
    "é", "e\u0301", "x\ny", "qwen2", "qwen2.5", "-x", "x.new", "owner", "lock", "new", "old",
]  # fmt: skip
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def die(writer: RunWriter) -> None:
    """What the system does to a killed process: its locks are free, its files stay."""
    assert writer._hidden is not None
    assert writer._lock is not None
    assert writer._hidden._lock is not None
    writer._hidden._lock.release(force=True)
    writer._lock._lock.release(force=True)


class Runs(RuleBasedStateMachine):
    """Writers of several names in one folder; the model is what each name must hold, whatever happens to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.open: dict[str, tuple[RunWriter, int]] = {}
        self.whole: dict[str, int] = {}
        self.taken_away: dict[str, int] = {}
        """killed between its two renames: the old run must come back when its own name is written again"""
        self.count = 0

    def teardown(self) -> None:
        for writer, _ in self.open.values():
            die(writer)
        shutil.rmtree(self.folder)

    @rule(name=st.sampled_from(NAMES), overwrite=st.booleans())
    def start(self, name, overwrite):
        self.count += 1
        writer = RunWriter(self.folder / name, kind="regions", overwrite=overwrite)
        if name in self.open or ((name in self.whole or name in self.taken_away) and not overwrite):
            with pytest.raises(RunError):
                writer.__enter__()
            if name not in self.open:
                self.whole.update({name: self.taken_away.pop(name)} if name in self.taken_away else {})
            return
        writer.__enter__()
        self.whole.update({name: self.taken_away.pop(name)} if name in self.taken_away else {})
        writer.manifest.update(summary={"count": self.count})
        writer.file("a.txt").write_text(f"{name} {self.count}")
        self.open[name] = (writer, self.count)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data):
        name = data.draw(st.sampled_from(sorted(self.open)))
        writer, count = self.open.pop(name)
        writer.__exit__(None, None, None)
        self.whole[name] = count

    @precondition(lambda self: self.open)
    @rule(data=st.data(), between=st.booleans())
    def kill(self, data, between):
        name = data.draw(st.sampled_from(sorted(self.open)))
        writer, _ = self.open.pop(name)
        if between and name in self.whole:
            assert writer._hidden is not None
            old = writer._hidden._folder / "old" / name
            old.parent.mkdir()
            (self.folder / name).rename(old)
            self.taken_away[name] = self.whole.pop(name)
        die(writer)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def fail(self, data):
        name = data.draw(st.sampled_from(sorted(self.open)))
        writer, _ = self.open.pop(name)
        writer.__exit__(ValueError, ValueError("no"), None)

    @rule(name=st.sampled_from(NAMES))
    def write_a_file(self, name):
        with whole_file(self.folder / f"{name}.json") as path:
            path.write_text("{}")
        (self.folder / f"{name}.json").unlink()

    @invariant()
    def every_name_holds_what_it_must(self):
        for name in NAMES:
            assert is_run(self.folder / name) == (name in self.whole), name
        for name, count in self.whole.items():
            run = open_run(self.folder / name)
            run.validate()
            assert run.summary == {"count": count}
            assert run.file("a.txt").read_text() == f"{name} {count}"
        for writer, _ in self.open.values():
            assert writer._hidden is not None
            assert writer._hidden.intact()
            assert writer.file("a.txt").is_file()


@pytest.mark.timeout(7200)
def test_no_interleaving_of_runs_costs_another():
    run_state_machine_as_test(
        Runs,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def write(path: Path, value: float = 1.0, overwrite: bool = False) -> None:
    with RunWriter(path, kind="regions", overwrite=overwrite) as run:
        run.manifest.update(summary={"lrds": value})
        run.table("t", pd.DataFrame({"x": [value]}))


@pytest.mark.parametrize("other", ["x", "qwen2", "run"])
def test_attack_1a_a_paused_run_keeps_its_folder(tmp_path, other):
    """`x.5` is being written while `x` starts and ends in the same folder."""
    with RunWriter(tmp_path / f"{other}.5", kind="regions") as run:
        run.table("t", pd.DataFrame({"x": [1.0]}))
        write(tmp_path / other)
        run.table("u", pd.DataFrame({"x": [2.0]}))
    open_run(tmp_path / f"{other}.5").validate()
    assert open_run(tmp_path / f"{other}.5").tables == ["t", "u"]


@pytest.mark.parametrize("how", ["gone", "replaced", "short"])
@pytest.mark.parametrize("when", ["before the end", "before a file", "before a table"])
def test_attack_1b_a_run_whose_folder_is_not_its_own_any_more_is_not_finished(tmp_path, how, when):
    with pytest.raises(RunError, match=r"removed, replaced or cut short|was removed or replaced"):
        with RunWriter(tmp_path / "run", kind="regions") as run:
            run.table("t", pd.DataFrame({"x": [1.0]}))
            hidden = run.folder.parent.parent
            if how == "short":
                (run.folder / "tables" / "t.parquet").unlink()
            else:
                shutil.rmtree(hidden)
            if how == "replaced":
                (run.folder / "tables").mkdir(parents=True)
            if when == "before a file":
                run.file("a/b.txt").write_text("b")
            if when == "before a table":
                run.table("u", pd.DataFrame({"x": [2.0]}))
    assert not is_run(tmp_path / "run")


def test_attack_1b_a_file_that_was_never_written_is_missed(tmp_path):
    with pytest.raises(RunError, match=r"b\.txt was not written"), RunWriter(tmp_path / "run", "regions") as run:
        run.file("a/b.txt")


@forks
def test_attack_1c_a_run_that_was_being_replaced_is_not_given_to_another_name(tmp_path):
    folder, notes = tmp_path / "runs", tmp_path / "notes"
    folder.mkdir()
    write(folder / "m.v2", 2.0)
    moments = strike(partial(write, folder / "m.v2", 2.0, True), folder, notes).changes
    taken = 0
    for at in range(1, moments + 1):
        struck = strike(partial(write, folder / "m.v2", 3.0, True), folder, notes, at=at)
        assert struck.code == -signal.SIGKILL, struck
        taken += not (folder / "m.v2").exists()
        write(folder / "m", 1.0)
        write(folder / "m", 1.5, overwrite=True)
        assert open_run(folder / "m").summary == {"lrds": 1.5}
        shutil.rmtree(folder / "m")
        write(folder / "m.v2", 2.0, overwrite=True)
        assert shown(folder) == ["m.v2"], at
    assert taken == 1


def test_names_of_unfinished_work_are_refused(tmp_path):
    for name in (".x.1a2b3c4d.tmp", ".x.lock", ".x.y.00000000.tmp"):
        with pytest.raises(RunError, match="kept for unfinished work"), RunWriter(tmp_path / name, "regions"):
            pass


def test_attack_9_a_run_inside_another_is_refused(tmp_path):
    write(tmp_path / "run")
    with pytest.raises(RunError, match="lies inside the run"):
        write(tmp_path / "run" / "deeper" / "inner")
    open_run(tmp_path / "run").validate()


@pytest.mark.parametrize("name", ["", "/", "..", "."])
def test_attack_9_a_file_without_a_name_is_refused_in_words(name):
    with pytest.raises(InputError, match=r"names no file|directory"), whole_file(Path(name)):
        pass


def test_devices_and_links_are_never_replaced(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for place in (Path("/dev/null"), tmp_path / "link", tmp_path):
        with pytest.raises(InputError, match="name a file"), whole_file(place) as path:
            path.write_text("b")
    assert (tmp_path / "a").read_text() == "a"


# -- locks -----------------------------------------------------------------------------------------------------------

SLEEPER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from babelscope.results.hidden import HiddenFolder
    from babelscope.results.lock import RunLock
    folder = Path(sys.argv[1])
    lock = RunLock(folder / ".run.lock", folder / "run"); lock.acquire()
    hidden = HiddenFolder(folder / "run"); hidden.open()
    print("ready", flush=True)
    time.sleep(600)
""")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_attack_2_a_sleeping_process_keeps_its_lock_and_a_dead_one_loses_it(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGSTOP)
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))  # a clock that jumped, or a sleep of fifty years
        with pytest.raises(RunError, match=f"process {child.pid}"):
            RunLock(tmp_path / ".run.lock", tmp_path / "run").acquire()
        with pytest.raises(RunError, match="another process"):
            write(tmp_path / "run")
        clear_leftovers(tmp_path / "run")
        assert len(list(tmp_path.glob(".run.*.tmp"))) == 1
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    write(tmp_path / "run")
    assert shown(tmp_path) == ["run"]


def test_a_lock_is_given_back_by_its_owner_only(tmp_path):
    lock = RunLock(tmp_path / ".run.lock", tmp_path / "run")
    lock.acquire()
    lock.path.unlink()
    lock.path.write_text("somebody else's")
    lock.release()
    assert lock.path.read_text() == "somebody else's"


def test_a_run_whose_lock_was_taken_away_is_not_finished(tmp_path):
    with pytest.raises(RunError, match="its lock was removed"), RunWriter(tmp_path / "run", "regions"):
        (tmp_path / ".run.lock").unlink()
    assert shown(tmp_path) == []


def test_a_hidden_folder_of_another_owner_is_left_alone(tmp_path):
    """The name of the folder fits, what it says of itself does not."""
    foreign = tmp_path / ".x.1a2b3c4d.tmp"
    (foreign / "new").mkdir(parents=True)
    (foreign / "lock").touch()
    (foreign / "owner").write_text('{"name": "y", "token": "t"}')
    mine = tmp_path / ".x.00000000.tmp"
    mine.mkdir()
    (mine / "notes.txt").write_text("of a person")
    write(tmp_path / "x")
    assert shown(tmp_path) == [".x.00000000.tmp", ".x.1a2b3c4d.tmp", "x"]


def test_two_processes_may_write_one_file_at_once(tmp_path):
    target = tmp_path / "a.json"
    with whole_file(target) as first:
        first.write_text("1")
        with whole_file(target) as second:
            second.write_text("2")
        assert target.read_text() == "2"
    assert target.read_text() == "1"
    assert shown(tmp_path) == ["a.json"]


def test_threads_that_write_on_do_not_bring_a_folder_back(tmp_path):
    hidden = HiddenFolder(tmp_path / "x")
    hidden.open()
    import threading

    def put_back() -> None:
        time.sleep(0.03)
        hidden.new.mkdir(parents=True, exist_ok=True)

    thread = threading.Thread(target=put_back)
    thread.start()
    hidden.close(stubborn=True)
    thread.join()
    assert shown(tmp_path) == []
