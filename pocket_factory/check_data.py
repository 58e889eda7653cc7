"""Whether the data of a language is whole: what is missing or odd among words, templates, forms and task prompts."""

from __future__ import annotations

import random
import re
import string
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from babelscope.errors import CorpusError
from babelscope.pocket.lexicon import concepts, data_folder, languages, table
from pocket_factory.realise import Grammar, Slot, Word
from pocket_factory.vocabulary import GRAMMARS, Frame, candidates, frames, tasks_folder

FILES = ("lexicon.tsv", "morphology.toml", "templates.tsv")
TEMPLATE_IDS = [f"t{number:02}" for number in range(1, 17)]
UNSAID = {("story_repair_end", "agent")}
"""Slots that a language may leave to the context."""
KINDS = {"inflection", "imperfect", "copy", "aspect", "particle"}


def _file(language: str, name: str) -> Traversable | Path:
    """The words lie in the package, the grammar here."""
    return (data_folder() if name == "lexicon.tsv" else GRAMMARS) / language / name


def check_language(language: str) -> list[str]:
    """Everything that is wrong with the data of one language, one line each; empty when it is whole.

    >>> check_language("en")
    []
    """
    absent = [f"no file {name}" for name in FILES if not _file(language, name).is_file()]
    if absent:
        return [*absent, *_task_problems(language, None)]
    try:
        grammar = Grammar(language)
    except (CorpusError, tomllib.TOMLDecodeError, ValueError, re.error) as error:
        return [f"cannot be read: {error}"]
    problems = [*_repeated_rows(language), *_lexicon_problems(grammar), *_template_problems(grammar)]
    problems += _form_problems(grammar)
    if not problems:
        problems += _sentence_problems(grammar)
    return [*problems, *_task_problems(language, grammar)]


def samples(grammar: Grammar, frame: str, tense: str, count: int, seed: int = 0) -> Iterator[str]:
    """Random sentences of one frame; no two slots of one have the same filler."""
    generator = random.Random(f"{seed} {frame} {tense}")
    for _ in range(count):
        yield grammar.realise(frame, tense, random_fillers(frame, tense, generator))


def random_fillers(frame: str, tense: str, generator: random.Random) -> dict[str, str]:
    """A concept for each slot of a frame, all different.

    >>> sorted(random_fillers("loc_on", "present", random.Random(0)))
    ['ground', 'theme']
    """
    fillers: dict[str, str] = {}
    for slot in frames()[frame].slots:
        allowed = [id for id in candidates(frame, slot, tense) if id not in fillers.values()]
        fillers[slot] = generator.choice(allowed)
    return fillers


def _repeated_rows(language: str) -> Iterator[str]:
    for name in ("lexicon.tsv", "templates.tsv"):
        seen = Counter(row[0] for row in table(_file(language, name)))
        yield from (f"{name}: {id} occurs {count} times" for id, count in seen.items() if count > 1)


def _lexicon_problems(grammar: Grammar) -> Iterator[str]:
    yield from (f"lexicon.tsv: no concept {id}" for id in concepts() if id not in grammar.words)
    for word in grammar.words.values():
        for key, text in word.forms.items():
            if not text or re.search(r"[{}|]|\s\s", text):
                yield f"lexicon.tsv: {word.concept.id}: odd form {key} = {text!r}"


def _template_problems(grammar: Grammar) -> Iterator[str]:
    wanted = {f"{frame.name}.{tense}" for frame in frames().values() for tense in frame.tenses}
    yield from (f"templates.tsv: no template {name}" for name in sorted(wanted - set(grammar.templates)))
    yield from (f"templates.tsv: unknown template {name}" for name in sorted(set(grammar.templates) - wanted))
    for name in sorted(wanted & set(grammar.templates)):
        frame = frames()[name.split(".")[0]]
        slots = [part for part in grammar.templates[name] if isinstance(part, Slot)]
        used = {use for slot in slots for use in (slot.name, *slot.sources)}
        for use in sorted(used):
            known = concepts() if use.startswith("&") else frame.slots
            if use.removeprefix("&") not in known:
                yield f"templates.tsv: {name}: unknown slot {{{use}}}"
        missing = sorted(set(frame.slots) - used)
        yield from (
            f"templates.tsv: {name}: the slot {{{slot}}} is not said"
            for slot in missing
            if (frame.name, slot) not in UNSAID
        )


def _fillers_of(frame: Frame, name: str, tense: str, grammar: Grammar) -> list[Word]:
    ids = [name[1:]] if name.startswith("&") else candidates(frame.name, name, tense) if name in frame.slots else []
    return [grammar.words[id] for id in ids if id in grammar.words]


def _form_problems(grammar: Grammar) -> list[str]:
    """Forms that a template asks for and a word lacks, though others of its kind have them; shapes that nothing has."""
    known: dict[str, set[str]] = {}
    for word in grammar.words.values():
        known.setdefault(word.concept.kind, set()).update(key.split(".")[0] for key in word.forms)
    anywhere = set().union(*known.values(), {"def", "base"}, (shape for _, shape in grammar.phrases))
    found: dict[str, str] = {}
    for name, word, shape in _uses(grammar):
        for key in _keys(grammar, word, shape):
            if _has(word, key) or (key != "base" and "base" in word.forms and key in anywhere):
                continue
            if key in known[word.concept.kind] or not _bare(word):
                found.setdefault(f"lexicon.tsv: {word.concept.id}: no form {key!r}", name)
            elif key not in anywhere:
                found.setdefault(f"templates.tsv: no {word.concept.kind} has a form or phrase {key!r}", name)
    return [f"{problem} (asked for in {name})" for problem, name in found.items()]


def _uses(grammar: Grammar) -> Iterator[tuple[str, Word, str]]:
    """Every word that a slot of a template may hold, with the shape asked for."""
    for name, template in grammar.templates.items():
        frame, _, tense = name.partition(".")
        if frame not in frames() or tense not in frames()[frame].tenses:
            continue
        for slot in template:
            if isinstance(slot, Slot):
                for word in _fillers_of(frames()[frame], slot.name, tense, grammar):
                    yield name, word, slot.shape or word.concept.shape


def _keys(grammar: Grammar, word: Word, shape: str) -> list[str]:
    pattern = grammar.pattern(word, shape, {})
    if pattern is None:
        return [shape] if shape != "def" or word.concept.shape == "def" else []
    return [key for key in re.findall(r"\{([^{}]*)\}", pattern) if key != "@"]


def _has(word: Word, key: str) -> bool:
    agreeing = any(form.startswith(f"{key}.") for form in word.forms) or (key == "base" and _bare(word))
    return key in word.forms or key in word.features or agreeing


def _bare(word: Word) -> bool:
    """Whether a word can be said at all when the form asked for does not exist."""
    return any(key in word.forms for key in ("base", "sg", "inf", "m", "f"))


def _sentence_problems(grammar: Grammar, count: int = 30) -> Iterator[str]:
    for frame in frames().values():
        for tense in frame.tenses:
            try:
                for text in samples(grammar, frame.name, tense, count):
                    if odd := re.search(r"[{}@|&_=<>\t]|  | [,.]|[ \n]$|^[ \n]|\.\.|None", text):
                        yield f"{frame.name}.{tense}: odd text {odd[0]!r} in {text!r}"
                        break
            except (CorpusError, re.error) as error:
                yield f"{frame.name}.{tense}: {error}"


def _task_problems(language: str, grammar: Grammar | None) -> Iterator[str]:
    for task, check in (("ioi", _ioi_problems), ("tense", _tense_problems)):
        file = tasks_folder() / task / f"{language}.toml"
        if not file.is_file():
            yield f"tasks/data/{task}/{language}.toml: no file"
            continue
        try:
            yield from (f"tasks/data/{task}/{language}.toml: {problem}" for problem in check(_toml(file), grammar))
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            yield f"tasks/data/{task}/{language}.toml: cannot be read: {error!r}"


def _toml(file: Traversable) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _fields(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


def _ioi_problems(data: dict[str, Any], grammar: Grammar | None) -> Iterator[str]:
    for key, count in (("names", 40), ("places", 12), ("objects", 12)):
        if len(set(data[key])) != count:
            yield f"{key}: {len(set(data[key]))} different ones instead of {count}"
    if [template["id"] for template in data["template"]] != TEMPLATE_IDS:
        yield f"templates are {[template['id'] for template in data['template']]}"
    for template in data["template"]:
        for key in ("text", "text_f"):
            wrong = _fields(template.get(key, template["text"])) ^ {"A", "B", "S", "place", "object"}
            if wrong:
                yield f"{template['id']}: {key}: wrong or missing fields {sorted(wrong)}"
        if "after" not in template:
            yield f"{template['id']}: no `after`"
    if "join" not in data:
        yield "no `join`"
    if grammar is not None:
        ids = [id for id, concept in concepts().items() if concept.kind == "name"]
        for id, name in zip(ids, data["names"]):
            if id in grammar.words and grammar.form(id) != name:
                yield f"names: {name!r}, but the lexicon has {id} = {grammar.form(id)!r}"


def _tense_problems(data: dict[str, Any], grammar: Grammar | None) -> Iterator[str]:
    counts = {len(data["times"][time]) for time in ("present", "past", "future")}
    if len(counts) > 1:
        yield f"times: not the same number of each: {sorted(counts)}"
    ids = Counter(verb["id"] for verb in data["verb"])
    yield from (f"verb {id} occurs {count} times" for id, count in ids.items() if count > 1)
    fields = {"present", "past", "future", *(key for verb in data["verb"] for key in verb)} - {"id", "stratum"}
    for template in data["template"]:
        if template["kind"] not in KINDS:
            yield f"{template['id']}: unknown kind {template['kind']!r}"
        for key in ("text", "target", "foil"):
            if unknown := _fields(template[key]) - fields - {"other", "other_base"}:
                yield f"{template['id']}: {key}: unknown fields {sorted(unknown)}"
    if "join" not in data:
        yield "no `join`"


def main(arguments: list[str]) -> int:
    """`LANG [N [FRAME…]]`: print what is wrong with a language, then N sentences of each frame and tense."""
    if not arguments:
        print(f"usage: python -m pocket_factory check LANG [N [FRAME…]]   (languages: {' '.join(languages())})")
        return 2
    language, count, chosen = arguments[0], int(arguments[1]) if len(arguments) > 1 else 2, arguments[2:]
    problems = check_language(language)
    print("\n".join(problems) or "nothing is missing")
    if not all(_file(language, name).is_file() for name in FILES):
        return 1
    grammar = Grammar(language)
    for frame in frames().values():
        for tense in frame.tenses:
            if not chosen or frame.name in chosen:
                _print_samples(grammar, frame.name, tense, count)
    return 1 if problems else 0


def _print_samples(grammar: Grammar, frame: str, tense: str, count: int) -> None:
    print(f"{frame}.{tense}")
    try:
        for text in samples(grammar, frame, tense, count):
            print(f"    {text}")
    except CorpusError as error:
        print(f"    ! {error}")
