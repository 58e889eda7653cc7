"""Hashes: over all weights of a model, wherever they are kept, and over all that its numbers depend on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from babelscope.models.offload import resident

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NO_MATTER = frozenset(
    {
        "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "return_dict",
        "output_attentions", "output_hidden_states", "id2label", "label2id", "problem_type", "auto_map", "name_or_path",
        "_attn_implementation", "_experts_implementation", "_commit_hash",
    }
)  # fmt: skip
"""settings of a configuration that no hidden state depends on, or that are recorded by themselves"""
_PROCESS = f"{os.getpid()} {time.time_ns()}"
_COLUMNS = 4096
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weight_hash(parts: dict[str, tuple[nn.Module, str]]) -> str:
    """sha256 over names, shapes, types and bytes of distinct tensors, read through accelerate's hooks."""
    digest, seen = hashlib.sha256(), set[tuple[object, ...]]()
    for name, (module, own) in sorted(parts.items()):
        resting: Tensor = getattr(module, own)
        if resting.device.type != "meta" and resting.numel():
            place = (resting.data_ptr(), resting.shape, resting.stride())
            if place in seen:
                continue
            seen.add(place)
        with resident(module):
            parameter: Tensor = getattr(module, own)
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(parameter.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def content_sign(tensors: Iterable[Tensor]) -> bytes:
    """A short sign of what tensors hold now, a tenth of the cost of hashing them: it tells whether they were changed.

    Sums over the rows and over the columns of their bits as integers; edits by way of `.data` move no counter.
    """
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} {tensor.device}".encode())
        if tensor.device.type == "meta":
            continue
        bits = tensor.detach().contiguous().reshape(-1)
        bits = torch.view_as_real(bits).reshape(-1) if bits.is_complex() else bits
        # eight bytes at a time: integers of four are widened one by one, which takes ten times as long
        bytes_before, bytes_all = bits.storage_offset() * bits.element_size(), bits.numel() * bits.element_size()
        bits = bits.view(_INTEGERS[8 if bytes_before % 8 == bytes_all % 8 == 0 else bits.element_size()])
        whole = bits[: len(bits) - len(bits) % _COLUMNS].reshape(-1, _COLUMNS)
        for part in (whole.sum(0), whole.sum(1), bits[whole.numel() :]):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def config_hash(config: PreTrainedConfig) -> str:
    """sha256 over the settings of a configuration that a hidden state may depend on."""
    settings = {name: value for name, value in config.to_dict().items() if name not in _NO_MATTER}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def function_hash(weights: str, config: str, kernel: str | None, foreign: Iterable[object]) -> str:
    """sha256 over all that the numbers of a model depend on.

    What somebody else's hooks do is not known: under such, nothing is the same in another process.
    """
    added = [str(one) for one in foreign]
    facts = [weights, config, kernel, added, _PROCESS if added else ""]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
