"""Choices between two endings as plain records: XStoryCloze (TSV or JSONL), XCOPA and COPA (JSONL)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from babelscope.errors import TaskError
from babelscope.json_text import parse_json
from babelscope.tasks.reading import lines_of, records_of


@dataclass(frozen=True)
class Story:
    """A context, two endings, and which of them is right (0 or 1)."""

    item: str
    context: str
    endings: tuple[str, str]
    label: int
    question: str = ""
    """XCOPA's "cause" or "effect"; empty for stories"""


def read_stories(path: str | Path) -> list[Story]:
    """Records of a story cloze or XCOPA file, by its columns or fields.

    Raises TaskError with the line that does not fit. Sources: Lin et al. 2022 (XStoryCloze), Ponti et al. 2020 (XCOPA).
    """
    file = Path(path)
    if not file.is_file():
        raise TaskError(f"no file of stories at {path}")
    if file.suffix in (".jsonl", ".json"):
        rows = _json_rows(file)
    else:
        rows = records_of(file, "\t" if file.suffix == ".tsv" else ",")
    if not rows:
        raise TaskError(f"{path} is empty")
    read = _reader(rows[0], file)
    stories: list[Story] = []
    for number, row in enumerate(rows, 1):
        try:
            stories.append(read(row))
        except (KeyError, ValueError, TypeError) as error:
            raise TaskError(f"{path}, record {number} does not fit: {error}") from error
        if stories[-1].label not in (0, 1):
            raise TaskError(f"{path}, record {number}: there are two endings, so no ending {stories[-1].label + 1}")
    return stories


def _reader(row: Mapping[str, object], file: Path) -> Callable[[Mapping[str, object]], Story]:
    if "premise" in row:
        return _copa
    lowered = {key.lower().replace("_", "") for key in row}
    if {"inputsentence1", "answerrightending"} <= lowered:
        return _cloze
    raise TaskError(f"{file} has the fields {', '.join(map(str, row))}; expected those of XStoryCloze or XCOPA")


def _cloze(row: Mapping[str, object]) -> Story:
    fields = {key.lower().replace("_", ""): value for key, value in row.items()}
    sentences = [_text(fields, f"inputsentence{number}").strip() for number in range(1, 5)]
    quiz = "sentencequiz" if "sentencequiz1" in fields else "randomfifthsentencequiz"
    story = str(fields.get("inputstoryid") or fields.get("storyid") or "")
    endings = (_text(fields, f"{quiz}1"), _text(fields, f"{quiz}2"))
    return Story(story, " ".join(sentences), _two(endings), _whole(fields, "answerrightending") - 1)


def _copa(row: Mapping[str, object]) -> Story:
    endings = (_text(row, "choice1"), _text(row, "choice2"))
    question = _text(row, "question")
    if question not in ("cause", "effect"):
        raise ValueError(f"the question is {question[:40]!r}, not cause or effect")
    return Story(str(row["idx"]), _text(row, "premise"), _two(endings), _whole(row, "label"), question)


def _two(endings: tuple[str, str]) -> tuple[str, str]:
    if endings[0].strip() == endings[1].strip():
        raise ValueError("both endings are the same, so neither is right")
    return endings


def _text(row: Mapping[str, object], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is no text but {str(value)[:40]!r}")
    return value


def _whole(row: Mapping[str, object], name: str) -> int:
    """A whole number as JSON or a table holds it; nothing is rounded, and true is no 1."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{name} is no whole number but {str(value)[:40]!r}")
    return int(value)


def _json_rows(file: Path) -> list[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = []
    for number, line in enumerate(lines_of(file), 1):
        if not line.strip():
            continue
        row: object = parse_json(line, f"{file}, line {number}", TaskError)
        if not isinstance(row, dict):
            raise TaskError(f"{file}, line {number} is not a JSON object")
        rows.append(row)
    return rows
