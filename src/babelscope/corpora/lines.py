"""The simplest corpus: a folder with one `<language>.txt` per language, line n the same sentence in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from babelscope.corpora.files import files_in, read_lines
from babelscope.corpora.folders import find_language_files, plainly_named, same_length
from babelscope.corpora.packed import plain_path
from babelscope.corpora.source import Source
from babelscope.corpora.spec import Spec

__all__ = ["read_line_files"]


def read_line_files(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `lines:DIR?en=some-file.txt`; ids are line numbers, and an empty line is a missing sentence."""
    folder = spec.path
    paths = files_in(folder, lambda path: plain_path(path).suffix == ".txt", "<language>.txt files")
    stated = spec.by_language(("lone", "limit"))
    found = find_language_files(folder, paths, lambda path: plainly_named(plain_path(path).stem, languages), stated)
    files = found.pick(languages, spec)
    lines = {code: read_lines(path) for code, path in files.items()}
    same_length(lines, files)
    texts = {code: {str(i): line for i, line in enumerate(of_code, 1)} for code, of_code in lines.items()}
    return Source(texts, notes=tuple(found.notes))
