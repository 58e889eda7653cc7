"""Routers: the logits by which a mixture chooses experts, read and changed; the probabilities that they stand for.

A router computes its logits and chooses in one module, so that no hook lies between. Inside the router's forward pass,
the linear map onto the experts is therefore intercepted (a `TorchFunctionMode`, in this thread alone).

B batch · T position · E expert · K experts of a token
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from babelscope.models.aside import standing
from babelscope.models.experts import Handle, PassShape, Together, attach_neurons
from babelscope.models.hooks import Kind, Location
from babelscope.models.mixtures import Mixture

Scoring = Literal["softmax", "sigmoid", "sqrtsoftplus"]
SCORINGS: tuple[Scoring, ...] = ("softmax", "sigmoid", "sqrtsoftplus")
FORBIDDEN = -1e4
"""logit of an expert that must not be chosen: as good as −∞ in every scoring, and makes no NaN"""


class _OntoExperts(TorchFunctionMode):
    """Passes what a linear map onto E (or E + 1, with a skip class) puts out through `act`."""

    def __init__(self, count: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.sizes, self.act = (count, count + 1), act

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        if func is F.linear and isinstance(output, Tensor) and output.shape[-1] in self.sizes:
            return self.act(output)
        return output


def attach_router(mixture: Mixture, act: Callable[[Tensor], Tensor], replaces: bool) -> Handle:
    """Show `act` the router's logits as [B, T, E]; what it returns takes their place where it `replaces`."""
    owner = standing()
    shape = PassShape(mixture.block)
    modes: list[_OntoExperts] = []

    def seen(logits: Tensor) -> Tensor:
        rows = logits.numel() // logits.shape[-1]
        value = act(logits.reshape(*shape.of(rows), -1))
        return value.reshape(logits.shape).to(logits.dtype) if replaces else logits

    def enter(_: nn.Module, __: object) -> None:
        if standing() == owner:
            modes.append(_OntoExperts(mixture.count, seen))
            modes[-1].__enter__()

    def leave(_: nn.Module, __: object, ___: object) -> None:
        if standing() == owner and modes:
            modes.pop().__exit__(None, None, None)

    return Together(
        [
            shape,
            mixture.router.register_forward_pre_hook(enter),
            mixture.router.register_forward_hook(leave, always_call=True),
        ]
    )


def probabilities(logits: Float[Tensor, "*batch E"], scoring: Scoring) -> Float[Tensor, "*batch E"]:
    """p of each expert: softmax of the logits, or their sigmoids (√softplus) divided by the sum over experts.

    >>> probabilities(torch.tensor([0.0, 0.0]), "sigmoid")
    tensor([0.5000, 0.5000])
    """
    logits = logits.float() if logits.dtype != torch.float64 else logits
    if scoring == "softmax":
        return logits.softmax(-1)
    scores = logits.sigmoid() if scoring == "sigmoid" else F.softplus(logits).sqrt()
    return scores / scores.sum(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)


def scoring_of(
    logits: Sequence[Float[Tensor, "tokens E"]],
    index: Sequence[Int[Tensor, "tokens K"]],
    weights: Sequence[Float[Tensor, "tokens K"]],
) -> tuple[Scoring, bool]:
    """The scoring that reproduces the routing weights, up to a factor for each token; and whether it does.

    Where none does, softmax is assumed and the second value is False (PhiMoE perturbs its choice).
    """
    for scoring in SCORINGS:
        if all(_reproduces(probabilities(l, scoring), i, w) for l, i, w in zip(logits, index, weights)):  # noqa: E741
            return scoring, True
    return "softmax", False


def _reproduces(p: Tensor, index: Tensor, weights: Tensor) -> bool:
    chosen = p.gather(1, index.clamp(max=p.shape[1] - 1)).double()
    weights = weights.double()
    real = weights.abs().sum(1) > 0
    if weights.shape[1] == 1:
        # one expert: its weight is its score, or 1, of which every scoring would be right
        factor = chosen[real, 0] / weights[real, 0]
        return bool((factor - factor.mean()).abs().max() <= 1e-3 * factor.mean().abs())
    expected = chosen / chosen.sum(1, keepdim=True)
    found = weights / weights.sum(1, keepdim=True)
    return bool((expected - found)[real].abs().max() <= 1e-3)


def mixture_location(mixture: Mixture, kind: Kind, write: nn.Module | None) -> Location:
    """Where a mixture's neurons, router, input or output are hooked; `write`: a norm behind it, if any."""
    if kind == "neurons":
        return Location(mixture.experts, "input", attach=partial(attach_neurons, mixture))
    if kind == "router":
        return Location(mixture.router, "output", attach=partial(attach_router, mixture))
    if kind == "mlp_in":
        return Location(mixture.mlp, "input")
    return Location(write if write is not None else mixture.mlp, "output")
