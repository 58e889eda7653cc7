"""LRDS and SADS with any document left out, and intervals made of that: sentences of a document are not independent.

The similarity map summed over pairs of documents holds all that is needed, (LG)² numbers instead of (nL)².

L language · n sentence · G document (or group of documents) · R selection of documents · D neuron
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.regions.recording import NEURON_CHUNK, Recording
from babelscope.regions.similarity import Means, layer_units, whole_means
from babelscope.stats import JACKKNIFE, Interval, documents_why, jackknife_error, jackknife_t, no_interval, t_ends

FEW_LEFT = "too few sentences are left without a document"


@dataclass(frozen=True)
class DocumentMap:
    """Similarities summed over the sentences of documents."""

    pairs: Float[Tensor, "L G L G"]
    """Σ over i in g, j in h of x[l,i] · x[m,j]"""
    translations: Float[Tensor, "L L G"]
    """Σ over i in g of x[l,i] · x[m,i]; the diagonal is Σ ‖x‖²"""
    sizes: Int[Tensor, " G"]
    """sentences of each document"""

    def pair_means(self, kept: Float[Tensor, "R G"]) -> Means:
        """A, B and C of each pair of languages over some of the documents (similarity.pair_means). [R, L, L]."""
        n = (kept @ self.sizes.double())[:, None, None]
        inner = torch.einsum("rg,lgmh,rh->rlm", kept, self.pairs, kept)
        same = torch.einsum("rg,lmg->rlm", kept, self.translations)
        others = (inner - same) / (n * (n - 1))
        own = others.diagonal(dim1=1, dim2=2)
        itself = torch.eye(inner.shape[1], dtype=torch.bool)
        nan = float("nan")
        return Means(
            (own[:, :, None] + own[:, None]) / 2, (same / n).masked_fill(itself, nan), others.masked_fill(itself, nan)
        )

    def means(self, kept: Float[Tensor, "R G"]) -> Means:
        """A, B and C over all languages (eq. 7–9). [R]."""
        pairs = self.pair_means(kept)
        languages = self.pairs.shape[0]
        own = pairs.same_language.diagonal(dim1=1, dim2=2).mean(1)
        count = languages * (languages - 1)
        return Means(own, pairs.same_sentence.nansum((1, 2)) / count, pairs.neither.nansum((1, 2)) / count)

    def each_left_out(self) -> Float[Tensor, "kept G"]:
        """All documents but one, for every one; no row where that leaves fewer than two sentences."""
        rows = 1 - torch.eye(len(self.sizes), dtype=torch.float64)
        return rows[rows @ self.sizes.double() >= 2]


def document_map(blocks: Iterable[Float[Tensor, "L n C"]], groups: Int[Tensor, " n"]) -> DocumentMap:
    """The map of unit vectors that come in blocks of neurons: O(L · n · D + (LG)² · D) time, (LG)² memory."""
    sizes = torch.bincount(groups)
    count = len(sizes)
    pairs: Tensor | None = None
    translations: Tensor | None = None
    for x in blocks:
        languages = len(x)
        sums = torch.zeros(languages, count, x.shape[-1], dtype=x.dtype).index_add_(1, groups, x)
        flat = sums.reshape(languages * count, -1)
        product = (flat @ flat.T).reshape(languages, count, languages, count)
        same = torch.stack([(x * one).sum(-1) for one in x])
        same = torch.zeros(languages, languages, count, dtype=x.dtype).index_add_(2, groups, same)
        pairs = product if pairs is None else pairs + product
        translations = same if translations is None else translations + same
    assert pairs is not None
    assert translations is not None
    return DocumentMap(pairs, translations, sizes)


def whole_map(recording: Recording, seed: int = 0) -> DocumentMap:
    """Of the whole model."""
    return document_map((x for _, x in recording.unit_chunks(NEURON_CHUNK)), recording.groups(seed=seed))


def layer_map(recording: Recording, layer: int, seed: int = 0) -> DocumentMap:
    """Of one layer, whose vectors have a norm of their own."""
    return document_map([layer_units(recording, layer)], recording.groups(seed=seed))


def score_intervals(whole: Means, blocks: DocumentMap) -> dict[str, Interval]:
    """Intervals of LRDS, SADS, A, B and C from their values with each document left out."""
    left_out = blocks.means(blocks.each_left_out())
    few = len(left_out.lrds) < 2 <= len(blocks.sizes)
    named = {"lrds": "lrds", "sads": "sads", **{name: name for name in ("same_language", "same_sentence", "neither")}}
    return {
        name: no_interval(float(getattr(whole, field)), FEW_LEFT, JACKKNIFE)
        if few
        else jackknife_t(float(getattr(whole, field)), getattr(left_out, field).numpy())
        for name, field in named.items()
    }


def whole_intervals(recording: Recording, seed: int = 0) -> dict[str, Interval]:
    """LRDS, SADS, A, B and C of the whole model with their intervals."""
    return score_intervals(whole_means(recording), whole_map(recording, seed))


def pair_ends(values: Float[Tensor, "*shape"], left_out: Float[Tensor, "G *shape"]) -> tuple[Tensor, Tensor, str]:
    """Ends of the leave-one-document-out t interval of every entry, and what limits it (column `why`)."""
    groups = len(left_out)
    if groups < 2:
        nothing = torch.full_like(values, torch.nan)
        return nothing, nothing, documents_why(1)
    low, high = t_ends(values.numpy(), jackknife_error(left_out.numpy()), groups - 1)
    return torch.from_numpy(low), torch.from_numpy(high), documents_why(groups)
