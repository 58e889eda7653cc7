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
from numpy.typing import NDArray
from torch import Tensor

from babelscope.corpora import TextCollection
from babelscope.errors import InputError, NonFinite
from babelscope.models import Batch, Model, over_batches, require
from babelscope.models.encoders import refuse_next_word
from babelscope.models.refusals import refuse_unknown
from babelscope.stats import Interval, bootstrap_mean, document_parts, documents_why, no_interval, ratio_t, welch_t
from babelscope.terms import Joint, SpecialTokens

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
    names: tuple[str, ...] = ()
    """ids of the documents by index, where documents of one id say the same in all languages; else empty"""

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
    names: tuple[str, ...] = ()
    """ids of parallel documents (Windows.names)"""

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
        return perplexity_of(self.nll)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return float(self.by_document.sum()) / math.log(2) / self.byte_count


def perplexity_of(nll: float) -> float:
    """exp of a mean loss in nats a token; as much as a number holds where it would be more.

    >>> perplexity_of(0.0)
    1.0
    """
    return math.exp(min(nll, 700.0))


def cut_windows(
    model: Model,
    texts: TextCollection,
    window: int,
    limit: int | None = None,
    joint: Joint = "blank-line",
    special: SpecialTokens = "none",
) -> Windows:
    """Join documents, tokenise, cut into windows of `window` tokens; the remainder is dropped.

    `joint`: what stands between documents, a blank line (the paper) or the end-of-text token, for models that never
    saw blank lines. `limit`: at most so many windows. `special`: with `bos` or `bos-excluded` every window begins with
    the beginning-of-sequence token, which is the one that is not scored. Raises InputError when there is less text than
    one window, when window < 2, and when the tokenizer has no end-of-text token to join by, or none to begin with.
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
    refuse_unknown(model.tokenizer, [encoding["input_ids"]], [f"the text of {texts.language}"])
    ids = torch.tensor(encoding["input_ids"], dtype=torch.long)
    first = model.first_tokens(special)
    unscored, width = 1 - len(first), window - len(first)  # of each window's text, the rest of which is scored
    count = len(ids) // width
    if count == 0:
        raise InputError(
            f"the text of {texts.language} has {len(ids)} tokens, less than one window of {window}; "
            f"give --window {len(ids) + len(first)} or less"
        )
    count = min(count, limit or count)
    shape = (count, width)
    rows = ids[: count * width].reshape(shape)
    if model.tokenizer.is_fast:
        offsets = np.array(encoding["offset_mapping"][: count * width], dtype=np.int64).reshape(*shape, 2)
        starts = np.cumsum([0] + [len(document.text) + len(between) for document in texts.documents])[:-1]
        document = torch.from_numpy(np.searchsorted(starts, offsets[..., 0], side="right") - 1)
        byte_count = round(float(token_bytes(joined, offsets.reshape(-1, 2)).reshape(shape)[:, unscored:].sum()))
        names = tuple(one.id for one in texts.documents) if texts.parallel else ()
    else:
        document, names = torch.arange(count)[:, None].expand(shape), ()
        byte_count = sum(_bytes(model.tokenizer.decode(row[unscored:])) for row in rows)
    if first:
        rows = torch.cat([torch.tensor(first).expand(count, -1), rows], dim=1)
        document = torch.cat([document[:, :1], document], dim=1)
    return Windows(texts.language, rows, document, byte_count, names)


def token_bytes(text: str, offsets: Int[NDArray[np.int64], "tokens 2"]) -> Float[NDArray[np.float64], " tokens"]:
    """UTF-8 bytes of each token, which add up to those of the text up to the last one's end.

    Tokens of a byte-level vocabulary may be parts of a letter, and each then names the whole letter: its bytes are
    shared out evenly among them. What no token names (a blank that is trimmed off) belongs to the token after it.

    >>> token_bytes("aé b", np.array([[0, 1], [1, 2], [1, 2], [3, 4]])).tolist()
    [1.0, 1.0, 1.0, 2.0]
    """
    end = int(offsets[:, 1].max(initial=0))
    points = np.frombuffer(text[:end].encode("utf-32-le"), dtype=np.uint32)
    sizes = 1.0 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    before = np.concatenate([[0], np.maximum.accumulate(offsets[:, 1])[:-1]])
    starts = np.minimum(offsets[:, 0], before)
    change = np.zeros(end + 1)
    np.add.at(change, starts, 1)
    np.add.at(change, offsets[:, 1], -1)
    sharing = np.maximum(np.cumsum(change)[:-1], 1)
    upto = np.concatenate([[0.0], np.cumsum(sizes / sharing)])
    return upto[offsets[:, 1]] - upto[starts]


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
    refuse_next_word(model.encoder, model.id)
    chunk = chunk or (VOCABULARY_CHUNK if hidden.device.type == "cpu" else ACCELERATOR_CHUNK)
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    running = torch.full((len(flat),), -torch.inf, device=hidden.device, dtype=_accumulator(hidden))
    chosen = running.clone()  # stays so for a word that the unembedding has no row for: it cannot be said
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
    require(model, "regions")
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
    refuse_non_finite(model, total)
    return Loss(total, counts, windows.byte_count, windows.names)


def refuse_non_finite(model: Model, total: Float[Tensor, " documents"]) -> None:
    """Raises NonFinite naming the first document whose loss is not a number."""
    if not bool(torch.isfinite(total).all()):
        first = int((~torch.isfinite(total)).nonzero()[0, 0]) + 1
        raise NonFinite(f"{model.id} gives a loss that is not a number, first in document {first}")


def loss_change(changed: Loss, base: Loss, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean ΔNLL per token, changed − base, with its interval over documents (stats.ratio_t)."""
    if torch.equal(changed.by_document, base.by_document):
        return no_interval(0.0, "nothing changed")
    return ratio_t((changed.by_document - base.by_document).numpy(), base.counts.numpy(), draws, seed, level)


def increase_percent(change: Interval) -> Interval:
    """Increase of perplexity in percent: 100 (exp ΔNLL − 1), ends included, which a monotone map keeps.

    >>> round(increase_percent(Interval(0.0953, 0.0, 0.1)).value, 1)
    10.0
    """
    value, low, high = (100 * math.expm1(min(end, 700.0)) for end in (change.value, change.low, change.high))
    return Interval(value, low, high, change.method, change.why)


def selectivity(own: Loss, own_base: Loss, others: Mapping[str, tuple[Loss, Loss]], level: float = 0.95) -> Interval:
    """Own ΔNLL minus the mean ΔNLL of the other languages under the same region, with its interval (spec 6).

    Parallel documents: the mean over documents of the difference within each. Else the difference of the languages'
    own means, with Welch's error. By bootstrap t from five documents, by t of three or four; NaN ends with fewer.
    """
    pairs = [(own, own_base), *others.values()]
    value = (own.nll - own_base.nll) - sum(changed.nll - base.nll for changed, base in pairs[1:]) / len(others)
    parts = [_document_changes(changed, base) for changed, base in pairs]
    shared = [name for name in parts[0] if all(name in one for one in parts)]
    if all(changed.names for changed, _ in pairs) and len(shared) >= 3:
        matrix = np.array([[one[name] for name in shared] for one in parts])
        found = bootstrap_mean(matrix[0] - matrix[1:].mean(0), level=level)
        method = f"{found.method} over parallel documents"
    else:
        found = welch_t([*parts[0].values()], [[*one.values()] for one in parts[1:]], level=level)
        method = found.method
    few = documents_why(min(len(one) for one in parts))
    return Interval(value, found.low + value - found.value, found.high + value - found.value, method, found.why or few)


def _document_changes(changed: Loss, base: Loss) -> dict[str, float]:
    """Each document's part of the mean ΔNLL per token, by name (by number where documents are not parallel)."""
    used = base.counts > 0
    parts = document_parts((changed.by_document - base.by_document)[used].numpy(), base.counts[used].numpy())
    places = used.nonzero()[:, 0].tolist()
    return {base.names[place] if base.names else str(place): float(part) for place, part in zip(places, parts)}
