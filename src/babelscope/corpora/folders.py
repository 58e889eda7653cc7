"""Folders with one file per language: which file is which language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from babelscope.corpora.packed import plain_path
from babelscope.corpora.source import choose
from babelscope.corpora.spec import Spec
from babelscope.errors import CorpusError, InputError
from babelscope.languages import language

__all__ = ["LanguageFiles", "find_language_files", "named_language", "plainly_named", "same_length"]


@dataclass
class LanguageFiles:
    """The files of a folder by language code, and those that are none."""

    files: dict[str, list[Path]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def pick(self, languages: Sequence[str] | None, spec: Spec) -> dict[str, Path]:
        """One file for each requested language; CorpusError when one is missing or two files claim it."""
        chosen: dict[str, Path] = {}
        for code, paths in choose(self.files, languages, spec).items():
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                choice = f"{spec.join}{code}={paths[0].name}"
                raise CorpusError(f"{spec.text}: {len(paths)} files hold {code} ({names}); choose one with {choice}")
            chosen[code] = paths[0]
        return chosen


def find_language_files(
    folder: Path, paths: Sequence[Path], language_of: Callable[[Path], str | None], stated: Mapping[str, str]
) -> LanguageFiles:
    """Sort files by language; `stated` (code → file name, relative to the folder) overrides what the files say."""
    found = LanguageFiles()
    for code, name in stated.items():
        path = folder / name
        if "\0" in name or not path.is_file():
            raise CorpusError(f"{folder} holds no file {name!r} (asked for as {code})")
        found.files[code] = [path]
    taken = {path.resolve() for paths_of in found.files.values() for path in paths_of}
    for path in paths:
        if path.resolve() in taken:
            continue
        code = language_of(path)
        if code is None:
            found.notes.append(_left_out(path))
        elif code not in stated:
            found.files.setdefault(code, []).append(path)
    if not found.files:
        raise CorpusError(f"no file in {folder} is named after a language ({paths[0].name} is not)")
    return found


def _left_out(path: Path) -> str:
    code = named_language(plain_path(path).stem)
    if code is None:
        return f"{path.name} is not named after a language and was left out"
    return f"{path.name} was left out; if it is {language(code).name}, ask for the language {code} by name"


def named_language(name: str) -> str | None:
    """The code that a file name part stands for, or None."""
    try:
        return language(name).code
    except InputError:
        return None


def plainly_named(name: str, languages: Sequence[str] | None) -> str | None:
    """The code that a column or a free file name stands for, or None; more careful than `named_language`.

    Words such as `key`, `one` or `label` are codes or names of small languages, too: they count only when asked for,
    when a script is added (`key_Telu`), or when the language is one of the widely used. Codes that the standard keeps
    free for private use (qaa to qtz) are nobody's word.
    """
    code = named_language(name)
    if code is None or len(name) == 2 or "_" in name or "-" in name:
        return code
    plain = language(code).family or "qaa" <= code <= "qtz"
    return code if plain or code in (languages or ()) else None


def same_length(lines: Mapping[str, Sequence[str]], files: Mapping[str, Path]) -> None:
    """Raise CorpusError naming two files and their counts when line-aligned files differ in length."""
    first, *others = lines
    for code in others:
        if len(lines[code]) != len(lines[first]):
            raise CorpusError(
                f"{files[first]} has {len(lines[first])} lines and {files[code]} has {len(lines[code])}; "
                "line-aligned files must have the same number"
            )
