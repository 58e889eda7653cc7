"""Scenes of the circuit tasks inside the corpus: who gave what to whom, and the same verb at two times.

The prompts are those of `tasks/data`; the corpus completes them. Training sees part of the templates, of the names
and of the verbs; what is held out is said in `TRAINING_TEMPLATES`, `TRAINING_NAMES` and `held_out_verb`.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from babelscope.errors import CorpusError
from babelscope.pocket.lexicon import concepts, languages
from pocket_factory.items import Item, Split, meaning_id, share, split_of
from pocket_factory.vocabulary import tasks_folder

TRAINING_TEMPLATES = 12
"""Giving scenes of training use t01 to t12; t13 to t16 are held out."""
TRAINING_NAMES = 16
"""and names 1 to 16 of each gender; 17 to 20 never take part in a giving scene (they occur in every other kind)."""
HELD_OUT_VERBS = 0.25
TWO_SENTENCES = ("t02", "t04", "t05", "t07", "t08", "t09", "t11", "t12")
"""training templates of two sentences that fit each other: what happened; what was given"""
WITH_CLAUSE = ("t01", "t03")
"""training templates whose opening is a clause (in some languages a sentence) that any plain closing may follow"""
PLAIN_CLOSINGS = ("t01", "t02", "t04", "t05", "t09", "t11", "t12")
"""templates whose second half opens with the giver (or the verb), so that it may stand after a clause too"""
CUTS = tuple(re.compile(cut) for cut in (r"(?<=[.。।])\s*(?=\S)", r"(?<=[,，،])\s*(?=\S)", r"\s+(?=\{S\})"))
"""where a template falls into two halves: after a sentence; else after a clause; else before the giver"""
CROSSED = 0.6
"""share of such scenes that take their two halves from two templates, so that no template is learned by heart"""
CLAUSE = re.compile(r"(?<=[.。।؟?!])\s*")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text that ends in a choice: target or foil, and how it goes on after the target."""

    text: str
    target: str
    foil: str
    join: str
    after: str

    @property
    def whole(self) -> str:
        """The text completed with its target."""
        return f"{self.text}{self.join}{self.target}{self.after}"


@cache
def task(name: str, language: str) -> dict[str, Any]:
    """The prompt data of a task (`ioi`, `tense`) in a language. Raises CorpusError where there is none."""
    file = tasks_folder() / name / f"{language}.toml"
    if not file.is_file():
        raise CorpusError(f"no prompts of the task {name} in {language}")
    return tomllib.loads(file.read_text(encoding="utf-8"))


@cache
def names(heldout: bool) -> tuple[str, ...]:
    """Concepts of the names that giving scenes of training, or of the held-out evaluation, are about."""
    all_names = [id for id, concept in concepts().items() if concept.kind == "name"]
    return tuple(id for id in all_names if (int(id[-2:]) > TRAINING_NAMES) == heldout)


@cache
def _name_index() -> dict[str, int]:
    return {id: index for index, id in enumerate(id for id, concept in concepts().items() if concept.kind == "name")}


def draw_giving(generator: random.Random, split: Split, new: bool = False, pair: tuple[str, str] | None = None) -> Item:
    """A giving scene, the same in all languages; of two given people where there is a `pair`.

    With `new`, of held-out templates and names; else of the training's, held out or not by the hash of the scene.
    """
    while True:
        number = generator.randrange(TRAINING_TEMPLATES, 16) if new else generator.randrange(TRAINING_TEMPLATES)
        a, b = generator.sample(pair or names(new), 2)
        fillers = {"a": a, "b": b, "subject": generator.choice("ab")}
        fillers |= {"place": str(generator.randrange(12)), "object": str(generator.randrange(12))}
        key = f"t{number + 1:02}"
        closings = _closings(key)
        if not new and closings and generator.random() < CROSSED:
            key = f"{key}+{generator.choice(closings)}"
        if new or _is_in(split, key, fillers):
            return Item(meaning_id(key, fillers), "ioi", key, "heldout" if new else split, tuple(fillers.items()))


def _is_in(split: Split, key: str, fillers: Mapping[str, str]) -> bool:
    """A scene is held out only where every frame that says the same in some language is held out too."""
    if split == "train":
        return split_of(key, fillers) == "train"
    return all(split_of(twin, fillers) == split for twin in frames_alike()[key])


@cache
def frames_alike() -> dict[str, set[str]]:
    """Frames of training that have the same words in at least one language, by frame; the frame itself is among them.

    Crossing makes them: two templates may give in the same words.
    """
    openings = [f"t{number + 1:02}" for number in range(TRAINING_TEMPLATES)]
    keys = [*openings, *(f"{opening}+{closing}" for opening in openings for closing in _closings(opening))]
    twins = {key: {key} for key in keys}
    for code in languages():
        data, said = task("ioi", code), dict[str, set[str]]()
        for key in keys:
            said.setdefault(_template(data, key)["text"], set()).add(key)
        for same in said.values():
            for key in same:
                twins[key] |= same
    return twins


def _closings(opening: str) -> list[str]:
    """Templates whose second half may follow the first half of another one."""
    if opening in TWO_SENTENCES:
        return [key for key in (*TWO_SENTENCES, *WITH_CLAUSE) if key != opening]
    return [key for key in PLAIN_CLOSINGS if key != opening] if opening in WITH_CLAUSE else []


def giving(item: Item, language: str) -> Prompt:
    """A giving scene in a language: the prompt ends before the receiver.

    The frame is a template, `t02`, or the first half of one and the last half of another, `t02+t07`.

    >>> giving(draw_giving(random.Random(0), "train"), "en").after
    '.'
    """
    data, fillers = task("ioi", language), dict(item.fillers)
    template = _template(data, item.frame)
    said = {key: data["names"][_name_index()[fillers[key]]] for key in ("a", "b")}
    subject = fillers["subject"]
    receiver = "a" if subject == "b" else "b"
    feminine = "f" in concepts()[fillers[subject]].tags
    text = template["text_f"] if feminine and "text_f" in template else template["text"]
    place, thing = data["places"][int(fillers["place"])], data["objects"][int(fillers["object"])]
    text = text.format(A=said["a"], B=said["b"], S=said[subject], place=place, object=thing)
    return Prompt(text, said[receiver], said[subject], data["join"], template["after"])


def _template(data: Mapping[str, Any], key: str) -> Mapping[str, str]:
    opening, _, closing = key.partition("+")
    return _crossed(data, opening, closing) if closing else data["template"][int(opening[1:]) - 1]


def _crossed(data: Mapping[str, Any], opening: str, closing: str) -> dict[str, str]:
    """The first half of one template and the last half of another."""
    first, last = (data["template"][int(key[1:]) - 1] for key in (opening, closing))
    start, blank = _halves(first["text"])[0], " " if data["join"] else ""
    ends = {key: _halves(last[key])[1] for key in ("text", "text_f") if key in last}
    return {"after": last["after"]} | {key: f"{start}{blank}{end}" for key, end in ends.items()}


def _halves(text: str) -> tuple[str, str]:
    """What happened, and what was given. Raises CorpusError where a template has no such two halves."""
    for cut in CUTS:
        halves = cut.split(text)
        if len(halves) == 2:
            return halves[0], halves[1]
    raise CorpusError(f"a template of giving scenes has no two halves: {text!r}")


def held_out_verb(verb: str) -> bool:
    """Whether the tense pairs of training leave out a verb; only verbs that sentences use are left out.

    >>> held_out_verb("no such verb")
    False
    """
    return verb in concepts() and share(f"tense verb {verb}") < HELD_OUT_VERBS


def _held_out_pair(template: Mapping[str, str], verb: str) -> bool:
    """By the words of the template, since two templates may differ only in where the prompt ends."""
    words = "".join(template[key] for key in ("text", "target", "after"))
    return share(f"tense {''.join(words.split())} {verb}") < 0.1


def draw_tense(generator: random.Random, language: str, split: Split, new: bool = False) -> Item:
    """A verb at two times, in one language. With `new`, of a held-out verb; else a (template, verb) of the split."""
    data = task("tense", language)
    while True:
        template, verb = generator.choice(data["template"]), generator.choice(data["verb"])
        held_verb, held_pair = held_out_verb(verb["id"]), _held_out_pair(template, verb["id"])
        if held_verb != new or (not new and held_pair != (split == "heldout")):
            continue
        fillers = {"verb": verb["id"], "other": generator.choice(data["verb"])["id"]}
        fillers |= {time: str(generator.randrange(len(data["times"][time]))) for time in ("present", "past", "future")}
        if fillers["other"] != fillers["verb"]:
            return Item(meaning_id(template["id"], fillers), "tense", template["id"], split, tuple(fillers.items()))


def tense_pair(item: Item, language: str) -> Prompt:
    """A tense item in the language that it was drawn for: the prompt ends before the verb (or the mark) of the past."""
    data, fillers = task("tense", language), dict(item.fillers)
    template = next(template for template in data["template"] if template["id"] == item.frame)
    verbs = {verb["id"]: verb for verb in data["verb"]}
    fields = dict(verbs[fillers["verb"]]) | {
        f"other_{key}": text for key, text in verbs[fillers["other"]].items() if key not in ("id", "stratum")
    }
    fields |= {time: data["times"][time][int(fillers[time])] for time in ("present", "past", "future")}
    text, target, foil, after = (str(template[key]).format(**fields) for key in ("text", "target", "foil", "after"))
    return Prompt(text, target, foil, template.get("join", data["join"]), after)


def shuffled_clauses(text: str, generator: random.Random) -> list[str]:
    """The sentences of a tense pair in a random order, so that the time and not the place decides the tense.

    >>> sorted(shuffled_clauses("Today I walk. Yesterday I walked.", random.Random(0)))
    ['Today I walk.', 'Yesterday I walked.']
    """
    clauses = [clause for clause in CLAUSE.split(text) if clause]
    generator.shuffle(clauses)
    return clauses
