"""What the parts of a circuits study cost, counted from sizes: for the plan, before anything is run.

Passes are counted as the parts make them: a sender of layer l has the blocks behind it recomputed, half of all on
average, at the positions behind what is patched; senders are stacked up to the token budget of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.patching.screen import Screen
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.studies.steps import Cost
from babelscope.tasks import PromptPair
from babelscope.tasks.steps import Step

KEPT = 0.15
"""of the heads that a screen keeps, about"""
STRONG = 0.1
"""of the senders of a search that reach the threshold and are held against the null, at most about"""
EDGE_MASKS = 3 * 12
"""circuits of edges per language: ten budgets, all and none, for CPR, CMD and the size"""
BESIDE = 12
"""circuits beside each language's own: random ones, renamed ones, the control's"""
SINGLE = 60
"""edges confirmed one by one, about: the strongest thirty of three methods overlap"""
BACKWARD = 3
"""forward and backward pass, in forward passes"""


@dataclass(frozen=True)
class Sizes:
    """Sizes from which costs follow: of the model, and of one language's prompts."""

    model: Model
    pairs: Sequence[PromptPair]
    everything: int
    """prompts of all strata"""

    @property
    def tokens(self) -> int:
        return sum(len(pair.clean) for pair in self.pairs)

    @property
    def heads(self) -> int:
        return self.model.layers * self.model.heads

    @property
    def batches(self) -> int:
        return max(1, -(-self.tokens // token_budget(self.model.device)))

    def span(self, role: str | None) -> float:
        """Mean number of positions from a role on (None: from where clean and corrupted first differ)."""
        starts = [_first(pair, role) for pair in self.pairs]
        return max(1.0, sum(len(p.clean) - at for p, at in zip(self.pairs, starts)) / len(self.pairs))

    def sweep(self, senders: float, span: float, pairs: int | None = None) -> Cost:
        """Each sender patched on all pairs (or some), with half of the blocks recomputed at `span` positions."""
        count = len(self.pairs) if pairs is None else min(pairs, len(self.pairs))
        share = count / len(self.pairs)
        mean = self.tokens / len(self.pairs)
        batches = max(1, round(self.batches * share))
        stacked = max(1.0, token_budget(self.model.device) / max(1.0, count / batches * span))
        groups = max(senders / stacked, min(senders, 2.0 * self.model.layers))
        return Cost(tokens=int(count * (senders * span / 2 + 2 * mean)), passes=int(batches * (groups / 2 + 2)))

    def whole(self, times: float, share: float = 1.0) -> Cost:
        """Passes over all prompts, or a share of them."""
        return Cost(tokens=int(times * share * self.tokens), passes=int(times * max(1.0, share * self.batches)))


def _first(pair: PromptPair, role: str | None) -> int:
    if role is not None:
        return pair.roles[role][0] if role in pair.roles else len(pair.clean) - 1
    return next((at for at, (a, b) in enumerate(zip(pair.clean, pair.corrupted)) if a != b), len(pair.clean) - 1)


def patched(sizes: Sizes, screen: Screen | None, spans: Sequence[float], cheaper: str) -> Cost:
    """Sweeps over every head and FFN, or over those that a screen keeps after its own passes."""
    layers = sizes.model.layers
    if screen is None or sizes.heads < screen.fewest:
        return total([sizes.sweep(sizes.heads + layers, span) for span in spans], cheaper)
    kept = KEPT + screen.sample * (1 - KEPT)
    costs = [sizes.sweep(kept * sizes.heads + layers, span) for span in spans]
    costs += [sizes.sweep(sizes.heads, span, screen.trial) for span in spans]
    share = min(1.0, screen.pairs / len(sizes.pairs))
    costs.append(sizes.whole(BACKWARD * (3 + screen.drops), share))
    return total(costs, cheaper)


def searched(sizes: Sizes, screen: Screen | None, steps: Sequence[Step], null: bool) -> Cost:
    """Paths into what was found, step by step; the first one, to the logits, is known from before."""
    costs: list[Cost] = []
    for step in steps:
        if step.through == "logits":
            if step.knocked_out:
                costs.append(sizes.sweep(sizes.heads, 1.0))
        else:
            # senders' way to the receivers, and from these to the answer
            spans = [1.0 if step.at else sizes.span(None), sizes.span(step.at)]
            costs.append(patched(sizes, screen, spans, ""))
        if null:
            strong = sizes.heads * (1.0 if screen is None else STRONG)
            costs.append(sizes.sweep(strong, 1.0 if step.through == "logits" else sizes.span(step.at)))
    return total(costs, "--no-null, --n")


def copying(sizes: Sizes, repeats: Sequence[int], words: int = 64) -> Cost:
    """Attention, and the first part of the vocabulary for every head; its spread from the unembedding's covariance."""
    model = sizes.model
    drawn = sum(20 * 2 * half for half in repeats)
    first = 2 * sizes.heads * words * 4096 / model.vocabulary
    return Cost(
        tokens=3 * sizes.tokens + drawn,
        scored=int(first + model.width),
        passes=3 * sizes.batches + len(repeats) + 2,
        cheaper="--repeats",
    )


def ablated(sizes: Sizes, sets: int) -> Cost:
    """Sets of heads and FFNs, resumed at their first layer; all words are scored for those that are not random."""
    share = sizes.everything / max(1, len(sizes.pairs))
    passes = sizes.whole(sets / 2 + 1, share)
    scored = int(0.6 * sets * sizes.everything)
    return Cost(tokens=passes.tokens, passes=passes.passes, scored=scored, cheaper="--draws, --windows")


def edges(sizes: Sizes, languages: int) -> Cost:
    """Routes, attribution, circuits as masks and single edges, on half of the prompts each."""
    model = sizes.model
    wiring = Wiring.of(model)
    trunk = 12 * model.layers * model.width**2
    products = len(wiring.readers) * len(wiring.writers) / 2 * model.width
    mask = 1.5 + products / trunk
    masks = EDGE_MASKS + languages * BESIDE + 2
    attribution = BACKWARD * (1 + 5 + 1 + 5) + 7 * products / trunk
    return total(
        [
            sizes.whole(2),
            sizes.whole(attribution, 0.5),
            Cost(tokens=int(masks * mask * sizes.tokens / 2), passes=int(masks * MASK_PASSES * sizes.batches / 2) + 1),
            sizes.whole(SINGLE / 2, 0.5),
        ],
        "--no-edges, --n",
    )


MASK_PASSES = 3
"""what the hooks of a masked pass add, in passes"""


def total(costs: Sequence[Cost], cheaper: str) -> Cost:
    """One cost after another."""
    return Cost(
        tokens=sum(one.tokens for one in costs),
        scored=sum(one.scored for one in costs),
        elements=sum(one.elements for one in costs),
        passes=sum(one.passes for one in costs),
        peak_bytes=max((one.peak_bytes for one in costs), default=0),
        cheaper=cheaper,
    )
