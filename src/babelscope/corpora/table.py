"""Tables with a column per language, or long ones: TSV, CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from babelscope.corpora.files import decode, decode_lines, files_in, first_line, listed, read_bytes, shown, split_lines
from babelscope.corpora.folders import plainly_named
from babelscope.corpora.long_table import LANGUAGE, LONG_OPTIONS, is_long, language_files, source_of_long_tables
from babelscope.corpora.packed import matching, plain_path
from babelscope.corpora.source import Source, add_text, choose
from babelscope.corpora.spec import Spec
from babelscope.corpora.table_cells import Table, label
from babelscope.errors import CorpusError
from babelscope.json_text import parse_json

__all__ = ["Table", "parse_table", "read_table", "source_of_table"]

_SMALL, _TIMES, _ROWS, _COLUMNS = 64 << 20, 300, 100_000, 10_000
"""what any Parquet file may unfold to, how many times its size a larger one may, rows of a small one, columns"""
OPTIONS = ("id", "document", "format", *LONG_OPTIONS)
QUOTED = "tsv-quoted"
"""tabs, with double quotes as in CSV (SIB-200)"""
_FORMATS = {
    ".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet", ".json": "json",
}  # fmt: skip


def read_table(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `table:FILE?id=COLUMN&en=COLUMN&document=COLUMN`; by default, columns named after languages."""
    if LANGUAGE in spec.place:
        files = language_files(spec.place, spec.text)
        by_language: dict[str | None, Callable[[], Table]] = {
            code: (lambda path=path: _one_table(path, spec)) for code, path in files.items()
        }
        return source_of_long_tables(by_language, spec, languages)
    place = os.path.expanduser(spec.place)
    # a file may be called data[1].tsv, and data1.tsv is another one
    paths = (not os.path.exists(place) and matching(place)) or [spec.path]
    if paths[0].is_dir():
        paths = files_in(paths[0], lambda path: plain_path(path).suffix.lower() in _FORMATS, "tables")
    table = _joined([_one_table(path, spec) for path in paths], spec)
    return (
        source_of_long_tables({None: lambda: table}, spec, languages)
        if is_long(spec)
        else source_of_table(table, spec, languages)
    )


def _one_table(path: Path, spec: Spec) -> Table:
    formats = [*sorted(set(_FORMATS.values())), QUOTED]
    stated = spec.choice("format", formats, "") if "format" in spec.options else ""
    kind = stated or _FORMATS.get(plain_path(path).suffix.lower(), "")
    if not kind:
        raise CorpusError(
            f"{path}: cannot tell the format from the name; say ?format={', '.join(formats[:-1])} or {QUOTED}"
        )
    return parse_table(read_bytes(path), kind, path)


def _joined(tables: Sequence[Table], spec: Spec) -> Table:
    """One table from its shards, in the order of their names; CorpusError when they do not have the same columns."""
    first = tables[0]
    for other in tables[1:]:
        if set(other.columns) != set(first.columns):
            odd = sorted(set(other.columns) ^ set(first.columns))[0]
            raise CorpusError(
                f"{other.where} and {first.where} are no shards of one table: {shown(odd)} is in one only"
            )
    return first if len(tables) == 1 else Table(first.columns, [row for one in tables for row in one.rows], spec.place)


def parse_table(content: bytes, kind: str, where: str | Path) -> Table:
    """A table from bytes: tsv (no quoting), tsv-quoted, csv (quoted with double quotes), jsonl, json (an array) or
    parquet.

    Raises CorpusError on a ragged row, a repeated column, broken JSON or Parquet, or no rows, with the line.
    """
    if kind == "parquet":
        table = _parquet(content, str(where))
    elif kind == "jsonl":
        table = _json_lines(decode(content, where), str(where))
    elif kind == "json":
        table = _json_array(decode(content, where), str(where))
    else:
        text = decode_lines(content, where)
        quoted = {"csv": ",", QUOTED: "\t"}
        rows = _csv_rows(text, str(where), quoted[kind]) if kind in quoted else _tsv_rows(text)
        table = _fields(rows, str(where))
    if not table.rows:
        raise CorpusError(f"{where} has no rows")
    return table


def source_of_table(table: Table, spec: Spec, languages: Sequence[str] | None) -> Source:
    """Texts by language from a table's columns; ids are those of the id column, or row numbers from 1."""
    stated = spec.by_language((*OPTIONS, "config", "split", "revision", "lone", "limit"))
    identifier, document = spec.options.get("id"), spec.options.get("document")
    if identifier is None and "id" in table.columns and "id" not in stated.values() and document != "id":
        identifier = _id_column(table, spec)
    for column in (*stated.values(), *filter(None, (identifier, document))):
        if not table.has(column):
            raise CorpusError(f"{table.where} has no column {shown(column)}; it has {listed(table.columns)}")
    columns = choose(stated or _language_columns(table, {identifier, document}, languages), languages, spec)
    if not columns:
        there = listed(table.columns)
        raise CorpusError(f"{table.where}: no column is named after a language ({there}); say which, as in ?en=COLUMN")
    texts: dict[str, dict[str, str]] = {code: {} for code in columns}
    documents: dict[str, str] = {}
    for row in range(len(table.rows)):
        where = f"{table.where}, row {row + 1}"
        name = str(row + 1) if identifier is None else label(table.cell(row, identifier), identifier, where)
        if document is not None:
            documents[name] = label(table.cell(row, document), document, where)
        for code, column in columns.items():
            add_text(texts[code], name, table.text(row, column, where), table.where)
    read = {*columns.values(), *filter(None, (identifier, document))}
    unread = [] if stated or languages is not None else [column for column in table.columns if column not in read]
    notes = (f"columns not read, as they are named after no language: {listed(unread)}",) if unread else ()
    return Source(texts, documents, notes)


def _id_column(table: Table, spec: Spec) -> str:
    """`id` is a usual name of keys and the code of Indonesian: refuse to guess when its cells look like sentences."""
    cells = [value for row in range(len(table.rows)) if isinstance(value := table.cell(row, "id"), str)]
    if sum(" " in value.strip() for value in cells) * 2 > len(table.rows):
        ways = f"{spec.join}ind=id or {spec.join}id=id"
        raise CorpusError(f"{table.where}: is the column id Indonesian text or sentence ids? Say {ways}")
    return "id"


def _language_columns(table: Table, others: set[str | None], languages: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for column in table.columns:
        code = None if column in others else plainly_named(column, languages)
        if code in found:
            raise CorpusError(
                f"{table.where}: columns {shown(found[code])} and {shown(column)} are both {code}; say ?{code}=COLUMN"
            )
        if code is not None:
            found[code] = column
    return found


def _tsv_rows(text: str) -> list[tuple[int, list[str]]]:
    return [(number, line.split("\t")) for number, line in enumerate(split_lines(text), 1)]


def _csv_rows(text: str, where: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for fields in reader:
            rows.append((reader.line_num, fields or [""]))
    except csv.Error as error:
        raise CorpusError(f"{where}, line {reader.line_num}: broken CSV: {error}") from error
    return rows


def _fields(rows: list[tuple[int, list[str]]], where: str) -> Table:
    while rows and rows[-1][1] == [""]:
        rows.pop()
    if not rows:
        raise CorpusError(f"{where} is empty")
    columns = _unique_columns(rows[0][1], where)
    for number, fields in rows[1:]:
        if len(fields) != len(columns):
            raise CorpusError(
                f"{where}, line {number}: {len(fields)} fields, but the header has {len(columns)} columns"
            )
    return Table(columns, [dict(zip(columns, fields)) for _, fields in rows[1:]], where)


def _json_lines(text: str, where: str) -> Table:
    rows: list[Mapping[str, object]] = []
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip():
            continue
        row: object = parse_json(line, f"{where}, line {number}", CorpusError)
        if not isinstance(row, dict):
            raise CorpusError(f"{where}, line {number}: {type(row).__name__} where an object {{…}} is expected")
        rows.append(cast("dict[str, object]", row))
    return Table(tuple(dict.fromkeys(key for row in rows for key in row)), rows, where)


def _json_array(text: str, where: str) -> Table:
    found: object = parse_json(text, where, CorpusError)
    if isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), list):
        found = next(iter(found.values()))  # {"data": […]}, as several tools write it
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise CorpusError(f"{where}: an array of objects is expected, [{{…}}, {{…}}]")
    return Table(tuple(dict.fromkeys(key for row in found for key in row)), found, where)


def _parquet(content: bytes, where: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        columns = _unique_columns(file.schema_arrow.names, where)
        rows: list[dict[str, object]] = []
        size, most = 0, max(_SMALL, _TIMES * len(content))
        if file.metadata.num_rows > max(_ROWS, 20 * len(content)):
            raise CorpusError(f"{where} states {file.metadata.num_rows} rows in {len(content)} bytes; is that right?")
        for batch in file.iter_batches(batch_size=64):
            rows += (few := batch.to_pylist())
            # a dictionary is stored once, and each of its rows is a text of its own
            texts = sum(len(value) for row in few for value in row.values() if isinstance(value, str | bytes))
            size += max(batch.nbytes, texts)
            if size > most:
                raise CorpusError(f"{where} unfolds to more than {_TIMES} times its size; write it as text first")
        return Table(columns, rows, where)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        # LookupError: a time zone that there is not
        raise CorpusError(f"{where} is not a readable Parquet file: {first_line(error)}") from error


def _unique_columns(columns: Sequence[str], where: str) -> tuple[str, ...]:
    if len(columns) > _COLUMNS:
        raise CorpusError(f"{where} has {len(columns)} columns; more than {_COLUMNS} are no table of languages")
    for column, count in Counter(columns).items():
        if count > 1:
            raise CorpusError(f"{where}: the column {shown(column)} occurs twice")
    return tuple(columns)
