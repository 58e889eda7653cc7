"""What a head does, as a number: copying, suppressing, attending by position or by content (section 4).

Every score is an L × H matrix; a label is never given without it.

L layer · H head · P pair · N row · D width · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core.batching import span_of
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.nodes import Head, check_model, check_nodes, heads_of, kv_head
from babelscope.circuits.heads.dla import head_writes
from babelscope.circuits.heads.labels import Null
from babelscope.circuits.heads.patterns import attention_at_offsets, attention_between, equal_length
from babelscope.errors import InputError
from babelscope.models.batches import token_budget
from babelscope.models.families import find
from babelscope.models.hooks import Site, capture
from babelscope.models.norms import frozen_norm
from babelscope.models.projections import latent

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
COPIED = ("IO", "S1", "S2", "VERB1")
"""roles whose words heads may copy, in the tasks of the package"""


@dataclass(frozen=True)
class Copying:
    """What heads do with a word they read, over a sample of words in context."""

    copy: Float[Array, "L H"]
    """share of words that are among the head's top k"""
    negative: Float[Array, "L H"]
    """the same with the head's sign turned"""
    diagonal: Float[Array, "L H"]
    """mean standard score of the word's own logit among all words: strongly negative in copy-suppression heads"""
    nulls: dict[str, Null] = field(default_factory=dict[str, Null])
    """of "copy" and "negative copy": the same shares for words that are not in the prompt"""


@torch.no_grad()
def copying(
    model: Model,
    pairs: Sequence[PromptPair],
    roles: Sequence[str],
    heads: Sequence[Head] | None = None,
    top: int = 5,
    sample: int = 64,
    seed: int = 0,
    own_layer: bool = False,
) -> Copying:
    """Copy scores: the residual after MLP 0 at each role's token, through the head's norm, W_V, W_O, the final norm and
    the unembedding (Wang et al. 2022, section 3.1); at most `sample` tokens. NaN for heads that were not asked for.
    `own_layer`: the residual that the head itself reads instead, for models that go on working on names after MLP 0.
    """
    check_model(model)
    chosen = heads_of(model) if heads is None else list(heads)
    check_nodes(model, chosen)
    layers = list(range(model.layers)) if own_layer else [1]
    words, states, owners = _words_in_context(model, pairs, roles, sample, seed, layers)
    by_layer = {layer: states[place] for place, layer in enumerate(layers)}
    others = words.unique()
    absent = torch.tensor([[int(word) not in pairs[place].clean for word in others] for place in owners])
    return _copying(
        model, words, lambda layer: by_layer.get(layer, states[0]), chosen, top, (others, absent.to(words.device))
    )


@torch.no_grad()
def token_copying(
    model: Model, tokens: Int[Tensor, " tokens"], heads: Sequence[Head] | None = None, top: int = 5
) -> Copying:
    """The same over the vocabulary: each token alone as a prompt. `diagonal` is the OV circuit's own diagonal."""
    check_model(model)
    chosen = heads_of(model) if heads is None else list(heads)
    tokens = tokens.to(model.device)
    parts = [_streams(model, part[:, None], [1])[0, :, 0] for part in tokens.split(token_budget(model.device))]
    states = torch.cat(parts)
    return _copying(model, tokens, lambda _: states, chosen, top)


def _copying(
    model: Model,
    words: Int[Tensor, " N"],
    states: Callable[[int], Tensor],
    heads: Sequence[Head],
    top: int,
    absent: tuple[Int[Tensor, " W"], Bool[Tensor, "N W"]] | None = None,
) -> Copying:
    """`absent`: words of other prompts, and which of them each row's own prompt does not hold."""
    shape = model.layers, model.heads
    found = [np.full(shape, np.nan) for _ in range(3)]
    shares = {name: np.full((2, *shape, len(words)), np.nan) for name in ("copy", "negative copy")}
    for node in heads:
        logits = ov_logits(model, node, states(node.layer)).float()
        own = logits.gather(1, words[:, None])
        spread = logits.std(1).clamp_min(1e-12)
        hits: list[Tensor] = []
        for name, sign in (("copy", 1), ("negative copy", -1)):
            # among the top k: no smaller than the k-th largest
            edge = (sign * logits).topk(min(top, logits.shape[1])).values[:, -1:]
            hits.append((sign * own >= edge)[:, 0])
            shares[name][0, node.layer, node.head] = hits[-1].double().cpu().numpy()
            if absent is not None:
                drawn = (sign * logits[:, absent[0]] >= edge) & absent[1]
                shares[name][1, node.layer, node.head] = (drawn.sum(1) / absent[1].sum(1)).double().cpu().numpy()
        values = (*(hit.float().mean() for hit in hits), ((own[:, 0] - logits.mean(1)) / spread).mean())
        for matrix, value in zip(found, values):
            matrix[node.layer, node.head] = float(value)
    nulls = {name: Null.of(own, other, len(words)) for name, (own, other) in shares.items()} if absent else {}
    return Copying(found[0], found[1], found[2], nulls)


def ov_logits(model: Model, node: Head, states: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    """Logits that a head would give to every word if it attended to nothing but `states`, alone in the stream.

    A head behind a gate (Qwen 3.5) is taken with its gate open, as the gate belongs to the position that reads.
    """
    norm = model.norm("attention", node.layer)
    read = latent(model, "v", node.layer, norm(states) if norm is not None else states)
    key = kv_head(model, node.head)
    value = read @ model.projection_weight("v", node.layer)[key].T
    bias = model.projection_bias("v", node.layer)
    written = (value if bias is None else value + bias[key]) @ model.output_weight(node.layer)[node.head]
    if model.family.post_norms:
        post = find(model.blocks[node.layer], model.family.attention_write)
        assert post is not None
        written = post(written)
    written = written * model.scales.attention[node.layer]
    final = model.norm("final")
    return model.logits(final(written) if final is not None else written)


def _words_in_context(
    model: Model, pairs: Sequence[PromptPair], roles: Sequence[str], sample: int, seed: int, layers: Sequence[int]
) -> tuple[Int[Tensor, " N"], Float[Tensor, "layers N D"], list[int]]:
    places = [(place, span_of(pair, role)[0]) for place, pair in enumerate(pairs) for role in roles]
    generator = np.random.default_rng(seed)
    if len(places) > sample:
        places = [places[index] for index in sorted(generator.choice(len(places), sample, replace=False))]
    states: dict[tuple[int, int], Tensor] = {}
    wanted = {place for place, _ in places}
    for group in equal_length(pairs, token_budget(model.device)):
        group = [place for place in group if place in wanted]
        if not group:
            continue
        ids = torch.tensor([pairs[place].clean for place in group], device=model.device)
        seen = _streams(model, ids, layers)
        states |= {(place, at): seen[:, group.index(place), at] for place, at in places if place in group}
    words = torch.tensor([pairs[place].clean[at] for place, at in places], device=model.device)
    return words, torch.stack([states[key] for key in places], dim=1), [place for place, _ in places]


def _streams(model: Model, ids: Int[Tensor, "N T"], layers: Sequence[int]) -> Float[Tensor, "layers N T D"]:
    """What enters these layers (1: after MLP 0)."""
    sites = [Site("residual", layer) for layer in layers]
    with capture(model, sites) as seen:
        model.trunk(ids)
    return torch.stack([seen[site] for site in sites])


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
    elsewhere: Float[Array, "L H P"]
    """mean of target − foil over the target and foil words of the *other* prompts: a rule, not a copy"""


@torch.no_grad()
def direct(model: Model, pairs: Sequence[PromptPair]) -> Direct:
    """Direct attribution of every head to target and foil (their first tokens), and to those of other prompts."""
    check_model(model)
    shape = (model.layers, model.heads, len(pairs))
    target, foil, elsewhere = np.full((3, *shape), np.nan)
    first = torch.tensor([[pair.target[0], pair.foil[0]] for pair in pairs], device=model.device)
    rows = model.unembedding[first].to(torch.promote_types(model.dtype, torch.float32))  # [P, 2, D]
    overall = (rows[:, 0] - rows[:, 1]).sum(0)
    scale = model.logit_scale
    for group in equal_length(pairs, token_budget(model.device)):
        seen = run(model, torch.tensor([pairs[place].clean for place in group], device=model.device), mlps=False)
        frozen = frozen_norm(model.norm("final"), seen.residual[-1][:, -1])
        own = rows[group]
        for layer in model.attention_layers:
            parts = frozen.part(head_writes(model, seen, layer, -1)[0])  # [H, N, D]
            both = torch.einsum("hnd,nwd->hnw", parts, own).float().cpu().double().numpy() * scale
            target[layer][:, group], foil[layer][:, group] = both[..., 0], both[..., 1]
            everywhere = (parts @ overall).float().cpu().double().numpy() * scale
            elsewhere[layer][:, group] = (everywhere - (both[..., 0] - both[..., 1])) / max(1, len(pairs) - 1)
    return Direct(target, foil, elsewhere)


def attention_projection(attention: Float[Array, "L H P"], written: Float[Array, "L H P"]) -> Float[Array, "L H"]:
    """Correlation over prompts of a head's attention to a word with what it writes towards that word."""
    a, b = (value - value.mean(-1, keepdims=True) for value in (attention, written))
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(scale > 0, (a * b).sum(-1) / np.where(scale > 0, scale, 1), np.nan)


@dataclass(frozen=True)
class Roles:
    """All role scores of a model on one language's prompts."""

    scores: dict[str, Float[Array, "L H"]]
    readers: tuple[str, ...]
    read: tuple[str, ...]
    attention: Float[Array, "readers read L H"]
    nulls: Mapping[str, Null] = field(default_factory=dict[str, Null])
    """of the scores that labels are given by: what the same head gives to others"""

    def vectors(self) -> tuple[list[str], Float[Array, "L*H roles"]]:
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
    nulls["writes target − foil of other prompts"] = Null.of(written.elsewhere, 0 * written.elsewhere, len(pairs))
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
