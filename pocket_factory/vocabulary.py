"""What can be said: the language-independent frames of the pocket corpus (`data/FORMAT.md`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from babelscope.pocket.lexicon import concepts, table

GRAMMARS = Path(__file__).parent / "data"
"""frames, and the morphology and templates of each language; the words lie in the package"""


@dataclass(frozen=True, slots=True)
class Frame:
    """One kind of sentence: its tenses, and which concepts may fill each slot."""

    name: str
    tenses: tuple[str, ...]
    slots: dict[str, tuple[tuple[str, str], ...]]
    """slot → alternatives (kind, tag); an empty tag admits the whole kind"""
    english: str


def tasks_folder() -> Traversable:
    """The folder of the prompt templates of the circuit tasks inside the package."""
    return files("babelscope") / "tasks" / "data"


@cache
def frames() -> dict[str, Frame]:
    """All frames by name, in the order of the file.

    >>> frames()["give"].tenses
    ('past', 'present', 'future')
    """
    return {row[0]: _frame(*row) for row in table(GRAMMARS / "frames.tsv")}


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
