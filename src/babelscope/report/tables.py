"""A table as a page shows it: headings in words, languages by name, a number and its interval in one cell.

What is the same in every row is said once below the table; the download has every column as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from babelscope.figures.names import language_tag
from babelscope.languages import english_name
from babelscope.report.blocks import Table
from babelscope.report.headings import heading
from babelscope.results.text_tables import interval_columns
from babelscope.wording import estimated, number, visible

_OF_LANGUAGES = {"language", "language2", "source", "target", "found_in", "run_on", "deactivated", "identified",
                 "condition", "generated", "from", "into", "treated", "prompted"}  # fmt: skip
"""columns whose codes are written as names"""
_WORDY = 24
"""letters from which a cell of words may not be squeezed"""


@dataclass(frozen=True)
class Column:
    """One column: what stands above it and in it."""

    name: str
    """in the download"""
    heading: str
    definition: str
    kind: Literal["text", "number", "sentence", "words"]
    cells: tuple[str, ...]
    tags: tuple[str, ...] = ()
    """of sentences: the `lang` of each"""


@dataclass(frozen=True)
class ShownTable:
    """What a page writes of a table."""

    columns: tuple[Column, ...]
    same: str
    """what is the same in every row; empty: nothing"""
    rows: int
    left_out: int

    @property
    def long(self) -> bool:
        """Whether cells hold sentences: on a phone each row stands as a list."""
        sentences = [cell for column in self.columns if column.kind == "sentence" for cell in column.cells]
        return max(map(len, sentences), default=0) > _WORDY


def shown_table(block: Table, languages: Collection[str], say: Callable[[str], str] = str) -> ShownTable:
    """The first rows of a table; `languages`: codes that are written as names; `say`: how headings are put."""
    frame = block.frame
    if "language" in frame:  # of a second model too; two letters are never `all`, `mean` or `others`
        languages = {*languages, *(str(code) for code in frame["language"].tolist() if len(str(code)) == 2)}
    owners = interval_columns([str(name) for name in frame.columns])
    ends = {end for pair in owners.values() for end in pair}
    names = [str(name) for name in frame.columns if str(name) not in ends]
    alike = [name for name in names if len(frame) > 1 and name not in block.text_columns and name not in owners
             and _one_value(frame, name)]  # fmt: skip
    alike = alike if len(names) - len(alike) > 1 else []
    explained = "why" in frame and any(_missing(value) is False for value in frame["why"].tolist())
    first = frame.head(block.most)
    columns = tuple(
        _column(block, first, name, owners.get(name), languages)
        for name in names
        if name not in alike and (explained or not _empty(frame, name))
    )
    said = "; ".join(_said(block, name, languages) for name in alike if explained or not _empty(frame, name))
    columns = tuple(replace(one, heading=say(one.heading), definition=say(one.definition)) for one in columns)
    return ShownTable(columns, said, len(first), len(frame) - len(first))


def _column(
    block: Table, frame: pd.DataFrame, name: str, ends: tuple[str, str] | None, languages: Collection[str]
) -> Column:
    title, definition = heading(name, block.name)
    if name in block.text_columns:
        tags = tuple(_tags(frame, block.language_column))
        return Column(name, title, definition, "sentence", tuple(visible(value) for value in frame[name]), tags)
    cells = [_cell(name, value, languages) for value in frame[name].tolist()]
    if ends is not None:
        low, high = (frame[end].tolist() for end in ends)
        cells = [
            text if _missing(below) or _missing(above) or text == "–" else estimated(float(value), below, above)
            for text, value, below, above in zip(cells, frame[name].tolist(), low, high, strict=True)
        ]
        definition = f"{definition}; in brackets its 95 % interval" if definition else "in brackets its 95 % interval"
    kind = "number" if is_numeric_dtype(frame[name]) and not is_bool_dtype(frame[name]) else "text"
    if kind == "text" and max(map(len, cells), default=0) > _WORDY:
        kind = "words"
    return Column(name, title, definition, kind, tuple(cells))


def _cell(name: str, value: object, languages: Collection[str]) -> str:
    if is_bool_dtype(type(value)):
        return "yes" if value else "no"
    if name == "draw" and value == -1:
        return "–"
    if name in _OF_LANGUAGES and value in languages:
        return english_name(str(value))
    if name in {"condition", "role", "step", "control", "set", "metric", "measure"} and isinstance(value, str):
        value = value.replace("_", " ")
    shown = visible(number(value))
    return f"−{shown[1:]}" if isinstance(value, int | float) and shown.startswith("-") else shown


def _tags(frame: pd.DataFrame, column: str) -> Iterator[str]:
    for value in frame[column].tolist() if column in frame else [""] * len(frame):
        yield language_tag(str(value)) if value else ""


def _said(block: Table, name: str, languages: Collection[str]) -> str:
    return f"{heading(name, block.name)[0]}: {_cell(name, block.frame[name].iloc[0], languages)}"


def _one_value(frame: pd.DataFrame, name: str) -> bool:
    return len({str(value) for value in frame[name].tolist()}) == 1


def _missing(value: object) -> bool:
    return value is None or value != value or value == ""


def _empty(frame: pd.DataFrame, name: str) -> bool:
    return all(_missing(value) for value in frame[name].tolist())
