"""The lens: what the unembedding reads off every layer at the last position (section 1, "Numbers").

One pass keeps the last position of all layers; the vocabulary is streamed in chunks for its log-sum-exp, entropy and
largest logit, and only the rows of the answers' tokens are kept: no [n, L, V] array is ever made.

P prompt · L layers + 1 · D width · U answer token · n item · K language · R row (a prompt at a layer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from babelscope.errors import NonFinite, UnsupportedModel
from babelscope.latent.prompts import Prompt
from babelscope.latent.tokens import TokenSets
from babelscope.models import Batch, Model, Site, capture, over_batches, require
from babelscope.models.model import SpecialTokens
from babelscope.models.offload import execution_device

Array = NDArray[np.float64]
Translate = Callable[[int, Tensor], Tensor]
"""(layer, [R, D]) → what the final norm reads instead; the identity is the logit lens"""
CHUNK, ACCELERATOR_CHUNK = 2048, 16384
"""words of the vocabulary at a time"""
ROWS = 512
"""rows (prompts × layers) whose logits over a chunk are held at once"""


def states(
    model: Model, prompts: Sequence[str], special: SpecialTokens = "none", done: Callable[[int], None] | None = None
) -> Float[Tensor, "L P D"]:
    """The residual at every prompt's last position, entering each block and, last, the final norm; one pass.

    Raises NonFinite for a value that is NaN or infinite.
    """
    require(model, "regions")
    sequences = model.tokenize(prompts, special)
    sites = [Site("residual", layer) for layer in range(model.layers + 1)]
    kept = torch.empty(len(sites), len(sequences), model.width, dtype=_kept_type(model))

    def work(batch: Batch) -> None:
        last = batch.lengths - 1

        def at_last(value: Tensor) -> Tensor:
            return value[torch.arange(len(value), device=value.device), last.to(value.device)]

        with capture(model, sites, keep=at_last) as seen:
            model.trunk(batch.ids, batch.mask)
        for layer, site in enumerate(sites):
            kept[layer, list(batch.rows)] = seen[site].to(kept.dtype).cpu()

    with torch.inference_mode():
        over_batches(sequences, work, model.device, done=done)
    if not bool(torch.isfinite(kept).all()):
        layer = int((~torch.isfinite(kept)).nonzero()[0, 0])
        raise NonFinite(f"the residual of {model.id} entering block {layer} is NaN or infinite")
    return kept


def _kept_type(model: Model) -> torch.dtype:
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def normed(model: Model, hidden: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
    """norm_final(h); h itself where the family has no final norm."""
    norm = model.norm("final")
    if norm is None or next(norm.parameters(), None) is None:
        home = model.unembedding.device
    else:
        home = execution_device(norm)
    placed = hidden.to(home, model.dtype)
    return placed if norm is None else norm(placed)


@dataclass(frozen=True)
class Reading:
    """What the lens says of rows of normed states."""

    answers: Float[Tensor, "R U"]
    """probability of each asked token"""
    entropy: Float[Tensor, " R"]
    """over the vocabulary, bits"""
    top: Int[Tensor, " R"]
    """the likeliest token"""
    normaliser: Float[Tensor, " R"]
    """log-sum-exp of the logits"""


@torch.inference_mode()
def read_out(model: Model, z: Float[Tensor, "R D"], words: Int[Tensor, " U"], chunk: int | None = None) -> Reading:
    """Softmax over the whole vocabulary of normed states, kept for `words`; entropy and top token beside.

    The vocabulary passes in chunks with a running maximum m, Σ e^(x−m) and Σ x e^(x−m): entropy = lse − Σ p x.
    """
    chunk = chunk or (CHUNK if z.device.type == "cpu" else ACCELERATOR_CHUNK)
    parts = [_read_rows(model, part, words, chunk) for part in z.split(ROWS)]
    return Reading(*(torch.cat(column) for column in zip(*parts)))


def _read_rows(model: Model, z: Tensor, words: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind = _kept_type(model)
    highest = torch.full((len(z),), -torch.inf, dtype=kind, device=z.device)
    mass, weighted = torch.zeros_like(highest), torch.zeros_like(highest)
    top = torch.zeros(len(z), dtype=torch.long, device=z.device)
    for start in range(0, model.unembedding.shape[0], chunk):
        x = chunk_logits(model, z, slice(start, start + chunk)).to(z.device, kind)
        best, where = x.max(1)
        new = torch.maximum(highest, best)
        top = torch.where(best > highest, where + start, top)
        fade = torch.exp(highest - new)
        e = (x - new[:, None]).exp_()
        mass = mass * fade + e.sum(1)
        weighted = weighted * fade + torch.linalg.vecdot(e, x)
        highest = new
    lse = highest + mass.log()
    # in the precision of the sum that they are shares of: a probability is none above 1
    answers = torch.exp(chunk_logits(model, z, words).to(z.device, kind) - lse[:, None])
    return answers, (lse - weighted / mass) / log(2), top, lse


def chunk_logits(model: Model, z: Float[Tensor, "R D"], words: slice | Tensor) -> Float[Tensor, "R C"]:
    """Logits of some of the vocabulary, with scale and cap; the weights of a slice are not copied."""
    weight, bias = model.unembedding, model.unembedding_bias
    raw = nn.functional.linear(z.to(weight.device), weight[words], None if bias is None else bias[words])
    return model.finish_logits(raw)


@dataclass(frozen=True)
class Readings:
    """Everything that one lens reads for one source and target."""

    q: Mapping[str, Array]
    """language k → Q [L, n, n]: mass of item j's words in k on the prompts of item i, prompts averaged"""
    entropy: Array
    """[L, n] bits"""
    top: NDArray[np.int64]
    """[P] likeliest token at the last layer"""

    @property
    def layers(self) -> int:
        """L: the last index of the layers."""
        return len(self.entropy) - 1


def read(
    model: Model,
    hidden: Float[Tensor, "L P D"],
    items: Sequence[int],
    tokens: TokenSets,
    translate: Translate | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
    done: Callable[[int], None] | None = None,
) -> Readings:
    """Q of every language at every layer (section 1). `items`: the item of each prompt.

    `translate` maps the residual of a layer below the last before the final norm (the tuned lens); `project` takes
    something off the normed states of all prompts (the control for geometry).
    """
    union = sorted({token for code in tokens.languages for own in tokens.of(code) for token in own})
    words = torch.tensor(union, dtype=torch.long)
    members = {code: _membership(tokens.of(code), union) for code in tokens.languages}
    gather = averaging(items, len(tokens.concepts))
    q: dict[str, list[Array]] = {code: [] for code in tokens.languages}
    entropy: list[Array] = []
    top: Tensor = torch.zeros(0)
    for layer, values in enumerate(hidden):
        with torch.inference_mode():
            moved = values if translate is None or layer == len(hidden) - 1 else translate(layer, values)
            z = normed(model, moved)
            found = read_out(model, z if project is None else project(z), words)
        answers = gather @ found.answers.double().cpu().numpy()
        for code, member in members.items():
            q[code].append(answers @ member)
        entropy.append(gather @ found.entropy.double().cpu().numpy())
        top = found.top
        if done:
            done(len(values))
    return Readings({code: np.stack(parts) for code, parts in q.items()}, np.stack(entropy), top.cpu().numpy())


def _membership(sets: Sequence[frozenset[int]], union: Sequence[int]) -> Array:
    place = {token: row for row, token in enumerate(union)}
    member = np.zeros((len(union), len(sets)))
    for item, own in enumerate(sets):
        member[[place[token] for token in own], item] = 1
    return member


def averaging(items: Sequence[int], count: int) -> Array:
    """[n, P] weights that average an item's prompts."""
    weights = np.zeros((count, len(items)))
    weights[list(items), range(len(items))] = 1
    return weights / weights.sum(1, keepdims=True)


def items_of(prompts: Sequence[Prompt], tokens: TokenSets) -> list[int]:
    """The item of each prompt, by its place in the token sets."""
    place = {concept: item for item, concept in enumerate(tokens.concepts)}
    return [place[prompt.concept] for prompt in prompts]


def solved(readings: Readings, items: Sequence[int], tokens: TokenSets, target: str) -> NDArray[np.bool_]:
    """Items whose top token at the last layer is the target's, on at least half of their prompts (ours)."""
    sets = tokens.of(target)
    hits = np.array([int(token) in sets[item] for token, item in zip(readings.top, items)], dtype=float)
    return averaging(items, len(sets)) @ hits >= 0.5


def check_lens(model: Model, prompt: str, special: SpecialTokens = "none") -> None:
    """Raises UnsupportedModel where the lens at the last layer is not what the model itself says next."""
    ids = torch.tensor(model.tokenize([prompt], special), device=model.device)
    with torch.inference_mode():
        own = model.hf(input_ids=ids, return_dict=True).logits[0, -1].cpu().double()
        z = normed(model, states(model, [prompt], special)[-1])
        words = slice(0, model.unembedding.shape[0])
        seen = chunk_logits(model, z, words)[0].cpu().double()
    gap = float((own - seen[: len(own)]).abs().max() / own.abs().max().clamp(min=1e-9))
    if not gap < (1e-3 if model.dtype in (torch.float32, torch.float64) else 5e-2):
        raise UnsupportedModel(
            f"{model.id}: the unembedding of the last residual misses the model's own logits by {gap:.1%}, "
            "so a lens would not show what the model says"
        )
