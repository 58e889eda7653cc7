"""Multiple choice in each language's own words, from published files: reading, stories, cause and effect, and facts.

    belebele:PATH      one JSONL a language: a passage, a question, four answers
    xcopa:PATH         one JSONL a language: a premise, its cause or effect, two choices
    xstorycloze:PATH   one TSV a language (both published schemes of names): four sentences, two endings
    klar:FOLDER        a folder a language with a JSON file a relation: facts; the choices are the relation's objects
    bmlama:PATH        one TSV a language: a sentence with <mask>, candidates of which the last is right
    mkqa:FILE          one JSONL for all: questions; the choices are its answer and three of others of its type (ours)

PATH holds {language} where the code stands. A question has the same id in every language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babelscope.corpora.files import decode, read_bytes
from babelscope.corpora.folders import named_language
from babelscope.corpora.long_table import LANGUAGE, language_files
from babelscope.corpora.table import parse_table
from babelscope.errors import CorpusError, TaskError
from babelscope.json_text import parse_json
from babelscope.languages import parse_languages
from babelscope.tasks.stories import read_stories

MASK, SUBJECT = ("<mask>", "<MASK>"), "<subject>"
OTHERS = 3
"""answers to other questions beside MKQA's own"""


@dataclass(frozen=True)
class Question:
    """A text, what may follow it, and which of these is right."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    """with the blank in front, where there is one"""
    label: int
    group: str = ""
    """relation, or type of question"""


Rows = Sequence[Mapping[str, Any]]


def load_questions(spec: str, languages: Sequence[str] | str | None = None) -> dict[str, list[Question]]:
    """Questions by language. Raises TaskError for an unknown set, a missing language, and a file of another shape.

    >>> load_questions("klar:klar/{language}", ["en", "ja"])["ja"][0].label              # doctest: +SKIP
    3
    """
    name, colon, place = spec.partition(":")
    if not colon or name not in SETS or not place:
        raise TaskError(f"{spec}: questions are named {', '.join(f'{one}:PATH' for one in SETS)}")
    wanted = None if languages is None else parse_languages(languages)
    try:
        return SETS[name](place, wanted, spec)
    except CorpusError as error:
        raise TaskError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TaskError(f"{spec}: not as {name} is published: {type(error).__name__}: {error}") from error


def _chosen(files: Mapping[str, Path], languages: list[str] | None, spec: str) -> dict[str, Path]:
    missing = [code for code in languages or () if code not in files]
    if missing:
        raise TaskError(f"{spec}: nothing in {', '.join(missing)}; there are {', '.join(sorted(files))}")
    return {code: files[code] for code in languages or sorted(files)}


def _files(place: str, languages: list[str] | None, spec: str) -> dict[str, Path]:
    if LANGUAGE not in place:
        raise TaskError(f"{spec}: write {LANGUAGE} in the path, where the language's code stands")
    return _chosen(language_files(place, spec), languages, spec)


def _rows(path: Path, kind: str, needed: Iterable[str]) -> Rows:
    table = parse_table(read_bytes(path), kind, path)
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise TaskError(
            f"{path} has the fields {', '.join(table.columns)}; expected {', '.join(needed)} ({missing[0]} is missing)"
        )
    return [dict(row) for row in table.rows]


def _text(row: Mapping[str, object], name: str, where: str) -> str:
    """A text or a whole number as text; what is missing is no "None"."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise TaskError(f"{where}: {name} is no text but {str(value)[:40]!r}")
    return str(value)


def _label(value: object, count: int, first: int, where: str) -> int:
    """A right answer's place, counted from `first`, as a number or as text."""
    text = str(value).strip()
    if not text.isdecimal() or not first <= int(text) < count + first:
        raise TaskError(f"{where}: the right answer is {value!r}, not a number from {first} to {count + first - 1}")
    return int(text) - first


# -- the sets ----------------------------------------------------------------------------------------------------------

_BELEBELE = ("link", "question_number", "flores_passage", "question", "correct_answer_num")


def _belebele(place: str, languages: list[str] | None, spec: str) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    answers = tuple(f"mc_answer{number}" for number in range(1, 5))
    for code, path in _files(place, languages, spec).items():
        found[code] = []
        for number, row in enumerate(_rows(path, "jsonl", (*_BELEBELE, *answers)), 1):
            where = f"{path}, row {number}"
            texts = [_text(row, answer, where) for answer in answers]
            choices = tuple(dict.fromkeys(texts))  # the right one, there twice, would tie with itself
            found[code].append(
                Question(
                    f"{_text(row, 'link', where)}/{_text(row, 'question_number', where)}",
                    f"{_text(row, 'flores_passage', where)}\n{_text(row, 'question', where)}\n",
                    choices,
                    choices.index(texts[_label(row["correct_answer_num"], 4, 1, where)]),
                )
            )
    return found


def _stories(kind: str) -> Callable[[str, list[str] | None, str], dict[str, list[Question]]]:
    def read(place: str, languages: list[str] | None, spec: str) -> dict[str, list[Question]]:
        found: dict[str, list[Question]] = {}
        for code, path in _files(place, languages, spec).items():
            stories = read_stories(path)
            if kind == "xcopa" and not all(story.question for story in stories):
                raise TaskError(f"{path} holds stories, not XCOPA's premise, choice1, choice2, question, label")
            if kind == "xstorycloze" and any(story.question for story in stories):
                raise TaskError(f"{path} holds premises and choices, not the four sentences of a story")
            found[code] = [
                Question(
                    story.item or str(number), story.context, tuple(f" {ending}" for ending in story.endings),
                    story.label, story.question,
                )
                for number, story in enumerate(stories)
            ]  # fmt: skip
        return found

    return read


def _klar(place: str, languages: list[str] | None, spec: str) -> dict[str, list[Question]]:
    folders = _folders(place if LANGUAGE in place else f"{place}/{LANGUAGE}", spec)
    found: dict[str, list[Question]] = {}
    for code, folder in _chosen(folders, languages, spec).items():
        files = sorted(folder.glob("*.json"))
        if not files:
            raise TaskError(f"{folder} holds no relation: expected RELATION.json with prompt_templates and samples")
        found[code] = [question for file in files for question in _relation(file)]
    return found


def _folders(pattern: str, spec: str) -> dict[str, Path]:
    before, _, behind = pattern.partition(LANGUAGE)
    start = Path(before or ".")
    parent, prefix = (start, "") if before.endswith("/") or not before else (start.parent, start.name)
    if not parent.is_dir():
        raise TaskError(f"{spec}: {parent} is no folder")
    found: dict[str, Path] = {}
    for folder in sorted(one for one in parent.iterdir() if one.is_dir() and one.name.startswith(prefix)):
        code = named_language(folder.name.removeprefix(prefix))
        place = Path(f"{folder}{behind}")
        if code is None or not place.is_dir():
            continue
        if code in found:
            raise TaskError(f"{spec}: {found[code]} and {place} are both {code}; name one of them")
        found[code] = place
    if not found:
        raise TaskError(f"{spec}: no folder in {parent} is named after a language")
    return found


def _relation(file: Path) -> list[Question]:
    data: object = parse_json(decode(read_bytes(file), file), str(file), TaskError)
    shape = "an object with prompt_templates and samples (subject, object, index)"
    templates, rows = (data.get("prompt_templates"), data.get("samples")) if isinstance(data, dict) else (None, None)
    if not isinstance(templates, list) or not isinstance(rows, list) or not templates or not rows:
        raise TaskError(f"{file}: expected {shape}")
    template = str(templates[0])
    mask = next((one for one in MASK if one in template), None)
    if mask is None or SUBJECT not in template or template.split(mask, 1)[1].strip():
        raise TaskError(f"{file}: expected a template with {SUBJECT} that ends with <mask>, not {template!r}")
    samples = [
        (_text(one, "subject", where), _text(one, "object", where), _text(one, "index", where))
        for number, one in enumerate(rows, 1)
        for where in (f"{file}, sample {number}",)
    ]
    objects = list(dict.fromkeys(answer for _, answer, _ in samples))
    before = template.split(mask, 1)[0]
    gap = " " if before.endswith(" ") else ""
    return [
        Question(
            f"{file.stem}/{index}",
            before.rstrip().replace(SUBJECT, subject),
            tuple(gap + one for one in objects),
            objects.index(answer),
            file.stem,
        )
        for subject, answer, index in samples
    ]


_LAMA = ("Prompt", "Ans", "Candidate Ans", "Subject")


def _bmlama(place: str, languages: list[str] | None, spec: str) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for code, path in _files(place, languages, spec).items():
        questions: list[Question] = []
        for number, row in enumerate(_rows(path, "tsv", _LAMA), 1):
            where = f"{path}, row {number}"
            # two answers may have one translation: named twice, the right one would tie with itself
            text = _text(row, "Prompt", where)
            candidates = list(dict.fromkeys(_text(row, "Candidate Ans", where).split(", ")))
            mask = next((one for one in MASK if one in text), None)
            if mask is None or str(row["Ans"]) not in candidates:
                raise TaskError(
                    f"{path}, row {number}: expected a prompt with <mask> and its answer among the candidates"
                )
            before, behind = text.split(mask, 1)
            gap = before[len(before.rstrip()) :]
            # the mask may stand anywhere: what follows it is a part of every choice
            choices = tuple(f"{gap}{one}{behind}" for one in candidates)
            prompt = before.rstrip()
            questions.append(Question(str(number), prompt, choices, candidates.index(str(row["Ans"]))))
        found[code] = questions
    return found


_MKQA = ("example_id", "queries", "answers")


def _mkqa(place: str, languages: list[str] | None, spec: str) -> dict[str, list[Question]]:
    rows = _rows(Path(place), "jsonl", _MKQA)
    there: dict[str, str] = {}
    for name in rows[0]["queries"]:
        code = named_language(str(name).replace("_", "-"))
        if code is not None:
            there.setdefault("zh" if name == "zh_cn" else code, str(name))
    codes = languages or sorted(there)
    missing = [code for code in codes if code not in there]
    if missing:
        raise TaskError(f"{spec}: nothing in {', '.join(missing)}; there are {', '.join(sorted(there))}")
    return {code: _asked(rows, there[code], place) for code in codes}


def _asked(rows: Rows, name: str, where: str) -> list[Question]:
    """Questions that have an answer in words; unanswerable ones and long answers are left out."""
    known: list[tuple[str, str, str, str, set[str]]] = []
    for number, row in enumerate(rows, 1):
        try:
            query, answers = str(row["queries"][name]), row["answers"][name]
            answer = next((one for one in answers if one["type"] not in ("unanswerable", "long_answer")), None)
        except (KeyError, TypeError, AttributeError) as error:
            raise TaskError(
                f"{where}, row {number}: expected queries and answers in {name}; {error} is missing"
            ) from error
        if answer is not None and answer.get("text"):
            right = {str(name) for one in answers for name in (one.get("text"), *(one.get("aliases") or ())) if name}
            known.append((str(row["example_id"]), query, str(answer["text"]), str(answer["type"]), right))
    by_type: dict[str, list[str]] = {}
    for _, _, text, kind, _ in known:
        by_type.setdefault(kind, []).append(text)
    found: list[Question] = []
    for identifier, query, text, kind, right in known:
        others = sorted({one for one in by_type[kind] if one not in right})
        if not others:
            continue
        drawn = random.Random(identifier).sample(others, min(OTHERS, len(others)))
        choices = [text, *drawn]
        random.Random(f"{identifier} order").shuffle(choices)
        found.append(
            Question(identifier, f"{query}\n" if query.endswith(("?", "？", "؟")) else f"{query}?\n", tuple(choices),
                     choices.index(text), kind)
        )  # fmt: skip
    return found


SETS: Mapping[str, Callable[[str, list[str] | None, str], dict[str, list[Question]]]] = {
    "belebele": _belebele,
    "xcopa": _stories("xcopa"),
    "xstorycloze": _stories("xstorycloze"),
    "klar": _klar,
    "bmlama": _bmlama,
    "mkqa": _mkqa,
}
"""name in `evaluate --tasks NAME:PATH` → reader"""
