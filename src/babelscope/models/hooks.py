"""Reading and editing a forward pass of an unmodified Hugging Face model, by PyTorch hooks alone.

A `Site` names a place: what flows there is read by `capture`, replaced by `edit`; `resume` starts a pass at a block.
All three are context managers, remove only their own handles, and leave the model as it was.

B batch · T position · D model width · N neuron · H query head · K key/value head · E head width
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from babelscope.errors import AlreadyEdited, EditNeverFired, InputError
from babelscope.models.aside import Standing, standing
from babelscope.models.experts import Handle, entering

if TYPE_CHECKING:
    from babelscope.models.model import Model

Kind = Literal[
    "residual", "neurons", "z", "q", "k", "v", "shared_key", "gate", "attention_write", "state_write", "mlp_write",
    "attention_in", "mlp_in", "router",
]  # fmt: skip
Reading = Literal["q", "k", "v", "shared_key", "gate"]
"""kinds that attention makes of what it reads"""
READINGS: tuple[Reading, ...] = get_args(Reading)
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, order=True)
class Site:
    """A place in the forward pass.

    `residual` l: the stream entering block l, [B, T, D]; l = layers: entering the final norm. `neurons`: [B, T, N].
    `z`: heads before the output projection, [B, T, H, E]. `q`, `k`, `v`: native projections before rotary embedding
    and per-head norms, [B, T, H or K, E]; out of a latent `k` is without the part that turns with the position, which
    all heads share: `shared_key`, [B, T, 1, ·]. `gate`: what heads are multiplied by is made of this, [B, T, H, ·].
    `attention_write`, `state_write` (of a linear mixer), `mlp_write`: what joins
    the stream. `attention_in`,
    `mlp_in`: what q, k, v or the MLP read, after the norm, [B, T, D] (`attention_in` is for reading only). `router`:
    the logits by which a mixture of experts chooses, [B, T, experts].
    """

    kind: Kind
    layer: int

    def __post_init__(self) -> None:
        if self.kind not in (known := get_args(Kind)):
            raise InputError(f"there is no site {self.kind!r}; sites: {', '.join(known)}")


@dataclass(frozen=True)
class Location:
    """A module, the side of it to hook, and how the tensor there is seen."""

    module: nn.Module
    side: Literal["input", "output"]
    rows: Tensor | None = None
    """[heads, E] indices into the last dimension; None: the whole tensor"""
    block: nn.Module | None = None
    """where the tensor is flattened to [B·T, ·]: the block whose input says B and T"""
    factor: float = 1.0
    """what the block multiplies this by before it joins the stream (Granite): values are seen after it"""
    attach: Callable[[Change, bool], Handle] | None = None
    """the way to what no module's input or output holds (the experts of a mixture): read, or replace where True"""

    def view(self, tensor: Tensor) -> Tensor:
        if self.rows is None:
            return tensor if self.factor == 1 else tensor * self.factor
        rows = self.rows.to(tensor.device)
        return tensor[..., rows.reshape(-1)].reshape(*tensor.shape[:-1], *rows.shape)

    def put(self, tensor: Tensor, value: Tensor) -> Tensor:
        if self.rows is None:
            return (value if self.factor == 1 else value / self.factor).to(tensor.dtype)
        changed = tensor.clone()
        changed[..., self.rows.reshape(-1).to(tensor.device)] = value.reshape(*tensor.shape[:-1], -1).to(tensor.dtype)
        return changed


@contextmanager
def capture(
    model: Model, sites: Sequence[Site], keep: Change | None = None, gradients: bool = False
) -> Generator[dict[Site, Tensor]]:
    """Values at `sites` of the last forward pass inside the context, each after `keep` (a reduction, say a mean).

    Values are copies and detached, unless `gradients`: then they are the live tensors of the graph.

    >>> with capture(model, [Site("neurons", 3)]) as seen:            # doctest: +SKIP
    ...     model.trunk(ids)
    >>> seen[Site("neurons", 3)].shape                                # doctest: +SKIP
    torch.Size([1, 12, 512])
    """
    seen: dict[Site, Tensor] = {}

    def reader(site: Site, location: Location) -> Change:
        def read(tensor: Tensor) -> Tensor:
            value = location.view(tensor)
            value = value if gradients else value.detach()
            # a block may go on to add into this very tensor (Falcon does), so what is kept is a copy
            seen[site] = keep(value) if keep else (value if gradients else value.clone())
            return tensor

        return read

    with hooked([(location, reader(site, location), False) for site in sites for location in [model.locate(site)]]):
        yield seen


@contextmanager
def edit(model: Model, changes: Mapping[Site, Change], exclusive: bool = False) -> Generator[dict[Site, int]]:
    """Replace the value at each site by `change(value)`; yields the count of firings by site.

    Raises EditNeverFired on leaving when a site was never reached, and AlreadyEdited when an `exclusive` edit meets
    another one on the same model (nested or in another thread).
    """
    fired = dict.fromkeys(changes, 0)

    def writer(site: Site, location: Location, change: Change) -> Change:
        def write(tensor: Tensor) -> Tensor:
            fired[site] += 1
            return location.put(tensor, change(location.view(tensor)))

        return write

    entries = [
        (location, writer(site, location, change), True)
        for site, change in changes.items()
        for location in [model.locate(site)]
    ]
    with _claimed(model.hf, exclusive), hooked(entries):
        yield fired
    silent = [site for site, count in fired.items() if count == 0]
    if silent:
        raise EditNeverFired(f"{len(silent)} of {len(fired)} edits never fired, the first at {silent[0]}")


def tracked(sites: Iterable[Site], kept: dict[Site, Tensor]) -> dict[Site, Change]:
    """Changes that alter nothing and put each value into `kept`, as a node of the graph to take gradients at.

    The value is handed on as a view, which is a node of its own: what else reads the same tensor does not count there.
    """

    def keep(site: Site) -> Change:
        def change(value: Tensor) -> Tensor:
            kept[site] = value.view_as(value)
            return kept[site]

        return change

    return {site: keep(site) for site in sites}


@contextmanager
def resume(model: Model, layer: int, hidden: Tensor) -> Generator[None]:
    """Inside, every forward pass starts at block `layer` with `hidden` [B, T, D] entering it.

    The blocks before are passed over; token ids still give masks and positions, so their shape must be [B, T].
    With a key/value cache of a prefix, `hidden` holds the positions after it.
    """
    skipped = list(model.blocks[:layer])
    own = [block.__dict__.get("forward") for block in skipped]
    entry = model.locate(Site("residual", layer))
    with _one_thread(model.hf):
        try:
            for block in skipped:
                block.forward = _passed_over(block.forward, model.block_returns_tuple)
            with hooked([(entry, lambda _: hidden, True)]):
                yield
        finally:
            for block, forward in zip(skipped, own):
                block.__dict__.pop("forward", None)
                if forward is not None:
                    block.forward = forward


def _passed_over(forward: Callable[..., object], returns_tuple: bool) -> Callable[..., object]:
    """In this thread a block that hands on what enters it; in others the block as it was."""
    owner = standing()

    def passed_over(hidden_states: Tensor, *rest: object, **named: object) -> object:
        if standing() != owner:
            return forward(hidden_states, *rest, **named)
        return (hidden_states, None) if returns_tuple else hidden_states

    return passed_over


@contextmanager
def hooked(entries: Sequence[tuple[Location, Change, bool]]) -> Generator[None]:
    """Inside, `act` is shown what flows at each location; what it returns takes that place where it `replaces`."""
    handles: list[Handle] = []
    try:
        for location, act, replaces in entries:
            if location.block is not None:
                act, handle = _unflattened(location.block, act)
                handles.append(handle)
            handles.append(_attach(location, act, replaces))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(location: Location, act: Change, replaces: bool) -> Handle:
    # A pass that another thread makes through the same model is not ours to read or to change, nor one that is made to
    # see the model as it is.
    if location.attach is not None:
        return location.attach(act, replaces)
    owner = standing()
    if location.side == "input":
        # torch says that a hook takes keywords after it adds it: a pass of another thread in between gives none
        def before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object] | None = None) -> object:
            if kwargs is None or standing() != owner:
                return None
            value = act(entering(args, kwargs))
            if args:
                return ((value, *args[1:]), kwargs) if replaces else None
            return (args, {**kwargs, "hidden_states": value}) if replaces else None

        return location.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: object, output: object) -> object:
        if standing() != owner:
            return None
        if isinstance(output, (tuple, list)):
            value = act(output[0])
            return (value, *output[1:]) if replaces else None
        assert isinstance(output, Tensor)
        value = act(output)
        return value if replaces else None

    return location.module.register_forward_hook(after)


def _unflattened(block: nn.Module, act: Change) -> tuple[Change, Handle]:
    """Show `act` a flattened tensor as [B, T, ·], with B and T read off the block's input."""
    shape: list[torch.Size] = []
    owner = standing()

    def note(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object] | None = None) -> None:
        if kwargs is not None and standing() == owner:
            shape[:] = [entering(args, kwargs).shape[:2]]

    def folded(tensor: Tensor) -> Tensor:
        if tensor.dim() == 3:
            return act(tensor)
        return act(tensor.reshape(*shape[0], -1)).reshape(tensor.shape)

    return folded, block.register_forward_pre_hook(note, with_kwargs=True)


_lock = threading.Lock()
_claims: weakref.WeakKeyDictionary[nn.Module, list[tuple[bool, Standing]]] = weakref.WeakKeyDictionary()
"""by model: whether each edit excludes others, and where it was entered"""


@contextmanager
def _claimed(module: nn.Module, exclusive: bool) -> Generator[None]:
    """Keep count of the edits on one model, so that an exclusive one stands alone among those not set aside."""
    here = standing()
    with _lock:
        claims = _claims.setdefault(module, [])
        others = [alone for alone, place in claims if place[0] != here[0] or place == here]
        if (exclusive and others) or any(others):
            raise AlreadyEdited("this model is already being edited; leave that context first (also in other threads)")
        claims.append((exclusive, here))
    try:
        yield
    finally:
        with _lock:
            claims.remove((exclusive, here))


def standing_edits(module: nn.Module) -> int:
    """How many edits of a model stand where the running code stands."""
    here = standing()
    with _lock:
        return sum(place == here for _, place in _claims.get(module, ()))


_resuming: weakref.WeakKeyDictionary[nn.Module, list[int]] = weakref.WeakKeyDictionary()


@contextmanager
def _one_thread(module: nn.Module) -> Generator[None]:
    """Blocks are passed over by one thread at a time: two would put back each other's."""
    with _lock:
        threads = _resuming.setdefault(module, [])
        if any(thread != threading.get_ident() for thread in threads):
            raise AlreadyEdited("another thread resumes passes of this model; use one thread, or one model for each")
        threads.append(threading.get_ident())
    try:
        yield
    finally:
        with _lock:
            threads.pop()


def hook_count(module: nn.Module) -> int:
    """Number of forward hooks registered anywhere in a model, whoever they belong to."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())  # pyright: ignore[reportPrivateUsage]


def no_grad_unless(gradients: bool) -> object:
    """The inference context, or nothing where gradients are wanted."""
    return torch.enable_grad() if gradients else torch.inference_mode()
