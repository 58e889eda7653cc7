"""Places that are taken, closed or damaged: two writers, locks of the dead, folders nobody may write, flipped bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from babelscope.cli import main
from babelscope.errors import BabelscopeError, RunError
from babelscope.results import RunWriter, open_run
from babelscope.results.lock import RunLock

from .fault_points import shown, strike
from .synthetic_circuits import write_circuits
from .synthetic_runs import write_regions, write_sweep

NIGHTLY = int(os.environ.get("BABELSCOPE_FAULTS", "2")) > 10
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def write(path: Path, gate: Path, number: int) -> None:
    """Wait at the gate with the others, then write; the loser says so and leaves."""
    while not gate.exists():
        pass
    try:
        with RunWriter(path, kind="regions") as run:
            run.table("t", pd.DataFrame({"x": [number]}))
            run.manifest.update(summary={"lrds": float(number)})
    except RunError as error:
        print(error)
        raise SystemExit(2) from None


def race(path: Path, folder: Path, rivals: int = 4) -> list[int]:
    """Exit codes of several processes that write one run at the same moment."""
    gate, children = folder / "gate", []
    for number in range(rivals):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                write(path, gate, number)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                os._exit(code)
        children.append(child)
    gate.touch()
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    gate.unlink()
    return ended


@forks
@pytest.mark.parametrize("beforehand", ["nothing", "the lock of a dead process", "an empty lock"])
def test_of_many_writers_one_writes(tmp_path, beforehand):
    path, place = tmp_path / "runs" / "run", tmp_path / "runs"
    place.mkdir()
    for _ in range(20 if NIGHTLY else 2):
        if beforehand != "nothing":
            dead = {"pid": 2**22 + 1, "host": os.uname().nodename}
            (place / ".run.lock").write_text(json.dumps(dead) if "dead" in beforehand else "")
        codes = race(path, tmp_path)
        assert codes.count(0) == 1, codes
        assert set(codes) == {0, 2}, codes
        run = open_run(path)
        run.validate()
        assert run.table("t").x[0] == run.summary["lrds"]
        assert shown(place) == ["run"]
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()


def test_a_lock_of_a_process_that_is_dead_is_taken_over_whatever_it_says(tmp_path):
    path = tmp_path / ".run.lock"
    for said in (b"", b"\xff", json.dumps({"pid": os.getpid(), "host": os.uname().nodename}).encode()):
        path.write_bytes(said)
        lock = RunLock(path, tmp_path)
        lock.acquire()
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(RunError, match=f"process {os.getpid()}"):
            RunLock(path, tmp_path).acquire()
        lock.release()
        assert not path.exists()


# -- no way in -------------------------------------------------------------------------------------------------------


def said_of(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: "), said
    return said.splitlines()[-1]


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_regions(folder / "run")
    write_regions(folder / "other", seed=1)
    (folder / "lines").mkdir()
    for code in ("en", "fr"):
        (folder / "lines" / f"{code}.txt").write_text("A line.\nAnother.\n")
    return folder


UNWRITABLE = {
    "corpus audit": lambda w: ["corpus", "audit", f"lines:{w / 'lines'}", "--out"],
    "regions export": lambda w: ["regions", "export", w / "regions.json", "--out"],
    "figure": lambda w: ["figure", w / "run", "region_sizes", "--out"],
    "report": lambda w: ["report", w / "run", "--out"],
    "pocket export": lambda w: ["pocket", "export", "bloom-s"],
}
NAMES = {"regions export": "x.json", "figure": "x.png", "report": "x.html"}


def closed(folder: Path) -> Path:
    """A place where nobody can make a file, the superuser neither: below something that is a file."""
    (folder / "file").write_text("x")
    return folder / "file"


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_place_that_cannot_be_written_is_one_line(capsys, regions, tmp_path, name):
    (regions / "regions.json").write_text(
        json.dumps({"method": "m", "layers": 1, "neurons_per_layer": 2, "regions": {"en": [[0]]}})
    )
    target = closed(tmp_path) / "sub" / NAMES.get(name, "x")
    message = said_of(capsys, *UNWRITABLE[name](regions), target)
    assert "cannot write" in message or "Not a directory" in message
    assert shown(tmp_path) == ["file"]


@pytest.mark.parametrize("how", ["below a file", "read only"])
def test_a_run_cannot_be_written_there(tmp_path, how):
    if how == "below a file":
        target = closed(tmp_path) / "run"
    else:
        if os.geteuid() == 0:
            pytest.skip("the superuser may write everywhere")
        target = tmp_path / "closed" / "run"
        target.parent.mkdir()
        target.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RunError, match="cannot write the run"), RunWriter(target, "regions"):
        pass
    assert not target.exists()


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["regions", "circuits", "sweep"])
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "run"
    return {"regions": write_regions, "circuits": write_circuits, "sweep": write_sweep}[request.param](folder)


def flip(path: Path, dice: random.Random) -> bytes:
    """Change one bit; gives the bytes as they were."""
    before = path.read_bytes()
    changed = bytearray(before)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    path.write_bytes(changed)
    return before


def test_one_flipped_bit_in_any_file_is_named(whole):
    dice, tried = random.Random(5), 0
    for name in whole.files():
        path = whole.path / name
        if not path.stat().st_size:
            continue
        before, tried = flip(path, dice), tried + 1
        try:
            with pytest.raises(RunError) as error:
                whole.validate()
            # a flip in the list itself makes one of the others look wrong, or the list unreadable
            assert name == "checksums.json" or f"{name} is damaged" in str(error.value)
        finally:
            path.write_bytes(before)
    whole.validate()
    assert tried > 10


def use(path: Path) -> None:
    """Read everything that a run holds."""
    run = open_run(path)
    _ = (run.summary, run.languages, run.model_name, run.key, run._repr_html_())
    for name in run.tables:
        run.table(name)
    for group in (None, *run.groups):
        arrays = run.arrays(group)
        with contextlib.suppress(
            Exception
        ):  # values are read when they are used, by zarr: `validate` says what is wrong
            arrays.load()


def test_damaged_runs_are_read_or_refused_and_nothing_else(whole):
    dice = random.Random(6)
    names = [name for name in whole.files() if not name.endswith(".csv") and (whole.path / name).stat().st_size]
    for name in names if NIGHTLY else dice.sample(names, min(25, len(names))):
        for _ in range(5 if NIGHTLY else 1):
            before = flip(whole.path / name, dice)
            try:
                with contextlib.suppress(BabelscopeError):
                    use(whole.path)
            except Exception as error:
                raise AssertionError(f"{name} with one bit flipped") from error
            finally:
                (whole.path / name).write_bytes(before)


@pytest.mark.parametrize("verb", ["report", "show", "figure", "compare"])
def test_the_command_line_names_a_damaged_file(capsys, tmp_path, verb):
    run = write_regions(tmp_path / "run")
    store = run.path / "arrays.zarr"
    chunk = max(
        (file for file in store.rglob("*") if file.is_file() and "c" in file.parts), key=lambda f: f.stat().st_size
    )
    chunk.write_bytes(np.random.default_rng(0).bytes(chunk.stat().st_size))
    more = {
        "report": ["--out", tmp_path / "x.html"],
        "show": ["--check"],
        "figure": ["similarity_map", "--out", tmp_path / "x.png"],
        "compare": [write_regions(tmp_path / "other", seed=1).path],
    }[verb]
    message = said_of(capsys, verb, run.path, *more)
    assert "damaged" in message
    assert not list(tmp_path.glob("x.*"))


@forks
def test_the_tests_own_tool_strikes_where_it_is_told(tmp_path):
    """A check of the instrument: at the second of three changes the first is on the disk and the third is not."""
    folder = tmp_path / "place"
    folder.mkdir()

    def work() -> None:
        for name in "abc":
            (folder / name).write_text(name)

    assert strike(work, folder, tmp_path / "notes").changes == 3
    for name in "abc":
        (folder / name).unlink()
    assert strike(work, folder, tmp_path / "notes", at=2).code == -signal.SIGKILL
    assert shown(folder) in (["a"], ["a", "b"])
