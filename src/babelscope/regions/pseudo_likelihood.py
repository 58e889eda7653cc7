"""How well a masked language model knows a text: −Σ_t log p(x_t | all other tokens), each token masked in turn.

It is no perplexity: the factors are not those of one distribution over texts (Salazar et al. 2020).

T content tokens of a text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.errors import InputError, NonFinite, UnsupportedModel
from babelscope.models import Batch, Model, over_batches, require


@dataclass(frozen=True)
class PseudoLoss:
    """Pseudo-NLL of some texts, in nats."""

    sums: Float[Tensor, " n"]
    """of each text"""
    tokens: Float[Tensor, " n"]
    bytes: Float[Tensor, " n"]

    @property
    def per_token(self) -> float:
        return float(self.sums.sum() / self.tokens.sum())

    @property
    def per_byte(self) -> float:
        return float(self.sums.sum() / self.bytes.sum())


def pseudo_loss(model: Model, texts: Sequence[str], budget: int | None = None) -> PseudoLoss:
    """Pseudo-NLL of texts under a masked language model: T passes for a text of T tokens, special tokens never masked.

    Raises UnsupportedModel for a model that is no masked language model, InputError for a tokenizer without a mask.

    >>> with deactivate(model, regions["zh"]):                         # doctest: +SKIP
    ...     pseudo_loss(model, corpus.texts["zh"]).per_token
    """
    if not model.encoder or getattr(model.hf.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{model.id} is no masked language model: pseudo-NLL is not defined")
    mask = model.tokenizer.mask_token_id
    if mask is None:
        raise InputError(f"the tokenizer of {model.id} has no mask token")
    before, after = model.special_ends("own")
    whole = model.tokenize(texts, "own", [f"text {place}" for place in range(len(texts))])
    jobs = [(place, t) for place, ids in enumerate(whole) for t in range(before, len(ids) - after)]
    masked = [[*whole[place][:t], mask, *whole[place][t + 1 :]] for place, t in jobs]
    losses = torch.zeros(len(jobs), dtype=torch.float64)

    def work(batch: Batch) -> None:
        places = torch.tensor([jobs[row][1] for row in batch.rows])
        wanted = torch.tensor([whole[place][t] for place, t in (jobs[row] for row in batch.rows)])
        model.refuse_mode()
        logits = model.hf(input_ids=batch.ids, attention_mask=batch.mask, return_dict=True).logits
        at = logits[torch.arange(len(places)), places].double().cpu()
        losses[list(batch.rows)] = at.logsumexp(-1) - at[torch.arange(len(places)), wanted]

    require(model, "regions")
    with torch.inference_mode():
        over_batches(masked, work, model.device, budget)
    if not bool(losses.isfinite().all()):
        raise NonFinite(f"{model.id} gives a pseudo-NLL that is not a number")
    owner = torch.tensor([place for place, _ in jobs])
    sums = torch.zeros(len(texts), dtype=torch.float64).index_add(0, owner, losses)
    sizes = torch.tensor([float(len(text.encode())) for text in texts], dtype=torch.float64)
    return PseudoLoss(sums, torch.bincount(owner, minlength=len(texts)).double(), sizes)
