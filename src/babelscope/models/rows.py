"""Edits of single rows of a batch: several conditions stand in one batch, each row under its own edit.

Where a token stands is read off the pass itself (its attention mask and cache), so the same edits hold in our own
decoding, in teacher-forced scoring and in plain `model.hf.generate`.

B row · T position
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from babelscope.errors import InputError
from babelscope.models.aside import standing
from babelscope.models.families import find
from babelscope.models.hooks import Change, Site, edit
from babelscope.terms import Where

if TYPE_CHECKING:
    from babelscope.models.model import Model

WHERES: tuple[Where, ...] = ("all", "generated", "prompt")


@dataclass(frozen=True, eq=False)
class RowEdit:
    """What is changed in every row of one condition; each change is made token by token."""

    changes: Mapping[Site, Change]
    where: Where = "all"
    """`generated`: the last token of the prompt and all after it; `prompt`: the prompt, its last token included"""
    first: bool = False
    """whether the first real token is changed too (a massive activation often stands there)"""

    def __post_init__(self) -> None:
        if self.where not in WHERES:
            raise InputError(f"an edit is made at {', '.join(WHERES)}, not at {self.where!r}")


@dataclass
class Flow:
    """The tokens of the running pass: which condition each row is under, and where each token stands."""

    rows: Int[Tensor, " B"] | None = None
    """condition of each row; None: all rows are under the first"""
    prompt: Int[Tensor, " B"] | None = None
    """tokens of each row's prompt; None: all that a pass without cache holds"""
    places: Int[Tensor, "B T"] = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    """place in the row's own text; −1: padding"""
    lengths: Int[Tensor, " B"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    edited: Counter[int] = field(default_factory=Counter[int])
    """tokens changed so far, by condition: an edit that changed none is an error of whoever asked for it"""

    def touched(self, one: RowEdit) -> Bool[Tensor, "B T"]:
        """The tokens that an edit changes, whatever row they are in."""
        start = self.places >= (0 if one.first else 1)
        if one.where == "all":
            return start
        prompt = self.lengths[:, None]
        if one.where == "prompt":
            return start & (self.places < prompt)
        return (self.places >= prompt - 1) & start

    def read(self, ids: Tensor, mask: object, past: int) -> None:
        """Take note of a pass over `ids` after `past` cached positions."""
        batch, length = ids.shape[:2]
        if isinstance(mask, Tensor) and mask.dim() == 2:
            mask = mask[:, : past + length]
            places = (mask.cumsum(1) - 1).masked_fill(mask == 0, -1)
        else:
            places = torch.arange(past + length, device=ids.device).expand(batch, -1)
        if self.prompt is not None:
            self.lengths = self.prompt
        elif past == 0:
            self.lengths = places.amax(1) + 1
        self.places = places[:, past:]


@contextmanager
def edited_rows(model: Model, conditions: Sequence[RowEdit | None], flow: Flow | None = None) -> Generator[Flow]:
    """Inside, each row of a batch is edited as the condition says that `flow.rows` names for it; None: not at all.

    Tokens that an edit leaves alone are selected, not multiplied by 0, so they stay as they are to the byte.
    Raises EditNeverFired on leaving when a site was never reached, AlreadyEdited inside another edit.

    >>> with edited_rows(model, [None, RowEdit({Site("residual", 3): change})]) as flow:   # doctest: +SKIP
    ...     flow.rows = torch.tensor([0, 1])
    ...     model.trunk(ids)
    """
    flow = flow or Flow()
    by_site: dict[Site, list[tuple[int, RowEdit]]] = {}
    for place, one in enumerate(conditions):
        for site in () if one is None else one.changes:
            assert one is not None
            by_site.setdefault(site, []).append((place, one))
    if not by_site:
        yield flow
        return
    changes = {site: _stacked(site, found, flow) for site, found in by_site.items()}
    with _noted(_trunk(model), flow), edit(model, changes, exclusive=True):
        yield flow


def _stacked(site: Site, found: Sequence[tuple[int, RowEdit]], flow: Flow) -> Change:
    def change(value: Tensor) -> Tensor:
        out = value.clone()
        for place, one in found:
            touched = flow.touched(one)
            if flow.rows is None:
                rows = torch.arange(len(value) if place == 0 else 0)
            else:
                rows = (flow.rows == place).nonzero()[:, 0]
            touched = touched[rows.to(touched.device)]
            count = int(touched.sum())
            flow.edited[place] += count
            if count:
                rows = rows.to(value.device)
                out[rows] = _selected(value[rows], one.changes[site], touched)
        return out

    return change


def _selected(value: Tensor, change: Change, touched: Bool[Tensor, "B T"]) -> Tensor:
    shape = (*touched.shape, *([1] * (value.dim() - 2)))
    return torch.where(touched.reshape(shape).to(value.device), change(value).to(value.dtype), value)


def _trunk(model: Model) -> nn.Module:
    """The module that holds the blocks: some models call it past the one around it."""
    trunk = find(model.hf, model.family.blocks.rpartition(".")[0])
    assert trunk is not None
    return trunk


@contextmanager
def _noted(trunk: nn.Module, flow: Flow) -> Generator[None]:
    """Read ids, mask and cache length of every pass through the trunk into `flow`."""
    names = list(inspect.signature(trunk.forward).parameters)
    owner = standing()

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        # a pass of another thread is not ours, and may meet the hook before torch knows that it takes keywords
        if kwargs is None or standing() != owner:
            return
        given = {**dict(zip(names, args)), **kwargs}
        ids = given.get("input_ids")
        ids = ids if ids is not None else given["inputs_embeds"]
        cache = given.get("past_key_values")
        flow.read(ids, given.get("attention_mask"), 0 if cache is None else int(cache.get_seq_length()))

    handle = trunk.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def conditions_of(count: int, rows: Sequence[int], device: torch.device) -> Int[Tensor, " B"]:
    """The condition of each row of a batch; raises InputError for one that is not there."""
    wrong = [row for row in rows if not 0 <= row < count]
    if wrong:
        raise InputError(f"no condition {wrong[0]}: there are {count}")
    return torch.tensor(list(rows), dtype=torch.long, device=device)
