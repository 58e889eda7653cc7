"""How often words occur, from a file: what control 1 takes for frequency in the place of the lens's own guess."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from babelscope.errors import InputError
from babelscope.languages import language
from babelscope.latent.tokens import TokenSets
from babelscope.latent.words import WordList

COLUMNS = ("language", "word", "count")
Counts = Mapping[tuple[str, str], float]


def read_counts(path: str | Path) -> dict[tuple[str, str], float]:
    """Counts by language and word (lower case) from a TSV with the columns language, word, count.

    Raises InputError with the line for a file of another shape, a language that is not known, and a negative count.
    """
    file = Path(path)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the counts {path} cannot be read: {error}") from None
    if not rows or any(name not in rows[0] for name in COLUMNS):
        there = ", ".join(map(str, rows[0])) if rows else "nothing"
        raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}, separated by tabs; there is {there}")
    found: dict[tuple[str, str], float] = {}
    for number, row in enumerate(rows, 2):
        try:
            key, count = (language(row["language"]).code, row["word"].casefold()), float(row["count"])
        except (InputError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        if not count >= 0:
            raise InputError(f"{path}, line {number}: a count of {count:g}")
        found[key] = found.get(key, 0.0) + count
    return found


def counts_by_item(words: WordList, tokens: TokenSets, counts: Counts) -> dict[str, list[float]]:
    """By language, the count of each item's words, its alternatives added up; 0 for a word that the file lacks.

    Languages of which no word is in the file are left out: control 1 falls back on the lens there.
    """
    found: dict[str, list[float]] = {}
    for code in tokens.languages:
        own = [
            sum(counts.get((code, word.casefold()), 0.0) for word in words.concepts[index].words.get(code, ()))
            for index in tokens.concepts
        ]
        if any(own):
            found[code] = own
    return found
