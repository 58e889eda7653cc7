"""Words of the pocket languages: concepts, and the forms of each in nine languages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

NOUNS = frozenset({"person", "animal", "place", "object", "food", "drink"})
"""Kinds of concept that share the phrase patterns `noun.…`."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One language-independent meaning of a word."""

    id: str
    kind: str
    tags: frozenset[str]

    @property
    def shape(self) -> str:
        """The phrase shape of a bare slot `{agent}`: definite for nouns, the base form for the rest."""
        return "def" if self.kind in NOUNS else "base"


def data_folder() -> Traversable:
    """The folder of the corpus data inside the package."""
    return files("babelscope.pocket") / "data"


def languages() -> tuple[str, ...]:
    """Codes of the languages whose folder is present, in alphabetical order."""
    return tuple(sorted(folder.name for folder in data_folder().iterdir() if (folder / "lexicon.tsv").is_file()))


def table(file: Traversable) -> Iterator[list[str]]:
    """Rows of a tab-separated file without its header line; blank lines and lines with `#` in front are skipped."""
    lines = file.read_text(encoding="utf-8").splitlines()
    for line in lines[1:]:
        if line.strip() and not line.startswith("#"):
            yield [cell.strip() for cell in line.split("\t")]


@cache
def concepts() -> dict[str, Concept]:
    """All concepts by id, in the order of the file.

    >>> concepts()["cat"].kind
    'animal'
    """
    rows = table(data_folder() / "concepts.tsv")
    return {row[0]: Concept(row[0], row[1], frozenset(row[2].split() if len(row) > 2 else ())) for row in rows}


@cache
def forms(language: str) -> dict[str, dict[str, str]]:
    """Forms of each concept in a language by concept id; a word without named forms has `base` alone.

    >>> forms("en")["cat"]["sg"]
    'cat'
    """
    rows = table(data_folder() / language / "lexicon.tsv")
    return {row[0]: _parts(row[2] if len(row) > 2 else "") for row in rows}


def _parts(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(";") if part.strip()]
    return {key.strip() if equals else "base": (value if equals else key).strip() for key, equals, value in pairs}
