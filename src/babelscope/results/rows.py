"""Rows of tables as typed objects, to write and to read: a renamed column is a type error on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from math import nan
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints

from babelscope.errors import RunError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One row of a table; a field is a column, without the underscore behind a name that Python keeps for itself.

    What is not there is NaN in a number and "" in a text.
    """

    TABLE: ClassVar[str]
    """name of the table in a run"""


R = TypeVar("R", bound=Row)


class Tables(Protocol):
    """What a run gives of its tables."""

    source: str

    @property
    def tables(self) -> list[str]: ...
    def table(self, name: str) -> pd.DataFrame: ...


def read_rows(run: Tables, schema: type[R]) -> list[R]:
    """The rows of the table that `schema` describes; none where the run has no such table.

    Columns that the class does not name are left out. Raises RunError for a column that is missing or holds something
    else.
    """
    if schema.TABLE not in run.tables:
        return []
    frame = run.table(schema.TABLE)
    columns: dict[str, list[Any]] = {}
    for name, (wanted, kind, needed) in _columns(schema).items():
        if wanted in frame.columns:
            try:
                columns[name] = [_value(value, kind) for value in frame[wanted].tolist()]
            except (TypeError, ValueError) as error:
                raise RunError(
                    f"the table {schema.TABLE!r} of the run {run.source} holds something else than {kind.__name__} in "
                    f"its column {wanted!r}"
                ) from error
        elif needed:
            raise RunError(f"the table {schema.TABLE!r} of the run {run.source} has no column {wanted!r}")
    if not columns:
        return []
    return [schema(**dict(zip(columns, values))) for values in zip(*columns.values())]


class TableSink(Protocol):
    """Where tables are put: a run in the making, or the result of a step."""

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Adds a table."""
        ...


def write_rows(run: TableSink, schema: type[R], rows: Iterable[R]) -> None:
    """Adds the table that `schema` describes, a field a column; with its columns alone where there is no row."""
    run.table(schema.TABLE, rows_frame(schema, rows))


def rows_frame(schema: type[R], rows: Iterable[R]) -> pd.DataFrame:
    """Rows as a table.

    >>> from babelscope.results.schemas.regions import Sentence
    >>> rows_frame(Sentence, [Sentence(id="1", language="en", text="Hello.", tokens=2)]).columns.tolist()
    ['id', 'language', 'text', 'tokens']
    """
    import pandas as pd

    names = {field: column for field, (column, _, _) in _columns(schema).items()}
    return pd.DataFrame([asdict(row) for row in rows], columns=list(names)).rename(columns=names)


def has_column(run: Tables, table: str, name: str) -> bool:
    """Whether a run has a table with a column of that name."""
    return table in run.tables and name in run.table(table).columns


@cache
def _columns(schema: type[Row]) -> dict[str, tuple[str, type, bool]]:
    """field → column, type, and whether it must be there."""
    types = get_type_hints(schema)
    return {
        one.name: (one.name.removesuffix("_"), types[one.name],
                   one.default is MISSING and one.default_factory is MISSING)
        for one in fields(schema)
    }  # fmt: skip


def _value(value: Any, kind: type) -> Any:
    if value is None or value != value:
        if kind not in (float, str):
            raise ValueError("a number is missing")
        return nan if kind is float else ""
    if kind is int and int(value) != value:
        raise ValueError("not a whole number")
    return kind(value)
