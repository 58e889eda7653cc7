"""SHA-256 of every file of a run, and the check that nothing was changed, lost or added since."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from babelscope.errors import InputError, RunError
from babelscope.json_text import read_json
from babelscope.results.layout import CHECKSUMS, SWEEP_LOCK, SWEEP_SCRATCH


def inside(root: Path, name: str) -> Path:
    """The file `name` of a run, refused when it would lie outside the run: absolute, `..`, backslash, or a link out."""
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in pure.parts[0]:
        raise RunError(f"the file name {name!r} leads outside the run {root}")
    if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise RunError(f"{name!r} cannot be a file name")
    path = root / pure
    try:
        stays = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, or a link to itself
        raise RunError(f"{name[:80]!r} cannot be a file of the run {root}") from error
    if not stays:
        raise RunError(f"the file {name!r} is a link that leads outside the run {root}")
    return path


def files_of(root: Path) -> list[str]:
    """Relative names of all files and links, sorted; what may not be read, or is gone meanwhile, holds none."""
    return sorted(_below(root, ""))


def _below(folder: Path | str, before: str) -> Iterator[str]:
    with contextlib.suppress(PermissionError, FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:  # not by `Path.rglob`, which takes five times as long: writers and readers ask often
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{before}{entry.name}/")
            elif entry.is_symlink() or entry.is_file():
                yield before + entry.name


def sha256(path: Path) -> str:
    """Hash of one file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hash(place: str | Path) -> str:
    """SHA-256 of what a study reads: of a file's bytes, or of the names and bytes of all files of a folder.

    Raises InputError where it cannot be read.
    """
    path = Path(place)
    try:
        if not path.is_dir():
            return sha256(path)
        parts = [f"{name} {sha256(path / name)}" for name in files_of(path)]
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror}") from None
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def checksums(root: Path) -> dict[str, str]:
    """Hash of every file but the list itself."""
    return {name: sha256(root / name) for name in files_of(root) if name != CHECKSUMS}


def verify(root: Path, additions: bool = True) -> None:
    """Raises RunError that names every file that is damaged, missing or, where `additions` count, unknown."""
    expected = stated(root)
    problems = [_problem(root, name, value) for name, value in expected.items()]
    if additions:
        unknown = {name for name in files_of(root) if not _at_work(name)} - {*expected, CHECKSUMS}
        problems += [f"{name} was added" for name in sorted(unknown)]
    refuse_problems(root, problems)


def _at_work(name: str) -> bool:
    return name == SWEEP_LOCK or name.startswith(f"{SWEEP_SCRATCH}/")


def verify_files(root: Path, expected: dict[str, str], names: Iterable[str]) -> None:
    """The same for some files of a run whose sums were read before; one that has no sum was added."""
    problems = [_problem(root, name, expected[name]) if name in expected else f"{name} was added" for name in names]
    refuse_problems(root, problems)


def _problem(root: Path, name: str, expected: str) -> str:
    path = inside(root, name)
    try:
        if not path.is_file():
            return f"{name} is missing"
        return "" if sha256(path) == expected else f"{name} is damaged"
    except OSError as error:
        return f"{name[:80]} cannot be read ({error.strerror or error})"


def refuse_problems(root: Path, found: list[str]) -> None:
    """Raises RunError with the first of these problems; empty ones are none."""
    problems = [problem for problem in found if problem]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise RunError(f"the run {root} is not as it was written: {', '.join(problems[:5])}{more}")


def stated(root: Path) -> dict[str, str]:
    """The sums that a run states of its files; raises RunError when there are none that can be read."""
    if not (root / CHECKSUMS).is_file():
        raise RunError(f"the run {root} has no {CHECKSUMS}: it is unfinished or damaged")
    found: object = read_json(root / CHECKSUMS, f"{CHECKSUMS} of the run {root} is damaged: it", RunError)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RunError(f"{CHECKSUMS} of the run {root} is damaged")
    return found
