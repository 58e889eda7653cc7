"""A causal language model with its tokenizer: what it is, and how it is run.

B batch · T position · D model width · N neuron · H query head · K key/value head · E head width · V vocabulary
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models.context import Context, context_of
from babelscope.models.encoders import (
    first_tokens,
    is_encoder,
    own_tokens,
    refuse_next_word,
    saturation_refused,
    with_own_tokens,
)
from babelscope.models.families import Family
from babelscope.models.foreign import foreign_hooks, foreign_registrations
from babelscope.models.hashing import config_hash, content_sign, function_hash, weight_hash
from babelscope.models.hooks import standing_edits
from babelscope.models.mode import refuse_mode, uncompiled
from babelscope.models.places import Places
from babelscope.models.refusals import refuse_quantised, refuse_tokenizer, refuse_unknown, refuse_what_is_no_model
from babelscope.models.registry import digest
from babelscope.models.scales import Scales, measure
from babelscope.models.structure import embeds_tokens, family_of, trunk_of, why_no_neurons
from babelscope.terms import SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from babelscope.models.loading import Origin
    from babelscope.models.workers import Workers


class Model(Places):
    """Any Hugging Face causal language model and its tokenizer, unmodified, on any device or device map.

    Raises UnsupportedModel when the structure is unknown or wrong, ModelError when model and tokenizer do not fit.

    >>> from babelscope import load_model
    >>> model = load_model("pocket:pocket-bloom-s")
    >>> model.family.name, model.layers
    ('bloom', 4)
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: Tokenizer,
        id: str | None = None,
        revision: str | None = None,
        family: Family | None = None,
        allow_longer: bool = False,
    ) -> None:
        hf = uncompiled(hf)
        refuse_what_is_no_model(hf, tokenizer)
        refuse_quantised(hf, id or type(hf).__name__)
        self.hf: Any = hf.eval()
        self.tokenizer: Any = tokenizer
        self.id: str = id or getattr(hf.config, "_name_or_path", "") or type(hf).__name__
        self.revision = revision
        self.allow_longer = allow_longer
        self._hashed: tuple[bytes, str] | None = None
        self.seen: object = None
        """what the gate last saw of it"""
        self.adapter: dict[str, str] | None = None
        """hashes of base and adapter, where an adapter was merged on loading"""
        self.origin: Origin | None = None
        """what it was loaded from; None where it was made otherwise"""
        self.workers: Workers | None = None
        """others that hold the same model, while studies are shared out (`on_ray`)"""
        self.encoder = is_encoder(hf)
        """it reads a text from both sides: what is measured is the encoder"""
        self.config: Any = hf.config.get_text_config(**({"encoder": True} if self.encoder else {}))
        trunk = trunk_of(hf)
        self.trunk_module: Any = trunk.module
        self._trunk_path, self._inside = trunk.path, trunk.inside
        self.family: Family = family_of(hf, self.config, trunk, family)
        self.no_neurons = "" if self.family.neurons or self.mixtures else why_no_neurons(hf, self.config, trunk)
        """why none are known; the residual stream can be recorded all the same"""
        if not embeds_tokens(hf):
            raise UnsupportedModel(f"{self.id} has no embedding of tokens: {type(hf).__name__} reads something else")
        refuse_tokenizer(tokenizer, self.vocabulary, self.id)
        self.scales = Scales.plain(self.layers)
        self.scales = measure(self)

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

    def renew(self) -> None:
        """Look at its parts and measure its multipliers again, after somebody changed it."""
        for name, value in {**vars(Model), **vars(Places)}.items():
            if isinstance(value, cached_property):
                self.__dict__.pop(name, None)
        self.scales = Scales.plain(self.layers)
        self.scales = measure(self)

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def soft_cap(self) -> float | None:
        """The bound that logits are squeezed into by a hyperbolic tangent, if the configuration states one."""
        names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        return next((float(cap) for name in names if (cap := getattr(self.config, name, None))), None)

    @property
    def logit_scale(self) -> float:
        """s of logits = s · (h · W_U), as measured.

        Raises UnsupportedModel where there is no such number.
        """
        if self.scales.logits is None:
            raise UnsupportedModel(f"the logits of {self.id} are no multiple of its unembedding times its last state")
        return self.scales.logits

    @cached_property
    def context(self) -> Context:
        """How many positions the model has, and whether that is a hard limit."""
        return context_of(self)

    @property
    def vocabulary(self) -> int:
        return int(self.hf.get_input_embeddings().weight.shape[0])

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.hf.parameters())

    @property
    def weight_hash(self) -> str:
        """sha256 over names, shapes, types and bytes of all distinct parameters, wherever they are kept, and of the
        buffers that are saved with them.

        Of a text model inside another one only the text model counts, under the names that it has by itself. Made anew
        where the weights were changed.
        """
        parts = self._hashed_parts()
        sign = content_sign(getattr(module, name) for module, name in parts.values())
        if self._hashed is None or self._hashed[0] != sign:
            self._hashed = (sign, weight_hash(parts))
        return self._hashed[1]

    @property
    def function_hash(self) -> str:
        """sha256 over all that the model's numbers depend on: weights, configuration, kernel, and what others (or our
        own standing edits) change in it. What was kept under another one is another model's.
        """
        edits = standing_edits(self.hf)
        added = [*foreign_registrations(self.hf), *([f"{edits} edits"] if edits else [])]
        kernel = getattr(self.config, "_attn_implementation", None)
        return function_hash(self.weight_hash, config_hash(self.config), kernel, added)

    def _hashed_parts(self) -> dict[str, tuple[nn.Module, str]]:
        """Each parameter by its name in a text model: the module that holds it and its name there."""
        head = self.hf.get_output_embeddings()
        found: dict[str, tuple[nn.Module, str]] = {}
        # a placeholder has no address by which to tell that two names share one tensor
        tied: set[str] = set(getattr(self.hf, "all_tied_weights_keys", None) or ())
        seen = set[int]()
        for path, module in self.hf.named_modules():
            unsaved = module._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage]
            saved = [(own, one) for own, one in module.named_buffers(recurse=False) if own not in unsaved]
            for name, parameter in (*module.named_parameters(recurse=False), *saved):
                if id(parameter) in seen or (parameter.device.type == "meta" and f"{path}.{name}" in tied):
                    continue
                seen.add(id(parameter))
                if self._inside and path != self._trunk_path and not path.startswith(self._trunk_path + "."):
                    if module is not head:
                        continue
                    path = "lm_head"
                elif self._inside:
                    path = "model" + path[len(self._trunk_path) :] if not path.startswith("model.layers") else path
                found[f"{path}.{name}" if path else name] = (module, name)
        return found

    @property
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
            "family_origin": self.family.origin,
            "family_digest": digest(self.family),
            "weight_hash": self.weight_hash,
            "config_hash": config_hash(self.config),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "layers": self.layers,
            "width": self.width,
            "neurons_per_layer": self.widths[0] if self.layout.alike else list(self.widths),
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "parameters": self.parameters,
            "attention": getattr(self.config, "_attn_implementation", None),
            "foreign_hooks": foreign_hooks(self.hf),
            **({"standing_edits": edits} if (edits := standing_edits(self.hf)) else {}),
            **({"family_version": self.family.version} if self.family.version else {}),
            **({"multipliers": self.scales.facts} if self.scales.facts else {}),
            **({"adapter": self.adapter} if self.adapter else {}),
            **({"allow_longer": True} if self.allow_longer else {}),
        }

    @cached_property
    def block_returns_tuple(self) -> bool:
        """Whether a block's output is a tuple (BLOOM, Falcon), learned from one pass over one token."""
        seen: list[bool] = []
        handle = self.blocks[0].register_forward_hook(
            lambda _m, _a, output: seen.append(not isinstance(output, Tensor))
        )
        try:
            with torch.inference_mode():
                self.trunk(torch.zeros(1, 1, dtype=torch.long, device=self.device))
        finally:
            handle.remove()
        return seen[0]

    # -- running it -------------------------------------------------------------------------------------------------

    def tokenize(
        self, texts: Sequence[str], special: SpecialTokens = "none", names: Sequence[str] | None = None
    ) -> list[list[int]]:
        """Token ids of each text; `bos` and `bos-excluded` put the beginning-of-sequence token in front, `own` what the
        tokenizer puts around a text by itself.

        Raises InputError naming the text when it has no tokens, or a token that the model has no embedding for; with
        `names`, what each text is called, also when it has more tokens than the model has positions.
        """
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        for text, ids in zip(texts, encoded):
            if not ids:
                raise InputError(f"the text {text!r} has no tokens")
        refuse_unknown(self.tokenizer, encoded, names or ())
        special = self.special(special)
        if special == "own":
            encoded = with_own_tokens(self.tokenizer, texts, self.id)
        else:
            first = self.first_tokens(special)
            encoded = [[*first, *ids] for ids in encoded]
        for place, ids in enumerate(encoded):
            self.check_ids(ids, names[place] if names else f"text {place}")
            if names:  # others are no sentences to be read whole: prompts and windows are cut out of longer texts
                self.check_length(len(ids), names[place])
        return encoded

    def first_tokens(self, special: SpecialTokens) -> list[int]:
        """Special tokens that stand before windows of text and prompts (`encoders.first_tokens`)."""
        return first_tokens(self.tokenizer, self.special(special), self.encoder, self.id)

    def special(self, asked: SpecialTokens) -> SpecialTokens:
        """What `auto` stands for."""
        return asked if asked != "auto" else "own" if self.encoder else "none"

    def special_ends(self, asked: SpecialTokens) -> tuple[int, int]:
        """Special tokens in front of each text and behind it that are left out of means."""
        special = self.special(asked)
        return own_tokens(self.tokenizer) if special == "own" else (int(special == "bos-excluded"), 0)

    def check_length(self, tokens: int, name: str) -> None:
        """Raises InputError when a text has more tokens than positions: always where positions are learned, else
        unless the model was loaded with `allow_longer`, which cannot be where frequencies move with the length."""
        context = self.context
        if context.length is None or tokens <= context.length:
            return
        if context.learned:
            raise InputError(
                f"{name} has {tokens} tokens; {self.id} has learned {context.length} positions and no more"
            )
        if context.moving:
            raise InputError(
                f"{name} has {tokens} tokens; beyond {context.length} the rotary frequencies of {self.id} are those of "
                "the longest text of a batch, so that its numbers would depend on others: leave it out"
            )
        if not self.allow_longer:
            raise InputError(
                f"{name} has {tokens} tokens; {self.id} was made for {context.length} positions: leave it out, or add "
                "--allow-longer"
            )

    def check_ids(self, ids: Sequence[int], name: str) -> None:
        """Raises InputError naming text and token when a token has no embedding."""
        token = max(ids, default=0)
        if token < self.vocabulary:
            return
        word = self.tokenizer.convert_ids_to_tokens(token)
        raise InputError(f"{name}: token {word!r} ({token}) is beyond the model's {self.vocabulary} embeddings")

    def trunk(
        self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B all"] | None = None, cache: Any = None
    ) -> Float[Tensor, "rows steps D"]:
        """Final hidden state after the final norm; no logits are made. Hooks may have rows join, so B is not stated.
        The mask is of the tokens in the cache too.

        Raises ModelError when a part is in training mode, where dropout changes numbers, or under autocast; InputError
        of a pass so long that its rotary frequencies would be other ones.
        """
        self.refuse_mode()
        if self.context.moving:
            past = 0 if cache is None else int(cache.get_seq_length())
            self.check_length(past + ids.shape[1], "a pass")
        given: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
        if self.encoder:
            # what reads from both sides sees padding on the right too
            given.setdefault("attention_mask", torch.ones_like(ids))
        else:
            given["use_cache"] = cache is not None
        if cache is not None:
            given["past_key_values"] = cache
        with saturation_refused(self):
            return self.trunk_module(input_ids=ids, return_dict=True, **given).last_hidden_state

    def refuse_mode(self) -> None:
        """Raises ModelError when a part of the model is in training mode, or under autocast."""
        refuse_mode(self._parts, self.device, self.id)

    @cached_property
    def _parts(self) -> tuple[nn.Module, ...]:
        # lists of modules are made anew by slicing them, and compute nothing
        return tuple(part for part in self.hf.modules() if not isinstance(part, (nn.ModuleList, nn.ModuleDict)))

    def logits(self, hidden: Float[Tensor, "*batch D"], words: Tensor | None = None) -> Float[Tensor, "*batch V"]:
        """Logits of final hidden states, with the measured scale and the soft cap; of the vocabulary's `words` if
        given, and then in float32 at least: differences of a few logits are smaller than the steps of half precision.

        Raises UnsupportedModel of an encoder.
        """
        refuse_next_word(self.encoder, self.id)
        if self.scales.logits is None:
            whole = self._own_logits(hidden)
            return whole if words is None else whole[..., words.to(whole.device)]
        if words is None:
            return self.finish_logits(self.hf.get_output_embeddings()(hidden))
        weight, bias = self.unembedding, self.unembedding_bias
        words, wide = words.to(weight.device), torch.promote_types(hidden.dtype, torch.float32)
        chosen = None if bias is None else bias[words].to(wide)
        return self.finish_logits(nn.functional.linear(hidden.to(weight.device, wide), weight[words].to(wide), chosen))

    def _own_logits(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch V"]:
        """What the model makes of final hidden states, by its own forward with the trunk passed over."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        class Passed(BaseModelOutputWithPastAndCrossAttentions):
            router_logits = None  # which heads of mixtures look for

        flat = hidden.reshape(1, -1, hidden.shape[-1])
        trunk = self.trunk_module
        own: Callable[..., Any] | None = trunk.__dict__.get("forward")
        trunk.forward = lambda *_, **__: Passed(last_hidden_state=flat)
        try:
            ids = torch.zeros(1, flat.shape[1], dtype=torch.long, device=self.device)
            found: Tensor = self.hf(input_ids=ids, return_dict=True).logits
        finally:
            del trunk.forward
            if own is not None:
                trunk.forward = own
        return found.reshape(*hidden.shape[:-1], -1)

    def finish_logits(self, raw: Tensor) -> Tensor:
        """The logit scale and soft cap applied to unembedded values (elementwise, so also to a chunk)."""
        scale, cap = self.logit_scale, self.soft_cap
        raw = raw if scale == 1 else raw * scale
        return torch.tanh(raw / cap) * cap if cap is not None else raw
