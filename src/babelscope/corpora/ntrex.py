"""NTREX-128: news translated from English, line-aligned, `newstest2019-ref.<code>.txt` (Federmann, Kocmi, Xin 2022)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from babelscope.corpora.files import files_in, read_lines
from babelscope.corpora.folders import find_language_files, named_language, same_length
from babelscope.corpora.packed import plain_path
from babelscope.corpora.source import Source
from babelscope.corpora.spec import Spec
from babelscope.errors import CorpusError

__all__ = ["read_ntrex"]

_NAME = re.compile(r"newstest\d+-(?:src|ref)\.(?P<code>[\w-]+)\.txt")


def read_ntrex(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `ntrex:PATH`; ids are line numbers, documents come from DOCUMENT_IDS.tsv beside or above the files."""
    folder = spec.path
    paths = files_in(
        folder, lambda path: _NAME.fullmatch(plain_path(path).name) is not None, "newstest2019-ref.<code>.txt"
    )
    found = find_language_files(folder, paths, _language_of, spec.by_language(("lone", "limit")))
    files = found.pick(languages, spec)
    lines = {code: read_lines(path) for code, path in files.items()}
    same_length(lines, files)
    texts = {code: {str(i): line for i, line in enumerate(of_code, 1)} for code, of_code in lines.items()}
    return Source(texts, _documents(folder, len(next(iter(lines.values())))), tuple(found.notes))


def _language_of(path: Path) -> str | None:
    match = _NAME.fullmatch(plain_path(path).name)
    return named_language(match["code"]) if match else None


def _documents(folder: Path, count: int) -> dict[str, str]:
    for path in (folder / "DOCUMENT_IDS.tsv", folder.resolve().parent / "DOCUMENT_IDS.tsv"):
        if path.is_file():
            names = [line.split("\t")[0] for line in read_lines(path)]
            if len(names) != count:
                raise CorpusError(f"{path} has {len(names)} lines, but the sentences are {count}")
            return {str(i): name for i, name in enumerate(names, 1)}
    return {}
