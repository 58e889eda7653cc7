"""Sentences in several languages that say the same thing, aligned by id."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from babelscope.corpora.files import shown
from babelscope.errors import CorpusError, InputError
from babelscope.languages import language as language_of
from babelscope.terms import Form

__all__ = ["ParallelCorpus", "content_hash", "running"]

UNICODE: Mapping[str, Literal["NFC", "NFD", "NFKC", "NFKD"]] = {
    "nfc": "NFC", "nfd": "NFD", "nfkc": "NFKC", "nfkd": "NFKD",
}  # fmt: skip
"""Unicode normal forms as the standard writes them"""

WITHOUT_BLANKS = {"Hans", "Hant", "Hani", "Jpan"}
"""scripts that put no blank between sentences (Thai, Khmer, … put none between words, but one between sentences)"""


@dataclass(frozen=True, repr=False)
class ParallelCorpus:
    """Languages × sentence ids: `texts[language][i]` is what `ids[i]` says in that language.

    >>> corpus = ParallelCorpus.from_texts({"en": ["a cat", "a dog"], "fr": ["un chat", "un chien"]})
    >>> len(corpus), corpus.languages, corpus.sentences("fr")[1]
    (2, ('en', 'fr'), 'un chien')
    """

    spec: str
    """where it came from, as the user wrote it"""
    languages: tuple[str, ...]
    ids: tuple[str, ...]
    """every id is present in every language"""
    texts: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, str] = field(default_factory=dict)
    """id → document (chapter, article), where known"""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """language → how many of its sentences alignment left out, because another language lacks their id"""
    notes: tuple[str, ...] = ()
    """what the reader decided that the user may want to know"""

    def __post_init__(self) -> None:
        if not self.languages:
            raise CorpusError(f"{self.spec}: a corpus needs at least one language")
        if len(set(self.ids)) != len(self.ids):
            raise CorpusError(f"{self.spec}: sentence id {shown(_first_repeated(self.ids))} occurs twice")
        if not self.ids:
            raise CorpusError(f"{self.spec}: a corpus needs at least one sentence")
        for code in self.languages:
            if len(self.texts[code]) != len(self.ids):
                raise CorpusError(
                    f"{self.spec}: {code} has {len(self.texts[code])} sentences, but there are {len(self.ids)} ids"
                )
            for sentence_id, text in zip(self.ids, self.texts[code]):
                if not text.strip():
                    raise CorpusError(f"{self.spec}: the sentence {shown(sentence_id)} is empty in {code}")

    @classmethod
    def from_texts(
        cls, texts: Mapping[str, Sequence[str]], ids: Sequence[str] | None = None, spec: str = "memory"
    ) -> ParallelCorpus:
        """A corpus from sentences already in step: the i-th of every language say the same; ids default to 1, 2, …

        Raises CorpusError when the lengths differ, an id repeats, or a sentence is empty.
        """
        if not texts:
            raise CorpusError(f"{spec}: a corpus needs at least one language")
        lengths = {code: len(sentences) for code, sentences in texts.items()}
        first, *others = lengths
        for code in others:
            if lengths[code] != lengths[first]:
                raise CorpusError(f"{spec}: {first} has {lengths[first]} sentences and {code} has {lengths[code]}")
        names = [str(i + 1) for i in range(lengths[first])] if ids is None else list(ids)
        return cls(
            spec=spec,
            languages=tuple(texts),
            ids=tuple(names),
            texts={code: tuple(sentences) for code, sentences in texts.items()},
        )

    def __repr__(self) -> str:
        return f"<ParallelCorpus {self.spec}: {len(self)} sentences in {', '.join(self.languages)}>"

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        rows = [
            [name, *(self.texts[code][place] for code in self.languages)] for place, name in enumerate(self.ids[:5])
        ]
        return table(f"{self.spec}: {len(self)} sentences, the first five", ["id", *self.languages], rows)

    def __len__(self) -> int:
        """How many sentence ids there are (not how many texts)."""
        return len(self.ids)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over languages (in any order), ids and texts, as hexadecimal; spec and documents do not enter."""
        parts = [code.encode() for code in sorted(self.languages)]
        parts += [sentence_id.encode() for sentence_id in self.ids]
        parts += [text.encode() for code in sorted(self.languages) for text in self.texts[code]]
        return content_hash(parts)

    def sentences(self, language: str) -> tuple[str, ...]:
        """The texts of one language in the order of `ids`; CorpusError when it is not in the corpus."""
        self._require([language])
        return self.texts[language]

    def select(self, ids: Iterable[str]) -> ParallelCorpus:
        """The given sentences in the given order, in every language; CorpusError on an id that is not there."""
        wanted = tuple(ids)
        place = {sentence_id: i for i, sentence_id in enumerate(self.ids)}
        unknown = [sentence_id for sentence_id in wanted if sentence_id not in place]
        if unknown:
            raise CorpusError(f"{self.spec}: no sentence {shown(unknown[0])} in the corpus ({len(unknown)} such ids)")
        rows = [place[sentence_id] for sentence_id in wanted]
        texts = {code: tuple(self.texts[code][row] for row in rows) for code in self.languages}
        return self._with(self.languages, wanted, texts)

    def sample(self, n: int, seed: int) -> ParallelCorpus:
        """n sentences drawn without replacement, in corpus order; a larger n with the same seed only adds sentences.

        Drawn by a hash of seed and id, so the same ids come out on every machine and with every numpy.
        Raises CorpusError when there are fewer than n.
        """
        if n < 1:
            raise CorpusError(f"{self.spec}: cannot sample {n} sentences; ask for at least one")
        if n > len(self):
            raise CorpusError(
                f"{self.spec}: {n} sentences are asked for, but only {len(self)} are in all languages; ask for fewer, "
                f"such as samples={len(self)}"
            )
        drawn = set(self._shuffled(f"sample {seed}")[:n])
        return self.select(sentence_id for sentence_id in self.ids if sentence_id in drawn)

    def split(self, fraction: float, seed: int) -> tuple[ParallelCorpus, ParallelCorpus]:
        """Two disjoint corpora, the first with about `fraction` of the sentences; both keep the corpus order."""
        n = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < n < len(self):
            raise CorpusError(f"{self.spec}: a share of {fraction:g} of {len(self)} sentences leaves one part empty")
        first = set(self._shuffled(f"split {seed}")[:n])
        return self.select(i for i in self.ids if i in first), self.select(i for i in self.ids if i not in first)

    def restrict(self, languages: Iterable[str]) -> ParallelCorpus:
        """The same sentences in fewer languages (or the same in another order)."""
        kept = tuple(languages)
        self._require(kept)
        return self._with(kept, self.ids, {code: self.texts[code] for code in kept})

    def normalised(self, form: Form) -> ParallelCorpus:
        """Every sentence in one Unicode normal form; a note counts the sentences that changed, by language."""
        kind = UNICODE[form]
        texts = {code: tuple(unicodedata.normalize(kind, text) for text in own) for code, own in self.texts.items()}
        changed = {code: sum(map(str.__ne__, texts[code], own)) for code, own in self.texts.items()}
        if not any(changed.values()):
            return self
        counts = ", ".join(f"{count} in {code}" for code, count in changed.items() if count)
        notes = (*self.notes, f"texts changed to Unicode form {form.upper()}: {counts}")
        return replace(self, texts=texts, notes=notes)

    def documents(self, language: str) -> list[tuple[str, str]]:
        """(document id, text) in order: sentences of one chapter or article as running prose, else one by one.

        Sentences are joined as the script does it: by a blank, or by nothing (Chinese, Japanese).
        """
        grouped: dict[str, list[str]] = {}
        for sentence_id, text in zip(self.ids, self.sentences(language)):
            grouped.setdefault(self.groups.get(sentence_id, sentence_id), []).append(text)
        return [(document, running(texts, language)) for document, texts in grouped.items()]

    def _with(
        self, languages: tuple[str, ...], ids: tuple[str, ...], texts: Mapping[str, tuple[str, ...]]
    ) -> ParallelCorpus:
        groups = {sentence_id: self.groups[sentence_id] for sentence_id in ids if sentence_id in self.groups}
        dropped = {code: self.dropped[code] for code in languages if code in self.dropped}
        return ParallelCorpus(self.spec, languages, ids, texts, groups, dropped, self.notes)

    def _require(self, languages: Iterable[str]) -> None:
        for code in languages:
            if code not in self.languages:
                raise CorpusError(f"{self.spec}: language {code} is not there; it has {', '.join(self.languages)}")

    def _shuffled(self, salt: str) -> list[str]:
        return sorted(self.ids, key=lambda i: hashlib.sha256(f"{salt}\0{i}".encode()).digest())


def running(sentences: Iterable[str], language: str) -> str:
    """Sentences as one text, joined as the language's script does it; by a blank for a language we do not know."""
    try:
        script = language_of(language).script
    except InputError:  # a corpus made in memory may call its languages anything
        script = ""
    return ("" if script in WITHOUT_BLANKS else " ").join(sentences)


def content_hash(parts: Iterable[bytes]) -> str:
    """SHA-256 of a sequence of byte strings; each is preceded by its length, so no two sequences look the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _first_repeated(items: Iterable[str]) -> str:
    return Counter(items).most_common(1)[0][0]
