"""Fast estimates of every edge's effect: EAP, EAP with integrated gradients, and RelP (section 7).

    s(u → v) = Σ_position (z_u(x′) − z_u(x)) · ∂LD/∂in_v

estimates what happens to the logit difference when v, and only v, sees u's output from the corrupted prompt: negative
where the edge works for the answer. Cost: two forward passes and one backward (m forward and backward with integrated
gradients), and about one forward pass more for the inner products of all edges.

W writer · R reader · C token (position of a row) · D width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import Ablation, ablation_kind, reference
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import MLP, Head, Receiver
from babelscope.circuits.core.residual import Values, all_parts, pulled_back, pulled_back_mlp
from babelscope.circuits.edges.backward import Gradients, gradients
from babelscope.circuits.edges.relp import relevance_rules
from babelscope.errors import InputError, NonFinite
from babelscope.models.batches import token_budget
from babelscope.models.hooks import Site
from babelscope.terms import SLOPES, Slope

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Method = Literal["eap", "eap-ig", "relp"]
Rule = Literal["midpoint", "left"]
Array = NDArray[np.float64]
METHODS: tuple[Method, ...] = ("eap", "eap-ig", "relp")
ELEMENTS = {"cpu": 2**25, "cuda": 2**28}
"""Numbers held at once for the inner products; tokens are taken in chunks that fit (they only ever add up)."""


@dataclass(frozen=True)
class Attribution:
    """Estimated change of the mean logit difference when an edge is patched; 0 where there is no edge."""

    wiring: Wiring
    scores: Float[Array, "W R"]
    settings: dict[str, object] = field(default_factory=dict[str, object])

    @property
    def writers(self) -> Float[Array, " W"]:
        """Sum over the edges out of each writer: the estimate for patching its whole output."""
        return self.scores.sum(1)

    @property
    def heads(self) -> Float[Array, "L H"]:
        """Writers' sums of the heads, by layer; NaN in layers without heads."""
        found = np.full((self.wiring.layers, self.wiring.heads), np.nan)
        for node, value in zip(self.wiring.writers, self.writers):
            if isinstance(node, Head):
                found[node.layer, node.head] = value
        return found

    @property
    def mlps(self) -> Float[Array, " L"]:
        """Writers' sums of the MLPs; NaN in layers without one."""
        found = np.full(self.wiring.layers, np.nan)
        for node, value in zip(self.wiring.writers, self.writers):
            if isinstance(node, MLP):
                found[node.layer] = value
        return found

    def strongest(self, count: int) -> list[tuple[int, int]]:
        """Row and column of the edges with the largest absolute scores, strongest first."""
        flat = np.where(self.wiring.allowed, np.abs(self.scores), -1).ravel()
        order = np.argsort(-flat, kind="stable")[: min(count, int(self.wiring.allowed.sum()))]
        return [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, self.scores.shape))]


@dataclass(frozen=True)
class Variant:
    """Of a method, how the reference implementations do it."""

    rule: Rule = "midpoint"
    """of eap-ig: gradients in the middle of each part of the way, or at its left end"""
    frozen_patterns: bool = True
    """of relp: no coefficient passes through the patterns, so that no edge into a query or key gets a score"""
    slope: Slope = "ld"
    """what gradients are of (logit_diff.followed); negative scores work for the answer under each"""


@torch.no_grad()
def edge_attribution(
    model: Model,
    pairs: Sequence[PromptPair],
    method: Method = "eap-ig",
    steps: int = 5,
    ablation: Ablation | str = Ablation.RESAMPLE,
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
    variant: Variant | None = None,
) -> Attribution:
    """Scores of all edges, as means over the pairs; they do not depend on how pairs are batched.

    "eap" takes the gradient on the clean prompt (Syed et al. 2023), "eap-ig" its mean over `steps` runs whose input
    node goes from corrupted to clean (Hanna et al. 2024), "relp" the coefficients of relevance propagation. Raises
    InputError (for kl too, unless with eap-ig: its slope at the clean run is 0), UnsupportedModel, TaskError for bad
    pairs.

    >>> edges = edge_attribution(model, prompts)                                         # doctest: +SKIP
    >>> edges.heads.shape                                                                # doctest: +SKIP
    (4, 8)
    """
    wiring = Wiring.of(model)
    variant = variant or Variant()
    rule, frozen_patterns = variant.rule, variant.frozen_patterns
    points = _points(method, steps, rule)
    if variant.slope not in SLOPES:
        raise InputError(f"attribution follows {', '.join(SLOPES)}, not {variant.slope!r}")
    if variant.slope == "kl" and method != "eap-ig":
        raise InputError(f"{method}: the divergence from the clean run has no slope there; take eap-ig")
    other = reference(model, pairs, ablation, budget)
    total = torch.zeros(len(wiring.writers), len(wiring.readers), dtype=torch.float64)
    cut = method == "relp" and frozen_patterns
    _ = model.block_returns_tuple
    # gradients of all points are held at once
    budget = max(1, (budget or token_budget(model.device)) // len(points))
    for rows in batches(pairs, budget, model.device):
        clean, ablated = Values.of(run(model, rows.clean)), other(rows)
        value = _followed(model, rows, variant.slope)
        with relevance_rules(model) if method == "relp" else nullcontext():
            starts = [ablated.embedding + point * (clean.embedding - ablated.embedding) for point in points]
            found = [gradients(model, rows, start, frozen_patterns=cut, value=value) for start in starts]
            total += _inner_products(model, wiring, clean, ablated, found)
        if done:
            done(len(rows))
    scores = (total / len(pairs)).numpy()
    if not np.isfinite(scores).all():
        raise NonFinite(f"{method}: a score of {model.id} is not finite; try float32")
    settings: dict[str, object] = dict(
        method=method, slope=variant.slope, ablation=str(ablation_kind(ablation)), pairs=len(pairs)
    )
    settings |= dict(steps=steps, rule=rule) if method == "eap-ig" else {}
    settings |= dict(frozen_patterns=frozen_patterns) if method == "relp" else {}
    return Attribution(wiring, scores, settings)


def _followed(model: Model, rows: Rows, slope: Slope) -> Callable[[Tensor], Tensor] | None:
    if slope == "ld":
        return None
    clean = model.trunk(rows.clean)[:, rows.length - rows.answer] if slope == "kl" else None
    return lambda final: logit_diff.followed(model, rows, final, slope, clean)


def _points(method: Method, steps: int, rule: Rule) -> list[float]:
    """Shares of the clean input at which gradients are taken."""
    if method not in METHODS:
        raise InputError(f"no attribution method {method!r}; there are {', '.join(METHODS)}")
    if method != "eap-ig":
        return [1.0]
    if steps < 1 or rule not in ("midpoint", "left"):
        raise InputError(f"integrated gradients need 1 or more steps by rule midpoint or left, got {steps} by {rule!r}")
    shift = 0.5 if rule == "midpoint" else 0.0
    return [(step + shift) / steps for step in range(steps)]


def _inner_products(
    model: Model, wiring: Wiring, clean: Values, ablated: Values, found: Sequence[Gradients]
) -> Float[Tensor, "W R"]:
    """Σ over tokens of change in the writer · mean gradient at the reader, for all edges."""
    scores = torch.zeros(len(wiring.writers), len(wiring.readers), dtype=torch.float64)
    tokens = clean.embedding.shape[0] * clean.embedding.shape[1]
    most = len(wiring.writers) + 8 * (wiring.heads + 2 * wiring.kv_heads)
    step = max(1, ELEMENTS.get(model.device.type, 2**25) // (most * model.width))
    for start in range(0, tokens, step):
        part = slice(start, min(start + step, tokens))
        change = all_parts(model, ablated.tokens(part.start, part.stop))
        change = (change - all_parts(model, clean.tokens(part.start, part.stop))).flatten(1)
        change = change.to(torch.promote_types(change.dtype, torch.float32))  # long sums, not in half precision
        for layer in range(model.layers):
            for receiver in wiring.first_readers(layer):
                pulled = [gradient for one in found if (gradient := _pulled(model, one, receiver, part)) is not None]
                if not pulled:
                    continue  # patterns are held: nothing passes through queries and keys
                column, seen = wiring.reader(receiver), wiring.before(receiver)
                mean = sum(pulled[1:], pulled[0]) / len(found)
                products = change[:seen] @ mean.flatten(1).T.to(change.dtype)
                scores[:seen, column : column + products.shape[1]] += products.double().cpu()
        ends = [one.at[Site("residual", model.layers)].flatten(0, 1)[part] for one in found]
        last = (sum(ends[1:], ends[0]) / len(found)).flatten()
        scores[:, -1] += (change @ last.to(change.dtype)).double().cpu()
    return scores


def _pulled(model: Model, found: Gradients, receiver: Receiver, part: slice) -> Float[Tensor, "R C D"] | None:
    """Gradients at some tokens of the streams that a layer's queries (or keys, …) read; None where none arrives."""
    layer = receiver.layer
    if receiver.kind == "mlp":
        gradient = found.at[Site("mlp_in", layer)].flatten(0, 1)[part]
        return pulled_back_mlp(model, layer, found.mlp_stream[layer].flatten(0, 1)[part], gradient)
    assert receiver.kind != "logits"
    site = Site(receiver.kind, layer)
    if site not in found.at:
        return None
    stream = found.attention_stream[layer].flatten(0, 1)[part]
    return pulled_back(model, receiver.kind, layer, stream, found.at[site].flatten(0, 1)[part])
