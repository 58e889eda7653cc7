"""Reading a run: its manifest at once, its arrays, tables and files when they are asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from babelscope.errors import RunError
from babelscope.results.checksums import CHECKSUMS, files_of, inside, verify
from babelscope.results.manifest import FORMAT
from babelscope.results.writer import MANIFEST, is_url

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class Run:
    """A finished run: `path`, `manifest` (the content of run.json) and what lies beside it."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.source = str(path)
        self._fetched: TemporaryDirectory[str] | None = None
        self._opened: dict[str | None, xr.Dataset] = {}

    @property
    def kind(self) -> str:
        """`regions`, `circuits`, `sweep`, …"""
        return str(self.manifest.get("kind"))

    @property
    def summary(self) -> dict[str, Any]:
        """The headline numbers."""
        return dict(self.manifest.get("summary") or {})

    @property
    def key(self) -> str | None:
        """Hash of what determined the numbers."""
        return self.manifest.get("key")

    @property
    def languages(self) -> list[str]:
        """Codes of the run's languages, in its own order."""
        corpus = self.manifest.get("corpus") or {}
        found = self.manifest.get("languages") or corpus.get("languages") or self.summary.get("languages") or []
        return [str(language) for language in found]

    @property
    def model_name(self) -> str:
        """The model as it was asked for, shortened to its last two parts."""
        model = self.manifest.get("model")
        name = model.get("id") if isinstance(model, dict) else model
        return "/".join(str(name or self.path.name).rstrip("/").split("/")[-2:])

    @property
    def tables(self) -> list[str]:
        """Names of the tables."""
        from babelscope.results.tables import table_names

        return table_names(self.path)

    @property
    def groups(self) -> list[str]:
        """Names of the groups of arrays below the root group."""
        from babelscope.results.arrays import groups

        return groups(self.path)

    def arrays(self, group: str | None = None) -> xr.Dataset:
        """The labelled arrays of a group, read when used; raises RunError when there are none."""
        from babelscope.results.arrays import read_arrays

        if group not in self._opened:
            found = read_arrays(self.path, group)
            # a fetched run lives in a temporary folder: what is read after the Run is gone would silently be zeros
            self._opened[group] = found if self._fetched is None else found.load()
        return self._opened[group]

    def table(self, name: str) -> pd.DataFrame:
        """One tidy table; raises RunError when the run has no such table."""
        from babelscope.results.tables import read_table

        return read_table(self.path, name)

    def files(self) -> list[str]:
        """Names of all files, relative to the run."""
        return files_of(self.path)

    def file(self, name: str) -> Path:
        """Path of one file; raises RunError when it is absent or would lie outside the run."""
        path = inside(self.path, name)
        if not path.is_file():
            raise RunError(f"the run {self.source} has no file {name}")
        return path

    def validate(self, additions: bool = True) -> None:
        """Compares every file with its checksum; raises RunError that names what is damaged, missing or, where
        `additions` count, added."""
        verify(self.path, additions)

    def __repr__(self) -> str:
        return f"Run({self.source!r}, kind={self.kind!r}, model={self.model_name!r})"

    def _repr_html_(self) -> str:
        from babelscope.results.display import run_html

        return run_html(self)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a finished run."""
    return (Path(path) / MANIFEST).is_file() and (Path(path) / CHECKSUMS).is_file()


def open_run(path: str | os.PathLike[str]) -> Run:
    """Opens a run directory, or fetches one from an fsspec URL into a temporary folder that lives as long as the Run.

    Raises RunError when there is nothing, when it is not a run, or when the run is unfinished or damaged.
    """
    if is_url(path):
        return _fetch(os.fspath(path))
    root = Path(os.path.expanduser(path))
    if not root.exists():
        raise RunError(f"there is no run at {root}")
    if not (root / MANIFEST).is_file():
        raise RunError(f"{root} is not a run: it has no {MANIFEST}")
    return Run(root, _manifest(root))


def _fetch(url: str) -> Run:
    from babelscope.results.store import get_run

    folder = TemporaryDirectory(prefix="babelscope-")
    run = open_run(get_run(url, Path(folder.name) / "run"))
    run.source, run._fetched = url, folder  # pyright: ignore[reportPrivateUsage]
    return run


def _manifest(root: Path) -> dict[str, Any]:
    try:
        manifest: Any = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{MANIFEST} of the run {root} is damaged") from error
    if not isinstance(manifest, dict) or "kind" not in manifest:
        raise RunError(f"{root} is not a run: its {MANIFEST} states no kind")
    if not isinstance(manifest.get("format", FORMAT), int) or manifest.get("format", FORMAT) > FORMAT:
        raise RunError(f"the run {root} was written by a newer babelscope ({manifest.get('babelscope')}); update")
    if not (root / CHECKSUMS).is_file():
        raise RunError(f"the run {root} is unfinished: it has no {CHECKSUMS}")
    return manifest
