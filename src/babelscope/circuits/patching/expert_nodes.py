"""Experts of a mixture as senders: what one expert writes, patched from another run (models.md, section 2).

A layer's mixture writes Σ_e w_e · out_e and what stands beside. Under `frozen` routing an expert keeps the tokens and
the weights that it has in the base run, and its output is what it makes of the source run's input. Under `free` routing
it writes what it wrote in the source run, where it may have had other tokens and weights: then the changes of all
experts and of what stands beside them add up to the mixture's.

S sender · N row · P patched position · M = N · P token · D width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.circuits.core.cache import Recorded, Runs, take
from babelscope.errors import UnsupportedModel
from babelscope.models.experts import Routed, attach, expert_output
from babelscope.models.families import find
from babelscope.models.norms import plain

if TYPE_CHECKING:
    from babelscope.models import Model

Routing = Literal["frozen", "free"]


@dataclass(frozen=True)
class _Mixed:
    """A mixture of one run at the patched positions."""

    inputs: Float[Tensor, "M D"]
    pairs: Routed
    written: Float[Tensor, "M D"]
    """by the whole mixture, before a post-norm"""


def expert_changes(
    model: Model, runs: Runs, layer: int, experts: Sequence[int], positions: Int[Tensor, "N P"], routing: Routing
) -> Float[Tensor, "S N P D"]:
    """How the write of a layer's mixture changes, each expert patched by itself.

    Raises UnsupportedModel where the mixture reads or writes otherwise than its layer's norm and stream say.
    """
    base, source = (_mixed(model, run, layer, positions) for run in (runs.base, runs.source))
    changes: list[Tensor] = []
    for expert in experts:
        made = source.inputs if routing == "frozen" else None
        change = _contribution(model, layer, expert, base, made)
        if routing == "free":
            change = _contribution(model, layer, expert, source, None)
        changes.append(change - _contribution(model, layer, expert, base, None))
    post, factor = _post_norm(model, layer), model.scales.mlp[layer]
    if post is not None:
        before = plain(post, base.written)
        changes = [plain(post, base.written + change) - before for change in changes]
    return torch.stack(changes).unflatten(1, positions.shape) * factor


def _contribution(
    model: Model, layer: int, expert: int, run: _Mixed, inputs: Float[Tensor, "M D"] | None
) -> Float[Tensor, "M D"]:
    """Weight times output of an expert at its tokens in a run, made of other inputs where they are given."""
    rows = run.pairs.experts == expert
    tokens, weights = run.pairs.tokens[rows], run.pairs.weights[rows]
    output = expert_output(model.mixtures[layer], expert, (run.inputs if inputs is None else inputs)[tokens])
    written = (output * weights[:, None]).to(run.inputs.dtype)
    return torch.zeros_like(run.inputs).index_add(0, tokens, written)


def _mixed(model: Model, run: Recorded, layer: int, positions: Int[Tensor, "N P"]) -> _Mixed:
    """The mixture run by itself on what it read, which is the norm of the stream before its write."""
    mixture = model.mixtures[layer]
    stream = run.residual[layer] if model.family.parallel else run.residual[layer + 1] - run.mlp[layer]
    norm = model.norm("mlp", layer)
    read = take(stream if norm is None else plain(norm, stream), positions)
    seen: list[Routed] = []

    def keep(pairs: Routed) -> None:
        seen.append(pairs)

    handle = attach(mixture, keep)
    try:
        output: Tensor | tuple[Tensor, ...] = mixture.mlp(read)
    finally:
        handle.remove()
    written = output[0] if isinstance(output, tuple) else output
    post = _post_norm(model, layer)
    whole = (written if post is None else plain(post, written)) * model.scales.mlp[layer]
    wanted = take(run.mlp[layer], positions)
    error = float((whole.reshape(wanted.shape) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
    if not error <= (1e-3 if model.dtype in (torch.float32, torch.float64) else 0.05):
        raise UnsupportedModel(
            f"experts of layer {layer} of {model.id} cannot be senders: its mixture by itself misses what the layer "
            f"writes by {error:.0%}"
        )
    return _Mixed(read.flatten(0, 1), seen[0], written.reshape(-1, written.shape[-1]))


def _post_norm(model: Model, layer: int) -> nn.Module | None:
    """The norm between a mixture and the stream, if its family has one."""
    found = find(model.blocks[layer], model.family.mlp_write)
    return None if found is None or found is model.mixtures[layer].mlp else found
