"""What decides the numbers of a study of steering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from babelscope.corpora.spec import with_form
from babelscope.errors import InputError
from babelscope.languages import language
from babelscope.settings import Use
from babelscope.studies.writing_settings import Writing
from babelscope.terms import BY_NEURONS, DIRECTIONS, Arithmetic, Edit, Form, Unit, Weighting, Where

CORPUS, EVERYDAY, BENCHMARK = "corpus", "everyday", "lcb:"


@dataclass(frozen=True, kw_only=True)
class SteerSettings(Writing):
    """Steering: what is steered, how, and what it is held against."""

    corpus: str = field(kw_only=False)
    """parallel text, such as bible:FOLDER (babelscope corpus list)"""
    pairs: tuple[str, ...] = ("en:fr",)
    """from which language to which, by commas: en:fr,fr:en; all: every pair of --languages"""
    normalise: Form | None = None
    """bring every text of the corpus into one Unicode form, such as nfc [as they are]"""
    languages: tuple[str, ...] = ()
    """languages of the text that means are taken over, by commas [all in the corpus]"""
    method: tuple[str, ...] = ("diffmean",)
    """diffmean, centred, rest, lda, pca; neurons, scaled, arithmetic; by commas"""
    edit: Edit = "add"
    """add a vector to every state, or move every state to the same place along it"""
    keep: bool = False
    """give every state its length back after the edit"""
    layer: str = "sweep"
    """a number, sweep, all (every block), intersection (of four languages or more), or separation"""
    alpha: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    """strengths, by commas"""
    unit: Unit = "gap"
    """of strengths: gap between the two means, absolute, or norm (mean length of a token's state)"""
    where: Where = "all"
    """tokens that are edited: all; generated (the prompt's last and all after); prompt"""
    first: bool = False
    """edit the first token too"""
    weighting: Weighting = "sentences"
    """means in which sentences, or tokens, weigh the same"""
    beta: float = 1.0
    """of centred: how much of the source is taken away"""
    arithmetic: Arithmetic = "additive"
    """how language arithmetic raises the target's neurons"""
    lape_share: float = 0.01
    """share of all neurons that LAPE keeps"""
    prompts: str = CORPUS
    """corpus (sentences to go on from), everyday (questions), lcb:FOLDER, or a file of one prompt a line"""
    samples: int = 0
    """sentences of the corpus, split into fit, choose and report by document [all]"""
    choose_prompts: int = 24
    """prompts by which layer and strength are chosen"""
    report_prompts: int = 64
    """prompts of the numbers that are reported"""
    limit: float = 0.3
    """rise of the target's loss, nats a token, up to which a setting may be chosen"""
    controls: int = 20
    """draws of each random control"""
    third: int = 2
    """third languages to steer towards instead"""
    seed: int = 0
    """of splits, controls and sampling"""

    ONLY: ClassVar[Mapping[str, Use]] = {
        "beta": (lambda own: "centred" in own.method, "--method centred"),
        "arithmetic": (lambda own: "arithmetic" in own.method, "--method arithmetic"),
        "lape_share": (lambda own: own.by_neurons(), f"--method {', '.join(BY_NEURONS)}"),
        **{
            name: (lambda own: bool({*DIRECTIONS} & {*own.method}), f"--method {', '.join(DIRECTIONS)}")
            for name in ("edit", "keep", "unit", "layer")
        },
        "top_p": (lambda own: own.temperature is not None, "--temperature"),
        "chat": (lambda own: own.prompts != CORPUS, "--prompts that are requests"),
        "system": (lambda own: own.prompts != CORPUS and own.chat != "off", "--prompts that are requests"),
    }

    def check(self) -> None:
        """Raises InputError for what cannot be asked."""
        unknown = [name for name in self.method if name not in (*DIRECTIONS, *BY_NEURONS)]
        if unknown or not self.method:
            raise InputError(f"--method {', '.join(unknown)}: there are {', '.join((*DIRECTIONS, *BY_NEURONS))}")
        if not 0 < self.lape_share <= 1:
            raise InputError(f"--lape-share {self.lape_share:g}: a share lies above 0 and is at most 1")
        if not self.alpha:
            raise InputError("--alpha: give at least one strength")
        if 0 in self.alpha:
            raise InputError("--alpha 0: an edit of no strength changes nothing; the unedited model is always beside")
        if min(self.choose_prompts, self.report_prompts) < 1:
            raise InputError("--choose-prompts and --report-prompts: at least one each")
        if self.limit < 0:
            raise InputError(f"--limit {self.limit:g}: a rise of the loss, 0 or more")
        numbered = self.layer.isascii() and self.layer.isdecimal() and len(self.layer) < 10
        if not (numbered or self.layer in ("sweep", "all", "intersection", "separation")):
            raise InputError(f"--layer {self.layer}: a number, sweep, all, intersection or separation")
        self._put(corpus=with_form(self.corpus, self.normalise))
        if self.pairs != ("all",):
            self.wanted(())

    def wanted(self, languages: tuple[str, ...]) -> list[tuple[str, str]]:
        """The pairs; `languages` are those of the corpus, for `all`. Raises InputError for what is no pair."""
        if self.pairs == ("all",):
            return [(s, t) for s in languages for t in languages if s != t]
        found: list[tuple[str, str]] = []
        for text in self.pairs:
            source, colon, target = text.partition(":")
            if not colon or not source or not target:
                raise InputError(f"--pairs {text}: write two languages, such as en:fr, or all")
            pair = language(source).code, language(target).code
            if pair[0] == pair[1]:
                raise InputError(f"--pairs {text}: a language is not steered to itself")
            missing = [code for code in pair if languages and code not in languages]
            if missing:
                raise InputError(f"--pairs {text}: {missing[0]} is not a language of the corpus")
            if pair in found:
                raise InputError(f"--pairs {text}: {pair[0]} to {pair[1]} is named twice; name it once")
            found.append(pair)
        return found

    def by_neurons(self) -> bool:
        return any(name in BY_NEURONS for name in self.method)
