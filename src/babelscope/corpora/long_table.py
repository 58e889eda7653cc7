"""Long tables: one text a row, its language in a column or in the path of its file.

language=COLUMN             the column (or several, joined by `+`: iso_639_3+iso_15924) that names the language
PATH with {language}        one file a language; the part of the path says which
text=COLUMN, id=COLUMN      names by `|` are alternatives, of which the first that is there counts; ids may join
                            several columns by `+`
only=COLUMN:VALUE           rows that count
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from babelscope.corpora.files import listed, shown
from babelscope.corpora.folders import named_language
from babelscope.corpora.packed import matching
from babelscope.corpora.source import Source, add_text, choose
from babelscope.corpora.spec import Spec
from babelscope.corpora.table_cells import Table, label
from babelscope.errors import CorpusError

__all__ = ["LANGUAGE", "LONG_OPTIONS", "is_long", "language_files", "source_of_long_tables"]

LANGUAGE = "{language}"
LONG_OPTIONS = ("language", "text", "only")
TEXTS = "text|sentence|sen|src_text|flores_passage"
"""what published sets call it"""


def is_long(spec: Spec) -> bool:
    """Whether a spec asks for a long table."""
    return (
        LANGUAGE in spec.place or LANGUAGE in spec.options.get("config", "") or bool({*LONG_OPTIONS} & {*spec.options})
    )


def language_files(pattern: str, where: str) -> dict[str, Path]:
    """The file of each language by a path that holds {language}, twice or more where the path repeats it.

    Parts that name no language are left out. Raises CorpusError when there is none, or two of one language.

    >>> language_files("sib/{language}/dev.tsv", "")                                     # doctest: +SKIP
    {'ace': PosixPath('sib/ace_Latn/dev.tsv'), 'en': PosixPath('sib/eng_Latn/dev.tsv')}
    """
    pattern = os.path.expanduser(pattern)
    first, *rest = pattern.split(LANGUAGE)
    known = re.compile(
        re.escape(first) + r"(?P<code>[^/]+?)" + r"(?P=code)".join(map(re.escape, rest)) + r"(\.gz|\.zst)?$"
    )
    found: dict[str, Path] = {}
    starred = re.sub(r"([\[*?])", r"[\1]", first) + "*" + "*".join(re.sub(r"([\[*?])", r"[\1]", one) for one in rest)
    for path in [*matching(starred), *matching(f"{starred}.gz"), *matching(f"{starred}.zst")]:
        match = known.match(str(path))
        code = named_language(match["code"]) if match else None
        if code is None:
            continue
        if code in found:
            raise CorpusError(
                f"{where or pattern}: {found[code].name} and {path.name} are both {code}; name one of them"
            )
        found[code] = path
    if not found:
        raise CorpusError(f"{where or pattern}: no file fits {pattern} with a language in the place of {LANGUAGE}")
    return found


def source_of_long_tables(
    tables: Mapping[str | None, Callable[[], Table]], spec: Spec, languages: Sequence[str] | None
) -> Source:
    """Texts by language and id from tables by language (None: the language is in a column).

    Without `id` rows count from 1 in each language, which is parallel only where the rows of all languages are.
    Raises CorpusError for a missing column, a language that is not known, and ids that occur twice in a language.
    """
    documents: dict[str, str] = {}
    if None in tables:
        return Source(_by_column(tables[None](), spec, languages, documents), documents)
    chosen = choose({code: made for code, made in tables.items() if code is not None}, languages, spec)
    texts = {code: _texts(made(), spec, documents) for code, made in chosen.items()}
    return Source(texts, documents)


def _by_column(
    table: Table, spec: Spec, languages: Sequence[str] | None, documents: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Only the languages asked for are looked at: variants of another one (FLORES+'s glottocodes) may share its ids."""
    columns = spec.options.get("language", "")
    if not columns:
        raise CorpusError(f"{spec.text}: say where the language is, with language=COLUMN, or {LANGUAGE} in the path")
    rows: dict[str, list[Mapping[str, object]]] = {}
    for column in columns.split("+"):
        _require(table, column)
    for number in _kept(table, spec):
        name = "_".join(str(table.cell(number, column)) for column in columns.split("+"))
        code = named_language(name)
        if code is None:
            raise CorpusError(f"{table.where}, row {number + 1}: {columns} names no known language ({shown(name)})")
        rows.setdefault(code, []).append(table.rows[number])
    plain = Spec(spec.text, spec.reader, spec.place, {k: v for k, v in spec.options.items() if k != "only"})
    return {
        code: _texts(Table(table.columns, own, f"{table.where} in {code}"), plain, documents)
        for code, own in choose(rows, languages, spec).items()
    }


def _texts(table: Table, spec: Spec, documents: dict[str, str]) -> dict[str, str]:
    column = _alternative(table, spec.options.get("text", TEXTS), spec, "text")
    name, document = spec.options.get("id"), spec.options.get("document")
    ids = [_alternative(table, one, spec, "id") for one in name.split("+")] if name else []
    if document:
        _require(table, document)
    texts: dict[str, str] = {}
    for number in _kept(table, spec):
        where = f"{table.where}, row {number + 1}"
        own = "/".join(label(table.cell(number, one), one, where) for one in ids) if ids else str(number + 1)
        value = table.text(number, column, where)
        add_text(texts, own, value, table.where)
        if document:
            told = label(table.cell(number, document), document, where)
            if documents.setdefault(own, told) != told:
                raise CorpusError(
                    f"{where}: {shown(own)} is of document {shown(told)} here, of {shown(documents[own])} in another "
                    "language; give id=COLUMN whose values name one text in all languages, or leave document= out"
                )
    return texts


def _kept(table: Table, spec: Spec) -> list[int]:
    """Rows that `only` lets through: one value, or any of several joined by +."""
    wanted = spec.options.get("only")
    if wanted is None:
        return list(range(len(table.rows)))
    column, colon, value = wanted.partition(":")
    if not colon or not value:
        raise CorpusError(f"{spec.text}: only={wanted} is not of the form COLUMN:VALUE")
    _require(table, column)
    values = {value, *value.split("+")}
    kept = [number for number in range(len(table.rows)) if str(table.cell(number, column)) in values]
    if not kept:
        there = listed(dict.fromkeys(str(table.cell(number, column)) for number in range(len(table.rows))))
        raise CorpusError(f"{table.where}: no row has {value!r} in {column}; there are {there}")
    return kept


def _alternative(table: Table, names: str, spec: Spec, option: str) -> str:
    found = next((name for name in names.split("|") if table.has(name)), None)
    if found is None:
        raise CorpusError(
            f"{table.where} has no column {' or '.join(map(shown, names.split('|')))}; it has {listed(table.columns)}; "
            f"say {option}=COLUMN"
        )
    return found


def _require(table: Table, column: str) -> None:
    if not table.has(column):
        raise CorpusError(f"{table.where} has no column {shown(column)}; it has {listed(table.columns)}")
