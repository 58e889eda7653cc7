"""Pooled residual streams of parallel sentences, so that every alignment metric runs on them as on neurons.

    mean       over the tokens
    last       of the last token, final punctuation stripped first
    weighted   Σ t·h_t / Σ t, t from 1 (the default of MEXA)

Layer l = 0 … P−1: the stream entering block l; the last one enters the final norm.

L language · n sentence · P layers + 1 · D width
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError, NonFinite
from babelscope.models import Batch, Model, Site, capture, over_batches, require
from babelscope.models.model import SpecialTokens
from babelscope.models.stream_checks import require_stream
from babelscope.regions.alignment import Alignment, alignment
from babelscope.regions.alignment_measures import Centre
from babelscope.regions.confounds import length_matched
from babelscope.regions.recording import Recording

Pooling = Literal["mean", "last", "weighted"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last", "weighted")
Treatment = Literal["plain", "centred", "language-centred"]
TREATMENTS: dict[Treatment, Centre] = {"plain": "none", "centred": "all", "language-centred": "language"}
"""what is taken off every residual, over the sentences that are compared"""
MEASURES = ("lrds", "sads", "mexa", "cka", "anc")
MOVED_BY_CENTRING = ("lrds", "sads", "mexa")
"""the others take each language's mean off by themselves"""
SHUFFLES = 5


@dataclass(frozen=True)
class PooledResidual:
    """Recordings of one pass, by pooling, and how many different last tokens each language has."""

    recordings: dict[Pooling, Recording]
    last_tokens: dict[str, int]
    """few: layer 0 says nothing under `last`"""


def record_residual(
    model: Model,
    corpus: ParallelCorpus,
    poolings: Sequence[Pooling] = POOLINGS,
    special: SpecialTokens = "none",
    progress: Callable[[int], None] | None = None,
) -> PooledResidual:
    """The residual entering every block and the final norm, pooled over each sentence's tokens; one pass for all.

    A recording holds the P layers side by side, P·D "neurons" a sentence. Under `last` a sentence ends at its last
    token before final punctuation. `special` as in `record`. Raises InputError for an unknown pooling, NonFinite naming
    the sentence.

    >>> record_residual(model, corpus).recordings["mean"].layer(0).shape                  # doctest: +SKIP
    torch.Size([9, 100, 128])
    """
    unknown = [name for name in poolings if name not in POOLINGS]
    if unknown:
        raise InputError(f"no pooling {', '.join(unknown)}; there are {', '.join(POOLINGS)}")
    require(model, "regions")
    require_stream(model)
    texts = [text for code in corpus.languages for text in corpus.texts[code]]
    whole = [
        ids
        for code in corpus.languages
        for ids in model.tokenize(corpus.texts[code], special, [f"sentence {id} ({code})" for id in corpus.ids])
    ]
    before, after = model.special_ends(special)
    stripped = [len(ids) for ids in model.tokenize([_unpunctuated(text) for text in texts], special)]
    # a shorter text may be cut otherwise; its length is then only near, but never beyond the sentence
    ends = torch.tensor([max(before + 1, min(cut, len(ids)) - after) for cut, ids in zip(stripped, whole)])
    layers = model.layers + 1
    kind = torch.float64 if model.dtype == torch.float64 else torch.float32
    means: dict[Pooling, Tensor] = {
        name: torch.empty(len(texts), layers * model.width, dtype=kind) for name in poolings
    }
    sites = [Site("residual", layer) for layer in range(layers)]
    tokens = torch.zeros(len(texts), dtype=torch.long)

    def work(batch: Batch) -> None:
        mask = batch.mask.to(kind)
        place = torch.arange(mask.shape[1], device=mask.device)
        mask *= (place >= before) & (place < (batch.lengths.to(mask.device) - after)[:, None])
        rows = list(batch.rows)
        tokens[rows] = mask.sum(1).long().cpu()
        weights = [_weights(name, mask, ends[rows]) for name in poolings]

        def pool(hidden: Tensor) -> Tensor:
            stacked = torch.stack(weights, 1).to(hidden.device)
            return torch.bmm(stacked, hidden.to(kind))

        with capture(model, sites, keep=pool) as seen:
            model.trunk(batch.ids, batch.mask)
        for place, name in enumerate(poolings):
            means[name][rows] = torch.cat([seen[site][:, place].cpu() for site in sites], 1)

    with torch.inference_mode():
        over_batches(whole, work, model.device, done=progress)
    for values in means.values():
        if not bool(torch.isfinite(values).all()):
            language, sentence = divmod(int((~torch.isfinite(values)).nonzero()[0, 0]), len(corpus))
            where = f"language {corpus.languages[language]}, sentence {corpus.ids[sentence]}"
            raise NonFinite(f"a residual is NaN or infinite: {where}")
    shape = (len(corpus.languages), len(corpus))
    found: dict[Pooling, Recording] = {
        name: Recording(
            corpus.languages,
            corpus.ids,
            layers,
            values.reshape(*shape, -1).numpy(),
            tokens.reshape(shape),
            float("nan"),
            documents=tuple(corpus.groups.get(id, id) for id in corpus.ids) if corpus.groups else (),
        )
        for name, values in means.items()
    }
    ending = [ids[int(end) - 1] for ids, end in zip(whole, ends)]
    n = len(corpus)
    distinct = {code: len(set(ending[at * n : (at + 1) * n])) for at, code in enumerate(corpus.languages)}
    return PooledResidual(found, distinct)


def _weights(pooling: Pooling, mask: Float[Tensor, "B T"], ends: Tensor) -> Float[Tensor, "B T"]:
    if pooling == "last":
        return torch.nn.functional.one_hot(ends - 1, mask.shape[1]).to(mask.dtype).to(mask.device)
    # positions count from 1 at the first pooled token
    weights = mask.cumsum(1) * mask if pooling == "weighted" else mask
    return weights / weights.sum(1, keepdim=True)


def _unpunctuated(text: str) -> str:
    kept = text.rstrip()
    while len(kept) > 1 and (unicodedata.category(kept[-1])[0] == "P" or kept[-1].isspace()):
        kept = kept[:-1]
    return kept


def anisotropy(recording: Recording) -> list[float]:
    """Mean cosine over all pairs of different sentences, whatever their language, by layer: what any two share."""
    found: list[float] = []
    for layer in range(recording.layers):
        x = torch.nn.functional.normalize(recording.layer(layer).double(), dim=-1).flatten(0, 1)
        count = len(x)
        found.append(float((x.sum(0).square().sum() - count) / (count * (count - 1))))
    return found


def shuffled(recording: Recording, seed: int) -> Recording:
    """The same sentences in another order in every language: nothing is a translation any more."""
    generator = torch.Generator().manual_seed(seed)
    values = recording.values()
    orders = [torch.randperm(values.shape[1], generator=generator) for _ in recording.languages]
    return replace(recording, means=torch.stack([own[order] for own, order in zip(values, orders)]).numpy())


@dataclass(frozen=True)
class ResidualAlignment:
    """One metric of one treatment, with what it says of shuffled sentences."""

    treatment: Treatment
    alignment: Alignment
    shuffled: Float[Tensor, "P L L"]
    """mean over shuffles"""


def residual_alignment(recording: Recording, seed: int = 0, shuffles: int = SHUFFLES) -> list[ResidualAlignment]:
    """Every metric plainly, those that centring moves also with either mean off, SADS against sentences of like length;
    beside each the mean of the same number over shuffled sentences."""
    found: list[ResidualAlignment] = []
    negatives = [length_matched(recording.tokens)]
    for treatment, centre in TREATMENTS.items():
        names = MEASURES if treatment == "plain" else MOVED_BY_CENTRING
        against = negatives if treatment == "plain" else []
        nulls = [
            alignment(shuffled(recording, seed + draw), names, against, centre=centre, intervals=False)
            for draw in range(shuffles)
        ]
        for place, one in enumerate(alignment(recording, names, against, centre=centre)):
            null = torch.stack([drawn[place].values for drawn in nulls]).mean(0)
            found.append(ResidualAlignment(treatment, one, null))
    return found
