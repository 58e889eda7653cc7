"""What is planted in a tiny model so that a check must fail: modules that put out, or are given, something else."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from babelscope.models import Model

from .tiny_models import tiny_model, tiny_tokenizer

IDS = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(4))


@lru_cache(8)
def model(family: str = "llama") -> Model:
    return Model(tiny_model(family), tiny_tokenizer(), id=family)


@contextmanager
def output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Inside, a module puts out something else."""

    def act(_: object, __: object, out: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = module.register_forward_hook(act)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def entering(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Inside, something else enters a module."""
    handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def twice(value: Tensor) -> Tensor:
    return value * 2


def near(value: float) -> object:
    return pytest.approx(value, abs=1e-4)


def by_head(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of [B, T, H, E], in place, of what enters the output projection."""

    def act(value: Tensor) -> Tensor:
        heads = value.clone().unflatten(-1, (4, 8))
        change(heads)
        return heads.flatten(-2)

    return act


@contextmanager
def fixed_weight(module: nn.Module) -> Generator[None]:
    """Inside, a linear map multiplies with a copy of its weight, whatever is put in the place of the weight."""
    weight = module.weight.detach().clone()
    module.forward = lambda value: nn.functional.linear(value, weight)
    try:
        yield
    finally:
        del module.forward
