"""Switching a set of neurons off, or to another value, while the model runs (regions.md, section 5).

P layer · N neurons of a layer · B batch · T position
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Shaped
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
    model.layout.check(mask, model.id)
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


def of_layer(row: Shaped[Tensor, " N"], h: Shaped[Tensor, "*rest n"]) -> Shaped[Tensor, " n"]:
    """The part of a row of the widest layer's length that stands for the neurons of the layer of `h`.

    Raises InputError where the rest of a mask names neurons that the layer does not have.
    """
    width = h.shape[-1]
    if row.dtype == torch.bool and bool(row[width:].any()):
        raise InputError(f"a mask names neuron {width + int(row[width:].int().argmax())} of a layer that has {width}")
    return row[:width].to(h.device)


def _change(mask: Bool[Tensor, " N"], values: Float[Tensor, " N"] | None, scale: float) -> Change:
    if values is None:

        def scaled(h: Tensor) -> Tensor:
            return h * torch.where(of_layer(mask, h), scale, 1.0).to(h)

        # 0 · ∞ is NaN: a plain zero must not depend on what it replaces
        return scaled if scale else lambda h: h.masked_fill(of_layer(mask, h), 0)

    def replaced(h: Tensor) -> Tensor:
        return torch.where(of_layer(mask, h), of_layer(values, h).to(h), h)

    return replaced
