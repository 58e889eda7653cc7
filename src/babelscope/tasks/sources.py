"""Public formats as sources: UniMorph verb tables and the IOI folder of the MIB benchmark."""

from __future__ import annotations

import re
from pathlib import Path

from babelscope.errors import TaskError
from babelscope.json_text import read_json
from babelscope.tasks.reading import rows_of
from babelscope.tasks.templates import IoiLexicon, Template, Verb

_ARTICLE = re.compile(r"\ban? \{object\}")
_VOWEL = tuple("aeiouAEIOU")


def unimorph_verbs(path: str | Path) -> tuple[Verb, ...]:
    """Verbs with one past form from a UniMorph table: lemma, form, tag lines, or columns named lemma and past.

    Strata: syncretic (past = lemma), regular (-d, -ed, doubled consonant, y → ied), else irregular: an English rule of
    thumb, taken from the column `kind` where there is one. Raises TaskError. Source: unimorph.github.io.
    """
    file = Path(path)
    if not file.is_file():
        raise TaskError(f"no UniMorph table at {path}")
    rows = rows_of(file)
    if not rows:
        raise TaskError(f"{path} is empty")
    if "lemma" in rows[0] and "past" in rows[0]:
        return _from_columns(rows, path)
    return _from_triples(rows, path)


def mib_lexicon(folder: str | Path) -> IoiLexicon:
    """IOI data in the format of MIB: names.json, objects.json, places.json, templates.json ({name_A}, {name_C}, …).

    Its templates come twice, with "a" and with "an" before the object; here once, with the article that fits. English;
    no genders. Raises TaskError.
    """
    names, objects, places, texts = (_json(Path(folder) / f"{part}.json") for part in _MIB_PARTS)
    slots = {"{name_A}": "{A}", "{name_B}": "{B}", "{name_C}": "{S}"}
    patterns: dict[str, None] = {}
    for text in texts:
        pattern = _ARTICLE.sub("{object}", text)
        for theirs, ours in slots.items():
            pattern = pattern.replace(theirs, ours)
        patterns[pattern] = None
    templates = tuple(Template(f"mib{number:02}", text) for number, text in enumerate(patterns, 1))
    broken = [template.text for template in templates if any(slot not in template.text for slot in slots.values())]
    if broken:
        raise TaskError(f"template {broken[0]!r} in {folder} lacks one of {', '.join(slots)}")
    return IoiLexicon(
        language="en",
        join=" ",
        names=names,
        genders=("",) * len(names),
        places=places,
        objects=tuple(f"{'an' if thing.startswith(_VOWEL) else 'a'} {thing}" for thing in objects),
        templates=templates,
    )


_MIB_PARTS = ("names", "objects", "places", "templates")


def _json(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise TaskError(f"no {path.name} in {path.parent}: an IOI folder of MIB holds {', '.join(_MIB_PARTS)}")
    data: object = read_json(path, error=TaskError)
    if not isinstance(data, list) or not data or not all(isinstance(entry, str) for entry in data):
        raise TaskError(f"{path} must be a list of texts")
    return tuple(str(entry) for entry in data)


def _from_columns(rows: list[list[str]], path: str | Path) -> tuple[Verb, ...]:
    header, *body = rows
    lemma, past = header.index("lemma"), header.index("past")
    kind = header.index("kind") if "kind" in header else None
    for row in body:
        if len(row) != len(header):
            raise TaskError(f"{path}: {len(row)} fields in {row[:3]!r}, and the header names {len(header)}")
    return tuple(_verb(row[lemma], row[past], row[kind] if kind is not None else None) for row in body)


def _from_triples(rows: list[list[str]], path: str | Path) -> tuple[Verb, ...]:
    forms: dict[str, set[str]] = {}
    for row in rows:
        if len(row) < 3:
            raise TaskError(f"{path}: a line of UniMorph is lemma, form, tag, separated by tabs; got {row!r}")
        if row[2] == "V;PST":
            forms.setdefault(row[0], set()).add(row[1])
    if not forms:
        raise TaskError(f"{path} holds no form tagged V;PST")
    return tuple(_verb(lemma, next(iter(past)), None) for lemma, past in forms.items() if len(past) == 1)


def _verb(lemma: str, past: str, kind: str | None) -> Verb:
    stratum = "syncretic" if lemma == past else kind or ("regular" if _regular(lemma, past) else "irregular")
    return Verb(lemma, stratum, {"base": lemma, "past_form": past})


def _regular(lemma: str, past: str) -> bool:
    doubled = lemma + lemma[-1:] + "ed"
    return past in (lemma + "ed", lemma + "d" if lemma.endswith("e") else "", doubled) or (
        lemma.endswith("y") and past == lemma[:-1] + "ied"
    )
