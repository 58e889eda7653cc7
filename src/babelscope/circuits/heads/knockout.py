"""Is it the circuit? Everything outside it is knocked out, and faithfulness, completeness and minimality measured.

P pair
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.nodes import MLP, Head, heads_of
from babelscope.circuits.core.statistics import Interval, resampled_weights
from babelscope.circuits.heads.ablation import Ablator, Part, ablated_differences

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Knockout:
    """Logit differences of the whole model F(M), of the circuit alone F(C), and of neither F(∅), pair by pair."""

    whole: Float[Array, " P"]
    circuit: Float[Array, " P"]
    empty: Float[Array, " P"]

    @property
    def faithfulness(self) -> float:
        """(F(C) − F(∅)) / (F(M) − F(∅)): 1 for the whole model, 0 for the empty circuit; NaN where both score alike."""
        return _ratio(self.circuit.mean() - self.empty.mean(), self.whole.mean() - self.empty.mean())

    def interval(self, draws: int = 2000, seed: int = 0) -> Interval:
        """Faithfulness with its bootstrap interval over pairs."""
        weights = resampled_weights(len(self.whole), draws, seed)
        numerator, denominator = weights @ (self.circuit - self.empty), weights @ (self.whole - self.empty)
        drawn = numerator / np.where(denominator == 0, np.nan, denominator)
        finite = drawn[np.isfinite(drawn)]
        low, high = np.quantile(finite, [0.025, 0.975]) if finite.size else (np.nan, np.nan)
        return Interval(self.faithfulness, float(low), float(high))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator != 0 else float("nan")


def universe_of(model: Model, circuit: Collection[Part]) -> set[Part]:
    """What may be knocked out: all heads, and the MLPs too when the circuit names some (else MLPs always stay)."""
    mlps = {MLP(layer) for layer in range(model.layers)} if any(isinstance(node, MLP) for node in circuit) else set()
    return {*heads_of(model), *mlps}


def knock_out(
    model: Model,
    pairs: Sequence[PromptPair],
    circuits: Sequence[Collection[Part]],
    ablator: Ablator,
    universe: Collection[Part] | None = None,
) -> list[Knockout]:
    """Each circuit alone, everything of `universe` outside it ablated (default: `universe_of` all of them)."""
    everything = set(universe or universe_of(model, [node for circuit in circuits for node in circuit]))
    sets = [set(), everything, *(everything - set(circuit) for circuit in circuits)]
    scores = ablated_differences(model, pairs, sets, ablator)
    return [Knockout(scores[0], circuit, scores[1]) for circuit in scores[2:]]


def faithfulness_curve(
    model: Model, pairs: Sequence[PromptPair], ranked: Sequence[Part], ablator: Ablator, sizes: Sequence[int]
) -> list[tuple[int, Interval]]:
    """Faithfulness of the first k of a ranking, for each k in `sizes`."""
    found = knock_out(model, pairs, [ranked[:size] for size in sizes], ablator, universe_of(model, ranked))
    return [(size, result.interval()) for size, result in zip(sizes, found)]


@dataclass(frozen=True)
class Completeness:
    """F(C∖K) against F(M∖K) for random subsets K of the circuit: they agree when nothing that matters is left out."""

    circuit_without: Float[Array, " draws"]
    whole_without: Float[Array, " draws"]
    gap: float
    """mean |F(C∖K) − F(M∖K)| / |F(M)|"""


def completeness(
    model: Model,
    pairs: Sequence[PromptPair],
    circuit: Collection[Part],
    ablator: Ablator,
    draws: int = 10,
    seed: int = 0,
) -> Completeness:
    """Completeness (Wang et al. 2022, section 4.2) over random subsets K, each node in K with probability one half."""
    generator = np.random.default_rng(seed)
    nodes, everything = sorted(circuit, key=str), universe_of(model, circuit)
    drawn = [{node for node in nodes if generator.random() < 0.5} for _ in range(draws)]
    rest = everything - set(nodes)
    scores = ablated_differences(model, pairs, [set(), *(rest | k for k in drawn), *drawn], ablator).mean(1)
    left, right = scores[1 : draws + 1], scores[draws + 1 :]
    return Completeness(left, right, _ratio(float(np.abs(left - right).mean()), abs(float(scores[0]))))


def minimality(
    model: Model,
    pairs: Sequence[PromptPair],
    classes: Mapping[str, Collection[Head]],
    ablator: Ablator,
) -> dict[Head, float]:
    """|F(C∖(K∪{v})) − F(C∖K)| / |F(M)| for every head v, the larger of K = ∅ and K = the rest of v's class."""
    circuit = {node for members in classes.values() for node in members}
    rest = universe_of(model, circuit) - circuit
    questions: list[tuple[Head, set[Part], set[Part]]] = []
    for members in classes.values():
        for node in sorted(members):
            for removed in ({*()}, set(members) - {node}):
                questions.append((node, rest | removed, rest | removed | {node}))
    sets = [set[Part](), *(each for _, before, after in questions for each in (before, after))]
    scores = ablated_differences(model, pairs, sets, ablator).mean(1)
    found: dict[Head, float] = {}
    for place, (node, _, _) in enumerate(questions):
        change = _ratio(abs(float(scores[1 + 2 * place] - scores[2 + 2 * place])), abs(float(scores[0])))
        found[node] = max(found.get(node, 0.0), change)
    return found
