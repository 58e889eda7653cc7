"""Studies that are killed and started again: finished steps are taken over, and every number is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from babelscope.results import Run, open_run

from .forked import server

KILLS = int(os.environ.get("BABELSCOPE_RESUMES", "2"))
"""of each study here; nightly ten (make faults)"""
REGIONS = (
    "regions pocket:pocket-bloom-s --corpus pocket:heldout --languages en,zh,fr --samples 6"
    " --texts pocket:heldout?seed=1 --window 16 --text-tokens 32 --controls 1 --bootstrap 10"
    " --permutations 5 --doses 0.01"
)
CIRCUITS = "circuits pocket:pocket-bloom-s --languages en --n 4 --draws 1 --windows 1 --repeats 10 --no-edges"


@pytest.fixture(scope="module")
def commands():
    """Where commands start at once."""
    with server() as ready:
        yield ready


def alone(words: str, out: Path) -> int:
    """The exit code of a command in a program of its own, whose hashes have another seed."""
    code = "from babelscope.cli import main; import sys; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, *words.split(), "--out", str(out)]
    return subprocess.run(
        words, capture_output=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ).returncode


def same(one: Run, other: Run) -> None:
    assert sorted(one.tables) == sorted(other.tables)
    for name in one.tables:
        pd.testing.assert_frame_equal(one.table(name), other.table(name), check_exact=True)
    for group in (None, *one.groups):
        assert one.arrays(group).equals(other.arrays(group))
    assert one.summary == other.summary
    assert one.key == other.key


def kept(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f".{out.name}.steps-*/*/step.json"))


@pytest.mark.parametrize("words", [
    pytest.param(REGIONS, id="regions"), pytest.param(CIRCUITS, id="circuits", marks=pytest.mark.nightly),
])  # fmt: skip
def test_a_study_killed_at_random_moments_leaves_the_same_numbers(words, tmp_path, commands):
    whole = tmp_path / "whole"
    assert alone(words, whole) == 0
    chance = random.Random(1)
    out, printed, taken_over = tmp_path / "killed", tmp_path / "printed", 0
    asked = [*words.split(), "--out", str(out)]
    for turn in range(KILLS):
        # killed when the next step (or the one after it) has just been kept, at a random moment thereafter
        wanted, process = len(kept(out)) + 1 + turn % 2, commands.start(asked, printed)
        while process.poll() is None and len(kept(out)) < wanted:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1)
        process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        process.wait()
        said = printed.read_text(encoding="utf-8")
        if "interrupted" in said:
            assert ("start it again to go on from there" in said) == bool(kept(out)), said
            assert ("nothing half-written was left" in said) != bool(kept(out)), said
        taken_over = max(taken_over, len(kept(out)))
        if out.is_dir():
            break
    assert taken_over > 0
    if not out.is_dir():
        assert commands.start(asked, printed).wait() == 0
    same(open_run(whole), open_run(out))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".killed")) == []


def test_a_kept_step_that_was_changed_is_refused_by_name_and_fresh_begins_anew(tmp_path, commands):
    out, printed = tmp_path / "run", tmp_path / "printed"
    small = [*REGIONS.partition(" --texts")[0].split(), "--out", str(out)]
    process = commands.start(small, printed)
    while process.poll() is None and not kept(out):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    damaged = kept(out)[0]
    content = json.loads(damaged.read_text())
    content["body"]["step"] = "another"
    damaged.write_text(json.dumps(content))
    assert commands.start(small, printed).wait() == 2
    said = printed.read_text(encoding="utf-8")
    assert f"{damaged} is not as it was written" in said
    assert "--fresh" in said
    assert commands.start([*small, "--fresh"], printed).wait() == 0
    open_run(out).validate()
