"""Where the neurons of a mixture of experts are, layer by layer.

A neuron is (layer, expert, unit): an input of an expert's output projection. Within a layer they stand in the order
routed experts 0 … E−1, shared experts, dense MLP beside them.

E expert · F units of an expert · N neurons of the layer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from babelscope.errors import UnsupportedModel

EXPERTS_INTERFACE = ("is_concatenated", "has_gate", "is_transposed", "num_experts")
"""what transformers' experts interface leaves on a module"""
ROUTERS = ("gate", "router")
OUTPUT_PROJECTIONS = ("down_proj", "output_linear", "w2", "wo", "fc2", "c_proj")
"""names of an MLP's output projection, within a shared expert or a dense MLP beside the experts"""
ATTENTION = ("attn", "attention", "mixer", "conv", "mamba")


@dataclass(frozen=True)
class Part:
    """Neurons of a layer that do not depend on routing: a shared expert, or a dense MLP beside the experts."""

    name: str
    """`shared` or `dense`"""
    projection: nn.Module
    """the output projection, whose input the neurons are"""
    units: int


@dataclass(frozen=True)
class Neuron:
    """The name of one neuron of a layer."""

    layer: int
    part: str
    """`expert`, `shared` or `dense`"""
    expert: int | None
    unit: int

    def __str__(self) -> str:
        where = f"expert {self.expert}" if self.part == "expert" else self.part
        return f"layer {self.layer}, {where}, unit {self.unit}"


@dataclass(frozen=True)
class Mixture:
    """The experts of one layer, what chooses among them, and what stands beside them."""

    layer: int
    block: nn.Module
    mlp: nn.Module
    """the module that holds experts and router; its output is what they write together"""
    experts: Any
    """the module that computes the routed experts"""
    router: nn.Module
    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        """E."""
        return int(self.experts.num_experts)

    @property
    def units(self) -> int:
        """F, from the shape of the output projections."""
        return int(self.experts.down_proj.shape[1 if self.experts.is_transposed else 2])

    @property
    def routed(self) -> int:
        """Neurons of the routed experts, E · F."""
        return self.count * self.units

    @property
    def width(self) -> int:
        """N, neurons of the layer."""
        return self.routed + sum(part.units for part in self.parts)

    @property
    def hashed(self) -> bool:
        """Experts are chosen by the token id alone (DeepSeek-V4): such a router cannot tell languages apart."""
        return hasattr(self.router, "tid2eid")

    def expert(self, expert: int) -> slice:
        """The columns of one expert within the layer."""
        return slice(expert * self.units, (expert + 1) * self.units)

    def columns(self) -> list[tuple[Part, slice]]:
        """The columns of what stands beside the routed experts."""
        found: list[tuple[Part, slice]] = []
        start = self.routed
        for part in self.parts:
            found.append((part, slice(start, start + part.units)))
            start += part.units
        return found

    def neuron(self, column: int) -> Neuron:
        """The name of the neuron in a column of the layer."""
        if column < self.routed:
            return Neuron(self.layer, "expert", column // self.units, column % self.units)
        part, columns = next((part, columns) for part, columns in self.columns() if column < columns.stop)
        return Neuron(self.layer, part.name, None, column - columns.start)


def mixture_of(block: nn.Module, layer: int, name: str = "the model") -> Mixture | None:
    """The mixture in a block; None where the block holds no experts.

    Raises UnsupportedModel where there are experts that cannot be read through transformers' experts interface, or
    parameters of experts that are part of nothing we read.
    """
    inside = dict(block.named_modules())
    found = [path for path, module in inside.items() if all(hasattr(module, key) for key in EXPERTS_INTERFACE)]
    if not found:
        outside = _unread_experts(block, [])
        if outside:
            raise UnsupportedModel(_unreadable(name, outside, layer))
        return None
    if len(found) > 1:
        raise UnsupportedModel(f"{name}: layer {layer} has {len(found)} groups of experts, not one")
    path = found[0]
    parent_path = path.rpartition(".")[0]
    parent = inside[parent_path]
    router = next((child for key, child in parent.named_children() if key in ROUTERS), None)
    if router is None:
        raise UnsupportedModel(f"{name}: no router beside the experts at {path} of layer {layer}")
    parts, owned = _parts(block, parent_path, path)
    own = [path, *(f"{parent_path}.{key}".lstrip(".") for key in ROUTERS), *owned]
    stray = _unread_experts(block, own)
    if stray:
        raise UnsupportedModel(_unreadable(name, stray, layer))
    return Mixture(layer, block, parent, inside[path], router, parts)


def _parts(block: nn.Module, parent: str, experts: str) -> tuple[tuple[Part, ...], list[str]]:
    """Shared experts, then dense MLPs beside the routed experts; and the paths of the modules they lie in."""
    shared: list[Part] = []
    dense: list[Part] = []
    owned: list[str] = []
    for path, module in block.named_modules():
        if not isinstance(module, nn.Linear) or _within(path, [experts]):
            continue
        where, _, leaf = path.rpartition(".")
        # a mixture may stand where attention does in other layers (Nemotron-H: `mixer`)
        below = path.removeprefix(f"{parent}.")
        if leaf not in OUTPUT_PROJECTIONS or any(word in below for word in ATTENTION):
            continue
        if any(word in ROUTERS for word in where.split(".")):
            continue
        owned.append(where)
        is_shared = "shared" in path
        (shared if is_shared else dense).append(Part("shared" if is_shared else "dense", module, module.in_features))
    return (*shared, *dense), owned


def _unread_experts(block: nn.Module, own: list[str]) -> str | None:
    """Path of a module of experts that is none of ours; a gate or a bias per expert is no expert."""
    for path, module in block.named_modules():
        named = "expert" in path.lower() or "Expert" in type(module).__name__
        if not named or _within(path, own):
            continue
        if any(weight.dim() > 1 and (weight.dim() > 2 or len(weight) > 1) for weight in module.parameters(False)):
            return path
    return None


def _unreadable(name: str, path: str, layer: int) -> str:
    return (
        f"{name}: the experts at {path} of layer {layer} do not pass through transformers' experts interface; "
        "their neurons cannot be read"
    )


def _within(key: str, paths: list[str]) -> bool:
    return any(key == path or key.startswith(f"{path}.") for path in paths)
