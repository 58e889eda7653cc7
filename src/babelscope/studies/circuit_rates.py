"""What the passes of a circuits study take on this machine, timed as the study makes them: for the plan."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from babelscope.circuits.core.ablation import Ablation, reference
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import record
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import Head, heads_of
from babelscope.circuits.edges.backward import gradients
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.circuits.edges.edge_ablation import masked_final
from babelscope.circuits.heads.ablation import ablated_differences
from babelscope.circuits.patching.methods import activation_finals
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.models.hooks import Site
from babelscope.studies.circuit_costs import ABLATED, ATTRIBUTED, GRADIENT, MASKED, PATCHED
from babelscope.studies.plan import SECONDS, Rate, rate_of
from babelscope.tasks import PromptPair

MANY = 16
"""prompts of the larger of two sizes, at most"""


def circuit_rates(
    model: Model,
    pairs: Sequence[PromptPair],
    edges: bool = True,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Rate]:
    """Rates of the kinds of passes of `circuit_costs`, from one prompt and from several of the same length."""
    alike = _of_one_length(pairs)
    sizes = 1, min(MANY, len(alike))

    def rate(work: Callable[[int], int]) -> Rate:
        return rate_of(work, sizes, model, seconds, clock)

    with torch.no_grad():
        rows = {size: _rows(model, alike[:size]) for size in sizes}
        runs = {size: record(model, own) for size, own in rows.items()}
    middle = model.attention_layers[len(model.attention_layers) // 2]
    heads = [Head(middle, head) for head in range(model.heads)]
    behind = 1 - middle / model.layers

    @torch.no_grad()
    def patched(size: int) -> int:
        own = rows[size]
        group = heads[: 1 if size == 1 else max(1, min(len(heads), token_budget(model.device) // own.clean.numel()))]
        positions = own.span(None, own.clean, own.corrupted)
        activation_finals(model, runs[size], group, positions)
        return max(1, int(behind * len(group) * positions.numel()))

    def ablated(size: int) -> int:
        # all heads but one of each layer, another one each time: nothing that the three sets share, no layer that rests
        but = [[node for node in heads_of(model) if node.head != left] for left in range(min(3, model.heads))]
        ablated_differences(model, alike[:size], but, Ablation.RESAMPLE)
        return 5 * rows[size].clean.numel()

    def gradient(size: int) -> int:
        gradients(model, rows[size], runs[size].base.residual[0], outputs)
        return rows[size].clean.numel()

    def attributed(size: int) -> int:
        edge_attribution(model, alike[:size], "eap")
        return rows[size].clean.numel()

    one = rate(patched)
    found = {PATCHED: Rate(one.begun / behind, one.token)}
    several = rate(ablated)
    found[ABLATED] = Rate(several.begun / 5, several.token)
    outputs = [Site("z", layer) for layer in model.attention_layers]
    found[GRADIENT] = rate(gradient)
    if not edges:
        return found
    wiring = Wiring.of(model)
    some = np.random.default_rng(0).random(wiring.allowed.shape) < 0.5
    mask = torch.from_numpy(wiring.allowed & some).to(model.device)
    with torch.no_grad():
        other = reference(model, alike, Ablation.RESAMPLE)
        values = {size: other(own) for size, own in rows.items()}

    @torch.no_grad()
    def masked(size: int) -> int:
        masked_final(model, wiring, mask, rows[size], values[size])
        return rows[size].clean.numel()

    return {**found, MASKED: rate(masked), ATTRIBUTED: rate(attributed)}


def _of_one_length(pairs: Sequence[PromptPair]) -> list[PromptPair]:
    """The pairs of the commonest length of prompt and answer."""

    def size(pair: PromptPair) -> tuple[int, int, int]:
        return len(pair.clean), len(pair.target), len(pair.foil)

    [(common, _)] = Counter(map(size, pairs)).most_common(1)
    return [pair for pair in pairs if size(pair) == common]


def _rows(model: Model, pairs: Sequence[PromptPair]) -> Rows:
    """Them in one batch (of several token answers: the target's rows)."""
    return next(batches(pairs, 10**9, model.device))
