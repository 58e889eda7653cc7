"""What regions take where nothing is said: draws, thresholds, shares and limits that published numbers hang on."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions import (
    alignment,
    alignment_measures,
    alignment_neurons,
    blocks,
    confounds,
    contrast,
    contrasts,
    deactivation,
    document_means,
    exchange,
    expert_deactivation,
    generation,
    headlines,
    lape,
    localisation,
    losses_under,
    masks,
    methods,
    nulls,
    perplexity,
    residual,
    rounds,
    routed_lape,
    routing,
    routing_nulls,
    routing_recording,
    similarity,
    sinks,
    stability,
    table,
    treatments,
)
from babelscope.regions import recording as recordings
from babelscope.stats import Interval

from .region_data import noise


def defaults(of):
    return {
        name: one.default
        for name, one in inspect.signature(of).parameters.items()
        if isinstance(one.default, (int, float, str, tuple)) and one.default != ()
    }


def no_routing():
    with pytest.raises(InputError, match="a mixture of experts"):
        routed_lape.routed_tokens(noise())


def width_of_blocks():
    return blocks.RecomputedMeans((4, 2**10, 2**20), lambda _: np.zeros((4, 2**10, 0), np.float32)).width


ONES = torch.ones(2, 2, dtype=torch.float64)
MAP = document_means.DocumentMap(ONES.reshape(1, 2, 1, 2), ONES.reshape(1, 1, 4)[..., :2], torch.tensor([2, 2]))
LOSS = perplexity.Loss(torch.ones(2), torch.ones(2, dtype=torch.long), 2)
RUNS = [
    lambda: alignment.cosine(ONES[None]),
    lambda: alignment_measures.binary(ONES[None]),
    lambda: alignment_neurons._tasks(alignment_neurons.Removed("base", 0.0, 0, -1), None),
    lambda: confounds.same_script(["en"]),
    lambda: contrast.reference_weights(("en", "zh"), None),
    lambda: contrasts._precision(ONES[..., None]),
    lambda: deactivation.of_layer(torch.ones(1).bool(), ONES[:, :1]),
    lambda: MAP.each_left_out(),
    lambda: exchange._absent({}),
    lambda: expert_deactivation.matched_experts(ONES, 0, [0], 1),
    lambda: generation.share([True]),
    lambda: headlines.z_reason(2.0, 2),
    lambda: lape.lape(ONES),
    lambda: localisation.largest_z(2),
    lambda: losses_under.first_layer(ONES.bool()),
    lambda: masks.random_region(1, [2], 0),
    lambda: methods.largest(ONES, 1),
    lambda: nulls.reached(1.0, ONES[0]),
    lambda: perplexity.perplexity_of(0.0),
    lambda: noise().kept(),
    lambda: residual._unpunctuated("a."),
    lambda: rounds.joined(None, LOSS),
    no_routing,
    lambda: routing.entropy(ONES),
    lambda: routing_nulls._others(ONES[..., None]),
    lambda: routing_recording.chosen(torch.zeros(2, 1, dtype=torch.long), ONES[:, :1], ONES[:1], 2),
    lambda: similarity.unit(ONES[None]),
    lambda: sinks._mask(2, [0]),
    lambda: stability.spread(ONES[0]),
    lambda: table.DeactivationTable((), ()).perplexities(),
    lambda: treatments.treatment(ONES.bool(), "zero"),
]
"""something small of every file, so that its constants are known to be read by these tests"""


SAID: list[tuple[Callable[..., object], dict[str, object]]] = [
    (alignment.Metric, {"least": 2}),
    (alignment.alignment, {"centre": "none", "intervals": True}),
    (alignment_measures.Layer, {"centre": "none"}),
    (alignment_measures.Summed, {"least": 2}),
    (alignment_neurons.Removals, {"shares": (0.01, 0.05), "controls": 5, "seed": 0}),
    (blocks.scores_in_blocks, {"threshold": 2.0}),
    (confounds.length_matched, {"nearest": 5}),
    (confounds.overlap_matched, {"nearest": 5}),
    (contrast.ContrastSettings, {"effect": 0.5, "rate": 0.05, "sign": "raised"}),
    (contrast.contrast, {"seed": 0}),
    (deactivation.deactivate, {"scale": 0.0}),
    (deactivation.changes_of, {"scale": 0.0}),
    (document_means.whole_intervals, {"seed": 0}),
    (document_means.whole_map, {"seed": 0}),
    (document_means.layer_map, {"seed": 0}),
    (expert_deactivation.Dropped, {"passes": 0, "without_expert": 0, "still_used": 0}),
    (expert_deactivation.without_experts, {"way": "drop"}),
    (expert_deactivation.matched_experts, {"seed": 0}),
    (generation.Sampling, {"tokens": 32, "seed": 0, "batch": 128}),
    (headlines.headlines, {"effect": 0.5, "seed": 0}),
    (headlines.rarefied_excess, {"threshold": 2.0, "rarefy": 25, "seed": 0}),
    (lape.lape, {"share": 0.01, "quantile": 0.95}),
    (localisation.key_regions, {"threshold": 2.0}),
    (
        methods.Choices,
        {"threshold": 2.0, "permutations": 1000, "rate": 0.05, "share": 0.01, "quantile": 0.95, "effect": 0.0,
         "seed": 0, "disjoint": False},
    ),
    (methods.localise, {"method": "z-score"}),
    (nulls.score_null, {"draws": 1000, "threshold": 2.0, "seed": 0, "device": "cpu"}),
    (nulls.excess_sklr, {"threshold": 2.0, "seed": 0}),
    (nulls.label_null, {"draws": 1000, "seed": 0}),
    (nulls.sentence_null, {"draws": 1000, "seed": 0}),
    (perplexity.cut_windows, {"joint": "blank-line"}),
    (perplexity.loss_change, {"draws": 1000, "seed": 0, "level": 0.95}),
    (perplexity.selectivity, {"level": 0.95}),
    (recordings.Span, {"first": "keep", "tokens": "all", "weighted": False, "site": "neurons"}),
    (recordings.Recording, {"norm": "paper", "too_short": 0}),
    (recordings.Recording.groups, {"most": 40, "seed": 0}),
    (recordings.Recording.top_share, {"count": 10}),
    (recordings.record, {"special": "auto", "activity": False}),
    (residual.record_residual, {"poolings": ("mean", "last", "weighted"), "special": "none"}),
    (residual.residual_alignment, {"seed": 0, "shuffles": 5}),
    (rounds.by_rounds, {"looks": rounds.ROUNDS}),
    (rounds.selectivity_in_rounds, {"looks": rounds.ROUNDS}),
    (routed_lape.routed_activity, {"least": 100}),
    (routed_lape.routed_lape, {"share": 0.01, "quantile": 0.95, "least": 100}),
    (routing.specialised, {"least": 0.3}),
    (routing.language_shares, {"favourites": 15}),
    (routing.owner, {"least": 0.4}),
    (routing.shared, {"least": 0.4}),
    (routing.routing_recording, {"centred": True}),
    (routing_nulls.RoutingNull.chosen, {"rate": 0.05}),
    (routing_nulls.routing_null, {"draws": 1000, "seed": 0}),
    (routing_recording.chosen, {"skip": False}),
    (routing_recording.record_routing, {"special": "none"}),
    (similarity.bootstrap_means, {"draws": 1000, "seed": 0, "languages_too": False}),
    (sinks.normalised, {"norm": "robust", "sink_share": 0.005}),
    (stability.bootstrap_regions, {"draws": 200, "threshold": 2.0, "seed": 0}),
    (stability.split_half_regions, {"draws": 50, "threshold": 2.0, "seed": 0}),
    (stability.without_each_language, {"threshold": 2.0}),
    (table.DeactivationTable, {"fixed": True, "tokens": 0, "tokens_fixed": 0}),
    (table.deactivation_table, {"controls": 5, "seed": 0, "fixed": False}),
    (treatments.Treatment, {"scale": 0.0}),
    (treatments.treatment, {"scale": 0.5}),
    (
        treatments.Doses,
        {"shares": (0.001, 0.003, 0.01, 0.03, 0.1), "kinds": ("zero",), "controls": 1, "seed": 0},
    ),
]  # fmt: skip


def test_what_is_taken_where_nothing_is_said():
    for run in RUNS:
        run()
    for of, expected in SAID:
        found = defaults(of)
        assert {name: found.get(name) for name in expected} == expected, of.__qualname__


def test_thresholds_of_the_specification():
    for run in RUNS:
        run()
    assert (sinks.SINK_SHARE, sinks.SHARE_ALONE, sinks.LEAST_SPREAD, sinks.MOST_OUT) == (0.005, 0.05, 0.1, 0.05)
    assert (sinks.CERTAIN, sinks.AT_FIRST, sinks.TIMES, sinks.COUPLED) == (1.645, 0.5, 5.0, 0.2)
    assert (routing.SPECIALISED, routing.EXCLUSIVE, routing.FAVOURITES) == (0.3, 0.4, 15)
    assert (headlines.RAREFIED, headlines.SUBSETS, headlines.NULL_DRAWS) == (25, 20, 8)
    assert (alignment_measures.RAREFY, alignment.ANC_DOCUMENTS, confounds.NEAREST) == (25, 30, 5)
    assert (residual.SHUFFLES, rounds.NARROW, routed_lape.LEAST_TOKENS) == (5, 0.1, 100)
    assert [(look.share, look.error) for look in rounds.ROUNDS] == [(0.25, 0.01), (0.5, 0.01), (1.0, 0.03)]
    assert (exchange._LARGEST, exchange._MOST_LAYERS, exchange._LARGEST_SET) == (20_000_000, 2000, 1_000_000_000)
    assert {name: one.least for name, one in alignment_measures.MEASURES.items() if one.least != 2} == {"cka": 4}


def test_what_is_held_at_once():
    """A block of means is half a gigabyte: of 4096 sentences 2 ** 29 / (4 · 4096) neurons."""
    assert (width_of_blocks(), blocks.BUDGET) == (2**15, 2**29)
    assert (nulls.CHUNK, nulls.CHUNK_ON_GPU, nulls.DRAWS_AT_ONCE, routing_nulls.AT_ONCE) == (128, 4096, 64, 50)
    assert (contrast._CHUNK, contrasts._CHUNK, stability._CHUNK) == (4096, 2048, 256)
    assert (recordings.NEURON_CHUNK, recordings._CACHED) == (16384, 2**19)
    assert (perplexity.VOCABULARY_CHUNK, perplexity.ACCELERATOR_CHUNK) == (2048, 16384)


def test_names_of_what_can_be_asked_for():
    assert expert_deactivation.WAYS == ("drop", "drop-renormalised", "reroute")
    assert treatments.KINDS == ("zero", "mean", "mean-others", "scale")
    assert residual.MEASURES == ("lrds", "sads", "mexa", "cka", "anc")
    assert residual.MOVED_BY_CENTRING == ("lrds", "sads", "mexa")
    assert residual.TREATMENTS == {"plain": "none", "centred": "all", "language-centred": "language"}
    assert generation.MEASURES == ("broken_share", "distinct_1", "distinct_2")
    assert methods.PERMUTED == ("fdr", "fdr-effect")
    assert list(alignment_measures.MEASURES) == [
        "lrds", "sads", "sads-centred", "sads-language-centred", "sads-binary", "sads-rank", "mexa", "mexa-at-25",
        "cka", "anc", "neuron-matching",
    ]  # fmt: skip


def test_a_row_says_nothing_of_intervals_it_has_not():
    found = alignment.Alignment("sads", *(ONES[None],) * 3, *(ONES[0, :1],) * 3)
    assert (found.interval, found.why) == ("leave-one-document-out t", "")
    row = alignment_neurons.Removed("en", 0.1, 3, -1).row("sads", "all", Interval(1.0, 0.5, 2.0, "t", "few"), 7)
    assert (row.deactivated, row.share, row.neurons, row.draw, row.n) == ("en", 0.1, 3, -1, 7)
    assert (row.value, row.low, row.high, row.interval, row.why) == (1.0, 0.5, 2.0, "t", "few")
