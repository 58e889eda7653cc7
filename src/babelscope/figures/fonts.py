"""Letters of every script in a figure: the installed fonts that have them, or an honest stand-in instead of boxes."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager, ft2font

# Looked for in this order behind DejaVu Sans, which matplotlib carries and which has Latin, Greek, Cyrillic and Arabic.
_CANDIDATES = (
    "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK", "wqy-zenhei", "wqy-microhei", "Noto Sans SC",
    "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans GB",
    "Microsoft YaHei", "SimHei", "Droid Sans Fallback", "Noto Sans JP", "Noto Sans KR", "Noto Sans Devanagari",
    "Lohit Devanagari", "Mangal", "Kohinoor Devanagari", "Nirmala UI", "Noto Sans Arabic", "Noto Naskh Arabic",
    "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thai", "Noto Sans Hebrew",
    "Noto Sans Georgian", "Noto Sans Armenian", "Noto Sans Ethiopic", "Noto Sans Myanmar", "Noto Sans Khmer",
    "FreeSans", "Unifont", "Arial Unicode MS",
)  # fmt: skip

# Scripts whose letters join, stack or run leftwards: matplotlib shapes them only from 3.11 on.
_SHAPED = (
    "ARABIC", "HEBREW", "SYRIAC", "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "KHMER", "MYANMAR", "THAI", "TIBETAN",
)  # fmt: skip

LONGEST = 120
"""letters of one text in a figure"""
_NEVER = {"Cc", "Cf", "Zl", "Zp"}
"""kinds of letters that act"""


@cache
def _installed() -> dict[str, Path]:
    """Name of each installed font file without spaces → the file, `-Regular` left out."""
    files = sorted(map(Path, font_manager.findSystemFonts()))
    return {path.stem.removesuffix("-Regular").replace(" ", "").lower(): path for path in reversed(files)}


def font_file(family: str) -> Path | None:
    """The file of an installed family, found by its name; matplotlib's own list is not made anew when fonts come."""
    return _installed().get(family.replace(" ", "").lower())


def font_files(letters: Collection[int]) -> Iterator[tuple[str, Path]]:
    """Installed fonts that may have some of the letters, known families first, then those named like their scripts."""
    scripts = {unicodedata.name(chr(point), "").split(" ")[0].split("-")[0].capitalize() for point in letters}
    for family in dict.fromkeys((*_CANDIDATES, *(f"Noto Sans {script}" for script in sorted(scripts)), "DejaVu Sans")):
        if (path := font_file(family)) is not None:
            yield family, path


@cache
def families() -> tuple[str, ...]:
    """Font families to draw text with, the first that has a letter being used for it."""
    listed = {entry.name for entry in font_manager.fontManager.ttflist}
    found: list[str] = []
    for name in _CANDIDATES:
        if name in listed:
            found.append(name)
        elif (path := font_file(name)) is not None:
            before = len(font_manager.fontManager.ttflist)
            font_manager.fontManager.addfont(path)
            # a file may be called otherwise than the family in it
            found += [entry.name for entry in font_manager.fontManager.ttflist[before:]]
    return ("DejaVu Sans", *dict.fromkeys(found))


def can_draw(text: str) -> bool:
    """Whether every letter has a glyph, and its script is put together as it is written."""
    return all(_drawable(letter) for letter in text)


def drawn(text: str, otherwise: str | None = None) -> str:
    """`text` when it can be drawn; else `otherwise`, else its code points. For every text that is not our own.

    Nothing in it acts: no mathematics between dollar signs, no line's end, no mark of direction.

    >>> drawn("zh"), drawn("\\U000f1234", otherwise="zh")
    ('zh', 'zh')
    """
    visible = "".join(letter for letter in text if unicodedata.category(letter) not in _NEVER)
    if len(visible) > LONGEST:
        visible = visible[: LONGEST - 1] + "…"
    if can_draw(visible):
        return visible.replace("$", r"\$")
    if otherwise is not None:
        return drawn(otherwise)
    points = [f"U+{ord(letter):04X}" for letter in visible[:12]]
    return " ".join(points) + (" …" if len(visible) > 12 else "")


@cache
def _drawable(letter: str) -> bool:
    if letter.isspace():
        return True
    if _shapes() is False and unicodedata.name(letter, "").startswith(_SHAPED):
        return False
    return any(ord(letter) in _letters(family) for family in families())


@cache
def _letters(family: str) -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=[family]))
    return frozenset(ft2font.FT2Font(path).get_charmap())


@cache
def _shapes() -> bool:
    major, minor = (int(part) for part in matplotlib.__version__.split(".")[:2])
    return (major, minor) >= (3, 11)
