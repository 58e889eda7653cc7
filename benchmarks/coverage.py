"""How often each kind of 95 % interval that the package prints holds the truth, on simulated documents.

    python -m benchmarks.coverage            nightly (`make calibration`): 1000 runs a row
    python -m benchmarks.coverage --quick    200 runs a row

Documents are normal or skewed (exponential, one long tail); truths are known, or the mean over all runs where a number
depends on the size of the corpus. Between 0.93 and 0.97 an interval is what it says. Ends with status 1 where a row
lies below that beyond the error of the simulation and runs do not say so (`FEW_DOCUMENTS`, `KNOWN`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from babelscope import stats
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.faithfulness import Curve, Scored
from babelscope.circuits.core.nodes import Head
from babelscope.latent.inference import simultaneous
from babelscope.latent.separation import _chosen, _interval, _shares
from babelscope.proportions import change_of_share, mean_share
from babelscope.regions.alignment import alignment
from babelscope.regions.contrast import contrast
from babelscope.regions.document_means import whole_intervals
from babelscope.regions.headlines import headlines
from babelscope.regions.nulls import excess_interval, score_null
from babelscope.regions.recording import Recording
from babelscope.regions.stability import bootstrap_regions

Make = Callable[[np.random.Generator], stats.Interval]


def drawn(rng: np.random.Generator, shape: tuple[int, ...], skewed: bool) -> stats.Array:
    """Values of mean 0 and variance 1."""
    return rng.exponential(1, shape) - 1 if skewed else rng.standard_normal(shape)


def change_of_loss(documents: int, skewed: bool) -> Make:
    """ΔNLL of 0.3 nats a token, documents of unequal length."""

    def make(rng: np.random.Generator) -> stats.Interval:
        sizes = rng.integers(50, 500, documents)
        per_token = 0.3 + 0.3 * drawn(rng, (documents,), skewed)
        return stats.ratio_t(per_token * sizes, sizes, 400, int(rng.integers(1 << 30)))

    return make


def selectivity(documents: int, skewed: bool, parallel: bool) -> Make:
    """Own 0.3 minus the mean 0 of four others."""

    def make(rng: np.random.Generator) -> stats.Interval:
        shared = drawn(rng, (documents,), skewed) if parallel else np.zeros(documents)
        own = 0.3 + 0.5 * (shared + drawn(rng, (documents,), skewed))
        others = [0.2 * (shared + drawn(rng, (documents,), skewed)) for _ in range(4)]
        seed = int(rng.integers(1 << 30))
        difference = own - np.mean(others, 0)
        return stats.bootstrap_mean(difference, 400, seed) if parallel else stats.welch_t(own, others, 400, seed)

    return make


def proportion(items: int, share: float) -> Make:
    """Wilson's interval of a share."""
    return lambda rng: stats.wilson(int(rng.binomial(items, share)), items)


def mean(items: int, skewed: bool) -> Make:
    """Mean over independent items, such as a logit difference over prompts."""
    return lambda rng: stats.bootstrap_mean(drawn(rng, (items,), skewed), 400, int(rng.integers(1 << 30)))


def change(items: int, share: float) -> Make:
    """Change of accuracy over the same items: a share of them is answered wrongly that was answered rightly."""
    right = np.ones(items, dtype=bool)
    return lambda rng: change_of_share(right, rng.random(items) >= share)


def answers(items: int, share: float, alike: float) -> Make:
    """Mean accuracy of nine languages, which in a share `alike` of the items answer as one."""

    def make(rng: np.random.Generator) -> stats.Interval:
        one = rng.random(items) < share
        right = np.where(rng.random(items) < alike, one, rng.random((9, items)) < share)
        return mean_share({str(n): dict(zip(map(str, range(items)), row.tolist())) for n, row in enumerate(right)})

    return make


def recovery(concepts: int, skewed: bool) -> Make:
    """Recovery of patching (0.7), at the best of four layers."""

    def make(rng: np.random.Generator) -> stats.Interval:
        room = 0.6 + 0.15 * drawn(rng, (concepts,), skewed)
        curves = np.outer(room, [0.2, 0.4, 0.7, 0.5]) + 0.15 * drawn(rng, (concepts, 4), skewed)
        halves = np.arange(concepts) % 2
        parts = _shares(curves, np.zeros(concepts), room, halves, _chosen(curves, halves))
        return _interval(parts, 400, int(rng.integers(1 << 30)))

    return make


def head(prompts: int, skewed: bool) -> Make:
    """Effect of a head, −0.3 of a logit difference that itself varies."""

    def make(rng: np.random.Generator) -> stats.Interval:
        base = 8 + 3 * drawn(rng, (prompts,), skewed)
        change = -0.3 * base + 2 * drawn(rng, (prompts,), skewed)
        found = Effects((Head(0, 0),), (base + change)[None], base, base)
        low, high = found.interval(400, int(rng.integers(1 << 30)))
        return stats.Interval(float(found.effect[0]), float(low[0]), float(high[0]))

    return make


def circuit(name: str, prompts: int, skewed: bool) -> Make:
    """Faithfulness of a circuit (0.7), and the areas of a curve over four budgets."""

    def make(rng: np.random.Generator) -> stats.Interval:
        whole, empty = 8 + 3 * drawn(rng, (prompts,), skewed), drawn(rng, (prompts,), skewed)
        shares = np.array([[0.1], [0.4], [0.7], [0.9]])
        noise = drawn(rng, (4, prompts), skewed)
        scored = Scored(empty + shares * (whole - empty) + noise, empty, whole)
        if name == "faithfulness":
            return scored.intervals(400, int(rng.integers(1 << 30)))[2]
        return Curve(name, (0.0, 0.1, 0.3, 1.0), (1, 2, 3, 4), scored).interval(400, int(rng.integers(1 << 30)))  # type: ignore[arg-type]

    return make


def band(items: int, skewed: bool) -> Make:
    """Band over eight layers of a lens (`simultaneous`): 0 is inside where it is inside in all layers."""

    def make(rng: np.random.Generator) -> stats.Interval:
        shared = drawn(rng, (1, items), skewed)
        found = simultaneous(shared + drawn(rng, (8, items), skewed), 400, int(rng.integers(1 << 30)))
        return stats.Interval(0.0, float(found.low.max()), float(found.high.min()))

    return make


def recording(rng: np.random.Generator, documents: int, skewed: bool, languages: int = 6, width: int = 40) -> Recording:
    """Documents of four sentences; manner and subject are stronger in some."""
    n = 4 * documents
    fixed = np.random.default_rng(7).uniform(-1, 1, (languages, 1, width))

    def strength() -> stats.Array:
        return np.repeat(1 + 0.4 * drawn(rng, (documents, 1), skewed), 4, axis=0)

    v = 1 + fixed * strength() + rng.standard_normal((n, width)) * strength()
    v = v + rng.standard_normal((languages, n, width))
    codes = ("en", "zh", "fr", "es", "pt", "ar")[:languages]
    ids = tuple(map(str, range(n)))
    labels = tuple(str(place // 4) for place in range(n))
    return Recording(codes, ids, 1, v, torch.full((languages, n), 20), 0.0, documents=labels)


def scores(name: str, documents: int, skewed: bool) -> Make:
    """LRDS or SADS of a recording."""
    return lambda rng: whole_intervals(recording(rng, documents, skewed))[name]


def aligned(name: str, documents: int, skewed: bool) -> Make:
    """An alignment metric of the only layer, mean over pairs of languages."""

    def make(rng: np.random.Generator) -> stats.Interval:
        (found,) = alignment(recording(rng, documents, skewed, 3), [name])
        ends = (float(one[0]) for one in (found.mean, found.mean_low, found.mean_high))
        return stats.Interval(*ends, why=found.why)

    return make


def headline(name: str, documents: int, skewed: bool) -> Make:
    """Language share or N(d > 0.5)."""
    return lambda rng: getattr(headlines(recording(rng, documents, skewed)), name)


def effect(documents: int, skewed: bool) -> Make:
    """d of one neuron."""

    def make(rng: np.random.Generator) -> stats.Interval:
        found = contrast(recording(rng, documents, skewed))
        return stats.Interval(*(float(one[0, 0]) for one in (found.d, found.d_low, found.d_high)))

    return make


def excess(documents: int, skewed: bool) -> Make:
    """Excess SKLR."""

    def make(rng: np.random.Generator) -> stats.Interval:
        run = recording(rng, documents, skewed, width=120)
        seed = int(rng.integers(1 << 30))
        resampled = bootstrap_regions(run, 60, seed=seed).sizes.sum(1)
        return excess_interval(score_null(run, 20, seed=seed), resampled, documents)

    return make


def rows() -> Iterator[tuple[str, str, Make, float | None]]:
    """Number, situation, how one interval is made, its truth (None: the mean over runs)."""
    for documents in (3, 5, 15, 40):
        for skewed in (False, True):
            said = f"{documents} documents, {'skewed' if skewed else 'normal'}"
            yield "ΔNLL, perplexity increase", said, change_of_loss(documents, skewed), 0.3
            yield "selectivity, parallel", said, selectivity(documents, skewed, True), 0.3
            yield "selectivity, not parallel", said, selectivity(documents, skewed, False), 0.3
    for items, share in ((20, 0.9), (50, 0.5), (50, 0.98)):
        yield "proportion, Wilson", f"{items} items, share {share}", proportion(items, share), share
    for items, share in ((10, 0.1), (10, 0.5), (40, 0.1), (40, 0.5), (100, 0.05)):
        yield "change of accuracy", f"{items} items, share {share}", change(items, share), -share
    for items in (10, 40):
        for skewed in (False, True):
            said = f"{items} items, {'skewed' if skewed else 'normal'}"
            yield "mean over items (logit difference, change)", said, mean(items, skewed), 0.0
            yield "effect of a head", said, head(items, skewed), -0.3
            yield "faithfulness", said, circuit("faithfulness", items, skewed), 0.7
            yield "CPR", said, circuit("cpr", items, skewed), 0.695
            yield "CMD", said, circuit("cmd", items, skewed), 0.305
            yield "band over layers of a lens", said, band(items, skewed), 0.0
            yield "recovery of patching", said, recovery(items, skewed), 0.7
    for items, share, alike in ((20, 0.9, 0.5), (50, 0.7, 0.9), (50, 0.7, 0.0), (100, 0.98, 0.5)):
        said = f"{items} items, share {share}, {alike:.0%} alike"
        yield "mean accuracy of nine languages", said, answers(items, share, alike), share
    for documents in (3, 5, 15):
        for skewed in (False, True):
            said = f"{documents} documents, {'skewed' if skewed else 'normal'}"
            yield "LRDS", said, scores("lrds", documents, skewed), None
            yield "SADS", said, scores("sads", documents, skewed), None
            yield "MEXA, mean over pairs", said, aligned("mexa", documents, skewed), None
            yield "CKA, mean over pairs", said, aligned("cka", documents, skewed), None
            yield "SADS centred, mean over pairs", said, aligned("sads-centred", documents, skewed), None
            yield "ANC, mean over pairs", said, aligned("anc", documents, skewed), None
            yield "language share", said, headline("language_share", documents, skewed), None
            yield "N(d > 0.5)", said, headline("strong_neurons", documents, skewed), None
            yield "d of a neuron", said, effect(documents, skewed), None
    yield "ANC, mean over pairs", "30 documents, skewed", aligned("anc", 30, True), None
    for documents in (5, 15):
        yield "excess SKLR", f"{documents} documents, normal", excess(documents, False), None


def coverage(make: Make, truth: float | None, runs: int) -> stats.Interval:
    """Share of intervals that hold the truth, among those that could be made, with Wilson's interval, and what the
    intervals say of themselves."""
    made = [make(np.random.default_rng(seed)) for seed in range(runs)]
    known = [one for one in made if one.low == one.low]
    value = float(np.mean([one.value for one in made])) if truth is None else truth
    found = stats.wilson(sum(one.low <= value <= one.high for one in known), len(known))
    return replace(found, why=known[0].why if known else "")


KNOWN = {
    ("proportion, Wilson", "50 items, share 0.98"): "docs/statistics.md says so",
}
"""rows below 0.93 of which the documentation tells"""


def main(runs: int) -> int:
    """Print the table; 1 where an interval is too narrow and nothing says so, else 0."""
    print(f"| number | documents or items | coverage of 95 % ({runs} runs) | |\n|---|---|---:|---|")
    unsaid = 0
    for name, situation, make, truth in rows():
        found = coverage(make, truth, runs)
        said = "" if found.high >= 0.93 and found.low <= 0.97 else "too narrow" if found.value < 0.95 else "too wide"
        documents = int(situation.split()[0]) if "documents" in situation else stats.TOLD_DOCUMENTS
        if said == "too narrow":
            known = KNOWN.get((name, situation), "")
            known = known or found.why or stats.documents_why(documents)
            said, unsaid = (f"{said}; {known}", unsaid) if known else (said, unsaid + 1)
        print(
            f"| {name} | {situation} | {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) | {said} |", flush=True
        )
    return int(unsaid > 0)


if __name__ == "__main__":
    sys.exit(main(200 if "--quick" in sys.argv else 1000))
