"""What stands in for an ablated node's output, of heads, MLPs and edges alike (section 6).

zero      nothing
mean      its mean over prompts of the same template, order, length and answer branch, position by position
resample  its output on the corrupted prompt
optimal   the constant, one for all positions, under which a circuit diverges least from the model (Li and Janson 2024)

N row · T position · H head · E head width · D width
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.residual import Values
from babelscope.errors import InputError
from babelscope.models.batches import token_budget

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Reference = Callable[[Rows], Values]
"""for a batch of rows, what every node puts out when it is ablated"""
Over = Literal["corrupted", "clean"]
Key = tuple[str, str, int, int, int]


class Ablation(StrEnum):
    """Value that replaces an ablated node's output."""

    ZERO = "zero"
    """nothing"""
    MEAN = "mean"
    """its mean over the reference prompts of the same template, order and length, position by position"""
    RESAMPLE = "resample"
    """its output on the corrupted twin"""
    OPTIMAL = "optimal"
    """one constant per node, found by gradient descent on the divergence from the whole model"""


def reference(
    model: Model,
    pairs: Sequence[PromptPair],
    ablation: Ablation | str = Ablation.RESAMPLE,
    budget: int | None = None,
    over: Over = "corrupted",
) -> Reference:
    """For any batch of rows, what every node puts out when it is ablated.

    `pairs` are what means are taken over, on their corrupted prompts unless `over` says clean. "optimal" belongs to a
    circuit and is made by `fitted_constants`; asking for it here, or for an unknown kind, raises InputError.
    """
    kind = ablation_kind(ablation)
    if over not in ("corrupted", "clean"):
        raise InputError(f"means are over the corrupted or the clean prompts, not {over!r}")
    if kind is Ablation.RESAMPLE:
        return lambda rows: Values.of(run(model, rows.corrupted))
    if kind is Ablation.ZERO:
        return lambda rows: zeros(model, rows.clean)
    if kind is Ablation.MEAN:
        return _means(model, pairs, budget, over)
    raise InputError("an optimal constant belongs to a circuit: it is fitted where the circuit is scored")


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

    return Values(
        empty(model.width),
        {layer: empty(model.heads, model.head_width) for layer in model.attention_layers},
        {layer: empty(model.width) for layer in model.neuron_layers},
        {layer: empty(model.width) for layer in model.mixer_layers},
    )


@torch.no_grad()
def _means(model: Model, pairs: Sequence[PromptPair], budget: int | None, over: Over) -> Reference:
    sums: dict[Key, tuple[list[Tensor], int]] = {}
    shape: Values | None = None
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        values = shape = Values.of(run(model, getattr(rows, over)))
        for key, members in _by_key(rows).items():
            parts = [_wide(part[members]).sum(0) for part in values.listed()]
            before, count = sums.get(key, ([torch.zeros_like(part) for part in parts], 0))
            sums[key] = [old + new for old, new in zip(before, parts)], count + len(members)
    assert shape is not None
    like = shape.tokens(0, 0)
    means = {key: [(part / count).to(model.dtype) for part in parts] for key, (parts, count) in sums.items()}

    def at(rows: Rows) -> Values:
        keys = [_key(rows, row) for row in range(len(rows))]
        missing = next((key for key in keys if key not in means), None)
        if missing is not None:
            raise InputError(f"no mean for template {missing[0]} in order {missing[1]!r}: it was not among the prompts")
        return like.with_list([torch.stack(parts) for parts in zip(*(means[key] for key in keys))])

    return at


def _key(rows: Rows, row: int) -> Key:
    """Positions mean the same thing only within one template, order, length and answer branch."""
    pair = rows.pairs[row]
    return pair.template, pair.order, rows.length, rows.answer, rows.signs[row]


def prompts_alone(pairs: Sequence[PromptPair]) -> int:
    """Prompts that share template, order and lengths with no other: their mean is their own corrupted prompt.

    >>> prompts_alone([])
    0
    """
    keys = Counter((p.template, p.order, len(p.clean), len(p.target), len(p.foil)) for p in pairs)
    return sum(count == 1 for count in keys.values())


def _by_key(rows: Rows) -> dict[Key, list[int]]:
    found: dict[Key, list[int]] = {}
    for row in range(len(rows)):
        found.setdefault(_key(rows, row), []).append(row)
    return found


def fitted_constants(
    model: Model,
    pairs: Sequence[PromptPair],
    final: Callable[[Rows, Values], Float[Tensor, "N D"]],
    steps: int = 50,
    rate: float = 0.5,
    budget: int | None = None,
) -> tuple[Reference, list[float]]:
    """The constants, one per node and the same at all positions, under which a circuit diverges least from the model.

    `final` runs the circuit with given constants and returns its final state where the answer begins. Begun at the
    means over prompts and positions; `steps` of Adam on KL(model ‖ circuit), each constant moving by up to `rate` of
    its own root mean square a step (Li and Janson 2024). Returns the constants and the loss before every step.
    """
    begun = _mean_constants(model, pairs, budget)
    parameters = [part.clone().requires_grad_() for part in begun.listed()]
    sizes = [rate * float(part.detach().square().mean().sqrt().clamp_min(1e-4)) for part in parameters]
    optimiser = torch.optim.Adam([{"params": [part], "lr": size} for part, size in zip(parameters, sizes)])
    _ = model.block_returns_tuple
    losses: list[float] = []
    for _ in range(steps):
        optimiser.zero_grad()
        losses.append(0.0)
        for rows in batches(pairs, budget or token_budget(model.device), model.device):
            with torch.no_grad():
                whole = model.trunk(rows.clean)[:, rows.length - rows.answer]
            with torch.enable_grad():
                changed = final(rows, begun.with_list(parameters))
                loss = logit_diff.divergence(model, whole, changed[None]).sum() / len(pairs)
                # gradients of the constants alone: the model's own .grad is the user's
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
            losses[-1] += float(loss.detach())
            for parameter, gradient in zip(parameters, cast("Sequence[Tensor | None]", found)):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        optimiser.step()
    constants = begun.with_list([parameter.detach() for parameter in parameters])
    return (lambda _: constants), losses


@torch.no_grad()
def _mean_constants(model: Model, pairs: Sequence[PromptPair], budget: int | None) -> Values:
    total: list[Tensor] = []
    tokens, like = 0, None
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        values = Values.of(run(model, rows.corrupted))
        parts, like = [_wide(part).sum((0, 1)) for part in values.listed()], values.tokens(0, 0)
        total = [old + new for old, new in zip(total, parts)] if total else parts
        tokens += rows.corrupted.numel()
    assert like is not None
    return like.with_list([(part / tokens).to(model.dtype) for part in total])


def _wide(values: Tensor) -> Tensor:
    """Float32 at least: a sum over prompts in half precision loses the later ones, or overflows."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
