"""Tables of a regions run. ΔNLL: rise of the loss when neurons are switched off, in nats a token.

`interval` names how low and high (95 %) were made; `why` says why there are none. NaN: not computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Part, Row


@dataclass(frozen=True, kw_only=True)
class Perplexity(Row):
    """Loss on the text of one language with one set of neurons switched off."""

    TABLE: ClassVar[str] = "perplexity"
    language: str
    """of the text"""
    deactivated: str
    """`base`: nothing; `random`: as many neurons as the mean region; `random-layer`: as many of every layer as the
    region of this text's language; else the language whose region it is"""
    draw: int = -1
    """of a random control; −1 else"""
    neurons: float = nan
    """switched off"""
    nll: float = nan
    """nats a token: of all text with nothing switched off, and the rise"""
    tokens: float = nan
    """on which the rise was measured"""
    bytes: float = nan
    """of all text in this language"""
    bits_per_byte: float = nan
    perplexity: float
    increase_percent: float
    """of perplexity over the base: 100 (exp ΔNLL − 1)"""
    increase_low: float = nan
    increase_high: float = nan
    delta_nll: float = nan
    """nats a token over the base"""
    delta_low: float = nan
    delta_high: float = nan
    interval: str = ""
    why: str = ""
    documents: float = nan
    rounds: float = nan
    """in which text was read; fewer where the interval was soon narrow enough"""


@dataclass(frozen=True, kw_only=True)
class Selectivity(Row):
    """How much more a region matters to its own language: its ΔNLL minus the mean of the others', nats a token."""

    TABLE: ClassVar[str] = "selectivity"
    language: str
    own: float = nan
    others: float = nan
    selectivity: float
    low: float = nan
    high: float = nan
    interval: str = ""
    why: str = ""
    documents: float = nan


@dataclass(frozen=True, kw_only=True)
class Dose(Row):
    """Loss of one language when the top share of a region's ranking is treated."""

    TABLE: ClassVar[str] = "dose"
    method: str = ""
    """that ranked the neurons"""
    region: str
    """language whose ranking is followed; `random-layer`: as many random neurons of every layer"""
    matched: str
    """language of the region, also for its random control"""
    kind: str
    """what treated neurons become"""
    share: float
    """of all neurons"""
    neurons: float = nan
    draw: int = -1
    language: str
    """of the text"""
    nll: float = nan
    """nats a token"""
    delta_nll: float
    """nats a token over the base"""
    delta_low: float = nan
    delta_high: float = nan
    interval: str = ""
    why: str = ""
    documents: float = nan


@dataclass(frozen=True, kw_only=True)
class Stability(Row):
    """How much of a region is found again, as Jaccard overlap."""

    TABLE: ClassVar[str] = "stability"
    language: str
    size_mean: float = nan
    """neurons, over draws of documents"""
    size_low: float = nan
    size_high: float = nan
    bootstrap_jaccard: float
    """with documents drawn anew"""
    bootstrap_low: float
    bootstrap_high: float
    split_half_jaccard: float
    """between halves of the documents"""
    split_half_low: float
    split_half_high: float
    chance_jaccard: float
    """of two random regions of that size"""
    sklr_without: float = nan
    """SKLR of the other languages alone"""
    draws: float = nan
    n: float = nan
    """sentences a language"""


@dataclass(frozen=True, kw_only=True)
class Calibration(Row):
    """Key neurons of a language by z, against permuted language labels."""

    TABLE: ClassVar[str] = "calibration"
    language: str
    """"" in the row of all"""
    observed: float = nan
    expected_null: float
    """key neurons that permuted labels give"""
    null_low: float = nan
    """middle 95 % of the draws"""
    null_high: float = nan
    excess: float
    """observed minus expected"""
    excess_low: float = nan
    excess_high: float = nan
    p: float = nan
    fdr: float = nan
    """neurons kept at the rate, by z"""
    fdr_effect: float = nan
    """neurons kept at the rate, by d"""
    rate: float = nan
    fdr_needs: float = nan
    """pairs that must reach the smallest p for one to be kept"""
    draws_needed: float = nan
    """at which one pair alone could be kept"""
    draws: float = nan
    n: float = nan
    at: str = ""
    """n and documents that the sizes hold at"""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class MethodSize(Row):
    """Region of one language by one method."""

    TABLE: ClassVar[str] = "methods"
    method: str
    language: str
    size: int
    share: float
    """of all neurons"""
    mean_depth: float
    """layer, mean over members; NaN of none"""
    shared_with_others: int
    """members that are in another language's region too"""
    raised: int
    """members that the language has higher than the languages' mean"""
    neurons: int
    n: float
    """sentences a language"""
    at: str


@dataclass(frozen=True, kw_only=True)
class Agreement(Row):
    """Two methods on one language. Both numbers are facts of one recording: without an interval."""

    TABLE: ClassVar[str] = "agreement"
    method: str
    method2: str
    language: str
    size: int
    size2: int
    jaccard: float
    """shared over either; NaN where both are empty"""
    chance: float
    """Jaccard index expected of random regions of these sizes"""
    spearman: float
    """rank correlation of scores over all neurons; NaN where a set has none"""
    neurons: int
    no_interval: str = "a fact of one recording"


@dataclass(frozen=True, kw_only=True)
class RegionSize(Row):
    """Neurons of a language's region, by the main method and by the paper's."""

    TABLE: ClassVar[str] = "region_size"
    method: str
    language: str
    size: float
    share: float
    mean_depth: float
    lowered: float
    """neurons that the language has lower than the others"""
    effect: float
    """least d of a member"""
    threshold: float
    """least z of a member"""
    n: int
    at: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Headline(Row):
    """One number of the whole run."""

    TABLE: ClassVar[str] = "headlines"
    measure: str
    value: float
    low: float
    high: float
    interval: str
    why: str
    n: int
    documents: float


@dataclass(frozen=True, kw_only=True)
class Alignment(Row):
    """One metric of alignment of one pair of languages in one layer."""

    TABLE: ClassVar[str] = "alignment"
    metric: str
    layer: float
    """NaN: a fact of texts, which has no layer"""
    language: str
    language2: str
    value: float
    low: float = nan
    high: float = nan
    interval: str = ""
    why: str = ""
    n: float = nan


@dataclass(frozen=True, kw_only=True)
class AlignmentMean(Row):
    """One metric of alignment in one layer, mean over pairs of languages, with an interval of its own."""

    TABLE: ClassVar[str] = "alignment_means"
    metric: str
    layer: int
    value: float
    low: float
    high: float
    interval: str = ""
    why: str = ""
    n: float = nan
    documents: float = nan


@dataclass(frozen=True, kw_only=True)
class AlignmentNeurons(Row):
    """One number of the model without the neurons that carry SADS."""

    TABLE: ClassVar[str] = "alignment_neurons"
    deactivated: str
    """`base`, `alignment`, or `random-layer`"""
    share: float
    """of all neurons"""
    neurons: int
    draw: int
    measure: str
    """`sads`, `lrds`, `sads_left`, `delta_nll`, or the name of a task"""
    language: str
    """`all` for the scores over languages"""
    value: float
    low: float
    high: float
    interval: str
    why: str
    n: int
    """sentences, documents, or items"""


@dataclass(frozen=True, kw_only=True)
class Continuation(Row):
    """What the model writes behind one prompt under one condition."""

    TABLE: ClassVar[str] = "generations"
    language: str
    """of the prompt"""
    deactivated: str
    """what was done: `base`, a region, a control"""
    draw: int
    prompt: str
    continuation: str
    identified: str
    """the language that is read in it; "" where it has no letters"""
    broken_share: float
    """of characters that are no valid UTF-8"""
    distinct_1: float
    """distinct words over words"""
    distinct_2: float
    """distinct pairs of words over pairs"""


@dataclass(frozen=True, kw_only=True)
class Sentence(Row):
    """One sentence of the similarity map."""

    TABLE: ClassVar[str] = "sentences"
    id: str
    language: str
    text: str
    tokens: float = nan


@dataclass(frozen=True, kw_only=True)
class EditedText(Row):
    """Loss on the text of one language under a saved edit, or under a random one of its size."""

    TABLE: ClassVar[str] = "edited_text"
    edit: str
    """name of its file"""
    condition: str
    """`edit` or `random`"""
    draw: int
    """of a random edit; −1 else"""
    language: str
    nll: float
    """nats a token"""
    delta_nll: float
    """nats a token over the model without an edit"""
    delta_nll_low: float
    delta_nll_high: float
    interval: str
    why: str
    documents: int
    n: int
    """tokens"""


@dataclass(frozen=True, kw_only=True)
class WrittenShare(Row):
    """Continuations of one language under one condition: in which language they are, and whether they are text."""

    TABLE: ClassVar[str] = "generation_shares"
    language: str
    deactivated: str
    n: int
    """continuations"""
    own_share: float
    """in the prompt's language; NaN of one that the identifier does not know or cannot tell from another"""
    own_low: float
    own_high: float
    text: TextMeans


@dataclass(frozen=True, kw_only=True)
class TextMeans(Part):
    """Means over continuations with their 95 % intervals, none of fewer than two or of equal ones."""

    broken_share: float
    """of letters"""
    broken_share_low: float
    broken_share_high: float
    distinct_1: float
    """distinct words, as a share"""
    distinct_1_low: float
    distinct_1_high: float
    distinct_2: float
    """distinct pairs of words, as a share"""
    distinct_2_low: float
    distinct_2_high: float
