"""Tables of a circuits run. LD: logit difference of target and foil."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Row


@dataclass(frozen=True)
class Behaviour(Row):
    """How often the model prefers the target to the foil."""

    TABLE: ClassVar[str] = "behaviour"
    language: str
    accuracy: float
    """share of prompts; chance is 0.5"""
    low: float = nan
    high: float = nan
    split: str = ""
    stratum: str = ""
    model: str = ""
    """where the run has a second model"""
    n: float = nan
    """prompts"""
    logit_difference: float = nan


@dataclass(frozen=True)
class Ablation(Row):
    """Accuracy without one set of nodes."""

    TABLE: ClassVar[str] = "ablation"
    set_: str
    language: str
    accuracy: float
    low: float
    high: float
    draw: int
    """of a random set; −1 else"""
    stratum: str = ""
    model: str = ""
    n: float = nan
    """prompts"""


@dataclass(frozen=True)
class Role(Row):
    """A head with the role that its numbers give it."""

    TABLE: ClassVar[str] = "roles"
    language: str
    layer: int
    head: int
    role: str
    score: float = nan
    why: str = ""
    step: str = ""
    """of the search that found it"""
    effect: float = nan
    """change of LD when the head is patched, relative to the clean run, with its 95 % interval"""
    effect_low: float = nan
    effect_high: float = nan


@dataclass(frozen=True)
class ExpertEffect(Row):
    """A routed expert of a mixture, patched by itself."""

    TABLE: ClassVar[str] = "experts"
    language: str
    layer: int
    expert: int
    effect: float
    """change of LD, all behind it recomputed, relative to the clean run, with its 95 % interval"""
    effect_low: float
    effect_high: float
    direct: float
    """the same along its path to the logits alone"""
    p: float
    """of no effect, two-sided, over pairs; NaN for fewer than six"""
    selected: str
    """yes: it differs from 0 among all experts (false discovery rate) and reaches the least effect"""


@dataclass(frozen=True)
class ExampleToken(Row):
    """One token of an example prompt."""

    TABLE: ClassVar[str] = "examples"
    language: str
    example: int
    position: int
    token: str
    role: str
    """of the prompt, that the token stands in; empty: none"""
    answer: str = ""
    foil: str = ""


@dataclass(frozen=True)
class Promoted(Row):
    """A token that a head's own output promotes."""

    TABLE: ClassVar[str] = "promoted"
    language: str
    layer: int
    head: int
    token: str
    attribution: float
    """logits, with the final norm frozen"""


@dataclass(frozen=True)
class CrossFaithfulness(Row):
    """One language's circuit of heads run on another's prompts."""

    TABLE: ClassVar[str] = "cross_faithfulness"
    found_in: str
    run_on: str
    faithfulness: float
    """1: the whole model; 0: the empty circuit"""
    low: float = nan
    high: float = nan
    random: float = nan
    """mean of random circuits of the same size in each layer"""
    random_low: float = nan
    random_high: float = nan
    heads: float = nan
    why: str = ""
    model: str = ""
    """where the run has a second model"""


@dataclass(frozen=True)
class CrossEdges(Row):
    """One language's circuit of edges run on another's prompts."""

    TABLE: ClassVar[str] = "cross_edges"
    found_in: str
    run_on: str
    faithfulness: float
    low: float = nan
    high: float = nan
    random: float = nan
    """mean of random circuits on paths from input to output, as many edges"""
    relabelled: float = nan
    control: float = nan
    """on the control task"""
    edges: float = nan
    prompts: float = nan
    model: str = ""


@dataclass(frozen=True)
class Overlap(Row):
    """How far two languages' circuits are the same."""

    TABLE: ClassVar[str] = "overlap"
    language: str
    language2: str
    measure: str
    value: float
    null: float = nan
    """mean of the null"""
    p: float = nan
    why: str = ""
    model: str = ""


@dataclass(frozen=True)
class HeadFaithfulness(Row):
    """Faithfulness of the first heads of one language's ranking, and of as many drawn at random."""

    TABLE: ClassVar[str] = "faithfulness"
    language: str
    order: str
    """`ranking` or `random`"""
    heads: int
    faithfulness: float
    low: float = nan
    high: float = nan
    model: str = ""


@dataclass(frozen=True)
class EdgeCurve(Row):
    """Faithfulness of the strongest edges of one language's ranking, by how many are kept."""

    TABLE: ClassVar[str] = "edge_curve"
    language: str
    area: str
    """`cpr` ranks by signed scores, `cmd` by absolute ones"""
    budget: float
    """edges kept, as a share of all"""
    edges: int
    faithfulness: float
    low: float = nan
    high: float = nan
    half: str = ""
    """`test`: prompts that did not rank; `ranking`: the very same"""
    prompts: float = nan
    why: str = ""


@dataclass(frozen=True)
class RoleScores(Row):
    """The head of a row of scores, which are read by the names that the task gives them."""

    TABLE: ClassVar[str] = "role_scores"
    language: str
    layer: int
    head: int
    model: str = ""
    """where the run has a second model"""
