"""What the parts of a circuits study cost, counted from sizes: for the plan, before anything is run.

Passes are counted as the parts make them: a sender of layer l has the blocks behind it recomputed, half of all on
average, at the positions behind what is patched; senders are stacked up to the token budget of a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from babelscope.circuits.patching import kept_runs
from babelscope.circuits.patching.screen import POINTS, Screen, spread_over
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.studies.steps import Cost
from babelscope.tasks import PromptPair
from babelscope.tasks.steps import Step

PATCHED, ABLATED, MASKED, GRADIENT, ATTRIBUTED = "patched", "ablated", "masked", "gradient", "attributed"
"""kinds of passes, timed before a plan (`circuit_rates`): a sender's change carried to the end, nodes taken out, a
circuit of edges, a pass and its gradient, all edges attributed by one gradient"""
KEPT = 0.15
"""of the heads that a screen keeps, about"""
RECEIVERS = 5
"""heads that a step of the search finds for the next one to reach, about: of the circuit that Wang et al. (2022) give,
3 name movers, 4 S-inhibition heads, 7 induction and duplicate-token heads"""
HALF = 0.5
"""of the blocks, behind (or before) a place that may be anywhere"""
MLP_PART = 2 / 3
"""of what a block multiplies, about, that its MLP does: 8·D² of 12·D²"""
BETWEEN = RECEIVERS / (2 * (RECEIVERS + 2))
"""of the blocks, expected between a sender and the last of so many receivers, all anywhere (none for a sender behind
them), and likewise from the first receiver that it reaches to the end"""
TAKEN, WINDOWED, ALONE, RANKED = 0.92, 0.45, 0.73, 0.2
"""blocks of a pass that are computed, of all: without a set of heads (resumed at the first of them), without a window
of FFNs, with a ranking's first heads alone, and heads and MLPs likewise; counted at 24 layers of 16 heads"""
STEPPED, NODES = 0.55, 3.0
"""of an attribution of all edges, a step more of integrated gradients; of a gradient, scores of all nodes"""
STRONG = 0.1
"""of the senders of a search that reach the threshold and are held against the null, at most about"""
EDGE_MASKS = 3 * 9
"""circuits of edges per language: ten budgets for CPR, CMD and the size, of which the last is the whole model"""
NODE_MASKS = 2 * 9
"""circuits of nodes likewise, for CPR and CMD"""
BESIDE = 12
"""circuits beside each language's own: random ones, renamed ones, the control's"""
SINGLE, INPUTS = 60, 60
"""edges confirmed one by one, and queries and keys, about: the strongest of several methods overlap"""
SKEWED = 1.2e-7
"""seconds for one drawn value of the reference that reckons with skewness (`circuits.core.skew`)"""
REFERENCES = 3
"""references that a language needs, about, of 200 000 samples each"""


@dataclass(frozen=True)
class Leg:
    """Part of a patched pass: positions that are run, and the share of the blocks."""

    span: float
    share: float = HALF


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
        """Of all prompts."""
        return self.batches_of(self.pairs)

    def batches_of(self, pairs: Sequence[PromptPair]) -> int:
        """Prompts run together only where they are equally long, with their answers."""
        lengths = Counter(
            length
            for pair in pairs
            for length in (
                [(len(pair.clean), 1)]
                if len(pair.target) == len(pair.foil) == 1
                else [(len(pair.clean), len(answer)) for answer in (pair.target, pair.foil)]
            )
        )
        budget = token_budget(self.model.device)
        return sum(-(-count // max(1, budget // sum(length))) for length, count in lengths.items())

    def span(self, role: str | None) -> float:
        """Mean number of positions from a role on (None: from where clean and corrupted first differ)."""
        starts = [_first(pair, role) for pair in self.pairs]
        return max(1.0, sum(len(p.clean) - at for p, at in zip(self.pairs, starts)) / len(self.pairs))

    def width(self, role: str) -> float:
        """Mean number of positions of a role."""
        ends = [pair.roles.get(role, (0, 1)) for pair in self.pairs]
        return sum(end - start for start, end in ends) / len(ends)

    def sweep(
        self,
        heads: float,
        mlps: float,
        legs: Sequence[Leg],
        pairs: Sequence[PromptPair] | None = None,
        together: int = 0,
        anew: float = 1.0,
    ) -> Cost:
        """Each head and MLP patched on all pairs (or some), with a share of the blocks recomputed on each leg.

        Those of a layer are stacked, or those of several layers in so many groups at least (`together`). `anew`: share
        of the clean and corrupted runs that were not kept from an earlier sweep.
        """
        pairs = self.pairs if pairs is None else pairs
        count, batches = len(pairs), max(1, self.batches_of(pairs))
        plain = Cost(tokens=int(anew * 2 * count * self.tokens / len(self.pairs)), passes=int(anew * 2 * batches))
        parts: list[Cost] = []
        stacked = max(1.0, token_budget(self.model.device) / max(1.0, count / batches * max(leg.span for leg in legs)))
        groups = (heads + mlps) / stacked
        groups = max(groups, float(together) or min(heads, float(self.model.layers)))
        for leg in legs:
            tokens, passes = count * (heads + mlps) * leg.span * leg.share, batches * groups * leg.share
            parts.append(Cost(tokens=int(tokens), passes=int(passes), kind=PATCHED))
        return replace(plain, parts=tuple(parts))

    def not_kept(self, mlps: bool, beside: float = 0.0) -> float:
        """Share of all clean and corrupted runs that find no place among those kept; `beside`: bytes taken before."""
        return 1 - min(1.0, max(0.0, kept_runs.room(self.model.device) - beside) / self.kept_bytes(mlps))

    def kept_bytes(self, mlps: bool) -> int:
        """Of all clean and corrupted runs."""
        return self.tokens * kept_runs.run_bytes(self.model, mlps)

    def whole(self, times: float, share: float = 1.0, kind: str = "") -> Cost:
        """Passes over all prompts, or a share of them, in which every length still makes a batch."""
        batches = self.batches if share == 1 else max(1.0, 0.8 * self.batches)
        return Cost(tokens=int(times * share * self.tokens), passes=int(times * batches), kind=kind)


def _first(pair: PromptPair, role: str | None) -> int:
    if role is not None:
        return pair.roles[role][0] if role in pair.roles else len(pair.clean) - 1
    return next((at for at, (a, b) in enumerate(zip(pair.clean, pair.corrupted)) if a != b), len(pair.clean) - 1)


def patched(
    sizes: Sizes,
    screen: Screen | None,
    sweeps: Sequence[Sequence[Leg]],
    cheaper: str,
    gradients: float = 0.0,
    mlps: bool = True,
    together: int = 0,
    anew: Sequence[float] = (),
) -> Cost:
    """Sweeps over every head (and FFN), or over those that a screen keeps; `gradients`: passes with a gradient.

    `anew`: for each sweep the share of runs that it has to make; without it, all of them.
    """
    anew = anew or [1.0] * len(sweeps)
    beside, count = sizes.model.layers if mlps else 0, len(sizes.pairs)
    if screen is None or sizes.heads < screen.fewest or count <= screen.trial:
        return total(
            [sizes.sweep(sizes.heads, beside, legs, None, together, made) for legs, made in zip(sweeps, anew)], cheaper
        )
    kept = KEPT + screen.sample * (1 - KEPT)
    first = spread_over(range(count), screen.trial)
    rounds = (
        (1.0, [sizes.pairs[place] for place in first]),
        (kept, [sizes.pairs[place] for place in range(count) if place not in first]),
    )
    costs = [
        sizes.sweep(part * sizes.heads, beside, legs, pairs, together, made)
        for legs, made in zip(sweeps, anew)
        for part, pairs in rounds
    ]
    share = min(1.0, screen.pairs / count)
    costs.append(sizes.whole(gradients, share, GRADIENT))
    costs.append(sizes.whole(2.0, share))
    return total(costs, cheaper)


def role_sweeps(sizes: Sizes, roles: Sequence[str | None]) -> list[list[Leg]]:
    """One sweep of outputs at the positions of each role; the MLP behind the heads is run at these alone."""
    own = MLP_PART / sizes.model.layers
    return [
        [Leg(sizes.span(role))] if role is None else [Leg(sizes.width(role), own), Leg(sizes.span(role), HALF - own)]
        for role in roles
    ]


def on_the_same(sizes: Sizes, sweeps: int) -> list[float]:
    """Runs that sweeps over the main prompts make: the first of them all, the others what was not kept."""
    return [1.0, *[sizes.not_kept(mlps=True)] * (sweeps - 1)]


def path_sweep(sizes: Sizes, at: str | None) -> list[Leg]:
    """Senders' way to the receivers, at their positions, and from these to the answer."""
    return [Leg(1.0 if at else sizes.span(None), BETWEEN), Leg(sizes.span(at), BETWEEN)]


def to_logits(sizes: Sizes, heads: float, mlps: float, cheaper: str = "", anew: float = 1.0) -> Cost:
    """Paths to the logits: one position, senders of all layers together."""
    return replace(sizes.sweep(heads, mlps, [Leg(1.0)], together=1, anew=anew), cheaper=cheaper)


def views(screen: Screen | None) -> int:
    """Gradients that a screen takes of a prompt."""
    return 0 if screen is None else len(POINTS) + screen.drops


def path_views(screen: Screen | None, apart: bool) -> float:
    """Of a screen of paths: none that the main prompts' screen of outputs has taken already (`apart`: other prompts).

    A layer that is dropped before the first of the receivers changes nothing.
    """
    if screen is None or not apart:
        return 0.0
    return len(POINTS) + screen.drops * RECEIVERS / (RECEIVERS + 1)


def swept(sizes: Sizes, senders: int, spans: Sequence[float], cheaper: str) -> Cost:
    """Sweeps over so many experts, one at each span of positions."""
    return total([sizes.sweep(senders, 0, [Leg(span)]) for span in spans], cheaper)


def searched(sizes: Sizes, screen: Screen | None, steps: Sequence[Step], null: bool) -> Cost:
    """Paths into what was found, step by step; the first one, to the logits, is known from before."""
    costs: list[Cost] = []
    known: set[str] = set()  # corruptions of which the null's runs were made
    main = sizes.kept_bytes(mlps=True)
    for step in steps:
        beside = sizes.model.layers if step.mlps else 0
        strong = sizes.heads * (1.0 if screen is None else STRONG)
        apart = step.corruption != ""
        again = step.corruption in known and not step.knocked_out  # heads that are knocked out change the runs
        anew = sizes.not_kept(mlps=False, beside=main) if again else 1.0
        if null and not step.knocked_out:
            known.add(step.corruption)
        if step.through == "logits":
            if step.knocked_out:
                costs.append(to_logits(sizes, sizes.heads, beside))
            if null:
                costs.append(to_logits(sizes, strong, 0, anew=anew))
        else:
            legs = path_sweep(sizes, step.at)
            made = [1.0 if apart else sizes.not_kept(mlps=True)]
            costs.append(patched(sizes, screen, [legs], "", path_views(screen, apart), step.mlps, RECEIVERS, made))
            if null:
                costs.append(sizes.sweep(strong, 0, legs, None, RECEIVERS, anew))
    return total(costs, "--no-null, --n")


def copying(sizes: Sizes, repeats: Sequence[int], words: int = 64) -> Cost:
    """Attention, and the first part of the vocabulary for every head; its spread from the unembedding's covariance."""
    model = sizes.model
    drawn = sum(20 * 2 * half for half in repeats)
    first = 2 * sizes.heads * words * min(1.0, 4096 / model.vocabulary)
    return Cost(
        tokens=5 * sizes.tokens + drawn,
        scored=int(first + model.width),
        passes=5 * sizes.batches + len(repeats) + 2,
        seconds=REFERENCES * 200_000 * SKEWED * len(sizes.pairs),
        cheaper="--repeats",
    )


def ablated(sizes: Sizes, sets: int, windows: int) -> Cost:
    """Sets of heads, and windows of FFNs; all words are scored for those that are not random."""
    share = sizes.everything / max(1, len(sizes.pairs))
    passes = sizes.whole(TAKEN * sets + WINDOWED * windows, 1.0, ABLATED)
    scored = int(0.6 * (sets + windows) * sizes.everything)
    tokens = int(share * passes.tokens)
    return Cost(scored=scored, cheaper="--draws, --windows", parts=(replace(passes, tokens=tokens), sizes.whole(2.0)))


def faithful(sizes: Sizes, circuits: int) -> Cost:
    """Circuits of a ranking's first heads, all other heads taken out; clean and ablated runs for these, and for
    circuits of other languages."""
    return total([sizes.whole(ALONE * circuits, kind=ABLATED), sizes.whole(4.0)], "--draws")


def edges(sizes: Sizes, languages: int) -> Cost:
    """Routes, attribution, circuits as masks and single edges, on half of the prompts each."""
    masks = EDGE_MASKS + languages * BESIDE + 2
    # each step of integrated gradients beyond the first shares its products with the others
    attributed = 2 + 2 * (1 + 4 * STEPPED)
    return total(
        [
            sizes.whole(2),
            sizes.whole(attributed, 0.5, ATTRIBUTED),
            sizes.whole(NODES, 0.5, GRADIENT),
            sizes.whole(masks, 0.5, MASKED),
            sizes.whole(RANKED * NODE_MASKS, 0.5, ABLATED),
            *(sizes.sweep(count, 0, [Leg(sizes.span(None))], sizes.pairs[::2]) for count in (SINGLE, INPUTS)),
        ],
        "--no-edges, --n",
    )


def total(costs: Sequence[Cost], cheaper: str) -> Cost:
    """One cost after another."""
    return Cost(peak_bytes=max((one.peak_bytes for one in costs), default=0), cheaper=cheaper, parts=tuple(costs))
