"""Edits that put other values in the place of what heads, linear mixers and MLPs put out.

H head · E head width · D width
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from babelscope.circuits.core.nodes import MLP, Head, Mixer, check_nodes
from babelscope.circuits.core.residual import Values
from babelscope.models.hooks import Change, Site

if TYPE_CHECKING:
    from babelscope.models import Model

Part = Head | Mixer | MLP


def node_changes(model: Model, values: Values, nodes: Collection[Part]) -> dict[Site, Change]:
    """Edits that put `values` in the place of what `nodes` put out; raises InputError for nodes that do not exist."""
    check_nodes(model, nodes)
    heads: dict[int, list[int]] = {}
    for node in sorted(node for node in nodes if isinstance(node, Head)):
        heads.setdefault(node.layer, []).append(node.head)
    changes = {Site("z", layer): _heads_changed(values.z[layer], own) for layer, own in heads.items()}
    mlps = {node.layer for node in nodes if isinstance(node, MLP)}
    mixers = {node.layer for node in nodes if isinstance(node, Mixer)}
    changes |= {Site("state_write", layer): _write_changed(values.state[layer]) for layer in mixers}
    return changes | {Site("mlp_write", layer): _write_changed(values.mlp[layer]) for layer in mlps}


def _heads_changed(value: Float[Tensor, "*batch H E"], heads: list[int]) -> Change:
    def change(z: Tensor) -> Tensor:
        # a pass that was resumed sees the last positions only; a constant stands at every position
        other = value if value.dim() == 2 else value[:, -z.shape[1] :]
        changed = z.clone()
        changed[:, :, heads] = other.to(z).expand(z.shape)[:, :, heads]
        return changed

    return change


def _write_changed(value: Float[Tensor, "*batch D"]) -> Change:
    def change(written: Tensor) -> Tensor:
        other = value if value.dim() == 1 else value[:, -written.shape[1] :]
        return other.to(written).expand(written.shape).clone()

    return change
