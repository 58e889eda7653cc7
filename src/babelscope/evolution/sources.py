"""Where a point's weights are, and what tells them from any others before they are loaded."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from babelscope.errors import ModelError
from babelscope.evolution.plan import revision_of
from babelscope.evolution.types import PlannedModel, Revision, Source

_SMALL = ("*.json", "*.txt", "*.model", "tokenizer*", "*.py")
_WEIGHTS = (".safetensors", ".bin")


def revisions(model: PlannedModel) -> list[Revision]:
    """The revisions that a plan asks for, `all` and patterns spelled out, in the order of training.

    Raises ModelError when a model has none, or when its revisions cannot be listed.
    """
    if model.revisions:
        return list(model.revisions)
    found = sorted((revision_of(name) for name in _names(model)), key=_in_training)
    if not found:
        raise ModelError(f"{model.id} has no revision that matches {model.pattern}{_those_there_are(model)}")
    return found if model.count is None else spread(found, model.count)


def _those_there_are(model: PlannedModel) -> str:
    """What a user may write instead, as the end of a sentence."""
    every = sorted((revision_of(name) for name in _names(replace(model, pattern="*"))), key=_in_training)
    if not every:
        return ": a folder of checkpoints has a subfolder with a config.json for each; leave --revisions out for itself"
    return f"; it has {', '.join(str(one.name) for one in every[:12])}{', …' if len(every) > 12 else ''}"


def _names(model: PlannedModel) -> list[str]:
    from babelscope.pocket.models import PREFIX, get

    folder = Path(os.path.expanduser(model.id))
    if model.id.startswith(PREFIX):
        names = list(get(model.id.removeprefix(PREFIX)).revisions)
    elif folder.is_dir():
        names = [path.parent.name for path in folder.glob("*/config.json")]
    else:
        names = _branches(model.id)
    return [name for name in names if fnmatchcase(name, model.pattern)]


def _branches(repository: str) -> list[str]:
    from huggingface_hub import HfApi

    try:
        refs: object = HfApi().list_repo_refs(repository)
    except Exception as error:
        raise ModelError(f"the revisions of {repository} cannot be listed: {_first_line(error)}") from error
    return list(dict.fromkeys(str(ref.name) for ref in [*refs.branches, *refs.tags]))


def _in_training(revision: Revision) -> tuple[bool, int, str]:
    return revision.step is None, revision.step or 0, str(revision.name)


def spread(found: Sequence[Revision], count: int) -> list[Revision]:
    """`count` of the revisions, first and last among them, evenly over log(1 + step).

    >>> [one.step for one in spread([revision_of(f"step{n}") for n in (0, 1, 2, 4, 8, 16, 512)], 3)]
    [0, 16, 512]
    """
    stepped = [revision for revision in found if revision.step is not None]
    if len(stepped) <= count:
        return stepped or list(found)[:count]
    places = [math.log1p(revision.step or 0) for revision in stepped]
    wanted = [places[0] + (places[-1] - places[0]) * part / (count - 1) for part in range(count)]
    nearest = {min(range(len(places)), key=lambda n: abs(places[n] - goal)) for goal in wanted}
    return [stepped[place] for place in sorted(nearest)]


def find(model: str, revision: str | None) -> Source:
    """The source of one revision; nothing is loaded or downloaded. Raises ModelError when there is none."""
    from babelscope.pocket import models as pocket

    if model.startswith(pocket.PREFIX):
        name = model.removeprefix(pocket.PREFIX)
        folder = pocket.path(name, revision)
        finished = pocket.get(name).recipe.steps if revision in (None, pocket.MAIN) else None
        return Source("folder", model, revision or pocket.MAIN, str(folder), folder_hash(folder), step=finished)
    folder = Path(os.path.expanduser(model))
    if folder.is_dir():
        inner = folder / revision if revision else folder
        if not (inner / "config.json").is_file():
            raise ModelError(f"{inner} has no config.json: a model folder is what save_pretrained writes")
        name = folder.resolve().name if revision else f"{folder.resolve().parent.name}/{folder.resolve().name}"
        return Source("folder", name, revision, str(inner.resolve()), folder_hash(inner))
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"{model} is not a folder; give a model folder, a hub name, or pocket:NAME")
    commit, patterns = _on_hub(model, revision)
    return Source("hub", model, revision, model, commit, patterns)


def folder_hash(folder: Path) -> str:
    """SHA-256 over the files of a model folder, documentation apart: name, size and content of each."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.suffix in {".md", ".gitattributes"}:
            continue
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{path.name} {path.stat().st_size} {content}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=512)
def _on_hub(repository: str, revision: str | None) -> tuple[str, tuple[str, ...]]:
    """Commit and files of a revision: from the hub, or from the local cache when the hub is out of reach."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        facts: object = HfApi().model_info(repository, revision=revision, files_metadata=False, timeout=30)
        names = [str(entry.rfilename) for entry in facts.siblings or []]
        return str(facts.sha), _patterns(names)
    except HfHubHTTPError as error:
        raise ModelError(f"{repository}@{revision or 'main'} on the hub: {_first_line(error)}") from error
    except Exception as error:
        # offline, by choice or by accident: a commit that is in the cache already is as good
        if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            return str(revision), ()
        try:
            folder = snapshot_download(repository, revision=revision, local_files_only=True)
        except (LocalEntryNotFoundError, OSError, ValueError):
            raise ModelError(
                f"{repository}@{revision or 'main'} is neither a folder nor in the cache, and the hub cannot be "
                f"reached: {_first_line(error)}"
            ) from error
        return Path(folder).name, ()


def _patterns(names: Iterable[str]) -> tuple[str, ...]:
    """What to download: safetensors where there are any, otherwise the older format; never both."""
    endings = {Path(name).suffix for name in names if "/" not in name}
    weights = next((ending for ending in _WEIGHTS if ending in endings), None)
    if weights is None:
        raise ModelError("the repository holds no weights in a format that we read (safetensors or bin)")
    return (*_SMALL, f"*{weights}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
