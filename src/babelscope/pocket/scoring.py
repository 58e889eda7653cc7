"""What a model thinks of texts, and how sure one may be of the averages: plain `transformers`, no hooks.

N text · T position · V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from babelscope.errors import InputError, NonFinite
from babelscope.proportions import mean_share
from babelscope.stats import percentile, wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel


BATCH_TOKENS = 2048
"""tokens run at once, padding included"""
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion with its 95 % Wilson interval."""

    n: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity per token with its 95 % bootstrap interval over documents."""

    documents: int
    tokens: int
    perplexity: float
    low: float
    high: float
    bits_per_byte: float


class Scorer:
    """A model and its tokenizer from a directory, in float32, ready to score texts."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.longest: int = getattr(self.model.config, "n_positions", 0) or 10**9

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return int(self.model.config.vocab_size)

    @property
    def parameters(self) -> int:
        """Number of weights, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """log p(continuation | prompt) in nats, summed over the tokens of each continuation."""
        rows = [([self.tokenizer.eos_token_id, *self.ids(prompt)], self.ids(text)) for prompt, text in pairs]
        losses = self.token_losses([prompt + text for prompt, text in rows])
        return np.array([-loss[-len(text) :].sum() for loss, (_, text) in zip(losses, rows)])

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of documents, each between two `</s>` as in training."""
        end = self.tokenizer.eos_token_id
        return [[end, *self.ids(text), end] for text in texts]

    def token_losses(self, rows: Sequence[list[int]]) -> list[NDArray[np.float64]]:
        """−log p of every token but the first of each row, in nats; rows are batched by length, padded at the right.

        Raises InputError for a row that is longer than the model's positions, NonFinite for a loss that is no number.
        """
        if (most := max(map(len, rows), default=0)) > self.longest:
            raise InputError(f"a text of {most} tokens, where the model has {self.longest} positions")
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        losses: list[NDArray[np.float64]] = [np.empty(0)] * len(rows)
        for batch in _batches(order, list(map(len, rows))):
            for row, loss in zip(batch, self._run([rows[row] for row in batch])):
                losses[row] = loss
        if not all(np.isfinite(loss).all() for loss in losses):
            raise NonFinite("the model gives a loss that is not a number")
        return losses

    @torch.no_grad()
    def _run(self, rows: list[list[int]]) -> list[NDArray[np.float64]]:
        width = max(map(len, rows))
        ids = torch.tensor([row + [self.tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        table = losses.view(len(rows), -1).double().numpy()
        return [row[: len(ids) - 1] for row, ids in zip(table, rows)]


def accuracy(right: Iterable[bool | np.bool_]) -> Share:
    """Share of right answers with its Wilson interval.

    >>> accuracy([True, True, False, True]).share
    0.75
    """
    answers = list(right)
    found = wilson(sum(map(bool, answers)), len(answers))
    return Share(len(answers), found.value, found.low, found.high)


def crossed(right: Mapping[str, Mapping[str, bool]]) -> Share:
    """Mean over languages of the share of right answers, given by language and story: a story counts once in all."""
    found = mean_share(right)
    return Share(len({story for told in right.values() for story in told}), found.value, found.low, found.high)


def perplexity(losses: Sequence[NDArray[np.float64]], texts: Sequence[str], seed: int = 0) -> Perplexity:
    """exp of the mean loss per token, over all tokens of all documents, resampling documents for the interval."""
    sums = np.array([loss.sum() for loss in losses])
    counts = np.array([len(loss) for loss in losses])
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = percentile(np.exp(sums[drawn].sum(1) / counts[drawn].sum(1)))
    size = sum(len(text.encode()) for text in texts)
    return Perplexity(
        documents=len(sums),
        tokens=int(counts.sum()),
        perplexity=float(np.exp(sums.sum() / counts.sum())),
        low=float(low),
        high=float(high),
        bits_per_byte=float(sums.sum() / np.log(2) / size),
    )


def _batches(order: list[int], lengths: list[int]) -> Iterable[list[int]]:
    """Neighbours in the order of length, as many as fit into the token budget."""
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) + 1) * lengths[row] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
