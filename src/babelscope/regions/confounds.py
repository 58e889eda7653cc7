"""What makes two languages look aligned without meaning: sentence length, shared tokens, shared script.

L language · n sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.languages import language
from babelscope.regions.alignment import Negatives

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NEAREST = 5
"""stand-ins for each translation"""


def length_matched(tokens: Int[Tensor, "L n"], nearest: int = NEAREST) -> Negatives:
    """For each sentence, the other sentences whose length in tokens is nearest to the translation's.

    What is left of SADS against them is not length.
    """

    def distance(other: int) -> Float[Tensor, "n n"]:
        # from the translation of sentence i to sentence j, in the second language: the same for every first one
        return (tokens[other][:, None] - tokens[other]).abs().double()

    def chosen(_one: int, other: int) -> Float[Tensor, "n n"]:
        return _nearest(distance(other), nearest)

    apart = sum(float((distance(other) * chosen(0, other)).sum()) for other in range(len(tokens)))
    count = sum(float(chosen(0, other).sum()) for other in range(len(tokens)))
    return Negatives("length-matched", chosen, {"mean_difference_tokens": apart / count})


def overlap_matched(overlap: Overlap, nearest: int = NEAREST) -> Negatives:
    """For each sentence, the others that share the most tokens with it, as near as can be to what the translation does.

    What is left of SADS against them is not shared tokens, as far as such sentences exist: the facts say how far.
    """

    def gap(one: int, other: int) -> Float[Tensor, "n n"]:
        shared = overlap.of_pair(one, other)
        return (shared - shared.diagonal()[:, None]).abs()

    def chosen(one: int, other: int) -> Float[Tensor, "n n"]:
        return _nearest(gap(one, other), nearest)

    # a sentence is its own translation in its own language: nothing is compared there
    pairs = [(one, other) for one in range(overlap.languages) for other in range(overlap.languages) if one != other]
    apart = sum(float((gap(*pair) * chosen(*pair)).sum()) for pair in pairs)
    count = sum(float(chosen(*pair).sum()) for pair in pairs)
    same = sum(float(overlap.of_pair(*pair).diagonal().mean()) for pair in pairs) / len(pairs)
    return Negatives("overlap-matched", chosen, {"mean_overlap_translation": same, "mean_overlap_gap": apart / count})


def _nearest(distance: Float[Tensor, "n n"], nearest: int) -> Float[Tensor, "n n"]:
    sentences = distance.shape[-1]
    itself = torch.eye(sentences, dtype=torch.bool)
    others, count = distance.masked_fill(itself, torch.inf), min(nearest, sentences - 1)
    bound = others.topk(count, dim=-1, largest=False).values[:, -1:]
    # those that are equally far share the places that are left: the order of sentences changes nothing
    inside, level = (others < bound).double(), (others == bound).double()
    return inside + level * (count - inside.sum(-1, keepdim=True)) / level.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Overlap:
    """Sets of token ids of sentences, row by row, language by language."""

    table: csr_matrix
    languages: int

    def of_pair(self, one: int, other: int) -> Float[Tensor, "n n"]:
        """Jaccard index of the sets of every sentence of one language with every one of another."""
        sentences = self.table.get_shape()[0] // self.languages
        first, second = (self.table[place * sentences : (place + 1) * sentences] for place in (one, other))
        shared = torch.from_numpy((first @ second.T).toarray()).double()
        sizes = [torch.from_numpy(np.asarray(part.sum(1)).ravel()).double() for part in (first, second)]
        return shared / (sizes[0][:, None] + sizes[1] - shared).clamp(min=1)

    def translations(self) -> Float[Tensor, "L L"]:
        """Mean Jaccard index of translations."""
        places = range(self.languages)
        return torch.tensor([[float(self.of_pair(a, b).diagonal().mean()) for b in places] for a in places])


def token_overlap(sequences: Sequence[Sequence[int]], languages: int) -> Overlap:
    """Which tokens every two sentences share; sequences language-major."""
    from scipy.sparse import csr_matrix

    sets = [sorted(set(ids)) for ids in sequences]
    starts = np.cumsum([0, *[len(one) for one in sets]])
    columns = np.array([token for one in sets for token in one], dtype=np.int64)
    width = int(columns.max(initial=0)) + 1
    return Overlap(csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(sets), width)), languages)


def same_script(languages: Sequence[str]) -> Float[Tensor, "L L"]:
    """1 where two languages are written in one script."""
    scripts = [language(code).script for code in languages]
    return torch.tensor([[float(a == b) for b in scripts] for a in scripts], dtype=torch.float64)
