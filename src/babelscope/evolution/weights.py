"""Downloaded weights on a budget: fetched one revision ahead, deleted when no point needs them any more."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from babelscope.errors import ModelError
from babelscope.evolution.types import Source

Keep = Literal["none", "last", "all"]
KEEP: tuple[Keep, ...] = ("none", "last", "all")
Download = Callable[[Source, Path], Path]
"""(source, folder) → the folder, filled"""
_COMPLETE = ".complete"


@dataclass
class _Fetch:
    thread: threading.Thread
    error: list[BaseException] = field(default_factory=list)


class Weights:
    """Folders with the weights of sources. Local folders and the user's own cache are used in place, never deleted.

    `keep`: after use, downloaded weights are deleted (`none`), kept until the next ones are done (`last`), or kept
    (`all`).
    """

    def __init__(self, folder: Path, keep: Keep = "all", download: Download | None = None) -> None:
        self.root, self.keep = folder, keep
        self._download = download or download_snapshot
        self._running: dict[Source, _Fetch] = {}
        self._last: Path | None = None

    def prefetch(self, source: Source) -> None:
        """Begin to download in the background; does nothing for weights that are there."""
        if source.kind == "hub" and source not in self._running and self._here(source) is None:
            fetch = _Fetch(threading.Thread(target=lambda: self._fetch(source, fetch), daemon=True))
            self._running[source] = fetch
            fetch.thread.start()

    def folder(self, source: Source) -> Path:
        """The folder with the weights, when they are there. Raises ModelError when they cannot be downloaded."""
        if source.kind == "folder":
            return Path(source.place)
        self.prefetch(source)
        fetch = self._running.get(source)
        if fetch is not None:
            fetch.thread.join()
            del self._running[source]  # after a failure the next point, or the next run, may have better luck
            if fetch.error:
                raise ModelError(f"the weights of {source.model} cannot be downloaded: {fetch.error[0]}")
        here = self._here(source)
        if here is None:
            raise ModelError(f"the weights of {source.model} were removed while they were needed")
        return here

    def done(self, source: Source) -> None:
        """Say that no further point needs a source; deletes what the budget says."""
        own = self._own(source)
        if source.kind != "hub" or self.keep == "all" or not own.exists():
            return
        remove = self._last if self.keep == "last" else own
        self._last = own
        if remove is not None:
            shutil.rmtree(remove, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()

    def _here(self, source: Source) -> Path | None:
        """Downloaded before by this or an earlier sweep to this place, or in the user's own cache."""
        own = self._own(source)
        return own if (own / _COMPLETE).is_file() else cached(source)

    def _own(self, source: Source) -> Path:
        return self.root / f"{source.place.replace('/', '--')}--{source.identity[:12]}"

    def _fetch(self, source: Source, fetch: _Fetch) -> None:
        try:
            folder = self._download(source, self._own(source))
            (folder / _COMPLETE).touch()
        except BaseException as error:
            fetch.error.append(error)


def cached(source: Source) -> Path | None:
    """The snapshot in the user's own cache, when it is whole."""
    from huggingface_hub import snapshot_download

    if source.kind != "hub":
        return None
    try:
        folder = Path(snapshot_download(source.place, revision=source.identity, local_files_only=True))
    except Exception:
        return None
    return folder if is_whole(folder) else None


def is_whole(folder: Path) -> bool:
    """Whether a folder has a configuration and every weight file that its index lists."""
    if not (folder / "config.json").is_file():
        return False
    for index in folder.glob("*.index.json"):
        try:
            stated: dict[str, dict[str, str]] = json.loads(index.read_text(encoding="utf-8"))
            names = set(stated["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return False
        if all((folder / str(name)).is_file() for name in names):
            return True
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))


def download_snapshot(source: Source, folder: Path) -> Path:
    """Download one commit into a folder of its own; an interrupted download goes on where it stopped."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            source.place, revision=source.identity, local_dir=folder, allow_patterns=list(source.patterns) or None
        )
    )
