"""Every family known by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from babelscope.models import families
from babelscope.models.hybrids import HYBRIDS

ROWS: dict[str, families.Family | Callable[[Any], families.Family]] = {**families.ROWS, **HYBRIDS}
"""a row, or what makes one of a configuration, by `config.model_type`"""
