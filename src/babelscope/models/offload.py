"""Weights that accelerate keeps elsewhere: a module's own tensors are read through its hook, never past it.

An offloaded module holds placeholders on the meta device between its forward passes; what is read from them is nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from babelscope.errors import ModelError


class _Hook(Protocol):
    """What accelerate puts on a module whose weights are elsewhere."""

    def pre_forward(self, module: nn.Module) -> object: ...

    def post_forward(self, module: nn.Module, output: object) -> object: ...


def offloaded(root: nn.Module) -> list[str]:
    """Names of the parameters that are not in memory now."""
    return [name for name, parameter in root.named_parameters() if parameter.device.type == "meta"]


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes: its weights' device, or the one that accelerate brings them to."""
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    if device.type != "meta":
        return device
    place = next(
        (place for one in _hooks(module) if (place := getattr(one, "execution_device", None)) is not None), "cpu"
    )
    return torch.device(place)


@contextmanager
def resident(module: nn.Module) -> Generator[None]:
    """Inside, a module's own parameters (not its children's) are in memory.

    Raises ModelError when they are placeholders that no hook can fill.
    """
    if not any(parameter.device.type == "meta" for parameter in module.parameters(recurse=False)):
        yield
        return
    filling = [hook for hook in _hooks(module) if getattr(hook, "offload", False)]
    if not filling:
        raise ModelError(f"the weights of a {type(module).__name__} are placeholders that nothing fills")
    try:
        for hook in filling:
            hook.pre_forward(module)
        yield
    finally:
        for hook in filling:
            hook.post_forward(module, None)


def _hooks(module: nn.Module) -> list[_Hook]:
    """accelerate's hooks on a module, those that it put in a row too."""
    hook: _Hook | None = getattr(module, "_hf_hook", None)
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def weight_of(module: nn.Module, name: str = "weight") -> Tensor | None:
    """A module's parameter by name, brought into memory where it is kept elsewhere; None where there is none."""
    if getattr(module, name, None) is None:
        return None
    with resident(module):
        found: Tensor = getattr(module, name)
    return found
