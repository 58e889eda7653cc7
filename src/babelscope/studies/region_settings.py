"""What is asked of a regions study: a group of settings for each of its steps, and what can be said against them."""

from __future__ import annotations

from dataclasses import dataclass, field

from babelscope.errors import InputError
from babelscope.languages import language, parse_languages
from babelscope.settings import Settings
from babelscope.terms import Joint, Kind, SpecialTokens, Way


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

    special: SpecialTokens = "none"
    """special tokens: none; a beginning-of-sequence token; or one that is left out of the mean"""


@dataclass(frozen=True, kw_only=True)
class Localisation(Settings):
    """Regions: which neurons serve a language."""

    threshold: float = 2.0
    """on z; must be below √(languages − 1)"""
    bootstrap: int = 1000
    """draws for intervals"""

    def check(self) -> None:
        """Raises InputError where no interval could be drawn."""
        if self.bootstrap < 1:
            raise InputError("--bootstrap: an interval needs at least one draw")


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
    """false discovery rate of calibrated regions"""
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
                if name not in METHODS:
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
        """Raises InputError for shares that are none."""
        _check_shares("--alignment-neurons", self.alignment_neurons)


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

    >>> RegionsSettings("pocket:heldout", samples=50).part(Localisation)
    Localisation(threshold=2.0, bootstrap=1000)
    """

    def check(self) -> None:
        """Raises InputError for settings that cannot go together."""
        if self.doses and not self.texts:
            raise InputError("--doses needs --texts to measure on")
        if self.languages is not None:
            from babelscope.regions.localisation import check_threshold

            check_threshold(self.threshold, len(self.languages))
            absent = [code for code in self.steer or () if code not in self.languages]
            if absent:
                raise InputError(f"--steer: {', '.join(absent)} is not among --languages")


def _check_shares(option: str, shares: tuple[float, ...]) -> None:
    if any(not 0 < share <= 1 for share in shares):
        raise InputError(f"{option}: shares of all neurons lie above 0 and are at most 1")
