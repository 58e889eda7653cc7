"""Finished runs in any place that fsspec can reach: object stores, other machines, memory.

Such places have no rename, so `run.json` is written last and removed first: a folder without it is no run.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from babelscope.errors import MissingExtra, RunError, Unwritable
from babelscope.results.checksums import files_of, inside, verify
from babelscope.results.hidden import HiddenFolder
from babelscope.results.layout import CHECKSUMS, MANIFEST, is_run
from babelscope.results.whole import home


def put_run(path: str | os.PathLike[str], url: str, overwrite: bool = False) -> str:
    """Copies a finished run folder to a URL; returns the URL. Raises RunError when it is no finished run, when it is
    damaged, or when a run is there and `overwrite` is off."""
    root = home(path)
    if not is_run(root):
        raise RunError(f"{root} is not a finished run")
    verify(root, additions=False)
    system, target = reach(url)
    refuse_existing(url, overwrite)
    names = sorted(files_of(root), key=lambda name: name == MANIFEST)
    for name in names:
        inside(root, name)  # a link would publish what lies elsewhere on this machine
    try:
        if system.exists(target):
            system.rm(f"{target}/{MANIFEST}") if system.exists(f"{target}/{MANIFEST}") else None
            system.rm(target, recursive=True)
        for name in names:
            system.makedirs(str(PurePosixPath(target, name).parent), exist_ok=True)
            system.put_file(str(root / name), f"{target}/{name}")
    except OSError as error:
        raise Unwritable(f"cannot write the run {url}: {error.strerror or error}") from error
    return url


def get_run(url: str, path: str | os.PathLike[str]) -> Path:
    """Copies a run from a URL to a new folder, and verifies it; returns the folder. Raises RunError."""
    system, source = reach(url)
    if not system.exists(f"{source}/{MANIFEST}"):
        raise RunError(f"there is no run at {url}")
    target = Path(path)
    try:
        with arriving(target, f"the run {url} is unfinished") as folder:
            for name in _names(system, source):
                local = inside(folder, name)
                local.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(f"{source}/{name}", str(local))
    except OSError as error:
        raise RunError(f"cannot read the run {url}: {error.strerror or error}") from error
    return target


@contextmanager
def arriving(target: Path, unfinished: str) -> Generator[Path]:
    """A hidden folder to copy a run or a shared file into, which takes its name once its checksums are verified.

    Raises RunError where something is at `target`, without checksums (`unfinished` says of what), or when they differ.
    """
    if target.exists():
        raise RunError(f"{target} exists; give another folder")
    hidden = HiddenFolder(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden.open()
        yield hidden.new
        if not (hidden.new / CHECKSUMS).is_file():
            raise RunError(f"{unfinished}: it has no {CHECKSUMS}")
        verify(hidden.new)
        hidden.commit(replace=False)
    finally:
        hidden.close()


def list_runs(url: str | os.PathLike[str]) -> list[str]:
    """The finished runs directly below a folder or URL, sorted; an absent folder holds none."""
    system, root = reach(os.fspath(url))
    if not system.exists(root):
        return []
    folders: list[str] = [str(entry) for entry in system.ls(root, detail=False)]
    found = [folder for folder in folders if not _hidden(folder) and system.exists(f"{folder.rstrip('/')}/{MANIFEST}")]
    prefix = os.fspath(url).rstrip("/")
    return sorted(f"{prefix}/{PurePosixPath(folder).name}" for folder in found)


def refuse_existing(url: str, overwrite: bool) -> None:
    """Raises RunError when something is at `url` and it may not, or must not, be replaced."""
    system, target = reach(url)
    if not system.exists(target):
        return
    if not overwrite:
        raise RunError(f"{url} exists; give --overwrite or another --out (in Python overwrite=True, another folder)")
    if not system.exists(f"{target}/{CHECKSUMS}") and system.ls(target):
        raise RunError(f"{url} is not a run, so it will not be overwritten; give another --out")


def reach(url: str) -> tuple[Any, str]:
    """The file system behind a URL or folder, and the path there; raises RunError when it cannot be reached."""
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        raise MissingExtra(str(error), "hub", f"reaching {url}") from error
    except ValueError as error:
        raise RunError(f"{url} cannot be reached: {error}") from error
    return system, str(path).rstrip("/")


def _names(system: AbstractFileSystem, source: str) -> list[str]:
    return sorted(str(name).removeprefix(f"{source}/") for name in system.find(source))


def _hidden(folder: str) -> bool:
    return PurePosixPath(folder).name.startswith(".")
