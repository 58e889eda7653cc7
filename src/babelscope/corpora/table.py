"""Tables with a column per language: TSV, CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from babelscope.corpora.files import decode, first_line, listed, read_bytes, shown, split_lines
from babelscope.corpora.folders import plainly_named
from babelscope.corpora.source import Source, add_text, check_text, choose
from babelscope.corpora.spec import Spec
from babelscope.errors import CorpusError

__all__ = ["Table", "parse_table", "read_table", "source_of_table"]

OPTIONS = ("id", "document", "format")
_FORMATS = {
    ".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows by column name; a cell is what the file held: text, number, nested object, or None for nothing."""

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, object]]
    where: str

    def cell(self, row: int, column: str) -> object:
        """A cell; `translation.en` reaches into a nested object when no column has that very name."""
        value: object = self.rows[row].get(column)
        if value is None and column not in self.columns:
            value = self.rows[row]
            for part in column.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def has(self, column: str) -> bool:
        """Whether the column, or the outermost part of a dotted one, is there."""
        return column in self.columns or column.split(".")[0] in self.columns


def read_table(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `table:FILE?id=COLUMN&en=COLUMN&document=COLUMN`; by default, columns named after languages."""
    path = spec.path
    kind = spec.options.get("format") or _FORMATS.get(path.suffix.lower(), "")
    kind = spec.choice("format", sorted(set(_FORMATS.values())), kind) if kind else kind
    if not kind:
        raise CorpusError(f"{path}: cannot tell the format from the name; say ?format=tsv, csv, jsonl or parquet")
    return source_of_table(parse_table(read_bytes(path), kind, path), spec, languages)


def parse_table(content: bytes, kind: str, where: str | Path) -> Table:
    """A table from bytes: kind is tsv, csv, jsonl or parquet; tsv has no quoting, csv quotes with double quotes.

    Raises CorpusError on a ragged row, a repeated column, broken JSON or Parquet, or no rows, with the line.
    """
    if kind == "parquet":
        table = _parquet(content, str(where))
    elif kind == "jsonl":
        table = _json_lines(decode(content, where), str(where))
    else:
        text = decode(content, where)
        table = _fields(_csv_rows(text, str(where)) if kind == "csv" else _tsv_rows(text), str(where))
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
        name = str(row + 1) if identifier is None else _label(table.cell(row, identifier), identifier, where)
        if document is not None:
            documents[name] = _label(table.cell(row, document), document, where)
        for code, column in columns.items():
            value = table.cell(row, column)
            if value is not None and not isinstance(value, str):
                raise CorpusError(f"{where}: column {shown(column)} holds {type(value).__name__}, not text")
            add_text(texts[code], name, value or "", table.where)
    return Source(texts, documents)


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


def _label(value: object, column: str, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise CorpusError(f"{where}: column {shown(column)} holds no id ({type(value).__name__})")


def _tsv_rows(text: str) -> list[tuple[int, list[str]]]:
    return [(number, line.split("\t")) for number, line in enumerate(split_lines(text), 1)]


def _csv_rows(text: str, where: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where}, line {number}: {type(row).__name__} where an object {{…}} is expected")
        if "\\u" in line:  # an escape is the only way for half a surrogate pair to get past the UTF-8 check
            check_text(json.dumps(row, ensure_ascii=False), f"{where}, line {number}")
        rows.append(cast("dict[str, object]", row))
    return Table(tuple(dict.fromkeys(key for row in rows for key in row)), rows, where)


def _parquet(content: bytes, where: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        read = pq.read_table(pa.BufferReader(content))
        columns = _unique_columns(read.column_names, where)
        return Table(columns, read.to_pylist(), where)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise CorpusError(f"{where} is not a readable Parquet file: {first_line(error)}") from error


def _unique_columns(columns: Sequence[str], where: str) -> tuple[str, ...]:
    for column in columns:
        if columns.count(column) > 1:
            raise CorpusError(f"{where}: the column {shown(column)} occurs twice")
    return tuple(columns)
