"""Prompt pairs of random tokens, for tests that need prompts but no meaning."""

from __future__ import annotations

import torch

from babelscope.tasks import PromptPair


def random_pair(
    item: int, length: int = 9, changed: tuple[int, ...] = (3, 6), answer: tuple[int, int] = (1, 1), words: int = 96
) -> PromptPair:
    """A pair whose corrupted prompt differs at `changed`; roles A (one token), B (two tokens), END."""
    generator = torch.Generator().manual_seed(1000 + item)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(word) for word in torch.randperm(words - 4, generator=generator)[:count] + 4)

    clean = tokens(length)
    corrupted = list(clean)
    for place in changed:
        corrupted[place] = clean[place] - 1 if clean[place] > 4 else words - 1
    target, foil = tokens(sum(answer))[: answer[0]], tokens(sum(answer))[-answer[1] :]
    return PromptPair(
        item=item,
        language="en",
        template=f"t{item % 2}",
        order="ABBA" if item % 2 else "BABA",
        stratum="",
        split="strict",
        clean=clean,
        corrupted=tuple(corrupted),
        clean_text="",
        corrupted_text="",
        target=target,
        foil=foil,
        roles={"A": (changed[0], changed[0] + 1), "B": (changed[-1], changed[-1] + 2), "END": (length - 1, length)},
    )


def random_pairs() -> list[PromptPair]:
    """Pairs of two lengths, with one-token and longer answers, that differ at different places."""
    return [
        random_pair(0),
        random_pair(1, changed=(2, 5)),
        random_pair(2, length=7, changed=(0, 4)),
        random_pair(3, changed=(4, 6), answer=(2, 1)),
        random_pair(4, length=7, changed=(1, 5), answer=(2, 2)),
    ]
