"""Run directories: what was asked, labelled arrays, tidy tables and files, written whole or not at all."""

from __future__ import annotations

from babelscope.results.compare import compare_runs
from babelscope.results.layout import is_run
from babelscope.results.manifest import run_key
from babelscope.results.reader import Run, open_run
from babelscope.results.store import get_run, list_runs, put_run
from babelscope.results.writer import RunWriter

__all__ = ["Run", "RunWriter", "compare_runs", "get_run", "is_run", "list_runs", "open_run", "put_run", "run_key"]
