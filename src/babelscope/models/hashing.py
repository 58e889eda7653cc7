"""One hash over all weights of a model, wherever they are kept."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from babelscope.models.offload import resident


def weight_hash(parts: dict[str, tuple[nn.Module, str]]) -> str:
    """sha256 over names, shapes, types and bytes of distinct parameters, read through accelerate's hooks."""
    digest, seen = hashlib.sha256(), set[int]()
    for name, (module, own) in sorted(parts.items()):
        resting: Tensor = getattr(module, own)
        if resting.device.type != "meta" and resting.numel():
            if resting.data_ptr() in seen:
                continue
            seen.add(resting.data_ptr())
        with resident(module):
            parameter: Tensor = getattr(module, own)
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(parameter.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
