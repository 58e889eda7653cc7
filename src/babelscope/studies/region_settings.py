"""What is asked of a regions study, and what can be said against it before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from babelscope.errors import InputError
from babelscope.models.model import SpecialTokens
from babelscope.regions import localisation
from babelscope.regions.contrast import ContrastSettings, Sign, reference_weights
from babelscope.regions.headlines import RAREFIED
from babelscope.regions.identification import check_identifier
from babelscope.regions.methods import METHODS
from babelscope.regions.perplexity import Joint
from babelscope.regions.recording import First, Norm, Pooled
from babelscope.regions.sinks import SINK_SHARE
from babelscope.regions.steering import Way
from babelscope.regions.treatments import KINDS, Kind


@dataclass(frozen=True)
class RegionsSettings:
    """What decides the numbers of a regions study."""

    corpus: str
    """parallel text, for instance bible:FOLDER"""
    languages: tuple[str, ...] | None = None
    """language codes; None: all that the corpus has"""
    samples: int = 100
    """parallel sentences n"""
    seed: int = 0
    """of the sample, the controls and the bootstrap"""
    threshold: float = 2.0
    """on z (eq. 14)"""
    special: SpecialTokens = "none"
    """none | bos | bos-excluded (regions.md, section 2)"""
    paper: bool = False
    """the paper's own numbers: norm paper, first keep, tokens all, method z-score"""
    norm: Norm = "robust"
    """what vectors are divided by: ‖v‖ without neurons that fire at one position, ‖v‖ (the paper), or nothing"""
    sink_share: float = SINK_SHARE
    """share of ‖v‖² above which such a neuron leaves the norm"""
    first: First = "keep"
    """drop: the first pooled token stays out of the mean"""
    tokens: Pooled = "all"
    """shortest: as many tokens of a sentence as the language with the fewest has"""
    documents: Literal["auto", "none"] = "auto"
    """auto: sentences of one document of the corpus are not independent; none: they are"""
    method: Literal["contrast", "z-score"] = "contrast"
    """regions that are switched off, steered and drawn; z > 2 needs six languages"""
    effect: float = 0.5
    """δ of contrast, in standard deviations within languages"""
    sign: Sign = "raised"
    """neurons that a language holds high (raised), low (lowered), or both"""
    against: tuple[str, ...] | None = None
    """reference languages of contrast; None: all others"""
    rarefy: int = RAREFIED
    """sentences at which excess SKLR is compared between corpora of different size"""
    texts: str | None = None
    """text for the perplexity table; None: no table"""
    window: int | None = None
    """tokens; None: the model's own length, at most 2048, at most what the shortest text has"""
    joint: Joint = "blank-line"
    """between documents: blank-line (the paper), or eos, the end-of-text token"""
    text_tokens: int | None = 8192
    """tokens of text per language; None: all of it"""
    controls: int = 5
    """random draws of each control"""
    bootstrap: int = 1000
    """draws for intervals"""
    permutations: int = 0
    """draws of the null with permuted language labels; 0: no calibration"""
    fdr: float = 0.05
    """false discovery rate of regions kept by their p-values, contrast included"""
    methods: tuple[str, ...] = ()
    """further ways to find regions (babelscope.regions.methods)"""
    alignment: bool = False
    """all alignment metrics, by layer and language pair"""
    alignment_neurons: tuple[float, ...] = ()
    """shares of all neurons with the largest shares of SADS to switch off"""
    stories: str | None = None
    """story cloze beside the alignment neurons, for instance pocket:"""
    doses: tuple[float, ...] = ()
    """shares of all neurons to treat, by the rank of their z; needs texts"""
    kinds: tuple[Kind, ...] = ("zero",)
    """treatments of the doses"""
    generate: int = 0
    """prompts per language to continue with and without each region"""
    generate_tokens: int = 32
    prompt_tokens: int = 8
    steer: tuple[str, str] | None = None
    """from this language to that one"""
    steer_way: Way = "mean"
    """set the region's neurons to their means in the target language, or scale them"""
    steer_factor: float = 1.0
    """times the means, or the activations"""

    @property
    def contrast(self) -> ContrastSettings:
        """The options of the method contrast."""
        return ContrastSettings(self.effect, self.fdr, self.sign, self.against)

    def as_meant(self) -> RegionsSettings:
        """The settings with `paper` spelled out."""
        if not self.paper:
            return self
        return replace(self, norm="paper", first="keep", tokens="all", method="z-score")


def check_samples(settings: RegionsSettings) -> None:
    """Raises InputError for settings that can never work, before anything is loaded."""
    if settings.samples < 2:
        raise InputError(f"--samples {settings.samples}: at least two sentences are needed")
    if min(settings.controls, settings.permutations, settings.generate) < 0:
        raise InputError("--controls, --permutations and --generate cannot be negative")
    if settings.bootstrap < 1:
        raise InputError("--bootstrap: an interval needs at least one draw")
    if settings.steer_way not in ("mean", "scale"):
        raise InputError(f"--steer-way {settings.steer_way}: use mean or scale")
    if not 0 < settings.sink_share < 1:
        raise InputError(f"--sink-share {settings.sink_share:g}: a share lies between 0 and 1")
    if settings.effect < 0:
        raise InputError(f"--effect {settings.effect:g}: standard deviations, 0 or more")
    if settings.rarefy < 2:
        raise InputError(f"--rarefy {settings.rarefy}: a similarity within a language needs two sentences")
    if not 0 < settings.fdr < 1:
        raise InputError(f"--fdr {settings.fdr:g}: a false discovery rate lies between 0 and 1")
    for name in settings.methods:
        if name not in METHODS:
            raise InputError(f"--methods {name}: there are {', '.join(METHODS)}")
    for kind in settings.kinds:
        if kind not in KINDS:
            raise InputError(f"--kinds {kind}: there are {', '.join(KINDS)}")
    if any(not 0 < share <= 1 for share in (*settings.doses, *settings.alignment_neurons)):
        raise InputError("--doses and --alignment-neurons are shares of all neurons, above 0 and at most 1")
    if settings.doses and not settings.texts:
        raise InputError("--doses needs --texts to measure on")
    if settings.generate or settings.steer:
        check_identifier()
    if settings.languages is not None:
        check_languages(settings, settings.languages)
        absent = [code for code in settings.steer or () if code not in settings.languages]
        if absent:
            raise InputError(f"--steer: {', '.join(absent)} is not among --languages")


def check_languages(settings: RegionsSettings, languages: Sequence[str]) -> None:
    """Raises InputError for one language, an unknown reference, and z-scores that no neuron can reach."""
    if len(languages) < 2:
        raise InputError(f"regions compare languages; there is {', '.join(languages)}: name two or more")
    reference_weights(languages, settings.against)
    if settings.as_meant().method == "z-score" or "z-score" in settings.methods:
        localisation.check_threshold(settings.threshold, len(languages))
        if len(languages) == 2:
            raise InputError("z is ±1 for every neuron with two languages: take the method contrast")
