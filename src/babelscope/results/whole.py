"""Single files and plain folders that appear whole or not at all: written under a hidden name, renamed at the end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from babelscope.errors import InputError
from babelscope.results.lock import alive


@contextmanager
def whole_file(target: Path) -> Generator[Path]:
    """A path to write to, which takes the place of `target` when the block ends without an error.

    Raises InputError when the place cannot be written.

    >>> import tempfile
    >>> with whole_file(Path(tempfile.mkdtemp()) / "a.csv") as partial:
    ...     _ = partial.write_text("x")
    """
    partial = _partial(target)
    with _one_line(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            sweep_leftovers(target)
            yield partial
            partial.replace(target)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Generator[Path]:
    """A new folder to fill, which becomes `target` when the block ends without an error.

    Raises InputError when `target` exists and is not an empty folder, or when the place cannot be written.
    """
    with _one_line(target):
        if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} exists and is not an empty directory; name a new one")
        partial = _partial(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            sweep_leftovers(target)
            partial.mkdir()
            yield partial
            if target.is_dir():
                target.rmdir()
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _partial(target: Path) -> Path:
    # the ending stays what it is: some writers choose the format by it
    return target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")


def sweep_leftovers(target: Path) -> None:
    """Removes what killed processes left behind at this place."""
    stem, suffix = re.escape(target.stem), re.escape(target.suffix)
    pattern = re.compile(rf"\.(?:{stem}\.(\d+)\.tmp{suffix}|{stem}{suffix}\.(\d+)\.tmp)")
    if not target.parent.is_dir():
        return
    for path in target.parent.iterdir():
        found = pattern.fullmatch(path.name)
        if found and not alive(int(found[1] or found[2])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _one_line(target: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
