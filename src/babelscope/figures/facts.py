"""What every figure asks of a run: languages in their order, how many sentences, labelled matrices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from babelscope.errors import InputError
from babelscope.figures.spec import Axis, Code
from babelscope.results import Run
from babelscope.results.rows import R, Row, read_rows, rows_frame
from babelscope.wording import decimals

T = TypeVar("T")
K = TypeVar("K")
Matrix = NDArray[np.float64]


_READ: WeakKeyDictionary[Run, dict[type[Row], Sequence[Row]]] = WeakKeyDictionary()


def rows_of(run: Run, schema: type[R]) -> list[R]:
    """The rows of one table of a run, read once: a page asks for them at every view."""
    known = _READ.setdefault(run, {})
    if schema not in known:
        known[schema] = read_rows(run, schema)
    return list(cast("Sequence[R]", known[schema]))


def own_rows(run: Run, schema: type[R]) -> list[R]:
    """Those of the run's own model: tables of two models hold both, its arrays the first one alone."""
    rows = rows_of(run, schema)
    if schema.TABLE not in run.tables or "model" not in run.table(schema.TABLE):
        return rows
    model = run.manifest.get("model")
    own = model.get("id") if isinstance(model, dict) else model
    return [row for row, name in zip(rows, run.table(schema.TABLE)["model"].tolist()) if name == own]


def frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table again, with the columns' own names."""
    every = list(rows)
    return rows_frame(type(every[0]), every) if every else pd.DataFrame()


def in_order(run: Run, languages: Iterable[str]) -> list[str]:
    """Languages in the run's own order, unknown ones after, alphabetically."""
    found = set(languages)
    known = [code for code in run.languages if code in found]
    return known + sorted(found - set(known))


def distinct(values: Iterable[T]) -> list[T]:
    """Each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def grouped(rows: Iterable[T], key: Callable[[T], K]) -> Iterator[tuple[K, list[T]]]:
    """Rows by a key, groups in the order of first appearance."""
    groups: dict[K, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return iter(groups.items())


def sentences(run: Run) -> str:
    """`n = 100 sentences in each of 9 languages`."""
    corpus: Mapping[str, Any] = run.manifest.get("corpus") or {}
    n = run.summary.get("n") or len(corpus.get("sentence_ids") or [])
    return f"n = {n} sentences in each of {len(run.languages)} languages" if n else f"{len(run.languages)} languages"


def array(run: Run, name: str, *dims: str) -> xr.DataArray:
    """An array of a run with its axes in this order, in memory."""
    return run.arrays()[name].transpose(*dims).load()


def numbers(values: ArrayLike) -> Matrix:
    """Any array as numbers."""
    return np.asarray(values, dtype=np.float64)


def codes(found: xr.DataArray, dim: str = "language") -> list[str]:
    """The languages along an axis of an array."""
    return [str(code) for code in found[dim].values]


def tidy(found: xr.DataArray, name: str) -> pd.DataFrame:
    """An array as a table with a row a cell."""
    return found.rename(name).to_series().reset_index()


def languages_axis(languages: Iterable[str], label: str = "") -> Axis:
    """An axis of languages."""
    return Axis(label, names=tuple(Code(code) for code in languages))


def layers_axis(layers: int, label: str = "layer") -> Axis:
    """An axis that counts layers."""
    return Axis(label, names=tuple(map(str, range(layers)))) if layers <= 16 else Axis(label, whole=True)


def square(cells: Iterable[tuple[str, str, float]], order: Sequence[str]) -> tuple[list[str], Matrix]:
    """(row, column, value) as a matrix over the languages that occur, in the given order; means of equal places."""
    found: dict[tuple[str, str], list[float]] = {}
    for row, column, value in cells:
        found.setdefault((row, column), []).append(value)
    present = [code for code in order if any(code in place for place in found)]
    matrix = np.full((len(present), len(present)), np.nan)
    for (row, column), values in found.items():
        if row in present and column in present:
            matrix[present.index(row), present.index(column)] = float(np.mean(values))
    return present, matrix


def written(matrix: Matrix, digits: int = 2) -> tuple[tuple[str, ...], ...]:
    """The numbers of a matrix as texts; nothing where there is none."""
    return tuple(tuple("" if np.isnan(value) else decimals(value, digits) for value in row) for row in matrix)


def grey_words(values: ArrayLike) -> str:
    """What a caption says of cells without a number on a scale whose middle is white.

    >>> grey_words([0.1, float("nan")]), grey_words([0.1])
    (' Grey: not measured.', '')
    """
    return " Grey: not measured." if bool(np.isnan(numbers(values)).any()) else ""


def chosen(value: str | None, known: Collection[str], what: str) -> str:
    """The option that was given, or the first there is; raises InputError for one there is not."""
    if value is None:
        return next(iter(known))
    if value not in known:
        raise InputError(f"the run has no {what} {value!r}; it has: {', '.join(known)}")
    return value


def interval_words(lows: Sequence[float], highs: Sequence[float], reasons: Iterable[str] = ()) -> str:
    """What a caption says of the whiskers: that they are 95 % intervals, of how many, or why there are none.

    >>> interval_words([0.1], [0.3]), interval_words([float("nan")], [float("nan")], ["one document"])
    ('Whiskers: 95 % intervals.', 'No intervals (one document).')
    """
    known = sum(low == low and high == high for low, high in zip(lows, highs))
    if known and known == len(lows):
        return "Whiskers: 95 % intervals."
    told = [reason for reason in dict.fromkeys(reasons) if reason]
    why = f" ({'; '.join(told[:2])})" if told else ""
    return f"Whiskers: 95 % intervals, for {known} of {len(lows)}{why}." if known else f"No intervals{why}."
