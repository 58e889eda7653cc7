"""Steering vectors and edits of regions as files: safetensors with their facts, no code; and a model under one.

with load_edit("fr.safetensors").applied(model):
    model.hf.generate(...)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from babelscope._version import __version__
from babelscope.errors import InputError
from babelscope.json_text import parse_json
from babelscope.models import Model
from babelscope.models.rows import WHERES, Flow, RowEdit, edited_rows
from babelscope.results.sealed import read_sealed, save_sealed
from babelscope.steering.directions import Direction
from babelscope.steering.edits import arithmetic_changes, direction_edit, region_edit
from babelscope.terms import Arithmetic, Edit, Unit, Where
from babelscope.wording import first_line

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
    off: Tensor | None = None
    """of language arithmetic: the source's neurons, set to 0; `mask` are the target's, `values` its means"""
    others: Tensor | None = None
    """of language arithmetic: means in the other languages"""
    arithmetic: Arithmetic | None = None
    """how language arithmetic raises the target's neurons; None: this is none"""
    alpha: float = 1.0
    edit: Edit = "add"
    keep: bool = False
    unit: Unit = "gap"
    where: Where = "all"
    first: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    """model id and weight hash, corpus, documents, method, …"""

    def row_edit(self) -> RowEdit | None:
        """The edit of one condition in a batch of several; None where it leaves the model as it is."""
        if self.arithmetic is not None:
            if self.mask is None or self.off is None or self.values is None or self.others is None:
                raise InputError("language arithmetic needs neurons of both languages and means of all")
            changes = arithmetic_changes(self.off, self.mask, self.values, self.others, self.alpha, self.arithmetic)
            return RowEdit(changes, self.where, self.first)
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
    tensors: dict[str, Tensor] = {}
    told: list[dict[str, object]] = []
    for place, one in enumerate(saved.directions):
        tensors[f"unit/{place}"] = one.unit.contiguous()
        if one.basis is not None:
            tensors[f"basis/{place}"] = one.basis.contiguous()
        numbers = {name: getattr(one, name) for name in ("gap", "at_source", "at_target", "norm")}
        told.append({"source": one.source, "target": one.target, "layer": one.layer, "method": one.method, **numbers})
    for name, part in (("mask", saved.mask), ("off", saved.off)):
        if part is not None:
            tensors[name] = part.to(torch.uint8).contiguous()
    if saved.others is not None:
        tensors["others"] = saved.others.contiguous()
    if saved.values is not None:
        tensors["values"] = saved.values.contiguous()
    settings = {
        name: getattr(saved, name) for name in ("alpha", "edit", "keep", "unit", "where", "first", "arithmetic")
    }
    head = {"format": FORMAT, "version": __version__, "directions": told, **settings, "facts": dict(saved.facts)}
    save_sealed(tensors, path, KEY, json.dumps(head, ensure_ascii=False, sort_keys=True))


def edit_names(files: Sequence[str | Path]) -> dict[str, Path]:
    """What each file of an edit is called in tables: its name without the ending; its path where two share one.

    >>> list(edit_names(["a/en-fr.safetensors", "b/en-fr.safetensors", "a/en-zh.safetensors"]))
    ['a/en-fr', 'b/en-fr', 'en-zh']
    """
    paths = list(dict.fromkeys(Path(file) for file in files))
    stems = Counter(path.stem for path in paths)
    return {path.stem if stems[path.stem] == 1 else str(path.with_suffix("")): path for path in paths}


def load_edit(path: str | Path) -> SavedEdit:
    """Read an edit; raises InputError for a file that is none, is damaged, or says impossible things."""
    from safetensors import SafetensorError

    try:
        text, tensors = read_sealed(path, KEY)
        return _made(parse_json(text, "its header"), tensors)
    except KeyError as error:
        raise InputError(f"{path} is not a file of a steering edit: it has no {error.args[0]!r}") from error
    # RuntimeError and OverflowError: tensors of types and sizes that torch does not have
    except (InputError, OSError, SafetensorError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path} is not a file of a steering edit: {first_line(error)}") from error


def _made(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedEdit:
    if head["format"] != FORMAT:
        raise ValueError(f"format {head['format']}, not {FORMAT}")
    for name, allowed in (("where", WHERES), ("edit", get_args(Edit)), ("unit", get_args(Unit))):
        if head[name] not in allowed:
            raise ValueError(f"{name} is {str(head[name])[:40]!r}, none of {', '.join(allowed)}")
    for name in ("keep", "first"):
        if not isinstance(head[name], bool):
            raise ValueError(f"{name} is {str(head[name])[:40]!r}, neither true nor false")
    if not all(bool(torch.isfinite(one.float()).all()) for one in tensors.values()):
        raise ValueError("values that are not numbers")
    directions = tuple(_direction(one, place, tensors) for place, one in enumerate(head["directions"]))
    mask, values = tensors.get("mask"), tensors.get("values")
    if not directions and mask is None:
        raise ValueError("neither a direction nor a region")
    if mask is not None and (mask.ndim != 2 or mask.is_floating_point() or bool(((mask != 0) & (mask != 1)).any())):
        raise ValueError("the mask is no [layer, neuron] of 0 and 1")
    off, others = tensors.get("off"), tensors.get("others")
    for name, part in (("values", values), ("others", others)):
        if part is not None and (mask is None or not part.is_floating_point() or part.shape != mask.shape):
            raise ValueError(f"the {name} do not belong to the mask")
    if off is not None and (mask is None or off.is_floating_point() or off.shape != mask.shape):
        raise ValueError("the neurons that are off do not belong to the mask")
    if head["arithmetic"] not in (None, *get_args(Arithmetic)):
        raise ValueError(f"arithmetic is {str(head['arithmetic'])[:40]!r}, none of {', '.join(get_args(Arithmetic))}")
    return SavedEdit(
        directions, None if mask is None else mask.bool(), values, None if off is None else off.bool(), others,
        head["arithmetic"], _number(head, "alpha"), head["edit"], bool(head["keep"]), cast("Unit", head["unit"]),
        head["where"], bool(head["first"]), dict(head["facts"]),
    )  # fmt: skip


def _direction(one: Mapping[str, Any], place: int, tensors: Mapping[str, Tensor]) -> Direction:
    unit, basis, layer = tensors[f"unit/{place}"], tensors.get(f"basis/{place}"), one["layer"]
    if unit.ndim != 1 or not unit.is_floating_point() or not abs(float(unit.double().norm()) - 1) < 1e-3:
        raise ValueError(f"direction {place} is no unit vector")
    if basis is not None and (basis.ndim != 2 or basis.shape[1] != len(unit) or not basis.is_floating_point()):
        raise ValueError(f"the components of direction {place} have another width")
    if type(layer) is not int or layer < 0:
        raise ValueError(f"layer {str(layer)[:40]!r} is no whole number from 0")
    for name in ("source", "target", "method"):
        if not isinstance(one[name], str):
            raise ValueError(f"the {name} of direction {place} is no text")
    gap, at_source, at_target, norm = (_number(one, name) for name in ("gap", "at_source", "at_target", "norm"))
    return Direction(
        one["source"], one["target"], layer, one["method"], unit, gap, at_source, at_target, norm, basis
    )  # fmt: skip


def _number(given: Mapping[str, object], name: str) -> float:
    """A finite number; true, false and texts are none."""
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"{name} is {str(value)[:40]!r}, which is no number")
    return float(value)
