"""Locks, folders to work in, stores and names on the hub: who is refused, and what is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from babelscope.errors import MissingExtra, RunError, Unwritable
from babelscope.results import hub, scratch, store
from babelscope.results.lock import RunLock, _holder, undisturbed
from babelscope.results.reader import open_run
from babelscope.results.scratch import Scratch, clear_dead, scratch_in
from babelscope.results.writer import RunWriter


def run_at(place: Path, **files: str) -> Path:
    """A finished run of a few files."""
    with RunWriter(place, kind="regions") as run:
        for name, text in files.items():
            run.file(name).write_text(text)
    return place


# -- locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    first, second = RunLock(path, tmp_path / "what"), RunLock(path, tmp_path / "what")
    assert not first.held
    first.acquire()
    assert (first.held, second.held) == (True, False)
    assert json.loads(path.read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    told = (
        rf"^another process \(process {os.getpid()} on '{socket.gethostname()[:60]}'\) is writing {tmp_path / 'what'}$"
    )
    with pytest.raises(RunError, match=told):
        second.acquire()
    second.release()
    assert path.exists()
    path.unlink()
    path.write_text("another's")
    assert not first.held
    first.release()
    assert path.read_text() == "another's"
    path.unlink()
    first.acquire()
    first.release()
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"pid": 7, "host": "h"}', " (process 7 on 'h')"),
        ('{"pid": "7", "host": 3}', " (process 7 on '3')"),
        (json.dumps({"pid": 7, "host": "x" * 99}), f" (process 7 on '{'x' * 60}')"),
        ("", ""), ("[]", ""), ('{"pid": 7}', ""), ('{"pid": "a", "host": "h"}', ""), (None, ""),
    ],
)  # fmt: skip
def test_a_holder_is_named_where_it_says_who_it_is(tmp_path, text, told):
    if text is not None:
        (tmp_path / "lock").write_text(text)
    assert _holder(tmp_path / "lock") == told


@pytest.mark.parametrize("there", ["this thread", "another thread", "no thread"])
def test_who_is_asked_to_stop_hears_of_it_afterwards(there):
    """The system gives the signal of a process to any of its threads; it is held back twice over, and told once."""
    heard: list[int] = []
    ready, over = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: (ready.set(), over.wait()))
    other.start()
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with undisturbed():
            with undisturbed():
                ready.wait()
                if there == "no thread":
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    thread = threading.get_ident() if there == "this thread" else other.ident
                    signal.pthread_kill(thread, signal.SIGTERM)
                time.sleep(0.01)
                assert heard == []
            assert heard == []
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
        over.set()
        other.join()


def test_an_interrupt_takes_no_other_word_with_it():
    heard: list[int] = []
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda number, _: heard.append(number)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        for order in ((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)):
            with pytest.raises(KeyboardInterrupt), undisturbed():
                for number in order:
                    signal.raise_signal(number)
        assert heard == [signal.SIGTERM] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_is_ignored_stays_ignored():
    handlers = {signal.SIGHUP: signal.SIG_IGN, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with undisturbed():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- folders to work in ---------------------------------------------------------------------------------------------


def test_a_folder_to_work_in_is_its_owners_alone(tmp_path):
    made = Scratch("x", tmp_path / "in")
    assert made.path.parent == tmp_path / "in"
    assert (made.path.name[:2], len(made.path.name)) == ("x-", 14)
    assert made.path.stat().st_mode & 0o777 == 0o700
    assert (made.path.parent / f"{made.path.name}.lock").is_file()
    made.close()
    made.close()
    assert list((tmp_path / "in").iterdir()) == []
    with scratch_in(tmp_path / "in") as path:
        assert path.name.startswith("work-")
    assert not (tmp_path / "in").exists()
    with scratch_in(tmp_path / "in", "y"), Scratch("z", tmp_path / "in") as other:
        pass
    assert not other.exists()


def test_a_temporary_place_is_cleared_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(scratch, "_looked_at", set())
    for name in ("babelscope-dead", "babelscope-unlocked", "other"):
        (tmp_path / name).mkdir()
    for name in ("babelscope-dead", "other"):
        (tmp_path / f"{name}.lock").write_text("")
    with Scratch("x") as path:
        assert path.name.startswith("babelscope-x-")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["babelscope-unlocked", "other", "other.lock"]
    (tmp_path / "babelscope-dead.lock").write_text("")
    with Scratch("x"):
        assert (tmp_path / "babelscope-dead.lock").exists()
    clear_dead(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_of_the_living_stay(tmp_path):
    with Scratch("x", tmp_path) as path:
        (path / "work").write_text("")
        clear_dead(tmp_path)
        clear_dead(tmp_path, "x-")
        assert (path / "work").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_temporary_folders_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match=r"^cannot write .*file.*: .+; set TMPDIR to a place for temporary folders$"):
        Scratch("x")


def test_a_forked_childs_end_removes_nothing(tmp_path):
    lock = RunLock(tmp_path / "lock", tmp_path)
    (tmp_path / "folder").mkdir()
    for other in (os.getpid() + 1, os.getpid() - 1):
        scratch._remove(tmp_path / "folder", lock, other)
    assert (tmp_path / "folder").is_dir()
    scratch._remove(tmp_path / "folder", lock, os.getpid())
    assert not (tmp_path / "folder").exists()


# -- stores ---------------------------------------------------------------------------------------------------------


def test_runs_in_a_store_are_listed_and_replaced_where_they_may(tmp_path, memory):
    root = run_at(tmp_path / "run", a="1")
    assert store.list_runs("memory://runs") == []
    assert store.put_run(root, "memory://runs/b") == "memory://runs/b"
    store.put_run(root, "memory://runs/a")
    store.put_run(root, "memory://runs/.hidden")
    memory.pipe("/runs/c/other", b"")
    assert store.list_runs("memory://runs") == ["memory://runs/a", "memory://runs/b"]
    assert store.list_runs("memory://runs/") == ["memory://runs/a", "memory://runs/b"]
    told = r"^memory://runs/a exists; give --overwrite or another --out \(in Python overwrite=True, another folder\)$"
    with pytest.raises(RunError, match=told):
        store.put_run(root, "memory://runs/a")
    memory.pipe("/runs/a/stale", b"")
    store.put_run(root, "memory://runs/a", overwrite=True)
    assert sorted(store._names(memory, "/runs/a")) == ["a", "checksums.json", "run.json"]
    told = r"^memory://runs/c is not a run, so it will not be overwritten; give another --out$"
    with pytest.raises(RunError, match=told):
        store.put_run(root, "memory://runs/c", overwrite=True)
    assert open_run(store.get_run("memory://runs/a", tmp_path / "back")).file("a").read_text() == "1"
    with pytest.raises(RunError, match=rf"^{tmp_path / 'back'} exists; give another folder$"):
        store.get_run("memory://runs/a", tmp_path / "back")
    with pytest.raises(RunError, match=r"^there is no run at memory://runs/c$"):
        store.get_run("memory://runs/c", tmp_path / "c")
    memory.rm("/runs/b/checksums.json")
    with pytest.raises(RunError, match=r"^the run memory://runs/b is unfinished: it has no checksums\.json$"):
        store.get_run("memory://runs/b", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_what_is_no_run_is_not_put_anywhere(tmp_path, memory):
    with pytest.raises(RunError, match=rf"^{tmp_path} is not a finished run$"):
        store.put_run(tmp_path, "memory://x")
    root = run_at(tmp_path / "run", a="1")
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match=r"^the file 'link' is a link that leads outside"):
        store.put_run(root, "memory://x")
    assert not memory.exists("/x")


def test_places_that_cannot_be_reached_are_told(monkeypatch):
    with pytest.raises(RunError, match=r"^odd://x cannot be reached: "):
        store.reach("odd://x")
    assert store.reach("memory://a/b/")[1] == "/a/b"
    monkeypatch.setattr(store, "url_to_fs", lambda _: (_ for _ in ()).throw(ImportError("Install s3fs")))
    with pytest.raises(MissingExtra, match=r"Install s3fs"):
        store.reach("s3://x")


# -- the hub --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [("hf://a/b", ("a/b", None)), ("hf://A1._-x/b.c-d_e@v1/x.y-z", ("A1._-x/b.c-d_e", "v1/x.y-z"))],
)
def test_names_on_the_hub(name, parts):
    assert hub.Shared.of(name) == hub.Shared(*parts)
    assert hub.is_shared(name)


@pytest.mark.parametrize("name", ["hf://a", "hf://a/b/c", "hf://-a/b", "hf://a/b@", "hf:/a/b", "hf://a/b@x y"])
def test_other_names_name_nothing_on_the_hub(name):
    with pytest.raises(RunError, match=r"names nothing on the hub: write hf://user/name or hf://user/name@revision$"):
        hub.Shared.of(name)
    with pytest.raises(RunError, match=rf"^'{'x' * 200}' names nothing"):
        hub.Shared.of("x" * 300)


def test_what_the_hub_says_is_a_line_without_tokens():
    class Answered(Exception):
        response = SimpleNamespace(status_code=403)

    assert hub.said(Answered("secret")) == "the hub answers 403"
    assert hub.said(ValueError("\n a hf_abcDEF1 b\nmore")) == "a hf_… b"
    assert hub.said(ValueError("")) == "ValueError"
    assert len(hub.said(ValueError("x" * 500))) == 300


def test_the_file_that_was_shared(tmp_path):
    told = rf"^{tmp_path} holds nothing but its checksums$"
    (tmp_path / "checksums.json").write_text("{}")
    with pytest.raises(RunError, match=told):
        hub.shared_file(tmp_path)
    for name in ("b.json", "c.safetensors", "d.safetensors"):
        (tmp_path / name).write_text("")
        assert hub.shared_file(tmp_path).name == ("b.json" if name == "b.json" else "c.safetensors")
    (tmp_path / "run.json").write_text("{}")
    assert hub.shared_file(tmp_path) == tmp_path


def test_a_single_file_is_shared_with_the_one_beside_it(tmp_path):
    for name in ("a.safetensors", "a.json", "b.json", "a.txt"):
        (tmp_path / name).write_text(name)
    for place, asked in enumerate(("a.safetensors", "a.json")):
        root = hub._staged(tmp_path / asked, tmp_path / f"out{place}")
        assert sorted(one.name for one in root.iterdir()) == ["a.json", "a.safetensors", "checksums.json"]
        assert set(json.loads((root / "checksums.json").read_text())) == {"a.json", "a.safetensors"}
    for odd in (tmp_path / "a.txt", tmp_path / "nothing.json", tmp_path):
        with pytest.raises(RunError, match=rf"^{odd} is neither a finished run nor a file of regions or of a circuit$"):
            hub._staged(odd, tmp_path / "other")


def test_a_card_says_what_it_is_and_hides_where_it_was(tmp_path):
    said = {
        "kind": "regions", "model": {"id": "org/m", "revision": "r", "weight_hash": "w"}, "babelscope": "1",
        "corpus": {"spec": "x|y", "languages": ["en", "zh"]}, "key": "k",
        "summary": {
            "sentences": ["one\nline"], "lrds": 0.1512345, "sads": None,
            "intervals": {"lrds": [0.1, 0.2], "sads": [0.0, 1.0]},
        },
        "asked": {"b": "/home/me/data/x.txt", "a": "<b>`c`"},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(said))
    card = hub.card(tmp_path, hub.Shared("anna/title"), "mit").splitlines()
    assert card[:7] == ["---", "license: mit", "tags:", "- babelscope", "---", "", "# title"]
    assert card[11:20] == [
        "|---|---|", "| kind | regions |", "| model | org/m |", "| revision | r |", "| weights | w |",
        r"| corpus | x\|y |", "| languages | en, zh |", "| babelscope | 1 |", "| key | k |",
    ]  # fmt: skip
    assert card[21:26] == ["## Headline", "", "- one line", "- lrds: 0.1512 (0.1 to 0.2)", ""]
    assert card[26:32] == [
        "## Settings",
        "",
        "| setting | value |",
        "|---|---|",
        "| a | &lt;b>'c' |",
        "| b | …/x.txt |",
    ]
    (tmp_path / "run.json").unlink()
    bare = hub.card(tmp_path, hub.Shared("anna/title"), "mit")
    assert "Results of babelscope (regions or circuit)." in bare
    assert "## Headline" not in bare
    assert "## Settings" not in bare
    assert len(hub._cell("x" * 400)) == 300
    assert hub._cell("https://a/b/c and a/b/c") == "https://a/b/c and a/b/c"
