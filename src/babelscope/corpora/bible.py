"""Bibles in the CES layout of christos-c/bible-corpus: one XML file each, `<seg id="b.MAT.1.1" type="verse">`."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring, iterparse

from babelscope.corpora.files import decode, files_in, listed, read_bytes, shown
from babelscope.corpora.folders import find_language_files, named_language
from babelscope.corpora.packed import plain_path
from babelscope.corpora.source import Source, add_text
from babelscope.corpora.spec import Spec
from babelscope.errors import CorpusError

__all__ = ["parse_bible", "read_bible"]

OPTIONS = ("books", "exclude", "documents")

# Book ids of the corpus, the USFM spellings of those that differ, and the deuterocanonical books.
_BOOKS = frozenset(
    """
    GEN EXO LEV NUM DEU JOS JDG RUT 1SA 2SA 1KI 2KI 1CH 2CH EZR NEH EST JOB PSA PRO ECC SON ISA JER LAM EZE DAN HOS JOE
    AMO OBA JON MIC NAH HAB ZEP HAG ZEC MAL MAT MAR LUK JOH ACT ROM 1CO 2CO GAL EPH PHI COL 1TH 2TH 1TI 2TI TIT PHM HEB
    JAM 1PE 2PE 1JO 2JO 3JO JUD REV SNG EZK JOL NAM MRK JHN PHP JAS 1JN 2JN 3JN JDE TOB JDT ESG WIS SIR BAR LJE S3Y SUS
    BEL 1MA 2MA 3MA 4MA 1ES 2ES MAN PS2 DAG
    """.split()  # noqa: SIM905 - a list of a hundred quoted names reads worse
)
_DECLARED_ENCODING = re.compile(rb"""^(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)""")
_DEEPEST = 50
_XML_ERRORS = (ParseError, DefusedXmlException, ValueError, LookupError, RecursionError)


def parse_bible(content: bytes, where: str | Path) -> dict[str, str]:
    """Verse id → text, in file order; the indentation around a verse is removed, a line break inside becomes a space.

    Raises CorpusError on broken or hostile XML (entities are refused, not expanded), repeated ids, or no verses.
    """
    encoding = _DECLARED_ENCODING.match(content)
    if encoding is None or encoding[1].lower() in {b"utf-8", b"utf8"}:
        decode(content, where)
    elif b"\0" in content:
        raise CorpusError(f"{where} is a binary file, not XML")
    try:
        root = fromstring(content)
    except _XML_ERRORS as error:
        raise CorpusError(_xml_message(error, where)) from error
    if _depth(root) > _DEEPEST:
        raise CorpusError(f"{where} is nested more than {_DEEPEST} levels deep, which no Bible is")
    verses: dict[str, str] = {}
    for segment in root.iter("seg"):
        verse = segment.get("id")
        if not verse:
            raise CorpusError(f"{where}: a <seg> has no id (after {shown(next(reversed(verses), 'the beginning'))})")
        add_text(
            verses, verse, re.sub(r"[ \t]*[\r\n]\s*", " ", "".join(segment.itertext()).strip(" \t\r\n")), str(where)
        )
    if not verses:
        raise CorpusError(f'{where} holds no verses: no <seg id="b.MAT.1.1"> in it')
    return verses


def _depth(root: Element) -> int:
    """Levels of a tree, walked without calling itself; one more than the deepest that is read ends the walk."""
    level, deep = [root], 0
    while level and deep <= _DEEPEST:
        level, deep = [child for element in level for child in element], deep + 1
    return deep


def read_bible(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `bible:PATH?books=MAT,MAR&exclude=JAM&documents=chapter|book&sw=Swahili-NT.xml`."""
    place = spec.path
    folder = place if place.is_dir() else place.parent
    paths = (
        files_in(place, lambda path: plain_path(path).suffix.lower() == ".xml", "XML files")
        if place.is_dir()
        else [place]
    )
    notes: list[str] = []
    stated = spec.by_language((*OPTIONS, "lone", "limit"))
    found = find_language_files(folder, paths, lambda path: _language_of(path, notes), stated)
    files = found.pick(languages, spec)
    texts = {code: parse_bible(read_bytes(path), path) for code, path in files.items()}
    texts = _choose_books(texts, spec)
    depth = {"book": 2, "chapter": 3}[spec.choice("documents", ("chapter", "book"), "chapter")]
    chapters = {verse: _document(verse, depth) for verses in texts.values() for verse in verses}
    chosen_names = {path.name for path in files.values()}
    notes = [note for note in notes if note.split(" ", 1)[0] in chosen_names]
    return Source(texts, chapters, (*found.notes, *notes), may_stand_alone=lambda verse: _book(verse) in _BOOKS)


def _language_of(path: Path, notes: list[str]) -> str | None:
    """The language of a file: what its header declares, unless header text and file name agree on another."""
    by_file = named_language(re.sub(r"[-_](NT|OT|PART|WEB|tok)\b.*", "", plain_path(path).stem))
    try:
        codes, name = _declared(path)
    except CorpusError:
        if by_file is None:
            raise
        return by_file  # the file itself says what is wrong with it when it is read
    declared = next((code for code in map(named_language, codes) if code), None)
    by_name = named_language(name)
    if by_name is not None and by_name == by_file and declared not in {None, by_name}:
        override = f"?{declared}={path.name}"
        notes.append(
            f"{path.name} declares {declared} but is named {name}: read as {by_name}; {override} would override"
        )
        return by_name
    return declared or by_file or by_name


def _declared(path: Path) -> tuple[list[str], str]:
    """What `<language id= iso639=>Name</language>` says, reading no further than the header."""
    try:
        with io.BytesIO(read_bytes(path)) if plain_path(path) != path else path.open("rb") as file:
            for event, element in iterparse(file, events=("start", "end")):
                if event == "end" and element.tag == "language":
                    codes = [element.get("id") or "", element.get("iso639") or ""]
                    return codes, (element.text or "").strip()
                if event == "start" and element.tag == "body":
                    return [element.get("lang") or ""], ""
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    except _XML_ERRORS as error:
        raise CorpusError(_xml_message(error, path)) from error
    return [], ""


def _xml_message(error: Exception, where: str | Path) -> str:
    if isinstance(error, DefusedXmlException):
        kind = type(error).__name__
        what = {"EntitiesForbidden": "defines XML entities", "DTDForbidden": "has a document type definition"}
        found = what.get(kind, "refers to an external entity")
        return f"{where} {found}; such files are refused, because they can hide a bomb"
    return f"{where} is not well-formed XML: {error}"


def _book(verse: str) -> str:
    parts = verse.split(".")
    return parts[1] if len(parts) == 4 and parts[0] == "b" else ""


def _document(verse: str, depth: int) -> str:
    return ".".join(verse.split(".")[:depth]) if _book(verse) else verse


def _choose_books(texts: dict[str, dict[str, str]], spec: Spec) -> dict[str, dict[str, str]]:
    kept = {book.upper() for book in spec.items("books")}
    left_out = {book.upper() for book in spec.items("exclude")}
    there = list(dict.fromkeys(_book(verse) for verses in texts.values() for verse in verses))  # "" for other ids
    unknown = sorted((kept | left_out) - set(there))
    if unknown:
        raise CorpusError(f"{spec.text}: no book {shown(unknown[0])}; there are {listed(filter(None, there))}")
    kept = (kept or set(there)) - left_out
    if not kept:
        raise CorpusError(f"{spec.text}: every book is left out; change books= or exclude=")
    return {code: {i: text for i, text in verses.items() if _book(i) in kept} for code, verses in texts.items()}
