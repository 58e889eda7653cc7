"""Prompt pairs as batches of exactly equal length, with the answer's tokens teacher-forced where there are several.

A pair whose target and foil are one token each is one row, scored by the difference of two logits at END. Otherwise it
is two rows, the prompt continued by the target and by the foil, scored by + and − the sum of log-probabilities; for
one-token answers both definitions are the same number.

N row · T position · A answer position · P role position
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from babelscope.errors import TaskError

if TYPE_CHECKING:
    from babelscope.tasks import PromptPair

END = "END"
PROMPT = "a prompt with its answer"
"""what is too long, in errors"""


@dataclass(frozen=True)
class Rows:
    """Rows of one length, one answer width and one kind of scoring."""

    pairs: tuple[PromptPair, ...]
    index: tuple[int, ...]
    """which pair of the caller's list each row belongs to"""
    signs: tuple[int, ...]
    """0: one row scores target against foil; +1: the target's continuation; −1: the foil's"""
    clean: Int[Tensor, "N T"]
    corrupted: Int[Tensor, "N T"]
    answer: int
    """A: how many answer positions there are; they are the last A"""
    words: Int[Tensor, "N A"]
    """the answer's tokens (target where signs are 0)"""
    foils: Int[Tensor, " N"] | None
    """the foil's token where signs are 0"""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def length(self) -> int:
        return self.clean.shape[1]

    def span(self, role: str | None, base: Int[Tensor, "N T"], source: Int[Tensor, "N T"]) -> Int[Tensor, "N P"]:
        """Positions of a role in each row, shorter spans filled up by repeating their last position.

        END covers all positions at which an answer token is read off. None: every position from the first at which
        `base` and `source` differ in any row (nothing can differ before it).
        """
        if role is None:
            start = min(first_difference(base, source), self.length - self.answer)
            return torch.arange(start, self.length, device=base.device).expand(len(self), -1)
        if role == END:
            return torch.arange(self.length - self.answer, self.length, device=base.device).expand(len(self), -1)
        spans = [span_of(pair, role) for pair in self.pairs]
        width = max(end - start for start, end in spans)
        filled = [[min(start + step, end - 1) for step in range(width)] for start, end in spans]
        return torch.tensor(filled, device=base.device)


def span_of(pair: PromptPair, role: str) -> tuple[int, int]:
    """Token span of a role; raises TaskError with the roles that exist."""
    if role not in pair.roles:
        raise TaskError(f"no role {role!r} in {pair.language} {pair.template}; there are {', '.join(pair.roles)}")
    return pair.roles[role]


def first_difference(base: Int[Tensor, "N T"], source: Int[Tensor, "N T"]) -> int:
    """First position at which any row of two batches differs; the last position where none does."""
    differing = (base != source).any(0).nonzero()
    return int(differing[0]) if len(differing) else base.shape[1] - 1


def batches(pairs: Sequence[PromptPair], budget: int, device: torch.device) -> Iterator[Rows]:
    """All pairs as batches of equal length with at most `budget` tokens (never empty), without padding.

    Raises TaskError when there are none, when clean and corrupted lengths differ, or when targets equal foils.
    """
    check_pairs(pairs)
    groups: dict[tuple[int, int, bool], list[tuple[int, int]]] = {}
    for place, pair in enumerate(pairs):
        if len(pair.target) == len(pair.foil) == 1:
            groups.setdefault((len(pair.clean), 1, True), []).append((place, 0))
            continue
        for sign, answer in ((1, pair.target), (-1, pair.foil)):
            key = (len(pair.clean) + len(answer) - 1, len(answer), False)
            groups.setdefault(key, []).append((place, sign))
    for (length, answer, _), entries in sorted(groups.items()):
        # rows that first differ at about the same position go together, so that little of the prefix is recomputed
        entries.sort(key=lambda entry: _first_changed(pairs[entry[0]]))
        size = max(1, budget // length)
        for start in range(0, len(entries), size):
            yield _rows(pairs, entries[start : start + size], answer, device)


def check_pairs(pairs: Sequence[PromptPair]) -> None:
    """Raises TaskError saying which pair cannot be patched, and why."""
    if not pairs:
        raise TaskError("no prompt pair was given")
    for pair in pairs:
        name = f"pair {pair.item} ({pair.language} {pair.template})"
        if len(pair.clean) != len(pair.corrupted):
            raise TaskError(f"{name}: clean has {len(pair.clean)} tokens and corrupted {len(pair.corrupted)}")
        if tuple(pair.target) == tuple(pair.foil):
            raise TaskError(f"{name}: target and foil are the same tokens, so there is nothing to compare")


def _first_changed(pair: PromptPair) -> int:
    return next((place for place, (a, b) in enumerate(zip(pair.clean, pair.corrupted)) if a != b), len(pair.clean))


def _rows(pairs: Sequence[PromptPair], entries: Sequence[tuple[int, int]], answer: int, device: torch.device) -> Rows:
    chosen = [pairs[place] for place, _ in entries]
    answers = [pair.foil if sign < 0 else pair.target for pair, (_, sign) in zip(chosen, entries)]
    single = entries[0][1] == 0

    def ids(which: str) -> Tensor:
        return torch.tensor([[*getattr(pair, which), *words[:-1]] for pair, words in zip(chosen, answers)]).to(device)

    return Rows(
        pairs=tuple(chosen),
        index=tuple(place for place, _ in entries),
        signs=tuple(sign for _, sign in entries),
        clean=ids("clean"),
        corrupted=ids("corrupted"),
        answer=answer,
        words=torch.tensor([list(words) for words in answers]).to(device),
        foils=torch.tensor([pair.foil[0] for pair in chosen]).to(device) if single else None,
    )
