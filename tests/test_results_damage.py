"""Every kind of damage to results, and every error of another library, is one line; whichever hash is the larger."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem

from babelscope.errors import InputError, RunError, Unwritable
from babelscope.results import arrays, hidden, hub, lock, scratch, sealed, step_store, store, tables, whole
from babelscope.results.arrays import read_arrays, write_arrays
from babelscope.results.checksums import checksums, verify
from babelscope.results.reader import open_run
from babelscope.results.rows import read_rows
from babelscope.results.schemas.latent import Entropy
from babelscope.results.schemas.sweep import points
from babelscope.results.step_store import StepStore
from babelscope.results.writer import RunWriter

DEEP = "[" * 100_000


@pytest.fixture
def kept(tmp_path):
    store = StepStore(tmp_path / "run")
    store.once("a", "1", lambda: np.arange(2))
    return store


def said(store: StepStore, value: object, files: dict[str, str] | None = None) -> None:
    """A kept step that holds this, with the right sum."""
    body = {"files": files or {}, "value": value}
    (store.folder / "a-1" / "step.json").write_text(json.dumps({"body": body, "sha256": step_store._hash(body)}))


@pytest.mark.parametrize(
    "value",
    [
        {"array": "nothing.npy"},
        {"table": "nothing.parquet"},
        {"float": "x"},
        {"map": [[1]]},
        {"map": 3},
        {"tuple": 3},
        {"class": "babelscope.results.schemas.steering:Judged", "fields": {"other": 1}},
        {"class": "babelscope.results.schemas.steering:Nothing", "fields": {}},
        {"class": "babelscope.no_such_module:x", "fields": {}},
        {"class": "os:x", "fields": {}},
    ],
)
def test_a_kept_value_that_cannot_be_made_is_damage(kept, value):
    said(kept, value)
    with pytest.raises(RunError, match=r"step\.json is not as it was written \(.+\); remove .* to compute this step"):
        kept.read("a", "1")


def test_a_flipped_byte_is_seen_whichever_sum_is_the_larger(kept, tmp_path):
    place = kept.folder / "a-1"
    array, step = (place / "0.npy").read_bytes(), (place / "step.json").read_bytes()
    for place_of in range(8, 24):
        changed = bytearray(array)
        changed[-place_of] ^= 1
        (place / "0.npy").write_bytes(bytes(changed))
        with pytest.raises(RunError, match=r"0\.npy is not as it was written"):
            kept.read("a", "1")
    (place / "0.npy").write_bytes(array)
    for digit in "0123456789abcdef":
        whole_step = json.loads(step)
        whole_step["body"]["key"] = digit * 3
        (place / "step.json").write_text(json.dumps(whole_step))
        with pytest.raises(RunError, match=r"step\.json is not as it was written"):
            kept.read("a", "1")
    root = tmp_path / "files"
    root.mkdir()
    (root / "a").write_text("a")
    (root / "checksums.json").write_text(json.dumps(checksums(root)))
    for text in "bcdefghijk":
        (root / "a").write_text(text)
        with pytest.raises(RunError, match=r"a is damaged$"):
            verify(root)
    from safetensors.torch import save_file

    for digit in "0123456789abcdef":
        save_file({"a": torch.ones(1)}, tmp_path / "y", {"circuit": "t", "sha256": digit * 64})
        with pytest.raises(InputError, match=r"is damaged"):
            sealed.read_sealed(tmp_path / "y", "circuit")


def test_texts_that_nest_without_end_say_nothing(kept, tmp_path):
    assert sys.getrecursionlimit() < len(DEEP)
    (tmp_path / "owner").write_text(DEEP)
    assert hidden._owner(tmp_path) == {}
    assert lock._holder(tmp_path / "owner") == ""
    (kept.folder / "a-1" / "step.json").write_text(DEEP)
    with pytest.raises(RunError, match=r"step\.json is not as it was written"):
        kept.read("a", "1")


@pytest.mark.parametrize("error", [OSError, ValueError, KeyError, TypeError, RuntimeError])
def test_whatever_a_store_of_arrays_raises_is_damage(tmp_path, monkeypatch, error):
    write_arrays(tmp_path, xr.Dataset({"u": ("x", [1, 2])}))
    monkeypatch.setattr(arrays.xr, "open_zarr", lambda *_, **__: (_ for _ in ()).throw(error("odd")))
    with pytest.raises(RunError, match=rf"^the arrays of the run {tmp_path} are damaged: "):
        read_arrays(tmp_path)


def test_what_a_variable_says_of_itself_is_kept_and_how_it_was_stored_is_not(tmp_path):
    held = xr.Dataset({"u": ("x", np.arange(4.0)), "single": 0.75}, attrs={"n": np.int64(3)})
    held["u"].attrs.update(unit=np.float32(0.5), missing=np.nan)
    held["u"].encoding["chunks"] = (1,)
    for name in held:
        held[name].encoding["dtype"] = "int8"
    write_arrays(tmp_path, held)
    arrays.consolidate(tmp_path)
    back = read_arrays(tmp_path)
    assert (back["u"].attrs, back.attrs, back["u"].dtype) == ({"unit": 0.5, "missing": None}, {"n": 3}, np.float64)
    assert float(back["single"]) == 0.75
    assert back["u"].encoding["chunks"] == (4,)
    assert held["u"].encoding["chunks"] == (1,)


class Tables:
    def __init__(self, name: str, frame: pd.DataFrame) -> None:
        self.source, self.tables, self.frame = "here", [name], frame

    def table(self, _: str) -> pd.DataFrame:
        return self.frame


def test_a_column_of_lists_is_no_column_of_numbers():
    columns = ("source", "target", "layer", "entropy", "entropy_low", "entropy_high", "lens")
    frame = pd.DataFrame({name: [1] for name in columns}).assign(entropy=[[1, 2]])
    with pytest.raises(RunError, match=r"holds something else than float in its column 'entropy'$"):
        read_rows(Tables("entropy", frame), Entropy)
    sweep = pd.DataFrame({"model": ["m"], "key": ["k"], "odd": [[1, 2]], "lrds": [0.5]})
    assert points(Tables("points", sweep))[0].values == {"lrds": 0.5}


@pytest.mark.parametrize("error", [OSError("full"), ValueError("full")])
def test_whatever_the_hub_raises_is_one_line(tmp_path, monkeypatch, error):
    import huggingface_hub

    def raises(*_: object, **__: object) -> None:
        raise error

    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(create_repo=raises))
    with pytest.raises(Unwritable, match=r"^cannot put it at hf://a/b: full$"):
        hub.push(tmp_path / "a.json", "hf://a/b")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raises)
    with pytest.raises(RunError, match=r"^cannot read hf://a/b: full$"):
        hub.pull("hf://a/b", tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_progress_bars_of_the_hub_are_as_they_were():
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    for set_to in (enable_progress_bars, disable_progress_bars):
        set_to()
        before = are_progress_bars_disabled()
        with hub._no_bars():
            assert are_progress_bars_disabled()
        assert are_progress_bars_disabled() is before
    enable_progress_bars()


def test_what_is_committed_and_what_goes(tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "a.json").write_text("{}")
    asked: dict[str, Any] = {}

    def commit(repository: str, operations: list[Any], **named: object) -> SimpleNamespace:
        asked.update(named, repository=repository, operations=operations)
        return SimpleNamespace(oid="1f")

    api = SimpleNamespace(
        create_repo=lambda *given, **named: asked.update(created=(given, named)),
        list_repo_files=lambda *_, **__: ["old.json", "a.json", ".gitattributes"],
        create_commit=commit,
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert hub.push(tmp_path / "a.json", "hf://a/b@v1", private=True) == "hf://a/b@1f"
    assert asked["created"] == (("a/b",), {"private": True, "repo_type": "dataset", "exist_ok": True})
    kinds = [(type(one).__name__.removeprefix("CommitOperation"), one.path_in_repo) for one in asked["operations"]]
    assert kinds == [("Add", "README.md"), ("Add", "a.json"), ("Add", "checksums.json"), ("Delete", "old.json")]
    assert (asked["repo_type"], asked["revision"]) == ("dataset", "v1")


def test_a_folder_that_is_not_empty_stays_unless_it_may_go(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("")
    with pytest.raises(InputError, match="exists and is not an empty directory"), whole.whole_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a" / "x").is_file()


def test_tables_are_read_whole_or_not_at_all(tmp_path, monkeypatch):
    tables.write_table(tmp_path, "a", pd.DataFrame({"x": [1]}))
    for error in (ValueError, KeyError, RuntimeError):
        monkeypatch.setattr(tables.pd, "read_parquet", lambda _, error=error: (_ for _ in ()).throw(error("odd")))
        with pytest.raises(RunError, match=r"is damaged$"):
            tables.read_table(tmp_path, "a")


def test_arrays_of_a_run_are_compared_group_by_group(tmp_path):
    with RunWriter(tmp_path / "run", kind="regions") as run:
        run.arrays(xr.Dataset({"u": ("x", np.arange(3.0))}))
        run.arrays(xr.Dataset({"w": ("x", np.arange(3.0))}), "en")
    file = next(one for one in (tmp_path / "run" / "arrays.zarr" / "en" / "w").rglob("*") if one.name == "0")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    found = open_run(tmp_path / "run")
    assert found.groups == ["en"]
    assert found.arrays()["u"].values.tolist() == [0, 1, 2]
    assert found.arrays() is found.arrays()
    with pytest.raises(RunError, match=r"arrays\.zarr/en/w/c/0 is damaged$"):
        found.arrays("en")
    open_run(tmp_path / "run", validate=False).arrays("en")


def test_folders_around_a_place_are_made(tmp_path):
    deep = tmp_path / "a" / "b" / "c"
    whole.write_whole(deep / "file" / "x", "1")
    with whole.whole_folder(deep / "folder" / "y" / "x"):
        pass
    with RunWriter(deep / "run" / "y" / "x", kind="regions") as run:
        run.file("p/q/r").write_text("1")
    StepStore(deep / "steps" / "y" / "x").once("a", "1", lambda: 1)
    with scratch.Scratch("s", deep / "scratch" / "y" / "x") as path:
        assert path.is_dir()
    system = MemoryFileSystem()
    store.put_run(deep / "run" / "y" / "x", "memory://p/q/r")
    assert store.get_run("memory://p/q/r", deep / "got" / "y" / "x") == deep / "got" / "y" / "x"
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_steps_that_are_being_removed_say_whose_they_are_to_the_last(kept, monkeypatch):
    (kept.folder / "stray").write_text("")
    own = step_store.shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool) -> None:
        if path == kept.folder:
            raise KeyboardInterrupt
        own(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(step_store.shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        kept.remove()
    assert [one.name for one in kept.folder.iterdir()] == ["owner.json"]
    monkeypatch.undo()
    kept.remove()
    assert not kept.folder.exists()
