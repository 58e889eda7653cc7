"""Passes C and D of path patching, as resumed and shortened forward passes of the unmodified model.

C  with every head frozen nothing moves between positions, so only the receivers' positions are run, as tokens of their
   own: attention outputs are constants there, MLPs and norms are recomputed, senders are stacked along the batch.
D  starts at the first block that a patched value enters, at the first position it stands at; keys and values of the
   positions before it come from the base run.

S sender · N row · T position · P patched position · D width · E head width
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from babelscope.circuits.core.cache import Recorded, Runs, attention_output, projection, take
from babelscope.circuits.core.nodes import Receiver
from babelscope.models.families import find
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import Change, Site, capture, edit, resume

if TYPE_CHECKING:
    from babelscope.models import Model


@dataclass(frozen=True)
class Entry:
    """Where stacked changes enter the stream: added to what enters `layer`, to its attention's output projection, or to
    what its linear mixer writes."""

    layer: int
    change: Float[Tensor, "S N P D"]
    at: Literal["stream", "attention", "state"]


class _Prefix(DynamicLayer):
    """Keys and values of an unchanged prefix, shared by all stacked senders; nothing is stored in it."""

    def __init__(self, keys: Tensor, values: Tensor, copies: int) -> None:
        super().__init__()
        self.keys, self.values, self.copies, self.is_initialized = keys, values, copies, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
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
def replaced(forwards: Mapping[nn.Module, Callable[..., object]]) -> Generator[None]:
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


Forwards = dict[nn.Module, Callable[..., object]]
"""what stands in the place of a module's own forward"""


def frozen_attention(model: Model, outputs: Mapping[int, Tensor], reading: set[int]) -> Forwards:
    """Forwards under which each layer's attention puts out `outputs` (before a post-norm) and computes nothing.

    Layers in `reading` do compute queries, keys and values, because a receiver is there.
    """
    forwards: Forwards = {}
    for layer, output in outputs.items():
        if layer in reading:
            forwards[projection(model, layer)] = _constant(output)
        else:
            module = attention_module(model, layer)
            forwards[module] = _putting_out(output, module, model.family.adds_residual, returned(model, module))
    return forwards


def projects_plainly(model: Model, receivers: Sequence[Receiver]) -> bool:
    """Whether what these receivers read is known behind their layer's projections alone, without its attention."""
    family = model.family
    if all(receiver.kind in ("mlp", "logits") for receiver in receivers):
        return True
    plain = family.layout != "latent" and family.qk_norms is None and not family.value_norm and not family.head_gates
    return plain and all(receiver.kind in ("q", "k", "v", "mlp", "logits") for receiver in receivers)


def projecting(model: Model, outputs: Mapping[int, Tensor]) -> Forwards:
    """Forwards under which each layer's attention makes queries, keys and values, and puts out `outputs`.

    The rows may be others than those that the pass began with, which masks and positions belong to.
    """
    forwards: Forwards = {}
    for layer, output in outputs.items():
        module = attention_module(model, layer)
        put = _putting_out(output, module, model.family.adds_residual, returned(model, module))
        forwards[module] = _after([model.part(path, layer) for path in model.family.qkv], put)
    return forwards


def _after(projections: Sequence[nn.Module], put: Callable[..., object]) -> Callable[..., object]:
    def forward(*args: object, **kwargs: object) -> object:
        hidden = args[0] if args else kwargs["hidden_states"]
        for each in projections:
            each(hidden)
        return put(*args, **kwargs)

    return forward


def frozen_mixers(model: Model, writes: Mapping[int, Tensor]) -> Forwards:
    """Forwards under which each layer's linear mixer writes `writes` to the stream and computes nothing."""
    forwards: Forwards = {}
    for layer, write in writes.items():
        module = model.part(model.family.state_output.rpartition(".")[0], layer)
        factor = model.scales.state[layer]
        output = write if factor == 1 else write / factor
        forwards[module] = _putting_out(output, module, False, returned(model, module))
        if model.family.state_write != model.family.state_output:
            forwards[model.part(model.family.state_write, layer)] = _constant(output)
    return forwards


def writes_itself(model: Model, layer: int) -> bool:
    """Whether what a layer's MLP module returns is what it writes to the stream (beside the stream itself in BLOOM)."""
    family = model.family
    if layer not in model.neuron_layers or layer in model.mixtures or family.flattens:
        return False
    plain = family.mlp_read == "mlp" and family.mlp_write == family.neurons and family.neurons.startswith("mlp.")
    return plain and model.scales.mlp[layer] == 1


def frozen_mlps(model: Model, writes: Mapping[int, Tensor]) -> Forwards:
    """Forwards under which each layer's MLP writes `writes` and computes nothing; for those of `writes_itself`."""
    forwards: Forwards = {}
    for layer, write in writes.items():
        module = model.part("mlp", layer)
        # a block may go on to add into what it is given (Falcon does)
        forwards[module] = _putting_out(write.clone(), module, model.family.adds_residual, returned(model, module))
    return forwards


def attention_module(model: Model, layer: int) -> nn.Module:
    """The attention of a layer: by default the parent of its output projection."""
    return model.part(model.family.attention, layer)


_returns: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def returned(model: Model, module: nn.Module) -> int:
    """How many things an attention or mixer returns (0: a bare tensor), learned from one pass over one token."""
    if module not in _returns:
        seen: list[int] = []
        handle = module.register_forward_hook(
            lambda _m, _a, output: seen.append(len(output) if isinstance(output, tuple) else 0)
        )
        try:
            model.trunk(torch.zeros(1, 1, dtype=torch.long, device=model.device))
        finally:
            handle.remove()
        _returns[module] = seen[0]
    return _returns[module]


def _constant(output: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: output


def _putting_out(output: Tensor, module: nn.Module, adds_residual: bool, returns: int) -> Callable[..., object]:
    place = list(inspect.signature(type(module).forward).parameters)[1:].index("residual") if adds_residual else None

    def forward(*args: object, **kwargs: object) -> object:
        value = output
        if place is not None:
            residual = kwargs["residual"] if "residual" in kwargs else args[place]
            assert isinstance(residual, Tensor)
            value = value + residual
        return (value, *[None] * (returns - 1)) if returns else value

    return forward


def passed_over(model: Model, layers: Sequence[int]) -> Forwards:
    """Forwards under which these blocks hand on what enters them."""
    returns_tuple = model.block_returns_tuple

    def forward(hidden_states: Tensor, *_: object, **__: object) -> object:
        return (hidden_states, None) if returns_tuple else hidden_states

    return {model.blocks[layer]: forward for layer in layers}


def answers_only(model: Model, answer: int) -> Forwards:
    """Forwards under which the last block does only what the last `answer` positions need: its other outputs are zero.

    Queries, output projection and MLP act on each position by itself; keys and values stay whole.
    """
    family, block = model.family, model.blocks[-1]
    paths = (
        [family.attention_output] if family.flattens or family.mlp_read != "mlp" else [family.attention_output, "mlp"]
    )
    if model.layers - 1 not in model.attention_layers:
        paths = paths[1:]
    elif family.layout in ("separate", "latent"):
        paths.append(family.qkv[0])
    modules = [find(block, path) for path in paths]
    return {module: _last_positions(module.forward, answer) for module in modules if module is not None}


def _last_positions(forward: Callable[..., Tensor], count: int) -> Callable[..., Tensor]:
    def trimmed(*tensors: Tensor) -> Tensor:
        short = forward(*(tensor[:, -count:].contiguous() for tensor in tensors))
        return nn.functional.pad(short, (0, 0, tensors[0].shape[1] - short.shape[1], 0))

    return trimmed


def stacked(value: Shaped[Tensor, "N P *rest"], copies: int) -> Shaped[Tensor, "{copies}*N P *rest"]:
    """The same rows for each of `copies` senders, sender by sender, as memory of their own."""
    return value.repeat(copies, *[1] * (value.dim() - 1))


def through_mlps(
    model: Model, runs: Runs, entries: Sequence[Entry], positions: Int[Tensor, "N P"], wanted: Sequence[Receiver]
) -> dict[Receiver, Float[Tensor, "S N P *width"]]:
    """Pass C with MLPs recomputed: receivers' values at `positions` (of the final residual: after the final norm).

    Entries, sorted by layer, join the batch as the pass comes to their layer; all of them must reach all
    receivers, and they come from several layers only where these read what `projects_plainly`.
    """
    base, start = runs.base, entries[0].layer
    last = max(model.layers if receiver.kind == "logits" else receiver.layer for receiver in wanted)
    copies, joining = 0, dict[int, list[Tensor]]()
    outputs, states = dict[int, Tensor](), dict[int, Tensor]()
    for layer in range(start, min(last, model.layers) + 1):
        here = [entry for entry in entries if entry.layer == layer]
        for entry in here:
            joining.setdefault(layer, []).append(_entering(runs, entry, positions))
            copies += len(entry.change)
        if layer in base.z:
            output = stacked(attention_output(model, layer, take(base.z[layer], positions)), copies)
            outputs[layer] = _added(output, here, "attention")
        if layer in base.state:
            states[layer] = _added(stacked(take(base.state[layer], positions), copies), here, "state")
    reading = {receiver.layer for receiver in wanted if receiver.kind not in ("mlp", "logits")}
    forwards = frozen_attention(model, outputs, reading)
    if projects_plainly(model, wanted):
        rest = {layer: output for layer, output in outputs.items() if layer not in reading}
        forwards = frozen_attention(model, rest, set()) | projecting(model, {at: outputs[at] for at in reading})
    forwards |= passed_over(model, range(last + 1, model.layers)) | frozen_mixers(model, states)
    ids = stacked(take(base.ids, positions), sum(len(entry.change) for entry in entries if entry.layer == start))
    sites = {site_of(receiver) for receiver in wanted if receiver.kind != "logits"}
    grow = {Site("residual", layer): _joined(parts) for layer, parts in joining.items() if layer > start}
    with ExitStack() as stack:
        stack.enter_context(replaced(forwards))
        stack.enter_context(fused_gelu(model))
        stack.enter_context(resume(model, start, torch.cat(joining[start])))
        stack.enter_context(edit(model, grow))
        seen = stack.enter_context(capture(model, sorted(sites)))
        final = model.trunk(ids)
    return {receiver: _received(receiver, seen, final, copies) for receiver in wanted}


def _entering(runs: Runs, entry: Entry, positions: Int[Tensor, "N P"]) -> Float[Tensor, "rows P D"]:
    hidden = stacked(take(runs.base.residual[entry.layer], positions), len(entry.change))
    return hidden + entry.change.flatten(0, 1) if entry.at == "stream" else hidden


def _added(output: Tensor, entries: Sequence[Entry], at: str) -> Tensor:
    """The changes that enter here, in the last rows of a stack; nothing in those that enter elsewhere."""
    parts = [entry.change.flatten(0, 1) if entry.at == at else 0 * entry.change.flatten(0, 1) for entry in entries]
    if parts:
        output[len(output) - sum(map(len, parts)) :] += torch.cat(parts)
    return output


def _joined(parts: Sequence[Tensor]) -> Change:
    return lambda hidden: torch.cat([hidden, *parts])


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
        z = {layer: base.z[layer]} if layer in base.z else {}
        outputs = {at: stacked(attention_output(model, at, take(value, positions)), copies) for at, value in z.items()}
        reading = {layer} if any(receiver.kind != "mlp" for receiver in here) else set[int]()
        forwards = frozen_attention(model, outputs, reading)
        if layer in base.state:
            forwards |= frozen_mixers(model, {layer: stacked(take(base.state[layer], positions), copies)})
        forwards |= passed_over(model, range(layer + 1, model.layers))
        # added to the stream before the block: for the sender's own layer only its MLP is a receiver, which reads the
        # same sum there as after attention, and attention itself is frozen
        sites = sorted({site_of(receiver) for receiver in here})
        with replaced(forwards), fused_gelu(model), resume(model, layer, hidden), capture(model, sites) as seen:
            model.trunk(stacked(take(base.ids, positions), copies))
        found |= {receiver: _received(receiver, seen, hidden, copies) for receiver in here}
    return found


def site_of(receiver: Receiver) -> Site:
    """Where a receiver (other than the final residual) is hooked."""
    assert receiver.kind != "logits"
    return Site("mlp_in" if receiver.kind == "mlp" else receiver.kind, receiver.layer)


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
    forwards: Mapping[nn.Module, Callable[..., object]] | None = None,
    hidden: Float[Tensor, "rows T D"] | None = None,
) -> Float[Tensor, "S N A D"]:
    """Pass D: from block `start` and position `first` to the final hidden states at the answer positions."""
    base, rows = runs.base, runs.rows
    if hidden is None:
        hidden = stacked(base.residual[start][:, first:], copies)
    cache = prefix_cache(base, first, copies) if start < model.layers else None
    trimmed = answers_only(model, rows.answer) if start < model.layers and first < rows.length - rows.answer else {}
    with ExitStack() as stack:
        stack.enter_context(replaced({**trimmed, **(forwards or {})}))
        stack.enter_context(fused_gelu(model))
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
