"""Every family known by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from babelscope.models import family_rows
from babelscope.models.families import Family
from babelscope.models.hybrids import HYBRIDS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ROWS: dict[str, Family | Callable[[PreTrainedConfig], Family]] = {**family_rows.ROWS, **HYBRIDS}
"""a row, or what makes one of a configuration, by `config.model_type`"""
