"""Templates are data: one TOML file per task and language, aligned by index and id, rendered with character spans."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from string import Formatter

from babelscope.errors import TaskError

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A text and the character span of each slot that was filled; literal text after a slot is `slot+`."""

    text: str
    spans: Mapping[str, Span] = field(default_factory=dict[str, Span])


@dataclass(frozen=True)
class Template:
    """One sentence frame; `feminine` is the wording when the repeated subject is a woman, where it differs."""

    id: str
    text: str
    after: str = "."
    feminine: str = ""
    kind: str = ""
    target: str = ""
    foil: str = ""


@dataclass(frozen=True)
class IoiLexicon:
    """Names, places, objects and templates of one language; genders "f", "m", or "" where the source tells none."""

    language: str
    join: str
    names: tuple[str, ...]
    genders: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]
    templates: tuple[Template, ...]

    def heldout_template(self, index: int) -> bool:
        """Whether a template is kept for evaluation: the last quarter (t13–t16 of sixteen)."""
        return index >= len(self.templates) - len(self.templates) // 4

    @cached_property
    def heldout_names(self) -> frozenset[int]:
        """Names kept for evaluation: the last fifth of each gender (16–19 of twenty)."""
        kept: set[int] = set()
        for gender in set(self.genders):
            same = [index for index, other in enumerate(self.genders) if other == gender]
            kept.update(same[len(same) - len(same) // 5 :])
        return frozenset(kept)


@dataclass(frozen=True)
class Verb:
    """A verb by concept id, with its forms as they stand in the templates."""

    id: str
    stratum: str
    forms: Mapping[str, str]

    @property
    def base(self) -> str:
        """The form that the first clause shows."""
        return self.forms["base"]


@dataclass(frozen=True)
class TenseLexicon:
    """Time words, templates and verbs of one language."""

    language: str
    join: str
    times: Mapping[str, tuple[str, ...]]
    templates: tuple[Template, ...]
    verbs: tuple[Verb, ...]

    @cached_property
    def by_stratum(self) -> Mapping[str, tuple[Verb, ...]]:
        """Stratum → its verbs."""
        strata = dict.fromkeys(verb.stratum for verb in self.verbs)
        return {name: tuple(verb for verb in self.verbs if verb.stratum == name) for name in strata}


def render(pattern: str, values: Mapping[str, str]) -> Rendered:
    """Fill the slots of a pattern and say where each stands; a slot that comes twice is `slot`, then `slot#2`.

    Raises TaskError on a slot without a value, with the slots that have one.

    >>> render("When {A} met {B}", {"A": "Ann", "B": "Bob"}).spans["B"]
    (13, 16)
    """
    text, spans = "", dict[str, Span]()
    previous = ""
    for literal, slot, _, _ in _parsed(pattern):
        if previous and literal.strip():
            spans[f"{previous}+"] = _stripped(literal, len(text))
        text += literal
        if slot is None:
            continue
        if slot not in values:
            raise TaskError(f"template {pattern!r} has the slot {{{slot}}}; slots are {', '.join(sorted(values))}")
        name = slot if slot not in spans else f"{slot}#2"
        spans[name] = (len(text), len(text) + len(values[slot]))
        text += values[slot]
        previous = name
    return Rendered(text, spans)


def available(task: str) -> tuple[str, ...]:
    """Languages that come with data for a task ("ioi" or "tense")."""
    folder = files("babelscope.tasks").joinpath("data", task)
    if not folder.is_dir():
        return ()
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


@lru_cache(maxsize=64)
def ioi_lexicon(language: str) -> IoiLexicon:
    """The package's IOI data of a language; raises TaskError with the languages there are."""
    return parse_ioi(_read("ioi", language), f"ioi/{language}.toml")


@lru_cache(maxsize=64)
def tense_lexicon(language: str) -> TenseLexicon:
    """The package's past-tense data of a language; raises TaskError with the languages there are."""
    return parse_tense(_read("tense", language), f"tense/{language}.toml")


def parse_ioi(text: str, where: str = "template file") -> IoiLexicon:
    """IOI data from TOML; the first half of the names is feminine unless `genders` says otherwise. Raises TaskError."""
    data = _toml(text, where)
    names = _strings(data, "names", where)
    half = len(names) // 2
    genders = _strings(data, "genders", where) if "genders" in data else ("f",) * half + ("m",) * (len(names) - half)
    lexicon = IoiLexicon(
        language=str(data.get("language", "")),
        join=str(data.get("join", " ")),
        names=names,
        genders=genders,
        places=_strings(data, "places", where),
        objects=_strings(data, "objects", where),
        templates=_templates(data, where),
    )
    if len(lexicon.genders) != len(names):
        raise TaskError(f"{where}: {len(lexicon.genders)} genders for {len(names)} names")
    for template in lexicon.templates:
        for pattern in filter(None, (template.text, template.feminine)):
            _needs(pattern, ("A", "B", "S"), f"{where}, template {template.id}")
            render(pattern, dict.fromkeys(("A", "B", "S", "place", "object"), "x"))
    return lexicon


def parse_tense(text: str, where: str = "template file") -> TenseLexicon:
    """Past-tense data from TOML. Raises TaskError."""
    data = _toml(text, where)
    given = data.get("times", {})
    words: dict[str, object] = given if isinstance(given, dict) else {}
    times = {
        name: _strings(words, name, f"{where}, [times]") for name in ("present", "past", "future") if name in words
    }
    if len(times) < 3:
        raise TaskError(f"{where}: [times] needs present, past and future")
    verbs = tuple(
        Verb(str(row["id"]), str(row.get("stratum", "none")), {k: v for k, v in row.items() if isinstance(v, str)})
        for row in _rows(data.get("verb", ()), "verb", ("id",), where)
    )
    if not verbs or any("base" not in verb.forms for verb in verbs):
        raise TaskError(f"{where}: every [[verb]] needs an id and a base, and there must be one")
    lexicon = TenseLexicon(
        str(data.get("language", "")), str(data.get("join", " ")), times, _templates(data, where), verbs
    )
    for template in lexicon.templates:
        _needs(template.text, ("past",), f"{where}, template {template.id}")
    return lexicon


def _templates(data: Mapping[str, object], where: str) -> tuple[Template, ...]:
    rows = data.get("template", ())
    if not rows:
        raise TaskError(f"{where}: no [[template]]")
    return tuple(
        Template(
            id=str(row["id"]),
            text=str(row["text"]),
            after=str(row.get("after", ".")),
            feminine=str(row.get("text_f", "")),
            kind=str(row.get("kind", "")),
            target=str(row.get("target", "")),
            foil=str(row.get("foil", "")),
        )
        for row in _rows(rows, "template", ("id", "text"), where)
    )


def _rows(rows: object, kind: str, needed: Sequence[str], where: str) -> Sequence[Mapping[str, object]]:
    if not isinstance(rows, Sequence) or not all(isinstance(row, dict) for row in rows):
        raise TaskError(f"{where}: write every {kind} as a table of its own, [[{kind}]]")
    for number, row in enumerate(rows, 1):
        missing = [name for name in needed if not isinstance(row.get(name), str)]
        if missing:
            raise TaskError(f"{where}: [[{kind}]] number {number} has no {missing[0]}, or no text there")
    return rows


def _read(task: str, language: str) -> str:
    languages = available(task)
    if language not in languages:
        there_are = ", ".join(languages) or "none"
        raise TaskError(f"no {task} data for the language {language!r}; there are {there_are}")
    return files("babelscope.tasks").joinpath("data", task, f"{language}.toml").read_text(encoding="utf-8")


def _toml(text: str, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise TaskError(f"{where} is not TOML: {error}") from error


def _strings(data: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    values = data.get(key, ())
    if (
        not values
        or not isinstance(values, list | tuple)
        or not all(isinstance(value, str) and value for value in values)
    ):
        raise TaskError(f"{where}: {key} must be a list of texts")
    return tuple(values)


def _parsed(pattern: str) -> Iterable[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(pattern))
    except ValueError as error:
        raise TaskError(f"template {pattern!r}: {error}") from error


def _needs(pattern: str, slots: Sequence[str], where: str) -> None:
    there = {slot for _, slot, _, _ in _parsed(pattern)}
    missing = [slot for slot in slots if slot not in there]
    if missing:
        raise TaskError(f"{where}: the slot {{{missing[0]}}} is missing")


def _stripped(literal: str, offset: int) -> Span:
    """Where the words of a literal stand, without the punctuation and white space around them."""
    marks = " \t\n.,;:!?…，。、；：！？।،؛؟"
    start = len(literal) - len(literal.lstrip(marks))
    end = len(literal.rstrip(marks))
    return (offset + start, offset + end) if start < end else (offset, offset)
