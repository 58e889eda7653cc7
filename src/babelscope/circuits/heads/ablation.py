"""Taking heads and MLPs out of a model, and circuits of them: everything else ablated (section 6).

P pair · N row · T position · H head · E head width · D width
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import Ablation, Reference, ablation_kind, fitted_constants, reference
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import Runs, first_position, run
from babelscope.circuits.core.changes import Part, node_changes
from babelscope.circuits.core.faithfulness import BUDGETS, Area, Curve, Mask, curve, curves
from babelscope.circuits.core.nodes import MLP, Head, check_model, check_nodes, heads_of, mixers_of, mlps_of
from babelscope.circuits.core.residual import Values
from babelscope.circuits.heads.shared_passes import finals_without
from babelscope.errors import InputError
from babelscope.models.batches import token_budget
from babelscope.models.hooks import edit

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]


@torch.no_grad()
def ablated_differences(
    model: Model,
    pairs: Sequence[PromptPair],
    sets: Sequence[Collection[Part]],
    ablation: Ablation | str | Reference = Ablation.MEAN,
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
) -> Float[Array, "sets P"]:
    """LD of every pair with each set of nodes ablated; an empty set is the whole model.

    `ablation`: a kind, or the values themselves (`reference`). "optimal" constants are fitted to each set by itself, on
    these very pairs. Every pass is resumed at the first ablated layer, and under resampling at the first position that
    differs. Raises InputError for nodes that do not exist, UnsupportedModel where writes do not add up.
    """
    return ablated_answers(model, pairs, sets, ablation, (), budget, done)[0]


@torch.no_grad()
def ablated_answers(
    model: Model,
    pairs: Sequence[PromptPair],
    sets: Sequence[Collection[Part]],
    ablation: Ablation | str | Reference = Ablation.MEAN,
    told: Collection[int] = (),
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
) -> tuple[Float[Array, "sets P"], Float[Array, "sets 2 P"]]:
    """The same, and log p of target and foil under the sets `told` (by number), from the same passes; NaN elsewhere.

    Those need all logits, the difference only two of them.
    """
    check_model(model)
    for nodes in sets:
        check_nodes(model, nodes)
    resample = not callable(ablation) and ablation_kind(ablation) is Ablation.RESAMPLE
    if not callable(ablation) and ablation_kind(ablation) is Ablation.OPTIMAL:
        fitted = [optimal_values(model, pairs, nodes, budget=budget)[0] for nodes in sets]
        parts = [
            ablated_answers(model, pairs, [nodes], own, (0,) if place in told else (), budget, done)
            for place, (nodes, own) in enumerate(zip(sets, fitted))
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    other = ablation if callable(ablation) else reference(model, pairs, ablation, budget)
    found = np.zeros((len(sets), len(pairs)))
    logged = np.full((len(sets), 2, len(pairs)), np.nan)
    logged[list(told)] = 0.0
    _ = model.block_returns_tuple
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        base, values = run(model, rows.clean, mlps=False, keys=resample), other(rows)
        runs = Runs(rows, base, base)
        first = first_position(model, rows.span(None, rows.clean, rows.corrupted)) if resample else 0
        read: dict[int, Tensor] = {}
        for place, final in finals_without(model, runs, first, sets, values):
            scores = logit_diff.scores(model, rows, final[None])[0].cpu().double().numpy()
            np.add.at(found[place], list(rows.index), scores)
            if place in told:
                read[place] = final
            if done:
                done(len(rows))
        if read:
            finals = torch.stack([read[place] for place in sorted(read)])
            logit_diff.add_answers(model, rows, finals, logged, sorted(read))
    return found, logged


def optimal_values(
    model: Model, pairs: Sequence[PromptPair], nodes: Collection[Part], steps: int = 50, budget: int | None = None
) -> tuple[Reference, list[float]]:
    """The constants under which the model without `nodes` diverges least from itself, and the loss of every step."""
    check_nodes(model, nodes)

    def final(rows: Rows, values: Values) -> Tensor:
        with edit(model, node_changes(model, values, nodes)):
            return model.trunk(rows.clean)[:, rows.length - rows.answer]

    return fitted_constants(model, pairs, final, steps if nodes else 0, budget=budget)


# -- circuits of nodes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NodeSpace:
    """Heads, and with `mlps` MLPs and linear mixers, as what a circuit is chosen from; without, these always stay."""

    model: Model
    pairs: Sequence[PromptPair]
    ablation: Ablation | str | Reference = Ablation.MEAN
    mlps: bool = False
    budget: int | None = field(default=None, kw_only=True)

    @cached_property
    def nodes(self) -> tuple[Part, ...]:
        """The parts, in the order of the mask."""
        rest = (*mixers_of(self.model), *mlps_of(self.model)) if self.mlps else ()
        return (*heads_of(self.model), *rest)

    @property
    def whole(self) -> Bool[Mask, " nodes"]:
        return np.ones(len(self.nodes), dtype=bool)

    def mask(self, nodes: Collection[Part]) -> Bool[Mask, " nodes"]:
        """A circuit of these nodes; raises InputError for those that are not there."""
        check_nodes(self.model, nodes)
        strange = set(nodes) - set(self.nodes)
        if strange:
            raise InputError(f"{min(map(str, strange))} is not among the parts that may be in this circuit")
        wanted = set(nodes)
        return np.array([node in wanted for node in self.nodes])

    def differences(self, circuits: Sequence[Bool[Mask, " nodes"]]) -> Float[Array, "C P"]:
        # rankings of few nodes give the same circuit at several budgets
        masks, places = np.unique(np.stack(circuits), axis=0, return_inverse=True)
        gone = [[node for node, inside in zip(self.nodes, mask) if not inside] for mask in masks]
        found = ablated_differences(self.model, self.pairs, gone, self.ablation, self.budget)
        return found[places.reshape(-1)]


def node_curve(
    space: NodeSpace,
    scores: Mapping[Part, float],
    area: Area,
    budgets: Sequence[float] = BUDGETS,
) -> Curve:
    """f of the circuits of most important nodes at each share of all nodes.

    `scores`: change of LD when a node is patched, negative for those that work for the answer. CPR ranks by how far a
    node works for the answer, CMD by the size of its effect.
    """
    return curve(space, _ranked(space, scores, area, budgets), area, budgets)


def node_curves(
    space: NodeSpace, scores: Mapping[Part, float], budgets: Sequence[float] = BUDGETS
) -> dict[Area, Curve]:
    """Both areas' curves; circuits that their rankings share are run once."""
    areas: tuple[Area, ...] = ("cpr", "cmd")
    return curves(space, {area: _ranked(space, scores, area, budgets) for area in areas}, budgets)


def _ranked(space: NodeSpace, scores: Mapping[Part, float], area: Area, budgets: Sequence[float]) -> list[Mask]:
    effect = np.array([scores[node] for node in space.nodes])
    order = np.argsort(effect if area == "cpr" else -np.abs(effect), kind="stable")
    circuits: list[Mask] = []
    for share in budgets:
        mask = np.zeros(len(order), dtype=bool)
        mask[order[: int(share * len(order))]] = True
        circuits.append(mask)
    return circuits


# -- sets of nodes --------------------------------------------------------------------------------------------------


def windows(model: Model, width: int) -> list[list[MLP]]:
    """The MLPs in a window of `width` layers (1, 3, 5) around each layer, cut at the ends; raises InputError."""
    if width < 1 or width % 2 == 0:
        raise InputError(f"a window is centred on a layer, so its width is odd: got {width}")
    reach, mlps = width // 2, mlps_of(model)
    return [[node for node in mlps if abs(node.layer - centre) <= reach] for centre in range(model.layers)]


def matched_random(model: Model, heads: Collection[Head], draws: int = 20, seed: int = 0) -> list[list[Head]]:
    """Random head sets, all different, with as many heads per layer as `heads`.

    None of its heads where a layer has enough others. Where fewer than `draws` such sets exist, all of them are given.
    """
    check_nodes(model, heads)
    own = set(heads)
    counts = {layer: sum(node.layer == layer for node in own) for layer in range(model.layers)}
    pools = {layer: _pool(model, own, layer, count) for layer, count in counts.items() if count}
    possible = math.prod(math.comb(len(pool), counts[layer]) for layer, pool in pools.items())
    if not pools or draws < 1:
        return []
    if possible <= 2 * draws:
        every = product(*(combinations(pool, counts[layer]) for layer, pool in pools.items()))
        listed = [sorted(node for part in parts for node in part) for parts in every]
        listed = [nodes for nodes in listed if set(nodes) != own]
        order = np.random.default_rng(seed).permutation(len(listed))
        return [listed[place] for place in order[:draws]]
    generator = np.random.default_rng(seed)
    found: dict[tuple[Head, ...], None] = {}
    while len(found) < draws:
        drawn = sorted(
            pool[place]
            for layer, pool in pools.items()
            for place in generator.choice(len(pool), counts[layer], replace=False)
        )
        if set(drawn) != own:
            found[tuple(drawn)] = None
    return [list(nodes) for nodes in found]


def _pool(model: Model, own: set[Head], layer: int, count: int) -> list[Head]:
    every = [Head(layer, head) for head in range(model.heads)]
    others = [node for node in every if node not in own]
    return others if len(others) >= count else every
