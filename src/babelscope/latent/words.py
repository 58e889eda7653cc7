"""Lists of concepts with their words in several languages: built in, from the pocket lexicon, or a table of one's own.

A concept has an id that is the same in every language, alternatives in each, and where known a definition with a gap.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

from babelscope.corpora.files import split_lines
from babelscope.errors import InputError
from babelscope.json_text import parse_json
from babelscope.languages import language
from babelscope.wording import first_line

BUILT_IN, POCKET, PLANTED = "concepts", "pocket", "planted"
"""names that stand for lists that come with the package"""
KINDS = ("animal", "object", "food", "drink", "place")
"""nouns of the pocket lexicon that are taken"""
GAP = "___"
KEYS = ("id", "concept")
"""names of the column that names the concept (in JSON, `concept` leaves `id` to Indonesian)"""
_DEFINITION = "definition_"


@dataclass(frozen=True)
class Concept:
    """One meaning."""

    id: str
    words: Mapping[str, tuple[str, ...]]
    """language → alternatives, the first one written in prompts"""
    kind: str = ""
    definitions: Mapping[str, str] = field(default_factory=dict)
    """language → a sentence with `___` where the word would stand"""


@dataclass(frozen=True)
class WordList:
    """Concepts, and the languages in which at least one of them has a word.

    >>> words = load_words("concepts", ["en", "fr"])
    >>> len(words.concepts) >= 100, words.concepts[0].words["fr"]
    (True, ('livre',))
    """

    name: str
    languages: tuple[str, ...]
    concepts: tuple[Concept, ...]
    doubles: tuple[str, ...] = ()
    """ids left out because another concept has the same string in a used language"""

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def hash(self) -> str:
        """SHA-256 of what the list holds, wherever it lies."""
        whole = json.dumps([asdict(concept) for concept in self.concepts], sort_keys=True, default=list)
        return hashlib.sha256(whole.encode()).hexdigest()


def load_words(
    spec: str | Path = BUILT_IN, languages: Sequence[str] | None = None, kinds: Sequence[str] | None = None
) -> WordList:
    """The built-in list `concepts`, the `pocket` lexicon, `planted` words, or a CSV, TSV or JSONL file (section 5).

    Concepts that share a string in a used language are left out, all of them, and named in `doubles`.
    Raises InputError for a list that cannot be read, a language or kind that it lacks, or a list without concepts.
    """
    spec = str(spec)
    concepts = list(_listed(spec, kinds))
    there = tuple(dict.fromkeys(code for concept in concepts for code in concept.words))
    chosen = there if languages is None else tuple(language(code).code for code in languages)
    absent = [code for code in chosen if code not in there]
    if absent:
        raise InputError(
            f"the word list {spec} has no words in {', '.join(absent)}; it has {', '.join(there) or 'none'}"
        )
    kept, doubles = _without_doubles(concepts, chosen)
    if not kept:
        wanted = f" of the kinds {', '.join(kinds)}" if kinds else ""
        raise InputError(f"the word list {spec} has no concept{wanted} left in {', '.join(chosen)}")
    return WordList(spec, chosen, tuple(kept), tuple(doubles))


def _listed(spec: str, kinds: Sequence[str] | None) -> Iterator[Concept]:
    if spec == POCKET:
        yield from _pocket(KINDS if kinds is None else kinds)
        return
    if spec == PLANTED:
        from babelscope.pocket.planted import words

        yield from (Concept(id, {code: (word,) for code, word in said.items()}) for id, said in words().items())
        return
    path = Path(str(files("babelscope.latent") / "data" / "concepts.tsv")) if spec == BUILT_IN else _existing(spec)
    yield from (concept for concept in _table(path, spec) if kinds is None or concept.kind in kinds)


def _existing(spec: str) -> Path:
    path = Path(os.path.expanduser(spec))
    if not path.is_file():
        raise InputError(f"there is no word list {spec}: write {BUILT_IN}, {POCKET}, or a CSV, TSV or JSONL file")
    return path


def _table(path: Path, name: str) -> Iterator[Concept]:
    seen: set[str] = set()
    for number, identifier, row in _rows(path, name):
        if not identifier:
            raise InputError(f"{name}, line {number}: a concept needs an `id`")
        if identifier in seen:
            raise InputError(f"{name}, line {number}: the id {identifier} occurs twice")
        seen.add(identifier)
        kind, definitions, words = "", dict[str, str](), dict[str, tuple[str, ...]]()
        said: dict[str, str] = {}
        for column, text in row:
            if column == "kind":
                kind = text
            elif column.startswith(_DEFINITION):
                if text and GAP not in text:
                    raise InputError(f"{name}, line {number}: {column} has no gap {GAP}")
                definitions |= {_code(column.removeprefix(_DEFINITION), name): text} if text else {}
            else:
                found = tuple(filter(None, (part.strip() for part in text.split("|"))))
                code = _code(column, name)
                if code in said:
                    raise InputError(f"{name}: the columns {said[code]} and {column} are both {code}; keep one of them")
                said[code] = column
                words |= {code: found} if found else {}
        yield Concept(identifier, words, kind, definitions)


def _rows(path: Path, name: str) -> Iterator[tuple[int, str, list[tuple[str, str]]]]:
    """Line number, identifier and the other cells with their columns, in NFC; an empty cell is a missing word."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the word list {name} cannot be read: {first_line(error)}") from None
    lines = split_lines(_nfc(text))
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _json_rows(lines, name)
        return
    if suffix not in (".csv", ".tsv"):
        raise InputError(f"the word list {name} is no .csv, .tsv or .jsonl file")
    tabs = suffix == ".tsv"
    reader = csv.reader(
        lines, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL, strict=not tabs
    )
    try:
        header = [column.strip() for column in next(reader, [])]
        twice = next((column for column in header[1:] if header[1:].count(column) > 1), None)
        if twice is not None:
            raise InputError(f"{name}: the column {twice[:40]!r} occurs twice")
        # `id` is also the code of Indonesian: the first column names the concept, a later one holds words
        if not header or header[0] not in KEYS:
            raise InputError(f"the first column of the word list {name} must be `id`; the others are language codes")
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise InputError(f"{name}, line {reader.line_num}: {len(row)} cells, the header has {len(header)}")
            cells = [cell.strip() for cell in row]
            yield reader.line_num, cells[0], list(zip(header[1:], cells[1:]))
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: {error}") from None


def _json_rows(lines: Sequence[str], name: str) -> Iterator[tuple[int, str, list[tuple[str, str]]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row: object = parse_json(line, f"{name}, line {number}")
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number}: one object a line is needed")
        key = "concept" if "concept" in row else "id"
        cells: dict[str, str] = {}
        for column, cell in row.items():
            if type(cell) is int and column == key:
                cell = str(cell)
            if cell is not None and not isinstance(cell, str):
                raise InputError(f"{name}, line {number}: {column[:40]} is a {type(cell).__name__}, not a text")
            cells[column] = _nfc((cell or "").strip())
        yield number, cells.pop(key, ""), list(cells.items())


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _code(column: str, name: str) -> str:
    try:
        return language(column).code
    except InputError:
        raise InputError(
            f"{name}: the column {column!r} is no language; there are id, kind, CODE and {_DEFINITION}CODE"
        ) from None


def _pocket(kinds: Sequence[str]) -> Iterator[Concept]:
    from babelscope.pocket.lexicon import concepts, forms, languages

    known = {concept.kind for concept in concepts().values()}
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise InputError(f"the pocket lexicon has no kind {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    for concept in concepts().values():
        if concept.kind in kinds:
            said = {code: forms(code)[concept.id] for code in languages()}
            words = {code: form.get("sg") or form.get("base") or "" for code, form in said.items()}
            nfc = {code: (_nfc(word),) for code, word in words.items() if word}
            yield Concept(concept.id, nfc, concept.kind)


def _without_doubles(concepts: Iterable[Concept], languages: Sequence[str]) -> tuple[list[Concept], list[str]]:
    owners: dict[tuple[str, str], set[str]] = {}
    everyone = list(concepts)
    for concept in everyone:
        for code in languages:
            for word in concept.words.get(code, ()):
                owners.setdefault((code, word.casefold()), set()).add(concept.id)
    shared = {id for holders in owners.values() if len(holders) > 1 for id in holders}
    return [concept for concept in everyone if concept.id not in shared], [c.id for c in everyone if c.id in shared]
