"""Running text of one language, in documents: what perplexity is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from babelscope.corpora.parallel import content_hash

__all__ = ["Document", "TextCollection"]


@dataclass(frozen=True)
class Document:
    """A chapter, an article, or a line."""

    id: str
    text: str


@dataclass(frozen=True, repr=False)
class TextCollection:
    """The documents of one language, in order.

    >>> texts = TextCollection("en", (Document("1", "Once upon a time"),), "memory")
    >>> len(texts), texts.characters
    (1, 16)
    """

    language: str
    documents: tuple[Document, ...]
    spec: str
    """where it came from, as the user wrote it"""
    notes: tuple[str, ...] = ()
    """what the reader decided that the user may want to know"""
    parallel: bool = False
    """documents of one id say the same in all languages"""

    def __repr__(self) -> str:
        return f"<TextCollection {self.spec}: {len(self)} documents, {self.characters:,} characters in {self.language}>"

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.documents)

    @property
    def characters(self) -> int:
        """Unicode code points in all documents."""
        return sum(len(document.text) for document in self.documents)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over language, document ids and texts, as hexadecimal."""
        parts = [self.language.encode()]
        for document in self.documents:
            parts += [document.id.encode(), document.text.encode()]
        return content_hash(parts)
