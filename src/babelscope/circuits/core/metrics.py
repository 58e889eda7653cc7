"""How well a model does a task: logit difference, two-way and exact accuracy, rank and probability, with intervals.

P pair · N row · A answer position · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import PROMPT, Rows, batches
from babelscope.models.batches import token_budget
from babelscope.models.hooks import Change, Site, edit
from babelscope.results.schemas.circuits import Behaved
from babelscope.stats import bootstrap_mean, wilson

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Edits = Callable[[Rows], Mapping[Site, Change]]
"""What stands changed in the model while a batch runs"""
Which = Literal["clean", "corrupted"]


@dataclass(frozen=True)
class Behaviour:
    """What a model answers, pair by pair (section 2)."""

    logit_difference: Float[Array, " P"]
    """log p(target) − log p(foil); over several tokens Σ log p, teacher-forced"""
    target: Float[Array, " P"]
    """log p of the whole target"""
    foil: Float[Array, " P"]
    """log p of the whole foil"""
    rank: Int[NDArray[np.int64], " P"]
    """rank of the target's first token among all words, 1 = most probable"""
    exact: Bool[NDArray[np.bool_], " P"]
    """whether every token of the target is the most probable one after those before it"""

    @property
    def correct(self) -> Bool[NDArray[np.bool_], " P"]:
        """Two-way: the target is more probable than the foil."""
        return self.logit_difference > 0

    def row(self, chosen: Sequence[int] | NDArray[np.int64] | None = None) -> Behaved:
        """Means over (some of) the pairs with 95 % intervals: Wilson for shares, bootstrap for the logit difference."""
        where = np.arange(len(self.rank)) if chosen is None else np.asarray(chosen)
        accuracy = wilson(int(self.correct[where].sum()), len(where))
        exact = wilson(int(self.exact[where].sum()), len(where))
        difference = bootstrap_mean(self.logit_difference[where])
        return Behaved(
            n=len(where), accuracy=accuracy.value, low=accuracy.low, high=accuracy.high,
            logit_difference=difference.value, logit_difference_low=difference.low,
            logit_difference_high=difference.high, exact=exact.value, exact_low=exact.low, exact_high=exact.high,
            rank=float(self.rank[where].mean()), probability=float(np.exp(self.target[where]).mean()),
            foil_probability=float(np.exp(self.foil[where]).mean()),
        )  # fmt: skip


@torch.no_grad()
def behaviour(
    model: Model,
    pairs: Sequence[PromptPair],
    which: Which = "clean",
    edits: Edits | None = None,
    budget: int | None = None,
) -> Behaviour:
    """Runs the prompts and reads off every metric of section 2; `edits` stand in the model meanwhile.

    Raises TaskError for pairs that cannot be scored.

    >>> behaviour(model, prompts).row().accuracy                                        # doctest: +SKIP
    0.98
    """
    count = len(pairs)
    target, foil, exact = np.zeros(count), np.zeros(count), np.zeros(count, dtype=bool)
    rank = np.zeros(count, dtype=np.int64)
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        model.check_length(rows.length, PROMPT)
        with edit(model, edits(rows) if edits else {}):
            final = model.trunk(getattr(rows, which))
        scored = _scored(model, rows, final[:, rows.length - rows.answer :])
        for place, sign, row in zip(rows.index, rows.signs, zip(*scored)):
            own, other, ranked, greedy = row
            if sign >= 0:
                target[place], rank[place], exact[place] = own, ranked, greedy
            if sign < 0:
                foil[place] = own
            if sign == 0:
                foil[place] = other
    return Behaviour(target - foil, target, foil, rank, exact)


def _scored(
    model: Model, rows: Rows, final: Float[Tensor, "N A D"]
) -> tuple[list[float], list[float], list[int], list[bool]]:
    """Per row: log p of its words, of the foil where there is one, rank of the first word, whether greedy finds all."""
    step = max(1, logit_diff.LOGIT_ELEMENTS // (model.vocabulary * rows.answer))
    own, other, rank, greedy = list[float](), list[float](), list[int](), list[bool]()
    for start in range(0, len(rows), step):
        logits = model.logits(final[start : start + step]).float()  # [n, A, V]
        words = rows.words[start : start + step, :, None].to(logits.device)
        logged = logits.log_softmax(-1)
        chosen = logits.gather(2, words)
        own += logged.gather(2, words).sum((1, 2)).tolist()
        rank += ((logits[:, 0] > chosen[:, 0]).sum(-1) + 1).tolist()
        greedy += (logits.argmax(-1) == words[..., 0]).all(-1).tolist()
        if rows.foils is not None:
            foils = rows.foils[start : start + step, None].to(logits.device)
            other += logged[:, 0].gather(1, foils)[:, 0].tolist()
    return own, other or [0.0] * len(own), rank, greedy


@torch.no_grad()
def logit_differences(
    model: Model,
    pairs: Sequence[PromptPair],
    which: Which = "clean",
    edits: Edits | None = None,
    budget: int | None = None,
) -> Float[Array, " P"]:
    """LD of each pair, from the answer's rows of the unembedding alone."""
    found = np.zeros(len(pairs))
    for rows in batches(pairs, budget or token_budget(model.device), model.device):
        model.check_length(rows.length, PROMPT)
        with edit(model, edits(rows) if edits else {}):
            final = model.trunk(getattr(rows, which))
        scores = logit_diff.scores(model, rows, final[None, :, rows.length - rows.answer :])[0]
        np.add.at(found, list(rows.index), scores.cpu().double().numpy())
    return found
