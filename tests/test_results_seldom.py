"""What seldom happens to results: stores that fail, folders that vanish, who is stopped in the middle."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from filelock import Timeout
from fsspec.implementations.memory import MemoryFileSystem

from babelscope.errors import RunError, Unwritable
from babelscope.results import arrays, display, hidden, lock, scratch, store, writer
from babelscope.results.checksums import inside
from babelscope.results.hidden import HiddenFolder
from babelscope.results.layout import is_run
from babelscope.results.lock import RunLock
from babelscope.results.reader import open_run
from babelscope.results.rows import Part, Row, read_rows
from babelscope.results.schemas.latent import Entropy
from babelscope.results.step_store import StepStore
from babelscope.results.writer import RunWriter


def emptied() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_how_much_text_a_table_was_measured_on():
    rounds = {"regions_by_rounds": [2, 0, 2], "draws_by_rounds": [4, 0, 0]}
    told = {"fixed": False, "tokens": 30, "tokens_fixed": 90, **rounds}
    each = "in 1, 2, 3 rounds: regions 2, 0, 2, random draws 4, 0, 0 (in each language)"
    assert display._read(told) == f"30 of 90 tokens under deactivation; {each}"
    assert display._read({**told, "fixed": True}) == "30 of 90 tokens under deactivation"


def test_labels_of_any_kind_of_text_are_texts():
    for value in (np.array(["a", "bc"], dtype=object), np.array(["a", "bc"])):
        found = arrays._text(xr.DataArray(value, dims="x"))
        assert (found.dtype.kind, found.values.tolist()) == ("U", ["a", "bc"])
    assert arrays._text(xr.DataArray([1, 2], dims="x")).dtype.kind == "i"


def test_a_table_without_any_column_that_is_known_has_no_rows():
    import pandas as pd

    class Tables:
        source, tables = "here", ["entropy"]

        def table(self, _: str) -> pd.DataFrame:
            return pd.DataFrame({"other": [1]})

    with pytest.raises(RunError, match=r"has no column 'lens'$"):
        read_rows(Tables(), Entropy)


def test_a_hidden_folder_that_is_taken_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    class Held:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def acquire(self) -> None:
            raise Timeout("lock")

    made = HiddenFolder(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(hidden, "FileLock", Held)
        assert made._make() is False
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(hidden.socket, "gethostname", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made._make()
    assert list(tmp_path.iterdir()) == []
    assert made._make() is True
    made.close()


def test_who_is_stopped_while_taking_a_lock_gives_it_back(tmp_path, monkeypatch):
    one = RunLock(tmp_path / "lock", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(lock.json, "dumps", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            one.acquire()
    assert list(tmp_path.iterdir()) == []
    RunLock(tmp_path / "lock", tmp_path).acquire()


def test_who_is_stopped_while_giving_a_lock_back_tidies_up_first(tmp_path, monkeypatch):
    one, struck = RunLock(tmp_path / "lock", tmp_path), []
    one.acquire()
    own = RunLock._unlink

    def unlink(self: RunLock) -> None:
        struck.append(1)
        if len(struck) == 1:
            raise KeyboardInterrupt
        own(self)

    monkeypatch.setattr(RunLock, "_unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        one.release()
    assert (len(struck), list(tmp_path.iterdir())) == (2, [])
    assert not one._lock.is_locked


def test_in_another_thread_there_is_nothing_to_hold_back():
    def work() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with lock.undisturbed():
            found.append(signal.getsignal(signal.SIGTERM) is before)

    found: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]


def test_a_name_that_no_file_can_have_is_no_run(monkeypatch):
    assert not is_run("a\0b")
    monkeypatch.setattr(Path, "is_file", lambda _: (_ for _ in ()).throw(OSError("no")))
    assert not is_run("a")


def test_a_folder_whose_lock_was_cleared_away_is_made_again(tmp_path, monkeypatch):
    asked: list[int] = []
    own = RunLock.held.fget
    assert own is not None

    def held(self: RunLock) -> bool:
        asked.append(1)
        return own(self) if len(asked) > 1 else False

    monkeypatch.setattr(RunLock, "held", property(held))
    path, one = scratch._owned(tmp_path, "x-")
    assert path.is_dir()
    one.release()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            scratch._owned(tmp_path, "y-")
    assert not list(tmp_path.glob("y-*"))


def test_files_beside_steps_go_with_them(tmp_path):
    kept = StepStore(tmp_path / "run")
    kept.once("a", "1", lambda: 1)
    (kept.folder / "stray").write_text("")
    (kept.folder / "b-1.part").mkdir()
    (kept.folder / "link").symlink_to(tmp_path)
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_fails_is_one_line(tmp_path, monkeypatch):
    emptied()
    with RunWriter(tmp_path / "run", kind="regions") as run:
        run.file("a").write_text("1")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(Unwritable, match=r"^cannot write the run memory://f: full$"):
            store.put_run(tmp_path / "run", "memory://f")
    emptied()
    order: list[str] = []
    own = MemoryFileSystem.put_file

    def put(self: MemoryFileSystem, local: str, there: str, **more: object) -> None:
        order.append(there)
        own(self, local, there, **more)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", put)
        store.put_run(tmp_path / "run", "memory://f")
    assert [one.rpartition("/")[2] for one in order] == ["a", "checksums.json", "run.json"]
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", lambda *_, **__: (_ for _ in ()).throw(OSError("bad")))
        with pytest.raises(RunError, match=r"^cannot read the run memory://f: bad$"):
            store.get_run("memory://f", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    emptied()


def test_folders_are_flushed_where_they_can_be(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(1))
    writer._flush(tmp_path)
    assert len(flushed) == 3  # the file, its folder, and the one around it
    flushed.clear()
    monkeypatch.setattr(writer, "os", SimpleNamespace(name="nt", fsync=os.fsync))
    writer._flush_folder(tmp_path)
    assert flushed == []


def test_a_run_that_fails_for_want_of_room_is_unwritable(tmp_path):
    with pytest.raises(Unwritable, match=rf"^cannot write the run {tmp_path / 'run'}: No space left on device$"):
        with RunWriter(tmp_path / "run", kind="regions"):
            raise OSError(28, "No space left on device")
    with pytest.raises(Unwritable, match=r": No space left in the store$"), RunWriter(tmp_path / "run", kind="regions"):
        raise RuntimeError("No space left in the store\nmore")
    with pytest.raises(ValueError, match="own"), RunWriter(tmp_path / "run", kind="regions"):
        raise ValueError("own")
    with pytest.raises(RunError, match=r"was removed, replaced or cut short by somebody else; nothing was written"):
        with RunWriter(tmp_path / "run", kind="regions") as run:
            hidden_folder = run.folder.parent.parent
            hidden_folder.rename(tmp_path / "gone")
            raise ValueError("its folder is gone")
    assert not (tmp_path / "run").exists()


def test_a_remote_run_is_made_here_and_put_there(tmp_path):
    emptied()
    with RunWriter("memory://there", kind="regions") as run:
        here = run.path
        run.file("a").write_text("1")
    assert not here.exists()
    assert run.remote == "memory://there"
    assert MemoryFileSystem().cat("/there/a") == b"1"
    with (
        pytest.raises(RunError, match=r"^memory://there exists; give --overwrite"),
        RunWriter("memory://there", "regions"),
    ):
        pass
    with RunWriter("memory://there", kind="circuits", overwrite=True):
        pass
    assert not MemoryFileSystem().exists("/there/a")
    emptied()


def test_what_is_opened_in_one_thread_may_be_closed_in_another(tmp_path):
    made, one = HiddenFolder(tmp_path / "a"), RunLock(tmp_path / "lock", tmp_path)
    made.open()
    one.acquire()
    held = made._lock
    assert held is not None
    assert held.is_locked
    for act in (made.close, one.release):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
    assert (held.is_locked, one._lock.is_locked) == (False, False)
    assert list(tmp_path.iterdir()) == []


def test_a_stubborn_close_tries_fifty_times(tmp_path, monkeypatch):
    tried: list[int] = []
    monkeypatch.setattr(hidden, "_remove", lambda _, tries: tried.append(tries))
    for name, stubborn in (("a", True), ("b", False)):
        made = HiddenFolder(tmp_path / name)
        made.open()
        made.close(stubborn)
    assert tried == [50, 1]


def test_arrays_of_a_fetched_run_outlive_it(tmp_path):
    emptied()
    with RunWriter(tmp_path / "run", kind="regions") as run:
        run.arrays(xr.Dataset({"u": ("x", np.arange(5.0))}))
    store.put_run(tmp_path / "run", "memory://g")
    found = open_run("memory://g")
    held = found.arrays()
    del found
    assert held["u"].values.tolist() == [0, 1, 2, 3, 4]
    emptied()


def test_a_link_to_itself_is_named_by_eighty_letters(tmp_path):
    name = "x" * 100
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(RunError, match=rf"^('{'x' * 80}' cannot be a file of the run|the file '{name}' is a link)"):
        inside(tmp_path, name)


def test_parts_of_rows_that_change_are_none():
    """A class of rows that is not frozen cannot be made of one that is."""
    for base in (Part, Row):
        with pytest.raises(TypeError, match="non-frozen"):
            dataclasses.dataclass(type("Loose", (base,), {}))
