"""Tidy tables of a run, each as Parquet (exact types) and as CSV (for everything else), where no cell is a formula."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from babelscope.errors import RunError
from babelscope.results.csv_cells import write_csv

TABLES = "tables"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def write_table(root: Path, name: str, frame: pd.DataFrame) -> None:
    """Writes `tables/<name>.parquet` and `.csv`, without the index."""
    path = root / table_file(name)
    path.parent.mkdir(exist_ok=True)
    frame = frame.reset_index(drop=True)
    frame.to_parquet(path, index=False)
    write_csv(frame, path.with_suffix(".csv"))


def read_table(root: Path, name: str) -> pd.DataFrame:
    """One table; raises RunError when it is absent or damaged."""
    path = root / table_file(name)
    if not path.is_file():
        raise RunError(f"the run {root} has no table {name!r}; it has: {', '.join(table_names(root)) or 'none'}")
    try:
        return pd.read_parquet(path)
    # the metadata that pandas keeps in the file fails in as many ways as there are fields
    except Exception as error:
        raise RunError(f"the table {name!r} of the run {root} is damaged") from error


def table_names(root: Path) -> list[str]:
    """Names of the tables, sorted."""
    return sorted(path.stem for path in (root / TABLES).glob("*.parquet"))


def table_file(name: str) -> str:
    """Where a table lies in a run; raises RunError for what cannot name one."""
    if not _NAME.fullmatch(name):
        raise RunError(f"{name!r} cannot name a table: letters, digits, '-' and '_' only")
    return f"{TABLES}/{name}.parquet"
