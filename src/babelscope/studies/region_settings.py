"""What is asked of a regions study: a group of settings for each of its steps, and what can be said against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from babelscope.corpora.spec import with_form
from babelscope.errors import InputError
from babelscope.languages import parse_languages
from babelscope.settings import Settings, Use
from babelscope.terms import (
    Documents,
    First,
    Form,
    Joint,
    Kind,
    Norm,
    Pooled,
    RecordedSite,
    RegionMethod,
    Sign,
    SpecialTokens,
)

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
    normalise: Form | None = None
    """bring every text into one Unicode form, such as nfc; how many texts that changed is recorded [as they are]"""

    def check(self) -> None:
        """Raises InputError for a sample in which nothing can be compared."""
        self._put(corpus=with_form(self.corpus, self.normalise))
        if self.languages is not None:
            self._put(languages=tuple(parse_languages(self.languages)))
        if self.samples < 2:
            raise InputError(f"--samples {self.samples}: at least two sentences are needed")


@dataclass(frozen=True, kw_only=True)
class Recorded(Settings):
    """Recording: what a sentence's activation is."""

    special: SpecialTokens = "auto"
    """special tokens, also of windows and prompts: none; bos, at the beginning; the same left out of the mean; the
    tokenizer's own, left out; auto: own for an encoder, else none"""
    first: First = "keep"
    """drop: the first pooled token stays out of the mean"""
    tokens: Pooled = "all"
    """shortest: as many tokens of a sentence as the language with the fewest has"""
    site: RecordedSite = "neurons"
    """residual: dimensions of the residual stream in the place of neurons (models without known MLPs: Mamba)"""
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
    """regions that are switched off and drawn; z-score needs six languages"""
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
        if self.threshold <= 0:
            raise InputError(f"--threshold {self.threshold:g}: a region lies above the mean, so above 0")
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
    fixed: bool = False
    """switch every region and random draw off on all of the text; else they are read in rounds, and no further once
    their interval is ± a tenth of the effect they are compared with"""
    edits: tuple[str, ...] = ()
    """files of steering edits, by commas, under which the text is read too (runs/steer/edits/…)"""

    def check(self) -> None:
        """Raises InputError for what cannot be measured."""
        self._put(text_tokens=self.text_tokens or None)
        if self.window is not None and self.window < 2:
            raise InputError(f"--window {self.window}: the first token is not scored, so at least 2")


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
        if not 0 < self.fdr < 1:
            raise InputError(f"--fdr {self.fdr:g}: a false discovery rate lies between 0 and 1")
        if self.methods:
            from babelscope.regions.methods import METHODS

            for name in self.methods:
                if METHODS.get(name) is None:
                    raise InputError(f"--methods {name}: there are {', '.join(METHODS)}")


SITES = ("residual", "router")
"""sites beside the neurons on which alignment is measured"""


@dataclass(frozen=True, kw_only=True)
class Alignment(Settings):
    """Alignment: how translations meet."""

    alignment: bool = False
    """all alignment metrics, by layer and pair of languages"""
    alignment_neurons: tuple[float, ...] = ()
    """shares of all neurons, those that carry SADS, to switch off, such as 0.01,0.05"""
    alignment_sites: tuple[str, ...] = ()
    """the same metrics on further sites, by commas: residual (pooled three ways), router (of a mixture)"""
    stories: str | None = None
    """story cloze beside the alignment neurons, such as pocket:"""

    def check(self) -> None:
        """Raises InputError for shares that are none, unknown sites, and a metric from outside that cannot be had."""
        unknown = [name for name in self.alignment_sites if name not in SITES]
        if unknown:
            raise InputError(
                f"--alignment-sites {', '.join(unknown)}: there are {', '.join(SITES)}; neurons are always measured"
            )
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

    def check(self) -> None:
        """Raises InputError for what cannot be written, MissingExtra where languages could not be told apart."""
        if min(self.generate_tokens, self.prompt_tokens) < 1:
            raise InputError("--generate-tokens and --prompt-tokens: at least one token")
        if self.generate:
            from babelscope.regions.identification import check_identifier

            check_identifier()


@dataclass(frozen=True, kw_only=True)
class RegionsSettings(Generation, Dosing, Alignment, Calibration, Deactivation, Localisation, Recorded, Sample):
    """What decides the numbers of a regions study.

    >>> RegionsSettings("pocket:heldout", samples=50).part(Calibration)
    Calibration(permutations=0, fdr=0.05, methods=())
    """

    ONLY: ClassVar[Mapping[str, Use]] = {
        "sink_share": (lambda own: own.norm == "robust", "--norm robust"),
        **{
            name: (lambda own: own.texts is not None, "--texts") for name in ("window", "joint", "text_tokens", "fixed")
        },
        "controls": (
            lambda own: bool(own.texts or own.alignment_neurons or own.generate),
            "--texts, --alignment-neurons or --generate",
        ),
        "stories": (lambda own: bool(own.alignment_neurons), "--alignment-neurons"),
        "kinds": (lambda own: bool(own.doses), "--doses"),
        **{name: (lambda own: bool(own.generate), "--generate") for name in ("generate_tokens", "prompt_tokens")},
    }

    def check(self) -> None:
        """Raises InputError for settings that cannot go together."""
        if self.texts is not None:
            self._put(texts=with_form(self.texts, self.normalise))
        if self.paper:
            if self.first != "keep" or self.tokens != "all":
                raise InputError("--paper is --first keep --tokens all: leave out the others, or --paper")
            self._put(norm="paper", first="keep", tokens="all", method="z-score")
        if self.site == "residual":
            self._refuse_neurons_only()
        for name, wanted in (("--doses", self.doses), ("--edits", self.edits),
                             ("--methods relevance", "relevance" in self.methods)):  # fmt: skip
            if wanted and not self.texts:
                raise InputError(f"{name} needs --texts to measure on")
        if self.weighted and self.doses and any(kind.startswith("mean") for kind in self.kinds):
            raise InputError("--weighted: neurons cannot be set to means of themselves times a routing weight")
        if self.languages is not None:
            self.check_languages(self.languages)

    def _refuse_neurons_only(self) -> None:
        """Raises InputError for what is defined of neurons alone."""
        only: dict[str, object] = {
            "--texts": self.texts, "--doses": self.doses, "--generate": self.generate,
            "--alignment-neurons": self.alignment_neurons, "--weighted": self.weighted,
            "--methods lape": {"lape", "lape-routed"} & set(self.methods),
            "--methods relevance": "relevance" in self.methods,
            "--alignment-sites router": "router" in self.alignment_sites,
        }  # fmt: skip
        asked = [name for name, value in only.items() if value]
        if asked:
            raise InputError(f"{', '.join(asked)}: of neurons alone, not of --site residual")

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
