"""Switching a set of neurons off, or to another value, while the model runs (regions.md, section 5).

P layer · N neurons of a layer · B batch · T position
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.models import Model, Site, edit
from babelscope.models.hooks import Change


@contextmanager
def deactivate(
    model: Model,
    mask: Bool[Tensor, "P N"],
    values: Float[Tensor, "P N"] | None = None,
    scale: float = 0.0,
) -> Generator[dict[Site, int]]:
    """Inside, the masked neurons are zero at every position; or `values`; or multiplied by `scale`.

    A neuron is an input of the MLP's output projection. An empty mask changes nothing. Yields the count of firings.
    Raises InputError for a mask of the wrong shape, AlreadyEdited when the model is inside another edit, and
    EditNeverFired when no forward pass was run inside.

    >>> with deactivate(model, regions["zh"]):                         # doctest: +SKIP
    ...     model.hf.generate(ids)
    """
    shape = (model.layers, model.neurons_per_layer)
    if tuple(mask.shape) != shape:
        raise InputError(f"a mask of shape {tuple(mask.shape)} does not fit {model.id}: layers × neurons are {shape}")
    with edit(model, changes_of(mask, values, scale), exclusive=True) as fired:
        yield fired


def changes_of(
    mask: Bool[Tensor, "P N"], values: Float[Tensor, "P N"] | None = None, scale: float = 0.0
) -> dict[Site, Change]:
    """The change of each layer that has a masked neuron."""
    return {
        Site("neurons", layer): _change(mask[layer], None if values is None else values[layer], scale)
        for layer in range(len(mask))
        if bool(mask[layer].any())
    }


def _change(mask: Bool[Tensor, " N"], values: Float[Tensor, " N"] | None, scale: float) -> Change:
    if values is None:
        factors = torch.where(mask, scale, 1.0)

        def scaled(h: Tensor) -> Tensor:
            return h * factors.to(h)

        # 0 · ∞ is NaN: a plain zero must not depend on what it replaces
        return scaled if scale else lambda h: h.masked_fill(mask.to(h.device), 0)

    def replaced(h: Tensor) -> Tensor:
        return torch.where(mask.to(h.device), values.to(h), h)

    return replaced
