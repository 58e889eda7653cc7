"""Hidden folders, whole files, checksums, locks, stores and names on the hub: who is refused, and what is left."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from babelscope.errors import InputError, RunError, Unwritable
from babelscope.results import hidden, room, whole
from babelscope.results.checksums import checksums, inside, refuse_problems, stated, verify, verify_files
from babelscope.results.hidden import HiddenFolder, clear_leftovers, names_with_leftovers, refuse_hidden_name
from babelscope.results.layout import is_run, is_url


def written(place: Path, **content: str) -> Path:
    """A folder of files with their checksums."""
    place.mkdir(parents=True)
    for name, text in content.items():
        (place / name).write_text(text)
    (place / "checksums.json").write_text(json.dumps(checksums(place)))
    return place


# -- hidden folders -------------------------------------------------------------------------------------------------


def leftover(target: Path, token: str = "a" * 8, **owner: object) -> Path:
    """What a killed process left of making `target`."""
    folder = target.with_name(f".{target.name}.{token}.tmp")
    (folder / "new").mkdir(parents=True)
    (folder / "lock").write_text("")
    (folder / "owner").write_text(json.dumps({"name": target.name, "token": token, **owner}))
    return folder


def test_what_is_made_takes_its_name_and_the_hidden_folder_goes(tmp_path):
    made = HiddenFolder(tmp_path / "a")
    made.open()
    (folder,) = tmp_path.iterdir()
    assert hidden._OURS.fullmatch(folder.name)
    owner = json.loads((folder / "owner").read_text())
    assert (owner["name"], owner["pid"], owner["host"]) == ("a", os.getpid(), socket.gethostname())
    assert owner["token"][:8] == folder.name.split(".")[-2]
    assert made.new == folder / "new" / "a"
    with pytest.raises(RunError, match=rf"^{tmp_path / 'a'} was not finished: its hidden folder {folder} was removed"):
        made.commit(replace=True)
    made.new.write_text("x")
    made.commit(replace=False)
    assert (tmp_path / "a").read_text() == "x"
    made.close()
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_what_stood_there_goes_where_it_may(tmp_path):
    target = tmp_path / "a"
    target.mkdir()
    for replace in (False, True):
        made = HiddenFolder(target)
        made.open()
        made.new.mkdir()
        (made.new / str(replace)).write_text("")
        made.commit(replace=replace)
        made.close()
        assert [one.name for one in target.iterdir()] == [str(replace)]
    made = HiddenFolder(target)
    made.open()
    made.new.mkdir()
    with pytest.raises(OSError, match=r"not empty"):
        made.commit(replace=False)
    made.close()
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    file = HiddenFolder(tmp_path / "b")
    (tmp_path / "b").write_text("old")
    file.open()
    file.new.write_text("new")
    file.commit(replace=False)
    file.close()
    assert (tmp_path / "b").read_text() == "new"


def test_a_replacement_that_fails_puts_back_what_stood_there(tmp_path, monkeypatch):
    target = tmp_path / "a"
    target.mkdir()
    (target / "old").write_text("")
    made = HiddenFolder(target)
    made.open()
    made.new.mkdir()
    own = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if path == made.new:
            raise OSError("struck")
        return own(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match=r"struck"):
        made.commit(replace=True)
    assert (target / "old").is_file()
    made.close()


def test_a_folder_that_is_taken_away_each_time_is_given_up_after_twenty(tmp_path, monkeypatch):
    tried: list[int] = []
    monkeypatch.setattr(HiddenFolder, "_make", lambda _: (tried.append(1), len(tried) == 20)[1])
    HiddenFolder(tmp_path / "a").open()
    assert len(tried) == 20
    tried.extend([1] * 20)
    told = rf"^cannot write {tmp_path / 'a'}: its hidden folder is taken away as soon as it is made$"
    with pytest.raises(RunError, match=told):
        HiddenFolder(tmp_path / "a").open()
    assert len(tried) == 60


def test_a_folder_of_another_is_not_removed_by_its_first_maker(tmp_path):
    made = HiddenFolder(tmp_path / "a")
    made.open()
    (folder,) = tmp_path.iterdir()
    (folder / "owner").write_text(json.dumps({"token": "another"}))
    made.close()
    assert folder.is_dir()
    HiddenFolder(tmp_path / "b").close()


def test_leftovers_of_the_dead_go_and_what_they_took_comes_back(tmp_path):
    target = tmp_path / "a"
    folder = leftover(target)
    (folder / "new" / "a").write_text("half")
    (folder / "old").mkdir()
    (folder / "old" / "a").write_text("before")
    clear_leftovers(target)
    assert (target.read_text(), [one.name for one in tmp_path.iterdir()]) == ("before", ["a"])
    folder = leftover(target)
    (folder / "old").mkdir()
    (folder / "old" / "a").write_text("older")
    clear_leftovers(target)
    assert (target.read_text(), [one.name for one in tmp_path.iterdir()]) == ("before", ["a"])


def test_leftovers_of_others_and_of_the_living_stay(tmp_path):
    target = tmp_path / "a"
    living, other = leftover(target), leftover(target, "b" * 8, name="b")
    strangers = [
        tmp_path / name for name in (".a.ccccccc.tmp", ".a.gggggggg.tmp", "a.dddddddd.tmp", ".ab.eeeeeeee.tmp")
    ]
    for folder in strangers:
        folder.mkdir()
    (tmp_path / ".a.ffffffff.tmp").write_text("")
    (tmp_path / ".a.11111111.tmp").symlink_to(living)
    held = FileLock(living / "lock")
    with held:
        clear_leftovers(target)
        assert living.is_dir()
    clear_leftovers(target)
    assert not living.exists()
    assert other.is_dir()
    assert all(folder.is_dir() for folder in strangers)
    assert (tmp_path / ".a.ffffffff.tmp").is_file()


def test_a_folder_that_does_not_say_whose_it_is_goes_where_it_is_empty(tmp_path):
    target = tmp_path / "a"
    empty, full, unlocked = (tmp_path / f".a.{letter * 8}.tmp" for letter in "abc")
    for folder in (empty, full, unlocked):
        folder.mkdir()
    (empty / "lock").write_text("")
    (empty / "owner").write_text("[]")
    (full / "work").write_text("")
    clear_leftovers(target)
    assert [folder.exists() for folder in (empty, full, unlocked)] == [False, True, False]
    clear_leftovers(tmp_path / "nothing" / "a")
    clear_leftovers(full / "work" / "a")


def test_names_of_unfinished_work(tmp_path):
    for name in (".b.00000000.tmp", ".a.11111111.tmp", ".a.22222222.tmp", ".c.3333333.tmp", "d.44444444.tmp", ".lock"):
        (tmp_path / name).mkdir()
    assert names_with_leftovers(tmp_path) == ["a", "b"]
    assert names_with_leftovers(tmp_path / "nothing") == []
    (tmp_path / "file").write_text("")
    assert names_with_leftovers(tmp_path / "file") == []
    for name in (".a.00000000.tmp", ".a.lock", ".a\nb.lock"):
        with pytest.raises(RunError, match=r"names of this form are kept for unfinished work; give another --out$"):
            refuse_hidden_name(Path(name))
    for name in ("a.lock", ".lock", ".a.0000000.tmp", ".a.tmp", ".a.00000000.tmp2"):
        refuse_hidden_name(Path(name))


class Stubborn(type(Path())):
    """A folder of which a test says whether it is there."""

    there: Callable[[], bool]

    def exists(self, **_: object) -> bool:
        return self.there()


def stubborn(there: Callable[[], bool]) -> Stubborn:
    folder = Stubborn("stubborn")
    folder.there = there
    return folder


def test_a_stubborn_removal_waits_until_the_folder_stays_away(tmp_path, monkeypatch):
    slept: list[float] = []
    there = [True, True, False, True, False, False, False, False]
    emptied: list[int] = []
    fake = stubborn(lambda: there[len(emptied) - 1])
    monkeypatch.setattr(hidden, "_empty", lambda _: emptied.append(1))
    monkeypatch.setattr(hidden.time, "sleep", slept.append)
    hidden._remove(fake, 50)
    assert (len(emptied), slept) == (7, [0.02] * 6)
    for tries, count in ((1, 1), (0, 1), (2, 2), (4, 4)):
        emptied.clear()
        slept.clear()
        hidden._remove(stubborn(lambda: True), tries)
        assert (len(emptied), len(slept)) == (count, count if tries > 1 else 0)
    emptied.clear()

    def struck(_: object) -> None:
        emptied.append(1)
        if len(emptied) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(hidden, "_empty", struck)
    with pytest.raises(KeyboardInterrupt):
        hidden._remove(fake)  # pyright: ignore[reportArgumentType]
    assert len(emptied) == 2


# -- whole files and folders ----------------------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "in" / "a"
    whole.write_whole(target, "é")
    assert target.read_bytes() == "é".encode()
    with pytest.raises(ValueError, match=r"stop"), whole.whole_file(target) as partial:
        assert partial.name == "a"
        partial.write_text("half")
        raise ValueError("stop")
    assert target.read_bytes() == "é".encode()
    assert [one.name for one in target.parent.iterdir()] == ["a"]
    (tmp_path / "link").symlink_to(target)
    for odd in (tmp_path / "in", tmp_path / "link", Path(os.devnull)):
        with pytest.raises(
            InputError, match=rf"^cannot write {odd}: it is a directory, a link or a device; name a file$"
        ):
            whole.write_whole(odd, "")
    with pytest.raises(InputError, match=rf"^cannot write {target / 'b'}: (Not a directory|File exists)$"):
        whole.write_whole(target / "b", "")


def test_a_folder_takes_the_place_of_an_empty_one_or_of_one_that_may_go(tmp_path):
    target = tmp_path / "a"
    for replace in (False, True):
        target.mkdir(exist_ok=True)
        with whole.whole_folder(target, replace) as partial:
            assert partial.is_dir()
            (partial / str(replace)).write_text("")
        assert [one.name for one in target.iterdir()] == [str(replace)]
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for odd, replace in ((target, False), (tmp_path / "file", True), (tmp_path / "link", True)):
        with pytest.raises(InputError, match=rf"^{odd} exists and is not an empty directory; name a new one$"):
            with whole.whole_folder(odd, replace):
                pass


@pytest.mark.parametrize("name", ["", ".", "/", "..", "a/.."])
def test_a_path_needs_a_name(name):
    with pytest.raises(InputError, match=r"names no file; give the path of a new one"):
        whole._named(Path(name))


def test_homes_are_those_of_somebody_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole.home("a/~b") == Path("a/~b")
    with pytest.raises(InputError, match=r"^~nobody-9/x: nobody here is called 'nobody-9'; write \./~nobody-9/x for"):
        whole.home("~nobody-9/x")


# -- checksums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "/a", "../a", "a/../b", "a\\b", "c:/a", "c:"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(RunError, match=r"^the file name '.*' leads outside the run"):
        inside(tmp_path, name)


def test_names_within_a_run(tmp_path):
    assert inside(tmp_path, "a/b:c") == tmp_path / "a" / "b:c"
    (tmp_path / "out").symlink_to(tmp_path.parent)
    (tmp_path / "in").symlink_to(tmp_path / "a")
    assert inside(tmp_path, "in") == tmp_path / "in"
    with pytest.raises(RunError, match=r"^the file 'out' is a link that leads outside the run"):
        inside(tmp_path, "out")


def test_what_differs_from_the_sums_is_named(tmp_path):
    root = written(tmp_path / "run", a="1", b="2", c="3")
    verify(root)
    (root / ".sweep.lock").write_text("")
    (root / ".scratch").mkdir()
    (root / ".scratch" / "x").write_text("")
    (root / ".scratchy").write_text("")
    (root / "b").write_text("9")
    (root / "c").unlink()
    told = rf"^the run {root} is not as it was written: b is damaged, c is missing, \.scratchy was added$"
    with pytest.raises(RunError, match=told):
        verify(root)
    with pytest.raises(RunError, match=r": b is damaged, c is missing$"):
        verify(root, additions=False)
    sums = stated(root)
    verify_files(root, sums, ["a"])
    verify_files(root, sums, [])
    with pytest.raises(RunError, match=r": b is damaged, d was added$"):
        verify_files(root, sums, ["a", "b", "d"])


def test_five_problems_are_named_and_the_rest_is_counted(tmp_path):
    refuse_problems(tmp_path, ["", ""])
    for count, end in ((5, "p4$"), (6, "p4 and 1 more$"), (9, "p4 and 4 more$")):
        with pytest.raises(RunError, match=rf"is not as it was written: p0, p1, p2, p3, {end}"):
            refuse_problems(tmp_path, ["", *(f"p{place}" for place in range(count))])


def test_sums_that_are_none_are_told(tmp_path):
    with pytest.raises(RunError, match=r"has no checksums\.json: it is unfinished or damaged$"):
        stated(tmp_path)
    for text in ("[]", '{"a": 1}'):
        (tmp_path / "checksums.json").write_text(text)
        with pytest.raises(RunError, match=rf"^checksums\.json of the run {tmp_path} is damaged$"):
            stated(tmp_path)
    (tmp_path / "checksums.json").write_text("{")
    with pytest.raises(RunError, match=rf"^checksums\.json of the run {tmp_path} is damaged: it"):
        stated(tmp_path)


def test_a_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    root = written(tmp_path / "run", a="1")
    monkeypatch.setattr("babelscope.results.checksums.sha256", lambda _: (_ for _ in ()).throw(OSError(5, "bad disk")))
    with pytest.raises(RunError, match=r": a cannot be read \(bad disk\)$"):
        verify(root)


def test_places_and_runs(tmp_path):
    assert [is_url(place) for place in ("s3://a", "a://", "a:/b", "a", Path("a"))] == [True, True, False, False, False]
    root = written(tmp_path / "run", **{"run.json": "{}"})
    assert is_run(root)
    (root / "run.json").unlink()
    assert not is_run(root)
    (root / "run.json").mkdir()
    assert not is_run(root)
    (root / "run.json").rmdir()
    (root / "run.json").write_text("")
    (root / "checksums.json").unlink()
    assert not is_run(root)
    assert not is_run("a\0b")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_is_full_or_closed(code):
    assert room.no_room(OSError(code, "x"))
    assert not room.no_room(OSError(errno.EACCES, "No space left"))


def test_a_full_disk_is_known_however_it_is_wrapped():
    def wrapped(times: int, inner: BaseException) -> BaseException:
        for place in range(times):
            outer = ValueError(str(place))
            outer.__cause__ = inner
            inner = outer
        return inner

    full = OSError(errno.ENOSPC, "x")
    assert room.no_room(wrapped(7, full))
    assert not room.no_room(wrapped(8, full))
    for words in ("No space left on it", "a Disk quota", "File too large", "Read-only file system"):
        assert room.no_room(RuntimeError(words))
        assert not room.no_room(KeyboardInterrupt(words))
    assert room.no_room(Unwritable("x"))
    assert not room.no_room(ValueError("x"))
    outer = ValueError("x")
    outer.__context__ = full
    assert room.no_room(outer)
