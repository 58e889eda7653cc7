"""Tables of the routing of a mixture of experts, in a regions run."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Row


@dataclass(frozen=True)
class RoutingLayer(Row):
    """How far the routing of one language lies from the reference's in one layer, on translations."""

    TABLE: ClassVar[str] = "routing_layer"
    layer: int
    language: str
    reference: str
    divergence: float
    """Jensen–Shannon over the most that the two entropies allow, mean over translations: 0 the same experts, 1 none"""
    divergence_low: float = nan
    divergence_high: float = nan
    divergence_null_low: float = nan
    """of translations whose languages are exchanged at random"""
    divergence_null_high: float = nan
    other_sentence: float = nan
    """the same between sentences that are no translations"""
    n: float = nan
    """sentences"""
    why: str = ""
    """there is no null, or no interval"""
