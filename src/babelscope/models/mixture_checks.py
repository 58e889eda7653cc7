"""What a mixture of experts must pass besides the common suite: what is read of experts is what the model computes.

B batch · T position · D model width · E expert · F units of an expert
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.errors import NonFinite
from babelscope.models.experts import Handle, Routed, attach
from babelscope.models.hooks import Site, capture, edit
from babelscope.models.mixtures import Mixture
from babelscope.models.model import Model


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the largest expected value. Raises NonFinite of what is no number."""
    if not bool(found.isfinite().all() and expected.isfinite().all()):
        raise NonFinite("states or logits of random tokens are NaN or infinite")
    scale = expected.float().abs().max().clamp_min(1e-6)
    return float((found.float() - expected.float().to(found.device)).abs().max() / scale)


def experts_output(mixture: Mixture, pairs: Routed, weighted: bool = True) -> Float[Tensor, "tokens D"]:
    """Σ_e w_e (W_e · neurons + b_e), written out expert by expert."""
    experts = mixture.experts
    total = torch.zeros(
        len(pairs.index), experts.down_proj.shape[2 if experts.is_transposed else 1], dtype=torch.float64
    )
    for expert in pairs.experts.unique().tolist():
        rows = pairs.experts == expert
        weight = experts.down_proj[expert].double()
        made = pairs.values[rows].double() @ (weight if experts.is_transposed else weight.T)
        if experts.has_bias:
            made = made + experts.down_proj_bias[expert].double()
        if experts.has_post_expert_norm:
            made = experts.post_expert_norm(made.to(pairs.values.dtype)).double()
        total.index_add_(0, pairs.tokens[rows].cpu(), (made * pairs.weights[rows, None].double()).cpu())
    return total


def experts_sum(model: Model, ids: Int[Tensor, "B T"]) -> float:
    """Σ_e w_e (W_e · neurons + b_e) is what the experts put out."""
    errors: list[float] = []
    for mixture in model.mixtures.values():
        seen: list[Routed] = []
        outputs: list[Tensor] = []
        handles: list[Handle] = [attach(mixture, _keep(seen)), mixture.experts.register_forward_hook(_outputs(outputs))]
        try:
            model.trunk(ids)
        finally:
            for handle in handles:
                handle.remove()
        errors.append(difference(experts_output(mixture, seen[0]), outputs[0].reshape(len(seen[0].index), -1).cpu()))
    return max(errors, default=0.0)


def eager_experts(model: Model, ids: Int[Tensor, "B T"]) -> float:
    """Experts computed by us are experts computed by the model's own code."""
    if not model.mixtures:
        return 0.0
    with capture(model, [Site("neurons", layer) for layer in model.mixtures], keep=lambda h: h[:0]):
        ours = model.trunk(ids)
    configs = {id(mixture.experts.config): mixture.experts.config for mixture in model.mixtures.values()}
    before = {key: config._experts_implementation_internal for key, config in configs.items()}
    try:
        for config in configs.values():
            config._experts_implementation_internal = "eager"
        return difference(ours, model.trunk(ids))
    finally:
        for key, config in configs.items():
            config._experts_implementation_internal = before[key]


def nothing_else(model: Model, ids: Int[Tensor, "B T"]) -> float:
    """With all its neurons at 0 a mixture writes the same at every token: biases, and nothing that we do not read."""
    errors: list[float] = []
    for layer, mixture in model.mixtures.items():
        if mixture.experts.has_bias:
            continue  # the routing weights of a token then scale biases: `experts_sum` counts those
        write = Site("mlp_write", layer)
        with capture(model, [write]) as whole:
            model.trunk(ids)
        with edit(model, {Site("neurons", layer): torch.zeros_like}), capture(model, [write]) as bare:
            model.trunk(ids)
        rest = bare[write].flatten(0, -2)
        errors.append(float((rest - rest[:1]).abs().max() / whole[write].abs().max().clamp_min(1e-6)))
    return float(torch.tensor(errors or [0.0]).max())  # what is no number is larger than any


def expert_ablation(model: Model, ids: Int[Tensor, "B T"]) -> float:
    """Zeroing an expert's neurons by a hook equals zeroing its output weights: in each mixture, the one used most."""
    errors: list[float] = []
    for layer, mixture in model.mixtures.items():
        seen: list[Routed] = []
        handle = attach(mixture, _keep(seen))
        try:
            model.trunk(ids)
        finally:
            handle.remove()
        expert = int(seen[0].experts.bincount().argmax())
        columns = torch.zeros(mixture.width, dtype=torch.bool, device=seen[0].values.device)
        columns[mixture.expert(expert)] = True
        with edit(model, {Site("neurons", layer): partial(torch.masked_fill, mask=columns, value=0)}):
            hooked = model.trunk(ids)
        weight: Tensor = mixture.experts.down_proj
        before = weight[expert].clone()
        try:
            with torch.no_grad():
                weight[expert] = 0
            errors.append(difference(hooked, model.trunk(ids)))
        finally:
            with torch.no_grad():
                weight[expert] = before
    return max(errors, default=0.0)


def _keep(seen: list[Routed]) -> Callable[[Routed], None]:
    return lambda pairs: seen.append(pairs)


def _outputs(outputs: list[Tensor]) -> Callable[[object, object, Tensor], None]:
    return lambda _module, _inputs, output: outputs.append(output.clone())


MIXTURE_SUITE: tuple[tuple[str, Callable[[Model, Tensor], float], bool], ...] = (
    ("experts recorded = experts of the model", eager_experts, False),
    ("Σ experts = output of the experts", experts_sum, False),
    ("nothing but neurons writes", nothing_else, False),
    ("expert by hook = expert by weights", expert_ablation, False),
)
"""checks for models that have mixtures; name, test, whether only circuits need it"""
