"""What can be said: the language-independent concepts and frames of the pocket corpus (`data/FORMAT.md`)."""

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


@dataclass(frozen=True, slots=True)
class Frame:
    """One kind of sentence: its tenses, and which concepts may fill each slot."""

    name: str
    tenses: tuple[str, ...]
    slots: dict[str, tuple[tuple[str, str], ...]]
    """slot → alternatives (kind, tag); an empty tag admits the whole kind"""
    english: str


def data_folder() -> Traversable:
    """The folder of the corpus data inside the package."""
    return files("babelscope.pocket") / "data"


def tasks_folder() -> Traversable:
    """The folder of the prompt templates of the circuit tasks inside the package."""
    return files("babelscope") / "tasks" / "data"


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
def frames() -> dict[str, Frame]:
    """All frames by name, in the order of the file.

    >>> frames()["give"].tenses
    ('past', 'present', 'future')
    """
    return {row[0]: _frame(*row) for row in table(data_folder() / "frames.tsv")}


def _frame(name: str, tenses: str, slots: str, english: str) -> Frame:
    parsed: dict[str, tuple[tuple[str, str], ...]] = {}
    for slot in filter(None, (part.strip() for part in slots.split(";"))):
        key, alternatives = slot.split("=")
        parts = [alternative.partition(":") for alternative in alternatives.split("|")]
        parsed[key] = tuple((kind, tag) for kind, _, tag in parts)
    return Frame(name, tuple(tenses.split(",")), parsed, english)


@cache
def candidates(frame: str, slot: str, tense: str) -> tuple[str, ...]:
    """Ids of the concepts that may fill a slot; a time must fit the tense.

    >>> candidates("act_drink", "theme", "past")
    ('water', 'milk', 'tea', 'coffee', 'juice')
    """
    allowed = frames()[frame].slots[slot]
    found = (
        concept.id
        for concept in concepts().values()
        if any(concept.kind == kind and (not tag or tag in concept.tags) for kind, tag in allowed)
    )
    return tuple(id for id in found if concepts()[id].kind != "time" or tense in concepts()[id].tags)
