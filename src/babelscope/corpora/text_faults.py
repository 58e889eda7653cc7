"""What changes tokens or meaning unseen: Unicode forms, invisible letters, encodings, markup, shifted lines."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from babelscope.wording import visible

FAULTS = {
    "form": "texts in another Unicode form than NFC (add ?normalise=nfc)",
    "invisible": "texts with invisible or control characters",
    "encoding": "texts with a damaged encoding",
    "markup": "texts with markup left in",
    "untranslated": "texts equal to those in another language",
    "shifted": "blocks of lines that would fit better shifted",
}
"""kind of finding → what it is"""
BLOCK, OFFSETS, APART = 60, 5, 4.0
"""lines of a block, the largest shift, and by how many standard errors a shifted fit must be the better one"""

_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,80}>|&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,6});|\{\{|\}\}|\[\[|\]\]")
_LATIN_DAMAGE = re.compile(r"[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]+")
_WORDS = 4


def faults(text: str) -> Iterator[tuple[str, str]]:
    """Kind and detail of what is wrong with one text by itself.

    >>> [kind for kind, _ in faults("cafe\\u0301 \\u200b <b>x</b> cafÃ©")]
    ['form', 'invisible', 'encoding', 'markup']
    """
    if not unicodedata.is_normalized("NFC", text):
        mixed = " (a mixture)" if not unicodedata.is_normalized("NFD", text) else ""
        yield "form", f"{len(text)} characters, {len(unicodedata.normalize('NFC', text))} in NFC{mixed}"
    hidden = sorted({letter for letter in text if visible(letter) != letter})
    if hidden:
        yield "invisible", " ".join(map(visible, hidden[:5]))
    damage = damaged_encoding(text)
    if damage:
        yield "encoding", damage
    if found := _MARKUP.search(text):
        yield "markup", visible(found[0])


def damaged_encoding(text: str) -> str:
    """The first piece that is UTF-8 read as another encoding, with what it was; a replacement character; or nothing.

    >>> damaged_encoding("It was a cafÃ©.")
    'Ã© was é'
    """
    if "\ufffd" in text:
        return "U+FFFD, a character that was lost"
    for match in _LATIN_DAMAGE.finditer(text):
        try:
            return f"{visible(match[0])} was {match[0].encode('cp1252').decode('utf-8')}"
        except (UnicodeEncodeError, UnicodeDecodeError):
            continue
    return ""


def untranslated(code: str, texts: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Ids of a language whose text, of some length, an earlier language has letter by letter, with that language."""
    earlier = list(texts)[: list(texts).index(code)]
    for i, text in texts[code].items():
        if len(text.split()) < _WORDS and len(text) < 20:
            continue
        same = next((other for other in earlier if texts[other].get(i) == text), None)
        if same is not None:
            yield i, f"same as {same}"


def shifts(first: Mapping[str, str], other: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """First id of each block of lines whose lengths go with those of the other language better at another offset.

    Per block, the correlation of log lengths at offset 0 is compared with the best of the others by Fisher's z.
    """
    ids = [i for i in first if i in other]
    here, there = ([math.log(len(texts[i])) for i in ids] for texts in (first, other))
    for start in range(0, len(ids) - BLOCK - 2 * OFFSETS + 1, BLOCK):
        at = start + OFFSETS
        lines = here[at : at + BLOCK]
        fits = {d: _correlation(lines, there[at + d : at + d + BLOCK]) for d in range(-OFFSETS, OFFSETS + 1)}
        best = max((d for d in fits if d), key=lambda d: fits[d])
        apart = (math.atanh(fits[best]) - math.atanh(fits[0])) / math.sqrt(2 / (BLOCK - 3))
        if apart > APART:
            yield ids[at], f"{BLOCK} lines from here fit {best:+d} lines away (r {fits[best]:.2f}, here {fits[0]:.2f})"


def _correlation(one: Sequence[float], two: Sequence[float]) -> float:
    n = len(one)
    a, b = sum(one) / n, sum(two) / n
    spread = math.sqrt(sum((x - a) ** 2 for x in one) * sum((y - b) ** 2 for y in two))
    r = sum((x - a) * (y - b) for x, y in zip(one, two)) / spread if spread > 0 else 0.0
    return max(-0.999, min(0.999, r))
