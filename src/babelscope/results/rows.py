"""Rows of tables as typed objects, to write and to read: a renamed column is a type error on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from math import nan
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints

from babelscope.errors import RunError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One row of a table; a field is a column, without the underscore behind a name that Python keeps for itself.

    `field(metadata={"column": "random-cov"})` names a column that Python cannot name.

    What is not there is NaN in a number and "" in a text.
    """

    TABLE: ClassVar[str]
    """name of the table in a run"""


@dataclass(frozen=True)
class Part:
    """Columns that several tables have in common: a field of such a type stands for the part's columns, in its place.

    >>> from babelscope.results.schemas.steering import Front
    >>> rows_frame(Front, []).columns[-3:].tolist()
    ['distinct_2', 'repeat', 'early_end']
    """


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
    columns: dict[str, list[object]] = {}
    for one in _columns(schema):
        if one.name in frame.columns:
            try:
                columns[one.name] = [_value(value, one.kind) for value in frame[one.name].tolist()]
            except (TypeError, ValueError) as error:
                raise RunError(
                    f"the table {schema.TABLE!r} of the run {run.source} holds something else than "
                    f"{one.kind.__name__} in its column {one.name!r}"
                ) from error
        elif one.needed:
            raise RunError(f"the table {schema.TABLE!r} of the run {run.source} has no column {one.name!r}")
    if not columns:
        return []
    return [_made(schema, dict(zip(columns, values))) for values in zip(*columns.values())]


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

    columns = _columns(schema)
    return pd.DataFrame([[one.of(row) for one in columns] for row in rows], columns=[one.name for one in columns])


def has_column(run: Tables, table: str, name: str) -> bool:
    """Whether a run has a table with a column of that name."""
    return table in run.tables and name in run.table(table).columns


@dataclass(frozen=True)
class _Column:
    name: str
    kind: type
    needed: bool
    of: Callable[[Row], object]


@cache
def _columns(schema: type[Row | Part], path: str = "") -> tuple[_Column, ...]:
    """The columns of a class in order, those of its parts in their places; `path`: of the part in its row."""
    found: list[_Column] = []
    for one, kind in _typed(schema):
        if issubclass(kind, Part):
            found += _columns(kind, f"{path}{one.name}.")
        else:
            needed = one.default is MISSING and one.default_factory is MISSING
            found.append(_Column(_name(one), kind, needed, attrgetter(path + one.name)))
    return tuple(found)


def _name(field: Field[object]) -> str:
    return field.metadata.get("column", field.name.removesuffix("_"))


@cache
def _typed(schema: type[Row | Part]) -> list[tuple[Field[object], type]]:
    types = get_type_hints(schema)
    return [(one, types[one.name]) for one in fields(schema)]


P = TypeVar("P", bound=Row | Part)


def _made(schema: type[P], values: Mapping[str, object]) -> P:
    given: dict[str, object] = {}
    for one, kind in _typed(schema):
        if issubclass(kind, Part):
            given[one.name] = _made(kind, values)
        elif _name(one) in values:
            given[one.name] = values[_name(one)]
    return schema(**given)


def _value(value: Any, kind: type) -> object:
    if value is None or value != value:
        if kind not in (float, str):
            raise ValueError("a number is missing")
        return nan if kind is float else ""
    if kind is int and int(value) != value:
        raise ValueError("not a whole number")
    return kind(value)
