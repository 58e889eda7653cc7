"""Norms as the linear maps that they are once their statistics are held: LayerNorm and RMSNorm in every spelling.

Gain, bias and centring are read off the norm's answers to probes, not off its attributes, which differ by family; the
probes are made in float32 whatever the model's own type, so that rounding is never taken for a property of the norm.

D model width
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from babelscope.errors import UnsupportedModel

TOLERANCE = 1e-2
"""largest difference, relative to the largest value, between a norm and its linear map: above bfloat16's rounding"""


def plain(module: nn.Module, value: Tensor) -> Tensor:
    """A module's computation without its hooks (so it may be called from within one)."""
    result: Tensor = module.forward(value)
    return result


@dataclass(frozen=True)
class NormMap:
    """What a norm does to a vector up to one factor: x → (x − mean x, or x) · gain, and then the bias."""

    module: nn.Module
    gain: Float[Tensor, " D"]
    """up to a factor, which `scale` makes good"""
    bias: Float[Tensor, " D"]
    centred: bool
    """whether the mean over the width is taken off first (LayerNorm), or not (RMSNorm)"""

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module, width: int, like: Tensor) -> NormMap:
        """Learned from four probes on the device of `like`."""
        wide = torch.promote_types(like.dtype, torch.float32)
        twin = copy.deepcopy(module).to(like.device, wide)

        def made(value: Tensor) -> Tensor:
            # the class's own forward: hooks, and forwards that somebody put in its place, are not the norm
            return type(twin).forward(twin, value[None])[0]

        # large enough for the norm's epsilon not to matter
        probe = torch.full((width,), 100.0, dtype=wide, device=like.device)
        probe[1::2] *= -1
        probe = probe + torch.linspace(-20, 20, width, dtype=wide, device=like.device)
        probe = probe - probe.mean()
        bias = made(torch.zeros_like(probe))
        value = made(probe)
        centred = bool(torch.allclose(made(probe + 50), value, rtol=1e-3, atol=1e-3 * float(value.abs().max())))
        return cls(module, (value - bias) / probe, bias, centred)

    def through(self, part: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """A part of the input, before the factor."""
        return (part - part.mean(-1, keepdim=True) if self.centred else part) * self.gain.to(part.dtype)

    def scale(
        self, whole: Float[Tensor, "*batch D"], made: Float[Tensor, "*batch D"] | None = None
    ) -> Float[Tensor, "*batch 1"]:
        """The factor that the norm applies to each token of `whole`; `made`: what it makes of them, if known."""
        wide = self.gain.dtype
        direction = self.through(whole.to(wide))
        value = (plain(self.module, whole) if made is None else made).to(wide) - self.bias
        factor = (value * direction).sum(-1, keepdim=True) / direction.square().sum(-1, keepdim=True).clamp_min(1e-30)
        return factor.to(whole.dtype)


@dataclass(frozen=True)
class FrozenNorm:
    """A norm with its scale held at what it was for one input: norm(x) = part(x) + bias, and part is linear.

    Parts come out in at least float32: they are added up, and what a part is must not depend on the model's type.
    """

    map: NormMap | None
    """None: nothing stands there, every part passes as it is"""
    factor: Float[Tensor, "*batch 1"]
    bias: Float[Tensor, " D"]

    def part(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """What one summand of the input becomes."""
        value = value.to(self.bias.dtype)
        return value if self.map is None else self.map.through(value) * self.factor


def frozen_norm(norm: nn.Module | None, whole: Float[Tensor, "*batch D"]) -> FrozenNorm:
    """The linear map that a norm applies to `whole`, with its scale there.

    Raises UnsupportedModel when the map does not give back norm(whole): the module is no norm of these two kinds.
    """
    wide = torch.promote_types(whole.dtype, torch.float32)
    width = whole.shape[-1]
    if norm is None:
        nothing = torch.zeros(width, dtype=wide, device=whole.device)
        return FrozenNorm(None, torch.ones(1, dtype=wide, device=whole.device), nothing)
    found = NormMap.of(norm, width, whole)
    normed = plain(norm, whole).to(wide)
    factor = found.scale(whole.to(wide), normed)
    frozen = FrozenNorm(found, factor, found.bias)
    error = (frozen.part(whole) + frozen.bias - normed).abs().max() / normed.abs().max().clamp_min(1e-6)
    if not float(error) <= TOLERANCE:
        raise UnsupportedModel(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm: no linear part of it exists"
        )
    return frozen
