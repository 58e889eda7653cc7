"""One pass over a parallel corpus that keeps, for every sentence, the mean activation of every neuron (eq. 5).

Cost: one trunk pass up to the last layer's neurons, no logits. Memory: L · n · D float32 (4 bytes) on the host, or on
disk where `store` names a file.

L language · n sentence · D neurons of the whole model, layer-major · B batch · T position · N neurons of one layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.errors import CorpusError, NonFinite
from babelscope.models import Batch, Model, Site, capture, over_batches
from babelscope.models.gate import require
from babelscope.models.hooks import hook_count
from babelscope.models.model import SpecialTokens

NEURON_CHUNK = 16384
"""neurons per block when a recording is streamed"""


@dataclass(frozen=True, repr=False)
class Recording:
    """Mean activations of parallel sentences; what every score of this package is computed from."""

    languages: tuple[str, ...]
    ids: tuple[str, ...]
    layers: int
    means: Any
    """[L, n, D] float32 (float64 for a float64 model): a numpy array, or a memory map of the same shape"""
    tokens: Int[Tensor, "L n"]
    """tokens pooled in each sentence"""
    first_position_share: float
    """share of ‖v‖² that comes from the first token, mean over sentences"""
    activity: Float[Tensor, "L D"] | None = None
    """share of tokens with h > 0 by language and neuron, where it was asked for (LAPE)"""

    @property
    def neurons(self) -> int:
        return int(self.means.shape[-1])

    def __repr__(self) -> str:
        return (
            f"<Recording of {self.neurons:,} neurons in {self.layers} layers: {len(self.ids)} sentences in "
            f"{', '.join(self.languages)}>"
        )

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        facts = {
            "Languages": ", ".join(self.languages),
            "Sentences per language": len(self.ids),
            "Neurons, layers": f"{self.neurons}, {self.layers}",
            "Tokens": int(self.tokens.sum()),
            "Share of the first position": self.first_position_share,
        }
        return table("Mean activations", [], facts.items())

    def values(self, columns: slice = slice(None)) -> Float[Tensor, "L n D"]:
        """The stored means of some neurons, as a tensor."""
        part = np.ascontiguousarray(self.means[:, :, columns])
        # a file mapped for reading only cannot lend its memory to a tensor
        return torch.from_numpy(part if part.flags.writeable else part.copy())

    def layer(self, layer: int) -> Float[Tensor, "L n N"]:
        """The means of one layer's neurons."""
        width = self.neurons // self.layers
        return self.values(slice(layer * width, (layer + 1) * width))

    def norms(self) -> Float[Tensor, "L n"]:
        """‖v‖₂ of each sentence over the whole model, in float64."""
        squares = sum((self.values(block).double().square().sum(-1) for block in self.chunks()), torch.zeros(()))
        return squares.sqrt()

    def chunks(self, size: int = NEURON_CHUNK) -> Iterator[slice]:
        """Slices that cover the neurons."""
        return (slice(start, min(start + size, self.neurons)) for start in range(0, self.neurons, size))

    def unit_chunks(self, size: int = NEURON_CHUNK) -> Iterator[tuple[slice, Float[Tensor, "L n D"]]]:
        """Blocks of the unit vectors x = v / ‖v‖ (eq. 6), in float64, neurons by neurons."""
        norms = self.norms()[..., None]
        for block in self.chunks(size):
            yield block, self.values(block).double() / norms

    def top_share(self, count: int = 10) -> float:
        """Share of ‖v‖² carried by each sentence's `count` largest neurons, mean over sentences."""
        best: Tensor | None = None
        for block in self.chunks():
            squares = self.values(block).double().square()
            squares = squares if best is None else torch.cat([best, squares], dim=-1)
            best = squares.topk(min(count, squares.shape[-1]), dim=-1).values
        assert best is not None
        return float((best.sum(-1) / self.norms().square()).mean())


def record(
    model: Model,
    corpus: ParallelCorpus,
    special: SpecialTokens = "none",
    activity: bool = False,
    budget: int | None = None,
    store: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Recording:
    """Mean activation vectors a(s) of every sentence of a parallel corpus (eq. 5), padding never in the mean.

    `special`: no special token; a beginning-of-sequence token; or one that is left out of the mean. `store`: a file to
    hold the means instead of memory. Raises CorpusError for a sentence without tokens, NonFinite for an activation that
    is NaN or infinite or a vector that is zero, each naming language, sentence and layer.

    >>> recording = record(model, corpus.sample(100, seed=0))         # doctest: +SKIP
    >>> recording.means.shape                                         # doctest: +SKIP
    (9, 100, 4608)
    """
    pooled = _Pooled(model, corpus, special, activity, store)
    with torch.inference_mode():
        over_batches(pooled.sequences, pooled.add, model.device, budget, progress)
    return pooled.finish()


class _Pooled:
    """Accumulates the pooled activations batch by batch; rows are (language, sentence) in language-major order."""

    def __init__(
        self, model: Model, corpus: ParallelCorpus, special: SpecialTokens, activity: bool, store: Path | None
    ) -> None:
        self.model, self.corpus, self.special = model, corpus, special
        require(model, "regions")
        self.sequences = _token_ids(model, corpus, special)
        self.dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        shape = (len(corpus.languages), len(corpus), model.neurons)
        kind = np.float64 if self.dtype == torch.float64 else np.float32
        self.means: Any = (
            np.empty(shape, kind) if store is None else np.lib.format.open_memmap(store, "w+", kind, shape)
        )
        self.first = torch.zeros(len(self.sequences), dtype=torch.float64)
        self.pooled_tokens = torch.zeros(len(self.sequences), dtype=torch.long)
        self.active = torch.zeros(len(corpus.languages), model.neurons) if activity else None
        self.sites = [Site("neurons", layer) for layer in range(model.layers)]
        self.last = _stopping_place(model)

    def add(self, batch: Batch) -> None:
        weights = batch.mask.to(self.dtype)
        if self.special == "bos-excluded":
            weights[:, 0] = 0
        counts = weights.sum(1, keepdim=True)
        pool = _Pool(weights, weights / counts, self.active is not None, self.last)
        with suppress(_Enough), capture(self.model, self.sites, keep=pool):
            self.model.trunk(batch.ids, batch.mask)
        parts = pool.parts
        means = torch.cat([part[0] for part in parts], dim=1).cpu()
        rows = list(batch.rows)
        self._check(means, rows)
        # one copy to the host per batch
        self.means.reshape(-1, self.model.neurons)[rows] = means.numpy()
        shares = sum((part[1].double().cpu() for part in parts), torch.zeros(len(rows), dtype=torch.float64))
        self.first[rows] = shares / means.double().square().sum(1)
        self.pooled_tokens[rows] = counts[:, 0].long().cpu()
        if self.active is not None:
            active = torch.cat([part[2] for part in parts], dim=1).float().cpu()
            self.active.index_add_(0, torch.tensor(rows) // len(self.corpus), active)

    def _check(self, means: Tensor, rows: list[int]) -> None:
        bad = ~torch.isfinite(means).all(1) | (means == 0).all(1)
        if not bad.any():
            return
        place = int(bad.nonzero()[0, 0])
        language, sentence = divmod(rows[place], len(self.corpus))
        where = f"language {self.corpus.languages[language]}, sentence {self.corpus.ids[sentence]}"
        wrong = (~torch.isfinite(means[place])).nonzero()
        if len(wrong) == 0:
            raise NonFinite(f"all activations are zero: {where}")
        raise NonFinite(
            f"an activation is NaN or infinite: {where}, layer {int(wrong[0]) // self.model.neurons_per_layer}"
        )

    def finish(self) -> Recording:
        shape = (len(self.corpus.languages), len(self.corpus))
        tokens = self.pooled_tokens.reshape(shape)
        activity = None if self.active is None else self.active / tokens.sum(1, keepdim=True)
        return Recording(
            self.corpus.languages,
            self.corpus.ids,
            self.model.layers,
            self.means,
            tokens,
            float(self.first.mean()),
            activity,
        )


class _Enough(Exception):
    """The last layer's neurons are read; nothing behind them is wanted."""


def _stopping_place(model: Model) -> int | None:
    """Number of layers after which a pass may be broken off, or None where others watch or place the model's parts."""
    watched = hook_count(model.hf) > 0 or getattr(model.hf, "hf_device_map", None) is not None
    return None if watched else model.layers


class _Pool:
    """Reduces each layer's h [B, T, N] to its mean over real tokens, the first token's part of ‖v‖², counts of h > 0.

    Layers come in their order; after `last` of them the pass is broken off.
    """

    def __init__(
        self, weights: Float[Tensor, "B T"], shares: Float[Tensor, "B T"], activity: bool, last: int | None
    ) -> None:
        self.weights, self.shares, self.activity, self.last = weights, shares, activity, last
        self.parts: list[tuple[Tensor, ...]] = []

    def __call__(self, h: Tensor) -> Tensor:
        self.parts.append(self._reduced(h))
        if len(self.parts) == self.last:
            raise _Enough
        return self.parts[-1][0]

    def _reduced(self, h: Tensor) -> tuple[Tensor, ...]:
        shares = self.shares.to(h.device)
        values = h.to(shares.dtype)
        mean = torch.bmm(shares[:, None], values)[:, 0]
        first = (mean * values[:, 0]).sum(1) * shares[:, 0]
        if not self.activity:
            return mean, first
        active = torch.bmm(self.weights.to(h.device)[:, None], (values > 0).to(shares.dtype))[:, 0]
        return mean, first, active


def _token_ids(model: Model, corpus: ParallelCorpus, special: SpecialTokens) -> list[list[int]]:
    sequences: list[list[int]] = []
    for language in corpus.languages:
        texts: Sequence[str] = corpus.texts[language]
        for id, text in zip(corpus.ids, texts):
            if not text.strip():
                raise CorpusError(f"language {language}, sentence {id}: the text is empty")
        names = [f"sentence {id} ({language})" for id in corpus.ids]
        sequences += model.tokenize(texts, special, names)
    return sequences
