"""What is asked of a regions study: a group of settings for each of its steps, and what can be said against them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babelscope.errors import InputError
from babelscope.languages import language, parse_languages
from babelscope.settings import Settings
from babelscope.terms import Documents, First, Joint, Kind, Norm, Pooled, RegionMethod, Sign, SpecialTokens, Way

if TYPE_CHECKING:
    from babelscope.regions.contrast import ContrastSettings


@dataclass(frozen=True, kw_only=True)
class Sample(Settings):
    """Text: which parallel sentences."""

    corpus: str = field(kw_only=False)
    """parallel text, such as bible:FOLDER (see: babelscope corpus list)"""
    languages: tuple[str, ...] | None = None
    """codes, by commas [all in the corpus]"""
    samples: int = 100
    """parallel sentences"""
    seed: int = 0
    """of the sample, the controls and the bootstrap"""

    def check(self) -> None:
        """Raises InputError for a sample in which nothing can be compared."""
        if self.languages is not None:
            self._put(languages=tuple(parse_languages(self.languages)))
        if self.samples < 2:
            raise InputError(f"--samples {self.samples}: at least two sentences are needed")


@dataclass(frozen=True, kw_only=True)
class Recorded(Settings):
    """Recording: what a sentence's activation is."""

    special: SpecialTokens = "auto"
    """special tokens: none; bos, at the beginning; the same left out of the mean; the tokenizer's own, left out; auto:
    own for an encoder, else none"""
    first: First = "keep"
    """drop: the first pooled token stays out of the mean"""
    tokens: Pooled = "all"
    """shortest: as many tokens of a sentence as the language with the fewest has"""
    weighted: bool = False
    """mixtures of experts: neurons of routed experts times their routing weight"""


@dataclass(frozen=True, kw_only=True)
class Localisation(Settings):
    """Regions: which neurons serve a language."""

    paper: bool = False
    """the paper's own numbers: norm paper, first keep, tokens all, method z-score"""
    norm: Norm = "robust"
    """what vectors are divided by: their length without neurons that fire at one position (robust), or with (paper)"""
    sink_share: float = 0.005
    """share of squared length above which such a neuron leaves the norm"""
    documents: Documents = "auto"
    """auto: sentences of one document of the corpus are not independent; none: they are"""
    method: RegionMethod = "contrast"
    """regions that are switched off, steered and drawn; z-score needs six languages"""
    effect: float = 0.5
    """of contrast, in standard deviations within languages"""
    sign: Sign = "raised"
    """of contrast: neurons that a language holds high, low, or both"""
    against: tuple[str, ...] | None = None
    """reference languages of contrast, by commas [all others]"""
    threshold: float = 2.0
    """on z; must be below √(languages − 1)"""
    rarefy: int = 25
    """sentences at which excess SKLR is compared between corpora of different size"""
    bootstrap: int = 1000
    """draws for intervals"""

    def check(self) -> None:
        """Raises InputError where no interval could be drawn, and for a share, an effect or a count that is none."""
        if self.bootstrap < 1:
            raise InputError("--bootstrap: an interval needs at least one draw")
        if not 0 < self.sink_share < 1:
            raise InputError(f"--sink-share {self.sink_share:g}: a share lies between 0 and 1")
        if not self.effect >= 0:
            raise InputError(f"--effect {self.effect:g}: standard deviations, 0 or more")
        if self.rarefy < 2:
            raise InputError(f"--rarefy {self.rarefy}: a similarity within a language needs two sentences")
        if self.against is not None:
            self._put(against=tuple(parse_languages(self.against)))


@dataclass(frozen=True, kw_only=True)
class Deactivation(Settings):
    """Perplexity: what switching regions off does."""

    texts: str | None = None
    """text for the perplexity table [no table]"""
    window: int | None = None
    """tokens per window [the model's own length, at most 2048, at most what the shortest text has]"""
    joint: Joint = "blank-line"
    """between documents: a blank line (the paper), or the end-of-text token"""
    text_tokens: int | None = 8192
    """tokens of text per language; 0: all of it"""
    controls: int = 5
    """random draws of each control"""

    def check(self) -> None:
        """Raises InputError for what cannot be measured."""
        self._put(text_tokens=self.text_tokens or None)
        if self.controls < 0 or (self.text_tokens or 0) < 0:
            raise InputError("--controls and --text-tokens cannot be negative")


@dataclass(frozen=True, kw_only=True)
class Calibration(Settings):
    """Calibration: how much of the regions chance explains, and what other methods find."""

    permutations: int = 0
    """draws of permuted labels to calibrate by; 0: none"""
    fdr: float = 0.05
    """false discovery rate of regions by p-values, contrast included"""
    methods: tuple[str, ...] = ()
    """further methods, by commas, such as lape,average-precision"""

    def check(self) -> None:
        """Raises InputError for a rate that is none and methods that do not exist."""
        if self.permutations < 0:
            raise InputError("--permutations cannot be negative")
        if not 0 < self.fdr < 1:
            raise InputError(f"--fdr {self.fdr:g}: a false discovery rate lies between 0 and 1")
        if self.methods:
            from babelscope.regions.methods import METHODS

            for name in self.methods:
                if METHODS.get(name) is None:
                    raise InputError(f"--methods {name}: there are {', '.join(METHODS)}")


@dataclass(frozen=True, kw_only=True)
class Alignment(Settings):
    """Alignment: how translations meet."""

    alignment: bool = False
    """all alignment metrics, by layer and pair of languages"""
    alignment_neurons: tuple[float, ...] = ()
    """shares of all neurons, those that carry SADS, to switch off, such as 0.01,0.05"""
    stories: str | None = None
    """story cloze beside the alignment neurons, such as pocket:"""

    def check(self) -> None:
        """Raises InputError for shares that are none, and for a metric from outside that cannot be had."""
        _check_shares("--alignment-neurons", self.alignment_neurons)
        if self.alignment:
            from babelscope.regions.alignment import METRICS

            dict(METRICS)


@dataclass(frozen=True, kw_only=True)
class Dosing(Settings):
    """Doses: more and more of a region."""

    doses: tuple[float, ...] = ()
    """shares of all neurons to treat, by rank, such as 0.001,0.01,0.1; needs texts"""
    kinds: tuple[Kind, ...] = ("zero",)
    """treatments of the doses, by commas: zero, mean, mean-others, scale"""

    def check(self) -> None:
        """Raises InputError for shares and kinds that do not exist."""
        from typing import get_args

        _check_shares("--doses", self.doses)
        for kind in self.kinds:
            if kind not in get_args(Kind):
                raise InputError(f"--kinds {kind}: there are {', '.join(get_args(Kind))}")


@dataclass(frozen=True, kw_only=True)
class Generation(Settings):
    """Writing: what the model says with and without a region."""

    generate: int = 0
    """prompts per language to continue under each region"""
    generate_tokens: int = 32
    """tokens of each continuation"""
    prompt_tokens: int = 8
    """tokens of each prompt"""
    steer: tuple[str, str] | None = None
    """steer generation from one language to another, such as en:zh"""
    steer_way: Way = "mean"
    """the region's neurons at their means in the target language, or scaled"""
    steer_factor: float = 1.0
    """times the means, or the activations"""

    def check(self) -> None:
        """Raises InputError for what cannot be written, MissingExtra where languages could not be told apart."""
        if self.generate < 0:
            raise InputError("--generate cannot be negative")
        if min(self.generate_tokens, self.prompt_tokens) < 1:
            raise InputError("--generate-tokens and --prompt-tokens: at least one token")
        if self.steer_way not in ("mean", "scale"):
            raise InputError(f"--steer-way {self.steer_way}: use mean or scale")
        if self.steer is not None:
            source, target = self.steer
            self._put(steer=(language(source).code, language(target).code))
        if self.generate or self.steer:
            from babelscope.regions.identification import check_identifier

            check_identifier()


@dataclass(frozen=True, kw_only=True)
class RegionsSettings(Generation, Dosing, Alignment, Calibration, Deactivation, Localisation, Recorded, Sample):
    """What decides the numbers of a regions study.

    >>> RegionsSettings("pocket:heldout", samples=50).part(Calibration)
    Calibration(permutations=0, fdr=0.05, methods=())
    """

    def check(self) -> None:
        """Raises InputError for settings that cannot go together."""
        if self.paper:
            self._put(norm="paper", first="keep", tokens="all", method="z-score")
        if self.weighted and (self.steer or (self.doses and any(kind.startswith("mean") for kind in self.kinds))):
            raise InputError("--weighted: neurons cannot be set to means of themselves times a routing weight")
        if self.doses and not self.texts:
            raise InputError("--doses needs --texts to measure on")
        if self.languages is not None:
            self.check_languages(self.languages)
            absent = [code for code in self.steer or () if code not in self.languages]
            if absent:
                raise InputError(f"--steer: {', '.join(absent)} is not among --languages")

    def check_languages(self, languages: tuple[str, ...]) -> None:
        """Raises InputError for one language, an unknown reference, and z-scores that no neuron can reach."""
        if len(languages) < 2:
            raise InputError(f"regions compare languages; there is {', '.join(languages)}: name two or more")
        absent = [code for code in self.against or () if code not in languages]
        if absent:
            raise InputError(f"--against: {', '.join(absent)} is not among {', '.join(languages)}")
        if self.method == "z-score" or "z-score" in self.methods:
            from babelscope.regions.localisation import check_threshold

            if len(languages) == 2:
                raise InputError("z is ±1 for every neuron with two languages: take --method contrast")
            check_threshold(self.threshold, len(languages))

    @property
    def contrast(self) -> ContrastSettings:
        """The options of the method contrast."""
        from babelscope.regions.contrast import ContrastSettings

        return ContrastSettings(self.effect, self.fdr, self.sign, self.against)


def _check_shares(option: str, shares: tuple[float, ...]) -> None:
    if any(not 0 < share <= 1 for share in shares):
        raise InputError(f"{option}: shares of all neurons lie above 0 and are at most 1")
