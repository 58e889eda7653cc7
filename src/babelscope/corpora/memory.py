"""Parallel sentences that are already in memory: a dictionary of lists, a data frame, a data set, or rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from babelscope.corpora.files import listed
from babelscope.corpora.folders import plainly_named
from babelscope.corpora.parallel import ParallelCorpus
from babelscope.errors import CorpusError, InputError
from babelscope.languages import language, parse_languages

__all__ = ["Frame", "corpus_in_memory"]

IDS = ("id", "ids", "sentence_id")
"""columns that name sentences, where there is one"""


@runtime_checkable
class Frame(Protocol):
    """What a pandas or polars data frame has."""

    @property
    def columns(self) -> Iterable[str]: ...

    def __getitem__(self, name: str) -> Iterable[object]: ...


@runtime_checkable
class _DataSet(Protocol):
    """What a `datasets.Dataset` has."""

    @property
    def column_names(self) -> Sequence[str]: ...

    def __getitem__(self, name: str) -> Iterable[object]: ...


Texts = Mapping[str, Sequence[str] | Sequence[int]] | Frame | _DataSet | Iterable[Mapping[str, str | int]]
"""numbers are ids"""


def corpus_in_memory(texts: Texts, languages: Sequence[str] | str | None = None) -> ParallelCorpus:
    """A corpus from columns named after languages, in step; a column `id` names the sentences.

    Raises CorpusError when there is no such column, an entry is no text, or the columns differ in length.

    >>> corpus_in_memory({"en": ["a cat"], "fra_Latn": ["un chat"]}).languages
    ('en', 'fr')
    """
    columns = _columns(texts)
    asked = None if languages is None else parse_languages(languages)
    codes = {name: code for name in columns if name not in IDS and (code := plainly_named(name, asked))}
    if asked is not None:
        codes = {name: code for code in asked for name, found in codes.items() if found == code}
    missing = [code for code in asked or () if code not in codes.values()]
    if missing or not codes:
        what = f"no column is {language(missing[0]).name} ({missing[0]})" if missing else "no column names a language"
        raise CorpusError(f"memory: {what}; columns: {', '.join(map(str, columns)) or 'none'}")
    if len(set(codes.values())) < len(codes):
        raise CorpusError(f"memory: two columns are one language: {', '.join(codes)}")
    ids = next((columns[name] for name in IDS if name in columns), None)
    unread = [] if asked is not None else [name for name in columns if name not in codes and name not in IDS]
    notes = (f"columns not read, as they are named after no language: {listed(unread)}",) if unread else ()
    corpus = ParallelCorpus.from_texts(
        {
            code: [_text(value, name, place) for place, value in enumerate(columns[name])]
            for name, code in codes.items()
        },
        ids=None if ids is None else [str(value) for value in ids],
    )
    return replace(corpus, notes=notes)


def _columns(texts: object) -> dict[str, list[object]]:
    if isinstance(texts, Mapping):
        named: Mapping[object, object] = texts
        if "train" in named and isinstance(named["train"], _DataSet):
            raise InputError(f"memory: a dictionary of splits; give one of them, such as data[{next(iter(named))!r}]")
        listed: dict[str, list[object]] = {}
        for name, column in named.items():
            if isinstance(column, str) or not isinstance(column, Iterable):
                raise CorpusError(f"memory: {name!r} holds {type(column).__name__}, not a list of sentences")
            listed[str(name)] = list(column)
        return listed
    if isinstance(texts, _DataSet):
        return {name: list(texts[name]) for name in texts.column_names}
    if isinstance(texts, Frame):
        return {str(name): list(texts[name]) for name in texts.columns}
    if not isinstance(texts, Iterable):
        raise InputError(
            f"a corpus is text such as 'bible:FOLDER', a dictionary of lists, a data frame or rows, "
            f"not {type(texts).__name__}"
        )
    columns: dict[str, list[object]] = {}
    for place, row in enumerate(texts):
        if not isinstance(row, Mapping):
            raise CorpusError(
                f"memory: row {place + 1} is {type(row).__name__}, not a dictionary of language: sentence"
            )
        fields = {str(name): value for name, value in row.items()}
        if place and fields.keys() != columns.keys():
            raise CorpusError(f"memory: row {place + 1} has {', '.join(fields)}; the first has {', '.join(columns)}")
        for name, value in fields.items():
            columns.setdefault(name, []).append(value)
    return columns


def _text(value: object, name: str, place: int) -> str:
    if not isinstance(value, str):
        raise CorpusError(f"memory: entry {place + 1} of {name!r} is {type(value).__name__}, not a sentence")
    return value
