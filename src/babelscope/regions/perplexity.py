"""Perplexity over long windows without ever holding a window's logits (regions.md, section 5).

The log-sum-exp over the vocabulary is accumulated over chunks of words, so the extra memory is B · T · chunk instead
of B · T · V: 2 048 words instead of 250 880 on a CPU, whose cache then still holds the logits when they are summed.

B window · T position · D model width · V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.corpora import TextCollection
from babelscope.errors import InputError, NonFinite
from babelscope.models import Batch, Model, over_batches
from babelscope.terms import Joint

VOCABULARY_CHUNK, ACCELERATOR_CHUNK = 2048, 16384
"""words at a time (benchmarks/perplexity.py)"""
BLANK_LINE = "\n\n"
"""between documents, as in the paper"""


@dataclass(frozen=True)
class Windows:
    """The tokens of one language's text, cut into windows, each scored token assigned to its document."""

    language: str
    ids: Int[Tensor, "B T"]
    document: Int[Tensor, "B T"]
    """index of the document (or of the window, where the tokenizer tells no offsets) of each token"""
    byte_count: int
    """UTF-8 bytes of the scored tokens"""

    @property
    def tokens(self) -> int:
        """Scored tokens: the first of each window is not scored."""
        return self.ids.shape[0] * (self.ids.shape[1] - 1)


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihood in nats of one text under one condition."""

    by_document: Float[Tensor, " documents"]
    counts: Int[Tensor, " documents"]
    byte_count: int

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    @property
    def nll(self) -> float:
        """Mean per token."""
        return float(self.by_document.sum() / self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(mean token NLL)."""
        return math.exp(min(self.nll, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return float(self.by_document.sum()) / math.log(2) / self.byte_count


def cut_windows(
    model: Model, texts: TextCollection, window: int, limit: int | None = None, joint: Joint = "blank-line"
) -> Windows:
    """Join documents, tokenise, cut into windows of `window` tokens; the remainder is dropped.

    `joint`: what stands between documents, a blank line (the paper) or the end-of-text token, for models that never
    saw blank lines. `limit`: at most so many windows. Raises InputError when there is less text than one window, when
    window < 2, and when the tokenizer has no end-of-text token to join by.
    """
    if window < 2:
        raise InputError(f"a window of {window} tokens scores nothing; take at least 2")
    model.check_length(window, "a window")
    between = _between(model, joint)
    joined = between.join(document.text for document in texts.documents)
    # the tokenizer's own length warning is about models with learned positions; windows are cut below
    encoding = model.tokenizer(
        joined, add_special_tokens=False, return_offsets_mapping=model.tokenizer.is_fast, verbose=False
    )
    model.check_ids(encoding["input_ids"], f"the text of {texts.language}")
    ids = torch.tensor(encoding["input_ids"], dtype=torch.long)
    count = len(ids) // window
    if count == 0:
        raise InputError(
            f"the text of {texts.language} has {len(ids)} tokens, less than one window of {window}; "
            f"give --window {len(ids)} or less"
        )
    count = min(count, limit or count)
    shape = (count, window)
    if not model.tokenizer.is_fast:
        document = torch.arange(count)[:, None].expand(shape)
        scored = [model.tokenizer.decode(row[1:]) for row in ids[: count * window].reshape(shape)]
        return Windows(
            texts.language, ids[: count * window].reshape(shape), document, sum(_bytes(text) for text in scored)
        )
    offsets = np.array(encoding["offset_mapping"][: count * window], dtype=np.int64).reshape(*shape, 2)
    starts = np.cumsum([0] + [len(document.text) + len(between) for document in texts.documents])[:-1]
    document = np.searchsorted(starts, offsets[..., 0], side="right") - 1
    byte_count = sum(_bytes(joined[int(row[0, 1]) : int(row[-1, 1])]) for row in offsets)
    return Windows(texts.language, ids[: count * window].reshape(shape), torch.from_numpy(document), byte_count)


def _between(model: Model, joint: Joint) -> str:
    if joint == "blank-line":
        return BLANK_LINE
    if not model.tokenizer.eos_token:
        raise InputError(f"the tokenizer of {model.id} has no end-of-text token; join documents by blank-line")
    return model.tokenizer.eos_token


def _bytes(text: str) -> int:
    return len(text.encode())


def token_losses(
    model: Model, hidden: Float[Tensor, "B T D"], targets: Int[Tensor, "B T"], chunk: int | None = None
) -> Float[Tensor, "B T"]:
    """−log p(target) from final hidden states, over chunks of the vocabulary with a running log-sum-exp.

    Extra memory B · T · chunk · 4 bytes; in float32 whatever the model's dtype.
    """
    chunk = chunk or (VOCABULARY_CHUNK if hidden.device.type == "cpu" else ACCELERATOR_CHUNK)
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    running = torch.full((len(flat),), -torch.inf, device=hidden.device, dtype=_accumulator(hidden))
    chosen = torch.zeros_like(running)
    if model.scales.logits is None:
        logits = model.logits(flat).to(running.dtype)
        return (logits.logsumexp(-1) - logits.gather(-1, wanted[:, None])[:, 0]).reshape(targets.shape)
    # read once: an offloaded unembedding is brought into memory for this
    weight, bias = model.unembedding.to(hidden.device), model.unembedding_bias
    words = len(weight)
    for start in range(0, words, chunk):
        part = torch.arange(start, min(start + chunk, words), device=hidden.device)
        chosen_rows = slice(start, start + len(part))
        raw = torch.nn.functional.linear(flat, weight[chosen_rows], None if bias is None else bias[chosen_rows])
        logits = model.finish_logits(raw).to(running.dtype)
        running = torch.logaddexp(running, logits.logsumexp(-1))
        mine = (wanted >= start) & (wanted < start + len(part))
        chosen[mine] = logits[mine, wanted[mine] - start]
    return (running - chosen).reshape(targets.shape)


def _accumulator(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def score(
    model: Model, windows: Windows, budget: int | None = None, progress: Callable[[int], None] | None = None
) -> Loss:
    """Loss of a text under the model as it is now (inside `deactivate`: as edited).

    Independent of batch size and of the vocabulary chunk.
    """
    sequences: Sequence[Sequence[int]] = windows.ids.tolist()
    documents = int(windows.document.max()) + 1
    total = torch.zeros(documents, dtype=torch.float64)
    counts = torch.zeros(documents, dtype=torch.long)

    def work(batch: Batch) -> None:
        hidden = model.trunk(batch.ids, batch.mask)
        losses = token_losses(model, hidden[:, :-1], batch.ids[:, 1:].to(hidden.device)).double().cpu().reshape(-1)
        owner = windows.document[list(batch.rows), 1:].reshape(-1)
        total.index_add_(0, owner, losses)
        counts.index_add_(0, owner, torch.ones_like(owner))
        if progress:
            progress(batch.ids.numel())

    with torch.inference_mode():
        over_batches(sequences, work, model.device, budget)
    if not bool(torch.isfinite(total).all()):
        raise NonFinite(f"{model.id} gives a loss that is not a number, first in document {_first(total)}")
    return Loss(total, counts, windows.byte_count)


def _first(total: Tensor) -> int:
    return int((~torch.isfinite(total)).nonzero()[0, 0]) + 1


def delta_interval(changed: Loss, base: Loss, draws: int = 1000, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the mean ΔNLL per token, paired over documents; None with fewer than three documents."""
    used = base.counts > 0
    if int(used.sum()) < 3:
        return None
    difference, counts = (changed.by_document - base.by_document)[used], base.counts[used].double()
    picks = torch.randint(0, len(counts), (draws, len(counts)), generator=torch.Generator().manual_seed(seed))
    means = difference[picks].sum(1) / counts[picks].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high


def selectivity(
    own: Loss, own_base: Loss, others: Mapping[str, tuple[Loss, Loss]], draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Own ΔNLL minus the mean ΔNLL of the other languages under the same region, with its 95 % interval.

    Documents are resampled within each language; returns (value, low, high); the interval is NaN where a language has
    fewer than three documents.
    """
    generator = torch.Generator().manual_seed(seed)
    mine = _resampled(own, own_base, draws, generator)
    rest = torch.stack([_resampled(changed, base, draws, generator) for changed, base in others.values()]).mean(0)
    value = (own.nll - own_base.nll) - sum(changed.nll - base.nll for changed, base in others.values()) / len(others)
    low, high = torch.quantile(mine - rest, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return value, low, high


def _resampled(changed: Loss, base: Loss, draws: int, generator: torch.Generator) -> Float[Tensor, " draws"]:
    used = base.counts > 0
    if int(used.sum()) < 3:
        return torch.full((draws,), torch.nan, dtype=torch.float64)
    difference, counts = (changed.by_document - base.by_document)[used], base.counts[used].double()
    picks = torch.randint(0, len(counts), (draws, len(counts)), generator=generator)
    return difference[picks].sum(1) / counts[picks].sum(1)
