"""Readers of the Language Confusion Benchmark's folders and answers, and of prompt files of one's own.

{monolingual,crosslingual}/{set}/{lang}.csv     columns prompt, source, language; crosslingual: location, phrasing
answers: CSV with columns model, completion, task, source, language
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from babelscope.errors import InputError
from babelscope.languages import language

TASKS = ("monolingual", "crosslingual")
OWN = "everyday"
"""name of the prompt set that the package carries"""
csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Prompt:
    """A request, and the language that its answer is to be in."""

    task: str
    set: str
    language: str
    text: str
    id: str


@dataclass(frozen=True)
class Completion:
    """An answer that somebody's model gave."""

    model: str
    task: str
    set: str
    language: str
    text: str


def read_benchmark(folder: str | Path, tasks: Iterable[str] = TASKS) -> list[Prompt]:
    """All prompts of a benchmark folder (also one level down, as `test_sets`); the set is the folder's name.

    Raises InputError where there is none of the folders, or a file has no column `prompt`.
    """
    top = Path(folder)
    roots = [top, *sorted(one for one in top.iterdir() if one.is_dir())] if top.is_dir() else []
    found: list[Prompt] = []
    for task in tasks:
        place = next((root / task for root in roots if (root / task).is_dir()), None)
        for file in sorted(place.glob("*/*.csv")) if place else ():
            found += _prompts(file, task)
    if not found:
        raise InputError(f"{folder} has no prompts: a benchmark folder holds monolingual/SET/LANGUAGE.csv")
    return found


def _prompts(file: Path, task: str) -> list[Prompt]:
    name, code = file.parent.name, _code(file.stem, str(file))
    rows = _rows(file, ("prompt",))
    return [Prompt(task, name, code, row["prompt"], f"{task}/{name}/{code}/{place}") for place, row in enumerate(rows)]


def read_answers(file: str | Path) -> list[Completion]:
    """Answers as the benchmark stores them; several models and tasks may stand in one file.

    Raises InputError for a file without the columns completion and language.
    """
    return [
        Completion(
            row.get("model") or "",
            row.get("task") or "",
            row.get("source") or "",
            _code(row["language"], f"{file}, record {number}"),
            row["completion"],
        )
        for number, row in enumerate(_rows(Path(file), ("completion", "language")), 1)
    ]


def _rows(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as CSV: {error}") from error
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing or not rows:
        # cells beyond the header stand under no name
        there = ", ".join(str(name) for name in rows[0] if name is not None) if rows else ""
        raise InputError(f"{file}: " + (f"no column {missing[0]}; it has {there}" if missing else "no rows"))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise InputError(f"{file}, record {number}: its fields are not as many as the header's")
    return rows


def _code(name: str, where: str) -> str:
    """The canonical code of a language; raises InputError that says where another name stands."""
    try:
        return language(name).code
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def own_prompts(languages: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Everyday questions that the package carries, by language; the i-th ask the same in every language.

    Raises InputError for a language it has none in.

    >>> len(own_prompts(["en"])["en"]) >= 50
    True
    """
    folder = files("babelscope.steering") / "data"
    known = sorted(one.name.removesuffix(".txt") for one in folder.iterdir() if one.name.endswith(".txt"))
    codes = list(languages or known)
    missing = [code for code in codes if code not in known]
    if missing:
        raise InputError(f"no everyday questions in {', '.join(missing)}; there are {', '.join(known)}")
    return {code: (folder / f"{code}.txt").read_text(encoding="utf-8").splitlines() for code in codes}


def own_monolingual(languages: Sequence[str] | None = None) -> list[Prompt]:
    """The questions, each to be answered in its own language."""
    return [
        Prompt("monolingual", OWN, code, text, f"monolingual/{OWN}/{code}/{place}")
        for code, texts in own_prompts(languages).items()
        for place, text in enumerate(texts)
    ]


REQUESTS = (
    "Answer in {name}. {question}", "{question} Please reply in {name}.", "Respond in {name} only. {question}",
    "{question} Write your answer in {name}.",
)  # fmt: skip


def own_crosslingual(languages: Sequence[str]) -> list[Prompt]:
    """The English questions, each with a request to answer in another language; the wording of requests takes turns."""
    english = own_prompts(["en"])["en"]
    return [
        Prompt(
            "crosslingual", OWN, code, request(place, language(code).name, text), f"crosslingual/{OWN}/{code}/{place}"
        )
        for code in languages
        if code != "en"
        for place, text in enumerate(english)
    ]


def request(place: int, name: str, question: str) -> str:
    """A question with a request to answer in a language.

    >>> request(0, "French", "How are you?")
    'Answer in French. How are you?'
    """
    return REQUESTS[place % len(REQUESTS)].format(name=name, question=question)
