"""The similarity map and its three means: LRDS and SADS (eq. 7–9), exact, by layer, language pair and neuron.

A  same language, different sentence · B  different language, same sentence · C  different language, different sentence
LRDS = A − C (lower: more language-agnostic) · SADS = B − C (higher: more semantic)

L language · n sentence · D neuron · P layer
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.recording import NEURON_CHUNK, Recording


@dataclass(frozen=True)
class Means:
    """The three means of a similarity map and the scores made of them."""

    same_language: Float[Tensor, "*shape"]
    """A"""
    same_sentence: Float[Tensor, "*shape"]
    """B"""
    neither: Float[Tensor, "*shape"]
    """C"""

    @property
    def lrds(self) -> Float[Tensor, "*shape"]:
        """Language-related difference score, A − C (eq. 8)."""
        return self.same_language - self.neither

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C summed over the last dimension: of a whole, from its neurons' shares."""
        return self.same_language.sum(-1), self.same_sentence.sum(-1), self.neither.sum(-1)

    @property
    def sads(self) -> Float[Tensor, "*shape"]:
        """Semantic alignment difference score, B − C (eq. 9)."""
        return self.same_sentence - self.neither

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        named = {
            "LRDS (lower: more language-agnostic)": self.lrds,
            "SADS (higher: more semantic)": self.sads,
            "same language": self.same_language,
            "same sentence": self.same_sentence,
            "neither": self.neither,
        }
        if self.neither.numel() == 1:
            return table("Means of the similarity map", [], [[name, float(value)] for name, value in named.items()])
        rows = zip(range(self.neither.numel()), *(value.flatten().tolist() for value in named.values()))
        return table(f"Means of the similarity map {list(self.neither.shape)}", ["", *named], rows)


def neuron_means(x: Float[Tensor, "L n D"]) -> Means:
    """Each neuron's share of A, B and C, in closed form (section 3): summed over neurons they are the whole.

    O(L · n · D) time; no pair is ever formed. Raises InputError with fewer than two languages or sentences.

    >>> x = torch.nn.functional.normalize(torch.rand(3, 4, 5, dtype=torch.float64), dim=-1)
    >>> neuron_means(x).lrds.shape
    torch.Size([5])
    """
    languages, sentences, _ = x.shape
    if languages < 2 or sentences < 2:
        raise InputError(f"similarity needs two languages and two sentences; there are {languages} and {sentences}")
    own = x.square().sum((0, 1))
    by_language = x.sum(1).square().sum(0)
    by_sentence = x.sum(0).square().sum(0)
    total = x.sum((0, 1)).square()
    pairs = languages * sentences * (languages - 1) * (sentences - 1)
    return Means(
        (by_language - own) / (languages * sentences * (sentences - 1)),
        (by_sentence - own) / (sentences * languages * (languages - 1)),
        (total - by_language - by_sentence + own) / pairs,
    )


def whole_means(recording: Recording) -> Means:
    """A, B and C over the whole model (eq. 7–9), streamed over neurons: memory O(L · n · chunk)."""
    parts = [neuron_means(x).sums() for _, x in recording.unit_chunks()]
    return Means(*(torch.stack(shares).sum() for shares in zip(*parts)))


def alignment_shares(recording: Recording) -> Means:
    """Per-neuron shares of A, B and C over the whole model; their SADS shares name the alignment neurons. [D] each."""
    parts = [neuron_means(x) for _, x in recording.unit_chunks()]
    return Means(
        torch.cat([part.same_language for part in parts]),
        torch.cat([part.same_sentence for part in parts]),
        torch.cat([part.neither for part in parts]),
    )


def layer_means(recording: Recording) -> Means:
    """A, B and C of each layer, every layer's slice normalised on its own (the paper's layer curves). [P] each.

    NaN for a layer without neurons. Raises InputError when a layer is silent for a sentence, naming both.
    """
    found = torch.full((3, recording.layers), torch.nan, dtype=torch.float64)
    for layer in recording.layout.with_neurons:
        found[:, layer] = torch.stack(list(neuron_means(layer_units(recording, layer)).sums()))
    return Means(*found)


def layer_units(recording: Recording, layer: int) -> Float[Tensor, "L n N"]:
    """One layer's vectors, of unit length unless the recording is not to be normalised."""
    v = recording.layer(layer)
    return v.double() if recording.norm == "none" else unit(v, layer)


def unit(v: Float[Tensor, "L n D"], layer: int | None = None) -> Float[Tensor, "L n D"]:
    """x = v / ‖v‖₂ in float64 (eq. 6)."""
    v = v.double()
    norms = v.norm(dim=-1, keepdim=True)
    if bool((norms == 0).any()):
        language, sentence, _ = (int(i) for i in (norms == 0).nonzero()[0])
        raise InputError(f"layer {layer}: all neurons are silent for language {language}, sentence {sentence}")
    return v / norms


def gram(recording: Recording, layer: int | None = None) -> Float[Tensor, "L n L n"]:
    """The similarity map itself (eq. 7): cosines of all pairs, over the whole model or one layer, in float64.

    Memory (nL)² · 8 bytes, time 2 (nL)² D.
    """
    languages, sentences = len(recording.languages), len(recording.ids)
    items = languages * sentences
    if layer is not None:
        x = layer_units(recording, layer).reshape(items, -1)
        return (x @ x.T).reshape(languages, sentences, languages, sentences)
    total = torch.zeros(items, items, dtype=torch.float64)
    for _, x in recording.unit_chunks(NEURON_CHUNK):
        flat = x.reshape(items, -1)
        total.addmm_(flat, flat.T)
    return total.reshape(languages, sentences, languages, sentences)


def pair_means(similarity: Float[Tensor, "L n L n"]) -> Means:
    """A, B and C of each pair of languages; the diagonal of B and C is NaN (a language has no translation into itself).

    A of a pair is the mean of the two languages' own A, so that the LRDS of a pair compares like with like. [L, L].
    """
    languages, sentences = similarity.shape[:2]
    by_pair = similarity.permute(0, 2, 1, 3)
    same = by_pair.diagonal(dim1=2, dim2=3).mean(-1)
    others = (by_pair.sum((2, 3)) - same * sentences) / (sentences * (sentences - 1))
    own = others.diagonal()
    itself = torch.eye(languages, dtype=torch.bool)
    nan = float("nan")
    return Means((own[:, None] + own) / 2, same.masked_fill(itself, nan), others.masked_fill(itself, nan))


def bootstrap_means(
    similarity: Float[Tensor, "L n L n"],
    draws: int = 1000,
    seed: int = 0,
    languages_too: bool = False,
    documents: Int[Tensor, " n"] | None = None,
) -> Means:
    """A, B and C of bootstrap samples of sentences, or of whole documents (and of languages): [draws] each.

    A sentence drawn twice is never compared with itself: pairs are weighted by the product of how often each member was
    drawn, and only pairs of different sentences (languages) count.
    """
    languages, sentences = similarity.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    w = _counts(draws, sentences if documents is None else int(documents.max()) + 1, generator)
    w = w if documents is None else w[:, documents]
    v = _counts(draws, languages, generator) if languages_too else torch.ones(draws, languages, dtype=torch.float64)
    by_pair = similarity.permute(0, 2, 1, 3).reshape(languages**2, sentences, sentences)
    same = by_pair.diagonal(dim1=1, dim2=2)
    different = by_pair - torch.diag_embed(same)
    drawn_pairs = w.sum(1, keepdim=True).square() - w.square().sum(1, keepdim=True)
    weighted = torch.stack([((w @ pair) * w).sum(1) for pair in different], dim=1) / drawn_pairs
    translations = torch.einsum("dn,pn->dp", w, same) / w.sum(1, keepdim=True)
    pairs = (v[:, :, None] * v[:, None]).reshape(draws, -1)
    across = pairs * (1 - torch.eye(languages, dtype=torch.float64)).reshape(-1)
    usable = across.sum(1) > 0  # a draw of one language alone has no pair of languages
    own = weighted[:, :: languages + 1]
    return Means(
        ((own * v).sum(1) / v.sum(1))[usable],
        ((translations * across).sum(1) / across.sum(1))[usable],
        ((weighted * across).sum(1) / across.sum(1))[usable],
    )


def _counts(draws: int, size: int, generator: torch.Generator) -> Float[Tensor, "draws size"]:
    picks = torch.randint(0, size, (draws, size), generator=generator)
    return torch.zeros(draws, size, dtype=torch.float64).scatter_add_(
        1, picks, torch.ones_like(picks, dtype=torch.float64)
    )
