"""SHA-256 of every file of a run, and the check that nothing was changed, lost or added since."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from babelscope.errors import RunError

CHECKSUMS = "checksums.json"


def inside(root: Path, name: str) -> Path:
    """The file `name` of a run, refused when it would lie outside the run: absolute, `..`, backslash, or a link out."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in pure.parts[0] or "\0" in name:
        raise RunError(f"the file name {name!r} leads outside the run {root}")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise RunError(f"{name!r} cannot be a file name")
    path = root / pure
    if not path.resolve().is_relative_to(root.resolve()):
        raise RunError(f"the file {name!r} is a link that leads outside the run {root}")
    return path


def files_of(root: Path) -> list[str]:
    """Relative names of all files, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() or path.is_symlink())


def sha256(path: Path) -> str:
    """Hash of one file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksums(root: Path) -> dict[str, str]:
    """Hash of every file but the list itself."""
    return {name: sha256(root / name) for name in files_of(root) if name != CHECKSUMS}


def verify(root: Path, additions: bool = True) -> None:
    """Raises RunError that names every file that is damaged, missing or, where `additions` count, unknown."""
    stated = _stated(root)
    problems: list[str] = []
    for name, expected in stated.items():
        path = inside(root, name)
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256(path) != expected:
            problems.append(f"{name} is damaged")
    if additions:
        problems += [f"{name} was added" for name in files_of(root) if name not in stated and name != CHECKSUMS]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise RunError(f"the run {root} is not as it was written: {', '.join(problems[:5])}{more}")


def _stated(root: Path) -> dict[str, str]:
    try:
        stated: Any = json.loads((root / CHECKSUMS).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"the run {root} has no {CHECKSUMS}: it is unfinished or damaged") from error
    except ValueError as error:
        raise RunError(f"{CHECKSUMS} of the run {root} is damaged") from error
    if not isinstance(stated, dict) or not all(isinstance(value, str) for value in stated.values()):
        raise RunError(f"{CHECKSUMS} of the run {root} is damaged")
    return stated
