"""Which language a text is in, by py3langid (extra `lid`), among the languages of a study.

Among few languages a short text is told far more surely than among a hundred; the price is that a text in no language
of the study, or in none at all, is given to the nearest. `broken` and `distinct` say what identification cannot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from babelscope.errors import MissingExtra

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


BROKEN = "\N{REPLACEMENT CHARACTER}"
UNKNOWN = ""


class Identifier:
    """Tells the languages of a study apart.

    Raises MissingExtra without py3langid. Languages that it does not know, or of which it knows two as one (zh and
    zh-Hant, pt and pt-BR), are never identified: `unknown` lists them.

    >>> Identifier(["en", "zh"]).identify("the house is small")       # doctest: +SKIP
    'en'
    """

    def __init__(self, languages: Sequence[str]) -> None:
        check_identifier()
        from py3langid import langid

        self._langid: LanguageIdentifier = langid._get_identifier()  # pyright: ignore[reportPrivateUsage]
        self._langid.set_languages()
        by_base: dict[str, list[str]] = {}
        for code in dict.fromkeys(languages):
            by_base.setdefault(code.split("-")[0], []).append(code)
        known = {base: own for base, own in by_base.items() if base in self._langid.labels}
        self.codes = {base: own[0] if len(own) == 1 else UNKNOWN for base, own in known.items()}
        self.unknown = tuple(code for code in languages if code not in self.codes.values())

    def identify(self, text: str) -> str:
        """The code of the likeliest language of the study; "" for a text without letters, and for one in `unknown`."""
        if not self.codes or not any(character.isalpha() for character in text):
            return UNKNOWN
        self._langid.set_languages(list(self.codes))
        try:
            return self.codes[self._langid.classify(text)[0]]
        finally:
            self._langid.set_languages()


def check_identifier() -> None:
    """Raises MissingExtra where languages cannot be identified: better before a long study than after."""
    from importlib.util import find_spec

    if find_spec("py3langid") is None:
        raise MissingExtra("py3langid", "lid", "language identification")


def broken_share(text: str) -> float:
    """Share of characters that are broken UTF-8 (U+FFFD), a last one cut off by the length left out."""
    whole = text.rstrip(BROKEN)
    return whole.count(BROKEN) / len(whole) if whole else float(bool(text))


def distinct(tokens: Sequence[int], n: int) -> float:
    """Different n-grams over all n-grams of a token sequence: low where a text repeats itself. NaN for a shorter one.

    >>> distinct([1, 2, 1, 2], 1)
    0.5
    """
    grams = Counter(tuple(tokens[place : place + n]) for place in range(len(tokens) - n + 1))
    return len(grams) / grams.total() if grams else float("nan")
