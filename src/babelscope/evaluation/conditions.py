"""Conditions of an evaluation: regions switched off or amplified, steering edits, and random controls beside each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.models.rows import RowEdit, edited_rows
from babelscope.regions.deactivation import deactivate
from babelscope.regions.masks import random_region_by_layer
from babelscope.results.schemas.evaluation import BASE
from babelscope.steering.controls import random_unit
from babelscope.steering.edits import direction_edit, region_edit
from babelscope.steering.files import SavedEdit

Condition = Callable[[], AbstractContextManager[object]]


def conditions_of(
    model: Model,
    deactivated: Mapping[str, Bool[Tensor, "P N"]] | None = None,
    amplified: Mapping[str, Bool[Tensor, "P N"]] | None = None,
    factor: float = 2.0,
    steered: Mapping[str, SavedEdit] | None = None,
    controls: int = 0,
    seed: int = 0,
) -> dict[str, Condition]:
    """Context managers by name; with `controls`, as many random neurons of the same layers, or random directions of
    the same layer and size, beside each. Raises InputError where two of them have one name.

    >>> conditions_of(model, {"zh": mask}, controls=1)                 # doctest: +SKIP
    {'zh': …, 'zh, random-layer 0': …}
    """
    found = _Named()
    for name, mask in (deactivated or {}).items():
        for label, own in _with_random(model, name, mask, controls, seed):
            found[label] = lambda own=own: deactivate(model, own)
    for name, mask in (amplified or {}).items():
        for label, own in _with_random(model, f"{name} × {factor:g}", mask, controls, seed):
            found[label] = lambda own=own: deactivate(model, own, scale=factor)
    for name, saved in (steered or {}).items():
        saved.check(model)
        found[name] = lambda saved=saved: saved.applied(model)
        for draw in range(controls):
            edit = _random_edit(model, saved, seed, draw)
            found[f"{name}, random {draw}"] = lambda edit=edit: edited_rows(model, [edit])
    return found


class _Named(dict[str, Condition]):
    """Conditions, none of which takes the place of another, or of the model as it is."""

    def __setitem__(self, name: str, condition: Condition) -> None:
        if name == BASE or name in self:
            raise InputError(f"two conditions are called {name!r}: rename one of the files")
        super().__setitem__(name, condition)


def _with_random(model: Model, name: str, mask: Tensor, controls: int, seed: int) -> list[tuple[str, Tensor]]:
    model.layout.check(mask, model.id)
    drawn = [random_region_by_layer(mask.sum(1).tolist(), model.widths, seed + draw) for draw in range(controls)]
    return [(name, mask), *((f"{name}, random-layer {draw}", one) for draw, one in enumerate(drawn))]


def _random_edit(model: Model, saved: SavedEdit, seed: int, draw: int) -> RowEdit | None:
    if saved.arithmetic is not None and saved.mask is not None and saved.off is not None:
        drawn = [
            random_region_by_layer(own.sum(1).tolist(), model.widths, seed + 2 * draw + place)
            for place, own in enumerate((saved.mask, saved.off))
        ]
        return replace(saved, mask=drawn[0], off=drawn[1]).row_edit()
    if saved.mask is not None:
        mask = random_region_by_layer(saved.mask.sum(1).tolist(), model.widths, seed + draw)
        values = saved.values
        if values is not None:  # each random neuron gets a value of the region, in the same layer
            values = torch.zeros_like(values)
            for layer in range(len(mask)):
                values[layer, mask[layer]] = saved.values[layer, saved.mask[layer]]  # pyright: ignore[reportOptionalSubscript]
        return region_edit(mask, values, saved.alpha, saved.where, saved.first)
    units = [random_unit(len(one.unit), seed, draw * 1000 + one.layer) for one in saved.directions]
    return direction_edit(
        saved.directions, saved.alpha, saved.edit, saved.keep, saved.unit, saved.where, saved.first, units
    )
