"""Ways to find language regions, behind one interface and on one recording, so that they can be compared.

    contrast            mean above that of the other languages by an effect size, over documents (the default)
    z-score             contribution to the similarity within the language, z > threshold (the paper)
    fdr                 the same z, but kept by Benjamini–Hochberg on its permutation p-values
    fdr-effect          contribution above the languages' mean, kept likewise; regions may overlap
    lape                language activation probability entropy (Tang et al. 2024)
    average-precision   how well the neuron alone tells the language from the rest (Kojima et al. 2024)
    eta-squared         share of the neuron's variance that lies between languages
    mean-difference     one language against the rest, Welch's t, Benjamini–Hochberg
    relevance           gradient × activation of the language's loss, beyond that of the others (after CRANE)
    random, random-layer   controls of the same size (and depth) as another method's regions

An installed package adds further ones (docs/extending.md).

L language · n sentence · D neuron
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.outside import Rows
from babelscope.regions import contrasts, localisation
from babelscope.regions.contrast import Contrast, ContrastSettings, contrast
from babelscope.regions.lape import lape
from babelscope.regions.masks import RegionSet, from_matrix, random_region, random_region_by_layer
from babelscope.regions.nulls import ScoreNull, score_null
from babelscope.regions.recording import Recording
from babelscope.regions.routed_lape import routed_lape
from babelscope.stats import benjamini_hochberg
from babelscope.terms import Sign


@dataclass(frozen=True)
class Choices:
    """Settings of all methods; each reads its own."""

    threshold: float = 2.0
    """on z (z-score)"""
    permutations: int = 1000
    """draws of the null (fdr, fdr-effect)"""
    rate: float = 0.05
    """false discovery rate (fdr, fdr-effect, mean-difference)"""
    share: float = 0.01
    """of all neurons: per language (average-precision, relevance), in all (eta-squared, lape)"""
    quantile: float = 0.95
    """an activation probability above this quantile of all counts as active (lape)"""
    effect: float = 0.0
    """least standardised difference (mean-difference)"""
    seed: int = 0
    """of permutations and random regions"""
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    """of contrast"""
    disjoint: bool = False
    """leave each neuron to the language of its best score"""


@dataclass(frozen=True)
class Found:
    """Scores and membership by language and neuron."""

    scores: Float[Tensor, "L D"]
    members: Bool[Tensor, "L D"]


@dataclass(frozen=True)
class Given:
    """What a method may lean on besides the recording."""

    like: RegionSet | None = None
    """regions whose size random ones take"""
    null: ScoreNull | None = None
    """permutations already made"""
    relevance: Float[Tensor, "L D"] | None = None
    """selective relevance of every neuron for each language's loss (`regions.relevance`)"""


Method = Callable[[Recording, Choices, Given], Found]


def localise(
    recording: Recording,
    method: str = "z-score",
    choices: Choices | None = None,
    like: RegionSet | None = None,
    null: ScoreNull | None = None,
    facts: Mapping[str, object] | None = None,
    relevance: Float[Tensor, "L D"] | None = None,
    **changes: object,
) -> RegionSet:
    """Regions of every language by one method, with each neuron's score; `changes` are Choices by name.

    Raises InputError for an unknown method, for lape without recorded activity, for random without `like`, for
    relevance that was not measured, and UnattainableThreshold for z.

    >>> localise(recording, "lape", share=0.02).sizes                  # doctest: +SKIP
    {'en': 14, 'zh': 22, 'fr': 11}
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}; there are {', '.join(METHODS)}")
    chosen = replace(choices or Choices(), **changes)
    run = METHODS[method]
    with METHODS.running(method):
        found = _checked(run(recording, chosen, Given(like, null, relevance)), recording)
    members = exclusive(found.scores, found.members) if chosen.disjoint else found.members
    return from_matrix(
        members,
        recording.languages,
        recording.layout,
        found.scores,
        method=method,
        facts={"choices": asdict(chosen), "sentences": len(recording.ids), **(facts or {})},
    )


def _checked(found: Found, recording: Recording) -> Found:
    """What a method gave; TypeError or ValueError where it is no score and no membership of every neuron."""
    if not isinstance(found, Found):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"it gives {type(found).__name__}, not Found")
    shape = (len(recording.languages), recording.neurons)
    if tuple(found.scores.shape) != shape or tuple(found.members.shape) != shape or found.members.dtype != torch.bool:
        raise ValueError(f"scores and members (bool) must be [language, neuron], here {list(shape)}")
    return found


def exclusive(scores: Float[Tensor, "L D"], members: Bool[Tensor, "L D"]) -> Bool[Tensor, "L D"]:
    """Membership in the language of the best score only, so that regions do not overlap."""
    best = scores.masked_fill(~members, -torch.inf).argmax(0)
    return members & (torch.arange(len(scores))[:, None] == best)


def _rejected(p: Float[Tensor, "L D"], rate: float) -> Bool[Tensor, "L D"]:
    return torch.from_numpy(benjamini_hochberg(p.numpy(), rate))


def by_contrast(recording: Recording, choices: Choices, _given: Given) -> Found:
    """Neurons whose mean in a language stands apart; scored by effect size, −∞ where a neuron has none."""
    found = contrast(recording, choices.contrast, choices.seed)
    return Found(ranked(found, choices.contrast.sign), found.members(choices.contrast.sign))


def ranked(found: Contrast, sign: Sign) -> Float[Tensor, "L D"]:
    """Effect sizes such that the largest are those of the regions' sign; −∞ where a neuron has none."""
    d = {"raised": found.d, "lowered": -found.d, "both": found.d.abs()}[sign]
    return d.nan_to_num(nan=-torch.inf)


def z_score(recording: Recording, choices: Choices, _given: Given) -> Found:
    """The paper's regions (eq. 10–14)."""
    localisation.check_threshold(choices.threshold, len(recording.languages))
    scores = localisation.within_language_scores(localisation.within_language_sums(recording))
    z = localisation.standard_scores(scores)
    return Found(z, z > choices.threshold)


def fdr(recording: Recording, choices: Choices, given: Given) -> Found:
    """Neurons whose z permuted labels reach too seldom to be chance."""
    null = given.null or score_null(recording, choices.permutations, choices.threshold, choices.seed)
    return Found(1 - null.p, _rejected(null.p, choices.rate))


def fdr_effect(recording: Recording, choices: Choices, given: Given) -> Found:
    """Neurons whose contribution above the mean of languages permuted labels reach too seldom to be chance."""
    null = given.null or score_null(recording, choices.permutations, choices.threshold, choices.seed)
    return Found(1 - null.p_effect, _rejected(null.p_effect, choices.rate))


def activation_entropy(recording: Recording, choices: Choices, _given: Given) -> Found:
    """LAPE; needs `record(..., activity=True)`."""
    if recording.activity is None:
        raise InputError("lape needs the share of tokens at which a neuron is active: record(..., activity=True)")
    return Found(*lape(recording.activity, choices.share, choices.quantile))


def activation_entropy_routed(recording: Recording, choices: Choices, _given: Given) -> Found:
    """LAPE in a mixture, over the tokens routed to a neuron's expert."""
    return Found(*routed_lape(recording, choices.share, choices.quantile))


def average_precision(recording: Recording, choices: Choices, _given: Given) -> Found:
    """The share of neurons that tell each language best from the rest."""
    scores = contrasts.average_precision(recording)
    return Found(scores, largest(scores, round(choices.share * recording.neurons)))


def eta_squared(recording: Recording, choices: Choices, _given: Given) -> Found:
    """The share of neurons that languages differ in most, each for the languages it is raised in most."""
    scores = contrasts.eta_squared(recording)
    chosen = largest(scores.abs().sum(0, keepdim=True), round(choices.share * recording.neurons))
    return Found(scores, chosen & (scores == scores.amax(0)) & (scores > 0))


def mean_difference(recording: Recording, choices: Choices, _given: Given) -> Found:
    """Neurons more active in one language than in the rest, by Welch's t test."""
    t, p, effect = contrasts.welch(recording)
    return Found(t, _rejected(p, choices.rate) & (effect > choices.effect))


def random(recording: Recording, choices: Choices, given: Given) -> Found:
    """Random regions of another method's sizes."""
    like = _like(given)
    widths = recording.layout.widths
    masks = [random_region(size, widths, choices.seed + order) for order, size in enumerate(like.sizes.values())]
    return _random(masks, recording, choices.seed)


def random_layer(recording: Recording, choices: Choices, given: Given) -> Found:
    """Random regions of another method's sizes in every layer."""
    like = _like(given)
    masks = [
        random_region_by_layer(sizes, recording.layout.widths, choices.seed + order)
        for order, sizes in enumerate(like.by_layer().values())
    ]
    return _random(masks, recording, choices.seed)


def by_relevance(recording: Recording, choices: Choices, given: Given) -> Found:
    """The share of neurons of each language whose switching off costs it most, beyond what it costs the others."""
    if given.relevance is None:
        raise InputError(
            "relevance is measured on text: localise(…, relevance=…), or regions --methods relevance --texts"
        )
    return Found(given.relevance, largest(given.relevance, round(choices.share * recording.neurons)))


def _like(given: Given) -> RegionSet:
    if given.like is None:
        raise InputError("random regions need regions to take their sizes from: localise(..., like=regions)")
    return given.like


def _random(masks: Sequence[Bool[Tensor, "P N"]], recording: Recording, seed: int) -> Found:
    members = torch.stack([recording.layout.in_a_row(mask) for mask in masks])
    # any order among members, any among the rest: a rank correlation with chance has something to work on
    noise = torch.rand(members.shape, generator=torch.Generator().manual_seed(seed))
    return Found(noise + members, members)


def largest(scores: Float[Tensor, "L D"], count: int) -> Bool[Tensor, "L D"]:
    """The `count` largest finite scores of each row."""
    chosen = scores.topk(min(count, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True) & scores.isfinite()


_METHODS: dict[str, Method] = {
    "contrast": by_contrast,
    "z-score": z_score,
    "fdr": fdr,
    "fdr-effect": fdr_effect,
    "lape": activation_entropy,
    "lape-routed": activation_entropy_routed,
    "average-precision": average_precision,
    "eta-squared": eta_squared,
    "mean-difference": mean_difference,
    "relevance": by_relevance,
    "random": random,
    "random-layer": random_layer,
}
METHODS: Rows[Method] = Rows("methods", callable, _METHODS)
PERMUTED = ("fdr", "fdr-effect")
"""methods that need the permutation null"""
