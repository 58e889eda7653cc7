"""Where the parts of a model are: its shape, the modules that sites are hooked at, and the weights by head and neuron.

B batch · T position · D model width · N neuron · H query head · K key/value head · E head width · V vocabulary
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models.families import Family, find
from babelscope.models.hooks import READINGS, Kind, Location, Reading, Site
from babelscope.models.mixtures import Mixture, mixture_of
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.models.offload import execution_device, weight_of
from babelscope.models.routers import mixture_location
from babelscope.models.scales import Scales

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class Places:
    """The parts of a Hugging Face model as its family's row names them; `Model` is one that can be run."""

    hf: PreTrainedModel
    id: str
    config: PreTrainedConfig
    """of the text model"""
    family: Family
    scales: Scales

    # -- its shape --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the input embedding."""
        return execution_device(self.hf.get_input_embeddings())

    @property
    def blocks(self) -> nn.ModuleList:
        blocks = find(self.hf, self.family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def layers(self) -> int:
        return len(self.blocks)

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        for path in (self.family.attention_output, self.family.neurons):
            part = next((part for block in self.blocks if path and (part := find(block, path)) is not None), None)
            if part is not None:
                return _width(part, output=True)
        return int(self.config.hidden_size)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each layer's neurons begin in the whole model's, layer-major; the last entry is their number."""
        return self.layout.offsets

    @cached_property
    def mixtures(self) -> dict[int, Mixture]:
        """The mixture of experts of each layer that is one."""
        found = {layer: mixture_of(block, layer, self.id) for layer, block in enumerate(self.blocks)}
        return {layer: mixture for layer, mixture in found.items() if mixture is not None}

    @cached_property
    def neuron_layers(self) -> tuple[int, ...]:
        """Layers that have neurons; all of them but in mixed stacks."""
        dense = {layer for layer, block in enumerate(self.blocks) if find(block, self.family.neurons) is not None}
        skipped = {layer for layer, block in enumerate(self.blocks) if find(block, self.family.skipped) is not None}
        return tuple(sorted((dense | set(self.mixtures)) - skipped))

    @cached_property
    def attention_layers(self) -> tuple[int, ...]:
        """Layers that have heads: all of them but in hybrids; none under a row for regions only."""
        family = self.family
        gates = (family.head_gates,) if family.head_gates else ()
        paths = (family.attention_output, *family.qkv, *family.query_latent, *family.key_latent, *gates)
        if "circuits" not in family.levels:
            return ()
        return tuple(
            layer for layer, block in enumerate(self.blocks) if all(find(block, path) is not None for path in paths)
        )

    @cached_property
    def mixer_layers(self) -> tuple[int, ...]:
        """Layers with a linear mixer (state space, gated delta rule, convolution)."""
        family = self.family
        if not family.state_output:
            return ()
        shared = self.attention_layers if family.state_output == family.attention_output else ()
        found = (layer for layer, block in enumerate(self.blocks) if find(block, family.state_output) is not None)
        return tuple(layer for layer in found if layer not in shared)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What attention makes of what it reads, one kind of receiver each: q, k, v, and what some families add."""
        found: tuple[Reading, ...] = ("q", "k", "v")
        found = (*found, "shared_key") if self.family.key_latent else found
        return (*found, "gate") if self.family.head_gates else found

    @property
    def keeps_keys(self) -> bool:
        """Keys and values of a prefix are all that a pass over what follows needs: no states, no latents."""
        return not self.mixer_layers and not self.family.key_latent

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each layer: inputs of the MLP's output projection; of all experts in a mixture; 0 without MLP."""
        return tuple(self._neurons_of(layer) if layer in self.neuron_layers else 0 for layer in range(self.layers))

    @cached_property
    def layout(self) -> NeuronLayout:
        """How neurons are laid out over layers."""
        return NeuronLayout(self.widths)

    def _neurons_of(self, layer: int) -> int:
        if layer in self.mixtures:
            return self.mixtures[layer].width
        return _width(self.part(self.family.neurons, layer), output=False)

    @property
    def neurons_per_layer(self) -> int:
        """Neurons of the widest layer."""
        return max(self.widths)

    @property
    def neurons(self) -> int:
        """Neurons in the whole model."""
        return sum(self.widths)

    @property
    def heads(self) -> int:
        """Query heads of a layer; 0 under a row for regions only."""
        if not self.family.attention_output:
            return 0
        # of an encoder–decoder's decoder by itself the other name means the encoder's
        return int(getattr(self.config, "decoder_attention_heads", None) or self.config.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        """Key/value heads: fewer than heads under grouped-query attention."""
        if self.family.kv_heads is not None:
            return self.family.kv_heads
        if self.family.layout == "latent" or getattr(self.config, "decoder_attention_heads", None):
            return self.heads
        return int(getattr(self.config, "num_key_value_heads", None) or self.heads)

    @property
    def head_width(self) -> int:
        return _width(self.part(self.family.attention_output, self._attending), output=False) // self.heads

    @property
    def latent_width(self) -> int:
        """Width of the keys' and values' latent."""
        return _width(self.part(self.family.qkv[1], self._attending), output=False)

    @property
    def _attending(self) -> int:
        return next(iter(self.attention_layers), 0)

    # -- where its parts are ----------------------------------------------------------------------------------------

    def locate(self, site: Site) -> Location:
        """The module and side at which a site is hooked.

        Raises InputError for a layer out of range.
        """
        family, layer = self.family, site.layer
        limit = self.layers + (site.kind == "residual")
        if not 0 <= layer < limit:
            raise InputError(f"{site.kind} of layer {layer}: this model has layers 0 to {self.layers - 1}")
        if site.kind == "residual":
            return self._residual(layer)
        if layer in self.mixtures and site.kind in ("neurons", "router", "mlp_in", "mlp_write"):
            place = mixture_location(self.mixtures[layer], site.kind, find(self.blocks[layer], family.mlp_write))
            return replace(place, factor=self.scales.mlp[layer]) if site.kind == "mlp_write" else place
        if site.kind == "router":
            raise InputError(f"layer {layer} of {self.id} is no mixture of experts: it has no router")
        if "circuits" not in family.levels and site.kind not in ("neurons", "router", "mlp_in", "mlp_write"):
            raise UnsupportedModel(
                f"{site.kind}: the attention of {self.id} is not known; regions work, circuits do not"
            )
        if site.kind in ("z", "attention_write", "attention_in", *READINGS):
            self._needs_heads(site.kind, layer)
        if site.kind in ("shared_key", "gate") and site.kind not in self.readings:
            raise InputError(f"the attention of {self.id} has no {site.kind}")
        if site.kind == "state_write" and layer not in self.mixer_layers:
            raise InputError(f"layer {layer} of {self.id} has no linear mixer")
        if site.kind == "shared_key":
            module = self.part(family.key_latent[0], layer)
            return Location(module, "output", torch.arange(self.latent_width, _width(module, output=True))[None])
        if site.kind in ("q", "k", "v", "gate"):
            place = self._projection(site.kind, layer)
            if site.kind in ("q", "k") and family.qk_norms:
                return Location(self.part(family.qk_norms["qk".index(site.kind)], layer), "output", place.rows)
            if site.kind == "v" and family.value_norm:
                return Location(self.part(family.value_norm, layer), "output")
            return place
        if site.kind == "z":
            rows = torch.arange(self.heads * self.head_width).reshape(self.heads, self.head_width)
            return Location(self.part(family.attention_output, layer), "input", rows)
        paths: dict[str, tuple[str, Literal["input", "output"]]] = {
            "neurons": (family.neurons, "input"),
            "attention_write": (family.attention_write, "output"),
            "state_write": (family.state_write, "output"),
            "mlp_write": (family.mlp_write, "output"),
            "attention_in": ((*family.query_latent, *family.qkv, "")[0], "input"),
            "mlp_in": (family.mlp_read, "input"),
        }
        path, side = paths[site.kind]
        flat = family.flattens and site.kind in ("neurons", "mlp_in", "mlp_write")
        scales = self.scales
        multiplied = {"attention_write": scales.attention, "state_write": scales.state, "mlp_write": scales.mlp}
        factors = multiplied.get(site.kind)
        return Location(
            self.part(path, layer),
            side,
            block=self.blocks[layer] if flat else None,
            factor=factors[layer] if factors else 1.0,
        )

    def sites(self) -> list[Site]:
        """Every site, layer by layer."""
        mlp: tuple[Kind, ...] = ("mlp_in", "neurons", "mlp_write")
        attention: tuple[Kind, ...] = (*self.readings, "z", "attention_write")
        found: list[Site] = []
        for layer in range(self.layers):
            kinds: list[Kind] = ["residual"]
            if layer in self.attention_layers:
                kinds += attention
            if layer in self.mixer_layers:
                kinds.append("state_write")
            if layer in self.neuron_layers:
                kinds += mlp
            if layer in self.mixtures:
                kinds.append("router")
            found += [Site(kind, layer) for kind in kinds]
        return [*found, Site("residual", self.layers)]

    def norm(self, which: Literal["attention", "mlp", "final"], layer: int = 0) -> nn.Module | None:
        """The norm through which attention, the MLP or the unembedding reads the residual; None if it reads it bare."""
        family = self.family
        if which == "final":
            return find(self.hf, family.final_norm) if family.final_norm else None
        path = family.attention_norm if which == "attention" else family.mlp_norm
        return self.part(path, layer) if path else None

    def output_weight(self, layer: int) -> Float[Tensor, "H E D"]:
        """W_O of each head: z_h @ W_O[h] is what the head writes (before a post-norm, without the bias)."""
        weight = matrix(self.part(self.family.attention_output, layer))
        return weight.T.unflatten(0, (self.heads, -1))

    def projection_weight(self, kind: Literal["q", "k", "v", "gate"], layer: int) -> Float[Tensor, "heads E D"]:
        """W_Q, W_K or W_V by (key/value) head: x @ W[h].T is the head's projection, without the bias.

        Out of a latent, x is the latent behind its norm.
        """
        place = self._projection(kind, layer)
        assert place.rows is not None
        return _by_head(matrix(place.module), place.rows)

    def projection_bias(self, kind: Literal["q", "k", "v", "gate"], layer: int) -> Float[Tensor, "heads E"] | None:
        """Bias of the q, k or v projection by head, or None."""
        place = self._projection(kind, layer)
        assert place.rows is not None
        bias = weight_of(place.module, "bias")
        return None if bias is None else bias[place.rows.to(self.device)]

    def bias(self, kind: Literal["attention_output", "neurons"], layer: int) -> Float[Tensor, " D"] | None:
        """Bias of an output projection, or None."""
        path = self.family.attention_output if kind == "attention_output" else self.family.neurons
        return weight_of(self.part(path, layer), "bias")

    def neuron_weight(self, layer: int) -> Float[Tensor, "N D"]:
        """Output direction of each neuron."""
        return matrix(self.part(self.family.neurons, layer)).T

    @property
    def unembedding(self) -> Float[Tensor, "V D"]:
        head = self.hf.get_output_embeddings()
        found = None if head is None else weight_of(head)
        assert found is not None
        return found

    @property
    def unembedding_bias(self) -> Float[Tensor, " V"] | None:
        """What the unembedding adds to each word's logit, or None."""
        head = self.hf.get_output_embeddings()
        return None if head is None else weight_of(head, "bias")

    def part(self, path: str, layer: int) -> nn.Module:
        """The module at a path of a block; raises UnsupportedModel, with the layers that have one."""
        part = find(self.blocks[layer], path)
        if part is None:
            has = [other for other, block in enumerate(self.blocks) if find(block, path) is not None]
            where = f"; layers {', '.join(map(str, has))} have one" if has else ""
            raise UnsupportedModel(f"layer {layer} of {self.id} has no module {path}{where}")
        return part

    def _residual(self, layer: int) -> Location:
        if layer < self.layers:
            return Location(self.blocks[layer], "input")
        final = self.norm("final")
        if final is None or self.family.norms_embedding:
            return Location(self.blocks[-1], "output")
        return Location(final, "input")

    def _needs_heads(self, kind: str, layer: int) -> None:
        if layer in self.attention_layers:
            return
        what = find(self.blocks[layer], self.family.state_output.rpartition(".")[0]) if self.family.state_output else ""
        told = f" ({type(what).__name__})" if what else ""
        have = ", ".join(map(str, self.attention_layers))
        raise InputError(f"layer {layer} of {self.id} has no heads{told}: {kind} exists in layers {have}")

    def _projection(self, kind: Literal["q", "k", "v", "gate"], layer: int) -> Location:
        if kind == "gate":
            module, skipped = self.part(self.family.head_gates, layer), self.head_width * self.family.query_gates
            rows = torch.arange(_width(module, output=True)).reshape(self.heads, -1)[:, skipped:]
            return Location(module, "output", rows)
        order = "qkv".index(kind)
        queries, keys, width = self.heads, self.kv_heads, self.head_width
        counts = (queries, keys, keys)
        if self.family.layout == "latent":
            module = self.part(self.family.qkv[min(order, 1)], layer)
            rows = torch.arange(_width(module, output=True)).reshape(queries, -1)
            if kind == "q":
                return Location(module, "output", rows)
            # keys and values come as [B, 1, T, ·], as a cache of latents gives them
            block = self.blocks[layer]
            return Location(module, "output", rows[:, :-width] if kind == "k" else rows[:, -width:], block)
        if self.family.query_gates and kind == "q":
            rows = torch.arange(2 * queries * width).reshape(queries, 2 * width)[:, :width]
            return Location(self.part(self.family.qkv[0], layer), "output", rows)
        if self.family.layout == "separate":
            module = self.part(self.family.qkv[order], layer)
            # values may be wider or narrower than queries and keys
            return Location(module, "output", torch.arange(_width(module, output=True)).reshape(counts[order], -1))
        fused = self.part(self.family.qkv[0], layer)
        if self.family.layout == "blocks":
            start = sum(counts[:order]) * width
            return Location(fused, "output", start + torch.arange(counts[order] * width).reshape(counts[order], width))
        if self.family.layout == "codegen":
            # four parts, each with its quarter of the heads: all their q, then v, then k
            quarter = queries // 4
            parts = torch.arange(queries * 3 * width).reshape(4, 3, quarter, width)
            return Location(fused, "output", parts[:, (0, 2, 1)[order]].reshape(queries, width))
        group = queries // keys
        slots = torch.arange(keys * (group + 2) * width).reshape(keys, group + 2, width)
        rows = (slots[:, :group].reshape(queries, width), slots[:, group], slots[:, group + 1])[order]
        return Location(fused, "output", rows)


def matrix(module: nn.Module) -> Float[Tensor, "out in"]:
    """Weight of a linear map as [out, in], also of GPT-2's transposed Conv1D; UnsupportedModel if packed or none."""
    weight = weight_of(module)
    if weight is None and not module._parameters and not module._buffers:  # pyright: ignore[reportPrivateUsage]
        raise UnsupportedModel(f"{type(module).__name__} is no linear map with one weight matrix of its own")
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise UnsupportedModel(
            f"the weights of {type(module).__name__} are quantised and cannot be compared with what is recorded; "
            "load the model unquantised, or call its dequantize() first"
        )
    return weight.T if type(module).__name__ == "Conv1D" else weight


def _width(module: nn.Module, output: bool) -> int:
    weight = getattr(module, "weight", None)
    if weight is None or not weight.is_floating_point():
        return matrix(module).shape[0 if output else 1]
    # a placeholder of an offloaded weight has the right shape
    transposed = type(module).__name__ == "Conv1D"
    return int(weight.shape[1 if output == transposed else 0])


def _by_head(weight: Float[Tensor, "rows D"], rows: Int[Tensor, "heads E"]) -> Float[Tensor, "heads E D"]:
    """The rows of each head, without a copy where heads follow one another at even distances."""
    heads, width = rows.shape
    first = int(rows[0, 0])
    between = int(rows[1, 0]) - first if heads > 1 else width
    even = first + between * torch.arange(heads)[:, None] + torch.arange(width)
    if between <= 0 or not torch.equal(rows.cpu(), even.to(rows.dtype)):
        return weight[rows.to(weight.device)]
    down, across = weight.stride()
    start = weight.storage_offset() + first * down
    return weight.as_strided((heads, width, weight.shape[1]), (between * down, down, across), start)
