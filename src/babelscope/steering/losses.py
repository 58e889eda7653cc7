"""Likelihoods under and beside steering: damage, fidelity, continuation (steering.md, section 3). All in nats.

G document · T position
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from babelscope.errors import InputError, NonFinite
from babelscope.models import Batch, Model, require
from babelscope.models.batches import halving, plan, token_budget
from babelscope.models.rows import Flow, RowEdit, edited_rows
from babelscope.models.workers import Tell, over_workers
from babelscope.regions.perplexity import token_losses
from babelscope.results.schemas.steering import Continued, Kept
from babelscope.stats import Interval, jackknife_t, ratio_t
from babelscope.steering.controls import generator_of

Array = NDArray[np.float64]
OTHERS = 8
"""answers of like length that a text is held against"""


@dataclass(frozen=True, eq=False)
class TextLoss:
    """Loss of texts under one condition."""

    totals: Float[Array, " G"]
    counts: Int[NDArray[np.int64], " G"]
    byte_count: int

    @property
    def nll(self) -> float:
        """Mean per token."""
        return float(self.totals.sum() / self.counts.sum())

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return float(self.totals.sum() / np.log(2) / self.byte_count)


def losses(
    model: Model, rows: Sequence[Sequence[int]], starts: Sequence[int], budget: int | None = None
) -> list[float]:
    """Summed −log p of the tokens of each row from place `starts` on, under whatever the model is inside of."""
    require(model, "regions")
    found = [0.0] * len(rows)
    batches = plan([len(row) for row in rows], budget or token_budget(model.device))
    for values in over_workers(model, _scoring, (rows, starts), batches):
        for row, value in values.items():
            found[row] = value
    if not all(np.isfinite(found)):
        raise NonFinite(f"{model.id} gives a loss that is not a number")
    return found


def _scoring(
    model: Model, asked: tuple[Sequence[Sequence[int]], Sequence[int]]
) -> Callable[[tuple[int, ...], Tell], dict[int, float]]:
    """Work of `over_workers`: the rows of a batch."""
    rows, starts = asked

    def scored(places: tuple[int, ...], _tell: Tell) -> dict[int, float]:
        found: dict[int, float] = {}

        def work(batch: Batch) -> None:
            hidden = model.trunk(batch.ids, batch.mask)
            each = token_losses(model, hidden[:, :-1], batch.ids[:, 1:].to(hidden.device)).double().cpu()
            for place, row in enumerate(batch.rows):
                found[row] = float(each[place, max(starts[row], 1) - 1 : len(rows[row]) - 1].sum())

        with torch.inference_mode():
            for _ in halving(rows, places, work, model.device):
                pass
        return found

    return scored


def text_losses(model: Model, texts: Sequence[Sequence[str]], edits: Sequence[RowEdit | None]) -> list[TextLoss]:
    """`text_loss` of several texts, each under an edit of its own."""
    return list(over_workers(model, _reading, None, list(zip(texts, edits, strict=True))))


def _reading(model: Model, _: None) -> Callable[[tuple[Sequence[str], RowEdit | None], Tell], TextLoss]:
    """Work of `over_workers`: a text under an edit."""
    return lambda unit, _tell: text_loss(model, *unit)


def text_loss(
    model: Model, texts: Sequence[str], edit: RowEdit | None = None, limit: int = 512, budget: int | None = None
) -> TextLoss:
    """Loss of held-out texts, each by itself, its first token unscored; all of it counts as written, not as prompt.

    >>> text_loss(model, texts, edit).nll - text_loss(model, texts).nll            # doctest: +SKIP
    """
    rows = [ids[: min(limit, int(model.context.limit))] for ids in model.tokenize(texts)]
    if edit is not None and edit.where == "prompt":
        raise InputError("an edit of prompts alone does not reach a text without a prompt: its damage is not defined")
    with edited_rows(model, [edit], Flow(prompt=torch.ones(1, dtype=torch.long, device=model.device))):
        totals = losses(model, rows, [1] * len(rows), budget)
    scored = [model.tokenizer.decode(ids[1:]) for ids in rows]
    return TextLoss(
        np.array(totals), np.array([len(ids) - 1 for ids in rows]), max(1, sum(len(text.encode()) for text in scored))
    )


def damage(changed: TextLoss, plain: TextLoss) -> Interval:
    """ΔNLL per token, above 0 where the edit makes texts less likely; its interval over documents."""
    return ratio_t(rises(changed, plain), plain.counts)


def rises(changed: TextLoss, plain: TextLoss) -> Float[Array, " G"]:
    """Nats that each text loses by the edit, all its tokens together."""
    return changed.totals - plain.totals


# -- fidelity ------------------------------------------------------------------------------------------------------


def retrieval_gains(
    model: Model,
    texts: Sequence[str],
    contexts: Sequence[str],
    others: int = OTHERS,
    seed: int = 0,
    budget: int | None = None,
) -> Float[Array, " n"]:
    """r_i = mean_j NLL(text_i | context_j) − NLL(text_i | context_i), per token of the text, by the unsteered model.

    The j are `others` contexts of like length, drawn among the nearest; 0 means that any context would do. NaN for a
    text or context without tokens, and with fewer than two.
    """
    found = np.full(len(texts), np.nan)
    usable = [place for place in range(len(texts)) if texts[place].strip() and contexts[place].strip()]
    if len(usable) < 2:
        return found
    told = dict(zip(usable, model.tokenize([contexts[place].strip() for place in usable])))
    said = dict(zip(usable, model.tokenize([" " + texts[place].strip() for place in usable])))
    rows: list[list[int]] = []
    starts: list[int] = []
    jobs: list[tuple[int, bool]] = []
    most = int(model.context.limit)
    for place in usable:
        for other in [place, *_like(place, {one: len(ids) for one, ids in told.items()}, others, seed)]:
            row = [*told[other], *said[place]]
            if len(row) <= most:
                rows.append(row)
                starts.append(len(told[other]))
                jobs.append((place, other == place))
    values = losses(model, rows, starts, budget)
    for place in usable:
        size = len(said[place])
        own = [value / size for value, job in zip(values, jobs) if job == (place, True)]
        rest = [value / size for value, job in zip(values, jobs) if job == (place, False)]
        if own and rest:
            found[place] = sum(rest) / len(rest) - own[0]
    return found


def _like(place: int, lengths: dict[int, int], count: int, seed: int) -> list[int]:
    """Others of like length: drawn from the nearest twice as many."""
    near = sorted((abs(length - lengths[place]), other) for other, length in lengths.items() if other != place)
    pool = [other for _, other in near[: 2 * count]]
    return generator_of("like", seed, place).permutation(pool)[:count].tolist()


def fidelity(
    gains: Float[Array, " n"],
    documents: Sequence[str],
    reference: Float[Array, " m"],
    reference_documents: Sequence[str] | None = None,
) -> Kept:
    """F = mean r / mean r*, its interval by leaving documents out of r, r* held as measured.

    `reference_documents`: those of the sentences of r*; each its own where they are not given.

    NaN where the interval of r* covers 0: then the model cannot judge.
    """
    r = _jackknife(gains, documents)
    star = _jackknife(reference, reference_documents or [str(place) for place in range(len(reference))])
    n = int((~np.isnan(gains)).sum())
    nan, why = float("nan"), ""
    if not star.low > 0:
        why = "model cannot judge"
    elif n == 0:
        why = "no answer is in the target"
    if why:
        return Kept(nan, nan, nan, r.value, star.value, star.low, star.high, n, why)
    value, low, high = (end / star.value for end in (r.value, r.low, r.high))
    return Kept(value, low, high, r.value, star.value, star.low, star.high, n, r.why)


def _jackknife(values: Float[Array, " n"], documents: Sequence[str]) -> Interval:
    known = ~np.isnan(values)
    names = [name for name, use in zip(documents, known) if use]
    kept = values[known]
    if len(kept) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), "", "nothing to measure")
    left = [float(kept[np.array([name != one for name in names])].mean()) for one in dict.fromkeys(names)
            if any(name != one for name in names)]  # fmt: skip
    return jackknife_t(float(kept.mean()), left)


def continuation(
    model: Model,
    contexts: Sequence[str],
    following: Sequence[str],
    edit: RowEdit | None = None,
    others: int = 3,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Continued:
    """NLL of the translation of the next sentence after its own context and after three others, under steering."""
    chance = 1 / (others + 1)
    if len(contexts) <= others:
        return Continued(float("nan"), float("nan"), chance, 0, "too few contexts")
    told, said = model.tokenize(list(contexts)), model.tokenize([" " + text for text in following])
    rows, starts = [], []
    for place in range(len(told)):
        wrong = generator_of("continuation", seed, place).permutation([one for one in range(len(told)) if one != place])
        for other in [place, *wrong[:others].tolist()]:
            rows.append([*told[other], *said[place]][: int(model.context.limit)])
            starts.append(min(len(told[other]), len(rows[-1]) - 1))
    with edited_rows(model, [edit]):
        values = np.array(losses(model, rows, starts)).reshape(len(told), others + 1)
    if progress:
        progress(len(rows))
    sizes = np.array([len(ids) for ids in said])
    gain = float(((values[:, 1:].mean(1) - values[:, 0]) / sizes).mean())
    # contexts that are the same text, or that no longer matter, share the hit: all of them alike give chance
    least = values <= values.min(1, keepdims=True) * (1 + 1e-6)
    return Continued(gain, float((least[:, 0] / least.sum(1)).mean()), chance, len(told))
