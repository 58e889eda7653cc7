"""Attention patterns, by running the model's own eager kernel for as long as they are asked for.

N row · L layer · H head · T position
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core.batching import PROMPT, span_of
from babelscope.circuits.core.nodes import check_model
from babelscope.errors import UnsupportedModel
from babelscope.models.batches import token_budget

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutput

    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]


@contextmanager
def eager(model: Model) -> Generator[None]:
    """Inside, attention runs in the kernel that shows its patterns; afterwards in the one it had."""
    before = getattr(model.config, "_attn_implementation", "eager")
    if before == "eager":
        yield
        return
    model.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


@torch.no_grad()
def attention_patterns(model: Model, ids: Int[Tensor, "N T"]) -> dict[int, Float[Tensor, "N H T T"]]:
    """Attention of each layer with heads, [to, from]: row t is the weights with which position t reads positions ≤ t.

    Raises UnsupportedModel when the model does not give them out.
    """
    check_model(model)
    model.check_length(ids.shape[1], PROMPT)
    with eager(model):
        output: BaseModelOutput = model.trunk_module(
            input_ids=ids, output_attentions=True, use_cache=False, return_dict=True
        )
    return patterns_by_layer(model, output.attentions)


def patterns_by_layer(model: Model, found: Sequence[Tensor | None] | None) -> dict[int, Float[Tensor, "N H T T"]]:
    """What a model gives out as its attentions, by layer: hybrids leave out layers without heads, or say None there."""
    known = [part for part in found or () if part is not None]
    if len(known) != len(model.attention_layers):
        raise UnsupportedModel(f"{model.id} does not give out its attention patterns")
    return dict(zip(model.attention_layers, known))


@torch.no_grad()
def attention_between(
    model: Model, pairs: Sequence[PromptPair], readers: Sequence[str], read: Sequence[str]
) -> Float[Array, "readers read L H P"]:
    """Weight with which the last token of each reading role attends to the whole span of each role read, per pair.

    NaN where the role read stands behind the reader. Raises TaskError for roles that do not exist.
    """
    found = np.full((len(readers), len(read), model.layers, model.heads, len(pairs)), np.nan)
    for group in equal_length(pairs, token_budget(model.device)):
        ids = torch.tensor([pairs[place].clean for place in group], device=model.device)
        for layer, weights in attention_patterns(model, ids).items():
            weights = weights.float().cpu().double().numpy()
            for row, place in enumerate(group):
                for i, reader in enumerate(readers):
                    here = span_of(pairs[place], reader)[1] - 1
                    for j, role in enumerate(read):
                        start, end = span_of(pairs[place], role)
                        if start <= here:
                            found[i, j, layer, :, place] = weights[row, :, here, start:end].sum(-1)
    return found


def equal_length(pairs: Sequence[PromptPair], budget: int) -> list[list[int]]:
    """Places of the pairs in groups of equal clean length and at most `budget` tokens."""
    groups: dict[int, list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(len(pair.clean), []).append(place)
    chunks: list[list[int]] = []
    for length, places in sorted(groups.items()):
        size = max(1, budget // length)
        chunks += [places[start : start + size] for start in range(0, len(places), size)]
    return chunks


@torch.no_grad()
def attention_at_offsets(
    model: Model, ids: Int[Tensor, "N T"], offsets: Sequence[int], start: int
) -> tuple[Float[Array, "offsets L H N"], Float[Array, "offsets L H N"]]:
    """Mean attention, by sequence, from every position ≥ `start` to the position `offset` (< 0) tokens away.

    And beside it the mean attention of the same queries to one of their other positions.
    """
    found = np.full((2, len(offsets), model.layers, model.heads, len(ids)), np.nan)
    budget = max(1, token_budget(model.device) // ids.shape[1])
    for first in range(0, len(ids), budget):
        chunk = ids[first : first + budget].to(model.device)
        where = slice(first, first + len(chunk))
        for layer, weights in attention_patterns(model, chunk).items():
            for place, offset in enumerate(offsets):
                # entry i of this diagonal is position i − offset reading position i, one of i − offset others it sees
                skipped = max(0, start + offset)
                read = torch.diagonal(weights.double(), offset=offset, dim1=2, dim2=3)[:, :, skipped:]
                others = torch.arange(skipped - offset, skipped - offset + read.shape[2], device=read.device)
                for which, value in enumerate((read, (1 - read) / others)):
                    found[which, place, layer, :, where] = value.mean(2).T.cpu().numpy()
    return found[0], found[1]
