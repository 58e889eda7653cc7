"""What stands in for an ablated node: one of four constants or another run (section 6).

resample  its output on the corrupted prompt                    zero     nothing
mean      its mean over corrupted prompts of the same template, order and length, position by position
optimal   the constant, one for all positions, under which a circuit diverges least from the model (Li and Janson 2024)

N row · T position · D width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.residual import Values
from babelscope.circuits.heads.ablation import Ablation
from babelscope.errors import InputError
from babelscope.models.batches import token_budget

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Reference = Callable[[Rows], Values]
Key = tuple[str, str, int, int, int]


def reference(
    model: Model, pairs: Sequence[PromptPair], ablation: Ablation | str = Ablation.RESAMPLE, budget: int | None = None
) -> Reference:
    """For any batch of rows, what every node puts out when it is ablated.

    `pairs` are what means are taken over. "optimal" needs a circuit and is made by `masked.optimal_reference`; asking
    for it here, or for an unknown kind, raises InputError.
    """
    kind = ablation_kind(ablation)
    if kind is Ablation.RESAMPLE:
        return lambda rows: Values.of(run(model, rows.corrupted))
    if kind is Ablation.ZERO:
        return lambda rows: zeros(model, rows.clean)
    if kind is Ablation.MEAN:
        return _means(model, pairs, budget)
    raise InputError("an optimal constant belongs to a circuit: use masked.optimal_reference(model, pairs, edges)")


def ablation_kind(name: Ablation | str) -> Ablation:
    """The kind of ablation of this name; raises InputError with those that there are."""
    try:
        return Ablation(name)
    except ValueError:
        raise InputError(f"no ablation {name!r}; there are {', '.join(Ablation)}") from None


def zeros(model: Model, ids: Tensor) -> Values:
    """Every node silent."""

    def empty(*shape: int) -> Tensor:
        return torch.zeros(*ids.shape, *shape, dtype=model.dtype, device=ids.device)

    layers = range(model.layers)
    return Values(
        empty(model.width),
        [empty(model.heads, model.head_width) for _ in layers],
        [empty(model.width) for _ in layers],
    )


@torch.no_grad()
def _means(model: Model, pairs: Sequence[PromptPair], budget: int | None) -> Reference:
    sums: dict[Key, tuple[list[Tensor], int]] = {}
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        values = Values.of(run(model, rows.corrupted))
        for key, members in _by_key(rows).items():
            parts = [part[members].sum(0) for part in _listed(values)]
            before, count = sums.get(key, ([torch.zeros_like(part) for part in parts], 0))
            sums[key] = [old + new for old, new in zip(before, parts)], count + len(members)
    means = {key: [part / count for part in parts] for key, (parts, count) in sums.items()}

    def at(rows: Rows) -> Values:
        keys = [_key(rows, row) for row in range(len(rows))]
        missing = next((key for key in keys if key not in means), None)
        if missing is not None:
            raise InputError(f"no mean for template {missing[0]} in order {missing[1]!r}: it was not among the prompts")
        return _named([torch.stack(parts) for parts in zip(*(means[key] for key in keys))])

    return at


def _key(rows: Rows, row: int) -> Key:
    pair = rows.pairs[row]
    return pair.template, pair.order, rows.length, rows.answer, rows.signs[row]


def _by_key(rows: Rows) -> dict[Key, list[int]]:
    found: dict[Key, list[int]] = {}
    for row in range(len(rows)):
        found.setdefault(_key(rows, row), []).append(row)
    return found


def _listed(values: Values) -> list[Tensor]:
    return [values.embedding, *values.z, *values.mlp]


def _named(parts: Sequence[Tensor]) -> Values:
    layers = (len(parts) - 1) // 2
    return Values(parts[0], list(parts[1 : layers + 1]), list(parts[layers + 1 :]))
