"""Meanings without words: which sentences can be said, and on which side of the train / held-out split each falls.

The split is by meaning: a hash of the frame, the tense and the concepts. Concepts that sound alike in some language
count as one (`sound_alikes`), so that a held-out meaning cannot be seen in training through a homonym.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from math import prod
from typing import Literal

from babelscope.pocket.lexicon import concepts, languages
from pocket_factory.realise import grammar
from pocket_factory.sense import sensible
from pocket_factory.vocabulary import candidates, frames

Split = Literal["train", "heldout"]

HELD_OUT = 0.05
"""Share of the meanings that training never sees."""
WHOLE_WORDS = ("base", "sg", "pl", "inf", "past", "present")
"""Forms that are the word itself; other keys may hold what goes with it, a preposition or an auxiliary."""
OPEN_FRAMES = ("want_inf", "can_inf", "neg_object", "animal_act")
"""Frames from which whole verbs are held out; each such verb occurs in other frames."""


@dataclass(frozen=True, slots=True)
class Item:
    """One language-independent meaning; `corpus.render` says it in any language."""

    meaning_id: str
    kind: str
    """sentence, question, story, ioi or tense"""
    frame: str
    """frame.tense, or the name of the story schema or the template"""
    split: Split
    fillers: tuple[tuple[str, str], ...]


def share(key: str) -> float:
    """A number in [0, 1) that depends on nothing but the key.

    >>> 0 <= share("give.past agent=name_f01") < 1
    True
    """
    return int.from_bytes(blake2b(key.encode(), digest_size=7).digest()) / 2**56


@cache
def sound_alikes() -> dict[str, str]:
    """Concept → representative of those of its kind that share a form with it in some language."""
    parent = {id: id for id in concepts()}

    def root(id: str) -> str:
        while parent[id] != id:
            id = parent[id]
        return id

    for language in languages():
        first: dict[tuple[str, str], str] = {}
        for word in grammar(language).words.values():
            for text in [word.forms[key] for key in WHOLE_WORDS if key in word.forms]:
                other = first.setdefault((word.concept.kind, text), word.concept.id)
                if word.concept.kind != "name" and root(other) != root(word.concept.id):
                    parent[root(word.concept.id)] = root(other)
    return {id: root(id) for id in parent}


def split_of(key: str, fillers: Mapping[str, str]) -> Split:
    """The side of the split for a frame (or schema, or template) and what fills it."""
    alike = sound_alikes()
    joined = " ".join([key, *(f"{slot}={alike.get(id, id)}" for slot, id in fillers.items())])
    return "heldout" if share(joined) < HELD_OUT else "train"


def meaning_id(key: str, fillers: Mapping[str, str]) -> str:
    """The name of a meaning: what is said of what, for instance `loc_on.present:theme=cat,ground=table`."""
    return f"{key}:" + ",".join([f"{slot}={id}" for slot, id in fillers.items()])


@cache
def held_out_combinations() -> frozenset[tuple[str, str]]:
    """(frame, verb) pairs that training never sees: one open frame for about half of the verbs that have a choice.

    >>> {frame for frame, _ in held_out_combinations()} <= set(OPEN_FRAMES)
    True
    """
    held: set[tuple[str, str]] = set()
    for verb in (concept.id for concept in concepts().values() if concept.kind == "verb"):
        homes = [name for name in frames() if "v" in frames()[name].slots and verb in _verbs(name)]
        choices = [name for name in homes if name in OPEN_FRAMES]
        if len(homes) > 1 and choices and share(f"hold {verb}") < 0.5:
            held.add((choices[int(share(f"frame {verb}") * len(choices))], verb))
    return frozenset(held)


def _verbs(frame: str) -> tuple[str, ...]:
    return candidates(frame, "v", frames()[frame].tenses[0])


@cache
def weighted_frames(kind: str) -> tuple[tuple[tuple[str, str], ...], tuple[float, ...]]:
    """(frame, tense) pairs of a kind (sentence, question) and their cumulative weights: more for rich frames."""
    pairs = [
        (frame.name, tense)
        for frame in frames().values()
        for tense in frame.tenses
        if (frame.name.startswith("q_") == (kind == "question")) and not frame.name.startswith("story_")
    ]
    sizes = [prod(len(candidates(frame, slot, tense)) for slot in frames()[frame].slots) for frame, tense in pairs]
    return tuple(pairs), tuple(accumulate(min(size, 300_000) ** 0.4 for size in sizes))


def draw_fillers(frame: str, tense: str, generator: random.Random, given: Mapping[str, str]) -> dict[str, str]:
    """Different concepts for the slots of a frame that make sense together; `given` ones are kept where they fit."""
    slots = frames()[frame].slots
    while True:
        fillers: dict[str, str] = {}
        for slot in slots:
            allowed = candidates(frame, slot, tense)
            fixed = given.get(slot)
            fillers[slot] = fixed if fixed in allowed else allowed[int(generator.random() * len(allowed))]
        if len(set(fillers.values())) == len(fillers) and sensible(frame, fillers):
            return fillers


def draw_sentence(
    generator: random.Random, split: Split, kind: str = "sentence", given: Mapping[str, str] | None = None
) -> Item:
    """A random sentence (or question with its answer) of one side of the split."""
    pairs, weights = weighted_frames(kind)
    while True:
        frame, tense = generator.choices(pairs, cum_weights=weights)[0]
        fillers = draw_fillers(frame, tense, generator, given or {})
        key = f"{frame}.{tense}"
        held = (frame, fillers.get("v", "")) in held_out_combinations()
        if not held and split_of(key, fillers) == split:
            return Item(meaning_id(key, fillers), kind, key, split, tuple(fillers.items()))


def draw_combination(generator: random.Random) -> Item:
    """A random sentence of a (frame, verb) pair that training never sees."""
    pairs = sorted(held_out_combinations())
    while True:
        frame, verb = generator.choice(pairs)
        tense = generator.choice(frames()[frame].tenses)
        if any(sensible(frame, _guess(frame, tense, verb, generator)) for _ in range(20)):
            fillers = draw_fillers(frame, tense, generator, {"v": verb})
            key = f"{frame}.{tense}"
            return Item(meaning_id(key, fillers), "combination", key, "heldout", tuple(fillers.items()))


def _guess(frame: str, tense: str, verb: str, generator: random.Random) -> dict[str, str]:
    slots = frames()[frame].slots
    return {slot: verb if slot == "v" else generator.choice(candidates(frame, slot, tense)) for slot in slots}
