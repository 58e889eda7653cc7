"""A table as rows by column name, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from babelscope.corpora.files import listed, shown
from babelscope.errors import CorpusError

__all__ = ["Table", "label"]


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

    def text(self, row: int, column: str, where: str) -> str:
        """A cell that is text, or empty; CorpusError for anything else, with the way into a nested one."""
        value = self.cell(row, column)
        if value is not None and not isinstance(value, str):
            inside = (
                f"; name the way into it, such as {column}.{next(iter(value))}"
                if isinstance(value, Mapping) and value
                else ""
            )
            raise CorpusError(f"{where}: column {shown(column)} holds {type(value).__name__}, not text{inside}")
        if value is None and column not in self.columns:
            outer = self.rows[row].get(column.split(".")[0])
            if isinstance(outer, Mapping) and column.split(".")[1] not in outer:
                raise CorpusError(f"{where}: there is no {shown(column)}; inside stand {listed(outer)}")
        return value or ""


def label(value: object, column: str, where: str) -> str:
    """A cell that names something: text, or a whole number; CorpusError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise CorpusError(f"{where}: column {shown(column)} holds no id ({type(value).__name__})")
