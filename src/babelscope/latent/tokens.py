"""Which tokens stand for a concept in a language: T(i, k) of section 1, and what is dropped for them.

first      the first token of every listed alternative, with and without a leading blank, and behind the prompt
prefixes   every string prefix of the word in the vocabulary, and for Chinese and Russian the first byte's token

n concept · K language
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from babelscope.latent.prompts import Prompt
from babelscope.latent.words import WordList
from babelscope.models import Model
from babelscope.models.model import SpecialTokens

Reading = Literal["first", "prefixes"]
BY_BYTE = ("zh", "ru")
"""languages whose words are also counted by the token of their first UTF-8 byte (under `prefixes`)"""
_ANCHOR = "a"


@dataclass(frozen=True)
class WordTokens:
    """The tokens of one concept in one language."""

    tokens: frozenset[int] = frozenset()
    single: bool = False
    """some alternative is one token, with or without a blank"""
    as_isolated: bool = False
    """behind the prompt some alternative begins with a token that it also begins with by itself"""
    partial: bool = False
    """some token is a part of a character"""
    merges: bool = False
    """every alternative runs together with the prompt's end and cannot be read there"""


@dataclass(frozen=True)
class TokenSets:
    """T(i, k) of the concepts that are asked for, and the last token of their prompts."""

    concepts: tuple[int, ...]
    """indices in the word list, one an item: all arrays of this package are in this order"""
    sets: Mapping[str, tuple[WordTokens, ...]]
    """language → by item"""
    last: tuple[frozenset[int], ...]
    """last tokens of each item's prompts"""

    def of(self, code: str) -> list[frozenset[int]]:
        """T(·, k)."""
        return [found.tokens for found in self.sets[code]]

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.sets)


def token_sets(
    model: Model,
    words: WordList,
    prompts: Sequence[Prompt],
    languages: Sequence[str],
    reading: Reading = "first",
    special: SpecialTokens = "none",
) -> TokenSets:
    """The token sets of every concept that has a prompt, in every language, read behind the concept's first prompt."""
    reader = _Reader(model, special)
    first: dict[int, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.concept, prompt)
    asked = sorted(first)
    ends: dict[int, set[int]] = {index: set() for index in asked}
    for prompt, ids in zip(prompts, model.tokenize([prompt.text for prompt in prompts], special)):
        ends[prompt.concept].add(ids[-1])
    read: Callable[[str, Sequence[str], Prompt], WordTokens] = (
        (lambda _, alternatives, prompt: reader.first(alternatives, prompt)) if reading == "first" else reader.prefixes
    )
    sets = {
        code: tuple(read(code, words.concepts[index].words.get(code, ()), first[index]) for index in asked)
        for code in languages
    }
    return TokenSets(tuple(asked), sets, tuple(frozenset(ends[index]) for index in asked))


class _Reader:
    def __init__(self, model: Model, special: SpecialTokens) -> None:
        self.model = model
        self.special: SpecialTokens = special
        self.tokenizer: Any = model.tokenizer
        unknown = self.tokenizer.unk_token_id
        self.barred = {*self.tokenizer.all_special_ids, *([] if unknown is None else [unknown])}
        self._prompts: dict[str, list[int]] = {}

    def first(self, alternatives: Sequence[str], prompt: Prompt) -> WordTokens:
        tokens: set[int] = set()
        single = as_isolated = False
        merging = 0
        for word in alternatives:
            behind = self._behind(prompt, word)
            if behind is None:
                merging += 1
                continue
            alone = [ids for ids in (self._ids(word), self._ids(f" {word}")) if ids]
            starts = {ids[0] for ids in alone}
            single |= any(len(ids) == 1 for ids in alone)
            as_isolated |= behind in starts
            tokens |= starts | {behind}
        kept = frozenset(token for token in tokens if self._counts(token))
        return WordTokens(
            kept, single, as_isolated, any(map(self.partial, kept)), bool(alternatives) and merging == len(alternatives)
        )

    def prefixes(self, code: str, alternatives: Sequence[str], prompt: Prompt) -> WordTokens:
        plain = self.first(alternatives, prompt)
        starts = {word[:length] for word in alternatives for length in range(1, len(word) + 1)}
        found = {token for text in starts for mark in ("", " ") for token in self.pieces.get(mark + text, ())}
        if code in BY_BYTE:
            found |= {token for word in alternatives for token in self._first_byte(word)}
        kept = frozenset(token for token in found if self._counts(token))
        return WordTokens(kept, plain.single, plain.as_isolated, any(map(self.partial, kept)), plain.merges)

    @cached_property
    def pieces(self) -> dict[str, list[int]]:
        """Text that each token adds inside a line → tokens."""
        anchor = self._ids(_ANCHOR)
        before = self.tokenizer.decode(anchor)
        found: dict[str, list[int]] = {}
        for token in self.tokenizer.get_vocab().values():
            text = self.tokenizer.decode([*anchor, token])
            if text.startswith(before):
                found.setdefault(text[len(before) :], []).append(token)
        return found

    def partial(self, token: int) -> bool:
        return "\N{REPLACEMENT CHARACTER}" in self.tokenizer.decode([token])

    def _first_byte(self, word: str) -> list[int]:
        vocabulary = self.tokenizer.get_vocab()
        byte = word.encode()[0]
        names = (f"<0x{byte:02X}>", _byte_level(byte))
        return [vocabulary[name] for name in names if name in vocabulary]

    def _behind(self, prompt: Prompt, word: str) -> int | None:
        """The token that follows the prompt when the word does; None where tok(prompt) is no beginning of the whole."""
        start = self._prompts.get(prompt.text)
        if start is None:
            start = self._prompts[prompt.text] = self.model.tokenize([prompt.text], self.special)[0]
        whole = self.model.tokenize([prompt.text + prompt.gap + word], self.special)[0]
        return whole[len(start)] if whole[: len(start)] == start and len(whole) > len(start) else None

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _counts(self, token: int) -> bool:
        return token not in self.barred and bool(self.tokenizer.decode([token]).strip())


def _byte_level(byte: int) -> str:
    """The letter by which byte-level BPE writes a byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [one for one in range(256) if one not in printable].index(byte))
