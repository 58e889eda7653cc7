"""What training a mixture of experts needs beside a dense model: a loss that spreads tokens, and quick experts.

N token · K experts of a token · E expert
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from babelscope.models.experts import KERNEL, compute


@contextmanager
def router_logits(network: nn.Module) -> Generator[list[Tensor]]:
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


def compute_experts_quickly(network: nn.Module) -> None:
    """Let a network compute its experts on tokens sorted by expert from now on: fastest on a processor."""
    ALL_EXPERTS_FUNCTIONS.register(KERNEL, compute)
    for module in network.modules():
        if hasattr(module, "is_concatenated"):
            vars(module)["config"]._experts_implementation = KERNEL
