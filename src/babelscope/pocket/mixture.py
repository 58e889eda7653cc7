"""What training a mixture of experts needs beside a dense model: a loss that spreads tokens, and quick experts.

N token · K experts of a token · E expert
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

KERNEL = "babelscope-training"


@contextmanager
def router_logits(network: nn.Module) -> Iterator[list[Tensor]]:
    """Logits [N, E] of every router of the forward pass inside, in the order of the layers."""
    logits: list[Tensor] = []
    routers = [module for module in network.modules() if type(module).__name__ == "MixtralTopKRouter"]
    handles = [router.register_forward_hook(lambda _m, _i, output: logits.append(output[0])) for router in routers]
    try:
        yield logits
    finally:
        for handle in handles:
            handle.remove()


def imbalance(logits: list[Tensor], experts_per_token: int) -> Tensor:
    """E Σ_e f_e p_e, the mean over layers: 1 when tokens are spread evenly (Fedus et al. 2022, equation 4).

    f_e is the share of the K·N choices that fell on e, p_e the mean probability of e.
    """
    layers: list[Tensor] = []
    for layer in logits:
        probabilities = layer.float().softmax(dim=-1)
        chosen = probabilities.topk(experts_per_token, dim=-1).indices
        shares = torch.bincount(chosen.flatten(), minlength=layer.shape[-1]) / chosen.numel()
        layers.append(layer.shape[-1] * (shares * probabilities.mean(dim=0)).sum())
    return torch.stack(layers).mean()


def sorted_experts(module: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The experts of a layer on tokens sorted by expert: the fastest way on a processor, and one that has gradients."""
    chosen, order = torch.sort(index.flatten(), stable=True)
    tokens = order // index.shape[1]
    counts = torch.bincount(chosen, minlength=module.num_experts).tolist()
    outputs: list[Tensor] = []
    for inputs, up, down in zip(hidden[tokens].split(counts), module.gate_up_proj, module.down_proj):
        gate, value = F.linear(inputs, up).chunk(2, dim=-1)
        outputs.append(F.linear(module.act_fn(gate) * value, down))
    weighted = torch.cat(outputs) * weights.flatten()[order, None]
    return torch.zeros_like(hidden).index_add(0, tokens, weighted)


def use_sorted_experts(network: nn.Module) -> None:
    """Let a network compute its experts by `sorted_experts` from now on."""
    ALL_EXPERTS_FUNCTIONS.register(KERNEL, sorted_experts)
    for module in network.modules():
        if hasattr(module, "is_transposed") and hasattr(module, "num_experts"):
            vars(module)["config"]._experts_implementation = KERNEL
