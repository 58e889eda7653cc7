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


@dataclass(frozen=True)
class LatentVerdict(Row):
    """Whether a candidate language is passed through on the way from source to target."""

    TABLE: ClassVar[str] = "verdicts"
    lens: str
    source: str
    target: str
    language: str
    scope: str
    outcome: str
    strength: float
    """excess of the word, mean over the inner layers"""


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
    """How near a lens comes to the model's own next word on text that was not fitted."""

    TABLE: ClassVar[str] = "tuned"
    language: str
    lens: str
    layer: int
    kl: float
    """bits, mean"""
    bias: float
    """bits: what the lens says whatever the text"""
    agreement: float
    """share of tokens with the same likeliest word"""


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


@dataclass(frozen=True)
class ResidualAlignment(Row):
    """One metric on pooled residuals of one pair of languages in one layer."""

    TABLE: ClassVar[str] = "alignment"
    pooling: str
    treatment: str
    metric: str
    layer: int
    value: float
    shuffled: float = nan
    """of sentences that are no translations of each other"""
    language: str = ""
    other: str = ""
