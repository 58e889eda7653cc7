"""What is taken where nothing is said: draws, seeds, thresholds and shares that published numbers hang on."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.comparison import head_frequency, method_agreement, overlap, transfer
from babelscope.circuits.core import ablation as core_ablation
from babelscope.circuits.core import effects, faithfulness, graph, metrics, skew, statistics
from babelscope.circuits.edges import atp, circuit, eap, edge_ablation
from babelscope.circuits.edges import faithfulness as edge_faithfulness
from babelscope.circuits.heads import ablation, copy_scores, labels, roles, routes
from babelscope.circuits.patching import counterfactual, screen, search, selection, swept_batches
from babelscope.circuits.patching.methods import Outputs, activation_patching, path_patching
from babelscope.circuits.patching.search import SearchSettings


def defaults(of):
    return {
        name: one.default
        for name, one in inspect.signature(of).parameters.items()
        if isinstance(one.default, (int, float, str, tuple)) and one.default != ()
    }


WIRING = graph.Wiring(1, 2, 2)
ONES = np.ones(WIRING.allowed.shape) * WIRING.allowed
BEHAVIOUR = metrics.Behaviour(*np.ones((3, 2)), np.ones(2, int), np.ones(2, bool))
CURVE = faithfulness.Curve("cpr", (0.5,), (1,), faithfulness.Scored(np.ones((1, 2)), np.zeros(2), np.ones(2)))


@pytest.mark.parametrize(
    ("run", "of", "expected"),
    [
        (lambda: statistics.permutation_p(1, np.ones(2)), statistics.correlate, {"permutations": 1000, "seed": 0}),
        (lambda: skew.skewed_test(np.ones((2, 7))), skew.skewed_test, {"alternative": "two-sided"}),
        (lambda: effects._nonzero(np.ones(1), ""), effects.Effects.interval, {"draws": 1000, "seed": 0}),
        (lambda: effects._nonzero(np.ones(1), ""), effects.Effects, {"direction": "noising"}),
        (lambda: CURVE.value, faithfulness.Scored.intervals, {"draws": 1000, "seed": 0}),
        (lambda: CURVE.value, faithfulness.Curve.interval, {"draws": 1000, "seed": 0}),
        (lambda: CURVE.value, faithfulness.completeness, {"draws": 10, "seed": 0}),
        (
            lambda: core_ablation.ablation_kind("mean"), core_ablation.reference,
            {"ablation": "resample", "over": "corrupted"},
        ),
        (lambda: core_ablation.ablation_kind("mean"), core_ablation.fitted_constants, {"steps": 50, "rate": 0.5}),
        (lambda: WIRING.edges, graph.Wiring, {"parallel": False, "shared_key": False, "gates": False}),
        (lambda: BEHAVIOUR.correct, metrics.behaviour, {"which": "clean"}),
        (
            lambda: circuit.importance(ONES), circuit.sized_circuit, {"construction": "greedy", "tries": 20},
        ),
        (lambda: circuit.importance(ONES), circuit.importance, {"absolute": True}),
        (lambda: circuit.importance(ONES), circuit.top_edges, {"absolute": True, "prune": True}),
        (lambda: circuit.importance(ONES), circuit.greedy_edges, {"absolute": True, "prune": True}),
        (
            lambda: eap._points("eap", 1, "left"), eap.edge_attribution,
            {"method": "eap-ig", "steps": 5, "ablation": "resample"},
        ),
        (lambda: atp._put(torch.ones(1)), atp.attribution_patching, {"qk_fix": True}),
        (lambda: edge_ablation._zeros(1), edge_ablation.optimal_reference, {"steps": 50}),
        (lambda: edge_faithfulness.minimal_size(CURVE), edge_faithfulness.minimal_size, {"faithful": 0.8}),
        (lambda: edge_faithfulness.minimal_size(CURVE), edge_faithfulness.EdgeSpace, {"ablation": "resample"}),
        (
            lambda: edge_faithfulness.minimal_size(CURVE), edge_faithfulness.edge_curve,
            {"construction": "greedy", "budgets": faithfulness.BUDGETS},
        ),
        (lambda: overlap._why(1.0), overlap.circuit_overlap, {"permutations": 1000, "seed": 0}),
        (lambda: overlap._why(1.0), overlap.random_circuit, {"construction": "greedy"}),
        (lambda: transfer.matrix([]), transfer.Beside, {"random": 5, "seed": 0}),
        (lambda: transfer.matrix([]), transfer.classify, {"alike": 0.5}),
        (lambda: transfer.matrix([]), transfer.cross_faithfulness, {"ablation": "resample"}),
        (lambda: head_frequency.rows({}), head_frequency.compare, {"draws": 500, "seed": 0}),
        (lambda: head_frequency.rows({}), head_frequency.reliability, {"splits": 50, "seed": 0}),
        (
            lambda: method_agreement.agreements({}), method_agreement.agreements,
            {"k": 10, "what": "heads", "language": ""},
        ),
        (
            lambda: method_agreement.agreements({}), method_agreement.confirmed, {"top": 30, "ablation": "resample"},
        ),
        (
            lambda: ablation.windows(SimpleNamespace(layers=1, neuron_layers=(0,)), 1), ablation.matched_random,
            {"draws": 20, "seed": 0},
        ),
        (
            lambda: ablation.windows(SimpleNamespace(layers=1, neuron_layers=(0,)), 1), ablation.NodeSpace,
            {"ablation": "mean", "mlps": False},
        ),
        (
            lambda: ablation.windows(SimpleNamespace(layers=1, neuron_layers=(0,)), 1), ablation.ablated_differences,
            {"ablation": "mean"},
        ),
        (
            lambda: ablation.windows(SimpleNamespace(layers=1, neuron_layers=(0,)), 1), ablation.optimal_values,
            {"steps": 50},
        ),
        (
            lambda: copy_scores._among_all(torch.ones(1, 3), torch.tensor([0]), 1), copy_scores.copying,
            {"top": 5, "sample": 64, "seed": 0, "own_layer": False},
        ),
        (
            lambda: copy_scores._among_all(torch.ones(1, 3), torch.tensor([0]), 1), copy_scores.token_copying,
            {"top": 5},
        ),
        (
            lambda: roles._mean_where_known(np.ones((1, 2))), roles.role_scores,
            {"prefix": 0, "seed": 0, "copied": ("IO", "S1", "S2", "VERB1")},
        ),
        (
            lambda: routes._proximity(torch.ones(2), torch.ones(2), 0.1), routes.flow_routes,
            {"thresholds": (0.04,), "epsilon": 1e-5},
        ),
        (lambda: routes._proximity(torch.ones(2), torch.ones(2), 0.1), routes.Routes.used, {"threshold": 0.04}),
        (
            lambda: counterfactual.of_pairs_with_a_partner(None, []), counterfactual.same_answer,
            {"keep": ("IO", "S1", "S2", "VERB1", "END"), "seed": 0},
        ),
        (lambda: screen.spread_over([], 1), screen.Screen, {
            "pairs": 32, "drops": 4, "trial": 8, "above": 0.5, "share": 0.1, "sample": 0.1, "least": 8, "fewest": 64,
            "seed": 0,
        }),
        (lambda: search.Search(()).nodes, SearchSettings, {
            "rule": "significance", "sigmas": 2.0, "q": 0.05, "null": True, "mlps": "recomputed", "seed": 0,
            "answer_roles": counterfactual.ANSWER_ROLES,
        }),
        (
            lambda: selection._distances(SimpleNamespace(), [0]), selection.select,
            {"rule": "significance", "q": 0.05, "sigmas": 2.0, "floor": 0.02},
        ),
        (lambda: selection._distances(SimpleNamespace(), [0]), selection.growth, {"q": 0.05}),
        (
            lambda: list(swept_batches.groups_of([])), swept_batches.Sweep,
            {"direction": "noising", "divergence": False, "routing": "frozen"},
        ),
        (lambda: list(swept_batches.groups_of([])), swept_batches.Asked, {"what": "output"}),
        (lambda: Outputs(None, "frozen"), path_patching, {"at": "END", "mlps": "recomputed"}),
        (lambda: Outputs(None, "frozen"), activation_patching, {"what": "output"}),
    ],
)  # fmt: skip
def test_what_is_taken_where_nothing_is_said(run, of, expected):
    run()
    found = defaults(of)
    assert {name: found.get(name) for name in expected} == expected


def test_constants_of_the_specification():
    assert (len(skew.SHAPES), skew.SHAPES[0], round(skew.SHAPES[-1])) == (16, 0.1, 100)
    assert np.allclose(np.diff(np.log(skew.SHAPES)), np.log(1000) / 15)
    assert (skew.DRAWS, skew.TRIED) == (200_000, 4_000)
    assert skew.skewed_test(np.ones((1, 6))).shape == (1,)
    assert (labels.TURNED, labels.POSITIONS, labels.CANDIDATE) == (19_999, 3, "candidate: ")
    assert np.isnan(labels.Null.of(np.ones((1, 1, 5)), np.ones((1, 1, 5)), 3).p).all()
    assert (routes.THRESHOLD, routes.EPSILON) == (0.04, 1e-5)
    assert routes.SWEEP == (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1)
    assert routes.Routes(
        np.ones((1, 1, 1, 1), bool), np.ones((1, 1, 1), bool), np.ones((1, 1, 1)), (0.04,)
    ).frequency().tolist() == [[1]]
    assert (copy_scores.ENOUGH_WORDS, copy_scores.SLACK) == (16, 1e-4)
    assert copy_scores._among_all(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0]), 1).tolist() == [
        [[True]],
        [[False]],
    ]
    assert (screen.POINTS, screen.spread_over([1], 1)) == ((0.0, 0.5, 1.0), [1])
    assert (selection.GROWTH, selection._distances(SimpleNamespace(), [1]).tolist()) == (0.02, [1])
    assert (swept_batches.TOGETHER, list(swept_batches.groups_of([]))) == (64, [])
    assert (overlap.FEWEST, overlap._why(np.nan)) == (20, "one of the two does not vary, or is empty")
    assert (transfer.ALIKE, transfer.matrix([])) == (0.5, {})
    assert (graph.MOST, graph.MOST_CELLS, WIRING.edges) == (10_000, 50_000_000, WIRING.allowed.sum())
    assert statistics.FEWEST == 6
    assert np.isnan(statistics.prompt_test(np.ones(5)))
