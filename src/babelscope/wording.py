"""Numbers and texts as people read them: one spelling of a number, and no character that steers the screen."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from math import floor, isfinite, log10
from typing import Protocol, runtime_checkable

_JOINS = {"\u200c", "\u200d", "\u00ad"}
"""between letters, in Persian, Hindi and others: part of the spelling"""
_SIGNS = {*map(chr, range(0x600, 0x606)), "\u06dd", "\u070f", "\u08e2", "\U000110bd"}
"""Arabic signs that Unicode counts as format characters and that everybody sees"""
MOST_DIGITS = 6
"""decimals of an estimate; more are written with a power of ten"""


@runtime_checkable
class _Scalar(Protocol):
    """A number of numpy."""

    def item(self) -> object: ...


def number(value: object) -> str:
    """Counts with narrow separators that do not break, measures with four significant digits, what is not there as –.

    >>> number(491520), number(0.123456), number(float("nan")), number(None), number("zh"), number(-0.0)
    ('491\\u202f520', '0.1235', '–', '–', 'zh', '0')
    """
    value = value.item() if isinstance(value, _Scalar) and not hasattr(value, "__len__") else value
    if value is None or value != value:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000) or 9999.5 <= abs(value) < 1e15:
        return f"{round(value):,}".replace(",", "\u202f")
    return f"{value or 0.0:.4g}"


def decimals(value: float, digits: int = 2) -> str:
    """So many decimals, with a real minus sign and none on zero; what is not there as –.

    >>> decimals(-0.034), decimals(1234.5, 0), decimals(-0.001), decimals(float("nan"))
    ('−0.03', '1234', '0.00', '–')
    """
    if not isfinite(value):
        return "–"
    rounded = f"{abs(value):.{digits}f}"
    return f"−{rounded}" if value < 0 and float(rounded) else rounded


def short_name(model: str) -> str:
    """A model's name or folder, shortened to its last two parts.

    >>> short_name("bigscience/bloom-560m"), short_name("/home/anna/models/bloom/final/")
    ('bigscience/bloom-560m', 'bloom/final')
    """
    return "/".join(model.rstrip("/").split("/")[-2:])


def estimated(value: float, low: float, high: float) -> str:
    """A measure and its interval, with as many decimals as half the interval has two digits for.

    >>> estimated(-0.47713, -0.55681, -0.39912), estimated(1.0, 0.9434, 1.0), estimated(1293.2, 1210.0, 1380.5)
    ('−0.477 (−0.557 to −0.399)', '1.000 (0.943 to 1.000)', '1293 (1210 to 1380)')
    """
    half = (high - low) / 2
    if not (isfinite(half) and half > 0 and isfinite(value)):
        return f"{number(value)} ({number(low)} to {number(high)})"
    digits = max(0, 1 - floor(log10(half)))
    if digits > MOST_DIGITS:
        return f"{number(value)} ({number(low)} to {number(high)})"
    return f"{decimals(value, digits)} ({decimals(low, digits)} to {decimals(high, digits)})"


def between(low: float, high: float) -> str:
    """The ends of an interval alone, with as many decimals.

    >>> between(-0.55681, -0.39912), between(0.0012, 0.0041), between(float("nan"), 1.0)
    ('−0.557 to −0.399', '0.0012 to 0.0041', '–')
    """
    half = (high - low) / 2
    if not isfinite(half):
        return "–"
    digits = max(2, 1 - floor(log10(half))) if half > 0 else MOST_DIGITS + 1
    if digits > MOST_DIGITS:
        return f"{number(low)} to {number(high)}"
    return f"{decimals(low, digits)} to {decimals(high, digits)}"


def unbroken(text: str) -> str:
    """Text whose numbers stay on the line of their sign.

    >>> unbroken("42 % (n = 3)") == "42\\u00a0% (n\\u00a0=\\u00a03)"
    True
    """
    return re.sub(r"(?<=[\w)]) (?=%)|(?<=\b[npr]) (?==)|(?<=\b[npr][ \u00a0]=) ", "\u00a0", text)


def nearest(name: str, names: Sequence[str]) -> str:
    """What was meant by a name that there is not, and all that there are.

    >>> nearest("sample", ["samples", "seed"])
    'did you mean samples? There are samples, seed'
    """
    near = get_close_matches(name, names, 2)
    meant = f"did you mean {' or '.join(near)}? There" if near else "there"
    return f"{meant} are {', '.join(names)}"


def of_dimensions(text: str) -> str:
    """What is said of neurons, said of the dimensions of the residual stream.

    >>> of_dimensions("Neurons of a language: 12 neurons, each neuron once")
    'Dimensions of a language: 12 dimensions, each dimension once'
    """
    for word, other in (("neuron", "dimension"), ("Neuron", "Dimension")):
        text = text.replace(word, other)
    return text


def visible(text: object) -> str:
    """Text with control characters, line separators and marks of direction written out, so that none of them acts.

    >>> visible("a\\x1b[31mb\\u202ec")
    'a[U+001B][31mb[U+202E]c'
    """
    return "".join(f"[U+{ord(letter):04X}]" if _acts(letter) else letter for letter in str(text))


def visible_json(text: str) -> str:
    """JSON in which such characters are escapes, so that it means the same and none of them acts.

    >>> visible_json('{"a": "b\u202ec"}')
    '{"a": "b\\\\u202ec"}'
    """
    return "".join(json.dumps(letter)[1:-1] if letter != "\n" and _acts(letter) else letter for letter in text)


def first_line(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _acts(letter: str) -> bool:
    if letter.isprintable() or letter in _JOINS or letter in _SIGNS:
        return False
    return unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
