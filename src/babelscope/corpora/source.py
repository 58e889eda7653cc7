"""What every reader returns, and how it becomes a corpus: texts by language and id, aligned by id."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TypeVar

from babelscope.corpora.files import shown
from babelscope.corpora.parallel import UNICODE, ParallelCorpus, running
from babelscope.corpora.spec import Spec
from babelscope.corpora.texts import Document, TextCollection
from babelscope.errors import CorpusError

__all__ = ["FORMS", "Source", "add_text", "align", "check_text", "choose", "collect", "normalised"]

Item = TypeVar("Item")


def _never(_: str) -> bool:
    return False


@dataclass(frozen=True)
class Source:
    """Texts as a reader found them: nothing aligned yet, empty texts still there for the audit to see."""

    texts: Mapping[str, Mapping[str, str]]
    """language → id → text, in the order of the file"""
    documents: Mapping[str, str] = field(default_factory=dict)
    """id → document, where known"""
    notes: tuple[str, ...] = ()
    may_stand_alone: Callable[[str], bool] = _never
    """whether an id may be present in one language only (verse numbers differ between Bibles; line numbers do not)"""


FORMS = tuple(UNICODE)


def normalised(source: Source, form: str) -> Source:
    """Every text in one Unicode normal form (`normalise=nfc`); the notes count the texts that changed, by language."""
    kind = UNICODE[form]
    changed: Counter[str] = Counter()
    texts: dict[str, dict[str, str]] = {}
    for code, own in source.texts.items():
        texts[code] = {i: unicodedata.normalize(kind, text) for i, text in own.items()}
        changed[code] = sum(texts[code][i] != text for i, text in own.items())
    counts = ", ".join(f"{count} in {code}" for code, count in changed.items() if count) or "none"
    return replace(source, texts=texts, notes=(*source.notes, f"texts changed to Unicode form {kind}: {counts}"))


def check_text(text: str, where: str) -> str:
    """The text itself; CorpusError when it holds half a surrogate pair, which no UTF-8 file and no hash can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{where}: character {error.start} is half a surrogate pair (U+{ord(text[error.start]):04X})"
        ) from error
    return text


def add_text(texts: dict[str, str], sentence_id: str, text: str, where: str) -> None:
    """Put one text under its id; CorpusError when the id is taken."""
    if sentence_id in texts:
        raise CorpusError(f"{where}: the id {shown(sentence_id)} occurs twice; ids must be unique within a language")
    texts[check_text(sentence_id, where)] = check_text(text, f"{where}, id {shown(sentence_id)}")


def choose(available: Mapping[str, Item], languages: Sequence[str] | None, spec: Spec) -> dict[str, Item]:
    """The requested languages among those that a place offers (all of them by default), in the order requested.

    Raises CorpusError that lists what is there when one is missing.
    """
    if languages is None:
        return dict(available)
    missing = [code for code in languages if code not in available]
    if missing:
        there = ", ".join(sorted(available)) or "nothing"
        raise CorpusError(f"{spec.text}: no text in {', '.join(missing)}; available: {there}")
    return {code: available[code] for code in languages}


def align(source: Source, spec: Spec) -> ParallelCorpus:
    """The ids that every language has, in the order of the first; what is left out is counted in `dropped`.

    Raises CorpusError when a language holds no text, when no id is common, and when an id is in one language only
    and neither the reader nor the option `lone=drop` allows that.
    """
    lone = spec.choice("lone", ("auto", "drop", "error"), "auto")
    present = {code: {i: text for i, text in texts.items() if text.strip()} for code, texts in source.texts.items()}
    for code, texts in present.items():
        if not texts:
            raise CorpusError(f"{spec.text}: {code} holds no text at all")
    count = Counter(sentence_id for texts in present.values() for sentence_id in texts)
    first = next(iter(present))
    common = [sentence_id for sentence_id in present[first] if count[sentence_id] == len(present)]
    if not common:
        examples = "; ".join(f"{code}: {shown(next(iter(texts)))}" for code, texts in list(present.items())[:4])
        raise CorpusError(f"{spec.text}: no sentence id is in all of {', '.join(present)} (first ids: {examples})")
    if len(present) > 1 and lone != "drop":
        _refuse_lone_ids(present, count, spec, _never if lone == "error" else source.may_stand_alone)
    aligned = {code: tuple(texts[sentence_id] for sentence_id in common) for code, texts in present.items()}
    return ParallelCorpus(
        spec=spec.text,
        languages=tuple(present),
        ids=tuple(common),
        texts=aligned,
        groups={
            sentence_id: source.documents[sentence_id] for sentence_id in common if sentence_id in source.documents
        },
        dropped={code: len(texts) - len(common) for code, texts in present.items()},
        notes=(*source.notes, *_the_same(aligned)),
    )


def _the_same(texts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What to say of two languages most of whose sentences are one text, as of a file that was copied or linked."""
    pairs: Counter[tuple[str, str]] = Counter()
    for said in zip(*texts.values()):
        if len(set(said)) < len(said):
            pairs.update(
                pair for pair, both in zip(combinations(texts, 2), combinations(said, 2)) if both[0] == both[1]
            )
    count = len(next(iter(texts.values())))
    for (one, other), same in pairs.items():
        if count > 1 and 2 * same > count:
            yield f"{same} of {count} sentences are the same in {one} and {other}"


def _refuse_lone_ids(
    present: Mapping[str, Mapping[str, str]], count: Counter[str], spec: Spec, allowed: Callable[[str], bool]
) -> None:
    for code, texts in present.items():
        lone = [sentence_id for sentence_id in texts if count[sentence_id] == 1 and not allowed(sentence_id)]
        if lone:
            raise CorpusError(
                f"{spec.text}: id {shown(lone[0])} of {code} is in no other language ({len(lone)} such ids); "
                f"correct the ids, or leave them out with {spec.join}lone=drop"
            )


def collect(source: Source, spec: Spec) -> dict[str, TextCollection]:
    """All text of each language on its own, by document; `limit=N` keeps the first N documents.

    Raises CorpusError when a language holds no text.
    """
    limit = spec.integer("limit")
    collections: dict[str, TextCollection] = {}
    for code, texts in source.texts.items():
        grouped: dict[str, list[str]] = {}
        for sentence_id, text in texts.items():
            if text.strip():
                grouped.setdefault(source.documents.get(sentence_id, sentence_id), []).append(text)
        if not grouped:
            raise CorpusError(f"{spec.text}: {code} holds no text at all")
        documents = [Document(name, running(lines, code)) for name, lines in grouped.items()]
        collections[code] = TextCollection(code, tuple(documents[:limit]), spec.text, source.notes)
    return collections
