"""Passes C and D of path patching, as resumed and shortened forward passes of the unmodified model.

C  with every head frozen nothing moves between positions, so only the receivers' positions are run, as tokens of their
   own: attention outputs are constants there, MLPs and norms are recomputed, senders are stacked along the batch.
D  starts at the first block that a patched value enters, at the first position it stands at; keys and values of the
   positions before it come from the base run.

S sender · N row · T position · P patched position · D width · E head width
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from babelscope.circuits.nodes import Receiver
from babelscope.circuits.runs import Recorded, Runs, attention_output, projection, take
from babelscope.models.families import find
from babelscope.models.hooks import Change, Kind, Site, capture, edit, resume
from babelscope.models.model import matrix

if TYPE_CHECKING:
    from babelscope.models import Model


@dataclass(frozen=True)
class Entry:
    """Where stacked changes enter the stream: added to what enters `layer`, or to its attention's output projection."""

    layer: int
    change: Float[Tensor, "S N P D"]
    at_attention: bool


class _Prefix(DynamicLayer):
    """Keys and values of an unchanged prefix, shared by all stacked senders; nothing is stored in it."""

    def __init__(self, keys: Tensor, values: Tensor, copies: int) -> None:
        super().__init__()
        self.keys, self.values, self.copies, self.is_initialized = keys, values, copies, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._joined(self.keys, key_states), self._joined(self.values, value_states)

    def _joined(self, prefix: Tensor | None, new: Tensor) -> Tensor:
        assert prefix is not None
        shared = prefix[None].expand(self.copies, *prefix.shape)
        return torch.cat([shared, new.reshape(self.copies, len(prefix), *new.shape[1:])], dim=-2).flatten(0, 1)


def prefix_cache(recorded: Recorded, start: int, copies: int) -> Cache | None:
    """A cache holding the run's keys and values before position `start`, for `copies` stacked variants."""
    if start == 0:
        return None
    return Cache(layers=[_Prefix(keys[:, :, :start], values[:, :, :start], copies) for keys, values in recorded.keys])


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Generator[None]:
    """Inside, these modules compute something else; their hooks still run. Afterwards they are as they were."""
    own = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.forward = forward


def frozen_attention(model: Model, outputs: Mapping[int, Tensor], reading: set[int]) -> dict[nn.Module, Any]:
    """Forwards under which each layer's output projection gives `outputs`, and q, k, v are not computed.

    Layers in `reading` do compute them, because a receiver is there.
    """
    forwards: dict[nn.Module, Any] = {}
    for layer, output in outputs.items():
        forwards[projection(model, layer)] = _constant(output)
        if layer in reading:
            continue
        for path in model.family.qkv:
            module = find(model.blocks[layer], path)
            assert module is not None
            forwards[module] = _zeros(matrix(module).shape[0])
    return forwards


def _constant(output: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: output


def _zeros(width: int) -> Callable[[Tensor], Tensor]:
    return lambda value: value.new_zeros(*value.shape[:-1], width)


def passed_over(model: Model, layers: Sequence[int]) -> dict[nn.Module, Any]:
    """Forwards under which these blocks hand on what enters them."""
    returns_tuple = model.block_returns_tuple

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, None) if returns_tuple else hidden_states

    return {model.blocks[layer]: forward for layer in layers}


def stacked(value: Float[Tensor, "N P *rest"], copies: int) -> Float[Tensor, "S*N P *rest"]:
    """The same rows for each of `copies` senders, sender by sender, as memory of their own."""
    return value[None].expand(copies, *value.shape).flatten(0, 1)


def through_mlps(
    model: Model, runs: Runs, entry: Entry, positions: Int[Tensor, "N P"], wanted: Sequence[Receiver]
) -> dict[Receiver, Float[Tensor, "S N P *width"]]:
    """Pass C with MLPs recomputed: receivers' values at `positions` (of the final residual: after the final norm)."""
    copies, base = len(entry.change), runs.base
    last = max(model.layers if receiver.kind == "logits" else receiver.layer for receiver in wanted)
    outputs = {
        layer: stacked(attention_output(model, layer, take(base.z[layer], positions)), copies)
        for layer in range(entry.layer, min(last + 1, model.layers))
    }
    hidden = stacked(take(base.residual[entry.layer], positions), copies)
    change = entry.change.flatten(0, 1)
    if entry.at_attention:
        outputs[entry.layer] = outputs[entry.layer] + change
    else:
        hidden = hidden + change
    reading = {receiver.layer for receiver in wanted if receiver.kind in ("q", "k", "v")}
    forwards = frozen_attention(model, outputs, reading) | passed_over(model, range(last + 1, model.layers))
    ids = stacked(take(base.ids, positions), copies)
    sites = {site_of(receiver) for receiver in wanted if receiver.kind != "logits"}
    with replaced(forwards), resume(model, entry.layer, hidden), capture(model, sorted(sites)) as seen:
        final = model.trunk(ids)
    return {receiver: _received(receiver, seen, final, copies) for receiver in wanted}


def without_mlps(
    model: Model, runs: Runs, entry: Entry, positions: Int[Tensor, "N P"], wanted: Sequence[Receiver]
) -> dict[Receiver, Float[Tensor, "S N P *width"]]:
    """Pass C with MLPs frozen too: the sender's write is all that differs; `entry.change` is on the stream.

    A head's change stands behind its own attention, so the MLP of its own layer reads it as well.
    """
    copies, base = len(entry.change), runs.base
    found: dict[Receiver, Tensor] = {}
    for layer in sorted({model.layers if receiver.kind == "logits" else receiver.layer for receiver in wanted}):
        here = [receiver for receiver in wanted if receiver.layer == layer or receiver.kind == "logits"]
        change = entry.change.flatten(0, 1)
        hidden = stacked(take(base.residual[layer], positions), copies) + change
        if layer == model.layers:
            final = model.norm("final")
            found |= {here[0]: (final(hidden) if final else hidden).unflatten(0, (copies, -1))}
            continue
        output = stacked(attention_output(model, layer, take(base.z[layer], positions)), copies)
        reading = {layer} if any(receiver.kind != "mlp" for receiver in here) else set[int]()
        forwards = frozen_attention(model, {layer: output}, reading)
        forwards |= passed_over(model, range(layer + 1, model.layers))
        # added to the stream before the block: for the sender's own layer only its MLP is a receiver, which reads the
        # same sum there as after attention, and attention itself is frozen
        sites = sorted({site_of(receiver) for receiver in here})
        with replaced(forwards), resume(model, layer, hidden), capture(model, sites) as seen:
            model.trunk(stacked(take(base.ids, positions), copies))
        found |= {receiver: _received(receiver, seen, hidden, copies) for receiver in here}
    return found


def site_of(receiver: Receiver) -> Site:
    """Where a receiver (other than the final residual) is hooked."""
    kinds: dict[str, Kind] = {"q": "q", "k": "k", "v": "v", "mlp": "mlp_in"}
    return Site(kinds[receiver.kind], receiver.layer)


def _received(receiver: Receiver, seen: Mapping[Site, Tensor], final: Tensor, copies: int) -> Tensor:
    if receiver.kind == "logits":
        return final.unflatten(0, (copies, -1))
    value = seen[site_of(receiver)]
    value = value if receiver.kind == "mlp" else value[..., receiver.head, :]
    return value.unflatten(0, (copies, -1))


def to_the_end(
    model: Model,
    runs: Runs,
    start: int,
    copies: int,
    first: int,
    changes: Mapping[Site, Change] | None = None,
    forwards: Mapping[nn.Module, Any] | None = None,
    hidden: Float[Tensor, "S*N T D"] | None = None,
) -> Float[Tensor, "S N A D"]:
    """Pass D: from block `start` and position `first` to the final hidden states at the answer positions."""
    base, rows = runs.base, runs.rows
    if hidden is None:
        hidden = stacked(base.residual[start][:, first:], copies)
    cache = prefix_cache(base, first, copies) if start < model.layers else None
    with ExitStack() as stack:
        stack.enter_context(replaced(forwards or {}))
        stack.enter_context(resume(model, start, hidden))
        stack.enter_context(edit(model, changes or {}))
        final = model.trunk(stacked(base.ids[:, first:], copies), cache=cache)
    return final[:, rows.length - rows.answer - first :].unflatten(0, (copies, -1))


def setter(value: Float[Tensor, "S N P *width"], positions: Int[Tensor, "N P"], first: int, head: int | None) -> Change:
    """The change of a site that puts `value` at `positions` (counted from `first`), for one head or the whole width."""
    flat = value.flatten(0, 1)
    places = stacked(positions, len(value)) - first

    def put(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        rows = torch.arange(len(tensor), device=tensor.device)[:, None]
        there = places.to(tensor.device)
        if head is None:
            changed[rows, there] = flat.to(tensor.dtype)
        else:
            changed[rows, there, head] = flat.to(tensor.dtype)
        return changed

    return put
