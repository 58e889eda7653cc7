"""Relevance of neurons for a language's loss: gradient × activation (simpler than CRANE, arXiv 2601.04664).

    r(j, k) = mean over tokens of k of  −h_j · ∂NLL/∂h_j

the first-order estimate of how far the loss of language k rises when neuron j is set to 0. Whether it does is another
question: `predicted_rise` stands beside what switching the neurons off really does.

P layer · N neurons of a layer · L language · B window · T position
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Batch, Model, Site, edit, over_batches, require
from babelscope.models.hooks import tracked
from babelscope.regions.masks import RegionSet
from babelscope.regions.perplexity import Windows, token_losses


def relevance(
    model: Model, windows: Windows, budget: int | None = None, progress: Callable[[int], None] | None = None
) -> Float[Tensor, "P N"]:
    """r of every neuron on one language's text, nats per token; float64.

    Raises UnsupportedModel for a mixture of experts, whose neurons do not see every token.

    >>> relevance(model, cut_windows(model, texts["zh"], 128)).shape                     # doctest: +SKIP
    torch.Size([6, 512])
    """
    if model.mixtures:
        raise UnsupportedModel(f"{model.id} is a mixture of experts; relevance is defined for dense MLPs here")
    require(model, "regions")
    total = torch.zeros(model.layers, model.layout.widest, dtype=torch.float64)

    def work(batch: Batch) -> None:
        kept: dict[Site, Tensor] = {}
        changes = tracked((Site("neurons", layer) for layer in model.layout.with_neurons), kept)
        changes[Site("residual", 0)] = lambda value: value.detach().requires_grad_()
        with torch.enable_grad(), edit(model, changes):
            hidden = model.trunk(batch.ids, batch.mask)
            loss = token_losses(model, hidden[:, :-1], batch.ids[:, 1:].to(hidden.device)).sum()
            found = torch.autograd.grad(loss, [*kept.values()])
        products = [
            (value.detach().double() * gradient.double()).flatten(0, -2).sum(0).cpu()
            for value, gradient in zip(kept.values(), found, strict=True)
        ]
        for site, product in zip(kept, products):  # only now: a batch that does not fit in memory is done again
            total[site.layer, : len(product)] -= product
        if progress:
            progress(batch.ids.numel())

    over_batches(windows.ids.tolist(), work, model.device, budget)
    return total / windows.tokens


def relevances(model: Model, windows: Mapping[str, Windows]) -> dict[str, Float[Tensor, "P N"]]:
    """r by language."""
    return {code: relevance(model, text) for code, text in windows.items()}


def selective(found: Mapping[str, Float[Tensor, "P N"]]) -> dict[str, Float[Tensor, "P N"]]:
    """r in a language minus its mean in the others: what is relevant there and not elsewhere.

    Raises InputError with one language.
    """
    if len(found) < 2:
        raise InputError("relevance for a language is set against that for others: two languages are needed")
    total = torch.stack(list(found.values())).sum(0)
    return {code: own - (total - own) / (len(found) - 1) for code, own in found.items()}


def relevant_regions(found: Mapping[str, Float[Tensor, "P N"]], sizes: Mapping[str, list[int]]) -> RegionSet:
    """The most selectively relevant neurons, `sizes[k][l]` of each layer l: a set of another method's size and depth.

    >>> r = {"en": torch.tensor([[0.3, 0.0, 0.1]]), "zh": torch.tensor([[0.0, 0.2, 0.1]])}
    >>> relevant_regions(r, {"en": [1], "zh": [1]})["zh"].tolist()
    [[False, True, False]]
    """
    scores = selective(found)
    masks: dict[str, Bool[Tensor, "P N"]] = {}
    for code, score in scores.items():
        mask = torch.zeros_like(score, dtype=torch.bool)
        for layer, size in enumerate(sizes[code]):
            mask[layer, score[layer].topk(size).indices] = True
        masks[code] = mask
    return RegionSet(masks, "relevance", scores={code: score.float() for code, score in scores.items()})


def predicted_rise(score: Float[Tensor, "P N"], mask: Bool[Tensor, "P N"]) -> float:
    """The rise of the loss, nats per token, that first order promises of switching a set off."""
    return float(score[mask].sum())
