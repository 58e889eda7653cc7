"""One pass over a parallel corpus that keeps, for every sentence, the mean activation of every neuron (eq. 5).

Cost: one trunk pass up to the last layer's neurons, no logits. Memory: L · n · D float32 (4 bytes) on the host, or on
disk where `store` names a file.

L language · n sentence · D neurons of the whole model, layer-major · B batch · T position · N neurons of one layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.errors import CorpusError, InputError, NonFinite, UnsupportedModel
from babelscope.models import Model
from babelscope.models.batches import plan, token_budget
from babelscope.models.gate import require
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.models.stream_checks import require_stream
from babelscope.models.workers import over_workers
from babelscope.regions.pooled_batches import PooledBatch, PooledBatches, Pooling
from babelscope.regions.routed import Routing
from babelscope.regions.routing_recording import RoutingTally
from babelscope.stats import MOST_GROUPS, group_items
from babelscope.terms import First, Norm, Pooled, RecordedSite, SpecialTokens

NEURON_CHUNK = 16384
"""neurons per block where a wide one is what is wanted: read from a disk, or multiplied into a matrix of all pairs"""
_CACHED = 2**19
"""numbers of a block that is worked on in float64: it has to stay in the processor's cache"""


@dataclass(frozen=True)
class Span:
    """What a sentence's mean is taken over, and of what."""

    first: First = "keep"
    """drop: the first pooled token stays out of the mean (LLaMA-like models carry massive activations there)"""
    tokens: Pooled = "all"
    """shortest: only as many tokens as the sentence has in the language where it has fewest"""
    weighted: bool = False
    """neurons of routed experts are taken times their routing weight"""
    site: RecordedSite = "neurons"
    """residual: dimensions of the stream before each block and behind the last, in the place of neurons"""


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
    """share of ‖v‖² that comes from the first pooled token, mean over sentences"""
    activity: Float[Tensor, "L D"] | None = None
    """share of tokens with h > 0 by language and neuron, where it was asked for (LAPE)"""
    documents: tuple[str, ...] = ()
    """document of each sentence; empty: sentences are taken as independent"""
    norm: Norm = "paper"
    """what a sentence's vector is divided by: ‖v‖ without its sinks, ‖v‖ (eq. 6), or nothing"""
    out: Bool[Tensor, " D"] | None = None
    """sinks: neurons left out of the norm and of every score; None: none is"""
    layers_out: Bool[Tensor, "P N"] | None = None
    """the same for numbers by layer, where each layer has its own norm"""
    first_part: Float[Tensor, "L D"] | None = None
    """share of Σ v² over the sentences that the first pooled token carries, by language and neuron"""
    span: Span = Span()
    """which tokens the means are taken over"""
    routing: Routing | None = None
    """in a mixture of experts: what its routers did with the same tokens"""
    too_short: int = 0
    """sentences that were left out in all languages because one language has a single token of them"""
    widths: tuple[int, ...] = ()
    """neurons of each layer; empty: all layers are alike"""

    @property
    def neurons(self) -> int:
        return int(self.means.shape[-1])

    @cached_property
    def layout(self) -> NeuronLayout:
        """How the neurons are laid out over layers; raises InputError where that is not known."""
        return NeuronLayout(self.widths) if self.widths else NeuronLayout.even(self.layers, self.neurons)

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

    def stored(self, columns: slice = slice(None)) -> Float[Tensor, "L n D"]:
        """The stored means of some neurons, sinks included, as a tensor."""
        part = np.ascontiguousarray(self.means[:, :, columns])
        # a file mapped for reading only cannot lend its memory to a tensor
        return torch.from_numpy(part if part.flags.writeable else part.copy())

    def values(self, columns: slice = slice(None)) -> Float[Tensor, "L n D"]:
        """The means of some neurons; sinks are 0."""
        part = self.stored(columns)
        return part if self.out is None else part.masked_fill(self.out[columns], 0)

    def layer(self, layer: int) -> Float[Tensor, "L n N"]:
        """The means of one layer's neurons; the layer's own sinks are 0."""
        columns = self.layout.columns(layer)
        part = self.stored(columns)
        if self.layers_out is None:
            return part
        return part.masked_fill(self.layers_out[layer, : columns.stop - columns.start], 0)

    def kept(self) -> Bool[Tensor, " D"]:
        """Neurons that are scored: all but sinks."""
        return torch.ones(self.neurons, dtype=torch.bool) if self.out is None else ~self.out

    def groups(self, most: int = MOST_GROUPS, seed: int = 0) -> Int[Tensor, " n"]:
        """Document of each sentence by number, whole documents put together where there are more than `most`."""
        return torch.from_numpy(group_items(self.documents or self.ids, most, seed))

    @property
    def document_count(self) -> int:
        """Documents, or sentences where these are taken as independent."""
        return len(set(self.documents or self.ids))

    def like(self, other: Recording) -> Recording:
        """Another recording of the same sentences under this one's norm, without this one's sinks, by its documents."""
        return replace(other, norm=self.norm, out=self.out, layers_out=self.layers_out, documents=self.documents)

    def subset(self, places: Sequence[int]) -> Recording:
        """The same recording of some of its sentences (the facts of tokens included, those of neurons as they were)."""
        rows = list(places)
        documents = tuple(self.documents[row] for row in rows) if self.documents else ()
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            means=self.means[:, rows],
            tokens=self.tokens[:, rows],
            documents=documents,
            routing=None,
        )

    def norms(self) -> Float[Tensor, "L n"]:
        """‖v‖₂ of each sentence over the whole model, sinks left out, in float64; 1 where nothing is normalised."""
        if self.norm == "none":
            return torch.ones(len(self.languages), len(self.ids), dtype=torch.float64)
        squares = sum((self.values(block).double().square().sum(-1) for block in self.chunks()), torch.zeros(()))
        return squares.sqrt()

    def chunks(self, size: int | None = None) -> Iterator[slice]:
        """Slices that cover the neurons, `size` at a time; without one as many as the processor's cache holds."""
        size = size or min(max(256, _CACHED // max(1, self.tokens.numel())), NEURON_CHUNK)
        return (slice(start, min(start + size, self.neurons)) for start in range(0, self.neurons, size))

    def unit_chunks(self, size: int | None = None) -> Iterator[tuple[slice, Float[Tensor, "L n D"]]]:
        """Blocks of the unit vectors x = v / ‖v‖ (eq. 6), in float64, neurons by neurons."""
        norms = self.norms()[..., None]
        for block in self.chunks(size):
            yield block, self.values(block).double() / norms

    def top_share(self, count: int = 10) -> float:
        """Share of ‖v‖² carried by each sentence's `count` largest neurons, mean over sentences."""
        best: Tensor | None = None
        whole = torch.zeros(())
        for block in self.chunks():
            squares = self.stored(block).double().square()
            whole = whole + squares.sum(-1)
            squares = squares if best is None else torch.cat([best, squares], dim=-1)
            best = squares.topk(min(count, squares.shape[-1]), dim=-1).values
        assert best is not None
        return float((best.sum(-1) / whole).mean())

    def first_share(self) -> float:
        """Share of Σ v² over the scored neurons that the first pooled token carries; NaN where it was not recorded."""
        if self.first_part is None:
            return float("nan")
        whole, first = 0.0, 0.0
        for block in self.chunks():
            squares = self.values(block).double().square().sum(1)
            whole += float(squares.sum())
            first += float((self.first_part[:, block] * squares).sum())
        return first / whole


def record(
    model: Model,
    corpus: ParallelCorpus,
    special: SpecialTokens = "auto",
    activity: bool = False,
    budget: int | None = None,
    store: Path | None = None,
    progress: Callable[[int], None] | None = None,
    span: Span | None = None,
) -> Recording:
    """Mean activation vectors a(s) of every sentence of a parallel corpus (eq. 5), padding never in the mean.

    `special`: none; a beginning-of-sequence token; one that is left out of the mean; or the tokenizer's own around the
    text, left out of the mean (`auto`: these of an encoder, else none). `store`: a file to
    hold the means instead of memory. `span`: which tokens the mean is taken over; where the first is dropped, sentences
    of one token in some language leave all languages. The corpus' documents are kept. Raises InputError for
    routing weights of a model without routed experts, CorpusError for a sentence without tokens, NonFinite for an
    activation that is NaN or infinite or a vector that is zero, each naming language, sentence and layer.

    >>> recording = record(model, corpus.sample(100, seed=0))         # doctest: +SKIP
    >>> recording.means.shape                                         # doctest: +SKIP
    (9, 100, 4608)
    """
    span = span or Span()
    whole = len(corpus)
    if span.first == "drop":
        corpus = _longer_than_one(model, corpus, special)
    if span.site == "neurons" and model.no_neurons:
        raise UnsupportedModel(f"{model.no_neurons}; or record its residual stream: --site residual")
    if span.weighted and not (model.mixtures and span.site == "neurons"):
        raise InputError(f"{model.id} is no mixture of experts: there is no routing weight to take neurons times")
    pooled = _Pooled(model, corpus, special, activity, store, span)
    batches = plan([len(ids) for ids in pooled.asked.sequences], budget or token_budget(model.device))
    for parts in over_workers(model, PooledBatches, pooled.asked, batches, progress):
        for part in parts:
            pooled.add(part)
    return replace(pooled.finish(), span=span, too_short=whole - len(corpus))


def _longer_than_one(model: Model, corpus: ParallelCorpus, special: SpecialTokens) -> ParallelCorpus:
    """The sentences that have two pooled tokens or more in every language."""
    around = sum(model.special_ends(special))
    counts = torch.tensor([len(ids) - around for ids in _token_ids(model, corpus, special)])
    least = counts.reshape(len(corpus.languages), -1).amin(0)
    kept = [id for id, count in zip(corpus.ids, least.tolist()) if count > 1]
    if not kept:
        raise CorpusError("every sentence has a single token in some language: nothing is left without the first")
    return corpus.select(kept)


class _Pooled:
    """Accumulates the pooled activations batch by batch; rows are (language, sentence) in language-major order."""

    def __init__(
        self,
        model: Model,
        corpus: ParallelCorpus,
        special: SpecialTokens,
        activity: bool,
        store: Path | None,
        span: Span,
    ) -> None:
        self.corpus = corpus
        require(model, "regions")
        residual = span.site == "residual"
        if residual:
            require_stream(model)
        sequences = _token_ids(model, corpus, special)
        begin, after = model.special_ends(special)
        end = torch.tensor([len(ids) - after for ids in sequences])
        if span.tokens == "shortest":
            shortest = end.reshape(len(corpus.languages), -1).amin(0)
            end = shortest.repeat(len(corpus.languages))
        self.asked = Pooling(sequences, begin + int(span.first == "drop"), end, activity, span.weighted, residual)
        self.layout = NeuronLayout((model.width,) * (model.layers + 1)) if residual else model.layout
        shape = (len(corpus.languages), len(corpus), self.layout.neurons)
        kind = np.float64 if model.dtype == torch.float64 else np.float32
        self.means: Any = (
            np.empty(shape, kind) if store is None else np.lib.format.open_memmap(store, "w+", kind, shape)
        )
        self.first = torch.zeros(len(sequences), dtype=torch.float64)
        self.first_part, self.squares = torch.zeros(2, len(corpus.languages), self.layout.neurons)
        self.pooled_tokens = torch.zeros(len(sequences), dtype=torch.long)
        self.active = torch.zeros(len(corpus.languages), self.layout.neurons) if activity else None
        self.tally = RoutingTally(model, len(sequences)) if model.mixtures and not residual else None

    def add(self, part: PooledBatch) -> None:
        rows = list(part.rows)
        # what came from another process lies in memory for reading only
        means, first = (torch.from_numpy(each if each.flags.writeable else each.copy())
                        for each in (part.means, part.first))  # fmt: skip
        counts = torch.tensor(part.counts)
        if self.tally is not None:
            self.tally.store(rows, counts, part.routing)
            self.tally.per_token = max(self.tally.per_token, part.per_token)
        self._check(means, rows)
        self.means.reshape(-1, self.layout.neurons)[rows] = part.means
        self.first[rows] = first.double().sum(1) / means.double().square().sum(1)
        owners = torch.tensor(rows) // len(self.corpus)
        self.first_part.index_add_(0, owners, first.float())
        self.squares.index_add_(0, owners, means.float().square())
        self.pooled_tokens[rows] = counts
        if self.active is not None and part.active is not None:
            self.active.index_add_(0, owners, torch.tensor(part.active))

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
        raise NonFinite(f"an activation is NaN or infinite: {where}, layer {self.layout.name(int(wrong[0]))[0]}")

    def finish(self) -> Recording:
        shape = (len(self.corpus.languages), len(self.corpus))
        tokens = self.pooled_tokens.reshape(shape)
        activity = None if self.active is None else self.active / tokens.sum(1, keepdim=True)
        return Recording(
            self.corpus.languages,
            self.corpus.ids,
            self.layout.layers,
            self.means,
            tokens,
            float(self.first.mean()),
            activity,
            documents=tuple(self.corpus.groups.get(id, id) for id in self.corpus.ids) if self.corpus.groups else (),
            first_part=self.first_part / self.squares.clamp_min(torch.finfo(torch.float32).tiny),
            routing=None if self.tally is None else self.tally.finish(self.corpus.languages, self.corpus.ids),
            widths=() if self.layout.alike else self.layout.widths,
        )


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
