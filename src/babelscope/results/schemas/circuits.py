"""Tables of a circuits run. LD: logit difference of target and foil."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Part, Row


@dataclass(frozen=True, kw_only=True)
class Behaved(Part):
    """Means over prompts with 95 % intervals: Wilson for shares, bootstrap for the logit difference."""

    n: float = nan
    """prompts"""
    accuracy: float
    """share of prompts on which the target is more probable than the foil; chance is 0.5"""
    low: float = nan
    high: float = nan
    logit_difference: float = nan
    logit_difference_low: float = nan
    logit_difference_high: float = nan
    exact: float = nan
    """share of prompts on which every token of the target is the most probable one"""
    exact_low: float = nan
    exact_high: float = nan
    rank: float = nan
    """of the target's first token, 1: the most probable"""
    probability: float = nan
    """of the whole target"""
    foil_probability: float = nan


@dataclass(frozen=True, kw_only=True)
class Behaviour(Row):
    """How often the model prefers the target to the foil."""

    TABLE: ClassVar[str] = "behaviour"
    language: str
    split: str = ""
    stratum: str = ""
    seen: Behaved
    model: str = ""
    """where the run has a second model"""


@dataclass(frozen=True, kw_only=True)
class HeldoutBehaviour(Row):
    """The same for the items that are kept for evaluation, and for those that are not."""

    TABLE: ClassVar[str] = "behaviour_heldout"
    language: str
    split: str
    stratum: str
    heldout: bool
    seen: Behaved
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Screened(Row):
    """What the screen of one sweep kept and may have missed."""

    TABLE: ClassVar[str] = "screen"
    language: str
    sweep: str
    heads: int
    """that were screened"""
    kept: int
    sampled: int
    """of those that were not kept"""
    passed: int
    sampled_passed: int
    left: int
    """neither kept nor sampled"""
    missed_at_most: float
    """heads (95 %)"""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Ablation(Row):
    """Accuracy and logit difference without one set of nodes, with intervals over prompts."""

    TABLE: ClassVar[str] = "ablation"
    set_: str
    found_in: str = ""
    """language of the circuit that the set is of"""
    language: str
    stratum: str = ""
    size: float = nan
    """nodes"""
    n: float = nan
    """prompts"""
    accuracy: float
    low: float
    high: float
    delta: float = nan
    """change of the accuracy"""
    delta_low: float = nan
    delta_high: float = nan
    logit_difference: float = nan
    ld_delta: float = nan
    """change of the logit difference"""
    ld_delta_low: float = nan
    ld_delta_high: float = nan
    draw: int
    """of a random set; −1 else"""
    target_probability: float = nan
    """NaN for a random set"""
    foil_probability: float = nan
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Selective(Row):
    """Change of LD without a set, as a share of the whole model's, in one language minus another."""

    TABLE: ClassVar[str] = "selectivity"
    set_: str
    found_in: str
    draw: int
    """of a random set; −1 else"""
    language: str
    stratum: str
    language2: str
    stratum2: str
    selectivity: float
    low: float
    high: float
    interval: str
    items: int
    """that both have"""
    paired: bool
    """the difference is taken item by item"""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Role(Row):
    """A head with the role that its numbers give it."""

    TABLE: ClassVar[str] = "roles"
    language: str
    layer: int
    head: int
    role: str
    score: float = nan
    score_name: str = ""
    chance: float = nan
    """of the score"""
    p: float = nan
    why: str = ""
    """why the score does not carry the role"""
    step: str = ""
    """of the search that found it"""
    effect: float = nan
    """change of LD when the head is patched, relative to the clean run, with its 95 % interval"""
    effect_low: float = nan
    effect_high: float = nan
    effect_before: float = nan
    """before other heads were knocked out"""
    growth: float = nan
    """of the effect by the knock-out, as a share of the unablated LD"""
    growth_low: float = nan
    growth_high: float = nan
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class FoundFFN(Row):
    """An FFN that the search found."""

    TABLE: ClassVar[str] = "ffn"
    language: str
    step: str
    layer: int
    effect: float
    model: str = ""


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
    """yes: by the rule that selects heads, among all experts"""


@dataclass(frozen=True, kw_only=True)
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
    template: str = ""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Promoted(Row):
    """A token that a head's own output promotes."""

    TABLE: ClassVar[str] = "promoted"
    language: str
    layer: int
    head: int
    rank: float = nan
    token: str
    token_id: float = nan
    attribution: float
    """logits, with the final norm frozen"""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class CrossRow(Row):
    """One language's circuit run on another's prompts."""

    found_in: str
    run_on: str
    faithfulness: float
    """1: the whole model; 0: the empty circuit"""
    low: float = nan
    high: float = nan
    random: float = nan
    """mean of random circuits of the same size: of heads, in each layer; of edges, on paths from input to output"""


@dataclass(frozen=True, kw_only=True)
class CrossFaithfulness(CrossRow):
    """A circuit of heads; where `run_on` is `found_in`, on the very prompts that the search chose it by."""

    TABLE: ClassVar[str] = "cross_faithfulness"
    random_low: float = nan
    random_high: float = nan
    random_sets: float = nan
    heads: float = nan
    why: str = ""
    model: str = ""
    """where the run has a second model"""


@dataclass(frozen=True, kw_only=True)
class MatchedHeads(Row):
    """A pair of heads of two models that were matched by their role scores."""

    TABLE: ClassVar[str] = "matching"
    model: str
    layer: int
    head: int
    model2: str
    layer2: int
    head2: int
    distance: float
    null_distance: float
    p: float
    matching_p: float
    """of the whole matching"""
    null: str


@dataclass(frozen=True, kw_only=True)
class HeadFaithfulness(Row):
    """Faithfulness of the first heads of one language's ranking, and of as many drawn at random.

    On the very prompts that ranked them: what a ranking owes to chance is in it.
    """

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
class RoleScores(Row):
    """The head of a row of scores, which are read by the names that the task gives them."""

    TABLE: ClassVar[str] = "role_scores"
    language: str
    layer: int
    head: int
    model: str = ""
    """where the run has a second model"""
