"""Names that a run directory is made of, and which places are folders rather than URLs."""

from __future__ import annotations

import os
from pathlib import Path

MANIFEST = "run.json"
CHECKSUMS = "checksums.json"
SWEEP_LOCK, SWEEP_SCRATCH = ".sweep.lock", ".scratch"
"""what a sweep at work has in its folder, and a killed one leaves there until the next start: no part of the run"""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names something behind fsspec rather than a folder.

    >>> is_url("s3://bucket/run"), is_url("runs/first")
    (True, False)
    """
    return "://" in os.fspath(path)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a finished run."""
    try:
        return (Path(path) / MANIFEST).is_file() and (Path(path) / CHECKSUMS).is_file()
    except (OSError, ValueError):
        return False
