"""Edits that carry a text towards another language: along a direction, or by neurons (steering.md, section 2).

    add    h ← h + αg·u                                    α = 1 carries s's mean onto t's
    move   h ← h + (p_s + α(p_t − p_s) − h·u) u            every token to the same place along u
    keep   afterwards h ← h · ‖h before‖ / ‖h‖             (ReCoVeR)

D model width · P layer · N neurons of a layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.models import Site
from babelscope.models.hooks import Change
from babelscope.models.rows import RowEdit
from babelscope.regions.deactivation import changes_of, of_layer
from babelscope.steering.directions import Direction
from babelscope.terms import Arithmetic, Edit, Unit, Where


@dataclass(frozen=True)
class Strength:
    """How far an edit goes, in the three units that are recorded."""

    gap: float
    absolute: float
    norm: float


def strength(direction: Direction, alpha: float, unit: Unit = "gap") -> Strength:
    """α in gaps of the two languages' means, in the model's own units, or in mean token norms; as all three.

    >>> strength(direction, 1.5).gap                                   # doctest: +SKIP
    1.5
    """
    sizes = {"gap": direction.gap, "absolute": 1.0, "norm": direction.norm}
    if unit not in sizes:
        raise InputError(f"no unit {unit!r}; there are {', '.join(sizes)}")
    size = alpha * sizes[unit]
    return Strength(size / direction.gap, size, size / direction.norm)


def steering_change(
    direction: Direction,
    alpha: float,
    edit: Edit = "add",
    keep: bool = False,
    unit: Unit = "gap",
    along: Float[Tensor, " D"] | None = None,
) -> Change:
    """The change of single states. `along`: a control's unit vector, along which steps of the same length are made.

    pca adds αg along the state's own part in the subspace, and knows no `move`. Raises InputError for an unknown edit.
    """
    if edit not in ("add", "move"):
        raise InputError(f"no edit {edit!r}; there are add, move")
    size = strength(direction, alpha, unit)
    u, w = direction.unit, direction.unit if along is None else along

    def step(h: Tensor) -> Tensor:
        if direction.basis is not None and along is None:
            basis = direction.basis.to(h)
            part = (h @ basis.T) @ basis
            return size.absolute * part / part.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        if edit == "add" or direction.basis is not None:
            return size.absolute * w.to(h)
        place = direction.at_source + size.gap * (direction.at_target - direction.at_source)
        return (place - h @ u.to(h))[..., None] * w.to(h)

    def change(h: Tensor) -> Tensor:
        made = h + step(h)
        if not keep:
            return made
        return made * (h.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True).clamp_min(1e-12))

    return change


def direction_edit(
    directions: Sequence[Direction],
    alpha: float,
    edit: Edit = "add",
    keep: bool = False,
    unit: Unit = "gap",
    where: Where = "all",
    first: bool = False,
    along: Sequence[Tensor] | None = None,
) -> RowEdit | None:
    """One edit of all given layers; None where adding nothing is asked for, which leaves the model as it is."""
    if edit == "add" and alpha == 0:
        return None
    if edit == "move" and any(one.basis is not None for one in directions):
        raise InputError("pca is a subspace, not a line: use --edit add with it")
    vectors = along or [None] * len(directions)
    changes = {
        Site("residual", one.layer): steering_change(one, alpha, edit, keep, unit, vector)
        for one, vector in zip(directions, vectors)
    }
    return RowEdit(changes, where, first)


# -- neurons -------------------------------------------------------------------------------------------------------


def region_edit(
    mask: Bool[Tensor, "P N"],
    means: Float[Tensor, "P N"] | None = None,
    factor: float = 1.0,
    where: Where = "all",
    first: bool = False,
) -> RowEdit:
    """A region at `factor` times its means in the target, or, without means, its activations times `factor`."""
    return RowEdit(changes_of(mask, None if means is None else factor * means, factor), where, first)


def arithmetic_changes(
    source: Bool[Tensor, "P N"],
    target: Bool[Tensor, "P N"],
    means: Float[Tensor, "P N"],
    others: Float[Tensor, "P N"],
    factor: float = 1.0,
    mode: Arithmetic = "additive",
    off: float = 0.0,
) -> dict[Site, Change]:
    """Language arithmetic (2507.22608): the source's neurons to `off`, the target's raised; shared ones are t's.

    additive: h += b·mean in t; replacement: h = b·mean in t; diffmean: h += b·(mean in t − mean in others).
    """
    if mode not in ("additive", "replacement", "diffmean"):
        raise InputError(f"no arithmetic {mode!r}; there are additive, replacement, diffmean")
    raised = factor * (means - others if mode == "diffmean" else means)

    def of(layer: int) -> Change:
        up, down = target[layer], source[layer] & ~target[layer]

        def change(h: Tensor) -> Tensor:
            value = of_layer(raised[layer], h).to(h)
            h = torch.where(of_layer(up, h), value if mode == "replacement" else h + value, h)
            return h.masked_fill(of_layer(down, h), off)

        return change

    touched = [layer for layer in range(len(target)) if bool((target[layer] | source[layer]).any())]
    return {Site("neurons", layer): of(layer) for layer in touched}
