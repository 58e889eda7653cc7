"""Every family known by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from babelscope.models import family_rows
from babelscope.models.families import Family
from babelscope.models.hybrids import HYBRIDS

ROWS: dict[str, Family | Callable[[Any], Family]] = {**family_rows.ROWS, **HYBRIDS}
"""a row, or what makes one of a configuration, by `config.model_type`"""
