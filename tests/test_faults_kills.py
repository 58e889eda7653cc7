"""Every command that writes, killed at its own moments: nothing, a whole result, or one that the next start goes on.

`BABELSCOPE_FAULTS` is the number of kills per command, slow ones too (`make faults`: 40; here 1, of the quick ones).
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from babelscope.cli import main
from babelscope.cli.stopping import polite
from babelscope.errors import RunError
from babelscope.results import RunWriter, is_run, open_run
from babelscope.results.whole import whole_file, whole_folder

from .command import every_option
from .fault_points import import_ahead, shown, strike
from .synthetic_circuits import write_circuits
from .synthetic_runs import write_regions
from .tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
KILLS = int(os.environ.get("BABELSCOPE_FAULTS", "1"))
NIGHTLY = "BABELSCOPE_FAULTS" in os.environ
LANGUAGES = ("en", "fr", "es", "pt", "vi", "id")


# -- a run by itself: every moment there is ------------------------------------------------------------------------


def remove(target: Path) -> None:
    """A file, a folder, or nothing."""
    target.unlink() if target.is_file() else shutil.rmtree(target, ignore_errors=True)


def write_small(path: Path, value: float = 1.0, overwrite: bool = False) -> None:
    with polite() as stop:
        try:
            with RunWriter(path, kind="regions", overwrite=overwrite) as run:
                run.manifest.update(summary={"lrds": value})
                run.table("t", pd.DataFrame({"x": [value]}))
                run.file("regions/a.txt").write_text("a")
        except KeyboardInterrupt:
            raise SystemExit(stop.code) from None


def test_a_run_killed_at_every_change_is_there_whole_or_not_at_all(tmp_path):
    folder, notes = tmp_path / "runs", tmp_path / "notes"
    folder.mkdir()
    target = folder / "run"
    moments = strike(partial(write_small, target), folder, notes).changes
    assert moments > 8
    for at in range(1, moments + 1):
        remove(target)
        struck = strike(partial(write_small, target), folder, notes, at=at)
        assert struck.code == -signal.SIGKILL, struck
        if target.exists():
            open_run(target).validate()
        write_small(target, overwrite=True)
        open_run(target).validate()
        assert shown(folder) == ["run"], at


def test_a_run_killed_while_it_replaces_another_costs_neither(tmp_path):
    folder, notes = tmp_path / "runs", tmp_path / "notes"
    folder.mkdir()
    target = folder / "run"
    write_small(target, 1.0)
    moments = strike(partial(write_small, target, 1.0, True), folder, notes).changes
    between = 0
    for at in range(1, moments + 1):
        struck = strike(partial(write_small, target, 2.0, True), folder, notes, at=at)
        assert struck.code == -signal.SIGKILL, struck
        if not target.exists():
            # between the two renames: the old run is hidden, and the next start brings it back before anything else
            between += 1
            with pytest.raises(RunError, match="exists"):
                write_small(target, 3.0)
            assert open_run(target).summary == {"lrds": 1.0}
        open_run(target).validate()
        assert open_run(target).summary["lrds"] in (1.0, 2.0)
        write_small(target, 1.0, overwrite=True)
        assert shown(folder) == ["run"], at
    assert between == 1


def test_sigterm_at_every_change_leaves_nothing_behind(tmp_path):
    folder, notes = tmp_path / "runs", tmp_path / "notes"
    folder.mkdir()
    target = folder / "run"
    moments = strike(partial(write_small, target), folder, notes).changes
    remove(target)
    for at in range(2, moments + 1):
        struck = strike(partial(write_small, target), folder, notes, at=at, blow=signal.SIGTERM)
        # asked at the very end, the run is whole before the signal is seen
        assert struck.code in (0, 128 + signal.SIGTERM), struck
        assert [name for name in shown(folder) if name != "run"] == [], at
        if target.exists():
            open_run(target).validate()
            remove(target)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_files_and_folders_are_whole_too(tmp_path, kind):
    folder, notes = tmp_path / "place", tmp_path / "notes"
    folder.mkdir()
    target = folder / "out.csv"

    def work() -> None:
        if kind == "file":
            with whole_file(target) as path:
                path.write_text("a\n" * 100)
        else:
            with whole_folder(target) as path:
                (path / "a").write_text("a")
                (path / "b").write_text("b")

    moments = strike(work, folder, notes).changes
    assert moments >= 2
    for at in range(1, moments + 1):
        remove(target)
        assert strike(work, folder, notes, at=at).code == -signal.SIGKILL
        if target.exists():
            assert kind == "folder" or target.read_text() == "a\n" * 100
            assert kind == "file" or shown(target) == ["a", "b"]
            remove(target)
        work()
        assert shown(folder) == ["out.csv"], at


# -- every command that writes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """Arguments before the output, the output's name, the option that names it, and what a whole output is."""

    arguments: Callable[[Path], list[object]]
    target: str
    whole: Callable[[Path], object]
    option: str | None = "--out"
    heavy: bool = False
    also: tuple[str, ...] = ()
    """names of further files beside the output"""
    slow: bool = False
    """struck three times by night, as one run takes half a minute or more"""

    @property
    def names(self) -> list[str]:
        """All that is there in the end."""
        return sorted((self.target, *self.also))

    def kills(self, changes: int) -> int:
        """How many moments of so many are tried."""
        return min(3 if self.slow else KILLS, changes)

    def clear(self, folder: Path) -> None:
        """Removes all that the command writes."""
        for name in self.names:
            remove(folder / name)


def valid(path: Path) -> None:
    open_run(path).validate()


def ends_with(end: bytes, path: Path) -> None:
    assert path.read_bytes().rstrip().endswith(end)


def tables(path: Path) -> None:
    assert all(list(csv.reader(file.open())) for file in path.glob("*.csv"))
    assert any(path.iterdir())


def region_file(path: Path) -> None:
    from babelscope.regions import load_regions

    assert load_regions(path).languages


def loads(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path / "model.safetensors", framework="pt") as file:
        assert file.keys()
    assert (path / "tokenizer.json").is_file()


def replication(path: Path) -> None:
    assert shown(path) == ["index.html", "parts.csv", "verdict.json"]
    json.loads((path / "verdict.json").read_text())


def circuit_file(path: Path) -> None:
    from babelscope.circuits.edges.circuit import Circuit

    assert Circuit.load(path).size


def points(path: Path) -> None:
    if is_run(path):
        open_run(path).validate()
    for folder in path.iterdir():
        if (folder / "run.json").is_file():
            open_run(folder).validate()


COMMANDS = {
    "regions": Command(
        lambda w: ["regions", w / "model", "--corpus", f"lines:{w / 'lines'}", "--samples", 6, "--threshold", 1.5,
                   "--bootstrap", 20, "--languages", "en,fr,es,pt"],
        "run", valid,
    ),
    "circuits": Command(
        lambda w: ["circuits", "pocket:pocket-gpt2-en", "--languages", "en", "--n", 6, "--draws", 1, "--no-edges"],
        "run", valid, heavy=True,
    ),
    "sweep": Command(
        lambda w: ["sweep", "--model", w / "steps", "--revisions", "step*", "--stories", "pocket:?n=2",
                   "--languages", "en,fr"],
        "sweep", points,
    ),
    "evaluate": Command(
        lambda w: ["evaluate", w / "model", "--stories", "pocket:?n=2", "--languages", "en,fr"], "run", valid
    ),
    "report": Command(lambda w: ["report", w / "regions"], "page.html", partial(ends_with, b"</html>"), heavy=True),
    "figure": Command(lambda w: ["figure", w / "regions", "region_sizes"], "x.png", partial(ends_with, b"\xaeB`\x82")),
    "compare": Command(lambda w: ["compare", w / "first", w / "second"], "tables", tables),
    "corpus audit": Command(lambda w: ["corpus", "audit", f"lines:{w / 'lines'}"], "findings", tables),
    "tasks census": Command(
        lambda w: ["tasks", "census", "ioi", w / "model", "--languages", "en", "-n", 8],
        "census.csv", lambda path: list(csv.reader(path.open())), "--csv",
    ),
    "regions import": Command(lambda w: ["regions", "import", w / "regions.json"], "out.safetensors", region_file),
    "regions export": Command(
        lambda w: ["regions", "export", w / "r.safetensors"], "out.json", lambda path: json.loads(path.read_text())
    ),
    "pocket export": Command(lambda w: ["pocket", "export", "bloom-s"], "model", loads, None),
    "latent": Command(
        lambda w: ["latent", "pocket:planted-pivot", "--words", "planted", "--n", 8, "--draws", 100,
                   "--permutations", 19, "--matched", 0],
        "run", valid, heavy=True,
    ),
    "steer": Command(
        lambda w: ["steer", "pocket:pocket-bloom-s", "--corpus", "pocket:heldout?n=60", "--languages", "en,fr,es",
                   "--fixed", "--tokens", 3, "--alpha", 1, "--layer", 2, "--choose-prompts", 2, "--report-prompts", 3,
                   "--controls", 1, "--third", 1],
        "run", valid, heavy=True,
    ),
    "confusion": Command(lambda w: ["confusion", w / "answers.csv"], "run", valid),
    "confusion of a model": Command(
        lambda w: ["confusion", "pocket:pocket-bloom-s", "--languages", "en,fr", "--limit", 2, "--tokens", 3,
                   "--fixed"],
        "run", valid, heavy=True,
    ),
    "replicate": Command(
        lambda w: ["replicate", "zeng-same-meaning", "--quick", "--n", 20, "--draws", 20], "claim", replication,
        heavy=True, slow=True,
    ),
    "circuits import": Command(
        lambda w: ["circuits", "import", w / "graph.json"], "c.safetensors", circuit_file, also=("c.json",)
    ),
    "circuits export": Command(
        lambda w: ["circuits", "export", w / "c.safetensors"], "g.json", lambda path: json.loads(path.read_text())
    ),
    "pocket evaluate": Command(
        lambda w: ["pocket", "evaluate", "bloom-s"], "x.json", lambda path: json.loads(path.read_text()), "--json",
        heavy=True, slow=True,
    ),
    "demo": Command(lambda w: ["demo", "--quick", "--overwrite"], "demo", points, heavy=True, slow=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the commands read."""
    import_ahead()
    from babelscope.circuits.edges.mib import from_graph
    from babelscope.regions.exchange import export_regions
    from babelscope.regions.masks import RegionSet, save_regions

    folder = tmp_path_factory.mktemp("world")
    for name, seed in (("model", 0), ("steps/step1", 1), ("steps/step2", 2)):
        tiny_model("bloom", seed=seed).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    (folder / "lines").mkdir()
    for code in LANGUAGES:
        (folder / "lines" / f"{code}.txt").write_text("".join(f"{code} says {i} things.\n" for i in range(8)))
    write_regions(folder / "regions")
    write_circuits(folder / "first")
    write_circuits(folder / "second", seed=1)
    regions = RegionSet({"en": torch.ones(2, 3).bool(), "zh": torch.eye(2, 3).bool()}, "z-score")
    save_regions(regions, folder / "r.safetensors")
    export_regions(regions, folder / "regions.json")
    answers = "model,completion,task,source,language\n"
    answers += "m,Il fait beau et je vais au marché avec ma sœur.,monolingual,s,fr\n"
    (folder / "answers.csv").write_text(answers + "m,The weather is fine and I go to town.,monolingual,s,fr\n")
    graph = {
        "cfg": {"n_layers": 1, "n_heads": 2, "d_model": 8, "parallel_attn_mlp": False},
        "nodes": {},
        "edges": {"input->a0.h0<q>": {"score": 0.5, "in_graph": True}},
    }
    (folder / "graph.json").write_text(json.dumps(graph))
    from_graph(graph).save(folder / "c")
    return folder


def start(command: Command, world: Path, target: Path) -> None:
    given = [*map(str, command.arguments(world)), *([command.option] if command.option else []), str(target)]
    torch.set_num_threads(1)
    main(given)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_nothing_or_something_whole(tmp_path, world, name):
    command, folder, notes = COMMANDS[name], tmp_path / "place", tmp_path / "notes"
    if command.heavy and not NIGHTLY:
        pytest.skip("in `make faults` only: it takes long, and writes by what the other commands write by")
    folder.mkdir()
    target, dice = folder / command.target, random.Random(zlib.crc32(name.encode()))
    work = partial(start, command, world, target)
    whole = strike(work, folder, notes)
    assert whole.code == 0, whole
    command.whole(target)
    assert shown(folder) == command.names
    for at in dice.sample(range(1, whole.changes + 1), command.kills(whole.changes)):
        command.clear(folder)
        struck = strike(work, folder, notes, at=at)
        assert struck.code == -signal.SIGKILL, struck
        if target.exists():
            command.whole(target)
            if name not in ("sweep", "demo"):
                command.clear(folder)
        again = strike(work, folder, notes)
        assert again.code == 0, (at, again)
        command.whole(target)
        assert shown(folder) == command.names, at


def test_every_verb_that_writes_is_struck():
    places = {"out", "csv", "json_file", "directory"}
    writes = {name for name, parameters in every_option() if places & {*parameters}}
    assert len(writes) > 15
    # pull needs a hub: tests/test_hub.py holds what it leaves when it is cut off
    assert writes - {"sweep status", "pull"} <= {*COMMANDS}, writes - {*COMMANDS}


@pytest.mark.parametrize("name", ["regions", "sweep", "evaluate", "regions export"])
def test_a_terminated_command_tidies_up_at_once(tmp_path, world, name):
    command, folder, notes = COMMANDS[name], tmp_path / "place", tmp_path / "notes"
    folder.mkdir()
    target, dice = folder / command.target, random.Random(zlib.crc32(name.encode()) + 1)
    work = partial(start, command, world, target)
    changes = 8 if name == "sweep" else 3
    for at in [dice.randint(2, changes) for _ in range(max(1, KILLS // 2))]:
        struck = strike(work, folder, notes, at=at, blow=signal.SIGTERM)
        assert struck.code in (0, 143), struck
        if struck.code == 143:
            assert "interrupted; nothing half-written was left" in struck.said
            assert "Traceback" not in struck.said
        assert [found for found in shown(folder) if found != command.target] == [], (at, struck)
        if target.exists():
            command.whole(target)
            assert not [path for path in target.rglob(".*") if target.is_dir()], at
        remove(target)


@pytest.mark.skipif(not NIGHTLY, reason="in `make faults` only: moments by the clock need many tries")
@pytest.mark.parametrize("name", ["regions", "evaluate", "sweep"])
def test_kills_by_the_clock(tmp_path, world, name):
    command, folder, notes = COMMANDS[name], tmp_path / "place", tmp_path / "notes"
    folder.mkdir()
    target, dice = folder / command.target, random.Random(7)
    work = partial(start, command, world, target)
    for _ in range(KILLS // 2):
        struck = strike(work, folder, notes, after=dice.uniform(0, 3))
        assert struck.code in (0, -signal.SIGKILL), struck
        if target.exists():
            command.whole(target)
            if name != "sweep":
                remove(target)
    remove(target) if name != "sweep" else None
    assert strike(work, folder, notes).code == 0
    command.whole(target)
    assert shown(folder) == [command.target]
