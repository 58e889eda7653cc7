"""Files and folders that appear whole or not at all: made in a hidden folder, renamed when they are finished."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from babelscope.errors import InputError
from babelscope.results.hidden import HiddenFolder, clear_leftovers


@contextmanager
def whole_file(target: Path) -> Generator[Path]:
    """A path to write to, of the same name, which takes the place of `target` when the block ends without an error.

    Raises InputError when the place cannot be written.

    >>> import tempfile
    >>> with whole_file(Path(tempfile.mkdtemp()) / "a.csv") as partial:
    ...     _ = partial.write_text("x")
    """
    target = _named(target)
    with _one_line(target):
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise InputError(f"cannot write {target}: it is a directory, a link or a device; name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield from _made(target)


@contextmanager
def whole_folder(target: Path, replace: bool = False) -> Generator[Path]:
    """A new folder to fill, which becomes `target` when the block ends without an error, in the place of one that was
    there where the caller says that it may go (`replace`).

    Raises InputError when `target` exists and is not an empty folder, or when the place cannot be written.
    """
    target = _named(target)
    with _one_line(target):
        other = target.is_symlink() or not target.is_dir() or (any(target.iterdir()) and not replace)
        if os.path.lexists(target) and other:
            raise InputError(f"{target} exists and is not an empty directory; name a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield from _made(target, folder=True, replace=replace)


def write_whole(target: Path, text: str) -> None:
    """Writes a text file, UTF-8, whole or not at all. Raises InputError when the place cannot be written."""
    with whole_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


def sweep_leftovers(target: Path) -> None:
    """Removes what killed processes left behind at this place."""
    with _one_line(target):
        clear_leftovers(_named(target))


def _made(target: Path, folder: bool = False, replace: bool = False) -> Generator[Path]:
    hidden = HiddenFolder(target)
    hidden.open()
    try:
        if folder:
            hidden.new.mkdir()
        yield hidden.new
        hidden.commit(replace=replace)
    finally:
        hidden.close()


def home(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~name` as homes; raises InputError for the home of nobody here."""
    text = os.fspath(path)
    found = os.path.expanduser(text)
    first = Path(text).parts[:1]
    if found.startswith("~") and not os.path.lexists(*first):
        raise InputError(f"{text}: nobody here is called {first[0][1:]!r}; write ./{text} for a folder of that name")
    return Path(found)


def _named(target: Path) -> Path:
    """The path with a name of its own, homes filled in; raises InputError for one without, such as '' or '/'."""
    target = home(target)
    if not target.name or target.name == "..":
        raise InputError(f"{str(target)!r} names no file; give the path of a new one")
    return target


@contextmanager
def _one_line(target: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
