"""Token ids of a text and the token span of a character span, for fast and for slow tokenizers alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Span = tuple[int, int]

_BLANK = frozenset(" \t▁Ġ▂")
"""What a piece that stands for nothing but white space is written with: sentencepiece, byte-level BPE, CPM"""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text, without special tokens, and where each stands in the text if the tokenizer says so."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[Span, ...] | None
    blank: tuple[bool, ...]
    """Tokens that are white space only"""


class Encoder:
    """A tokenizer of transformers, as the tasks use it; encodings are kept for the life of the object.

    `prefix` holds the special tokens that the tokenizer puts before a text (BOS); those after it are never used,
    because a prompt is to be continued.
    """

    def __init__(self, tokenizer: Tokenizer, special: bool = True) -> None:
        self.tokenizer = tokenizer
        self.fast = bool(getattr(tokenizer, "is_fast", False))
        unknown = getattr(tokenizer, "unk_token_id", None)
        self.unknown = None if unknown is None else int(unknown)
        """Id of the token that stands for what the tokenizer does not know, if it has one"""
        self._known: dict[str, Encoded] = {}
        self._pieces: dict[int, bool] = {}
        self.prefix = self._leading_specials() if special else ()

    def encode(self, text: str) -> Encoded:
        """Ids and offsets of a text."""
        known = self._known.get(text)
        if known is None:
            if len(self._known) > 50_000:
                self._known.clear()
            known = self._known[text] = self._encode(text)
        return known

    def continuation(self, prompt: str, rest: str) -> tuple[int, ...] | None:
        """Tokens that `rest` adds to `prompt`; None when tok(prompt + rest) does not begin with tok(prompt)."""
        before, whole = self.encode(prompt).ids, self.encode(prompt + rest).ids
        if len(whole) <= len(before) or whole[: len(before)] != before:
            return None
        return whole[len(before) :]

    def span(self, text: str, start: int, end: int) -> Span | None:
        """Tokens of text[start:end] with the white space before it; None when it shares a token with its neighbours."""
        encoded = self.encode(text)
        if encoded.offsets is None:
            return self._span_by_prefixes(encoded, start, end)
        return _span_by_offsets(encoded, encoded.offsets, start, end)

    def decode(self, ids: tuple[int, ...]) -> str:
        """The text of some ids."""
        return str(self.tokenizer.decode(list(ids)))

    def _encode(self, text: str) -> Encoded:
        if not self.fast:
            ids = tuple(int(i) for i in self.tokenizer.encode(text, add_special_tokens=False))
            return Encoded(text, ids, None, self._blanks(ids))
        raw = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = tuple(int(i) for i in raw["input_ids"])
        offsets = tuple((int(start), int(end)) for start, end in raw["offset_mapping"])
        # Some fast tokenizers rewrite the text first (CPM segments words): their offsets are not about our text.
        sound = bool(offsets) and offsets[-1][1] == len(text) and all(a[0] <= b[0] for a, b in pairwise(offsets))
        return Encoded(text, ids, offsets if sound else None, self._blanks(ids))

    def _blanks(self, ids: tuple[int, ...]) -> tuple[bool, ...]:
        for token in ids:
            if token not in self._pieces:
                piece = str(self.tokenizer.convert_ids_to_tokens(token))
                self._pieces[token] = _BLANK.issuperset(piece)
        return tuple(self._pieces[token] for token in ids)

    def _leading_specials(self) -> tuple[int, ...]:
        body = list(self.encode("a").ids)
        whole = [int(i) for i in self.tokenizer.encode("a")]
        for start in range(len(whole) - len(body) + 1):
            if whole[start : start + len(body)] == body:
                return tuple(whole[:start])
        return ()

    def _span_by_prefixes(self, encoded: Encoded, start: int, end: int) -> Span | None:
        before = self.encode(encoded.text[:start].rstrip()).ids if encoded.text[:start].strip() else ()
        until = self.encode(encoded.text[:end]).ids
        if encoded.ids[: len(before)] != before or encoded.ids[: len(until)] != until or len(until) <= len(before):
            return None
        return len(before), len(until)


def _span_by_offsets(encoded: Encoded, offsets: tuple[Span, ...], start: int, end: int) -> Span | None:
    touched = [
        index
        for index, (token_start, token_end) in enumerate(offsets)
        if token_start < end and token_end > start and not encoded.blank[index]
    ]
    if not touched:
        return None
    first, last = touched[0], touched[-1]
    text = encoded.text
    if text[offsets[first][0] : start].strip() or text[end : offsets[last][1]].strip():
        return None
    # A blank token of its own before the word belongs to the word, as it does when the word is the continuation.
    while first > 0 and start > 0 and text[start - 1].isspace() and encoded.blank[first - 1]:
        first -= 1
    return first, last + 1
