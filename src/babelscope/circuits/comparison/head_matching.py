"""Heads of two models paired by what they do, never by index (section 4).

L layer · H head
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import nn

from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.roles import Roles
from babelscope.errors import InputError

if TYPE_CHECKING:
    from babelscope.models import Model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """Heads of two models paired by what they do."""

    pairs: tuple[tuple[Head, Head], ...]
    distance: Float[Array, " pairs"]
    """between standardised role vectors"""
    null: Float[Array, " pairs"]
    """the same distances under the null, sorted, mean over its draws; NaN without any"""
    p: float
    """of the whole matching: share of the null's draws whose mean distance is no larger; NaN without a null"""
    pair_p: Float[Array, " pairs"]
    """of each pair: share of the null's draws whose pair of that rank is no farther apart; NaN without a null"""


def match_heads(first: Roles, second: Roles, null: Sequence[Roles] = (), names: Sequence[str] | None = None) -> Match:
    """Pairs heads of two models by role-score vectors (Hungarian), never by index.

    Scores are standardised over both models' heads together. `null`: role scores of what the second might be by
    chance: its own scores shuffled over its heads (`shuffled`), or models of its shape with random weights
    (`random_twin`); at least 200 of them for p below 0.005. Raises InputError when the models share no score.
    """
    from scipy.optimize import linear_sum_assignment

    shared = [name for name in (names or first.scores) if name in first.scores and name in second.scores]
    shared = [name for name in shared if all(np.isfinite(r.scores[name]).all() for r in (first, second, *null))]
    if not shared:
        raise InputError("the two models share no role score to match their heads by")

    def vectors(roles: Roles) -> Array:
        return np.stack([roles.scores[name].ravel() for name in shared], axis=1)

    both = np.concatenate([vectors(first), vectors(second)])
    centre, spread = both.mean(0), np.where(both.std(0) > 0, both.std(0), 1)

    def distances(other: Roles) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        a, b = ((vectors(roles) - centre) / spread for roles in (first, other))
        cost = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
        left, right = linear_sum_assignment(cost)
        return left, right, cost[left, right]

    left, right, own = distances(second)
    widths = [next(iter(roles.scores.values())).shape[1] for roles in (first, second)]
    order = np.argsort(own)
    pairs = tuple((Head(*divmod(int(left[i]), widths[0])), Head(*divmod(int(right[i]), widths[1]))) for i in order)
    drawn = [np.sort(distances(roles)[2]) for roles in null]
    mean = np.mean(drawn, axis=0) if drawn else np.full(len(own), np.nan)
    p = (1 + sum(other.mean() <= own.mean() for other in drawn)) / (len(drawn) + 1) if drawn else float("nan")
    ranked = own[order]
    pair_p = (1 + sum(other <= ranked for other in drawn)) / (len(drawn) + 1) if drawn else np.full(len(own), np.nan)
    return Match(pairs, ranked, mean, float(p), np.asarray(pair_p, dtype=np.float64))


def random_twin(model: Model, seed: int = 0) -> Model:
    """A model of the same configuration with random weights, for nulls."""
    from babelscope.models import Model as Wrapped

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        twin: nn.Module = type(model.hf)._from_config(model.hf.config)
    finally:
        torch.set_rng_state(state)
    return Wrapped(twin.to(model.device, model.dtype), model.tokenizer, f"{model.id} with random weights")


def shuffled(roles: Roles, generator: np.random.Generator) -> Roles:
    """The same scores, each shuffled over the heads: values stay, but no head keeps its combination of them."""
    scores = {
        name: generator.permutation(matrix.ravel()).reshape(matrix.shape) for name, matrix in roles.scores.items()
    }
    return Roles.of_scores(scores)
