"""A YAML file of options, in the place of typing them: `--config run.yaml`.

The file names verbs, and below each its options as they are spelled on the command line, with `_` or `-`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cyclopts.config import Dict

from babelscope.errors import InputError

LARGEST = 1 << 20
"""bytes of a file of options"""


def taken_from(words: Sequence[str]) -> tuple[list[str], list[Dict]]:
    """The words without `--config FILE`, and what stands in the file; raises InputError for one that cannot be read."""
    left: list[str] = []
    files: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            left += [word, *rest]
        elif word == "--config":
            file = next(rest, None)
            if file is None:
                raise InputError("--config needs a file: --config run.yaml")
            files.append(file)
        elif word.startswith("--config="):
            files.append(word.partition("=")[2])
        else:
            left.append(word)
    if len(files) > 1:
        raise InputError("--config is given twice; put all options into one file")
    return left, [Dict(_options(Path(file)), source=file) for file in files]


def _options(path: Path) -> dict[str, object]:
    content = _read(path)
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise InputError(f"{path}: write the verb, and its options below it, such as 'regions:' and '  samples: 100'")
    return {str(verb): {_name(path, key): value for key, value in part.items()} for verb, part in content.items()}


def _name(path: Path, key: object) -> str:
    if not isinstance(key, str):
        raise InputError(f"{path}: {key!r} is no name of an option")
    return key.replace("-", "_")


def _read(path: Path) -> object:
    from babelscope.evolution.located import read_yaml_file

    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} is larger than a file of options can be ({LARGEST >> 20} MiB)")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return read_yaml_file(path).data  # no tags, no repeated keys, nothing that unfolds
