"""Path patching and activation patching of any senders, over all pairs (section 3; Wang et al. 2022).

A  the source run, from which the senders' values come      C  base run, heads frozen, sender patched: receivers' values
B  the base run, all heads' outputs kept                     D  base run with the receivers' values from C

S sender · N row · P patched position · D width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import END, Rows, batches
from babelscope.circuits.core.cache import (
    Direction,
    Runs,
    attention_output,
    first_position,
    output_changes,
    record,
    stream_changes,
    take,
)
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.metrics import Edits
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
from babelscope.circuits.patching.path_passes import (
    Entry,
    frozen_attention,
    setter,
    site_of,
    stacked,
    through_mlps,
    to_the_end,
    without_mlps,
)
from babelscope.errors import InputError, NonFinite
from babelscope.models.batches import out_of_memory, token_budget
from babelscope.models.hooks import Change, Site
from babelscope.terms import Between

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

What = Literal["output", "pattern"]
Done = Callable[[int], None]
Group = Sequence[Sender]
T = TypeVar("T")
Finals = Callable[[Runs, Group], Float[Tensor, "S N A D"] | None]


@dataclass(frozen=True)
class Sweep:
    """How senders are gone through."""

    direction: Direction = "noising"
    divergence: bool = False
    """also KL of the patched from the base run"""
    budget: int | None = None
    """tokens at a time [by the device's memory]"""
    edits: Edits | None = None
    """heads knocked out meanwhile (for paths to the logits only)"""
    routing: Routing = "frozen"
    """of experts as senders: tokens and weights of the base run, or those that each has in the source run"""


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
    if sweep.edits is not None and FINAL not in receivers:
        raise InputError("heads can be knocked out meanwhile only on paths to the logits")
    senders = tuple(heads_of(model) if senders is None else senders)
    to_logits = FINAL in receivers

    def finals(runs: Runs, group: Group) -> Tensor | None:
        wanted = [receiver for receiver in receivers if reaches(model, group[0], receiver)]
        if not wanted:
            return None
        positions = runs.rows.span(END if to_logits else at, runs.base.ids, runs.source.ids)
        received = _received(model, runs, group, positions, wanted, mlps, sweep.routing)
        return received[FINAL] if to_logits else _downstream(model, runs, received, positions)

    def width(runs: Runs, group: Group) -> int:
        if to_logits:
            return runs.rows.answer
        positions = runs.rows.span(at, runs.base.ids, runs.source.ids)
        return max(positions.shape[1], runs.rows.length - first_position(model, positions))

    settings = dict(
        receivers=[str(receiver) for receiver in receivers],
        at=END if to_logits else at,
        mlps=mlps,
        direction=sweep.direction,
    )
    return _sweep(model, pairs, senders, finals, width, sweep, done, settings, together=to_logits)


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
    senders = tuple(heads_of(model) if senders is None else senders)
    if what == "pattern" and not all(isinstance(sender, Head) for sender in senders):
        raise InputError("only heads have an attention pattern to patch")

    def finals(runs: Runs, group: Group) -> Tensor:
        return activation_finals(model, runs, group, runs.rows.span(at, runs.base.ids, runs.source.ids), sweep.routing)

    def width(runs: Runs, group: Group) -> int:
        return runs.rows.length - first_position(model, runs.rows.span(at, runs.base.ids, runs.source.ids))

    settings = dict(at=at, what=what, direction=sweep.direction)
    return _sweep(model, pairs, senders, finals, width, sweep, done, settings, patterns=what == "pattern")


def activation_finals(
    model: Model, runs: Runs, group: Group, positions: Int[Tensor, "N P"], routing: Routing = "frozen"
) -> Float[Tensor, "S N A D"]:
    """Final hidden states at the answer positions after patching each sender of one layer by itself at `positions`."""
    first = first_position(model, positions)
    span = runs.rows.length - first
    if isinstance(group[0], Mixer):
        layer = group[0].layer
        value = take(runs.source.state[layer], positions)[None]
        put = {Site("state_write", layer): setter(value, positions, first, None)}
        return to_the_end(model, runs, layer, 1, first, put)
    if isinstance(group[0], Head):
        layer = group[0].layer
        heads = [node.head for node in group if isinstance(node, Head)]
        output = stacked(attention_output(model, layer, runs.base.z[layer][:, first:]), len(group))
        output = output + _spread(output_changes(model, runs, layer, heads, positions), positions - first, span)
        forwards = frozen_attention(model, {layer: output}, set())
        return to_the_end(model, runs, layer, len(group), first, forwards=forwards)
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
    """Pass C. Senders of several layers may come together on the way to the final residual only."""
    if mlps == "recomputed":
        entries = [_entry(model, runs, part, positions, True, routing) for part in _groups(group)]
        return through_mlps(model, runs, sorted(entries, key=lambda entry: entry.layer), positions, wanted)
    parts = [
        without_mlps(model, runs, _entry(model, runs, part, positions, False, routing), positions, wanted)
        for part in _groups(group)
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


def _sweep(
    model: Model,
    pairs: Sequence[PromptPair],
    senders: tuple[Sender, ...],
    finals: Finals,
    width: Callable[[Runs, Group], int],
    sweep: Sweep,
    done: Done | None,
    settings: Mapping[str, object],
    patterns: bool = False,
    together: bool = False,
) -> Effects:
    """Run `finals` on every batch of pairs and group of senders (all of them `together`), and collect the scores."""
    check_model(model)
    check_nodes(model, senders)
    budget, edits = sweep.budget or token_budget(model.device), sweep.edits
    place = {sender: index for index, sender in enumerate(senders)}
    ordered = [node for group in _groups(senders) for node in group]
    patched = np.zeros((len(senders), len(pairs)))
    kl = np.zeros_like(patched) if sweep.divergence else None
    base, source = np.zeros(len(pairs)), np.zeros(len(pairs))
    for rows in batches(pairs, budget, model.device):
        with_mlps = any(isinstance(node, (MLP, Expert)) for node in senders)
        runs = record(model, rows, sweep.direction, with_mlps, patterns, edits(rows) if edits else None)
        own, where = _answers(rows, runs.base.final), list(rows.index)
        unpatched = logit_diff.scores(model, rows, own)[0].cpu().double().numpy()
        np.add.at(base, where, unpatched)
        np.add.at(
            source, where, logit_diff.scores(model, rows, _answers(rows, runs.source.final))[0].cpu().double().numpy()
        )
        for group in [ordered] if together else _groups(senders):
            size = max(1, budget // (len(rows) * max(1, width(runs, group))))
            for part, final in in_chunks(group, size, lambda part, runs=runs: finals(runs, part), model.device):
                found = unpatched[None].repeat(len(part), 0)
                if final is not None:
                    found = logit_diff.scores(model, rows, final).cpu().double().numpy()
                    if kl is not None:
                        _add_divergence(model, rows, own, final, kl, [place[node] for node in part])
                for node, values in zip(part, found):
                    np.add.at(patched[place[node]], where, values)
                if done:
                    done(len(part) * len(rows))
    if not np.isfinite(patched).all():
        where, pair = (int(place) for place in np.argwhere(~np.isfinite(patched))[0])
        raise NonFinite(f"{model.id}: patching {senders[where]} gives no number, first for prompt pair {pair + 1}")
    clean, corrupted = (base, source) if sweep.direction == "noising" else (source, base)
    settings = {**settings, "layers": model.layers, "heads": model.heads}
    return Effects(senders, patched, clean, corrupted, sweep.direction, kl, settings)


def _groups(senders: Sequence[Sender]) -> Iterator[list[Sender]]:
    """Senders that enter the stream at one place: heads or experts of a layer; one mixer, one MLP, the embedding."""

    def place(node: Sender) -> tuple[int, int]:
        # an MLP's write enters the next layer
        return getattr(node, "layer", -1), next(
            (order for order, kind in ((1, Mixer), (2, MLP), (3, Expert)) if isinstance(node, kind)), 0
        )

    for _, members in groupby(sorted(senders, key=place), key=place):
        group = list(members)
        yield from [group] if isinstance(group[0], (Head, Expert)) else ([node] for node in group)


def in_chunks(
    nodes: Sequence[Sender], size: int, work: Callable[[Group], T], device: torch.device
) -> Iterator[tuple[Group, T]]:
    """`work` on at most `size` senders at a time; a chunk that does not fit in memory is halved and done again."""
    for start in range(0, len(nodes), size):
        chunk = nodes[start : start + size]
        try:
            result = work(chunk)
        except Exception as error:
            if not out_of_memory(error) or len(chunk) == 1:
                raise
        else:
            yield chunk, result
            continue
        # outside the except block, so that the failed pass and its tensors are gone
        if device.type == "cuda":
            torch.cuda.empty_cache()
        yield from in_chunks(chunk, (len(chunk) + 1) // 2, work, device)


def _answers(rows: Rows, final: Float[Tensor, "N T D"]) -> Float[Tensor, "1 N A D"]:
    return final[None, :, rows.length - rows.answer :]


def _add_divergence(
    model: Model, rows: Rows, own: Tensor, final: Tensor, kl: np.ndarray, places: Sequence[int]
) -> None:
    """KL at END, from the target's row of each pair only."""
    keep = [row for row, sign in enumerate(rows.signs) if sign >= 0]
    if not keep:
        return
    values = logit_diff.divergence(model, own[0, keep, 0], final[:, keep, 0]).cpu().double().numpy()
    for where, value in zip(places, values):
        np.add.at(kl[where], [rows.index[row] for row in keep], value)
