"""Information flow routes: which heads and MLPs carry what arrives at END (section 5; Ferrando and Voita 2024).

Each layer's result is taken apart into what came from where,

    y_i = x_i + b_O + Σ_h Σ_{j≤i} f^h_ij,    f^h_ij = α^h_ij · (value of j at head h) W_O^h
    prox(u, y) = max(‖y‖₁ − ‖y − u‖₁, ε),    e(u) = prox(u) / Σ prox over all heads × positions and the residual

and routes are followed from END downwards along edges with e > τ. Only the positions that a route has reached are ever
taken apart, and f is made for few targets at a time: memory is O(T²·H), never T²·H·D. In parallel blocks attention and
MLP are parts of one sum; behind a post-norm parts are taken with the norm's statistics held.

P prompt · T position · D width · H query head · L layer
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core.batching import PROMPT
from babelscope.circuits.core.cache import attention_output
from babelscope.circuits.core.nodes import check_model
from babelscope.circuits.core.residual import attention_write, post_norm
from babelscope.circuits.heads.patterns import eager
from babelscope.errors import InputError, TaskError, UnsupportedModel
from babelscope.models.batches import over_batches
from babelscope.models.hooks import Kind, Site, capture

if TYPE_CHECKING:
    from babelscope.models import Batch, Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
EPSILON = 1e-5
THRESHOLD = 0.04
SWEEP = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1)
ELEMENTS = {"cpu": 2**18, "cuda": 2**25}
"""Numbers of f held at once: on CPU what stays in the cache."""


@dataclass(frozen=True)
class Parts:
    """Shares e of one layer at some targets of one prompt; `heads` and `residual` (and `mlp`, where it is a part of the
    same sum) add up to 1 for each target."""

    heads: Float[Tensor, "targets H T"]
    residual: Float[Tensor, " targets"]
    mlp: Float[Tensor, " targets"]
    """share of the MLP: of attention's sum in a parallel block, else of the sum behind it"""
    mid: Float[Tensor, " targets"] | None
    """share of what enters the MLP's sum; None in a parallel block"""


@dataclass(frozen=True)
class Layer:
    """What a layer's parts are made of, for one prompt."""

    entering: Float[Tensor, "T D"]
    values: Float[Tensor, "T K E"]
    patterns: Float[Tensor, "H T T"]
    attention: Float[Tensor, "T D"]
    """what attention writes"""
    mlp: Float[Tensor, "T D"]
    output: Float[Tensor, "H E D"]
    direction: Float[Tensor, " D"] | None
    """of a post-norm: the weight that every part is multiplied by"""
    centred: bool
    scale: Float[Tensor, " T"] | None
    """of a post-norm: the factor at each target"""
    parallel: bool


@dataclass(frozen=True)
class Routes:
    """Which heads and MLPs are on each prompt's routes, at each threshold."""

    heads: Bool[NDArray[np.bool_], "thresholds P L H"]
    mlps: Bool[NDArray[np.bool_], "thresholds P L"]
    strength: Float[Array, "P L H"]
    """largest e of the head's edges on the routes of the lowest threshold; 0 where it has none"""
    thresholds: tuple[float, ...]
    settings: dict[str, object] = field(default_factory=dict[str, object])

    def used(self, threshold: float = THRESHOLD) -> Bool[NDArray[np.bool_], "P L H"]:
        """Heads on each prompt's routes; raises InputError for a threshold that was not swept."""
        if threshold not in self.thresholds:
            raise InputError(
                f"no routes at τ = {threshold:g}; they were taken at {', '.join(map(str, self.thresholds))}"
            )
        return self.heads[self.thresholds.index(threshold)]

    def frequency(self, threshold: float = THRESHOLD) -> Float[Array, "L H"]:
        """Head activation frequency: share of prompts in which some edge of the head is on a route."""
        return self.used(threshold).mean(0)

    def mlp_frequency(self, threshold: float = THRESHOLD) -> Float[Array, " L"]:
        """The same for MLPs."""
        self.used(threshold)
        return self.mlps[self.thresholds.index(threshold)].mean(0)


@torch.no_grad()
def flow_routes(
    model: Model,
    prompts: Sequence[PromptPair] | Sequence[Sequence[int]],
    thresholds: Sequence[float] = (THRESHOLD,),
    epsilon: float = EPSILON,
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
) -> Routes:
    """Routes into the last token of each prompt (of pairs: of the clean prompts).

    Raises TaskError without prompts, InputError for thresholds outside (0, 1), UnsupportedModel where writes do not
    add up or the eager attention does not give the patterns that the heads' outputs are made with.

    >>> routes = flow_routes(model, prompts, thresholds=SWEEP)                           # doctest: +SKIP
    >>> routes.frequency(0.04).shape                                                     # doctest: +SKIP
    (4, 8)
    """
    check_model(model)
    _check_attention(model)
    taus = tuple(sorted(thresholds))
    if not taus or not all(0 < tau < 1 for tau in taus):
        raise InputError(f"thresholds of routes lie between 0 and 1, got {', '.join(map(str, thresholds)) or 'none'}")
    sequences = [list(prompt if isinstance(prompt, Sequence) else prompt.clean) for prompt in prompts]
    if not sequences:
        raise TaskError("no prompt was given")
    model.check_length(max(map(len, sequences)), PROMPT)
    count = len(sequences)
    heads = np.zeros((len(taus), count, model.layers, model.heads), dtype=bool)
    mlps = np.zeros((len(taus), count, model.layers), dtype=bool)
    strength = np.zeros((count, model.layers, model.heads))

    def work(batch: Batch) -> None:
        seen = _record(model, batch.ids, batch.mask)
        for place, (row, length) in enumerate(zip(batch.rows, batch.lengths.tolist())):
            _follow(model, seen, place, length, taus, epsilon, (heads[:, row], mlps[:, row], strength[row]))

    with eager(model):
        over_batches(sequences, work, model.device, budget, done)
    settings: dict[str, object] = dict(epsilon=epsilon, prompts=count, thresholds=list(taus))
    return Routes(heads, mlps, strength, taus, settings)


def _check_attention(model: Model) -> None:
    """Routes take the attention of every layer apart into heads × positions, which not every layer allows."""
    if model.mixer_layers:
        layer = model.mixer_layers[0]
        raise UnsupportedModel(f"routes need heads in every layer: layer {layer} of {model.id} has a linear mixer")
    without = sorted({*range(model.layers)} - {*model.neuron_layers})
    if without:
        raise UnsupportedModel(f"routes need an MLP in every layer: layer {without[0]} of {model.id} has none")
    if model.family.head_gates:
        raise UnsupportedModel(
            f"routes are sums of patterns times values: heads of {model.id} are multiplied by gates in layer 0"
        )


@dataclass(frozen=True)
class _Seen:
    at: dict[Site, Tensor]
    patterns: Sequence[Float[Tensor, "N H T T"]]


def _record(model: Model, ids: Int[Tensor, "N T"], mask: Tensor | None = None) -> _Seen:
    kinds: tuple[Kind, ...] = ("residual", "v", "z", "mlp_write")
    sites = [Site(kind, layer) for layer in range(model.layers) for kind in kinds]
    with capture(model, sites) as seen:
        output = model.trunk_module(
            input_ids=ids, attention_mask=mask, output_attentions=True, use_cache=False, return_dict=True
        )
    patterns = output.attentions
    if not patterns or any(pattern is None for pattern in patterns):
        raise UnsupportedModel(f"{model.id}: its eager attention returns no patterns, which routes need")
    group = model.heads // model.kv_heads
    real = slice(None) if mask is None else mask.bool()
    for layer, pattern in enumerate(patterns):
        values = seen[Site("v", layer)].repeat_interleave(group, dim=-2)
        made = torch.einsum("nhij,njhe->nihe", pattern.to(values.dtype), values)
        error = float((made - seen[Site("z", layer)])[real].abs().max())
        if error > 0.02 * max(1e-6, float(made.abs().max())):
            raise UnsupportedModel(f"{model.id}: patterns times values are not its heads' outputs (off by {error:.1e})")
    return _Seen(dict(seen), patterns)


def layer_of(model: Model, seen: _Seen, layer: int, place: int, length: int) -> Layer:
    """One layer of one prompt, without the padding; in float32 at least, since prox is a difference of long sums."""
    at = slice(0, length)
    z = seen.at[Site("z", layer)][place, at]
    wide = torch.promote_types(z.dtype, torch.float32)
    norm = post_norm(model, layer)
    scale = None if norm is None else norm.scale(attention_output(model, layer, z))[:, 0]
    return Layer(
        entering=seen.at[Site("residual", layer)][place, at].to(wide),
        values=seen.at[Site("v", layer)][place, at].to(wide),
        patterns=seen.patterns[layer][place, :, at, at],
        attention=attention_write(model, layer, z).to(wide),
        mlp=seen.at[Site("mlp_write", layer)][place, at].to(wide),
        output=(model.output_weight(layer) * model.scales.attention[layer]).to(wide),
        direction=None if norm is None else norm.gain.to(wide),
        centred=norm is not None and norm.centred,
        scale=scale,
        parallel=model.family.parallel,
    )


# -- taking one layer apart -----------------------------------------------------------------------------------------


def shares(layer: Layer, targets: Sequence[int], epsilon: float = EPSILON) -> Parts:
    """e of every part at some targets."""
    chosen = torch.tensor(list(targets), device=layer.entering.device)
    entering, attention, mlp = layer.entering[chosen], layer.attention[chosen], layer.mlp[chosen]
    mid = entering + attention
    whole = mid + mlp if layer.parallel else mid
    heads = head_proximities(layer, whole, chosen, epsilon)
    residual = _proximity(entering, whole, epsilon)
    if layer.parallel:
        feed = _proximity(mlp, whole, epsilon)
        total = heads.sum((1, 2)) + residual + feed
        return Parts(heads / total[:, None, None], residual / total, feed / total, None)
    total = heads.sum((1, 2)) + residual
    out = mid + mlp
    feed, through = _proximity(mlp, out, epsilon), _proximity(mid, out, epsilon)
    both = feed + through
    return Parts(heads / total[:, None, None], residual / total, feed / both, through / both)


def head_proximities(
    layer: Layer, whole: Float[Tensor, "targets D"], targets: Int[Tensor, " targets"], epsilon: float
) -> Float[Tensor, "targets H T"]:
    """prox(f^h_ij, y_i) for all heads and source positions, a few targets at a time; 0 where j > i."""
    heads, length, width = len(layer.output), len(layer.entering), whole.shape[-1]
    group = heads // layer.values.shape[1]
    norms = whole.abs().sum(-1)
    found = whole.new_zeros(len(targets), heads, length)
    weights = layer.patterns[:, targets].to(whole.dtype)  # [H, targets, T]
    if layer.scale is not None:
        weights = weights * layer.scale[targets].to(whole.dtype)[None, :, None]
    step = max(1, ELEMENTS.get(whole.device.type, 2**18) // (length * width))
    buffer = whole.new_empty(min(step, len(targets)) * length * width)
    for head in range(heads):
        spread = layer.values[:, head // group] @ layer.output[head].to(whole.device)  # [T, D]
        if layer.centred:
            spread = spread - spread.mean(-1, keepdim=True)
        if layer.direction is not None:
            spread = spread * layer.direction
        for start in range(0, len(targets), step):
            part = slice(start, min(start + step, len(targets)))
            last = int(targets[part].max()) + 1
            rest = buffer[: (part.stop - start) * last * width].view(part.stop - start, last, width)
            torch.mul(weights[head, part, :last, None], spread[None, :last], out=rest)
            torch.sub(whole[part, None, :], rest, out=rest)
            found[part, head, :last] = norms[part, None] - torch.linalg.vector_norm(rest, ord=1, dim=-1)
    found.clamp_(min=epsilon)
    later = torch.arange(length, device=targets.device)[None] > targets[:, None]
    return found.masked_fill_(later[:, None], 0)


def _proximity(part: Float[Tensor, "*batch D"], whole: Float[Tensor, "*batch D"], epsilon: float) -> Tensor:
    return (whole.abs().sum(-1) - (whole - part).abs().sum(-1)).clamp(min=epsilon)


# -- following the routes -------------------------------------------------------------------------------------------

_Into = tuple[NDArray[np.bool_], NDArray[np.bool_], Array]


def _follow(
    model: Model, seen: _Seen, place: int, length: int, taus: Sequence[float], epsilon: float, into: _Into
) -> None:
    """Mark the heads and MLPs of one prompt, layer by layer downwards, at all thresholds together."""
    heads, mlps, strength = into
    active = torch.zeros(len(taus), length, dtype=torch.bool, device=model.device)
    active[:, -1] = True
    levels = torch.tensor(taus, device=model.device)[:, None]
    for layer in reversed(range(model.layers)):
        reached = active.any(0).nonzero()[:, 0]
        parts = shares(layer_of(model, seen, layer, place, length), reached.tolist(), epsilon)
        here = active[:, reached]  # [thresholds, targets]
        feed = here & (parts.mlp > levels)
        mlps[:, layer] = feed.any(1).cpu().numpy()
        if parts.mid is not None:
            here = feed | (here & (parts.mid > levels))
        edges = (parts.heads > levels[:, :, None, None]) & here[:, :, None, None]  # [thresholds, targets, H, T]
        heads[:, layer] = edges.any(3).any(1).cpu().numpy()
        strength[layer] = torch.where(edges[0], parts.heads, 0).amax((0, 2)).double().cpu().numpy()
        active = edges.any(2).any(1)
        onward = here & (parts.residual > levels)
        if parts.mid is None:
            onward |= feed  # in a parallel block the MLP reads what entered the block
        active[:, reached] |= onward
