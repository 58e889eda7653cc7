"""The backward rules of relevance patching: gradients in which norms, activations and gates count as linear.

RelP (Jafari, Eberle, Khakzar and Nanda 2025) puts the coefficients of layer-wise relevance propagation in the place of
the gradient: norms with their statistics held (LN rule), f(x) = x · (f(x)/x) with the ratio held (identity rule), a
product's share halved between its factors (half rule), attention patterns held (AH rule). Forward values do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from babelscope.circuits.patching.path_passes import replaced
from babelscope.errors import UnsupportedModel
from babelscope.models.hooks import Site, edit
from babelscope.models.norms import NormMap

if TYPE_CHECKING:
    from babelscope.models import Model


@contextmanager
def relevance_rules(model: Model) -> Generator[None]:
    """Inside, a backward pass through the model follows the rules; attention patterns are the caller's to hold.

    Raises UnsupportedModel where a block has no activation module to apply the identity rule to.
    """
    if model.mixer_layers or model.family.head_gates:
        mixers = [f"layer {layer} has a linear mixer" for layer in model.mixer_layers]
        where = (*mixers, "heads are gated in layer 0")[0]
        raise UnsupportedModel(f"{model.id}: {where}, for which RelP has no rule")
    forwards: dict[nn.Module, Callable[..., object]] = {}
    for module in model.hf.modules():
        weight = getattr(module, "weight", None)
        if "Norm" in type(module).__name__ and isinstance(weight, Tensor) and weight.dim() == 1:
            forwards[module] = _held_norm(module, weight)
    for layer, block in enumerate(model.blocks):
        found = [part for part in block.modules() if _is_activation(part)]
        if not found:
            raise UnsupportedModel(f"{model.id}: block {layer} has no activation module, so RelP's rules do not apply")
        forwards |= {part: _held_ratio(part) for part in found}
    halves = {Site("neurons", layer): _halved for layer in model.neuron_layers} if model.family.gated else {}
    with replaced(forwards), edit(model, halves):
        yield


def _is_activation(part: nn.Module) -> bool:
    """A leaf of a block that neither is a linear map, nor a norm, nor dropout."""
    return not any(part.children()) and getattr(part, "weight", None) is None and not isinstance(part, nn.Dropout)


def _held_norm(module: nn.Module, weight: Tensor) -> Callable[..., Tensor]:
    own, norm = module.forward, NormMap.of(module, weight.shape[0], weight)

    def forward(hidden_states: Tensor) -> Tensor:
        with torch.no_grad():
            made: Tensor = own(hidden_states)
            scale = norm.scale(hidden_states.to(weight.dtype), made)
        return _with_value(norm.through(hidden_states) * scale, made)

    return forward


def _held_ratio(module: nn.Module) -> Callable[..., Tensor]:
    own = module.forward

    def forward(value: Tensor) -> Tensor:
        with torch.no_grad():
            made: Tensor = own(value)
            ratio = torch.where(value.abs() > 1e-12, made / value, torch.zeros_like(made))
        return _with_value(value * ratio, made)

    return forward


def _with_value(path: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of `path`."""
    return path + (value - path).detach()


def _halved(value: Tensor) -> Tensor:
    return _with_value(value / 2, value.detach())
