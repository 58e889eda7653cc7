"""Language confusion: does an answer stay in the language that was asked for (Marchisio et al. 2024)?

Rule `lcb` is the published one, line for line; rule `offline` needs no model from elsewhere. A rate of nothing is NaN:
the published code prints 1.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from babelscope.results.schemas.steering import Kinds, Rates
from babelscope.steering.identify import SHARE, TOKENS, LineIdentifier, long_enough, script, script_share

Kind = Literal["full", "line", "word", "none", "skipped"]
KINDS: tuple[Kind, ...] = ("full", "line", "word", "none", "skipped")
WORDS_COUNTED = ("ar", "hi", "ja", "ko", "ru", "zh")
"""languages in which the published rule looks for English words"""
NAN = float("nan")


@dataclass(frozen=True)
class Answer:
    """One answer, judged."""

    lines: tuple[str, ...]
    """language of each counted line"""
    right: int
    """lines in the target"""
    word: bool | None
    """whether an English word stands in it; None where that cannot be told (a target in Latin letters)"""

    @property
    def counted(self) -> bool:
        return bool(self.lines)

    @property
    def passes(self) -> bool:
        """All lines are in the target."""
        return self.counted and self.right == len(self.lines)

    @property
    def kind(self) -> Kind:
        """full: no line is in the target; line: some are not; word: all are, with English words; none; skipped."""
        if not self.counted:
            return "skipped"
        if self.right == 0:
            return "full"
        if not self.passes:
            return "line"
        return "word" if self.word else "none"


@runtime_checkable
class Judge(Protocol):
    """A rule."""

    def __call__(self, text: str, target: str, source: str | None = None) -> Answer: ...


def normalised(text: str) -> str:
    """What is before a next question, without ASCII punctuation and the Arabic comma; a long dash is a blank."""
    return answered(text).strip().translate(_PUNCTUATION).replace("—", " ").replace("،", "")


def answered(text: str) -> str:
    """What is before a next question that the model asks itself."""
    return text.split("\nQ:")[0]


_PUNCTUATION = str.maketrans("", "", string.punctuation)


class PublishedRule:
    """Rule `lcb`: an identifier of lines, tokens by language, and a list of English words.

    >>> rule = PublishedRule(identify, {"hello"}, str.split)            # doctest: +SKIP
    """

    def __init__(
        self,
        identify: Callable[[str], str],
        words: set[str] | frozenset[str],
        tokens: Callable[[str, str], Sequence[str]] | None = None,
    ) -> None:
        self.identify = identify
        self.words = frozenset(word for word in words if word.islower() and len(word) > 3)
        self.tokens = tokens or published_tokens

    def __call__(self, text: str, target: str, source: str | None = None) -> Answer:
        """Judge an answer; the source plays no part."""
        lines = [(line, self.tokens(line, target)) for line in normalised(text).split("\n")]
        lines = [(line, tokens) for line, tokens in lines if len(tokens) >= TOKENS]
        found = tuple(self.identify(line) for line, _ in lines)
        word: bool | None = None
        if target in WORDS_COUNTED:
            word = any(token.strip() in self.words for _, tokens in lines for token in tokens)
        return Answer(found, sum(code == target for code in found), word)


def published_tokens(line: str, code: str) -> Sequence[str]:
    """Words of a line: by jieba in Chinese, by fugashi in Japanese, else by white space.

    Raises InputError where the tokenizer of a language is not installed.
    """
    if code == "zh":
        return list(_needed("jieba").cut(line))
    if code == "ja":
        return str(_tagger().parse(line)).split()
    return line.split()


class OfflineRule:
    """Rule `offline`: py3langid among the benchmark's languages and the study's, and the scripts of letters.

    >>> OfflineRule(["en", "fr"])("Les enfants jouent dans le jardin", "fr", "en").right     # doctest: +SKIP
    1
    """

    def __init__(self, languages: Sequence[str], identify: Callable[[str], str] | None = None) -> None:
        self.identify = identify or LineIdentifier(languages)

    def __call__(self, text: str, target: str, source: str | None = None) -> Answer:
        """Judge an answer; where source and target differ in script, a line also needs the target's letters."""
        lines = [line for line in normalised(text).split("\n") if long_enough(line, target)]
        found = tuple(self.line(line, target, source) for line in lines)
        word = None if script(target) == "Latn" else bool(_LATIN_WORD.search(answered(text)))
        return Answer(found, sum(code == target for code in found), word)

    def line(self, line: str, target: str, source: str | None) -> str:
        """Language of a line; unknown where its letters are not of the language that was identified in it."""
        code = self.identify(line)
        tested = source is not None and script(source) != script(target)
        if code == target and tested and script_share(line, target) < SHARE:
            return "unknown"
        return code


_LATIN_WORD = re.compile(r"(?<![^\W\d_])[a-z]{4,}")
"""four or more lower-case Latin letters that no other letter stands before"""


def kinds_of(kinds: Sequence[str]) -> Kinds:
    """How many answers are of each kind."""
    return Kinds(
        full=kinds.count("full"), line=kinds.count("line"), word=kinds.count("word"), none=kinds.count("none"),
        skipped=kinds.count("skipped"),
    )  # fmt: skip


def rates(answers: Sequence[Answer]) -> Rates:
    """LPR, line accuracy, WPR and their harmonic mean; NaN of nothing.

    >>> rates([Answer(("fr", "en"), 1, None), Answer(("fr",), 1, None)]).lpr
    0.5
    """
    counted = [one for one in answers if one.counted]
    passing = [one for one in counted if one.passes]
    known = [one for one in passing if one.word is not None]
    lpr = _share(len(passing), len(counted))
    acc = sum(one.right / len(one.lines) for one in counted) / len(counted) if counted else NAN
    wpr = _share(sum(not one.word for one in known), len(known))
    lcpr = 2 * lpr * wpr / (lpr + wpr) if lpr + wpr > 0 else (0.0 if lpr + wpr == 0 else NAN)
    return Rates(len(answers), len(counted), lpr, acc, wpr, lcpr)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else NAN


def mean_of(values: Sequence[float]) -> float:
    """Mean of the numbers among them; NaN of none."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else NAN


def _needed(name: str):
    import importlib

    from babelscope.errors import InputError

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"rule lcb cuts this language into words with {name}: pip install {name}, or use --rule offline"
        ) from error


def _tagger():
    return _needed("fugashi").Tagger("-O wakati -b 50000")
