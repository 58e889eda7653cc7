"""Colours, markers and dashes, the same in print and on a page; a language's place in its run decides its colour."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from babelscope.results import Run

# Okabe and Ito's eight, told apart by every common colour vision; black, which vanishes on a dark page, is grey.
# Two more for the ninth and tenth language of a run, which have their own markers as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8A7F00", "#808080", "#9467BD", "#A6683F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star", "pentagon", "hexagon")
HATCHES = ("", "///", "...", "xxx", "---")
PATTERNS = ("", "/", ".", "x", "-")
FAINT = "#cccccc"
MAPS = {"sequential": "viridis", "diverging": "PuOr", "percent": "cividis"}
"""matplotlib's scale of each kind of matrix"""
GONE = "#b8b8b8"
"""a cell without a number, where white is the middle of the scale"""


def colour(place: int | None) -> str:
    """The colour at a place of the palette; a quiet one for None."""
    return FAINT if place is None else COLOURS[place % len(COLOURS)]


def language_place(run: Run, code: str) -> int:
    """The place of a language among the run's: it decides its colour, which is one on the whole page."""
    known = run.languages
    return known.index(code) if code in known else len(known)


def luminance(colours: NDArray[np.floating]) -> NDArray[np.floating]:
    """Relative luminance of sRGB colours, as contrast is reckoned in WCAG: above 0.18 black stands out more."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


def bright(place: int | None) -> bool:
    """Whether black stands out more than white from a colour of the palette."""
    return float(luminance(np.array(to_rgb(colour(place))))) > 0.18
