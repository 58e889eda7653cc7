"""What two circuits share, and what a label needs: by hand and by plain loops."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from babelscope.circuits.comparison import overlap
from babelscope.circuits.comparison.transfer import classify, matrix, same_part
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver
from babelscope.circuits.core.skew import skewed_test
from babelscope.circuits.edges.circuit import Circuit
from babelscope.circuits.heads.labels import Evidence, Null, evidence
from babelscope.circuits.heads.roles import Roles, _mean_where_known, attention_projection

SMALL = Wiring(2, 2, 2)


# -- overlap -----------------------------------------------------------------------------------------------------------


def circuit_of(*edges, roles=None):
    mask, scores = np.zeros_like(SMALL.allowed), np.zeros(SMALL.allowed.shape)
    for sender, reader, score in edges:
        place = SMALL.writer(sender), SMALL.reader(reader)
        mask[place], scores[place] = True, score
    return Circuit(SMALL, mask, scores, roles or {})


def test_overlap_by_hand():
    first = circuit_of((EMBEDDING, Receiver("q", 0, 0), 1.0), (Head(0, 0), FINAL, -3.0), (MLP(0), FINAL, 4.0))
    second = circuit_of((Head(0, 0), FINAL, 1.0), (MLP(1), FINAL, 1.0))
    empty = circuit_of()
    assert overlap.node_iou(first, second) == 1 / 3
    assert overlap.edge_iou(first, second) == 1 / 4
    assert (overlap.node_share(first, second), overlap.edge_share(first, second)) == (1 / 2, 1 / 3)
    assert (overlap.edge_share(second, first), overlap.edge_share(first, empty)) == (1 / 2, 0)
    weights = np.array([[1 / 8, 3 / 8, 4 / 8, 0], [0, 1 / 2, 0, 1 / 2]])
    assert overlap.weighted_jaccard(first, second) == pytest.approx(weights.min(0).sum() / weights.max(0).sum())
    a, b = first.scores[SMALL.allowed], second.scores[SMALL.allowed]
    assert overlap.score_pearson(first, second) == pytest.approx(np.corrcoef(a, b)[0, 1])
    rho = scipy_stats.spearmanr(np.abs(a), np.abs(b)).statistic
    assert overlap.score_spearman(first, second) == pytest.approx(rho)
    for measure in (overlap.node_iou, overlap.edge_iou, overlap.weighted_jaccard, overlap.edge_share):
        assert np.isnan(measure(empty, empty))


@pytest.mark.parametrize(("angle", "shared"), [(59.9, True), (60.1, False)])
def test_nodes_do_the_same_where_their_edges_point_the_same_way(angle, shared):
    """Scores of two edges out of a head, turned by an angle: cosine one half at 60 degrees."""
    turn = np.radians(angle)
    first = circuit_of((Head(0, 0), FINAL, 2.0), (Head(0, 0), Receiver("q", 1, 0), 0.0))
    second = circuit_of((Head(0, 0), FINAL, np.cos(turn)), (Head(0, 0), Receiver("q", 1, 0), np.sin(turn)))
    assert same_part(first, second, Head(0, 0)) == shared
    assert classify(first, second) == {Head(0, 0): "shared" if shared else "repurposed"}
    for roles, known in ((("a", "a"), True), (("a", "b"), False), (("candidate: a", "b"), shared), (("", "b"), shared)):
        named = [Circuit(one.wiring, one.edges, one.scores, {"0.0": role}) for one, role in zip((first, second), roles)]
        assert same_part(*named, Head(0, 0)) == known
    nothing = circuit_of((Head(0, 0), FINAL, 0.0))
    assert not same_part(nothing, nothing, Head(0, 0))


def test_what_is_read_counts_for_a_node_too():
    first = circuit_of((EMBEDDING, Receiver("q", 1, 0), 1.0), (Head(1, 0), FINAL, 0.1))
    second = circuit_of((EMBEDDING, Receiver("q", 1, 0), -1.0), (Head(1, 0), FINAL, 0.1))
    assert not same_part(first, second, Head(1, 0))
    assert same_part(first, first, Head(1, 0))
    rows = [
        SimpleNamespace(found_in=a, run_on=b, faithfulness=f)
        for a, b, f in (("x", "y", 1), ("x", "x", 2), ("y", "y", 3))
    ]
    assert matrix(rows) == {"x": {"y": 1, "x": 2}, "y": {"y": 3}}


def test_renamed_heads_keep_their_layer_and_their_groups():
    wiring = Wiring(2, 4, 2, gates=True)
    scores = np.arange(wiring.allowed.size, dtype=float).reshape(wiring.allowed.shape)
    made = Circuit(wiring, wiring.allowed, scores)
    seen = set()
    for seed in range(40):
        rows, columns = overlap._renaming(wiring, np.random.default_rng(seed))
        found = overlap.relabelled(made, np.random.default_rng(seed))
        assert found.scores[np.ix_(rows, columns)].tolist() == scores.tolist()
        new = {str(wiring.writers[old]): wiring.writers[row] for old, row in enumerate(rows)}
        for old, column in zip(wiring.readers, columns):
            reader = wiring.readers[column]
            assert (reader.kind, reader.layer) == (old.kind, old.layer)
            if old.kind in ("q", "gate"):
                assert reader.head == new[f"{old.layer}.{old.head}"].head
            if old.kind in ("k", "v"):
                assert reader.head == new[f"{old.layer}.{2 * old.head}"].head // 2
        assert all(new[str(node)] == node for node in wiring.writers if not isinstance(node, Head))
        groups = [new[f"0.{head}"].head // 2 for head in range(4)]
        assert groups in ([0, 0, 1, 1], [1, 1, 0, 0])
        seen.add(tuple(new[f"0.{head}"].head for head in range(4)))
        assert found.about == {"relabelled": True}
    assert len(seen) == 8


# -- labels ------------------------------------------------------------------------------------------------------------


def test_a_null_is_a_paired_test_over_the_prompts_that_all_heads_know():
    dice = np.random.default_rng(2)
    own, others = dice.normal(0.3, 0.1, (1, 3, 9)), dice.normal(0.2, 0.1, (1, 3, 9))
    own[0, 0, 2] = others[0, 1, 4] = np.nan
    own[0, 2] = np.nan  # was not asked about
    found = Null.of(own, others, 5)
    known = [0, 1, 3, 5, 6, 7, 8]
    assert found.chance[0, :2] == pytest.approx(others[0, :2, known].mean(0))
    differences = (own - others)[0, :2][:, known]
    assert found.p[0, :2] == pytest.approx(skewed_test(differences, "greater"))
    assert (found.p[0, :2] >= scipy_stats.ttest_1samp(differences, 0, axis=1, alternative="greater").pvalue).all()
    assert np.isnan([found.chance[0, 2], found.p[0, 2]]).all()
    assert found.positions == 5
    none = Null.of(own * np.nan, others, 5)
    assert np.isnan(none.p).all()
    assert np.isnan(none.chance).all()


def test_hits_are_tested_by_turning_signs():
    """Of eight words a head takes six and misses none: one turning in 64 is as good, those of no difference aside."""
    own, others = np.array([[[1.0] * 6 + [0, 0], [0.0] * 8]]), np.zeros((1, 2, 8))
    found = Null.by_turning(own, others, 8)
    assert found.p[0, 0] == pytest.approx(1 / 64, abs=0.004)
    assert found.p[0, 1] == 1
    assert found.chance.tolist() == [[0, 0]]
    assert np.isnan(Null.by_turning(own[..., :5], others[..., :5], 5).p).all()


def test_words_without_a_number_are_left_out_of_the_turning():
    own, others = np.array([[[1.0] * 6 + [0, 0, 0], [0.0] * 9]]), np.zeros((1, 2, 9))
    others[..., 8] = np.nan  # no word is absent from the prompts that this one stands in
    found = Null.by_turning(own, others, 9)
    assert (found.p == Null.by_turning(own[..., :8], others[..., :8], 8).p).all()
    assert found.p[0, 1] == 1


@pytest.mark.parametrize(
    ("score", "floor", "p", "positions", "why"),
    [
        (0.5, 0.5, 0.001, 3, ""),
        (0.4, 0.5, 0.001, 3, "score below 0.5"),
        (np.nan, 0.5, 0.001, 3, "x has no value on these prompts"),
        (0.5, 0.5, 0.001, 2, "only 2 distinct positions"),
        (0.5, 0.5, np.nan, 3, "fewer than six prompts, or distinct words"),
        (0.5, 0.5, 0.2, 3, "no more than its own null"),
    ],
)
def test_what_a_label_needs(score, floor, p, positions, why):
    null = Null(np.array([[0.1, 0.2]]), np.array([[1.0, p]]), positions)
    roles = Roles({"x": np.array([[0.9, score]]), "y": np.zeros((1, 2))}, (), (), np.zeros((0, 0, 1, 2)), {"x": null})
    found = evidence(roles, "x", Head(0, 1), floor)
    assert (found.name, found.chance, found.why) == ("x", 0.2, why)
    assert [found.score, found.p] == pytest.approx([score, p], nan_ok=True)
    for name, said in (("y", "y has no null"), ("z", "z was not measured")):
        assert evidence(roles, name, Head(0, 1)).why == said
    assert isinstance(evidence(roles, "z", Head(0, 1)), Evidence)


def test_scores_of_roles_by_hand():
    dice = np.random.default_rng(0)
    a, b = dice.random((2, 1, 2, 7))
    b[0, 1] = 0.5
    found = attention_projection(a, b)
    assert found[0, 0] == pytest.approx(np.corrcoef(a[0, 0], b[0, 0])[0, 1])
    assert np.isnan(found[0, 1])
    means = _mean_where_known(np.array([[1.0, np.nan, 3.0], [np.nan] * 3, [np.inf, 2.0, 2.0]]))
    assert means[[0, 2]].tolist() == [2, 2]
    assert np.isnan(means[1])
    scores = {"x": np.array([[1.0, 2]]), "y": np.array([[3.0, np.nan]])}
    names, vectors = Roles(scores, (), (), np.zeros((0, 0, 1, 2))).vectors()
    assert (names, vectors.tolist()) == (["x"], [[1], [2]])
