"""What a head does with a word it reads: copying it, or suppressing it (section 4).

Copying is a question about ranks: is the word among the head's top k of the whole vocabulary? A head that does not copy
is found out by the first few thousand words, so the whole vocabulary is multiplied only for heads that might.

L layer · H head · N row · W word asked about · D width · V vocabulary
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from babelscope.circuits.core.batching import span_of
from babelscope.circuits.core.nodes import Head, check_model, check_nodes, heads_of, kv_head
from babelscope.circuits.heads.labels import Null
from babelscope.circuits.heads.patterns import equal_length
from babelscope.models.batches import token_budget
from babelscope.models.families import find
from babelscope.models.hooks import Site, capture
from babelscope.models.projections import latent

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Absent = tuple[Int[Tensor, " W"], Bool[Tensor, "N W"]]
"""the words of all prompts in order, and which of them each row's own prompt does not hold"""
FIRST_WORDS, WORDS = 4096, 16384
"""words whose logits are made first, and in each later part"""
ROWS = 512
"""heads × words read, multiplied at a time"""
ENOUGH_WORDS = 16
"""distinct words from which copying is tested over words"""
SLACK = 1e-4
"""relative difference within which logits of two products are not told apart"""


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
    others = words.unique()  # in order
    absent = torch.tensor([[int(word) not in pairs[place].clean for word in others] for place in owners])
    return _copying(
        model,
        words,
        lambda layer: by_layer.get(layer, states[0]),
        chosen,
        top,
        (others, absent.to(words.device)),
        diagonal=not own_layer,
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
    absent: Absent | None = None,
    diagonal: bool = True,
) -> Copying:
    """`diagonal` False leaves out the words' standard scores, which need the spread of all logits."""
    shape = model.layers, model.heads
    found = [np.full(shape, np.nan) for _ in range(3)]
    shares = {name: np.full((2, *shape, len(words)), np.nan) for name in ("copy", "negative copy")}
    layers: dict[int, list[Head]] = {}
    for node in heads:
        layers.setdefault(node.layer, []).append(node)
    linear = model.scales.logits is not None and model.soft_cap is None
    spread = logit_moments(model) if linear and diagonal else None
    for layer, nodes in layers.items():
        for node, read in zip(nodes, _read(model, words, nodes, states(layer), top, absent, spread, linear)):
            for matrix, value in zip(found, (*read.hits.mean(1), read.standard if diagonal else np.nan)):
                matrix[node.layer, node.head] = float(value)
            for place, name in enumerate(shares):
                shares[name][0, node.layer, node.head] = read.hits[place]
                if absent is not None:
                    shares[name][1, node.layer, node.head] = read.others[place]
    # one word read in several prompts is one item: its places say nearly the same
    distinct, owner = (part.cpu().numpy() for part in words.unique(return_inverse=True))
    nulls = {name: _null_by_word(own, other, owner, len(distinct)) for name, (own, other) in shares.items()}
    nulls = nulls if absent is not None else {}
    return Copying(found[0], found[1], found[2], nulls)


def _null_by_word(own: Array, others: Array, owner: Int[NDArray[np.int64], " N"], count: int) -> Null:
    """The null over distinct words, each with the mean of its places, by turned signs: hits are all or nothing.

    Of few words no head could pass among hundreds, so there places are tested, and pass only where every word agrees.
    """
    both = np.full((2, *own.shape[:2], count), np.nan)
    for word in range(count):
        there = owner == word
        both[..., word] = np.stack([own[..., there].mean(-1), others[..., there].mean(-1)])
    if count >= ENOUGH_WORDS:
        return Null.by_turning(both[0], both[1], count)
    places = Null.of(own, others, count)
    agree = (both[0] > both[1]).all(-1)
    return replace(places, p=np.where(agree | np.isnan(places.p), places.p, 1.0))


@dataclass(frozen=True)
class _Read:
    """What one head does with each word: whether it is among its top k (and, sign turned, its bottom k)."""

    hits: Float[Array, "2 N"]
    others: Float[Array, "2 N"]
    """share of the words absent from the prompt for which that holds"""
    standard: float


def _read(
    model: Model,
    words: Int[Tensor, " N"],
    nodes: Sequence[Head],
    states: Tensor,
    top: int,
    absent: Absent | None,
    moments: Moments | None,
    linear: bool,
) -> Iterator[_Read]:
    """The heads of one layer, as many at a time as their logits fit in memory."""
    kept, places = words.unique(return_inverse=True)
    wanted = absent[1] if absent is not None else torch.zeros(len(words), len(kept), dtype=torch.bool)
    wanted = wanted.to(words.device)
    asked = wanted.clone()
    asked[torch.arange(len(words), device=words.device), places] = True
    size = max(1, ROWS // len(words)) if linear else 1
    for start in range(0, len(nodes), size):
        part = nodes[start : start + size]
        final = torch.cat([ov_final(model, node, states) for node in part])
        if linear:
            among = among_top(model, final, kept, asked.repeat(len(part), 1), top)
        else:
            among = _among_all(model.logits(final).float(), kept, top)
        among = among.reshape(2, len(part), len(words), -1)
        own = among.gather(3, places.expand(2, len(part), -1)[..., None])[..., 0]
        count = wanted.sum(1).clamp_min(1)
        others = ((among & wanted).sum(-1) / count).double().cpu().numpy()
        known = (wanted.sum(1) > 0).cpu().numpy()
        standard = _standard(model, final, words.repeat(len(part)), moments, linear).reshape(len(part), -1).mean(1)
        for place in range(len(part)):
            hits = own[:, place].double().cpu().numpy()
            yield _Read(hits, np.where(known, others[:, place], np.nan), float(standard[place]))


def _among_all(logits: Float[Tensor, "N V"], kept: Int[Tensor, " W"], top: int) -> Bool[Tensor, "2 N W"]:
    """Which of the words `kept` are among the top k of all, and with the sign turned: from all logits; none of a silent
    head, which gives the same to every word."""
    values, count = logits[:, kept], min(top, logits.shape[1])
    told = (logits.amax(1) > logits.amin(1))[:, None]
    # among the top k: no smaller than the k-th largest
    return torch.stack([told & (sign * values >= (sign * logits).topk(count).values[:, -1:]) for sign in (1, -1)])


def among_top(
    model: Model, final: Float[Tensor, "N D"], kept: Int[Tensor, " W"], asked: Bool[Tensor, "N W"], top: int
) -> Bool[Tensor, "2 N W"]:
    """The same without all logits: a row is left as soon as `top` words beat every one that is asked about in it.

    The vocabulary is read part by part; a head that does not copy is done after the first. For logits that are linear;
    in float32 at least, as many words are level in half precision.
    """
    wide = torch.promote_types(final.dtype, torch.float32)
    final = final.to(wide)
    count = min(top, model.vocabulary)
    weight, bias = model.unembedding, model.unembedding_bias
    signs = torch.tensor([1.0, -1.0], device=final.device)[:, None]
    near = model.logits(final, kept).float()
    best = torch.stack([near, -near]).masked_fill(~asked, -torch.inf).amax(-1)
    best = best + SLACK * (1 + best.abs())  # products of other shapes round differently
    edges = final.new_full((2, len(final), count), -torch.inf, dtype=torch.float32)
    values = torch.zeros_like(near)
    alive = asked.any(1)
    start, step = 0, FIRST_WORDS
    while start < len(weight) and bool(alive.any()):
        end = min(start + step, len(weight))
        rows = alive.nonzero()[:, 0]
        shift = None if bias is None else bias[start:end].to(wide)
        raw = nn.functional.linear(final[rows], weight[start:end].to(wide), shift)
        logits = model.finish_logits(raw).float()
        here = ((kept >= start) & (kept < end)).nonzero()[:, 0]
        values[rows[:, None], here] = logits[:, kept[here] - start]
        for place, sign in enumerate((1, -1)):
            largest = (sign * logits).topk(min(count, end - start)).values
            edges[place, rows] = torch.cat([edges[place, rows], largest], 1).topk(count).values
        alive = alive & ~(edges[..., -1] > best).all(0)
        start, step = end, WORDS
    # a row that was left has none among the top: its edge so far is already above all that it was asked about
    told = edges[..., 0].sum(0) > 0  # the largest logit and the smallest differ
    return (signs[..., None] * values >= edges[..., -1:]) & asked & ((edges[..., -1] <= best) & told)[..., None]


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the unembedding over the vocabulary, from which the spread of any logits follows."""

    mean: Float[Tensor, " D"]
    covariance: Float[Tensor, "D D"]
    bias: float
    with_bias: Float[Tensor, " D"]
    """covariance of the words' bias with the unembedding"""
    bias_variance: float


_moments: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Moments]] = weakref.WeakKeyDictionary()


def logit_moments(model: Model) -> Moments:
    """Moments of the unembedding of a model; they are computed once for each set of weights."""
    weight, bias = model.unembedding, model.unembedding_bias
    state = weight.data_ptr(), weight._version  # weights that were changed or loaded anew have moments of their own
    known = _moments.get(model.hf)
    if known is not None and known[0] == state:
        return known[1]
    kind = torch.promote_types(weight.dtype, torch.float32)
    mean = weight.mean(0, dtype=torch.float64)
    shift = torch.zeros(len(weight), device=weight.device, dtype=kind) if bias is None else bias.to(kind)
    centre = float(shift.double().mean())
    covariance = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    crossed = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    for start in range(0, len(weight), WORDS):
        part = weight[start : start + WORDS].to(kind) - mean.to(kind)
        covariance += (part.T @ part).double()
        crossed += (part.T @ (shift[start : start + WORDS] - centre)).double()
    free = max(1, len(weight) - 1)
    found = Moments(mean, covariance / free, centre, crossed / free, float(shift.double().var()))
    _moments[model.hf] = state, found
    return found


def _standard(
    model: Model, final: Float[Tensor, "N D"], words: Int[Tensor, " N"], moments: Moments | None, linear: bool
) -> Float[Array, " N"]:
    """Standard score of each row's word among all words."""
    if not linear:
        logits = model.logits(final).float()
        own = logits.gather(1, words[:, None])[:, 0]
        return ((own - logits.mean(1)) / logits.std(1).clamp_min(1e-12)).double().cpu().numpy()
    if moments is None:
        return np.full(len(words), np.nan)
    state = final.double()
    own = (state * model.unembedding[words].double()).sum(1)
    bias = model.unembedding_bias
    own = own if bias is None else own + bias[words].double()
    mean = state @ moments.mean + moments.bias
    variance = ((state @ moments.covariance) * state).sum(1) + 2 * state @ moments.with_bias + moments.bias_variance
    return (((own - mean) * np.sign(model.logit_scale)) / variance.clamp_min(1e-24).sqrt()).cpu().numpy()


def ov_logits(model: Model, node: Head, states: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    """Logits that a head would give to every word if it attended to nothing but `states`, alone in the stream."""
    return model.logits(ov_final(model, node, states))


def ov_final(model: Model, node: Head, states: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """The final hidden state, after the final norm, of a stream that holds nothing but what the head writes.

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
    return final(written) if final is not None else written


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
