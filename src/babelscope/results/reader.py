"""Reading a run: its manifest at once, its arrays, tables and files when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelscope.errors import RunError
from babelscope.json_text import read_json
from babelscope.results.checksums import files_of, inside, refuse_problems, stated, verify, verify_files
from babelscope.results.display import run_html
from babelscope.results.hub import is_shared, pull
from babelscope.results.layout import CHECKSUMS, MANIFEST, is_url
from babelscope.results.manifest import FORMAT
from babelscope.results.scratch import Scratch
from babelscope.results.store import get_run
from babelscope.results.whole import home
from babelscope.wording import short_name

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class Run:
    """A finished run: `path`, `manifest` (the content of run.json) and what lies beside it.

    What is read is compared with its checksum when it is first used, unless the run was opened with `validate=False`.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], validate: bool = True) -> None:
        self.path, self.manifest = path, manifest
        self._validates = validate
        self._sums: dict[str, str] | None = None
        self._sound: set[str] = set()
        self.source = str(path)
        self._fetched: Scratch | None = None
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
        return short_name(str(name or self.path.name))

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
            self._trust(self._stored(group))
            found = read_arrays(self.path, group)
            # a fetched run lives in a temporary folder: what is read after the Run is gone would silently be zeros
            self._opened[group] = found if self._fetched is None else found.load()
        return self._opened[group]

    def table(self, name: str) -> pd.DataFrame:
        """One tidy table; raises RunError when the run has no such table."""
        from babelscope.results.tables import read_table, table_file

        if (self.path / table_file(name)).is_file():
            self._trust([table_file(name)])
        return read_table(self.path, name)

    def files(self) -> list[str]:
        """Names of all files, relative to the run."""
        return files_of(self.path)

    def file(self, name: str) -> Path:
        """Path of one file; raises RunError when it is absent or would lie outside the run."""
        path = inside(self.path, name)
        if not path.is_file() and not (self._validates and name in self._stated()):
            raise RunError(f"the run {self.source} has no file {name}")
        self._trust([name])
        return path

    def validate(self, additions: bool = True) -> None:
        """Compares every file with its checksum; raises RunError that names what is damaged, missing or, where
        `additions` count, added."""
        verify(self.path, additions)

    @property
    def of_dimensions(self) -> bool:
        """Whether the run is about dimensions of the residual stream, and not about neurons."""
        asked: Any = self.manifest.get("asked")
        return isinstance(asked, Mapping) and asked.get("site") == "residual"

    def __repr__(self) -> str:
        return f"Run({self.source!r}, kind={self.kind!r}, model={self.model_name!r})"

    def _repr_html_(self) -> str:

        return run_html(self)

    def _stated(self) -> dict[str, str]:
        if self._sums is None:
            self._sums = stated(self.path)
        return self._sums

    def _expect_all(self) -> None:
        """Raises RunError when a file is not there; whether it is as it was written is looked at when it is read.

        The points of a sweep are runs of their own, and looked at when they are opened.
        """
        there, expected = set(files_of(self.path)), self._stated()
        inner = tuple(name.removesuffix(CHECKSUMS) for name in expected if name.endswith(f"/{CHECKSUMS}"))
        missing = [name for name in expected if name not in there and not name.startswith(inner)]
        refuse_problems(self.path, [f"{name} is missing" for name in missing])

    def _stored(self, group: str | None) -> list[str]:
        """The files of a group of arrays: those that are there, and those that should be."""
        from babelscope.results.arrays import STORE

        if not self._validates:
            return []
        prefix = f"{STORE}/{group}/" if group else f"{STORE}/"
        others = () if group else tuple(f"{STORE}/{name}/" for name in self.groups)
        names = {*self._stated(), *files_of(self.path)}
        return sorted(name for name in names if name.startswith(prefix) and not name.startswith(others))

    def _trust(self, names: Iterable[str]) -> None:
        """Raises RunError that names which of these files is not as it was written."""
        if self._validates:
            fresh = [name for name in names if name not in self._sound and name != CHECKSUMS]
            verify_files(self.path, self._stated(), fresh)
            self._sound.update(fresh)


def open_run(path: str | os.PathLike[str], validate: bool = True) -> Run:
    """Opens a run directory, or fetches one, from an fsspec URL or from the hub (`hf://user/name`), into a temporary
    folder that lives as long as the Run.

    That every file is there, and run.json as it was written, is looked at now; each other file is compared with its
    checksum when it is first read. `validate=False` trusts them all, which saves reading big arrays twice. Raises
    RunError when there is nothing, when it is not a run, or when the run is unfinished or damaged.
    """
    if is_url(path):
        return _fetch(os.fspath(path), validate)
    root = home(path)
    try:
        there, told = root.exists(), (root / MANIFEST).is_file()
    except (OSError, ValueError) as error:
        raise RunError(f"{str(root)[:200]!r} cannot be a run: {getattr(error, 'strerror', None) or error}") from error
    if not there:
        raise RunError(f"there is no run at {root}")
    if not told:
        raise RunError(f"{root} is not a run: it has no {MANIFEST}")
    run = Run(root, _manifest(root), validate)
    if validate:
        run._expect_all()  # pyright: ignore[reportPrivateUsage]
        run._trust([MANIFEST])  # pyright: ignore[reportPrivateUsage]
    return run


def _fetch(url: str, validate: bool) -> Run:
    folder = Scratch("fetched")
    bring = pull if is_shared(url) else get_run
    run = open_run(bring(url, folder.path / "run"), validate)
    run.source, run._fetched = url, folder  # pyright: ignore[reportPrivateUsage]
    return run


def _manifest(root: Path) -> dict[str, object]:
    manifest: Any = read_json(root / MANIFEST, f"{MANIFEST} of the run {root} is damaged: it", RunError)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("kind"), str):
        raise RunError(f"{root} is not a run: its {MANIFEST} states no kind")
    if not isinstance(manifest.get("format", FORMAT), int) or manifest.get("format", FORMAT) > FORMAT:
        raise RunError(f"the run {root} was written by a newer babelscope ({manifest.get('babelscope')}); update")
    if not (root / CHECKSUMS).is_file():
        raise RunError(f"the run {root} is unfinished: it has no {CHECKSUMS}")
    _refuse_shapes(root, manifest)
    return manifest


_SHAPES: dict[str, tuple[type, ...]] = {
    "summary": (dict,), "corpus": (dict,), "languages": (list,), "model": (dict, str), "key": (str,),
    "versions": (dict,),
}  # fmt: skip
"""of the entries that everything reads; further ones are looked at where they are used"""


def _refuse_shapes(root: Path, manifest: Mapping[str, Any]) -> None:
    for entry, shapes in _SHAPES.items():
        value = manifest.get(entry)
        if value is not None and not isinstance(value, shapes):
            raise RunError(f"{MANIFEST} of the run {root} is damaged: {entry} is a {type(value).__name__}")
    corpus, summary = manifest.get("corpus") or {}, manifest.get("summary") or {}
    for owner, named in ((corpus, "corpus"), (summary, "summary")):
        if not isinstance(owner.get("languages") or [], list):
            raise RunError(f"{MANIFEST} of the run {root} is damaged: languages of the {named} are no list")
    if not isinstance(summary.get("intervals") or {}, dict):
        raise RunError(f"{MANIFEST} of the run {root} is damaged: the intervals of the summary are no mapping")
