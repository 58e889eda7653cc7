"""Runs, region sets and circuits on the Hugging Face hub: put there with a card, taken back and verified.

What is shared lies in a repository of the kind "dataset", named `hf://user/name`, with `@revision` for one state of
it. Beside the files stand their SHA-256 sums, which are compared on arrival: what was changed on the way is refused.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from babelscope.errors import RunError, Unwritable
from babelscope.results.checksums import checksums, files_of, inside, verify
from babelscope.results.layout import CHECKSUMS, MANIFEST, is_run
from babelscope.results.manifest import to_json
from babelscope.results.scratch import Scratch
from babelscope.results.store import arriving
from babelscope.results.text_tables import with_ends
from babelscope.wording import number

PREFIX = "hf://"
CARD = "README.md"
NOT_OURS = (CARD, ".gitattributes")
"""files of a repository that belong to no run"""
KIND = "dataset"
_NAME = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Shared:
    """A name on the hub."""

    repository: str
    revision: str | None = None

    @classmethod
    def of(cls, name: str) -> Shared:
        """The parts of `hf://user/name@revision`; raises RunError for anything else.

        >>> Shared.of("hf://anna/bloom-regions@v1")
        Shared(repository='anna/bloom-regions', revision='v1')
        """
        found = _NAME.fullmatch(os.fspath(name))
        if found is None:
            raise RunError(
                f"{str(name)[:200]!r} names nothing on the hub: write hf://user/name or hf://user/name@revision"
            )
        return cls(found[1], found[2])


def is_shared(name: str | os.PathLike[str]) -> bool:
    """Whether a place is a name on the hub."""
    return os.fspath(name).startswith(PREFIX)


def push(path: str | os.PathLike[str], name: str, private: bool = False, licence: str = "cc-by-4.0") -> str:
    """Puts a finished run, or one file of regions or of a circuit, on the hub; returns its name with the revision.

    The token is the one that `hf auth login` keeps, or HF_TOKEN. Raises RunError for what is no finished run or was
    changed since, Unwritable when the hub refuses.

    >>> push("runs/bloom", "hf://anna/bloom-regions")                                      # doctest: +SKIP
    'hf://anna/bloom-regions@3f1c…'
    """
    shared, source = Shared.of(name), Path(os.path.expanduser(path))
    with Scratch("shared") as folder:
        root = _staged(source, folder / "shared")
        (root / CARD).write_text(card(root, shared, licence), encoding="utf-8")
        return f"{PREFIX}{shared.repository}@{_committed(root, shared, private)}"


def _staged(source: Path, root: Path) -> Path:
    """A copy with checksums, of a run or of a single file."""
    if is_run(source):
        verify(source)
        for name in files_of(source):
            inside(source, name)  # a link would publish what lies elsewhere on this machine
        shutil.copytree(source, root)
        return root
    if not source.is_file() or source.suffix not in (".safetensors", ".json"):
        raise RunError(f"{source} is neither a finished run nor a file of regions or of a circuit")
    root.mkdir()
    for part in map(source.with_suffix, (".safetensors", ".json")):
        if part.is_file():
            shutil.copyfile(part, root / part.name)
    (root / CHECKSUMS).write_text(to_json(checksums(root)), encoding="utf-8")
    return root


def _committed(root: Path, shared: Shared, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(shared.repository, private=private, repo_type=KIND, exist_ok=True)
        new = files_of(root)
        old = [name for name in api.list_repo_files(shared.repository, repo_type=KIND) if name != ".gitattributes"]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, str(root / name)) for name in new
        ]
        operations += [CommitOperationDelete(name) for name in old if name not in new]
        made = api.create_commit(
            shared.repository,
            operations,
            commit_message="Results of babelscope",
            repo_type=KIND,
            revision=shared.revision,
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise Unwritable(f"cannot put it at {PREFIX}{shared.repository}: {said(error)}") from None
    return made.oid


def pull(name: str, out: str | os.PathLike[str]) -> Path:
    """Fetches what is shared under a name into a new folder, and verifies it; returns the folder.

    Raises RunError when there is nothing, or when a file is not as it was written.

    >>> pull("hf://anna/bloom-regions", "runs/bloom")                                      # doctest: +SKIP
    PosixPath('runs/bloom')
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    shared, target = Shared.of(name), Path(os.path.expanduser(out))
    try:
        with arriving(target, f"{name} was not shared by babelscope") as folder:
            with _no_bars():
                snapshot_download(shared.repository, repo_type=KIND, revision=shared.revision, local_dir=folder)
            shutil.rmtree(folder / ".cache", ignore_errors=True)
            for other in NOT_OURS:
                (folder / other).unlink(missing_ok=True)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RunError(f"cannot read {name}: {said(error)}") from None
    return target


def shared_file(folder: Path) -> Path:
    """What a pulled folder holds: the run itself, or the file of regions or of a circuit in it."""
    if is_run(folder):
        return folder
    names = [name for name in files_of(folder) if name != CHECKSUMS]
    found = [name for name in names if name.endswith(".safetensors")] or names
    if not found:
        raise RunError(f"{folder} holds nothing but its checksums")
    return folder / found[0]


@contextmanager
def fetched(place: str | os.PathLike[str]) -> Generator[Path]:
    """A run or a file by its path or by its name on the hub; what was fetched goes when the context is left."""
    if not is_shared(place):
        yield Path(place)
        return
    with Scratch("shared") as folder:
        yield shared_file(pull(os.fspath(place), folder / "shared"))


def said(error: Exception) -> str:
    """The first line of what went wrong, without headers and tokens."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the hub answers {response.status_code}"
    line = (str(error) or type(error).__name__).strip().splitlines()[0]
    return re.sub(r"hf_\w+", "hf_…", line)[:300]


@contextmanager
def _no_bars() -> Generator[None]:
    """No progress bars of the hub's library, as they were before afterwards."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not off:
            enable_progress_bars()


def card(root: Path, shared: Shared, licence: str) -> str:
    """What it is, of which model, from which text, with which settings, and how to load it."""
    import json

    manifest: dict[str, object] = {}
    if (root / MANIFEST).is_file():
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    model = _mapping(manifest.get("model"))
    corpus = _mapping(manifest.get("corpus"))
    kind = manifest.get("kind") or "regions or circuit"
    facts = {
        "kind": kind,
        "model": model.get("id") or manifest.get("model"),
        "revision": model.get("revision"),
        "weights": model.get("weight_hash"),
        "corpus": corpus.get("spec"),
        "languages": ", ".join(map(str, _entries(manifest.get("languages")) or _entries(corpus.get("languages")))),
        "babelscope": manifest.get("babelscope"),
        "key": manifest.get("key"),
    }
    title = shared.repository.partition("/")[2]
    lines = [
        "---", f"license: {licence}", "tags:", "- babelscope", "---", "",
        f"# {title}", "",
        f"Results of babelscope ({kind}).", "", "| | |", "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in facts.items() if value),
        "", *_headline(_mapping(manifest.get("summary"))), *_settings(_mapping(manifest.get("asked"))),
        "## Load it", "", "```", f"babelscope pull {PREFIX}{shared.repository} --out runs/{title}",
        f"babelscope report {PREFIX}{shared.repository} --out page.html", "```", "",
        f"Licence of these numbers: {licence}; of the model and the texts: theirs. Cite babelscope (CITATION.cff of "
        "its repository), the model and the corpus.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _headline(summary: Mapping[str, object]) -> list[str]:
    """The sentences of a summary, and its headline numbers with intervals."""
    told = [f"- {_cell(line)}" for line in _entries(summary.get("sentences"))]
    for name, interval in _mapping(summary.get("intervals")).items():
        ends = _entries(interval)
        if summary.get(name) is not None and len(ends) == 2:
            told.append(f"- {_cell(name)}: {_cell(with_ends(number(summary[name]), *ends))}")
    return ["## Headline", "", *told, ""] if told else []


def _settings(asked: Mapping[str, object]) -> list[str]:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in sorted(asked.items())]
    return ["## Settings", "", "| setting | value |", "|---|---|", *rows, ""] if rows else []


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}


def _entries(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _cell(value: object) -> str:
    """A value in one cell of a table, without what would end it, or lead to this machine's folders."""
    text = str(value).replace("|", "\\|").replace("\n", " ").replace("`", "'").replace("<", "&lt;")
    return re.sub(r"(?<![\w:/.])/(?:[^\s/|]+/)+", "…/", text)[:300]
