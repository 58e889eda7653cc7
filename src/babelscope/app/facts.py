"""What is open, in words and tables: the model, the run, the parallel text; and other runs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from babelscope.app.session import Session
from babelscope.errors import BabelscopeError, InputError
from babelscope.findings import findings_of
from babelscope.results import is_run
from babelscope.results.display import facts as run_facts

ROWS_LIMIT = 500
"""rows of a run's table that are shown"""


def session_facts(session: Session) -> list[tuple[str, str]]:
    """Name and value of everything that a reader wants to know first."""
    rows: list[tuple[str, str]] = []
    model = session.model
    if model is not None:
        kind = str(model.dtype).removeprefix("torch.")
        rows += [
            ("Model", model.id),
            ("Family", f"{model.family.name}, {kind} on {model.device}"),
            ("Size", f"{model.layout}, {model.heads} heads a layer"),
        ]
    else:
        rows.append(("Model", f"not loaded: {session.note}" if session.note else "not loaded"))
    if session.run is not None:
        said = {"Model", "Layers", "Neurons", "Tables"} if model is not None else {"Tables"}
        rows += [(f"Run: {name}", value) for name, value in run_facts(session.run) if name not in said]
    if session.corpus is not None:
        rows.append(
            (
                "Parallel text",
                f"{session.corpus.spec}: {len(session.corpus)} sentences × {len(session.corpus.languages)}",
            )
        )
        rows.append(("Languages", ", ".join(session.corpus.languages)))
    elif session.model is not None:
        rows.append(("Parallel text", "none named: start with --corpus to see regions and neurons"))
    regions = session.known_regions
    if regions is not None:
        rows.append(("Regions", ", ".join(f"{code} {size}" for code, size in regions.sizes.items())))
        if "threshold" in regions.facts:
            rows.append(("Threshold", f"z > {float(regions.facts['threshold']):.3g}"))
    return rows


def run_findings(session: Session) -> list[str]:
    """What the open run found, in sentences."""
    return [] if session.run is None else [one.text for one in findings_of(session.run)]


def runs_beside(folders: Sequence[Path]) -> list[str]:
    """Finished runs in some folders, by name."""
    found: list[str] = []
    for folder in folders:
        if is_run(folder):
            found.append(str(folder))
        elif folder.is_dir():
            found += sorted(str(path) for path in folder.iterdir() if path.is_dir() and is_run(path))
    return list(dict.fromkeys(found))


def run_table(session: Session, name: str) -> pd.DataFrame:
    """The first rows of one table of the open run; raises InputError where no run is open."""
    if session.run is None:
        raise InputError("no run is open")
    if name not in session.run.tables:
        raise InputError(f"the run has no table {name!r}")
    return session.run.table(name).head(ROWS_LIMIT)


def table_names(session: Session) -> list[str]:
    """Tables of the open run."""
    try:
        return session.run.tables if session.run is not None else []
    except BabelscopeError:
        return []
