"""Which of several continuations a model finds likelier, and how sure one may be of the share of right answers.

B row · T position · D model width
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from babelscope import stats
from babelscope.errors import InputError, NonFinite
from babelscope.evaluation.items import ClozeItem
from babelscope.models import Batch, Model, over_batches, require
from babelscope.regions.perplexity import token_losses
from babelscope.results.schemas.evaluation import Accuracy

Z = 1.959964
"""of a two-sided 95 % interval"""


def choice_scores(
    model: Model, items: Sequence[ClozeItem], progress: Callable[[int], None] | None = None
) -> NDArray[np.float64]:
    """log p(choice | prompt) in nats, summed over the choice's tokens: an array [item, choice].

    Prompt and choice are tokenised together, with the special tokens that the tokenizer puts in front by itself, as
    lm-evaluation-harness does it; a text longer than the model's context loses its beginning. Full logits are never
    made. Raises NonFinite when a score is not a number, InputError when a choice has no tokens.
    """
    scores = continuation_scores(model, [(item.prompt, item.choices) for item in items], progress)
    return np.stack(scores) if scores else np.zeros((0, 2))


def continuation_scores(
    model: Model, asked: Sequence[tuple[str, Sequence[str]]], progress: Callable[[int], None] | None = None
) -> list[NDArray[np.float64]]:
    """The same for prompts that have any number of choices each: one array [choice] a prompt. An empty prompt is the
    text's beginning, whose first token is not scored. Raises as `choice_scores`."""
    require(model, "regions")
    rows = [_encoded(model, prompt, choice) for prompt, choices in asked for choice in choices]
    scores = np.zeros(len(rows))

    def work(batch: Batch) -> None:
        hidden = model.trunk(batch.ids, batch.mask)
        losses = token_losses(model, hidden[:, :-1], batch.ids[:, 1:].to(hidden.device)).double().cpu().numpy()
        for place, row in enumerate(batch.rows):
            ids, first = rows[row]
            scores[row] = -losses[place, first - 1 : len(ids) - 1].sum()

    with torch.inference_mode():
        over_batches([ids for ids, _ in rows], work, model.device, done=progress)
    if not np.isfinite(scores).all():
        raise NonFinite(f"{model.id} gives a score that is not a number")
    ends = np.cumsum([len(choices) for _, choices in asked])[:-1]
    return np.split(scores, ends)


def _encoded(model: Model, prompt: str, choice: str) -> tuple[list[int], int]:
    """Token ids of prompt and choice, and where the choice begins."""
    stripped = prompt.rstrip()
    choice = prompt[len(stripped) :] + choice
    whole: list[int] = model.tokenizer.encode(stripped + choice)
    before = len(model.tokenizer.encode(stripped))
    if len(whole) <= before:
        raise InputError(f"the choice {choice!r} has no tokens after {stripped[-40:]!r}")
    if before == 0 and len(whole) < 2:
        raise InputError("the prompt has no tokens, so the first token of the choice cannot be scored")
    cut = max(0, len(whole) - model.context.window)
    return whole[cut:], max(1, before - cut)


def wilson(right: int, n: int) -> Accuracy:
    """Share with Wilson's score interval, which stays inside 0 and 1 (Wilson 1927).

    >>> round(wilson(8, 10).low, 3), round(wilson(8, 10).high, 3)
    (0.49, 0.943)
    """
    found = stats.wilson(right, n)
    return Accuracy(n, found.value, found.low, found.high)


def mean_accuracy(
    right: Mapping[str, Mapping[str, bool]], draws: int = 1000, seed: int = 0
) -> Accuracy:  # language → story → right?
    """Mean over languages, with an interval by resampling stories: a story told in nine languages is one observation.

    `n` is the number of stories that any language has.
    """
    stories = sorted({story for answers in right.values() for story in answers})
    table: NDArray[np.float64] = np.array(
        [[float(answers[story]) if story in answers else np.nan for story in stories] for answers in right.values()]
    )
    if table.size == 0:
        return Accuracy(0, math.nan, math.nan, math.nan)
    picks = np.random.default_rng(seed).integers(0, len(stories), (draws, len(stories)))
    known = ~np.isnan(table)
    filled = np.where(known, table, 0.0)
    sums, counts = filled[:, picks].sum(2), np.maximum(known[:, picks].sum(2), 1)
    low, high = stats.percentile((sums / counts).mean(0))
    return Accuracy(len(stories), float(np.nanmean(table, axis=1).mean()), low, high)
