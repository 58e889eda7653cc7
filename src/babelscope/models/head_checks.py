"""Checks of attention and linear mixers: what we take for heads, queries, keys and values is what the model computes.

Each gives a largest relative difference that shall be nearly 0; `babelscope.models.conformance` says when one is asked.

B batch · T position · D model width · H query head · K key/value head · E head width
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from babelscope.errors import UnsupportedModel
from babelscope.models.families import find
from babelscope.models.hooks import Change, Location, Reading, Site, capture, edit, hooked
from babelscope.models.mixture_checks import difference
from babelscope.models.model import Model
from babelscope.models.places import matrix
from babelscope.models.projections import project


def projected(model: Model, path: str, site: Site, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What stands at a site, and what the projection that reads it puts out.

    Raises UnsupportedModel where the projection is computed more than once in a pass, or never.
    """
    projection = find(model.blocks[site.layer], path)
    assert projection is not None
    outputs: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        outputs.append(output.clone())

    handle = projection.register_forward_hook(keep)
    try:
        with capture(model, [site]) as seen:
            model.trunk(ids)
    finally:
        handle.remove()
    if len(outputs) != 1:
        times = f"{len(outputs)} times" if outputs else "never"
        raise UnsupportedModel(f"{path} of layer {site.layer} is computed {times} in a pass, not once")
    return seen[site], outputs[0]


def head_shapes(model: Model, _: Tensor) -> float:
    """Every layer has the heads that the configuration states, of one width, and projections that make them.

    Raises UnsupportedModel with the layer that has others (Gemma 4: wider heads, or fewer, in some of its layers).
    """
    try:
        heads, keys, width = model.heads, model.kv_heads, model.head_width
    except (AttributeError, RuntimeError) as error:  # what differs by layer has no value for all of them
        raise UnsupportedModel("the configuration states no one number of heads for all layers") from error
    for layer in _attending(model):
        units = _rows(model, model.family.attention_output, layer, output=False)
        if units != heads * width:
            raise UnsupportedModel(
                f"layer {layer} has heads of {units} units in all, layer {model.attention_layers[0]} {heads} heads of "
                f"{width}"
            )
        if model.family.layout in ("blocks", "grouped", "codegen"):
            made, needed = _rows(model, model.family.qkv[0], layer, output=True), (heads + 2 * keys) * width
            if made < needed:
                raise UnsupportedModel(
                    f"{model.family.qkv[0]} of layer {layer} has {made} rows; queries, keys and values need {needed}"
                )
        if model.family.layout != "separate":
            continue
        rows = [_rows(model, path, layer, output=True) for path in model.family.qkv]
        query = rows[0] // heads // (2 if model.family.query_gates else 1)
        for path, made, count, wide in zip(model.family.qkv[1:], rows[1:], (keys, keys), (query, width)):
            if made != count * wide:
                raise UnsupportedModel(f"{path} of layer {layer} makes {made} rows, not {count} heads of {wide}")
    return 0.0


def _rows(model: Model, path: str, layer: int, output: bool) -> int:
    return matrix(model.part(path, layer)).shape[0 if output else 1]


def head_weights(model: Model, ids: Tensor) -> float:
    """Heads times W_O plus the bias are what attention's output projection puts out: its weight is its linear map."""
    errors: list[float] = []
    for layer in _attending(model):
        heads, output = projected(model, model.family.attention_output, Site("z", layer), ids)
        made = torch.einsum("nthe,hed->ntd", heads, model.output_weight(layer))
        bias = model.bias("attention_output", layer)
        errors.append(difference(made if bias is None else made + bias, output.reshape(made.shape)))
    return max(errors)


def projection_weights(model: Model, ids: Tensor) -> float:
    """What a block's attention reads, times W_Q, W_K, W_V (by way of the latents, if any), is what its heads are hooked
    at (but norms)."""
    behind = (("v",) if model.family.value_norm else ()) + (("q", "k") if model.family.qk_norms else ())
    kinds: list[Reading] = [kind for kind in model.readings if kind not in behind]
    errors: list[float] = []
    for layer in _attending(model):
        sites = [Site("attention_in", layer), *(Site(kind, layer) for kind in kinds)]
        with capture(model, sites) as seen:
            model.trunk(ids)
        for kind in kinds:
            made = project(model, kind, layer, seen[Site("attention_in", layer)])
            errors.append(difference(made, seen[Site(kind, layer)]))
    return max(errors)


def value_layout(model: Model, ids: Tensor) -> float:
    """With one token, every head's output is its (shared) value vector, or a share of it where attention may also
    look at nothing (a sink): the v rows and the grouping are right."""
    if model.family.head_gates:
        return _gated_value_layout(model, ids)
    sites = [site for layer in _attending(model) for site in (Site("v", layer), Site("z", layer))]
    with capture(model, sites) as seen:
        model.trunk(ids[:, :1])
    group = model.heads // model.kv_heads
    errors: list[float] = []
    for layer in model.attention_layers:
        values = seen[Site("v", layer)].float().repeat_interleave(group, dim=-2)
        heads = seen[Site("z", layer)].float()
        share = (heads * values).sum(-1, keepdim=True) / values.square().sum(-1, keepdim=True).clamp_min(1e-30)
        errors.append(difference(values * share.clamp(0, 1), heads))
    return max(errors)


def _gated_value_layout(model: Model, ids: Tensor) -> float:
    """Behind gates, a head's output follows its (shared) value unit by unit: other values, z′/z = v′/v at every unit.

    Gates are made of what attention reads, which other values in its own layer leave alone.
    """
    group = model.heads // model.kv_heads
    errors: list[float] = []
    for layer in _attending(model):
        own, site = Site("v", layer), Site("z", layer)
        found: list[tuple[Tensor, Tensor]] = []
        for phase in (3.0, 4.0):
            noise = _noise(phase)
            with edit(model, {own: noise}), capture(model, [own, site]) as seen:
                model.trunk(ids[:, :1])
            found.append((noise(seen[own]).float().repeat_interleave(group, dim=-2), seen[site].float()))
        (value, head), (other, changed) = found
        errors.append(difference(head * other, changed * value))
    return max(errors)


def query_key_layout(model: Model, ids: Tensor) -> float:
    """Changing one head's query (or key) moves that head's output (or its group's), and no other's.

    In a layer whose queries, keys and values are noise, so that heads that were never trained answer too.
    """
    group, layer = model.heads // model.kv_heads, _attending(model)[-1]
    site = Site("z", layer)
    phases: dict[Reading, float] = {"q": 1.0, "k": 2.0, "v": 3.0}
    noise: dict[Site, Change] = {Site(kind, layer): _noise(phase) for kind, phase in phases.items()}
    with edit(model, noise), capture(model, [site]) as base:
        model.trunk(ids)
    worst = 0.0
    for place, count, members in ((Site("q", layer), model.heads, 1), (Site("k", layer), model.kv_heads, group)):
        for head in {0, count - 1}:
            with edit(model, noise | {place: _noise(5.0, noise[place], head)}), capture(model, [site]) as seen:
                model.trunk(ids)
            moved = (seen[site] - base[site]).abs().amax(dim=(0, 1, 3))
            mine = torch.zeros_like(moved, dtype=torch.bool)
            mine[head * members : (head + 1) * members] = True
            worst = max(worst, float(moved[~mine].max()) if (~mine).any() else 0.0)
            if not bool((moved[mine] > 1e-5).all() and moved.isfinite().all()):
                return float("inf")
    return worst


def _noise(phase: float, before: Change | None = None, head: int | None = None) -> Change:
    """A change that puts numbers without pattern in the place of a value, or of one head after another change."""

    def change(value: Tensor) -> Tensor:
        steps = torch.arange(value[0].numel(), device=value.device, dtype=torch.float64)
        made = (steps * 12.9898 + phase).sin().mul(43758.5453).frac().mul(2).reshape(value.shape[1:]).to(value.dtype)
        made = made.expand_as(value)
        if before is None or head is None:
            return made.clone()
        changed = before(value)
        changed[..., head, :] = made[..., head, :]
        return changed

    return change


def head_ablation(model: Model, ids: Tensor) -> float:
    """Zeroing a head by a hook equals zeroing its columns of W_O in a copy of the block's projection."""
    layer, head = _attending(model)[len(model.attention_layers) // 2], model.heads - 1

    def zero(value: Tensor) -> Tensor:
        value = value.clone()
        value[..., head, :] = 0
        return value

    with edit(model, {Site("z", layer): zero}):
        hooked = model.trunk(ids)
    columns = slice(head * model.head_width, (head + 1) * model.head_width)
    return difference(hooked, _without(model, layer, model.family.attention_output, ids, columns))


def mixer_ablation(model: Model, ids: Tensor) -> float:
    """Zeroing what a linear mixer puts out by a hook equals zeroing the weights of its output projection."""
    errors = [0.0]
    for layer in model.mixer_layers:
        row = model.family
        # before a norm that stands behind it, which may make something of nothing
        place = Location(model.part(row.state_output, layer), "output")
        with hooked([(place, torch.zeros_like, True)]):
            silent = model.trunk(ids)
        errors.append(difference(silent, _without(model, layer, row.state_output, ids)))
    return max(errors)


def _without(model: Model, layer: int, path: str, ids: Tensor, columns: slice | None = None) -> Tensor:
    """The trunk with some input columns of a projection zeroed (all of them and its bias, unless given)."""
    projection = find(model.blocks[layer], path)
    assert projection is not None
    whole, bias = projection.weight, getattr(projection, "bias", None)
    assert isinstance(whole, torch.nn.Parameter)
    edited = copy.deepcopy(whole)
    with torch.no_grad():
        view = edited.T if matrix(projection) is not whole else edited
        view[:, slice(None) if columns is None else columns] = 0
    projection.weight = edited
    if columns is None and bias is not None:
        setattr(projection, "bias", None)  # noqa: B010 - its declared type knows no None
    try:
        return model.trunk(ids)
    finally:
        projection.weight = whole
        if bias is not None:
            projection.bias = bias


def _attending(model: Model) -> tuple[int, ...]:
    """Layers with heads; raises UnsupportedModel where there are none, as a circuit is one of heads."""
    if not model.attention_layers:
        raise UnsupportedModel("no layer has heads")
    return model.attention_layers
