"""Steering vectors and edits of regions as files: safetensors with their facts, no code; and a model under one.

with load_edit("fr.safetensors").applied(model):
    model.hf.generate(...)
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from babelscope._version import __version__
from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.models.rows import WHERES, Flow, RowEdit, edited_rows
from babelscope.steering.directions import Direction
from babelscope.steering.edits import direction_edit, region_edit
from babelscope.terms import Edit, Unit, Where

FORMAT = 1
KEY = "babelscope"


@dataclass(frozen=True, eq=False)
class SavedEdit:
    """An edit with the facts it was fitted under: directions along which states are moved, or a region's values."""

    directions: tuple[Direction, ...] = ()
    mask: Tensor | None = None
    """[layer, neuron]"""
    values: Tensor | None = None
    """what the masked neurons are set to; None: their activations times `alpha`"""
    alpha: float = 1.0
    edit: Edit = "add"
    keep: bool = False
    unit: Unit = "gap"
    where: Where = "all"
    first: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    """model id and weight hash, corpus, documents, method, …"""

    def row_edit(self) -> RowEdit | None:
        """The edit of one condition in a batch of several; None where it leaves the model as it is."""
        if self.mask is not None:
            return region_edit(self.mask, self.values, self.alpha, self.where, self.first)
        return direction_edit(self.directions, self.alpha, self.edit, self.keep, self.unit, self.where, self.first)

    def check(self, model: Model) -> None:
        """Raises InputError where the model has another shape than the one that the edit was made for."""
        if self.mask is not None:
            model.layout.check(self.mask, model.id)
        for one in self.directions:
            if len(one.unit) != model.width or one.layer > model.layers:
                raise InputError(f"this edit is of width {len(one.unit)} at layer {one.layer}; {model.id} has width "
                                 f"{model.width} and {model.layers} layers")  # fmt: skip

    def stronger(self, alpha: float) -> SavedEdit:
        """The same edit with another strength."""
        return replace(self, alpha=alpha)

    @contextmanager
    def applied(self, model: Model) -> Generator[Flow]:
        """Inside, everything the model reads and writes is edited, also by plain `model.hf.generate`.

        Raises InputError for a model of another shape; EditNeverFired on leaving when the model was not called.
        """
        self.check(model)
        with edited_rows(model, [self.row_edit()]) as flow:
            yield flow


def save_edit(saved: SavedEdit, path: str | Path) -> None:
    """Write an edit to one file.

    >>> save_edit(SavedEdit((direction,), alpha=1.5), "fr.safetensors")            # doctest: +SKIP
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    told: list[dict[str, Any]] = []
    for place, one in enumerate(saved.directions):
        tensors[f"unit/{place}"] = one.unit.contiguous()
        if one.basis is not None:
            tensors[f"basis/{place}"] = one.basis.contiguous()
        numbers = {name: getattr(one, name) for name in ("gap", "at_source", "at_target", "norm")}
        told.append({"source": one.source, "target": one.target, "layer": one.layer, "method": one.method, **numbers})
    if saved.mask is not None:
        tensors["mask"] = saved.mask.to(torch.uint8).contiguous()
    if saved.values is not None:
        tensors["values"] = saved.values.contiguous()
    settings = {name: getattr(saved, name) for name in ("alpha", "edit", "keep", "unit", "where", "first")}
    head = {"format": FORMAT, "version": __version__, "directions": told, **settings, "facts": dict(saved.facts)}
    save_file(tensors, str(path), {KEY: json.dumps(head, ensure_ascii=False, sort_keys=True)})


def load_edit(path: str | Path) -> SavedEdit:
    """Read an edit; raises InputError for a file that is none, is damaged, or says impossible things."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            head = json.loads((file.metadata() or {})[KEY])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _made(head, tensors)
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a file of a steering edit: {type(error).__name__} {error}") from error


def _made(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedEdit:
    if head["format"] != FORMAT:
        raise ValueError(f"format {head['format']}, not {FORMAT}")
    if head["where"] not in WHERES or head["edit"] not in ("add", "move"):
        raise ValueError(f"edit {head['edit']!r} at {head['where']!r}")
    if not all(bool(torch.isfinite(one.float()).all()) for one in tensors.values()):
        raise ValueError("values that are not numbers")
    directions = tuple(
        Direction(
            str(one["source"]), str(one["target"]), int(one["layer"]), str(one["method"]), tensors[f"unit/{place}"],
            float(one["gap"]), float(one["at_source"]), float(one["at_target"]), float(one["norm"]),
            tensors.get(f"basis/{place}"),
        )
        for place, one in enumerate(head["directions"])
    )  # fmt: skip
    mask = tensors.get("mask")
    if not directions and mask is None:
        raise ValueError("neither a direction nor a region")
    return SavedEdit(
        directions, None if mask is None else mask.bool(), tensors.get("values"), float(head["alpha"]),
        head["edit"], bool(head["keep"]), cast("Unit", head["unit"]), head["where"],
        bool(head["first"]), dict(head["facts"]),
    )  # fmt: skip
