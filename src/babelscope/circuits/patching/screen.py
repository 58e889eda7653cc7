"""Which heads are worth patching: a cheap screen, exact patching of what it keeps, and a bound on what it missed.

Two estimates of every head's effect decide, each in deviations over all heads; the larger one counts:

    gradient   first-order estimates on some prompts (attribution patching, Kramár et al. 2024), at three points between
               the clean and the corrupted input, and with the gradient through single layers dropped: two paths that
               cancel at first order do not cancel in both
    trial      exact patching of every head on a few prompts: what no gradient sees, such as saturated attention

Kept heads are patched exactly on all prompts, and so is a random sample of the others: what passes among the sampled
bounds what passes among those that nobody patched (hypergeometric, exactly).

S sender · N row · T position · L layer · H head · V view
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import END, Rows, batches
from babelscope.circuits.core.cache import Recorded, run, take
from babelscope.circuits.core.effects import Effects, Screening
from babelscope.circuits.core.nodes import FINAL, Head, Receiver, ReceiverKind, Sender
from babelscope.circuits.patching.path_passes import passed_over, replaced, site_of
from babelscope.models.batches import token_budget
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import Change, Kind, Site, capture, edit, resume, tracked
from babelscope.models.scales import writes_of
from babelscope.stats import hypergeometric_upper
from babelscope.terms import Between

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Pairs = Sequence["PromptPair"]
T = TypeVar("T")
Sweep = Callable[[Pairs, Sequence[Sender]], Effects]
POINTS = (0.0, 0.5, 1.0)
"""shares of the way from the clean input to the corrupted one at which gradients are taken"""


@dataclass(frozen=True)
class Screen:
    """How heads are chosen for exact patching."""

    pairs: int = 32
    """prompts on which gradients are taken"""
    drops: int = 4
    """layers that the gradient is kept from passing through, one at a time"""
    trial: int = 8
    """prompts on which every head is patched"""
    above: float = 0.5
    """least estimate of a head that is kept, in deviations over all heads; the search selects from two on"""
    share: float = 0.1
    """of the heads, strongest first, that are kept in any case"""
    sample: float = 0.1
    """of the other heads, patched to see what the screen missed"""
    least: int = 8
    """heads that are sampled at least"""
    fewest: int = 64
    """heads below which all are patched: a screen with its sample would cost as much"""
    seed: int = 0


@dataclass(frozen=True)
class Missed:
    """What a screen may have missed: how many heads it left that would have passed, at most (95 %)."""

    heads: int
    """that could be patched"""
    kept: int
    sampled: int
    passed: int
    """heads that passed, all in all"""
    sampled_passed: int
    """of those sampled"""
    at_most: int
    """upper bound on those that pass among the heads that were not patched"""

    @property
    def share(self) -> float:
        """That bound as a share of all that pass."""
        return self.at_most / (self.at_most + self.passed) if self.at_most else 0.0


def screened(
    sweep: Sweep,
    pairs: Pairs,
    senders: Sequence[Sender],
    screen: Screen,
    free: Collection[Sender] = (),
    estimate: Callable[[Pairs], Float[Array, "V L H"]] | None = None,
) -> Effects:
    """Effects of the senders that the screen keeps and of a random sample of the others, all of them exact.

    `sweep` patches exactly; `free`: senders that cost nothing, and everything that is no head, are always patched. With
    fewer heads than `screen.fewest`, or no more prompts than a trial takes, everything is.
    """
    asked = [node for node in senders if isinstance(node, Head) and node not in free]
    if len(asked) < screen.fewest or len(pairs) <= screen.trial:
        return sweep(pairs, senders)
    first = spread_over(range(len(pairs)), screen.trial)
    others = [place for place in range(len(pairs)) if place not in first]
    trial = sweep([pairs[place] for place in first], senders)
    strength = np.abs(_standard(trial.only(asked).differences.mean(1)))
    if estimate is not None:
        views = estimate(spread_over(pairs, screen.pairs))
        told = np.array([[view[node.layer, node.head] for node in asked] for view in views])
        largest = np.take_along_axis(told, np.abs(told).argmax(0)[None], 0)[0]
        strength = np.maximum(strength, np.abs(_standard(largest)))
    order = np.argsort(-strength, kind="stable")
    count = max(int((strength >= screen.above).sum()), round(screen.share * len(asked)))
    kept = {asked[place] for place in order[:count]}
    rest = [node for node in asked if node not in kept]
    size = min(len(rest), max(screen.least, round(screen.sample * len(rest))))
    drawn = np.random.default_rng(screen.seed).choice(len(rest), size, replace=False)
    sampled = tuple(rest[place] for place in sorted(drawn))
    left = {*rest} - {*sampled}
    chosen = [node for node in senders if node not in left]
    more = sweep([pairs[place] for place in others], chosen)
    effects = _joined(chosen, len(pairs), [(first, trial), (others, more)])
    return replace(effects, screening=Screening(len(asked), len(kept), sampled))


def _joined(senders: Sequence[Sender], count: int, parts: Sequence[tuple[list[int], Effects]]) -> Effects:
    """One sweep of so many prompts from sweeps of some of them each, every one with all of these senders."""
    patched, clean, corrupted = np.empty((len(senders), count)), np.empty(count), np.empty(count)
    for places, effects in parts:
        assert effects.divergence is None  # no sweep that is screened has one, nor a unit yet
        assert effects.unit is None
        own = effects.only(set(senders))
        clean[places], corrupted[places], patched[:, places] = own.clean, own.corrupted, own.patched
    return replace(parts[0][1], senders=tuple(senders), patched=patched, clean=clean, corrupted=corrupted)


def missed(effects: Effects, passed: Collection[Sender]) -> Missed | None:
    """The bound for one sweep, given the senders that passed; None where every head was patched."""
    made = effects.screening
    if made is None:
        return None
    found = sum(node in passed for node in made.sampled)
    at_most = hypergeometric_upper(found, len(made.sampled), made.asked - made.kept) - found
    selected = sum(isinstance(node, Head) for node in passed)
    return Missed(made.asked, made.kept, len(made.sampled), selected, found, at_most)


def _standard(values: Float[Array, " S"]) -> Float[Array, " S"]:
    spread = float(values.std())
    return values / spread if spread > 0 else np.zeros_like(values)


def spread_over(pairs: Sequence[T], count: int) -> list[T]:
    """At most `count` of the pairs, evenly spaced, so that templates and orders are among them."""
    if len(pairs) <= count:
        return list(pairs)
    return [pairs[place] for place in np.linspace(0, len(pairs) - 1, count).round().astype(int)]


# -- gradients -----------------------------------------------------------------------------------------------------


class Slopes:
    """Gradients at what paths will be screened for later, from the passes of a screen of outputs on the same prompts.

    `wanted`: kinds of receivers, each with the role at whose positions it is read.
    """

    def __init__(self, wanted: Iterable[tuple[ReceiverKind, str | None]] = ()) -> None:
        self.wanted: list[tuple[Kind, str | None]] = sorted({(_kind(kind), at) for kind, at in wanted}, key=str)
        self._found: dict[object, Tensor] = {}

    def sites(self, model: Model) -> list[Site]:
        """Where gradients are kept."""
        kinds: list[Kind] = [*model.readings, "mlp_in"]
        wanted = {kind for kind, _ in self.wanted}
        return [
            Site(kind, layer)
            for kind in kinds
            if kind in wanted
            for layer in (model.neuron_layers if kind == "mlp_in" else model.attention_layers)
        ]

    def keep(self, rows: Rows, view: tuple[float, int], found: Mapping[Site, Tensor]) -> None:
        """Those of one batch and view, at their positions."""
        for kind, at in self.wanted:
            if at not in (None, END) and any(at not in pair.roles for pair in rows.pairs):
                continue
            positions = rows.span(at, rows.clean, rows.corrupted)
            for site in found:
                if site.kind == kind:
                    self._found[_asked(rows), view, site, at] = take(found[site], positions)

    def of(
        self, rows: Rows, view: tuple[float, int], sites: Sequence[Site], at: str | None
    ) -> dict[Site, Tensor] | None:
        """Those at these sites; None where any was not kept."""
        if not self._found:
            return None
        kept = {site: self._found.get((_asked(rows), view, site, at)) for site in sites}
        found = {site: value for site, value in kept.items() if value is not None}
        return found if len(found) == len(kept) else None

    def clear(self) -> None:
        """Forget all."""
        self._found.clear()


def _kind(kind: ReceiverKind) -> Kind:
    return site_of(Receiver(kind, 0)).kind


def _asked(rows: Rows) -> object:
    """All that a gradient depends on."""
    pairs = tuple((p.clean, p.corrupted, p.target, p.foil, tuple(sorted(p.roles.items()))) for p in rows.pairs)
    return pairs, rows.signs


def activation_estimates(
    model: Model, pairs: Pairs, roles: Sequence[str | None], screen: Screen, slopes: Slopes | None = None
) -> dict[str | None, Float[Array, "V L H"]]:
    """First-order effects of patching every head at each role (None: everywhere), by view, from one backward each.

    `slopes` keeps what the same passes tell of paths.
    """
    views = _views(model, screen)
    total = {role: np.zeros((len(views), model.layers, model.heads)) for role in roles}
    sites = [Site("z", layer) for layer in model.attention_layers]
    beside = [] if slopes is None else slopes.sites(model)
    with torch.no_grad():
        for rows in batches(pairs, token_budget(model.device), model.device):
            clean, corrupted = (run(model, ids, mlps=False) for ids in (rows.clean, rows.corrupted))
            masks = {role: _mask(rows, role, clean, corrupted) for role in roles}
            for place, (point, dropped) in enumerate(views):
                found = _gradients(model, rows, clean, corrupted, point, dropped, [*sites, *beside])
                if slopes is not None:
                    slopes.keep(rows, (point, dropped), {site: found[site] for site in beside})
                for layer, site in zip(model.attention_layers, sites):
                    told = ((corrupted.z[layer] - clean.z[layer]) * found[site]).sum(-1)  # [N, T, H]
                    for role, mask in masks.items():
                        total[role][place, layer] += (told * mask[..., None]).double().sum((0, 1)).cpu().numpy()
    return {role: values / len(pairs) for role, values in total.items()}


def path_estimates(
    model: Model,
    pairs: Pairs,
    receivers: Sequence[Receiver],
    at: str | None,
    mlps: Between,
    screen: Screen,
    slopes: Slopes | None = None,
) -> Float[Array, "V L H"]:
    """First-order effects of every head along the direct paths into `receivers`, by view; `slopes`: kept before."""
    views = _views(model, screen)
    total = np.zeros((len(views), model.layers, model.heads))
    into = sorted({site_of(receiver) for receiver in receivers if receiver != FINAL})
    lowest = min((site.layer for site in into), default=model.layers)
    with torch.no_grad():
        for rows in batches(pairs, token_budget(model.device), model.device):
            clean, corrupted = (run(model, ids, mlps=False) for ids in (rows.clean, rows.corrupted))
            positions, once = _once(rows.span(at, clean.ids, corrupted.ids))
            change = {z: take(corrupted.z[z], positions) - take(clean.z[z], positions) for z in clean.z}
            made: dict[tuple[float, int], dict[Site, Tensor]] = {}
            for point, dropped in views:
                # no gradient at a receiver comes through layers before the first of them
                own = point, dropped if dropped >= lowest else -1
                if own not in made and slopes is not None and (kept := slopes.of(rows, own, into, at)) is not None:
                    made[own] = kept
                if own not in made:
                    found = _gradients(model, rows, clean, corrupted, *own, into)
                    made[own] = {site: take(value, positions) for site, value in found.items()}
                made[point, dropped] = made[own]
            gradients = [made[view] for view in views]
            for place, found in enumerate(_through_frozen(model, clean, receivers, positions, once, gradients, mlps)):
                for layer, gradient in found.items():
                    told = (change[layer] * gradient).sum((-1,)) * once[..., None]
                    total[place, layer] += told.double().sum((0, 1)).cpu().numpy()
    return total / len(pairs)


def _once(positions: Int[Tensor, "N P"]) -> tuple[Int[Tensor, "N P"], Float[Tensor, "N P"]]:
    """Positions, and 0 in place of 1 where one is said again to fill up a row."""
    again = torch.zeros_like(positions, dtype=torch.bool)
    again[:, 1:] = positions[:, 1:] == positions[:, :-1]
    return positions, (~again).float()


def _views(model: Model, screen: Screen) -> list[tuple[float, int]]:
    """Where gradients are taken: points between the runs, and at the clean one with a layer dropped."""
    count = min(screen.drops, model.layers)
    layers = np.random.default_rng(screen.seed).choice(model.layers, count, replace=False)
    return [*((point, -1) for point in POINTS), *((0.0, int(layer)) for layer in sorted(layers))]


def _mask(rows: Rows, role: str | None, clean: Recorded, corrupted: Recorded) -> Float[Tensor, "N T"]:
    positions = rows.span(role, clean.ids, corrupted.ids)
    return torch.zeros(len(rows), rows.length, device=clean.ids.device).scatter_(1, positions, 1.0)


def _gradients(
    model: Model,
    rows: Rows,
    clean: Recorded,
    corrupted: Recorded,
    point: float,
    dropped: int,
    sites: Sequence[Site],
) -> dict[Site, Tensor]:
    """∂LD/∂value at `sites` in the run that starts at a share `point` of the way from clean to corrupted input."""
    kept: dict[Site, Tensor] = {}

    changes = tracked(sites, kept)
    if dropped >= 0:
        changes |= dict.fromkeys(writes_of(model, dropped), _held)
    base = clean.residual[0]
    start = base + point * (corrupted.residual[0] - base)
    with torch.enable_grad():
        start = start.detach().clone().requires_grad_()
        with fused_gelu(model), resume(model, 0, start), edit(model, changes):
            final = model.trunk(rows.clean)
        score = logit_diff.scores(model, rows, final[None, :, rows.length - rows.answer :]).sum()
        found = torch.autograd.grad(score, [kept[site] for site in sites], allow_unused=True)
    return {
        site: torch.zeros_like(kept[site]) if grad is None else grad.detach()  # pyright: ignore[reportUnnecessaryComparison]
        for site, grad in zip(sites, found)
    }


def _held(value: Tensor) -> Tensor:
    return value.detach()


def _through_frozen(
    model: Model,
    clean: Recorded,
    receivers: Sequence[Receiver],
    positions: Int[Tensor, "N P"],
    once: Float[Tensor, "N P"],
    gradients: Sequence[dict[Site, Tensor]],
    mlps: Between,
) -> list[dict[int, Float[Tensor, "N P H E"]]]:
    """Gradients at every head's output, by layer, of what receivers read, with all attention held, for each view.

    Nothing moves between positions then, so only those that are asked for are run, as tokens of their own.
    """
    sites = sorted({site_of(receiver) for receiver in receivers})
    last = sites[-1].layer if sites else -1
    leaves = {layer: take(z, positions).detach().requires_grad_() for layer, z in clean.z.items() if layer <= last}
    changes: dict[Site, Change] = {Site("z", layer): partial(_put, leaf) for layer, leaf in leaves.items()}
    changes |= {
        Site("state_write", layer): partial(_put, take(state, positions))
        for layer, state in clean.state.items()
        if layer <= last
    }
    if mlps == "frozen":
        changes |= {Site("mlp_write", layer): _held for layer in model.neuron_layers if layer <= last}
    start = take(clean.residual[0], positions)
    with (
        torch.enable_grad(),
        replaced(passed_over(model, range(last + 1, model.layers))),
        fused_gelu(model),
        resume(model, 0, start),
        edit(model, changes),
        capture(model, sites, gradients=True) as seen,
    ):
        model.trunk(take(clean.ids, positions))
        at = once.to(clean.final.dtype)
        found: list[dict[int, Tensor]] = []
        for view in gradients:
            told = clean.final.new_zeros(())
            for receiver in receivers:
                site = site_of(receiver)
                value, slope = seen[site], view[site]
                if receiver.kind != "mlp":
                    value, slope = value[..., receiver.head, :], slope[..., receiver.head, :]
                told = told + ((value * slope).sum(-1) * at).sum()
            parts = torch.autograd.grad(told, list(leaves.values()), retain_graph=True, allow_unused=True)
            found.append(
                {
                    layer: torch.zeros_like(z) if g is None else g  # pyright: ignore[reportUnnecessaryComparison]
                    for (layer, z), g in zip(leaves.items(), parts)
                }
            )
    return found


def _put(value: Tensor, _: Tensor) -> Tensor:
    return value
