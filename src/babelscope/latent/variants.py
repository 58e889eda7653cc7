"""One prompt continued in many ways at once: rows share the cached prefix and differ in which residuals were replaced.

R row (a variant) · L layers + 1 · D width · T position
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.models import Model, Site, edit
from babelscope.models.hooks import Change


@torch.inference_mode()
def final_states(
    model: Model, ids: Sequence[int], position: int, values: Float[Tensor, "R L D"], replaced: Bool[Tensor, "R L"]
) -> Float[Tensor, "R D"]:
    """Normed final state at the last position, the residual at `position` replaced where `replaced` says so.

    Row r, layer l: the residual entering block l (entering the final norm for the last l). The positions before
    `position` pass once; keys and values of that prefix are repeated for the rows.
    """
    from transformers import DynamicCache

    tokens = torch.tensor([list(ids)], device=model.device)
    cache: DynamicCache | None = None
    if position > 0:
        cache = DynamicCache()
        model.trunk(tokens[:, :position], cache=cache)
        cache.batch_repeat_interleave(len(values))
    rest = tokens[:, position:].expand(len(values), -1)
    with edit(model, _changes(values, replaced, 0)):
        return model.trunk(rest, cache=cache)[:, -1]


@torch.inference_mode()
def final_states_plainly(
    model: Model, ids: Sequence[int], position: int, values: Float[Tensor, "R L D"], replaced: Bool[Tensor, "R L"]
) -> Float[Tensor, "R D"]:
    """The same by one whole pass a row: for models whose cache cannot be repeated, and to check the other against."""
    tokens = torch.tensor([list(ids)], device=model.device)
    rows: list[Tensor] = []
    for own, where in zip(values, replaced):
        with edit(model, _changes(own[None], where[None], position)):
            rows.append(model.trunk(tokens)[:, -1])
    return torch.cat(rows)


def _changes(values: Tensor, replaced: Tensor, position: int) -> dict[Site, Change]:
    def change(layer: int) -> Change:
        rows = replaced[:, layer].nonzero()[:, 0]
        new = values[rows, layer]

        def put(hidden: Tensor) -> Tensor:
            changed = hidden.clone()
            changed[rows.to(hidden.device), position] = new.to(hidden.device, hidden.dtype)
            return changed

        return put

    return {Site("residual", layer): change(layer) for layer in range(replaced.shape[1]) if replaced[:, layer].any()}


def cache_serves(model: Model, ids: Sequence[int]) -> bool:
    """Whether the cached way gives what whole passes give, tried on one prompt with its own residuals shifted."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, model.layers + 1, model.width, generator=generator)
    replaced = torch.zeros(2, model.layers + 1, dtype=torch.bool)
    replaced[0, -1] = replaced[1, model.layers // 2] = True
    position = len(ids) - 1
    plain = final_states_plainly(model, ids, position, values, replaced)
    try:
        cached = final_states(model, ids, position, values, replaced)
    except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError, RuntimeError):
        # hybrids keep states of their own, which a cache of keys and values has no place for
        return False
    return bool(torch.allclose(cached, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max())))
