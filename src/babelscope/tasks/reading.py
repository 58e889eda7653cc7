"""Text and tables of files that others wrote, or one clear line about why not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from babelscope.errors import TaskError

T = TypeVar("T")


def text_of(path: Path) -> str:
    """A file as UTF-8, line ends as they are, without a byte-order mark; raises TaskError with the place."""
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not valid UTF-8 at byte {error.start}; save it as UTF-8") from error


def lines_of(path: Path) -> list[str]:
    """The lines of a file, ended by \\n or \\r\\n alone: str.splitlines would cut at U+2028 and eight others too."""
    return [line.removesuffix("\r") for line in text_of(path).split("\n")]


def rows_of(path: Path) -> list[list[str]]:
    """The rows of a table without quotes, by tabs, those that are not empty; raises TaskError."""
    return [row for row in _read(path, csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)) if row]


def records_of(path: Path, delimiter: str) -> list[dict[str, object]]:
    """The rows of a table with a header, by column; raises TaskError, also for a row that is longer than the header."""
    found = _read(path, csv.DictReader(_lines(path), delimiter=delimiter))
    if any(None in row for row in found):
        raise TaskError(f"{path}: a row has more fields than the header names")
    return [dict(row) for row in found]


def _lines(path: Path) -> io.StringIO:
    return io.StringIO(text_of(path), newline="")


def _read(path: Path, reader: Iterable[T]) -> list[T]:
    try:
        return list(reader)
    except csv.Error as error:
        raise TaskError(f"{path} is not a table: {error}") from error
