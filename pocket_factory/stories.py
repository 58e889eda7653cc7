"""Four-sentence stories with the ending that follows and one that does not.

The wrong ending is the right ending of another schema, told of the same people, and of the same thing where the
story has a thing: names and words shared with the story do not give the answer away.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from pocket_factory.items import Item, Split, meaning_id, split_of
from pocket_factory.realise import Grammar, grammar
from pocket_factory.sense import sensible
from pocket_factory.vocabulary import candidates, frames

ENDING_PROMPT = "The ending in English:"
"""What stands between a story in any language and its ending in English (XStoryCloze as the paper prompts it)."""


@dataclass(frozen=True, slots=True)
class Schema:
    """One course of events: four sentences, and the ending that they call for."""

    name: str
    sentences: tuple[str, str, str, str]
    """story frames; `a|b` is a choice; helper, giver and friend are all the friend"""
    ending: str
    about_thing: bool = False
    """whether the sentences name the thing of the ending"""


@dataclass(frozen=True, slots=True)
class Story:
    """One story in one language."""

    sentences: tuple[str, ...]
    right: str
    wrong: str
    space: str

    @property
    def opening(self) -> str:
        """The four sentences as running text."""
        return self.space.join(self.sentences)


OPENING = "story_morning|story_night"
MEETING = "story_meet|story_went"
SCENERY = "story_see|story_went|story_meet"
SCHEMATA = (
    Schema("hungry", (OPENING, SCENERY, "story_alone|story_talk|story_see", "story_hungry"), "story_eat_end"),
    Schema("thirsty", (OPENING, SCENERY, "story_tired|story_talk|story_see", "story_thirsty"), "story_drink_end"),
    Schema("cold", (OPENING, SCENERY, "story_talk|story_see|story_tired", "story_cold"), "story_coat_end"),
    Schema("tired", (OPENING, SCENERY, "story_talk|story_see", "story_tired"), "story_sleep_end"),
    Schema("lonely", ("story_morning", "story_went", "story_alone", "story_meet"), "story_friend_end"),
    Schema("stranger", ("story_alone", "story_see|story_went", "story_meet", "story_talk"), "story_friend_end"),
    Schema("birthday", (OPENING, "story_birthday", MEETING, "story_talk"), "story_gift_end"),
    Schema("surprise", ("story_birthday", "story_look_shop|story_see", "story_meet", "story_talk"), "story_gift_end"),
    Schema("sick", (OPENING, SCENERY, "story_alone|story_see|story_talk", "story_sick"), "story_doctor_end"),
    Schema("feverish", (OPENING, "story_tired|story_cold", "story_sick", "story_see|story_talk"), "story_doctor_end"),
    Schema("rain", (OPENING, "story_went", "story_meet|story_see", "story_rain"), "story_umbrella_end"),
    Schema("shower", ("story_went", "story_rain", "story_see|story_meet", OPENING), "story_umbrella_end"),
    Schema("lost", (OPENING, "story_went", "story_lost", "story_search"), "story_found_end", about_thing=True),
    Schema("missed", ("story_meet", "story_talk", "story_lost", "story_search"), "story_found_end", about_thing=True),
    Schema(
        "lost alone", (OPENING, "story_see|story_went", "story_lost", "story_tired"), "feel_found", about_thing=True
    ),
    Schema("broken", (OPENING, "story_meet", "story_talk", "story_broken"), "story_repair_end", about_thing=True),
    Schema("accident", ("story_went", "story_broken", OPENING, "story_meet"), "story_repair_end", about_thing=True),
    Schema("dirty", (OPENING, SCENERY, "story_dirty", "story_see|story_talk"), "story_wash_end", about_thing=True),
    Schema("stain", ("story_went", "story_dirty", "story_meet|story_see", OPENING), "story_wash_end", about_thing=True),
)
BY_NAME = {schema.name: schema for schema in SCHEMATA}
PEOPLE = {"agent": "agent", "helper": "friend", "giver": "friend", "friend": "friend"}
FINDING = {"story_found_end", "feel_found"}
WITH_FRIEND = {"story_gift_end", "story_friend_end", "story_repair_end"}


def draw_story(generator: random.Random, split: Split) -> Item:
    """A random story of one side of the split; its fillers hold the whole plot, both endings included."""
    while True:
        schema = SCHEMATA[int(generator.random() * len(SCHEMATA))]
        plot = _draw_plot(schema, generator)
        if plot is not None and split_of(f"story {schema.name}", plot) == split:
            return Item(meaning_id(f"story {schema.name}", plot), "story", schema.name, split, tuple(plot.items()))


def tell(item: Item, language: str) -> Story:
    """A story item in a language.

    >>> story = tell(draw_story(random.Random(1), "train"), "en")
    >>> len(story.sentences)
    4
    """
    speaker, plot = grammar(language), dict(item.fillers)
    sentences = tuple(_say(speaker, plot[f"s{i}"], plot, str(i)) for i in range(4))
    return Story(
        sentences, _say(speaker, plot["right"], plot, ""), _say(speaker, plot["wrong"], plot, "x"), speaker.space
    )


def _draw_plot(schema: Schema, generator: random.Random) -> dict[str, str] | None:
    """Frames `s0`…`s3`, `right`, `wrong`, and what fills them. None when the dice contradict each other."""
    said = [generator.choice(choice.split("|")) for choice in schema.sentences]
    if len(set(said)) < 4:
        return None
    wrong = _wrong_ending(schema, said, generator)
    if not wrong:
        return None
    plot = {f"s{i}": frame for i, frame in enumerate(said)} | {"right": schema.ending, "wrong": wrong}
    plot["agent"], plot["friend"] = generator.sample(candidates("story_meet", "agent", "past"), 2)
    placed = "story_rain" if "story_rain" in said else "story_went"
    plot["place"] = generator.choice(candidates(placed, "place", "past"))
    plot["animal"] = generator.choice(candidates("story_see", "theme", "past"))
    if schema.about_thing:
        things = [thing for thing in _things(schema.ending) if thing in _things(wrong)]
        things = [thing for thing in things if all(thing in _things(frame) for frame in said if _named(frame))]
        if not things:
            return None
        plot["thing"] = generator.choice(things)
    for key, ending in (("thing", schema.ending), ("otherthing", wrong)):
        if _named(ending) and not schema.about_thing:
            plot[key] = generator.choice([id for id in _things(ending) if sensible(ending, {"theme": id})])
    return plot


def _wrong_ending(schema: Schema, said: list[str], generator: random.Random) -> str:
    """The ending of another schema that is as close to the words of this story, and that does not follow too.

    Each ending is wrong about as often as it is right, so that the ending alone does not tell.
    """
    needs = {
        "story_tired": "story_sleep_end",
        "story_cold": "story_coat_end",
        "story_alone": "story_friend_end",
        "story_birthday": "story_gift_end",
    }
    excluded = {schema.ending, *(needs[frame] for frame in said if frame in needs)}
    if schema.ending in FINDING:
        excluded |= FINDING
    if not any(frame in ("story_meet", "story_talk", "story_search") for frame in said):
        excluded |= WITH_FRIEND
    fitting = [other.ending for other in SCHEMATA if other.about_thing == schema.about_thing]
    if schema.about_thing and generator.random() < 0.1:
        fitting = ["story_gift_end"]
    return generator.choice([ending for ending in fitting if ending not in excluded] or [""])


def _named(frame: str) -> bool:
    return "theme" in frames()[frame].slots and frame != "story_see"


def _things(frame: str) -> tuple[str, ...]:
    found = candidates(frame, "theme", "past")
    return tuple(id for id in found if id != "gift") if frame in ("story_gift_end", "story_found_end") else found


def _say(speaker: Grammar, frame: str, plot: Mapping[str, str], part: str) -> str:
    thing = plot["animal"] if frame == "story_see" else plot.get("otherthing" if part == "x" else "thing", "")
    fillers: dict[str, str] = {}
    for slot in frames()[frame].slots:
        fillers[slot] = (
            plot[PEOPLE[slot]] if slot in PEOPLE else plot["place"] if slot == "place" else thing or plot["thing"]
        )
    return speaker.realise(frame, "past", fillers)
