"""Tables of a run of latent language. Excess and strength: log likelihood over controls, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Row


@dataclass(frozen=True)
class Curve(Row):
    """What a lens reads of one language in one layer."""

    TABLE: ClassVar[str] = "curves"
    lens: str
    source: str
    target: str
    language: str
    scope: str
    """`solved` concepts, or `all`"""
    layer: int
    mass: float
    """probability of the concept's word"""
    row: float
    """of other words under the same prompt"""
    col: float
    """of the word under other prompts"""
    excess: float
    """over other words and other prompts"""
    excess_low: float
    """simultaneous 95 % over the inner layers"""
    excess_high: float
    concepts: int
    why: str = ""


@dataclass(frozen=True)
class Entropy(Row):
    """Entropy of the next word as a lens sees it."""

    TABLE: ClassVar[str] = "entropy"
    lens: str
    source: str
    target: str
    layer: int
    entropy: float
    """bits, mean over concepts"""
    entropy_low: float
    entropy_high: float


@dataclass(frozen=True, kw_only=True)
class LatentVerdict(Row):
    """Whether a candidate language is passed through on the way from source to target."""

    TABLE: ClassVar[str] = "verdicts"
    lens: str
    source: str
    target: str
    language: str
    scope: str
    outcome: str
    why: str = ""
    solved: float = nan
    """concepts whose likeliest word is one of the target's"""
    asked: float = nan
    accuracy_low: float = nan
    accuracy_high: float = nan
    concepts: float = nan
    """that are compared"""
    strength: float
    """excess of the word, mean over the inner layers"""
    strength_low: float = nan
    strength_high: float = nan
    p: float = nan
    """against words and prompts drawn at random"""
    peak_layer: float = nan
    handover_layer: float = nan
    """the first from which the target is ahead to the end"""


@dataclass(frozen=True)
class Control(Row):
    """Strength of a candidate under one control."""

    TABLE: ClassVar[str] = "controls"
    lens: str
    source: str
    target: str
    language: str
    scope: str
    control: str
    """`none`: as it is"""
    value: float
    value_low: float
    value_high: float
    why: str = ""


@dataclass(frozen=True)
class TunedScore(Row):
    """How near one lens comes to the model's own next word, on the test part of one language."""

    TABLE: ClassVar[str] = "tuned"
    lens: str
    language: str
    layer: int
    positions: int
    kl: float
    """mean KL(p_L ‖ q_l), bits"""
    agreement: float
    """share of positions with the same likeliest token"""
    bias: float
    """KL(mean p_L ‖ mean q_l), bits: what the lens says whatever the text"""


@dataclass(frozen=True)
class Patch(Row):
    """Mass after a residual of one prompt was put into another."""

    TABLE: ClassVar[str] = "patch"
    from_: str
    into: str
    scope: str
    pairs: int
    """of prompts"""
    experiment: str
    """`E1`: at the last position; `E2`: at the word"""
    what: str
    """the mass: `c1 in d` is the source's concept in the target's language; `recovery`: a share"""
    layer: float
    """NaN: not patched"""
    patched: str
    value: float
    value_low: float
    value_high: float
    why: str = ""


@dataclass(frozen=True)
class ResidualAlignment(Row):
    """One metric on pooled residuals of one pair of languages in one layer."""

    TABLE: ClassVar[str] = "alignment"
    pooling: str
    treatment: str
    metric: str
    layer: int
    value: float
    language: str = ""
    other: str = ""
    value_low: float = nan
    value_high: float = nan
    shuffled: float = nan
    """of sentences that are no translations of each other"""


@dataclass(frozen=True)
class RouterAlignment(Row):
    """One metric on centred routing probabilities of one pair of languages in one layer with a router."""

    TABLE: ClassVar[str] = "alignment_router"
    metric: str
    layer: int
    language: str
    other: str
    value: float
    value_low: float
    value_high: float
    shuffled: float
    """of sentences that are no translations of each other"""
    n: int
    """sentences"""
