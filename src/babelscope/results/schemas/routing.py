"""Tables of the routing of a mixture of experts, in a regions run."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Row


@dataclass(frozen=True, kw_only=True)
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
    interval: str = ""
    other_sentence: float = nan
    """the same between sentences that are no translations"""
    alignment: float = nan
    """1 − divergence / other_sentence: 1 where translations are routed alike, 0 where as any texts"""
    pooled_js: float = nan
    """Jensen–Shannon between the languages' q, means over all tokens, nats"""
    divergence_null_low: float = nan
    """of translations whose languages are exchanged at random"""
    divergence_null_high: float = nan
    divergence_p: float = nan
    pooled_js_null_low: float = nan
    pooled_js_null_high: float = nan
    pooled_js_p: float = nan
    evenness: float = nan
    """H(q) / log E: 1 where tokens are spread evenly over experts"""
    evenness_reference: float = nan
    n: float = nan
    """sentences"""
    why: str = ""
    """there is no null, or no interval"""


@dataclass(frozen=True, kw_only=True)
class RoutingExpert(Row):
    """How often one expert is chosen in one language, and whether chance gives that."""

    TABLE: ClassVar[str] = "routing_expert"
    layer: int
    expert: int
    language: str
    f: float
    """share of tokens that are given to it"""
    f_others: float
    """mean of the other languages"""
    p: float
    chosen: bool
    """more often than permuted languages give, at the rate"""
    rate: float
    specialised: bool
    """f − f of the reference above 0.3"""
    language_share: float
    """f over the sum over languages, favourites of a layer alone; NaN where it is nobody's favourite"""
    exclusive: bool
    """language share of at least 0.4, and the largest"""
    n: int
    why: str


@dataclass(frozen=True, kw_only=True)
class RoutingSimilarity(Row):
    """LRDS and SADS of routing, over all layers or in one."""

    TABLE: ClassVar[str] = "routing_similarity"
    layer: float = nan
    """NaN: all layers"""
    centred: bool = False
    n: float = nan
    lrds: float = nan
    lrds_low: float = nan
    lrds_high: float = nan
    lrds_null_low: float = nan
    lrds_null_high: float = nan
    lrds_p: float = nan
    sads: float = nan
    sads_low: float = nan
    sads_high: float = nan
    sads_null_low: float = nan
    sads_null_high: float = nan
    sads_p: float = nan
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class ExpertOff(Row):
    """Loss that one language's text gains when one expert is switched off, in nats a token."""

    TABLE: ClassVar[str] = "routing_deactivation"
    deactivated: str
    """language whose expert it is, or is matched to"""
    kind: str
    """`own`, or `matched`: another expert of the layer, chosen about as often"""
    draw: int
    way: str
    layer: int
    expert: int
    f: float
    """share of tokens that are given to it, mean over languages"""
    language: str
    """of the text"""
    delta_nll: float
    delta_nll_low: float
    delta_nll_high: float
    interval: str
    why: str
    documents: int
    tokens: int
