"""What a head does, as a number: copying, suppressing, attending by position or by content (section 4).

Every score is an L × H matrix; a label is never given without it.

L layer · H head · P pair · N row · D width · V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core.batching import span_of
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.nodes import check_model
from babelscope.circuits.heads.copy_scores import copying
from babelscope.circuits.heads.dla import head_writes
from babelscope.circuits.heads.labels import Null
from babelscope.circuits.heads.patterns import attention_at_offsets, attention_between, equal_length
from babelscope.errors import InputError
from babelscope.models.batches import token_budget
from babelscope.models.norms import frozen_norm

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
COPIED = ("IO", "S1", "S2", "VERB1")
"""roles whose words heads may copy, in the tasks of the package"""


def repetition(
    model: Model, tokens: dict[int, Int[Tensor, "N T"]], prefix: int = 0
) -> tuple[dict[str, Float[Array, "L H"]], dict[str, Null]]:
    """Duplicate-token, induction and previous-token scores: mean attention at offsets −T, 1 − T and −1.

    `tokens`: half length T → sequences of `prefix` special tokens and random tokens said twice
    (`babelscope.tasks.repeated_tokens`); means over T. Only the second half is looked at. Beside the scores stand
    their nulls: attention of the same queries to their other positions, sequence by sequence.
    """
    names = ("duplicate-token", "induction", "previous-token")
    total = np.zeros((3, model.layers, model.heads))
    both: list[tuple[Array, Array]] = []
    if not tokens:
        raise InputError("no repeated sequences were given")
    for half, ids in tokens.items():
        if ids.shape[1] != prefix + 2 * half:
            raise InputError(
                f"sequences of {half} tokens said twice have {prefix + 2 * half} tokens, not {ids.shape[1]}"
            )
        both.append(attention_at_offsets(model, ids, (-half, 1 - half, -1), prefix + half))
        total += both[-1][0].mean(-1)
    read, others = (np.concatenate(parts, axis=-1) for parts in zip(*both))
    positions = max(tokens)
    nulls = {name: Null.of(read[place], others[place], positions) for place, name in enumerate(names)}
    return dict(zip(names, total / len(tokens))), nulls


@dataclass(frozen=True)
class Direct:
    """What heads write at END towards the answer, by direct attribution with the final norm frozen."""

    target: Float[Array, "L H P"]
    foil: Float[Array, "L H P"]
    elsewhere: Float[Array, "L H W"]
    """target − foil of each distinct pair of words, mean over the prompts that ask for *other* words: a rule, not a
    copy. By words, since a head that writes the same on every prompt repeats each pair's sign as often as there are
    prompts."""


@torch.no_grad()
def direct(model: Model, pairs: Sequence[PromptPair]) -> Direct:
    """Direct attribution of every head to target and foil (their first tokens), and to those of other prompts."""
    check_model(model)
    shape = (model.layers, model.heads)
    target, foil = np.full((2, *shape, len(pairs)), np.nan)
    first = torch.tensor([[pair.target[0], pair.foil[0]] for pair in pairs], device=model.device)
    rows = model.unembedding[first].to(torch.promote_types(model.dtype, torch.float32))  # [P, 2, D]
    words, owner = first.unique(dim=0, return_inverse=True)  # distinct pairs of words, and whose prompt is whose
    told = rows.new_zeros(len(words), rows.shape[-1]).index_copy(0, owner, rows[:, 0] - rows[:, 1])  # [W, D]
    whole = np.zeros((*shape, len(words)))
    own = np.zeros((*shape, len(words)))
    scale = model.logit_scale
    for group in equal_length(pairs, token_budget(model.device)):
        seen = run(model, torch.tensor([pairs[place].clean for place in group], device=model.device), mlps=False)
        frozen = frozen_norm(model.norm("final"), seen.residual[-1][:, -1])
        for layer in model.attention_layers:
            parts = frozen.part(head_writes(model, seen, layer, -1)[0])  # [H, N, D]
            both = torch.einsum("hnd,nwd->hnw", parts, rows[group]).float().cpu().double().numpy() * scale
            target[layer][:, group], foil[layer][:, group] = both[..., 0], both[..., 1]
            whole[layer] += (parts.sum(1) @ told.T).float().cpu().double().numpy() * scale
            np.add.at(own[layer].T, owner[group].cpu().numpy(), (both[..., 0] - both[..., 1]).T)
    others = len(pairs) - np.bincount(owner.cpu().numpy(), minlength=len(words))
    elsewhere = np.full((*shape, len(words)), np.nan)
    for layer in model.attention_layers:
        elsewhere[layer] = np.where(others > 0, (whole[layer] - own[layer]) / np.maximum(others, 1), np.nan)
    return Direct(target, foil, elsewhere)


def attention_projection(attention: Float[Array, "L H P"], written: Float[Array, "L H P"]) -> Float[Array, "L H"]:
    """Correlation over prompts of a head's attention to a word with what it writes towards that word."""
    a, b = (value - value.mean(-1, keepdims=True) for value in (attention, written))
    # what is left of equal numbers after their mean is taken off is rounding
    varied = [np.abs(x).max(-1) > 1e-14 * np.abs(raw).max(-1) for x, raw in ((a, attention), (b, written))]
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    known = varied[0] & varied[1] & (scale > 0)
    return np.where(known, (a * b).sum(-1) / np.where(known, scale, 1), np.nan)


@dataclass(frozen=True)
class Roles:
    """All role scores of a model on one language's prompts."""

    scores: dict[str, Float[Array, "L H"]]
    readers: tuple[str, ...]
    read: tuple[str, ...]
    attention: Float[Array, "readers read L H"]
    nulls: Mapping[str, Null] = field(default_factory=dict[str, Null])
    """of the scores that labels are given by: what the same head gives to others"""

    @classmethod
    def of_scores(cls, scores: dict[str, Float[Array, "L H"]]) -> Roles:
        """Scores alone, such as a table keeps: attention between no roles."""
        shape = next((matrix.shape for matrix in scores.values()), (0, 0))
        return cls(scores, (), (), np.zeros((0, 0, *shape)))

    def vectors(self) -> tuple[list[str], Float[Array, "heads roles"]]:
        """One vector of finite scores per head, for matching heads across models."""
        names = [name for name, matrix in self.scores.items() if np.isfinite(matrix).all()]
        return names, np.stack([self.scores[name].ravel() for name in names], axis=1)


def role_scores(
    model: Model,
    pairs: Sequence[PromptPair],
    repeated: dict[int, Int[Tensor, "N T"]] | None = None,
    prefix: int = 0,
    seed: int = 0,
    copied: Sequence[str] = COPIED,
) -> Roles:
    """Every score of section 4 that the prompts' roles allow. `repeated` as in `repetition`; `copied`: roles whose
    words heads may copy.

    With IOI roles: copy and negative scores of names, attention END → IO, S1, S2 and its correlation with what is
    written towards IO. With tense roles: attention END → VERB1 and TIME2, writing of base and past form, and the past
    form of verbs that are not in the prompt.
    """
    common = [role for role in pairs[0].roles if all(role in pair.roles for pair in pairs)]
    names = [role for role in copied if role in common]
    between = attention_between(model, pairs, common, common)
    attention = _mean_where_known(between)
    scores: dict[str, Array] = {}
    nulls: dict[str, Null] = {}
    if names:
        found = copying(model, pairs, names, seed=seed)
        scores |= {"copy": found.copy, "negative copy": found.negative, "own-word logit": found.diagonal}
        nulls |= found.nulls
        found = copying(model, pairs, names, seed=seed, own_layer=True)
        scores |= {"copy from own layer": found.copy, "negative copy from own layer": found.negative}
    end = common.index("END")
    for role in common[:-1]:
        scores[f"attention END→{role}"] = attention[end, common.index(role)]
        nulls[f"attention END→{role}"] = _attention_null(pairs, role, between[end, common.index(role)])
    written = direct(model, pairs)
    scores["writes target"] = written.target.mean(-1)
    scores["writes foil"] = written.foil.mean(-1)
    scores["writes target − foil"] = (written.target - written.foil).mean(-1)
    scores["writes target − foil of other prompts"] = written.elsewhere.mean(-1)
    nulls["writes target − foil of other prompts"] = Null.of(
        written.elsewhere, 0 * written.elsewhere, written.elsewhere.shape[-1]
    )
    if "IO" in common:
        scores["attention END→IO × writes IO"] = attention_projection(between[end, common.index("IO")], written.target)
    if "VERB1" in common:
        scores["attention END→VERB1 × writes base"] = attention_projection(
            between[end, common.index("VERB1")], written.foil
        )
    if repeated:
        attended, own = repetition(model, repeated, prefix)
        scores, nulls = scores | attended, nulls | own
    return Roles(scores, tuple(common), tuple(common), attention, nulls)


def _attention_null(pairs: Sequence[PromptPair], role: str, weights: Float[Array, "L H P"]) -> Null:
    """Attention to one token of a role against that to one of the query's other positions."""
    spans = [span_of(pair, role) for pair in pairs]
    width = np.array([end - start for start, end in spans])
    seen = np.array([span_of(pair, "END")[1] for pair in pairs])  # positions that the query can see
    return Null.of(weights / width, (1 - weights) / np.maximum(seen - width, 1), len({start for start, _ in spans}))


def _mean_where_known(values: Float[Array, "*some P"]) -> Float[Array, "*some"]:
    """Mean over the pairs that have a value; NaN where none has."""
    known = np.isfinite(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)
