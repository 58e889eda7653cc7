"""From final hidden states at the answer positions to scores, touching only the answer's rows of the unembedding.

N row · S sender (or any stack of variants) · A answer position · D width · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core.batching import Rows
from babelscope.terms import Slope

if TYPE_CHECKING:
    from babelscope.models import Model

Array = NDArray[np.float64]
LOGIT_ELEMENTS = 2**24
"""At most this many logits are held at once where a whole distribution is needed."""


def scores(model: Model, rows: Rows, final: Float[Tensor, "S N A D"]) -> Float[Tensor, "S N"]:
    """Each row's share of LD = log p(target) − log p(foil) (section 2); the two rows of a pair add up to it.

    For one-token answers this is the difference of two logits.
    """
    if rows.foils is not None:
        words, places = torch.stack([rows.words[:, 0], rows.foils], 1).unique(return_inverse=True)
        logits = model.logits(final[:, :, 0], words).float()  # [S, N, words]
        places = places.to(logits.device).expand(len(final), -1, -1)
        both = logits.gather(-1, places)
        return both[..., 0] - both[..., 1]
    signs = torch.tensor(rows.signs, device=final.device)
    return answer_log_probability(model, rows, final) * signs


def followed(
    model: Model, rows: Rows, final: Float[Tensor, "S N A D"], slope: Slope, clean: Float[Tensor, "N D"] | None = None
) -> Float[Tensor, "S N"]:
    """What attribution follows, large where a run does as the clean one: LD, log p(target), −KL(clean ‖ run) at END.

    `clean`: final hidden states at END, for kl. Of answers of several tokens, the foil's row counts for LD alone.
    """
    if slope == "ld":
        return scores(model, rows, final)
    if slope == "kl":
        assert clean is not None
        found = -divergence(model, clean, final[:, :, 0])
    else:
        found = answer_log_probability(model, rows, final)
    return found * torch.tensor([float(sign >= 0) for sign in rows.signs], device=found.device)


def answer_log_probability(model: Model, rows: Rows, final: Float[Tensor, "S N A D"]) -> Float[Tensor, "S N"]:
    """Σ log p over the tokens of each row's answer, teacher-forced."""
    flat = final.reshape(-1, final.shape[-1])
    words = rows.words.to(final.device).expand(len(final), -1, -1).reshape(-1)
    step = max(1, LOGIT_ELEMENTS // model.vocabulary)
    parts = [
        model.logits(flat[start : start + step]).float().log_softmax(-1).gather(1, words[start : start + step, None])
        for start in range(0, len(flat), step)
    ]
    return torch.cat(parts).reshape(final.shape[:3]).sum(-1)


def add_answers(
    model: Model, rows: Rows, finals: Float[Tensor, "S N A D"], into: Float[Array, "places 2 P"], places: Sequence[int]
) -> None:
    """Adds log p of each pair's target and foil, of each variant to its place in `into`.

    All variants go through the unembedding together: reading that once costs more than the products of a few rows.
    The two rows of a pair with longer answers bring one each.
    """
    step = max(1, LOGIT_ELEMENTS // (model.vocabulary * rows.answer))
    flat, count = finals.flatten(0, 1), len(rows)
    words = rows.words.to(flat.device)
    index, signs = np.array(rows.index), np.array(rows.signs)
    for start in range(0, len(flat), step):
        logits = model.logits(flat[start : start + step]).float()  # [n, A, V]
        whole = logits.logsumexp(-1)
        where = np.arange(start, start + len(logits))
        variant, row = np.array(places)[where // count], where % count
        own = (logits.gather(2, words[row, :, None])[..., 0] - whole).sum(1).double().cpu().numpy()
        np.add.at(into, (variant, np.where(signs[row] >= 0, 0, 1), index[row]), own)
        if rows.foils is not None:
            foils = rows.foils.to(flat.device)[row, None]
            other = logits[:, 0].gather(1, foils)[:, 0] - whole[:, 0]
            np.add.at(into[:, 1], (variant, index[row]), other.double().cpu().numpy())


def divergence(model: Model, base: Float[Tensor, "N D"], final: Float[Tensor, "S N D"]) -> Float[Tensor, "S N"]:
    """KL(base ‖ changed) of the next-token distributions at one position, in nats."""
    step = max(1, LOGIT_ELEMENTS // (model.vocabulary * max(1, base.shape[0])))
    before = model.logits(base).float().log_softmax(-1)
    parts = [
        (before.exp() * (before - model.logits(final[start : start + step]).float().log_softmax(-1))).sum(-1)
        for start in range(0, len(final), step)
    ]
    return torch.cat(parts).clamp_min(0)
