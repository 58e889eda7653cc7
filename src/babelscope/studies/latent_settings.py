"""What is asked of a study of latent language: a group of settings for each of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from babelscope.corpora.spec import with_form
from babelscope.errors import InputError
from babelscope.languages import parse_languages
from babelscope.settings import Settings, Use
from babelscope.terms import Form, SpecialTokens

Task = Literal["translation", "repetition", "cloze", "sentence"]
LensKind = Literal["logit", "tuned"]
Part = Literal["lens", "patch", "align"]
WordReading = Literal["first", "prefixes"]
Fit = Literal["ridge", "kl"]
MOST_PROMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class Words(Settings):
    """Words: which concepts, in which languages."""

    words: str = "concepts"
    """concepts (the package's own list), pocket (the pocket lexicon), planted, or a CSV, TSV or JSONL file"""
    languages: tuple[str, ...] | None = None
    """codes, by commas: the languages asked for and all candidates [every language of the list]"""
    kinds: tuple[str, ...] | None = None
    """kinds of concept, by commas [all; of the pocket lexicon animal, object, food, drink, place]"""
    n: int = 200
    """concepts at most, drawn from the list"""
    seed: int = 0
    """of every draw"""

    def check(self) -> None:
        """Raises InputError for languages that do not exist and for too few concepts."""
        if self.languages is not None:
            self._put(languages=tuple(parse_languages(self.languages)))
        if self.n < 3:
            raise InputError(f"--n {self.n}: at least three concepts are needed")


@dataclass(frozen=True, kw_only=True)
class Asking(Settings):
    """Prompts: what the model is asked for."""

    from_: tuple[str, ...] = ("fr",)
    """languages translated from, by commas"""
    to: tuple[str, ...] = ("zh",)
    """languages translated to, by commas; every pair is asked"""
    task: Task = "translation"
    """a word behind demonstrations, the same word again, a definition with a gap, a sentence up to the word"""
    parallel: str | None = None
    """parallel text for the task sentence and the part align, such as pocket:heldout"""
    normalise: Form | None = None
    """bring the parallel text into one Unicode form, such as nfc, in which the words are [as it is]"""
    prompts: int = 1
    """prompts a concept, averaged: other demonstrations, or other sentences"""
    demonstrations: int | None = None
    """shown before the question [4; of a cloze 2]"""
    reading: WordReading = "first"
    """tokens that stand for a word: the first of each alternative, or every prefix in the vocabulary"""
    special: SpecialTokens = "none"
    """special tokens: none, or a beginning-of-sequence token"""

    def check(self) -> None:
        """Raises InputError for a task that cannot be asked."""
        if self.parallel is not None:
            self._put(parallel=with_form(self.parallel, self.normalise))
        self._put(from_=tuple(parse_languages(self.from_)), to=tuple(parse_languages(self.to)))
        if self.special not in ("auto", "none", "bos"):
            raise InputError(f"--special {self.special}: nothing is averaged over tokens here; use none or bos")
        if not 1 <= self.prompts <= MOST_PROMPTS or not 0 <= (self.demonstrations or 0) <= MOST_PROMPTS:
            raise InputError(f"--prompts: 1 to {MOST_PROMPTS} a concept; --demonstrations: 0 to {MOST_PROMPTS}")
        if self.task == "sentence" and not self.parallel:
            raise InputError("--task sentence needs --parallel with sentences in both languages")
        if self.task in ("translation", "sentence") and not self.pairs:
            raise InputError("--from and --to name one language only; a translation needs two")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Source and target of every question; under repetition and cloze a language and itself."""
        if self.task in ("repetition", "cloze"):
            return [(code, code) for code in self.to]
        return [(a, b) for a in self.from_ for b in self.to if a != b]


@dataclass(frozen=True, kw_only=True)
class Parts(Settings):
    """Parts: what is measured, through which lens."""

    parts: tuple[Part, ...] = ("lens",)
    """by commas: lens, patch (concepts put into other prompts), align (residuals of parallel sentences)"""
    lens: tuple[LensKind, ...] = ("logit",)
    """by commas: logit, tuned (needs text, or a tuned lens from a file)"""
    candidates: tuple[str, ...] | None = None
    """languages that may show, by commas [all]"""

    def check(self) -> None:
        """Raises InputError for parts and lenses that do not exist."""
        for option, values, known in (("parts", self.parts, get_args(Part)), ("lens", self.lens, get_args(LensKind))):
            unknown = [value for value in values if value not in known]
            if unknown or not values:
                raise InputError(f"--{option} {', '.join(unknown)}: there are {', '.join(known)}")
        if self.candidates is not None:
            self._put(candidates=tuple(parse_languages(self.candidates)))


@dataclass(frozen=True, kw_only=True)
class Tuning(Settings):
    """Tuned lens: maps from every layer to the last one."""

    text: str | None = None
    """running text to fit it on, such as pocket:heldout"""
    text_tokens: int | None = None
    """tokens a language at most [all of it]"""
    window: int = 128
    """tokens that are read at once"""
    fit: Fit = "ridge"
    """by regression in one pass, or by descent on the divergence of the next word"""
    steps: int = 250
    """of the descent"""
    step_tokens: int = 2**18
    """tokens a step of the descent"""
    tuned: Path | None = None
    """a tuned lens from a file, in the place of fitting one"""

    def check(self) -> None:
        """Raises InputError for a fit without steps."""
        if min(self.steps, self.step_tokens, self.window - 1) < 1 or (self.text_tokens or 1) < 1:
            raise InputError("--steps, --step-tokens, --text-tokens: at least one; --window: at least two")


@dataclass(frozen=True, kw_only=True)
class Judgement(Settings):
    """Verdicts: intervals, null and controls."""

    draws: int = 2000
    """of the bootstrap over concepts"""
    permutations: int = 1000
    """of concepts, for the null"""
    matched: int = 200
    """draws of rows of matched spectrum"""
    least: float = 0.01
    """excess below which nothing is called a sign"""
    counts: Path | None = None
    """word counts for the control of frequency: a TSV of language, word, count [the lens's own mean]"""

    def check(self) -> None:
        """Raises InputError for draws that give no interval."""
        if self.draws < 100 or self.permutations < 19 or not 0 < self.least < 1:
            raise InputError("--draws: 100 or more; --permutations: 19 or more; --least: above 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class Patching(Settings):
    """Patching: pairs of prompts."""

    trials: int = 200
    """pairs of prompts"""
    patch_from: str | None = None
    """language that the patched prompt translates from [one that --from is not]"""
    patch_to: str | None = None
    """language that it translates to [one that --to is not]"""

    def check(self) -> None:
        """Raises InputError for half a pair of languages."""
        if self.trials < 1:
            raise InputError("--trials: at least one pair of prompts")
        if (self.patch_from is None) != (self.patch_to is None):
            raise InputError("--patch-from and --patch-to go together")


@dataclass(frozen=True, kw_only=True)
class LatentSettings(Patching, Judgement, Tuning, Parts, Asking, Words):
    """What decides the numbers of a study of latent language.

    >>> LatentSettings(to=("zh", "es"), from_=("fr",)).pairs
    [('fr', 'zh'), ('fr', 'es')]
    """

    ONLY: ClassVar[Mapping[str, Use]] = {
        "kinds": (lambda own: own.words != "planted", "a word list that has kinds"),
        "from_": (lambda own: own.task in ("translation", "sentence"), "--task translation or sentence"),
        "parallel": (lambda own: own.task == "sentence" or "align" in own.parts, "--task sentence or --parts align"),
        "normalise": (lambda own: own.parallel is not None, "--parallel"),
        "demonstrations": (lambda own: own.task != "sentence", "a task with demonstrations"),
        "lens": (lambda own: "lens" in own.parts, "--parts lens"),
        "candidates": (lambda own: "lens" in own.parts, "--parts lens"),
        **{name: (lambda own: "lens" in own.parts, "--parts lens") for name in ("permutations", "matched", "least")},
        "draws": (lambda own: own.parts != ("align",), "--parts lens or patch"),
        "tuned": (lambda own: "tuned" in own.lens, "--lens tuned"),
        **{
            name: (lambda own: "tuned" in own.lens and own.tuned is None, "--lens tuned that is fitted here")
            for name in ("text", "text_tokens", "window", "fit")
        },
        **{
            name: (lambda own: "tuned" in own.lens and own.tuned is None and own.fit == "kl", "--fit kl")
            for name in ("steps", "step_tokens")
        },
        **{name: (lambda own: "patch" in own.parts, "--parts patch") for name in ("trials", "patch_from", "patch_to")},
    }

    def check(self) -> None:
        """Raises InputError for settings that cannot go together."""
        if "tuned" in self.lens and not (self.text or self.tuned):
            raise InputError("--lens tuned needs --text to fit it on, or --tuned with a lens from a file")
        if "align" in self.parts and not self.parallel:
            raise InputError("--parts align needs --parallel with sentences in every language")
