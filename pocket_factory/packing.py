"""Documents as one long row of tokens, and the fixed windows of it that training reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from babelscope.errors import CorpusError
from pocket_factory.tokenizer import END_OF_TEXT

MIXED = "mixed"
"""Label of a document in more than one language."""

BATCH = 4096
"""documents tokenised at once"""


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Packed documents, each followed by `</s>`: token ids and, beside each token, the index of its label."""

    tokens: NDArray[np.uint16]
    labels: NDArray[np.uint8]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def windows(self, length: int) -> int:
        """How many windows of `length` inputs and as many targets, one to the right, the row holds."""
        return (len(self.tokens) - 1) // length

    def batch(self, rows: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids [row, length + 1] and labels of the targets [row, length] of some windows."""
        positions = rows[:, None] * length + np.arange(length + 1)
        return self.tokens[positions].astype(np.int64), self.labels[positions[:, 1:]].astype(np.int64)

    def save(self, directory: Path) -> None:
        """Write the arrays and the label names; `tokens.npy` last, so that its presence means that all is there."""
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / "labels.npy", self.labels)
        (directory / "labels.txt").write_text("\n".join(self.names) + "\n", encoding="utf-8")
        partial = directory / "partial.npy"
        np.save(partial, self.tokens)
        partial.replace(directory / "tokens.npy")

    @classmethod
    def load(cls, directory: Path) -> TokenStream | None:
        """What `save` wrote, read from disk as it is needed; None where nothing is complete."""
        if not (directory / "tokens.npy").is_file():
            return None
        names = (directory / "labels.txt").read_text(encoding="utf-8").split()
        tokens = np.load(directory / "tokens.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(directory / "labels.npy", mmap_mode="r", allow_pickle=False)
        return cls(tokens, labels, tuple(names))


def pack(documents: Iterable[tuple[str, str]], tokenizer: Tokenizer, limit: int) -> TokenStream:
    """Tokenise (label, text) pairs until `limit` tokens are there, in the order given.

    Raises CorpusError when there is no document, or the vocabulary does not fit sixteen bits.
    """
    if tokenizer.get_vocab_size() > 2**16:
        raise CorpusError(f"a vocabulary of {tokenizer.get_vocab_size()} words does not fit into 16 bits")
    tokens: list[NDArray[np.uint16]] = []
    labels: list[NDArray[np.uint8]] = []
    index: dict[str, int] = {}
    total = 0
    for chunk in _chunks(documents):
        for (label, _), encoding in zip(chunk, tokenizer.encode_batch_fast([text for _, text in chunk])):
            row = np.array([*encoding.ids, END_OF_TEXT], dtype=np.uint16)
            tokens.append(row)
            labels.append(np.full(len(row), index.setdefault(label, len(index)), dtype=np.uint8))
            total += len(row)
        if total >= limit:
            break
    if not tokens:
        raise CorpusError("there are no documents to train on")
    return TokenStream(np.concatenate(tokens)[:limit], np.concatenate(labels)[:limit], tuple(index))


class Order:
    """Which windows a step reads: a new seeded shuffle in every pass over the data, so that a step is its number."""

    def __init__(self, windows: int, batch: int, seed: int) -> None:
        if windows < batch:
            raise CorpusError(f"the corpus fills {windows} windows, fewer than one step of {batch}")
        self.windows, self.batch, self.seed = windows, batch, seed
        self._epoch, self._shuffled = -1, np.empty(0, dtype=np.int64)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Windows of a step, counted from 0."""
        epoch, position = divmod(step, self.windows // self.batch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.windows)
        return self._shuffled[position * self.batch : (position + 1) * self.batch]


def _chunks(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    iterator = iter(documents)
    while chunk := list(islice(iterator, BATCH)):
        yield chunk
