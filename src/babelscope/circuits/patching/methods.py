"""Path patching and activation patching of any senders, over all pairs (section 3; Wang et al. 2022).

A  the source run, from which the senders' values come      C  base run, heads frozen, sender patched: receivers' values
B  the base run, all heads' outputs kept                     D  base run with the receivers' values from C

S sender · N row · P patched position · D width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.circuits.core.batching import END, batches
from babelscope.circuits.core.cache import (
    Direction,
    Runs,
    attention_output,
    first_position,
    output_changes,
    stream_changes,
    take,
)
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import (
    FINAL,
    MLP,
    Expert,
    Head,
    Mixer,
    Receiver,
    Sender,
    check_model,
    check_nodes,
    check_receivers,
    heads_of,
    reaches,
)
from babelscope.circuits.patching.expert_nodes import Routing, expert_changes
from babelscope.circuits.patching.own_block import added_last, from_next_block
from babelscope.circuits.patching.path_passes import (
    Entry,
    frozen_attention,
    projects_plainly,
    setter,
    site_of,
    stacked,
    through_mlps,
    to_the_end,
    without_mlps,
    writes_itself,
)
from babelscope.circuits.patching.swept_batches import Asked, Group, Sweep, SweptBatches, What, groups_of
from babelscope.errors import InputError, NonFinite
from babelscope.models.batches import token_budget
from babelscope.models.hooks import Change, Site
from babelscope.models.workers import over_workers
from babelscope.settings import refuse_wrong_value
from babelscope.terms import Between

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Done = Callable[[int], None]


@torch.no_grad()
def path_patching(
    model: Model,
    pairs: Sequence[PromptPair],
    receivers: Sequence[Receiver] = (FINAL,),
    senders: Sequence[Sender] | None = None,
    at: str | None = END,
    mlps: Between = "recomputed",
    done: Done | None = None,
    sweep: Sweep | None = None,
) -> Effects:
    """Effect of each sender along the direct paths into `receivers` (patched together), everything else frozen.

    `at` is the role at which the path leaves the sender and enters the receivers (with attention frozen these are the
    same positions); None: everywhere. `senders` default to all heads. A sender that no receiver can read has effect 0.
    Raises InputError for nodes that do not exist, UnsupportedModel where writes do not add up, TaskError for bad pairs.

    >>> effects = path_patching(model, prompts)                                          # doctest: +SKIP
    >>> effects.heads().shape                                                            # doctest: +SKIP
    (12, 12)
    """
    if FINAL in receivers and at not in (END, None):
        raise InputError(f"the final residual is read at END, so a path into it cannot stand at {at}")
    check_receivers(model, receivers)
    sweep = sweep or Sweep()
    refuse_wrong_value("mlps", Between, mlps, "mlps")
    _refuse_wrong_words(sweep)
    if sweep.without and FINAL not in receivers:
        raise InputError("heads can be knocked out meanwhile only on paths to the logits")
    senders = tuple(heads_of(model) if senders is None else senders)
    to_logits = FINAL in receivers
    settings = dict(
        receivers=[str(receiver) for receiver in receivers],
        at=END if to_logits else at,
        mlps=mlps,
        direction=sweep.direction,
    )
    question = Paths(tuple(receivers), at, mlps, sweep.routing)
    return _swept(
        model, Asked(pairs, senders, question, sweep, alike=_reaching(model, senders, receivers)), done, settings
    )


def _refuse_wrong_words(sweep: Sweep) -> None:
    """A word that is none of those that there are would be taken for one of them."""
    refuse_wrong_value("direction", Direction, sweep.direction, "direction")
    refuse_wrong_value("routing", Routing, sweep.routing, "routing")


def _reaching(model: Model, senders: Sequence[Sender], receivers: Sequence[Receiver]) -> dict[Sender, int]:
    """A number for each sender, the same for those that reach the same receivers and may go there together."""
    if not projects_plainly(model, receivers):
        return {}
    numbers: dict[tuple[bool, ...], int] = {}
    found: dict[Sender, int] = {}
    for sender in senders:
        reached = tuple(reaches(model, sender, receiver) for receiver in receivers)
        found[sender] = numbers.setdefault(reached, len(numbers))
    return found


@dataclass(frozen=True)
class Paths:
    """Direct paths into receivers, which are patched together."""

    receivers: tuple[Receiver, ...]
    at: str | None
    mlps: Between
    routing: Routing

    def finals(self, model: Model, runs: Runs, group: Group) -> Float[Tensor, "S N A D"] | None:
        """Passes C and D."""
        wanted = [receiver for receiver in self.receivers if reaches(model, group[0], receiver)]
        if not wanted:
            return None
        to_logits = FINAL in self.receivers
        positions = runs.rows.span(END if to_logits else self.at, runs.base.ids, runs.source.ids)
        received = _received(model, runs, group, positions, wanted, self.mlps, self.routing)
        return received[FINAL] if to_logits else _downstream(model, runs, received, positions)

    def width(self, model: Model, runs: Runs) -> int:
        """The receivers' positions, or all from the first of them on."""
        if FINAL in self.receivers:
            return runs.rows.answer
        positions = runs.rows.span(self.at, runs.base.ids, runs.source.ids)
        return max(positions.shape[1], runs.rows.length - first_position(model, positions))


@torch.no_grad()
def activation_patching(
    model: Model,
    pairs: Sequence[PromptPair],
    senders: Sequence[Sender] | None = None,
    at: str | None = None,
    what: What = "output",
    done: Done | None = None,
    sweep: Sweep | None = None,
) -> Effects:
    """Effect of putting each sender's output from the source run into the base run, all downstream recomputed.

    `at`: the role whose positions are patched; None: all. `what="pattern"` patches heads' attention patterns only,
    their values staying the base run's. Raises as `path_patching`.

    >>> activation_patching(model, prompts, at="S2").heads().shape                       # doctest: +SKIP
    (12, 12)
    """
    sweep = sweep or Sweep()
    refuse_wrong_value("what", What, what, "what")
    _refuse_wrong_words(sweep)
    senders = tuple(heads_of(model) if senders is None else senders)
    if what == "pattern" and not all(isinstance(sender, Head) for sender in senders):
        raise InputError("only heads have an attention pattern to patch")

    settings = dict(at=at, what=what, direction=sweep.direction)
    alike: dict[Sender, int] = {  # an MLP goes with the heads of its layer
        node: node.layer
        for node in senders
        if isinstance(node, Head) or (isinstance(node, MLP) and writes_itself(model, node.layer))
    }
    return _swept(model, Asked(pairs, senders, Outputs(at, sweep.routing), sweep, what, alike), done, settings)


@dataclass(frozen=True)
class Outputs:
    """Senders' outputs, with all that is downstream recomputed."""

    at: str | None
    routing: Routing

    def finals(self, model: Model, runs: Runs, group: Group) -> Float[Tensor, "S N A D"]:
        """To the end from where they are written."""
        return activation_finals(model, runs, group, self._positions(runs), self.routing)

    def width(self, model: Model, runs: Runs) -> int:
        """All positions from the first that is patched."""
        return runs.rows.length - first_position(model, self._positions(runs))

    def _positions(self, runs: Runs) -> Int[Tensor, "N P"]:
        return runs.rows.span(self.at, runs.base.ids, runs.source.ids)


def activation_finals(
    model: Model, runs: Runs, group: Group, positions: Int[Tensor, "N P"], routing: Routing = "frozen"
) -> Float[Tensor, "S N A D"]:
    """Final hidden states at the answer positions after patching each sender of one layer by itself at `positions`.

    Behind heads the layer's MLP may stand, where `writes_itself` says so.
    """
    first = first_position(model, positions)
    span = runs.rows.length - first
    if isinstance(group[0], Mixer):
        layer = group[0].layer
        value = take(runs.source.state[layer], positions)[None]
        put = {Site("state_write", layer): setter(value, positions, first, None)}
        return to_the_end(model, runs, layer, 1, first, put)
    if isinstance(group[0], Head):
        if positions.shape[1] < span and group[0].layer not in model.mixer_layers:
            return from_next_block(model, runs, group, positions, first)
        layer = group[0].layer
        heads = [node.head for node in group if isinstance(node, Head)]
        output = stacked(attention_output(model, layer, runs.base.z[layer][:, first:]), len(group))
        change = _spread(output_changes(model, runs, layer, heads, positions), positions - first, span)
        output[: len(change)] += change
        write: dict[Site, Change] = {}
        if len(heads) < len(group):
            moved = take(runs.source.mlp[layer], positions) - take(runs.base.mlp[layer], positions)
            write = {Site("mlp_write", layer): added_last(_spread(moved[None], positions - first, span))}
        forwards = frozen_attention(model, {layer: output}, set())
        return to_the_end(model, runs, layer, len(group), first, write, forwards)
    start, change = _write_change(model, runs, group, positions, routing)
    hidden = stacked(runs.base.residual[start][:, first:], len(group)) + _spread(change, positions - first, span)
    return to_the_end(model, runs, start, len(group), first, hidden=hidden)


def _spread(change: Float[Tensor, "S N P D"], places: Int[Tensor, "N P"], span: int) -> Float[Tensor, "S*N T D"]:
    """Changes put at their places in an otherwise zero tensor (repeated places hold the same change)."""
    flat = change.flatten(0, 1)
    whole = flat.new_zeros(len(flat), span, flat.shape[-1])
    rows = torch.arange(len(flat), device=flat.device)[:, None]
    whole[rows, stacked(places, len(change)).to(flat.device)] = flat
    return whole


def _write_change(
    model: Model, runs: Runs, group: Group, positions: Int[Tensor, "N P"], routing: Routing
) -> tuple[int, Float[Tensor, "S N P D"]]:
    """Block that a write enters, and its change: of an MLP or the embedding (groups of one), of a layer's experts."""
    node = group[0]
    if isinstance(node, Expert):
        experts = [one.expert for one in group if isinstance(one, Expert)]
        return node.layer + 1, expert_changes(model, runs, node.layer, experts, positions, routing)
    if isinstance(node, MLP):
        change = take(runs.source.mlp[node.layer], positions) - take(runs.base.mlp[node.layer], positions)
        return node.layer + 1, change[None]
    return 0, (take(runs.source.residual[0], positions) - take(runs.base.residual[0], positions))[None]


def _received(
    model: Model,
    runs: Runs,
    group: Group,
    positions: Tensor,
    wanted: Sequence[Receiver],
    mlps: Between,
    routing: Routing,
) -> dict[Receiver, Tensor]:
    """Pass C. Senders of several layers come together where they reach the same receivers."""
    if mlps == "recomputed":
        entries = [_entry(model, runs, part, positions, True, routing) for part in groups_of(group)]
        return through_mlps(model, runs, sorted(entries, key=lambda entry: entry.layer), positions, wanted)
    parts = [
        without_mlps(model, runs, _entry(model, runs, part, positions, False, routing), positions, wanted)
        for part in groups_of(group)
    ]
    return {receiver: torch.cat([part[receiver] for part in parts]) for receiver in wanted}


def _entry(model: Model, runs: Runs, group: Group, positions: Tensor, at_attention: bool, routing: Routing) -> Entry:
    """The change that senders of one layer make, at their attention's output or on the stream."""
    node = group[0]
    if not isinstance(node, Head):
        if isinstance(node, Mixer):
            change = take(runs.source.state[node.layer], positions) - take(runs.base.state[node.layer], positions)
            return Entry(node.layer, change[None], "state" if at_attention else "stream")
        return Entry(*_write_change(model, runs, group, positions, routing), "stream")
    heads = [node.head for node in group if isinstance(node, Head)]
    changes = output_changes if at_attention else stream_changes
    change = changes(model, runs, node.layer, heads, positions)
    return Entry(node.layer, change, "attention" if at_attention else "stream")


def _downstream(
    model: Model, runs: Runs, received: dict[Receiver, Tensor], positions: Int[Tensor, "N P"]
) -> Float[Tensor, "S N A D"]:
    """Pass D."""
    first = first_position(model, positions)
    puts: dict[Site, list[Change]] = {}
    for receiver, value in received.items():
        head = None if receiver.kind == "mlp" else receiver.head
        puts.setdefault(site_of(receiver), []).append(setter(value, positions, first, head))
    copies = len(next(iter(received.values())))
    changes = {site: _chained(entries) for site, entries in puts.items()}
    return to_the_end(model, runs, min(site.layer for site in puts), copies, first, changes)


def _chained(changes: Sequence[Change]) -> Change:
    def change(tensor: Tensor) -> Tensor:
        for each in changes:
            tensor = each(tensor)
        return tensor

    return change


# -- over all pairs and senders ------------------------------------------------------------------------------------


def _swept(model: Model, asked: Asked, done: Done | None, settings: Mapping[str, object]) -> Effects:
    """The sweep's units, by whoever holds the model, put together."""
    check_model(model)
    pairs, senders, sweep = asked.pairs, asked.senders, asked.sweep
    check_nodes(model, senders)
    place = {sender: index for index, sender in enumerate(senders)}
    patched = np.zeros((len(senders), len(pairs)))
    kl = np.zeros_like(patched) if sweep.divergence else None
    base, source = np.zeros(len(pairs)), np.zeros(len(pairs))
    count = sum(1 for _ in batches(pairs, sweep.budget or token_budget(model.device), torch.device("cpu")))
    units = asked.units(count)
    for unit, scored in zip(units, over_workers(model, SweptBatches, asked, units, done)):
        where = list(scored.index)
        if not unit.start:
            np.add.at(base, where, scored.base)
            np.add.at(source, where, scored.source)
        for node, values in scored.patched:
            np.add.at(patched[place[node]], where, values)
        for node, values in scored.divergence:
            assert kl is not None
            np.add.at(kl[place[node]], where, values)
    if not np.isfinite(patched).all():
        where, pair = (int(place) for place in np.argwhere(~np.isfinite(patched))[0])
        raise NonFinite(f"{model.id}: patching {senders[where]} gives no number, first for prompt pair {pair + 1}")
    clean, corrupted = (base, source) if sweep.direction == "noising" else (source, base)
    settings = {**settings, "layers": model.layers, "heads": model.heads}
    return Effects(senders, patched, clean, corrupted, sweep.direction, kl, settings)
