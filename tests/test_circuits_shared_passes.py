"""Sets of nodes taken out by shared passes, against one whole pass for each set, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.changes import node_changes
from babelscope.circuits.core.faithfulness import score
from babelscope.circuits.core.nodes import MLP, Head, heads_of, mixers_of, mlps_of
from babelscope.circuits.heads import ablation
from babelscope.circuits.heads.ablation import NodeSpace, ablated_answers, ablated_differences
from babelscope.models import Model, edit
from babelscope.studies.circuit_tables import faithfulness_rows
from tests.random_pairs import random_pairs
from tests.tiny_models import CONFIGS, tiny_model, tiny_tokenizer

BY_DAY = ("bloom", "falcon-7b", "gemma2", "opt", "granite", "bailing_hybrid")
"""in which attention or MLP are put together in ways of their own"""
OTHERS = tuple(name for name in CONFIGS if name != "opt-350m")  # whose writes do not add up


def tiny(family: str) -> Model:
    return Model(tiny_model(family), tiny_tokenizer(), id=family)


def sets_of(model):
    """Sets that begin alike, whole layers, FFN windows, one twice, everything, nothing."""
    heads, mlps, mixers = heads_of(model), mlps_of(model), mixers_of(model)
    whole = [node for node in heads if node.layer == heads[0].layer]
    last = [node for node in heads if node.layer == heads[-1].layer]
    return [
        last,
        [],
        [*whole, heads[-1]],
        [*whole, mlps[-1]],
        [*whole, *mlps[1:], heads[-1]],
        [*whole, *mixers, heads[-1]],
        mlps[:1],
        mlps[:2],
        mlps[1:],
        [heads[-1], *whole],
        [*heads, *mixers],
        [*heads, *mlps, *mixers],
    ]


@torch.no_grad()
def plainly(model, pairs, nodes, kind):
    """LD of each pair in one whole pass with the nodes' values put in."""
    other, found = reference(model, pairs, kind), np.zeros(len(pairs))
    for rows in batches(pairs, 64, model.device):
        with edit(model, node_changes(model, other(rows), nodes)):
            final = model.trunk(rows.clean)[None, :, rows.length - rows.answer :]
        np.add.at(found, list(rows.index), logit_diff.scores(model, rows, final)[0].double().numpy())
    return found


@pytest.mark.parametrize(
    "family", [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.nightly) for name in OTHERS]
)
def test_shared_passes_equal_a_whole_pass_for_each_set(family):
    model, pairs = tiny(family), random_pairs()
    sets = sets_of(model)
    found = ablated_differences(model, pairs, sets, "resample")
    assert np.allclose(found, [plainly(model, pairs, nodes, "resample") for nodes in sets], atol=2e-5)


@pytest.mark.parametrize("kind", ["mean", "zero"])
def test_so_do_those_with_other_values(kind):
    model, pairs = tiny("bloom"), random_pairs()
    sets = sets_of(model)
    found = ablated_differences(model, pairs, sets, kind)
    assert np.allclose(found, [plainly(model, pairs, nodes, kind) for nodes in sets], atol=2e-5)


def test_constants_stand_at_every_position_of_layers_that_are_taken_out():
    model, pairs = tiny("bloom"), random_pairs()
    silent, constant = reference(model, pairs, "zero"), 0.25

    def values(rows):
        zeros = silent(rows)
        return zeros.with_list([part.flatten(0, 1)[0] + constant for part in zeros.listed()])

    nodes = [*(Head(1, head) for head in range(model.heads)), MLP(2)]
    found = ablated_differences(model, pairs, [nodes], values)[0]
    expected = np.zeros(len(pairs))
    with torch.no_grad():
        for rows in batches(pairs, 64, model.device):
            whole = silent(rows).with_list([part + constant for part in silent(rows).listed()])
            with edit(model, node_changes(model, whole, nodes)):
                final = model.trunk(rows.clean)[None, :, rows.length - rows.answer :]
            np.add.at(expected, list(rows.index), logit_diff.scores(model, rows, final)[0].double().numpy())
    assert np.allclose(found, expected, atol=2e-5)


def test_answers_stand_with_their_own_sets():
    model, pairs = tiny("bloom"), random_pairs()
    sets = sets_of(model)
    told = [0, 3, 8]
    _, logged = ablated_answers(model, pairs, sets, "resample", told)
    for place in told:
        _, alone = ablated_answers(model, pairs, [sets[place]], "resample", [0])
        assert np.allclose(logged[place], alone[0], atol=2e-5)
    assert np.isnan(logged[[place for place in range(len(sets)) if place not in told]]).all()


def test_what_sets_have_in_common_is_passed_once():
    model, pairs = tiny("bloom"), random_pairs()[:1]
    sets = [[MLP(0)], [MLP(0), MLP(2)], [MLP(0), Head(2, 1)], [MLP(0)]]
    ran: list[int] = []
    handles = [
        block.mlp.dense_h_to_4h.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(model.blocks)
    ]
    try:
        ablated_differences(model, pairs, sets, "zero")
        ran.clear()  # a model that is met for the first time is checked
        ablated_differences(model, pairs, sets, "zero")
    finally:
        for handle in handles:
            handle.remove()
    # the prompt itself, then layer 1 behind MLP 0, then layer 2 as it is and without its head: MLPs taken out never run
    assert sorted(ran) == [0, 1, 1, 2, 2, 2]


def test_both_orders_of_heads_share_what_stands_for_the_others(monkeypatch):
    model, pairs, made = tiny("bloom"), random_pairs(), []
    ranked = heads_of(model)[::-1]
    plain = ablation.reference
    monkeypatch.setattr(ablation, "reference", lambda *asked: made.append(1) or plain(*asked))
    rows = faithfulness_rows(model, "en", pairs, ranked, "mean", 0)
    assert made == [1]
    drawn = [ranked[place] for place in np.random.default_rng(0).permutation(len(ranked))]
    space = NodeSpace(model, pairs, "mean")
    assert [(row.order, row.heads) for row in rows][:2] == [("ranking", 0), ("ranking", 1)]
    for row in rows:
        nodes = {"ranking": ranked, "random": drawn}[row.order][: row.heads]
        [alone] = score(space, [space.mask(nodes)]).intervals(seed=0)
        assert (row.faithfulness, row.low, row.high) == pytest.approx(
            (alone.value, alone.low, alone.high), abs=1e-4, nan_ok=True
        )
