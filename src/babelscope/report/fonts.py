"""Letters that a reader's system may lack, inside the page: subsets of installed fonts, as WOFF2.

Latin, Greek and Cyrillic stand in every system font. Of other scripts the letters that stand in the page are looked for
in the installed fonts; what none of them has is left to the reader's system, and said so.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from babelscope.figures.fonts import font_files

_FAMILIAR = 0x0530
"""code points below this are Latin, Greek, Cyrillic and their marks"""
_NOT_EMBEDDED = 0x0002 | 0x0100 | 0x0200
"""bits of a font's licence: no embedding, no subsets, bitmaps only"""
_MOST_BYTES = 600_000
"""of all fonts of a page: a page stays small enough to send"""


@dataclass(frozen=True)
class PageFonts:
    """What goes into the page, and what is said of it."""

    css: str
    """the `@font-face` rules"""
    families: tuple[str, ...]
    """names to be put behind the system's own in a list of families"""
    told: str
    """for the facts of the run; empty where every letter is a familiar one"""


def page_fonts(text: str) -> PageFonts:
    """Fonts for the letters of a page's text, the first installed font that has a letter being used for it."""
    remaining = unfamiliar(text)
    rules: list[str] = []
    families: list[str] = []
    told: list[str] = []
    budget = _MOST_BYTES
    for family, path in font_files(remaining):
        covered = remaining & _letters(path)
        if not covered:
            continue
        data = subset(path, covered)
        if data is None or len(data) > budget:
            continue
        budget -= len(data)
        name = f"page {len(families) + 1}"
        rules.append(
            f'@font-face {{ font-family: "{name}"; src: url(data:font/woff2;base64,{base64.b64encode(data).decode()}) '
            f'format("woff2"); unicode-range: {unicode_range(covered)}; }}'
        )
        families.append(name)
        told.append(f"{family} ({len(covered)} letters, {len(data) / 1000:.0f} kB)")
        remaining -= covered
    said = f"in the page: {', '.join(told)}" if told else ""
    if remaining:
        gone = f"{len(remaining)} letters ({_scripts(remaining)}) are in no installed font: your system draws them"
        said = f"{said}; {gone}" if said else gone
    return PageFonts("\n".join(rules), tuple(families), said)


def unfamiliar(text: str) -> set[int]:
    """Code points of letters, marks and digits of scripts that a system's own font may lack.

    >>> sorted(map(chr, unfamiliar("abc é Ж α → क 中")))
    ['क', '中']
    """
    return {
        ord(letter) for letter in set(text) if ord(letter) >= _FAMILIAR and unicodedata.category(letter)[0] in "LMN"
    }


def subset(path: Path, letters: Iterable[int]) -> bytes | None:
    """A font with these letters and the rules that join them, as WOFF2; None where licence or file forbid it."""
    from fontTools import subset as subsetting
    from fontTools.ttLib import TTLibError

    options = subsetting.Options(flavor="woff2", layout_features=["*"], notdef_outline=True, font_number=0)
    options.drop_tables += ["FFTM"]  # the time stamp of a font editor, which has no subset
    try:
        # read here: of a broken file the library would leave its own handle open
        font: Any = subsetting.load_font(BytesIO(path.read_bytes()), options)
        if font["OS/2"].fsType & _NOT_EMBEDDED:
            return None
        one = subsetting.Subsetter(options)
        one.populate(unicodes=list(letters))
        one.subset(font)
        stream = BytesIO()
        subsetting.save_font(font, stream, options)
    except (TTLibError, OSError, KeyError, ValueError, AssertionError, ImportError):
        return None  # a font that cannot be read is one that is not there
    return stream.getvalue()


def unicode_range(letters: Iterable[int]) -> str:
    """Code points as CSS writes them.

    >>> unicode_range([0x915, 0x916, 0x917, 0x94D])
    'U+915-917, U+94D'
    """
    parts: list[str] = []
    ordered = sorted(letters)
    first = last = ordered[0]
    for point in [*ordered[1:], -1]:
        if point == last + 1:
            last = point
            continue
        parts.append(f"U+{first:X}" if first == last else f"U+{first:X}-{last:X}")
        first = last = point
    return ", ".join(parts)


def _letters(path: Path) -> set[int]:
    from matplotlib import ft2font

    try:
        return set(ft2font.FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return set()


def _scripts(letters: Iterable[int]) -> str:
    names = {unicodedata.name(chr(point), "?").split()[0].capitalize() for point in letters}
    return ", ".join(sorted(names)[:4])
