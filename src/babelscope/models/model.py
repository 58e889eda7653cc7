"""A causal language model with its tokenizer, and the places in it that the rest of the package reads and edits.

B batch · T position · D model width · N neuron · H query head · K key/value head · E head width · V vocabulary
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.errors import InputError, ModelError, UnsupportedModel
from babelscope.models.families import Family, family_of, find
from babelscope.models.hooks import Kind, Location, Site, foreign_hooks
from babelscope.models.mixtures import Mixture, mixture_of
from babelscope.models.routers import mixture_location

SpecialTokens = Literal["none", "bos", "bos-excluded"]


class Model:
    """Any Hugging Face causal language model and its tokenizer, unmodified, on any device or device map.

    Raises UnsupportedModel when the structure is unknown or wrong, ModelError when model and tokenizer do not fit.

    >>> from babelscope import load_model
    >>> model = load_model("pocket:pocket-bloom-s")
    >>> model.family.name, model.layers
    ('bloom', 4)
    """

    def __init__(self, hf: Any, tokenizer: Any, id: str | None = None, revision: str | None = None) -> None:
        self.hf: Any = hf.eval()
        self.tokenizer: Any = tokenizer
        self.id: str = id or getattr(hf.config, "_name_or_path", "") or type(hf).__name__
        self.revision = revision
        self.config: Any = hf.config.get_text_config()
        self.family: Family = family_of(hf, self.config)
        self._check_tokenizer()

    def __repr__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return (
            f"<Model {self.id}{revision}: {self.family.name}, {self.layers} layers, {self.neurons:,} neurons, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}>"
        )

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        facts = {
            "Family": self.family.name,
            "Layers": self.layers,
            "Neurons": self.neurons,
            "Type, device": f"{str(self.dtype).removeprefix('torch.')}, {self.device}",
        }
        return table(f"{self.id}{'@' + self.revision if self.revision else ''}", [], facts.items())

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the input embedding."""
        return self.hf.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

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
        return _width(self._part(self.family.attention_output, 0), output=True)

    @cached_property
    def mixtures(self) -> dict[int, Mixture]:
        """The mixture of experts of each layer that is one."""
        found = {layer: mixture_of(block, layer, self.id) for layer, block in enumerate(self.blocks)}
        return {layer: mixture for layer, mixture in found.items() if mixture is not None}

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each layer: inputs of the MLP's output projection; of all experts in a mixture."""
        return tuple(
            self.mixtures[layer].width
            if layer in self.mixtures
            else _width(self._part(self.family.neurons, layer), output=False)
            for layer in range(self.layers)
        )

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
        return int(self.config.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        """Key/value heads: fewer than heads under grouped-query attention."""
        if self.config.model_type == "falcon":
            config = self.config
            if config.new_decoder_architecture:
                return int(config.num_kv_heads)
            return 1 if config.multi_query else self.heads
        return int(getattr(self.config, "num_key_value_heads", None) or self.heads)

    @property
    def head_width(self) -> int:
        return _width(self._part(self.family.attention_output, 0), output=False) // self.heads

    @property
    def vocabulary(self) -> int:
        return int(self.hf.get_input_embeddings().weight.shape[0])

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.hf.parameters())

    @cached_property
    def weight_hash(self) -> str:
        """sha256 over names, shapes, types and bytes of all distinct parameters."""
        digest, seen = hashlib.sha256(), set[int]()
        for name, parameter in sorted(self.hf.named_parameters()):
            if parameter.device.type == "meta" or (parameter.numel() and parameter.data_ptr() in seen):
                continue
            seen.add(parameter.data_ptr())
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(parameter.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @cached_property
    def tokenizer_hash(self) -> str:
        """sha256 over the tokenizer's whole definition, or over its vocabulary where it is a slow one."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(text.encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a run records about its model."""
        return {
            "id": self.id,
            "revision": self.revision,
            "family": self.family.name,
            "weight_hash": self.weight_hash,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "layers": self.layers,
            "width": self.width,
            "neurons_per_layer": self.neurons_per_layer,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "parameters": self.parameters,
            "attention": getattr(self.config, "_attn_implementation", None),
            "foreign_hooks": foreign_hooks(self.hf),
        }

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
            return mixture_location(self.mixtures[layer], site.kind, find(self.blocks[layer], family.mlp_write))
        if site.kind == "router":
            raise InputError(f"layer {layer} of {self.id} is no mixture of experts: it has no router")
        if site.kind in ("q", "k", "v"):
            place = self._projection(site.kind, layer)
            if site.kind != "v" and family.qk_norms:
                return Location(self._part(family.qk_norms["qk".index(site.kind)], layer), "output", place.rows)
            return place
        if site.kind == "z":
            rows = torch.arange(self.heads * self.head_width).reshape(self.heads, self.head_width)
            return Location(self._part(family.attention_output, layer), "input", rows)
        paths: dict[str, tuple[str, Literal["input", "output"]]] = {
            "neurons": (family.neurons, "input"),
            "attention_write": (family.attention_write, "output"),
            "mlp_write": (family.mlp_write, "output"),
            "attention_in": (family.qkv[0], "input"),
            "mlp_in": (family.mlp_read, "input"),
        }
        path, side = paths[site.kind]
        flat = family.flattens and site.kind in ("neurons", "mlp_in", "mlp_write")
        return Location(self._part(path, layer), side, block=self.blocks[layer] if flat else None)

    def sites(self) -> list[Site]:
        """Every site, layer by layer."""
        kinds: tuple[Kind, ...] = ("residual", "q", "k", "v", "z", "attention_write", "mlp_in", "neurons", "mlp_write")
        return [Site(kind, layer) for layer in range(self.layers) for kind in kinds] + [Site("residual", self.layers)]

    def norm(self, which: Literal["attention", "mlp", "final"], layer: int = 0) -> nn.Module | None:
        """The norm through which attention, the MLP or the unembedding reads the residual; None if it reads it bare."""
        family = self.family
        if which == "final":
            return find(self.hf, family.final_norm) if family.final_norm else None
        path = family.attention_norm if which == "attention" else family.mlp_norm
        return self._part(path, layer) if path else None

    def output_weight(self, layer: int) -> Float[Tensor, "H E D"]:
        """W_O of each head: z_h @ W_O[h] is what the head writes (before a post-norm, without the bias)."""
        weight = matrix(self._part(self.family.attention_output, layer))
        return weight.T.reshape(self.heads, self.head_width, -1)

    def projection_weight(self, kind: Literal["q", "k", "v"], layer: int) -> Float[Tensor, "heads E D"]:
        """W_Q, W_K or W_V by (key/value) head: x @ W[h].T is the head's projection, without the bias."""
        place = self._projection(kind, layer)
        assert place.rows is not None
        return matrix(place.module)[place.rows.to(self.device)]

    def projection_bias(self, kind: Literal["q", "k", "v"], layer: int) -> Float[Tensor, "heads E"] | None:
        """Bias of the q, k or v projection by head, or None."""
        place = self._projection(kind, layer)
        assert place.rows is not None
        bias = getattr(place.module, "bias", None)
        return None if bias is None else bias[place.rows.to(self.device)]

    def bias(self, kind: Literal["attention_output", "neurons"], layer: int) -> Float[Tensor, " D"] | None:
        """Bias of an output projection, or None."""
        path = self.family.attention_output if kind == "attention_output" else self.family.neurons
        return getattr(self._part(path, layer), "bias", None)

    def neuron_weight(self, layer: int) -> Float[Tensor, "N D"]:
        """Output direction of each neuron."""
        return matrix(self._part(self.family.neurons, layer)).T

    @property
    def unembedding(self) -> Float[Tensor, "V D"]:
        return self.hf.get_output_embeddings().weight

    def _part(self, path: str, layer: int) -> nn.Module:
        part = find(self.blocks[layer], path)
        if part is None:
            raise UnsupportedModel(f"block {layer} of {self.id} has no module {path}")
        return part

    def _residual(self, layer: int) -> Location:
        if layer < self.layers:
            return Location(self.blocks[layer], "input")
        final = self.norm("final")
        return Location(final, "input") if final is not None else Location(self.blocks[-1], "output")

    def _projection(self, kind: Literal["q", "k", "v"], layer: int) -> Location:
        order = "qkv".index(kind)
        queries, keys, width = self.heads, self.kv_heads, self.head_width
        counts = (queries, keys, keys)
        if self.family.layout == "separate":
            rows = torch.arange(counts[order] * width).reshape(counts[order], width)
            return Location(self._part(self.family.qkv[order], layer), "output", rows)
        fused = self._part(self.family.qkv[0], layer)
        if self.family.layout == "blocks":
            start = sum(counts[:order]) * width
            return Location(fused, "output", start + torch.arange(counts[order] * width).reshape(counts[order], width))
        group = queries // keys
        slots = torch.arange(keys * (group + 2) * width).reshape(keys, group + 2, width)
        rows = (slots[:, :group].reshape(queries, width), slots[:, group], slots[:, group + 1])[order]
        return Location(fused, "output", rows)

    @cached_property
    def block_returns_tuple(self) -> bool:
        """Whether a block's output is a tuple (BLOOM, Falcon), learned from one pass over one token."""
        seen: list[bool] = []
        handle = self.blocks[0].register_forward_hook(lambda _m, _a, output: seen.append(isinstance(output, tuple)))
        try:
            with torch.inference_mode():
                self.trunk(torch.zeros(1, 1, dtype=torch.long, device=self.device))
        finally:
            handle.remove()
        return seen[0]

    # -- running it -------------------------------------------------------------------------------------------------

    def tokenize(self, texts: Sequence[str], special: SpecialTokens = "none") -> list[list[int]]:
        """Token ids of each text; `bos` and `bos-excluded` put the beginning-of-sequence token in front.

        Raises InputError when a text has no tokens, or the tokenizer no such special token.
        """
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        for text, ids in zip(texts, encoded):
            if not ids:
                raise InputError(f"the text {text!r} has no tokens")
        if special == "none":
            return encoded
        first = self.tokenizer.bos_token_id
        if first is None:
            raise InputError(
                f"special tokens {special!r}: the tokenizer of {self.id} has no beginning-of-sequence token"
            )
        return [[first, *ids] for ids in encoded]

    def trunk(
        self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"] | None = None, cache: Any = None
    ) -> Float[Tensor, "B T D"]:
        """Final hidden state after the final norm; no logits are made."""
        output = self.hf.base_model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, return_dict=True
        )
        return output.last_hidden_state

    def logits(self, hidden: Float[Tensor, "*batch D"], words: Tensor | None = None) -> Float[Tensor, "*batch V"]:
        """Logits of final hidden states, with the family's scale and soft cap; of the vocabulary's `words` if given."""
        head = self.hf.get_output_embeddings()
        if words is None:
            raw = head(hidden)
        else:
            words = words.to(head.weight.device)
            bias = head.bias[words] if getattr(head, "bias", None) is not None else None
            raw = nn.functional.linear(hidden.to(head.weight.device), head.weight[words], bias)
        return self.finish_logits(raw)

    def finish_logits(self, raw: Tensor) -> Tensor:
        """The family's logit scale and soft cap applied to unembedded values (elementwise, so also to a chunk)."""
        scale = getattr(self.config, "logit_scale", None)
        if scale is not None:
            raw = raw * scale
        cap = getattr(self.config, "final_logit_softcapping", None)
        return torch.tanh(raw / cap) * cap if cap is not None else raw

    def _check_tokenizer(self) -> None:
        if self.tokenizer is None:
            return
        words = self.tokenizer.get_vocab().values()
        highest = max(words, default=-1)
        if highest < 0:
            raise ModelError(f"the tokenizer of {self.id} has an empty vocabulary")
        if highest >= self.vocabulary:
            raise ModelError(
                f"the tokenizer does not belong to {self.id}: its highest token id is {highest}, "
                f"the model has {self.vocabulary} embeddings"
            )


def matrix(module: nn.Module) -> Float[Tensor, "out in"]:
    """Weight of a linear map as [out, in], also of GPT-2's transposed Conv1D; UnsupportedModel if it is packed."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise UnsupportedModel(
            f"the weights of {type(module).__name__} are quantised and cannot be compared with what is recorded; "
            "load the model unquantised, or call its dequantize() first"
        )
    return weight.T if type(module).__name__ == "Conv1D" else weight


def _width(module: nn.Module, output: bool) -> int:
    return matrix(module).shape[0 if output else 1]
