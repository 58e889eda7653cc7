"""CSV files that spreadsheets open as text: no cell of text begins like a formula, and reading gives it back.

A text that begins with one of `= + - @`, a tab, a line's end, or the wide form of such a sign (and a text that begins
with apostrophes before one) gets an apostrophe in front. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


def inert(cell: object) -> object:
    """The cell as it is written: text that begins like a formula behind an apostrophe, anything else as it is.

    >>> inert("=1+1"), inert("'=1"), inert("a=1"), inert(-1.5)
    ("'=1+1", "''=1", 'a=1', -1.5)
    """
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def original(cell: object) -> object:
    """The cell that `inert` was given.

    >>> original("'=1+1"), original("'tis"), original(2)
    ('=1+1', "'tis", 2)
    """
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell) else cell


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes a table without its index, UTF-8, every text inert."""
    held = frame.rename(columns=inert)
    for place in range(held.shape[1]):
        column = held.iloc[:, place]
        # categories and dates are left to pandas unless they hold text
        if column.dtype == object or str(column.dtype).startswith(("str", "category")):
            held.isetitem(place, column.astype(object).map(inert, na_action="ignore"))
    # a carriage return without quotes would end the line for others, and what follows begin a cell
    returns = any(
        held.iloc[:, n].map(lambda cell: isinstance(cell, str) and "\r" in cell).any() for n in range(held.shape[1])
    )
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    held.to_csv(path, index=False, encoding="utf-8", lineterminator="\n", quoting=quoting)


def read_csv(path: Path) -> pd.DataFrame:
    """Reads a table that `write_csv` wrote, with the texts that it was given. Empty cells are NaN."""
    import pandas as pd

    # the code of Nauru and a sentence "None" are texts
    frame = pd.read_csv(path, encoding="utf-8", keep_default_na=False, na_values=[""]).rename(columns=original)
    for place in range(frame.shape[1]):
        if not pd.api.types.is_numeric_dtype(frame.dtypes.iloc[place]):
            frame.isetitem(place, frame.iloc[:, place].map(original, na_action="ignore"))
    return frame
