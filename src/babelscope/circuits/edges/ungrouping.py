"""A grouped-query model with keys and values of its own for every query head, so that edges are counted as MIB does.

The benchmark takes an edge into the key and value of each query head. In a grouped model several query heads share one
projection, and native edges are edges into that. Written out once for every head it serves, the same weights compute
the same function, and each query head's key and value can be fed by itself.

H query head · K key/value head
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from babelscope.errors import UnsupportedModel

if TYPE_CHECKING:
    from babelscope.models import Model


@torch.no_grad()
def ungrouped(model: Model) -> Model:
    """The same model without grouped queries; other weights are shared with it, not copied.

    Returns the model itself where nothing is grouped. Raises UnsupportedModel where keys and values are no projections
    of their own, or a norm stands over all key heads at once.
    """
    from babelscope.models import Model as Wrapped
    from babelscope.models.families import find

    if model.mixer_layers:
        layer = model.mixer_layers[0]
        raise UnsupportedModel(f"{model.id}: edges cannot be counted by query head, layer {layer} has a linear mixer")
    if model.heads == model.kv_heads:
        return model
    group = model.heads // model.kv_heads
    own = {id(value): value for value in (*model.hf.parameters(), *model.hf.buffers())}
    hf = copy.deepcopy(model.hf, own)
    hf.config.num_key_value_heads = model.heads
    for block in Wrapped(hf, model.tokenizer, id=model.id).blocks:
        attention = None
        for path in model.family.qkv[1:] if len(model.family.qkv) == 3 else ():
            module = find(block, path)
            name, _, leaf = path.rpartition(".")
            attention = find(block, name)
            if not isinstance(module, nn.Linear) or attention is None:
                raise UnsupportedModel(_refused(model))
            setattr(attention, leaf, _repeated(module, model.kv_heads, group))
        if attention is None or not hasattr(attention, "num_key_value_groups") or _wide_norm(model, block):
            raise UnsupportedModel(_refused(model))
        setattr(attention, "num_key_value_groups", 1)  # noqa: B010 - a plain number, no module
        if hasattr(attention, "num_key_value_heads"):
            setattr(attention, "num_key_value_heads", model.heads)  # noqa: B010 - a plain number, no module
    return Wrapped(hf, model.tokenizer, id=model.id)


def _repeated(module: nn.Linear, heads: int, group: int) -> nn.Linear:
    """A projection to `heads` heads, each of them written `group` times in a row."""

    def spread(value: torch.Tensor) -> nn.Parameter:
        rows = value.unflatten(0, (heads, -1)).repeat_interleave(group, dim=0).flatten(0, 1)
        return nn.Parameter(rows, requires_grad=value.requires_grad)

    bias: nn.Parameter | None = getattr(module, "bias", None)
    wide = nn.Linear(module.in_features, module.out_features * group, bias=bias is not None, device="meta")
    wide.weight = spread(module.weight)
    if bias is not None:
        wide.bias = spread(bias)
    return wide


def _wide_norm(model: Model, block: nn.Module) -> bool:
    """Whether keys go through one norm over all heads (OLMo 2), whose gain belongs to the heads as they were."""
    from babelscope.models.families import find

    norm = find(block, model.family.qk_norms[1]) if model.family.qk_norms else None
    weight = getattr(norm, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.numel() != model.head_width


def _refused(model: Model) -> str:
    return (
        f"{model.id}: keys and values are not projections of their own, so edges cannot be counted by query head; "
        "use edges=native"
    )
