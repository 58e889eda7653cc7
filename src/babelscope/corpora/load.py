"""From a spec to a corpus or to texts: the table of readers, and the two calls that everything else uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from babelscope.corpora import bible, flores, hub, pocket, table, xlsum
from babelscope.corpora.lines import read_line_files
from babelscope.corpora.memory import Texts, corpus_in_memory
from babelscope.corpora.ntrex import read_ntrex
from babelscope.corpora.parallel import ParallelCorpus
from babelscope.corpora.source import FORMS, Source, align, collect, normalised
from babelscope.corpora.spec import Spec, fitting_reader, parse_spec
from babelscope.corpora.texts import TextCollection
from babelscope.errors import CorpusError
from babelscope.languages import parse_languages
from babelscope.outside import Rows

__all__ = ["READERS", "Reader", "load_corpus", "load_source", "load_texts"]


@dataclass(frozen=True)
class Reader:
    """One row of the table of readers."""

    name: str
    read: Callable[[Spec, Sequence[str] | None], Source]
    holds: str
    """what it reads, in a few words"""
    example: str
    options: tuple[str, ...] = ()
    languages_as_options: str = ""
    """what `en=…` names, where the reader takes that: a column or a file"""
    parallel: bool = True


_READERS = {
    reader.name: reader
    for reader in (
        Reader(
            "bible",
            bible.read_bible,
            "verses, one CES XML file per language (christos-c/bible-corpus)",
            "bible:bibles?exclude=JAM,1PE,COL",
            bible.OPTIONS,
            "file",
        ),
        Reader("ntrex", read_ntrex, "NTREX-128 news, line-aligned", "ntrex:NTREX-128", (), "file"),
        Reader(
            "flores",
            flores.read_flores,
            "FLORES-200 or FLORES+, local or from the hub",
            "flores:flores200_dataset?split=devtest",
            flores.OPTIONS,
            "file",
        ),
        Reader("lines", read_line_files, "<language>.txt files, line-aligned", "lines:my-folder", (), "file"),
        Reader(
            "table",
            table.read_table,
            "TSV, CSV, JSON, JSONL or Parquet: a language per column, per row or per file ({language} in the path)",
            "table:pairs.tsv?id=key&en=English&fr=French",
            table.OPTIONS,
            "column",
        ),
        Reader(
            "hub",
            hub.read_hub,
            "any dataset of the Hugging Face hub: a column, a configuration ({language}) or a cell per language",
            "hub:Helsinki-NLP/opus-100?config=en-fr&split=test&en=translation.en&fr=translation.fr",
            hub.OPTIONS,
            "column",
        ),
        Reader("pocket", pocket.read_pocket, "the built-in generated corpus", "pocket:heldout", pocket.OPTIONS),
        Reader(
            "xlsum",
            xlsum.read_xlsum,
            "XL-Sum articles for perplexity, local JSONL or from the hub",
            "xlsum:XLSum?split=val&limit=500",
            xlsum.OPTIONS,
            "file",
            parallel=False,
        ),
    )
}
READERS: Rows[Reader] = Rows("readers", lambda row: isinstance(row, Reader), _READERS)


def load_corpus(spec: str | Texts, languages: Sequence[str] | str | None = None) -> ParallelCorpus:
    """The parallel sentences that a spec names, in the given languages (default: all that are there), aligned by id.

    In the place of a spec may stand sentences in memory: a dictionary of lists, a data frame, a data set or rows.

    Raises CorpusError with one line that says what is wrong, where, and what to do; InputError for unknown languages.

    >>> corpus = load_corpus("lines:data/my-folder", ["en", "fr"])  # doctest: +SKIP
    >>> load_corpus({"en": ["a cat", "a dog"], "fr": ["un chat", "un chien"]})
    <ParallelCorpus memory: 2 sentences in en, fr>
    """
    if isinstance(spec, os.PathLike):
        raise CorpusError(
            f"{spec}: write the reader before the path, such as {fitting_reader(os.fspath(spec))} "
            f"(readers: {', '.join(READERS)})"
        )
    if not isinstance(spec, str):
        return corpus_in_memory(spec, languages)
    parsed, form = _resolve(spec, extra=("lone",))
    if not READERS[parsed.reader].parallel:
        raise CorpusError(f"{spec}: {parsed.reader} texts are not parallel; use them as texts for perplexity")
    return align(_read(parsed, languages, form), parsed)


def load_texts(spec: str, languages: Sequence[str] | str | None = None) -> dict[str, TextCollection]:
    """The running text that a spec names, by language: chapters or articles where known, else lines.

    Nothing is aligned: each language keeps all of its text. `limit=N` in the spec keeps the first N documents.
    Raises CorpusError as `load_corpus` does.

    >>> texts = load_texts("xlsum:XLSum?limit=500", ["en", "fr"])  # doctest: +SKIP
    """
    parsed, form = _resolve(spec, extra=("lone", "limit"))
    texts = collect(_read(parsed, languages, form), parsed)
    return {code: replace(text, parallel=READERS[parsed.reader].parallel) for code, text in texts.items()}


def load_source(spec: str, languages: Sequence[str] | str | None = None) -> tuple[Source, Spec]:
    """What the reader found, before anything is aligned or left out: the audit's view."""
    parsed, form = _resolve(spec, extra=("lone", "limit"))
    return _read(parsed, languages, form), parsed


def _read(spec: Spec, languages: Sequence[str] | str | None, form: str) -> Source:
    """What the reader finds, its texts in the Unicode normal form that was asked for; how many changed is noted."""
    reader = READERS[spec.reader]
    with READERS.running(spec.reader):
        source = reader.read(spec, _codes(languages))
        if not isinstance(source, Source):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"it gives {type(source).__name__}, not Source")
    return normalised(source, form) if form else source


def _codes(languages: Sequence[str] | str | None) -> list[str] | None:
    return None if languages is None else parse_languages(languages)


_TABLES = ("tsv", "csv", "json", "jsonl", "parquet")
"""names of formats that people write in the place of a reader"""


def _resolve(text: str, extra: Iterable[str]) -> tuple[Spec, str]:
    """The parsed spec of a known reader, with no option that the reader would not look at, and `normalise` apart."""
    spec = parse_spec(text)
    form = spec.choice("normalise", FORMS, "") if "normalise" in spec.options else ""
    spec = replace(spec, options={name: value for name, value in spec.options.items() if name != "normalise"})
    reader = READERS.get(spec.reader)
    if reader is None:
        rest = text.partition(":")[2]
        hint = f"; write table:{rest}" if spec.reader in _TABLES and rest else ""
        raise CorpusError(f"{text}: there is no reader {spec.reader!r}; readers: {', '.join(READERS)}{hint}")
    allowed = {*reader.options, *extra}
    if reader.languages_as_options:
        spec.by_language(allowed)
    elif unknown := sorted(set(spec.options) - allowed):
        raise CorpusError(
            f"{text}: unknown option {unknown[0]!r}; {spec.reader} takes {', '.join(sorted(allowed)) or 'none'}"
        )
    return spec, form
