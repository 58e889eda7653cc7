"""GELU in one pass over memory, where a model makes it of eight: the same numbers up to float32 rounding.

BLOOM and GPT-2 write GELU with tanh out as products and sums of whole tensors, which took a tenth of a pass on the CPU.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from babelscope.models.model import Model

WRITTEN_OUT = {
    ("transformers.models.bloom.modeling_bloom", "BloomGelu"),
    ("transformers.activations", "NewGELUActivation"),
}
"""classes that do so"""
EXACT = (torch.float32, torch.float64)
"""in narrower numbers each of the eight steps is rounded, so one step would give others"""


_lock = threading.Lock()


class _OneStep:
    """The forward of one activation: in one step for the threads that ask for it, its own for all others.

    A class of this package, so that whoever looks for somebody else's forwards passes over it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.asked = module, Counter[int]()

    def __call__(self, value: Tensor) -> Tensor:
        if self.asked[threading.get_ident()] > 0:
            return nn.functional.gelu(value, approximate="tanh")
        return type(self.module).forward(self.module, value)


@contextmanager
def fused_gelu(model: Model) -> Generator[None]:
    """Inside, such activations are computed in one step; their hooks run, and what replaces them already stays.

    In this thread alone: passes of another one through the same model are what they would be without.
    """
    here, held = threading.get_ident(), list[_OneStep]()
    blocks = model.blocks if model.dtype in EXACT else ()
    with _lock:
        for module in (part for block in blocks for part in block.modules() if _written_out(part)):
            step = module.__dict__.get("forward") or _OneStep(module)
            step.asked[here] += 1
            module.forward = step
            held.append(step)
    try:
        yield
    finally:
        with _lock:
            for step in held:
                step.asked[here] -= 1
                if not +step.asked and step.module.__dict__.get("forward") is step:
                    del step.module.forward


def _written_out(module: nn.Module) -> bool:
    kind, own = type(module), module.__dict__.get("forward")
    return (own is None or isinstance(own, _OneStep)) and (kind.__module__, kind.__name__) in WRITTEN_OUT
