"""Disks that run full, closed or over quota at any moment of any command: one line, nothing half-written, resumable."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import zlib
from functools import partial
from pathlib import Path

import pytest

from babelscope.errors import Unwritable
from babelscope.evolution import SweepOptions, run_sweep, status
from babelscope.evolution.store import SweepStore
from babelscope.results import open_run

from .fault_points import shown, strike
from .sweep_helpers import FakeMeasure, cloze_plan, folder_of_checkpoints, write_fake_run
from .test_faults_kills import COMMANDS, NIGHTLY, remove, start, world  # noqa: F401

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "read-only": errno.EROFS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, world, name):  # noqa: F811
    command, folder, notes = COMMANDS[name], tmp_path / "place", tmp_path / "notes"
    if command.heavy and not NIGHTLY:
        pytest.skip("in `make faults` only: it takes long, and writes by what the other commands write by")
    folder.mkdir()
    target, dice = folder / command.target, random.Random(zlib.crc32(name.encode()) + 2)
    work = partial(start, command, world, target)
    whole = strike(work, folder, notes)
    assert whole.code == 0, whole
    for at in dice.sample(range(1, whole.changes + 1), command.kills(whole.changes)):
        command.clear(folder)
        why = dice.choice(sorted(ERRORS))
        struck = strike(work, folder, notes, at=at, full=ERRORS[why])
        if struck.code == 0:
            continue  # only renames and removals were still to be done
        lines = struck.said.strip().splitlines()
        assert struck.code == 2, (at, why, struck)
        assert "Traceback" not in struck.said
        assert lines[-1].startswith("error: "), lines
        assert os.strerror(ERRORS[why]) in lines[-1], lines
        if name not in ("sweep", "demo"):
            # a study keeps the steps that it finished, and goes on from them
            assert {one for one in shown(folder) if ".steps-" not in one} <= {*command.names}, (at, why)
        if target.exists():
            command.whole(target)
        hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
        assert not [path for path in hidden if ".steps-" not in path.name], (at, why)
        if name not in ("sweep", "demo"):
            command.clear(folder)
        again = strike(work, folder, notes)
        assert again.code == 0, (at, again)
        command.whole(target)
        assert shown(folder) == command.names, at


def sweep(models: Path, out: Path) -> None:
    run_sweep(cloze_plan(models), out, compute=FakeMeasure())


def test_attack_4_a_sweep_on_a_full_disk_stops_and_goes_on_when_there_is_room(tmp_path):
    models, folder, notes = folder_of_checkpoints(tmp_path / "models", [1, 2]), tmp_path / "place", tmp_path / "notes"
    folder.mkdir()
    out = folder / "out"
    moments = strike(partial(sweep, models, out), folder, notes).changes
    dice = random.Random(4)
    chosen = range(1, moments + 1) if NIGHTLY else sorted(dice.sample(range(1, moments + 1), 6))
    for at in chosen:
        remove(out)
        struck = strike(partial(sweep, models, out), folder, notes, at=at, full=errno.ENOSPC)
        assert struck.code == 0 or "Unwritable: cannot write" in struck.said, (at, struck)
        assert struck.said.count("Traceback (most recent call last)") <= struck.said.count("the above exception") + 8
        if out.exists():
            assert not [path for path in out.rglob("*") if path.name.startswith(".")], at
            assert not (out / "failed").exists(), at
        sweep(models, out)
        run = open_run(out)
        run.validate()
        assert run.table("points").status.tolist() == ["done", "done"]
        assert sorted(shown(out))[-4:] == ["checksums.json", "run.json", "sweep.json", "tables"], shown(out)


@pytest.mark.parametrize("size", [
    "size=4k", "size=64k", "size=1m,nr_inodes=8",
    *(pytest.param(f"size={size}", marks=pytest.mark.nightly) for size in ("16k", "200k")),
])  # fmt: skip
def test_attack_4_on_a_real_file_system(tmp_path, size):
    small, models = tmp_path / "small", folder_of_checkpoints(tmp_path / "models", range(40))
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        begun = []

        def measure(point, folder, scratch, where):
            begun.append(point.key)
            return write_fake_run(point, scratch)

        with pytest.raises(Unwritable, match="No space left"):
            run_sweep(cloze_plan(models), small / "out", compute=measure)
        left = [path for path in small.rglob("*") if path.name.startswith(".")]
        assert left == []
        finished = SweepStore(small / "out").keys()
        assert len(begun) <= len(finished) + 1, "the sweep went on although nothing could be written"
        subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=100000", small], check=True)
        run = run_sweep(cloze_plan(models), small / "out", compute=measure)
        run.validate()
        assert run.table("points").status.eq("done").all()
        assert len(begun) == len(set(begun)) + (1 if len(begun) > 40 else 0)
    finally:
        subprocess.run(["umount", small], check=False)


# -- damaged points ----------------------------------------------------------------------------------------------------


def damage(point: Path, how: str) -> None:
    if how == "a flipped bit":
        file = point / "tables" / "cloze.parquet"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif how == "no run.json to read":
        (point / "run.json").write_text("{")
    elif how == "a missing chunk":
        next(file for file in (point / "arrays.zarr").rglob("*") if file.is_file() and "c" in file.parts).unlink()
    elif how == "no checksums":
        (point / "checksums.json").unlink()
    else:
        (point / "checksums.json").write_bytes(b"\xff{")


@pytest.mark.parametrize(
    "how", ["a flipped bit", "no run.json to read", "a missing chunk", "no checksums", "checksums that are no text"]
)
def test_attack_3c_a_damaged_point_is_named_mended_and_blocks_nobody(tmp_path, how):
    models, out = folder_of_checkpoints(tmp_path / "models", [1, 2]), tmp_path / "out"
    first = run_sweep(cloze_plan(models), out, compute=FakeMeasure())
    key = first.table("points").key[0]
    whole = {path: path.read_bytes() for path in (out / key).rglob("*") if path.is_file() and path.suffix != ".json"}
    damage(out / key, how)
    folder_of_checkpoints(tmp_path / "models", [3])
    again = run_sweep(cloze_plan(models), out, compute=FakeMeasure())
    points = again.table("points")
    assert points.status.tolist() == ["failed", "done", "done"]
    assert "--mend" in points.error[0]
    assert key in points.error[0]
    mended = run_sweep(cloze_plan(models), out, SweepOptions(mend=True), compute=FakeMeasure())
    mended.validate()
    assert mended.table("points").status.tolist() == ["done"] * 3
    assert [row["status"] for row in status(out)] == ["done"] * 3
    assert all(path.read_bytes() == data for path, data in whole.items() if path.suffix != ".parquet")
