"""Neurons of a whole model in one row, layer after layer, and layer by layer: layers may differ in how many they have.

D neurons of the whole model · P layer · N neurons of the widest layer
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from babelscope.errors import InputError


@dataclass(frozen=True)
class NeuronLayout:
    """How many neurons each layer has.

    >>> layout = NeuronLayout((2, 3))
    >>> layout.by_layer(torch.arange(5), -1).tolist()
    [[0, 1, -1], [2, 3, 4]]
    >>> layout.name(3)
    (1, 1)
    """

    widths: tuple[int, ...]
    """0 for a layer without an MLP"""

    @staticmethod
    def even(layers: int, neurons: int) -> NeuronLayout:
        """All layers alike; raises InputError where so many neurons do not divide into so many layers."""
        if layers < 1 or neurons % layers:
            raise InputError(f"{neurons} neurons do not divide into {layers} layers: say how many each layer has")
        return NeuronLayout((neurons // layers,) * layers)

    def __str__(self) -> str:
        if self.alike:
            return f"{self.layers} layers × {self.widest} neurons"
        return f"{self.layers} layers of {min(self.widths)} to {self.widest} neurons"

    @property
    def layers(self) -> int:
        return len(self.widths)

    @property
    def alike(self) -> bool:
        """Whether all layers have as many neurons."""
        return len(set(self.widths)) <= 1

    @property
    def neurons(self) -> int:
        """D."""
        return sum(self.widths)

    @property
    def widest(self) -> int:
        """N."""
        return max(self.widths, default=0)

    @property
    def with_neurons(self) -> list[int]:
        """Layers that have neurons."""
        return [layer for layer, width in enumerate(self.widths) if width]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each layer begins; the last entry is D."""
        found = [0]
        for width in self.widths:
            found.append(found[-1] + width)
        return tuple(found)

    def columns(self, layer: int) -> slice:
        """The places of a layer's neurons among all."""
        return slice(self.offsets[layer], self.offsets[layer + 1])

    def name(self, place: int) -> tuple[int, int]:
        """Layer and number within it of a neuron, by its place among all."""
        layer = next(layer for layer, end in enumerate(self.offsets[1:]) if place < end)
        return layer, place - self.offsets[layer]

    def place(self, layer: int, neuron: int) -> int:
        """Place among all; raises InputError where there is no such neuron."""
        if not 0 <= layer < self.layers:
            raise InputError(f"there is no layer {layer}: layers 0–{self.layers - 1}")
        width = self.widths[layer]
        if not 0 <= neuron < width:
            has = f"it has neurons 0–{width - 1}" if width else "it has none"
            raise InputError(f"there is no neuron {neuron} in layer {layer}: {has}")
        return self.offsets[layer] + neuron

    @cached_property
    def exists(self) -> Bool[Tensor, "P N"]:
        """The cells of a matrix by layer that stand for a neuron."""
        return torch.arange(self.widest) < torch.tensor(self.widths)[:, None]

    def by_layer(self, values: Shaped[Tensor, "*rest D"], beyond: float | bool) -> Shaped[Tensor, "*rest P N"]:
        """One row of neurons as a matrix by layer, `beyond` where a layer has no such neuron."""
        if self.alike:
            return values.reshape(*values.shape[:-1], self.layers, self.widest)
        found = values.new_full((*values.shape[:-1], self.layers, self.widest), beyond)
        found[..., self.exists] = values
        return found

    def in_a_row(self, values: Shaped[Tensor, "*rest P N"]) -> Shaped[Tensor, "*rest D"]:
        """A matrix by layer as one row of neurons."""
        return values.flatten(-2) if self.alike else values[..., self.exists]

    def check(self, mask: Bool[Tensor, "P N"], model: str) -> None:
        """Raises InputError for what is no mask, one of another shape, or one with a neuron that its layer lacks."""
        shape = (self.layers, self.widest)
        if not isinstance(mask, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"a mask [layer, neuron] is needed, got {type(mask).__name__}; of a set of regions take that of one "
                "language: regions['en']"
            )
        if tuple(mask.shape) != shape:
            raise InputError(f"a mask of shape {tuple(mask.shape)} does not fit {model}: layers × neurons are {shape}")
        beyond = (mask.cpu() & ~self.exists).nonzero()
        if len(beyond):
            layer, neuron = beyond[0].tolist()
            raise InputError(
                f"a mask names neuron {neuron} of layer {layer}, but that layer of {model} has {self.widths[layer]}"
            )
