"""The language of a line, its script, and whether it is long enough to tell (steering.md, section 1).

py3langid chooses among the 15 languages of the benchmark and those of the study: never among source and target alone,
where it calls nearly every third language one of the two, and never among all it knows, where short lines go astray.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from babelscope.errors import InputError
from babelscope.languages import language
from babelscope.regions.identification import check_identifier

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


BENCHMARK = ("ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "pt", "ru", "tr", "vi", "zh")
UNKNOWN = "unknown"
SURE = 0.3
"""normalised probability below which a line is unknown"""
TOKENS = 5
LETTERS = 8
"""letters that stand for five tokens in a script without blanks"""
UNSPACED = frozenset({"Hans", "Hant", "Hani", "Jpan", "Thai", "Khmr", "Laoo", "Mymr"})
SHARE = 0.5
"""of letters that must be in the target's script"""
SCRIPT_NAMES = {
    "Latn": ("LATIN",), "Cyrl": ("CYRILLIC",), "Arab": ("ARABIC",), "Deva": ("DEVANAGARI",), "Grek": ("GREEK",),
    "Hans": ("CJK",), "Hant": ("CJK",), "Hani": ("CJK",), "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Kore": ("HANGUL",), "Hebr": ("HEBREW",), "Beng": ("BENGALI",), "Taml": ("TAMIL",), "Telu": ("TELUGU",),
    "Thai": ("THAI",), "Geor": ("GEORGIAN",), "Armn": ("ARMENIAN",), "Gujr": ("GUJARATI",), "Guru": ("GURMUKHI",),
    "Knda": ("KANNADA",), "Mlym": ("MALAYALAM",), "Sinh": ("SINHALA",), "Khmr": ("KHMER",), "Laoo": ("LAO",),
    "Mymr": ("MYANMAR",), "Ethi": ("ETHIOPIC",),
}  # fmt: skip
"""how Unicode's names of a script's letters begin"""
KANA = ("HIRAGANA", "KATAKANA")


class LineIdentifier:
    """Tells the languages of lines apart, each of the benchmark's and of `languages` being possible.

    Raises MissingExtra without py3langid, InputError for a language it does not know and for languages that it takes
    for one (zh and zh-Hant, pt and pt-BR).

    >>> LineIdentifier(["en", "fr"])("The children are playing in the garden")     # doctest: +SKIP
    'en'
    """

    def __init__(self, languages: Sequence[str]) -> None:
        check_identifier()
        from py3langid import langid

        self._langid: LanguageIdentifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
        codes = {base(code): code for code in (*BENCHMARK, *languages)}
        unknown = sorted(set(codes) - set(self._langid.labels))
        if unknown:
            raise InputError(f"the identifier does not know {', '.join(codes[code] for code in unknown)}")
        if alike := [code for code in dict.fromkeys(languages) if codes[base(code)] != code]:
            said = ", ".join(f"{code} and {codes[base(code)]}" for code in alike)
            raise InputError(f"the identifier takes {said} for one language: give one of them")
        self._langid.set_languages(list(codes))
        self.codes = codes

    def __call__(self, line: str) -> str:
        """Code of the likeliest language; `unknown` below a normalised probability of 0.3 and without letters."""
        if not any(character.isalpha() for character in line):
            return UNKNOWN
        code, probability = self._langid.classify(line)
        return self.codes[code] if probability > SURE else UNKNOWN


def base(code: str) -> str:
    """The language without script or region."""
    return code.split("-")[0]


@lru_cache(512)
def script(code: str) -> str:
    """ISO code of the script that a language is written in."""
    return language(code).script


@lru_cache(1 << 16)
def _block(character: str) -> str:
    return unicodedata.name(character, "").split(" ")[0].split("-")[0]


def script_share(text: str, code: str) -> float:
    """Share of letters in a language's script; 0 of no letters. Chinese with kana is none; Japanese needs one kana.

    >>> script_share("Hello мир", "ru")
    0.375
    """
    blocks = [_block(character) for character in text if character.isalpha()]
    name = script(code)
    own = SCRIPT_NAMES.get(name)
    if own is None:
        raise InputError(f"script {name} of {code}: its letters are not known here")
    if not blocks:
        return 0.0
    kana = any(block in KANA for block in blocks)
    if (name == "Jpan" and not kana) or (name in ("Hans", "Hant", "Hani") and kana):
        return 0.0
    return sum(block in own for block in blocks) / len(blocks)


def long_enough(line: str, code: str) -> bool:
    """Whether a line has five tokens, or eight letters in a script that puts no blanks between words."""
    if script(code) in UNSPACED:
        return sum(character.isalpha() for character in line) >= LETTERS
    return len(line.split()) >= TOKENS
