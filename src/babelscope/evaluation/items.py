"""Stories for the cross-lingual cloze: four sentences in one language, two endings in English (regions.md, section 6).

A specification names them: `pocket:` (built in), `stories:FOLDER` (files of XStoryCloze, one per language, TSV, CSV or
JSONL), `hub:DATASET` (one configuration per language).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from babelscope.corpora.folders import named_language
from babelscope.corpora.parallel import content_hash
from babelscope.corpora.spec import Spec, parse_spec
from babelscope.errors import MissingExtra, TaskError
from babelscope.languages import parse_languages
from babelscope.results.scratch import Scratch
from babelscope.tasks.stories import Story, read_stories
from babelscope.wording import first_line

ENDING_PROMPT = "The ending in English:"
DEFAULT_STORIES = 100
_SUFFIXES = {".tsv", ".csv", ".jsonl", ".json"}
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "pocket": ("n",),
    "stories": ("split",),
    "hub": ("split", "revision"),
}


@dataclass(frozen=True)
class ClozeStory:
    """One story: its beginning in some language, its endings in English, and which of them is right (0 or 1)."""

    id: str
    beginning: str
    endings: tuple[str, str]
    label: int


@dataclass(frozen=True)
class ClozeItem:
    """What the model sees: a prompt, and two continuations of it, each with the blank in front."""

    id: str
    prompt: str
    choices: tuple[str, str]
    label: int


def cloze_items(stories: Iterable[ClozeStory]) -> list[ClozeItem]:
    """The paper's prompt (appendix B): the story, then "The ending in English:", then one of the endings.

    >>> cloze_items([ClozeStory("1", "Il pleut.", ("It is wet.", "It is dry."), 0)])[0].prompt
    'Il pleut. The ending in English:'
    """
    return [
        ClozeItem(
            story.id,
            f"{story.beginning} {ENDING_PROMPT}",
            (f" {story.endings[0]}", f" {story.endings[1]}"),
            story.label,
        )
        for story in stories
    ]


def load_stories(spec: str, languages: Sequence[str] | str | None = None) -> dict[str, list[ClozeStory]]:
    """Stories of each language, the same ones in the same order, with the English endings.

    `spec`: `pocket:?n=100`, `stories:FOLDER?split=eval`, or `hub:DATASET?split=eval`. Raises TaskError or
    InputError with one line when a file, a language or a story's English ending is missing.

    >>> load_stories("pocket:?n=2", ["fr"])["fr"][0].label in (0, 1)
    True
    """
    parsed = parse_spec(spec)
    readers: dict[str, Callable[[Spec, list[str] | None], dict[str, list[ClozeStory]]]] = {
        "pocket": _pocket,
        "stories": _folder,
        "hub": _hub,
    }
    if parsed.reader not in readers:
        raise TaskError(f"{spec}: stories come from {', '.join(f'{name}:' for name in readers)}")
    unknown = sorted(set(parsed.options) - set(_OPTIONS[parsed.reader]))
    if unknown:
        raise TaskError(
            f"{spec}: unknown option {unknown[0]!r}; {parsed.reader} takes {', '.join(_OPTIONS[parsed.reader])}"
        )
    return readers[parsed.reader](parsed, None if languages is None else parse_languages(languages))


def stories_hash(stories: Mapping[str, Sequence[ClozeStory]]) -> str:
    """SHA-256 over languages and stories."""
    texts = [json.dumps(astuple(story), ensure_ascii=False) for code in sorted(stories) for story in stories[code]]
    return content_hash(text.encode() for text in [*sorted(stories), *texts])


def _pocket(spec: Spec, languages: list[str] | None) -> dict[str, list[ClozeStory]]:
    from babelscope.pocket.heldout import heldout
    from babelscope.pocket.lexicon import languages as known

    if spec.place not in {"", "heldout"}:
        raise TaskError(f"{spec.text}: the pocket stories have no part {spec.place!r}; write pocket:")
    count = spec.integer("n") or DEFAULT_STORIES
    found: dict[str, list[ClozeStory]] = {}
    for code in languages or list(known()):
        found[code] = [
            _told(place, example.meaning_id, example.prompt.removesuffix(ENDING_PROMPT), example.target, example.foil)
            for place, example in enumerate(heldout(code, "story_english", count))
        ]
    return found


def _told(place: int, name: str, beginning: str, right: str, wrong: str) -> ClozeStory:
    """The right ending stands first in every other story, so that its place tells nothing."""
    label = place % 2
    return ClozeStory(name, beginning.strip(), (wrong, right) if label else (right, wrong), label)


def _folder(spec: Spec, languages: list[str] | None) -> dict[str, list[ClozeStory]]:
    folder = spec.path
    if not folder.is_dir():
        raise TaskError(f"{spec.text}: give the folder with one file per language")
    files = _files(folder, spec)
    if "en" not in files:
        raise TaskError(f"{spec.text}: the English file is missing, and the endings are in English")
    chosen = languages or sorted(files)
    for code in chosen:
        if code not in files:
            raise TaskError(f"{spec.text}: no file for {code}; there are {', '.join(sorted(files))}")
    english = read_stories(files["en"])
    return {code: _joined(read_stories(files[code]), english, str(files[code])) for code in chosen}


def _files(folder: Path, spec: Spec) -> dict[str, Path]:
    """Language → file: the one two-letter part of a file's name that is a language, such as `val.zh.tsv`."""
    split, found = spec.options.get("split", ""), dict[str, Path]()
    for file in sorted(folder.iterdir()):
        if file.suffix not in _SUFFIXES and not any(part in file.name for part in (".tsv", ".jsonl")):
            continue
        code = _language_in(file.name)
        if code is None or split not in file.name:
            continue
        if code in found:
            raise TaskError(f"{spec.text}: two files for {code}, {found[code].name} and {file.name}; add ?split=…")
        found[code] = file
    if not found:
        raise TaskError(f"{spec.text}: no files whose name holds a language, such as en.tsv")
    return found


def _language_in(name: str) -> str | None:
    parts = name.replace("_", ".").replace("-", ".").split(".")
    codes = {code for part in parts if len(part) == 2 and part.isascii() and (code := named_language(part))}
    if len(codes) > 1:
        raise TaskError(f"{name}: its name holds several languages, {', '.join(sorted(codes))}; leave one of them")
    return next(iter(codes), None)


def _joined(stories: Sequence[Story], english: Sequence[Story], where: str) -> list[ClozeStory]:
    """Beginnings with the English endings of the story of the same id (of the same place, where there are no ids)."""
    ids = [bool(story.item) for story in [*stories, *english]]
    named = all(ids)
    if any(ids) and not named:
        raise TaskError(f"{where}: some stories have an id and others have none, here or in English")
    endings = {story.item if named else str(place): story for place, story in enumerate(english)}
    if len(endings) < len(english):
        raise TaskError(f"{where}: two English stories have one id, so that endings cannot be told apart")
    joined: list[ClozeStory] = []
    for place, story in enumerate(stories):
        name = story.item if named else str(place)
        if name not in endings:
            raise TaskError(f"{where}: the story {name} has no English counterpart")
        if endings[name].label != story.label:
            raise TaskError(f"{where}: the story {name} has another right ending than in English")
        joined.append(ClozeStory(name, story.context, endings[name].endings, story.label))
    order = {name: place for place, name in enumerate(endings)}
    return sorted(joined, key=lambda story: order[story.id])


def _hub(spec: Spec, languages: list[str] | None) -> dict[str, list[ClozeStory]]:
    if languages is None:
        raise TaskError(f"{spec.text}: name the languages to download")
    rows = {code: _hub_rows(spec, code) for code in dict.fromkeys(["en", *languages])}
    with Scratch("stories") as folder:
        stories = {code: _through_file(folder / f"{code}.jsonl", found) for code, found in rows.items()}
    return {code: _joined(stories[code], stories["en"], f"{spec.text} in {code}") for code in languages}


def _hub_rows(spec: Spec, code: str) -> list[dict[str, object]]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtra("datasets", "hub", spec.text) from error
    options = {name: spec.options[name] for name in ("revision",) if name in spec.options}
    try:
        data: Iterable[Mapping[str, object]] = datasets.load_dataset(
            spec.place, code, split=spec.options.get("split", "eval"), **options
        )
    except Exception as error:
        raise TaskError(f"{spec.text} in {code} cannot be loaded: {first_line(error)}") from error
    return [dict(row) for row in data]


def _through_file(path: Path, rows: list[dict[str, object]]) -> list[Story]:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_stories(path)
