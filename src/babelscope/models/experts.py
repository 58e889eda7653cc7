"""The experts of an unmodified model, computed by a function of ours: neurons are read and changed on the way.

transformers lets a registered function compute the experts of every model that passes through its interface. Ours sorts
the (token, expert) pairs by expert, as its own kernels do, and shows the neurons to whoever is attached. It stands in
the model's configuration only while something is attached, and is the same computation when nothing is.

B batch · T position · D model width · K experts of a token · E expert · F units of an expert · S (token, expert) pairs
N neurons of the layer
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.models.aside import Standing, standing
from babelscope.models.mixtures import Mixture

KERNEL = "babelscope"


@dataclass(frozen=True)
class Routed:
    """The neurons of one pass through the experts of a layer, only where a token was routed."""

    values: Float[Tensor, "S F"]
    """before the routing weight, sorted by expert"""
    experts: Int[Tensor, " S"]
    tokens: Int[Tensor, " S"]
    """place in the flattened [B · T]"""
    weights: Float[Tensor, " S"]
    """routing weight of each pair"""
    index: Int[Tensor, "tokens K"]
    """experts of every token, as the router gave them"""
    count: int
    """E"""

    def dense(self) -> Float[Tensor, "tokens N"]:
        """Every neuron of every token; 0 where the token was not routed."""
        grid = self.values.new_zeros(len(self.index), self.count, self.values.shape[1])
        return grid.index_put((self.tokens, self.experts), self.values).flatten(1)

    def gathered(self, dense: Float[Tensor, "tokens N"]) -> Float[Tensor, "S F"]:
        """The routed values of a dense matrix."""
        return dense.unflatten(1, (self.count, -1))[self.tokens, self.experts]


Act = Callable[[Routed], Tensor | None]
"""reads the routed neurons of a pass; what it returns, if anything, takes their place"""
Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""other experts and weights [tokens, K] for the chosen ones; an index of E stands for no expert"""


@runtime_checkable
class Handle(Protocol):
    """Something attached that can be taken off."""

    def remove(self) -> None: ...


def entering(args: Sequence[object], kwargs: Mapping[str, object]) -> Tensor:
    """What a block or mixture is called with: its first argument, or the one that is named hidden_states."""
    value = args[0] if args else kwargs["hidden_states"]
    assert isinstance(value, Tensor)
    return value


@dataclass(frozen=True)
class _Actor:
    owner: Standing
    act: Act | None
    choose: Choose | None


_lock = threading.Lock()
_actors: weakref.WeakKeyDictionary[nn.Module, list[_Actor]] = weakref.WeakKeyDictionary()
_switched: dict[int, tuple[Any, Any, int]] = {}
"""by id of a configuration: the configuration, the implementation it had, and how many actors stand"""


class _Attached:
    def __init__(self, module: Any, actor: _Actor) -> None:
        self.module, self.actor = module, actor

    def remove(self) -> None:
        with _lock:
            _actors[self.module].remove(self.actor)
            config, before, count = _switched.pop(id(self.module.config))
            if count > 1:
                _switched[id(config)] = (config, before, count - 1)
            else:
                config._experts_implementation_internal = before


def attach(mixture: Mixture, act: Act | None = None, choose: Choose | None = None) -> Handle:
    """Let `act` see (and change) the routed neurons, and `choose` the chosen experts, of this thread's passes."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS  # three seconds that dense models need not wait for

    module = mixture.experts
    actor = _Actor(standing(), act, choose)
    with _lock:
        ALL_EXPERTS_FUNCTIONS.register(KERNEL, compute)
        config = module.config
        _, before, count = _switched.get(id(config), (None, config._experts_implementation_internal, 0))
        _switched[id(config)] = (config, before, count + 1)
        config._experts_implementation_internal = KERNEL
        _actors.setdefault(module, []).append(actor)
    return _Attached(module, actor)


def attached_anywhere() -> int:
    """Configurations whose experts are computed by our function at present."""
    return len(_switched)


def compute(
    module: Any, hidden: Float[Tensor, "tokens D"], index: Int[Tensor, "tokens K"], weights: Float[Tensor, "tokens K"]
) -> Float[Tensor, "tokens D"]:
    """Σ_k w_k · W_down · neurons over the experts of each token, those attached being shown the neurons."""
    here = standing()
    actors = [actor for actor in _actors.get(module, ()) if actor.owner == here]
    for actor in actors:
        if actor.choose is not None:
            index, weights = actor.choose(index, weights)
    count = int(module.num_experts)
    chosen, order = torch.sort(index.flatten(), stable=True)
    sizes: list[int] = torch.bincount(chosen, minlength=count)[:count].tolist()
    # an index of E or above is no expert (expert parallelism, dropped experts): such pairs are sorted to the end
    chosen, order = chosen[: sum(sizes)], order[: sum(sizes)]
    tokens = order // index.shape[1]
    values = _neurons(module, hidden[tokens], chosen, sizes)
    pair_weights = weights.flatten()[order]
    for actor in actors:
        if actor.act is not None:
            changed = actor.act(Routed(values, chosen, tokens, pair_weights, index, count))
            values = values if changed is None else changed
    outputs = _outputs(module, values, chosen, sizes) * pair_weights[:, None]
    return torch.zeros_like(hidden).index_add(0, tokens, outputs.to(hidden.dtype))


def expert_output(mixture: Mixture, expert: int, inputs: Float[Tensor, "rows D"]) -> Float[Tensor, "rows D"]:
    """What one expert makes of inputs, before its routing weight."""
    module = mixture.experts
    sizes = [len(inputs) if one == expert else 0 for one in range(mixture.count)]
    chosen = torch.full((len(inputs),), expert, dtype=torch.long, device=inputs.device)
    return _outputs(module, _neurons(module, inputs, chosen, sizes), chosen, sizes)


def _neurons(module: Any, inputs: Tensor, chosen: Tensor, sizes: list[int]) -> Float[Tensor, "S F"]:
    name = "gate_up_proj" if module.has_gate else "up_proj"
    raised = _by_expert(module, name, inputs, sizes)
    if module.has_bias:
        raised = raised + getattr(module, f"{name}_bias")[chosen]
    return module._apply_gate(raised) if module.has_gate else module.act_fn(raised)


def _outputs(module: Any, values: Tensor, chosen: Tensor, sizes: list[int]) -> Float[Tensor, "S D"]:
    outputs = _by_expert(module, "down_proj", values, sizes)
    if module.has_bias:
        outputs = outputs + module.down_proj_bias[chosen]
    return module.post_expert_norm(outputs) if module.has_post_expert_norm else outputs


def _by_expert(module: Any, name: str, inputs: Tensor, sizes: list[int]) -> Tensor:
    """Each expert's matrix times the rows that are its own."""
    weight = getattr(module, name)
    parts: list[Tensor] = []
    for expert, rows in enumerate(inputs.split(sizes)):
        if len(rows):
            one = weight[expert]
            parts.append(rows @ one if module.is_transposed else nn.functional.linear(rows, one))
    return torch.cat(parts) if parts else inputs.new_zeros(0, weight.shape[2 if module.is_transposed else 1])


# -- all neurons of a layer, as one matrix ---------------------------------------------------------------------------


def attach_neurons(mixture: Mixture, act: Callable[[Tensor], Tensor], replaces: bool) -> Handle:
    """Show `act` the neurons of a layer as [B, T, N]: routed experts, shared ones, dense ones; 0 where not routed.

    Where `act` replaces, it is called for routed, shared and dense neurons in turn, the others being 0: it must treat
    every neuron by itself.
    """
    shape = PassShape(mixture.block)
    handles: list[Handle] = [shape]
    collect = _Collected(mixture, act)

    def routed(pairs: Routed) -> Tensor | None:
        dense = pairs.dense().reshape(*shape.of(len(pairs.index)), -1)
        if not replaces:
            collect(slice(0, mixture.routed), dense)
            return None
        changed = _replaced(mixture, slice(0, mixture.routed), dense, act)
        return pairs.gathered(changed.reshape(len(pairs.index), -1)).to(pairs.values.dtype)

    handles.append(attach(mixture, routed))
    for part, columns in mixture.columns():
        handles.append(_attach_part(mixture, part.projection, columns, shape, act if replaces else None, collect))
    return Together(handles)


def _attach_part(
    mixture: Mixture, projection: nn.Module, columns: slice, shape: PassShape,
    act: Callable[[Tensor], Tensor] | None, collect: _Collected,
) -> Handle:  # fmt: skip
    owner = standing()

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if standing() != owner:
            return None
        values = args[0]
        folded = values.reshape(*shape.of(values.numel() // values.shape[-1]), -1)
        if act is None:
            collect(columns, folded)
            return None
        return (_replaced(mixture, columns, folded, act).reshape(values.shape).to(values.dtype), *args[1:])

    return projection.register_forward_pre_hook(before)


def _replaced(mixture: Mixture, columns: slice, values: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    if columns.stop - columns.start == mixture.width:
        return act(values)
    whole = values.new_zeros(*values.shape[:-1], mixture.width)
    whole[..., columns] = values
    return act(whole)[..., columns]


class _Collected:
    """Hands on the parts of a layer once all of them are there, in the order of their columns."""

    def __init__(self, mixture: Mixture, act: Callable[[Tensor], Tensor]) -> None:
        self.needed, self.act = 1 + len(mixture.parts), act
        self.parts: dict[int, Tensor] = {}

    def __call__(self, columns: slice, values: Tensor) -> None:
        self.parts[columns.start] = values
        if len(self.parts) == self.needed:
            whole = torch.cat([self.parts[start] for start in sorted(self.parts)], dim=-1)
            self.parts.clear()
            self.act(whole)


class PassShape:
    """B and T of the running pass, read off the block's input: experts and routers work on [B · T, ·]."""

    def __init__(self, block: nn.Module) -> None:
        self.shape: tuple[int, int] = (0, 0)
        self.owner = standing()
        self.handle = block.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object] | None = None) -> None:
        # a pass of another thread may meet the hook before torch knows that it takes keywords
        if kwargs is not None and standing() == self.owner:
            hidden = entering(args, kwargs)
            self.shape = (int(hidden.shape[0]), int(hidden.shape[1]))

    def of(self, rows: int) -> tuple[int, int]:
        """(B, T); several residual streams multiply neither."""
        assert self.shape[0] * self.shape[1] == rows, (self.shape, rows)
        return self.shape

    def remove(self) -> None:
        self.handle.remove()


class Together:
    def __init__(self, handles: list[Handle]) -> None:
        self.handles = handles

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
