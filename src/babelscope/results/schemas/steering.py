"""Tables of runs of steering and of language confusion. Success: an answer in the target language."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import ClassVar

from babelscope.results.rows import Part, Row


@dataclass(frozen=True, kw_only=True)
class Written(Part):
    """What the answers of one condition are like, as shares and means over answers."""

    all_target: float = nan
    """every line in the target"""
    looping: float = nan
    """of those, answers that say one stretch twice over half of their length"""
    all_source: float = nan
    all_other: float = nan
    """every line in one language that is neither"""
    unknown: float = nan
    """no line whose language could be told"""
    skipped: float = nan
    """too short to tell"""
    broken_share: float = nan
    """of letters"""
    distinct_1: float = nan
    distinct_2: float = nan
    """distinct pairs of words, as a share"""
    repeat: float = nan
    """longest stretch that is written twice, tokens"""
    early_end: float = nan
    """answers that end by themselves"""


@dataclass(frozen=True, kw_only=True)
class Front(Row):
    """One setting on the documents by which settings are chosen."""

    TABLE: ClassVar[str] = "front"
    source: str
    target: str
    method: str
    layer: float
    """−1: every layer"""
    alpha: float
    """strength"""
    success: float
    """share of answers"""
    delta_nll: float
    """of the target's text, nats a token"""
    front: bool = False
    """no setting is better in both"""
    front_share: float = nan
    """of document draws in which no setting is better in both"""
    n: float = nan
    """answers"""
    documents: float = nan
    written: Written = Written()


@dataclass(frozen=True, kw_only=True)
class Steered(Row):
    """One condition on the documents that are reported on."""

    TABLE: ClassVar[str] = "steering"
    source: str
    target: str
    condition: str
    """`steered`, `unsteered`, `prompted`"""
    chosen_at: str = ""
    """limits of damage at which the setting is the best"""
    success: float
    success_low: float
    success_high: float
    interval: str = ""
    why: str = ""
    written: Written = Written()
    n: float = nan
    """answers"""
    documents: float = nan
    draw: int = -1
    method: str = ""
    layer: float = nan
    alpha: float = nan
    strength_gap: float = nan
    """the strength in units of the gap between the languages' means"""
    strength_absolute: float = nan
    strength_norm: float = nan
    """in units of the mean length of a token's state"""
    minus_unsteered: float = nan
    """success over the same documents without steering"""
    minus_unsteered_low: float = nan
    minus_unsteered_high: float = nan
    random: float = nan
    """success of random directions of the same size"""
    p: float = nan
    """against random draws"""
    draws: float = nan
    minus_random: float = nan
    minus_random_low: float = nan
    minus_random_high: float = nan
    random_cov: float = field(default=nan, metadata={"column": "random-cov"})
    """success of directions drawn from the states' covariance"""
    shuffled: float = nan
    """success of directions fitted with shuffled labels"""
    third: float = nan
    """success of directions to other languages"""
    random_neurons: float = field(default=nan, metadata={"column": "random-neurons"})
    p_holm: float = nan
    """adjusted over the pairs of a method"""


@dataclass(frozen=True, kw_only=True)
class Damage(Row):
    """Rise of the loss on held-out text of one language."""

    TABLE: ClassVar[str] = "damage"
    source: str
    target: str
    method: str
    layer: float
    alpha: float
    condition: str
    language: str
    role: str
    """`target`, `source` or `third`"""
    delta_nll: float
    """nats a token"""
    delta_nll_low: float
    delta_nll_high: float
    interval: str = ""
    why: str = ""
    nll: float = nan
    """nats a token, under the edit"""
    delta_bits_per_byte: float = nan
    documents: float = nan


@dataclass(frozen=True, kw_only=True)
class SteeringControl(Row):
    """Success of one draw of a control of the same place and size."""

    TABLE: ClassVar[str] = "controls"
    source: str
    target: str
    method: str = ""
    layer: float = nan
    alpha: float = nan
    control: str
    language: str = ""
    """of a direction to another language"""
    draw: int = -1
    success: float
    written: Written = Written()


@dataclass(frozen=True)
class Kept(Part):
    """How much of what the unsteered answer says stands in the steered one, in units of a translation."""

    value: float
    low: float
    high: float
    gain: float = nan
    """mean r of the answers, nats a token"""
    reference: float = nan
    """mean r* of translations"""
    reference_low: float = nan
    reference_high: float = nan
    n: int = 0
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Fidelity(Row):
    """How much an answer tells about its translation."""

    TABLE: ClassVar[str] = "fidelity"
    source: str
    target: str
    method: str
    layer: float
    alpha: float
    kept: Kept
    success: float = nan
    harmonic: float = nan
    """mean of success and fidelity"""


@dataclass(frozen=True)
class Continued(Part):
    """Whether a steered model finds the translation that follows: loss after others minus after its own; hits."""

    gain: float
    """nats a token"""
    hits: float
    """contexts after which the right one is the likeliest"""
    chance: float
    n: int
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Continuation(Row):
    """The same under one condition."""

    TABLE: ClassVar[str] = "continuation"
    source: str
    target: str
    condition: str
    found: Continued
    method: str = ""
    layer: float = nan
    alpha: float = nan


@dataclass(frozen=True, kw_only=True)
class Directed(Row):
    """The direction of one method in one layer."""

    TABLE: ClassVar[str] = "directions"
    source: str
    target: str
    method: str
    layer: int
    gap: float
    """distance of the languages' means"""
    norm: float
    """mean length of a token's state"""
    at_source: float
    """the source's mean along the direction"""
    at_target: float


@dataclass(frozen=True)
class Judged(Part):
    """An answer, and what it is like."""

    text: str = ""
    kind: str = ""
    """of confusion: full, line, word, none, skipped"""
    success: float = nan
    """share of counted lines in the target; NaN of none"""
    all_target: bool = False
    all_source: bool = False
    all_other: bool = False
    """every line in one language that is neither"""
    unknown: bool = False
    """no line whose language could be told"""
    identified: str = ""
    """languages of the counted lines, by blanks"""
    tokens: int = 0
    reason: str = ""
    """it ended for"""
    broken_share: float = nan
    distinct_1: float = nan
    distinct_2: float = nan
    repeat: int = 0
    """tokens of the longest stretch that stands twice"""

    @property
    def loops(self) -> bool:
        """Whether a stretch of half the answer or more stands twice: text that looks like a language, and is none."""
        return self.tokens > 0 and 2 * self.repeat >= self.tokens


@dataclass(frozen=True, kw_only=True)
class Answer(Row):
    """One written answer, judged."""

    TABLE: ClassVar[str] = "answers"
    source: str
    target: str
    condition: str
    draw: int = -1
    document: str = ""
    prompt: str = ""
    judged: Judged = Judged()
    method: str = ""
    layer: float = nan
    alpha: float = nan


@dataclass(frozen=True, kw_only=True)
class Kinds(Part):
    """Answers by what is wrong with them."""

    full: float = nan
    """no line is in the language"""
    line: float = nan
    """some lines are not"""
    word: float = nan
    """all lines are, with English words"""
    none: float = nan
    """answers without confusion"""
    skipped: float = nan
    """too short to tell"""


@dataclass(frozen=True, kw_only=True)
class SteeredConfusion(Row):
    """Confusion under one condition of a steering run."""

    TABLE: ClassVar[str] = "confusion"
    source: str
    target: str
    condition: str
    method: str
    layer: float
    alpha: float
    kinds: Kinds
    n: int
    lpr: float
    """line pass rate: answers whose every line is in the language, of those long enough to tell"""


@dataclass(frozen=True)
class Rates(Part):
    """Pass rates of the answers of one set and language."""

    answers: int
    counted: int
    """with a line long enough to tell"""
    lpr: float
    """share of answers whose every line is in the target"""
    acc: float
    """mean share of right lines"""
    wpr: float
    """among those that pass by line, the share without an English word; NaN where words cannot be told"""
    lcpr: float
    """harmonic mean of lpr and wpr (ours)"""


@dataclass(frozen=True, kw_only=True)
class Confusion(Row):
    """Answers of a model in one language, by what is wrong with them."""

    TABLE: ClassVar[str] = "confusion"
    model: str
    task: str
    set_: str
    language: str
    rates: Rates
    lpr_low: float = nan
    lpr_high: float = nan
    why: str = ""
    kinds: Kinds = Kinds()


@dataclass(frozen=True, kw_only=True)
class Said(Row):
    """One answer whose confusion was told."""

    TABLE: ClassVar[str] = "answers"
    model: str
    task: str
    set_: str
    language: str
    text: str
    kind: str
    """of confusion: full, line, word, none, skipped"""
    lines: str
    """language of each counted line, by blanks"""
    right: int
    """lines in the language that was asked for"""


@dataclass(frozen=True, kw_only=True)
class SaidHere(Said):
    """The same of an answer that was written in this run."""

    prompt: str
    reason: str
    """it ended for"""
    tokens: int


@dataclass(frozen=True)
class Ceiling(Row):
    """Right identifications of held-out references of one language: no rate can be higher and mean anything."""

    TABLE: ClassVar[str] = "ceiling"
    language: str
    ceiling: float
    low: float
    high: float
    n: int
    length: int
    """words a line is cut to; letters in a script without blanks"""
    script: float
    """share of references that pass the script's test"""
