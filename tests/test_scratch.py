"""Folders to work in: gone when their owner is done or dead, never while it lives, and nobody else's are touched."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from babelscope.errors import Unwritable
from babelscope.results import scratch
from babelscope.results.scratch import Scratch, clear_dead, scratch_in

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_looked_at", set())
    return tmp_path


def owner(place: Path) -> subprocess.Popen[str]:
    """A process that holds a folder, and says its name."""
    code = "from babelscope.results.scratch import Scratch; import time; s = Scratch('t'); print(s.path, flush=True); "
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(place)}
    return subprocess.Popen([sys.executable, "-c", code + "time.sleep(60)"], stdout=subprocess.PIPE, text=True, env=env)


def test_a_folder_goes_with_its_owner_and_a_closed_one_at_once(place):
    made = Scratch("a")
    (made.path / "x").write_text("x")
    assert [path.name for path in place.iterdir()] != []
    made.close()
    assert list(place.iterdir()) == []
    with Scratch("b") as path:
        assert path.stat().st_mode & 0o777 == 0o700
    assert list(place.iterdir()) == []
    dropped = Scratch("c").path
    gc.collect()
    assert not dropped.exists()


def test_the_dead_are_cleared_by_the_next_and_the_living_sleep_on(place):
    children = [owner(place), owner(place)]
    dead, asleep = (Path(child.stdout.readline().strip()) for child in children)
    other = place / "babelscope-notes"
    other.mkdir()
    children[0].send_signal(signal.SIGKILL)
    children[0].wait()
    children[1].send_signal(signal.SIGSTOP)
    try:
        old = time.time() - 10**6  # a jump of the clock decides nothing
        for path in (asleep, asleep.with_name(f"{asleep.name}.lock")):
            os.utime(path, (old, old))
        assert dead.is_dir()
        with Scratch("next") as mine:
            assert not dead.exists()
            assert sorted(path.name for path in place.iterdir()) == sorted(
                [other.name, *(name for path in (mine, asleep) for name in (path.name, f"{path.name}.lock"))]
            )
    finally:
        children[1].send_signal(signal.SIGKILL)
        children[1].wait()
        for child in children:
            child.stdout.close()
    clear_dead(place, "babelscope-")
    assert [path.name for path in place.iterdir()] == [other.name]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_a_forked_child_that_ends_leaves_its_parents_folder(place):
    made = Scratch("parent")
    child = os.fork()
    if child == 0:
        made.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert made.path.is_dir()
    made.close()


def test_a_place_that_cannot_be_written_is_one_line(place):
    (place / "file").write_text("")
    with pytest.raises(Unwritable, match="cannot write"), scratch_in(place / "file" / "x"):
        pass
    with scratch_in(place / "inner") as path:
        assert path.parent == place / "inner"
    assert not (place / "inner").exists()
