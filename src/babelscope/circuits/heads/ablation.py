"""Taking parts out of a model: what an ablated head or MLP says instead, for any set of nodes (section 6).

P pair · N row · T position · H head · E head width · D width
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import Recorded, Runs, run
from babelscope.circuits.core.nodes import MLP, Head, check_model, check_nodes
from babelscope.circuits.patching.path_passes import to_the_end
from babelscope.errors import InputError
from babelscope.models.batches import token_budget
from babelscope.models.hooks import Change, Site, edit

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Part = Head | MLP
Key = tuple[str, str, int, int]


class Ablation(StrEnum):
    """What stands in the place of an ablated node's output."""

    ZERO = "zero"
    """nothing"""
    MEAN = "mean"
    """its mean over the reference prompts of the same template, order and length, position by position"""
    RESAMPLE = "resample"
    """its output on the corrupted twin"""
    OPTIMAL = "optimal"
    """one constant per node, found by gradient descent on the divergence from the whole model"""


@dataclass
class Ablator:
    """Prepared values for ablating any nodes of a model on a set of pairs.

    `means`: over the corrupted prompts unless `reference` says clean. Raises UnsupportedModel where writes do not add
    up; InputError for nodes that do not exist, or for optimal values of nodes that were not fitted.
    """

    model: Model
    kind: Ablation
    reference: str = "corrupted"
    _means: dict[Key, Recorded] = field(default_factory=dict[Key, Recorded], repr=False)
    constants: dict[Part, Tensor] = field(default_factory=dict[Part, Tensor], repr=False)

    @classmethod
    def prepare(
        cls,
        model: Model,
        pairs: Sequence[PromptPair],
        kind: Ablation | str = Ablation.MEAN,
        reference: str = "corrupted",
        budget: int | None = None,
    ) -> Ablator:
        """An ablator whose means are taken over all `pairs`, however they are batched later."""
        check_model(model)
        if kind not in list(Ablation):
            raise InputError(f"no ablation {kind!r}; there are {', '.join(Ablation)}")
        if reference not in ("corrupted", "clean"):
            raise InputError(f"means are over the corrupted or the clean prompts, not {reference!r}")
        ablator = cls(model, Ablation(kind), reference)
        if ablator.kind in (Ablation.MEAN, Ablation.OPTIMAL):
            ablator._take_means(pairs, budget or token_budget(model.device))
        return ablator

    def changes(self, rows: Rows, nodes: Collection[Part], source: Recorded | None = None) -> dict[Site, Change]:
        """Edits that ablate `nodes` on a batch; `source` is the corrupted run, which only resampling needs."""
        check_nodes(self.model, nodes)
        heads: dict[int, list[int]] = {}
        for node in sorted(node for node in nodes if isinstance(node, Head)):
            heads.setdefault(node.layer, []).append(node.head)
        changes = {Site("z", layer): self._heads(rows, layer, chosen, source) for layer, chosen in heads.items()}
        for node in nodes:
            if isinstance(node, MLP):
                changes[Site("mlp_write", node.layer)] = self._mlp(rows, node, source)
        return changes

    def _heads(self, rows: Rows, layer: int, heads: list[int], source: Recorded | None) -> Change:
        def change(z: Tensor) -> Tensor:
            value = self._value(rows, source, lambda recorded: recorded.z[layer])
            changed = z.clone()
            if self.kind is Ablation.OPTIMAL:
                constants = torch.stack([self._constant(Head(layer, head)) for head in heads])
                changed[:, :, heads] = constants.to(z).expand(*z.shape[:2], -1, -1)
            else:
                changed[:, :, heads] = 0 if value is None else value[:, -z.shape[1] :, heads].to(z)
            return changed

        return change

    def _mlp(self, rows: Rows, node: MLP, source: Recorded | None) -> Change:
        def change(written: Tensor) -> Tensor:
            if self.kind is Ablation.OPTIMAL:
                return self._constant(node).to(written).expand_as(written).clone()
            value = self._value(rows, source, lambda recorded: recorded.mlp[node.layer])
            return torch.zeros_like(written) if value is None else value[:, -written.shape[1] :].to(written).clone()

        return change

    def _constant(self, node: Part) -> Tensor:
        if node not in self.constants:
            raise InputError(f"no optimal value was fitted for {node}: call fit(pairs, nodes) first")
        return self.constants[node]

    def _value(self, rows: Rows, source: Recorded | None, of: Callable[[Recorded], Tensor]) -> Tensor | None:
        if self.kind in (Ablation.ZERO, Ablation.OPTIMAL):
            return None
        if self.kind is Ablation.MEAN:
            return torch.cat([of(self._means[key]) for key in _keys(rows)])
        assert source is not None, "resampling needs the corrupted run"
        return of(source)

    @torch.no_grad()
    def _take_means(self, pairs: Sequence[PromptPair], budget: int) -> None:
        counts: dict[Key, int] = {}
        for rows in batches(pairs, budget, self.model.device):
            seen = run(self.model, getattr(rows, self.reference))
            keys = _keys(rows)
            for key in dict.fromkeys(keys):
                chosen = [row for row, other in enumerate(keys) if other == key]
                counts[key] = counts.get(key, 0) + len(chosen)
                z, mlp = ([value[chosen].sum(0, keepdim=True) for value in part] for part in (seen.z, seen.mlp))
                if key in self._means:
                    old = self._means[key]
                    z, mlp = ([a + b for a, b in zip(*part)] for part in ((old.z, z), (old.mlp, mlp)))
                self._means[key] = Recorded(seen.ids[:1], [], z, mlp, seen.final[:0], [])
        for key, count in counts.items():
            old = self._means[key]
            z, mlp = ([value / count for value in part] for part in (old.z, old.mlp))
            self._means[key] = Recorded(old.ids, [], z, mlp, old.final, [])

    def fit(
        self, pairs: Sequence[PromptPair], nodes: Collection[Part], steps: int = 40, rate: float = 0.05
    ) -> list[float]:
        """Optimal constants of `nodes`, ablated together, by Adam on KL(whole ‖ ablated) at END, from their means.

        Returns the loss of every step. Li and Janson 2024.
        """
        check_nodes(self.model, nodes)
        parts = sorted(nodes, key=str)
        constants = {node: self._overall(node).clone().requires_grad_() for node in parts}
        sizes = torch.stack([value.detach().norm() / value.numel() ** 0.5 for value in constants.values()])
        optimiser = torch.optim.Adam(constants.values(), lr=rate * float(sizes.mean().clamp_min(1e-3)) * 10)
        self.constants = {**self.constants, **constants}
        losses: list[float] = []
        for value in constants.values():
            value.grad = torch.zeros_like(value)
        prepared = list(batches(pairs, token_budget(self.model.device), self.model.device))
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=False)
            losses.append(sum(self._loss(rows, parts, len(pairs)) for rows in prepared))
            optimiser.step()
        self.constants.update({node: value.detach() for node, value in constants.items()})
        return losses

    def _loss(self, rows: Rows, parts: Sequence[Part], count: int) -> float:
        place = rows.length - rows.answer
        with torch.no_grad():
            whole = self.model.trunk(rows.clean)[:, place]
        with torch.enable_grad(), edit(self.model, self.changes(rows, parts)):
            ablated = self.model.trunk(rows.clean)[:, place]
            loss = logit_diff.divergence(self.model, whole, ablated[None]).sum() / count
        # gradients of the constants alone: the model's own .grad is the user's
        constants = [self.constants[node] for node in parts]
        for value, gradient in zip(constants, torch.autograd.grad(loss, constants)):
            assert value.grad is not None
            value.grad += gradient
        return float(loss.detach())

    def _overall(self, node: Part) -> Tensor:
        def of(recorded: Recorded) -> Tensor:
            return recorded.z[node.layer][0, :, node.head] if isinstance(node, Head) else recorded.mlp[node.layer][0]

        return torch.cat([of(recorded) for recorded in self._means.values()]).mean(0)


def _keys(rows: Rows) -> list[Key]:
    """Template, order, length and answer branch: positions mean the same thing only within one of these."""
    return [(pair.template, pair.order, rows.length, sign) for pair, sign in zip(rows.pairs, rows.signs)]


@torch.no_grad()
def ablated_differences(
    model: Model,
    pairs: Sequence[PromptPair],
    sets: Sequence[Collection[Part]],
    ablator: Ablator,
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
) -> Float[Array, "sets P"]:
    """LD of every pair with each set of nodes ablated; an empty set is the whole model.

    Every pass is resumed at the first ablated layer, and under resampling at the first position that differs.
    Raises InputError for nodes that do not exist.
    """
    for nodes in sets:
        check_nodes(model, nodes)
    found = np.zeros((len(sets), len(pairs)))
    _ = model.block_returns_tuple
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        resample = ablator.kind is Ablation.RESAMPLE
        base = run(model, rows.clean, mlps=False, keys=resample)
        source = run(model, rows.corrupted) if resample else None
        runs = Runs(rows, base, source or base)
        first = int(rows.span(None, rows.clean, rows.corrupted).min()) if resample else 0
        for place, nodes in enumerate(sets):
            scores = _scores(model, runs, first, nodes, ablator, source)
            np.add.at(found[place], list(rows.index), scores)
            if done:
                done(len(rows))
    return found


def _scores(
    model: Model, runs: Runs, first: int, nodes: Collection[Part], ablator: Ablator, source: Recorded | None
) -> Array:
    rows = runs.rows
    if not nodes:
        final = runs.base.final[None, :, rows.length - rows.answer :]
    else:
        start = min(node.layer for node in nodes)
        final = to_the_end(model, runs, start, 1, first, ablator.changes(rows, nodes, source))
    return logit_diff.scores(model, rows, final)[0].cpu().double().numpy()


def windows(model: Model, width: int) -> list[list[MLP]]:
    """The MLPs in a window of `width` layers (1, 3, 5) around each layer, cut at the ends; raises InputError."""
    if width < 1 or width % 2 == 0:
        raise InputError(f"a window is centred on a layer, so its width is odd: got {width}")
    reach = width // 2
    return [
        [MLP(layer) for layer in range(max(0, centre - reach), min(model.layers, centre + reach + 1))]
        for centre in range(model.layers)
    ]


def matched_random(model: Model, heads: Collection[Head], draws: int = 20, seed: int = 0) -> list[list[Head]]:
    """Random head sets with as many heads per layer as `heads`, none of them in it where a layer has enough others."""
    check_nodes(model, heads)
    generator = np.random.default_rng(seed)
    counts: Mapping[int, int] = {layer: sum(node.layer == layer for node in heads) for layer in range(model.layers)}
    found: list[list[Head]] = []
    for _ in range(draws):
        drawn: list[Head] = []
        for layer, count in counts.items():
            others = [head for head in range(model.heads) if Head(layer, head) not in heads]
            pool = others if len(others) >= count else list(range(model.heads))
            drawn += [Head(layer, int(head)) for head in generator.choice(pool, count, replace=False)]
        found.append(sorted(drawn))
    return found
