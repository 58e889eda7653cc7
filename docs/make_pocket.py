"""Write the tables of `docs/pocket-training-notes.md` again from what was measured.

babelscope pocket evaluate --json pocket.json
python docs/make_pocket.py pocket.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "pocket-training-notes.md"
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
FIRST, LAST = "<!-- tables -->", "<!-- end of tables -->"
CHOICES = {
    "ioi": "Indirect object, new names in new templates",
    "ioi_names": "Indirect object, new names in the training's templates",
    "ioi_templates": "Indirect object, the training's names in new templates",
    "ioi_seen": "Indirect object, new scenes with the training's names and templates",
    "tense": "Tense, seen verbs in unseen pairs of template and verb",
    "tense_verbs": "Tense, verbs that no tense pair of training has",
}
Row = dict[str, Any]


def percent(row: Row) -> str:
    return f"{100 * row['share']:.0f} ({100 * row['low']:.0f}–{100 * row['high']:.0f})"


def line(first: str, cells: list[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


def head(*cells: str) -> Iterator[str]:
    yield line(cells[0], list(cells[1:]))
    yield "|" + "---|" * len(cells)


def numbers(rows: list[Row]) -> str:
    found = {language: {row["n"] for row in rows if row["language"] == language} for language in LANGUAGES}
    counts = {language: min(n) for language, n in found.items() if n}
    usual = max(set(counts.values()), key=list(counts.values()).count)
    other = "".join(f"; {language} {n}" for language, n in counts.items() if n != usual)
    return f"n = {usual}{other}"


def perplexity(rows: list[Row]) -> Iterator[str]:
    yield "Perplexity per token (bootstrap over documents):\n"
    yield from head("model", *LANGUAGES)
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = {row["language"]: row for row in rows if row["model"] == model}
        texts = {code: f"{row['perplexity']:.2f} ({row['low']:.2f}–{row['high']:.2f})" for code, row in cells.items()}
        yield line(model, [texts.get(code, "") for code in LANGUAGES])


def choices(rows: list[Row], kind: str) -> Iterator[str]:
    chosen = [row for row in rows if (row["kind"], row["group"], row["revision"]) == (kind, "all", "main")]
    yield f"\n{CHOICES[kind]}, % right ({numbers(chosen)}):\n"
    yield from head("model", *LANGUAGES)
    for model in dict.fromkeys(row["model"] for row in chosen):
        cells = {row["language"]: percent(row) for row in chosen if row["model"] == model}
        yield line(model, [cells.get(code, "") for code in LANGUAGES])


def templates(rows: list[Row]) -> Iterator[str]:
    """New names in each of the held-out templates, where a model is below 95 % in a language."""
    chosen = [row for row in rows if row["kind"] == "ioi" and row["revision"] == "main" and row["group"][0] == "t"]
    weak = {
        (row["model"], row["language"])
        for row in rows
        if row["kind"] == "ioi" and row["group"] == "all" and row["revision"] == "main" and row["share"] < 0.95
        and row["model"] in ("pocket-bloom-m", "pocket-bloom-l")
    }  # fmt: skip
    if not weak:
        return
    names = sorted({row["group"] for row in chosen})
    yield "\nThe same by held-out template, where `-m` or `-l` is below 95 %:\n"
    yield from head("model", "language", *names)
    for model, language in sorted(weak):
        cells = {
            row["group"]: f"{percent(row)} of {row['n']}"
            for row in chosen if (row["model"], row["language"]) == (model, language)
        }  # fmt: skip
        yield line(model, [language, *(cells.get(name, "") for name in names)])


def cloze(rows: list[Row]) -> Iterator[str]:
    main = [row for row in rows if row["revision"] == "main"]
    yield (
        "\nStory in a language, ending in English, right against wrong by summed log-likelihood, no example given, "
        f"% right ({numbers(main)}; `others` is the mean of the eight, a story counting once):\n"
    )
    yield from head("model", *LANGUAGES, "others")
    for model in dict.fromkeys(row["model"] for row in main):
        cells = {row["language"]: percent(row) for row in main if row["model"] == model}
        yield line(model, [cells.get(code, "") for code in (*LANGUAGES, "others")])


def checkpoints(found: dict[str, list[Row]], model: str = "pocket-bloom-m") -> Iterator[str]:
    yield f"\n`{model}` by checkpoint, % right:\n"
    kinds = ("ioi", "ioi_seen", "tense")
    yield from head("step", *(f"{kind}, {code}" for kind in kinds for code in ("en", "zh")), "story, en", "others")
    for revision in dict.fromkeys(row["revision"] for row in found["choices"] if row["model"] == model):
        here = [row for row in found["choices"] if (row["model"], row["revision"]) == (model, revision)]
        right = {(row["kind"], row["language"]): percent(row) for row in here if row["group"] == "all"}
        ended = [row for row in found["cloze"] if (row["model"], row["revision"]) == (model, revision)]
        stories = {row["language"]: percent(row) for row in ended}
        cells = [right.get((kind, code), "") for kind in kinds for code in ("en", "zh")]
        yield line(revision, [*cells, stories.get("en", ""), stories.get("others", "")])


def main(source: Path) -> None:
    found = json.loads(source.read_text(encoding="utf-8"))
    written = list(perplexity(found["perplexity"]))
    for kind in CHOICES:
        written += choices(found["choices"], kind)
        written += templates(found["choices"]) if kind == "ioi" else []
    written += [*cloze(found["cloze"]), *checkpoints(found)]
    text = "\n".join(written)
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"{FIRST}.*?{LAST}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"{FIRST}\n{text}\n{LAST}", page), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
