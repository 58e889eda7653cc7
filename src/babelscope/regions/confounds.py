"""What makes two languages look aligned without meaning: sentence length, shared tokens, shared script.

L language · n sentence
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.languages import language
from babelscope.regions.alignment import Negatives

NEAREST = 5
"""stand-ins for each translation"""


def length_matched(tokens: Int[Tensor, "L n"], nearest: int = NEAREST) -> Negatives:
    """For each sentence, the other sentences whose length in tokens is nearest to the translation's.

    What is left of SADS against them is not length.
    """
    # distance from the translation of sentence i to sentence j, in the second language: the same for every first one
    distance = (tokens[:, :, None] - tokens[:, None]).abs().double()
    chosen = _nearest(distance, nearest)
    languages, sentences = tokens.shape
    whole = chosen.permute(1, 0, 2)[None].expand(languages, sentences, languages, sentences)
    mean = float((distance * chosen).sum() / chosen.sum())
    return Negatives("length-matched", whole, {"mean_difference_tokens": mean})


def overlap_matched(overlap: Float[Tensor, "L n L n"], nearest: int = NEAREST) -> Negatives:
    """For each sentence, the others that share the most tokens with it, as near as can be to what the translation does.

    What is left of SADS against them is not shared tokens, as far as such sentences exist: the facts say how far.
    """
    same = overlap.diagonal(dim1=1, dim2=3)  # [L, L, n]
    gap = (overlap.permute(0, 2, 1, 3) - same[..., None]).abs()
    chosen = _nearest(gap, nearest)
    # a sentence is its own translation in its own language: nothing is compared there
    other = ~torch.eye(len(overlap), dtype=torch.bool)
    facts = {
        "mean_overlap_translation": float(same[other].mean()),
        "mean_overlap_gap": float((gap * chosen)[other].sum() / chosen[other].sum()),
    }
    return Negatives("overlap-matched", chosen.permute(0, 2, 1, 3), facts)


def _nearest(distance: Float[Tensor, "*batch n n"], nearest: int) -> Float[Tensor, "*batch n n"]:
    sentences = distance.shape[-1]
    itself = torch.eye(sentences, dtype=torch.bool)
    picks = distance.masked_fill(itself, torch.inf).topk(min(nearest, sentences - 1), dim=-1, largest=False).indices
    return torch.zeros_like(distance).scatter_(-1, picks, 1.0)


def token_overlap(sequences: Sequence[Sequence[int]], languages: int) -> Float[Tensor, "L n L n"]:
    """Jaccard index of the sets of token ids of every two sentences; rows language-major."""
    from scipy.sparse import csr_matrix

    sets = [sorted(set(ids)) for ids in sequences]
    starts = np.cumsum([0, *[len(one) for one in sets]])
    columns = np.array([token for one in sets for token in one], dtype=np.int64)
    width = int(columns.max(initial=0)) + 1
    table = csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(sets), width))
    shared = torch.from_numpy((table @ table.T).toarray())
    sizes = torch.tensor([len(one) for one in sets], dtype=torch.float64)
    either = sizes[:, None] + sizes - shared
    sentences = len(sets) // languages
    return (shared / either.clamp(min=1)).reshape(languages, sentences, languages, sentences)


def same_script(languages: Sequence[str]) -> Float[Tensor, "L L"]:
    """1 where two languages are written in one script."""
    scripts = [language(code).script for code in languages]
    return torch.tensor([[float(a == b) for b in scripts] for a in scripts], dtype=torch.float64)
