"""What claims measure, as a table: name → function from a case to parts, each with interval, n and control.

A measure without a control cannot be registered: each part carries the 97.5 % point of its control draws (the 2.5 %
point for `less`), or its docstring says why none is needed (the null is subtracted already). Beside it stand the models
and data of its quick run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from babelscope.claims.case import Case
from babelscope.claims.measures import (
    amplified,
    circuits,
    facts,
    heads,
    lens,
    neurons,
    patching,
    probes,
    regions,
    residual,
    routing,
    steering,
    sweeps,
    tense,
)
from babelscope.claims.verdict import Part
from babelscope.errors import InputError

Measured = Callable[[Case], list[Part]]
SIZES = ("pocket:pocket-bloom-s", "pocket:pocket-bloom-m", "pocket:pocket-bloom-l")
APART = ("pocket:pocket-gpt2-en", "pocket:pocket-gpt2-zh")
POINTS = tuple(
    f"pocket:pocket-bloom-m@{name}"
    for name in ("step16", "step64", "step256", "step512", "step1024", "step2048", "step4096", "main")
)
TRAINING = ("pocket:pocket-bloom-m@step16", "pocket:pocket-bloom-m@main")


@dataclass(frozen=True)
class Measure:
    """A measure, what runs it on a real model, and its quick run."""

    of: Measured
    models: tuple[str, ...] = ("pocket:pocket-bloom-m",)
    """of the quick run"""
    corpus: str = "pocket:heldout"
    texts: str = "pocket:heldout?seed=1"
    n: int = 60
    draws: int = 40
    tokens: int = 512
    passes: str = "one pass over the sentences"
    """what a run costs, in words"""

    def case(self, seed: int = 0) -> Case:
        """The quick run."""
        return Case(self.models, self.corpus, self.texts, self.n, seed, self.draws, tokens=self.tokens)


_SWITCHED = "one pass over the sentences, then (1 + languages + draws) passes over the text of all languages"
MEASURES: Mapping[str, Measure] = {
    "regions.lrds": Measure(regions.lrds),
    "regions.sads": Measure(regions.sads),
    "regions.excess_sklr": Measure(regions.excess_sklr),
    "regions.excess_region": Measure(regions.excess_region),
    "regions.depth_contrast": Measure(regions.depth_contrast, n=280),
    "regions.lape_depth": Measure(regions.lape_depth, passes="25 passes over the sentences"),
    "perplexity.selectivity": Measure(regions.selectivity, passes=_SWITCHED),
    "perplexity.selectivity_lape": Measure(regions.selectivity_lape, passes=_SWITCHED),
    "perplexity.relevance_gain": Measure(
        regions.relevance_gain,
        tokens=1024,
        passes="one forward and backward pass over the text, then (1 + 2·languages + languages·draws/8) passes over it",
    ),
    "sweep.alignment": Measure(sweeps.alignment_grows, TRAINING, n=120, passes="one pass a point, and the stories"),
    "sweep.regions": Measure(sweeps.regions_shrink, TRAINING, n=200, passes="one pass a point"),
    "sweep.scale": Measure(sweeps.scale, SIZES, n=200, passes="one pass a model, and the stories"),
    "sweep.similarity": Measure(residual.similarity_falls, SIZES, n=120, passes="one pass a model"),
    "alignment.cosine_gap": Measure(residual.cosine_gap),
    "alignment.mexa_accuracy": Measure(residual.mexa_accuracy, passes="one pass over the sentences, and the stories"),
    "latent.english_pivot": Measure(
        lens.english_pivot, ("pocket:planted-pivot",), "planted", passes="one pass over a prompt a concept"
    ),
    "latent.two_latent": Measure(
        lens.two_latent,
        ("pocket:planted-pivot", "pocket:planted-none"),
        "planted",
        passes="one pass over a prompt a concept, for each model",
    ),
    "patching.language_first": Measure(
        patching.language_first, ("pocket:planted-early",), "planted", n=40, passes="about 40 short passes a pair"
    ),
    "patching.mean_gain": Measure(
        patching.mean_helps, ("pocket:planted-noisy",), "planted", n=40, passes="about 40 short passes a pair"
    ),
    "routing.depth_contrast": Measure(routing.depth_contrast, ("pocket:pocket-moe",), n=200),
    "routing.correlation": Measure(
        routing.accuracy_correlation, ("pocket:pocket-moe",), passes="one pass over the sentences, and the stories"
    ),
    "routing.family_gap": Measure(routing.family_gap, ("pocket:pocket-moe",)),
    "circuits.agreement": Measure(
        circuits.ioi_shared, n=288, passes="about 20 forward and backward passes over the prompts"
    ),
    "circuits.role_match": Measure(
        heads.role_match, APART, n=40, passes="roles of both models, and of as many random ones as draws"
    ),
    "circuits.roles": Measure(
        heads.negative_movers, APART, n=120, passes="roles of both models, and of six random ones; one pass a prompt"
    ),
    "circuits.tense_heads": Measure(
        tense.heads_of_tense, n=80, passes="paths of all heads, then one pass over the prompts a set of heads"
    ),
    "circuits.tense_ffn": Measure(tense.ffn_windows, n=60, passes="one pass over the prompts a window"),
    "latent.loss_layer": Measure(
        facts.lost_at_the_end, ("pocket:planted-lossy",), "planted", passes="one pass over a prompt a fact and language"
    ),
    "neurons.few_shared": Measure(
        neurons.few_shared,
        n=120,
        passes="one pass over the sentences, then three continuations a prompt and language",
    ),
    "sweep.concept_overlap": Measure(neurons.concept_overlap, TRAINING, n=800, passes="one pass a point"),
    "sweep.dip": Measure(probes.overlap_dips, POINTS, n=160, passes="one pass a point"),
    "evaluation.accuracy_change": Measure(
        amplified.no_gain,
        ("pocket:pocket-bloom-m@step2048",),
        n=120,
        passes="one pass over the sentences, and the stories of each language three times",
    ),
    "steering.arithmetic_gain": Measure(
        steering.arithmetic_gain, corpus="pocket:heldout?n=240", n=64, passes="about 14 generations of each prompt"
    ),
}
"""name in a claim file → what it measures"""


def measured(name: str, case: Case) -> Sequence[Part]:
    """The parts of a measure on a case. Raises InputError for an unknown measure."""
    if name not in MEASURES:
        raise InputError(f"there is no measure {name!r}; measures: {', '.join(MEASURES)}")
    return MEASURES[name].of(case)


__all__ = ["MEASURES", "Measure", "measured"]
