"""Which language a text looks like, by py3langid where it is installed (extra `lid`)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

SHORTEST = 8
"""characters below which a guess is not worth showing"""


def identify(text: str, languages: Sequence[str] = ()) -> tuple[str, float] | None:
    """The likeliest language and its probability among `languages` (or all that are known).

    None without py3langid, and for a text too short to tell. Codes such as `zh-Hant` count as their first part, which
    is all that can be told where two of them share it.
    """
    if len(text.strip()) < SHORTEST:
        return None
    try:
        library = importlib.import_module("py3langid")
    except ImportError:
        return None
    ranked: list[tuple[str, float]] = [(code, float(score)) for code, score in library.rank(text)]
    wanted: dict[str, str] = {}
    for code in dict.fromkeys(languages):
        base = code.split("-")[0]
        wanted[base] = base if base in wanted else code
    kept = [(wanted[code], score) for code, score in ranked if code in wanted] if len(wanted) > 1 else ranked
    if not kept:
        return None
    best = max(score for _, score in kept)
    total = sum(math.exp(score - best) for _, score in kept)
    winner = max(kept, key=lambda pair: pair[1])
    return winner[0], 1 / total
