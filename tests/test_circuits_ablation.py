"""Ablation against weight edits, means that do not depend on batches, knockouts, the lens, statistics of effects."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.circuits.core.ablation import reference as ablated_by
from babelscope.circuits.core.cache import projection
from babelscope.circuits.core.changes import node_changes
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.faithfulness import score
from babelscope.circuits.core.metrics import behaviour, logit_differences
from babelscope.circuits.core.nodes import MLP, Head, heads_of, mlps_of, parse_node
from babelscope.circuits.core.skew import skewed_test
from babelscope.circuits.core.statistics import correlate, prompt_interval, prompt_test
from babelscope.circuits.heads.ablation import (
    NodeSpace,
    ablated_differences,
    matched_random,
    optimal_values,
    windows,
)
from babelscope.circuits.heads.lens import logit_lens
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.search import Step, find_circuit
from babelscope.circuits.patching.selection import growth, select
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.errors import InputError
from babelscope.models import Model, Site, capture, edit
from babelscope.models.places import matrix
from babelscope.stats import benjamini_hochberg
from tests import reference
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer

FEW = ("llama", "gemma2", "gpt_neox", "bloom")


@pytest.fixture(scope="module", params=FEW)
def model(request):
    return Model(tiny_model(request.param), tiny_tokenizer(), id=request.param)


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


@pytest.fixture(scope="module")
def pairs():
    return random_pairs()


def test_zeroing_a_head_equals_zeroing_its_columns_of_the_weights(model, pairs):
    node = Head(1, 2)
    found = ablated_differences(model, pairs, [[node]], "zero")[0]
    hf = copy.deepcopy(model.hf)
    edited = Model(hf, model.tokenizer, id="edited")
    with torch.no_grad():
        width = model.head_width
        matrix(projection(edited, 1))[:, 2 * width : 3 * width] = 0
    assert np.allclose(found, logit_differences(edited, pairs), atol=1e-5)


def test_logit_differences_and_behaviour_agree_with_the_plain_way(model, pairs):
    seen = behaviour(model, pairs)
    with torch.no_grad():
        plain = [
            reference.logit_difference(
                model, [model.trunk(ids) for ids in reference.prompts_of(pair, "clean")], pair.target, pair.foil
            )
            for pair in pairs
        ]
    assert np.allclose(seen.logit_difference, plain, atol=1e-4)
    assert np.allclose(logit_differences(model, pairs), plain, atol=1e-4)
    assert (seen.correct == (np.array(plain) > 0)).all()


def test_rank_probability_and_exactness_are_those_of_the_whole_distribution(llama, pairs):
    pair = pairs[0]
    with torch.no_grad():
        logged = llama.hf(torch.tensor([pair.clean])).logits[0, -1].log_softmax(-1)
    seen = behaviour(llama, [pair])
    assert seen.target[0] == pytest.approx(float(logged[pair.target[0]]), abs=1e-5)
    assert seen.rank[0] == 1 + int((logged > logged[pair.target[0]]).sum())
    best = random_pair(0)
    best = type(best)(**{**best.__dict__, "target": (int(logged.argmax()),)})
    assert behaviour(llama, [best]).exact.all()
    assert behaviour(llama, [best]).row().rank == 1


def test_resampling_one_head_is_activation_patching(model, pairs):
    found = ablated_differences(model, pairs, [[Head(1, 0)], [MLP(1)]], "resample")
    patched = activation_patching(model, pairs, [Head(1, 0), MLP(1)]).patched
    assert np.allclose(found, patched, atol=1e-5)


def test_resampling_everything_gives_the_corrupted_run(llama):
    """The prompts end in the same token, so at END nothing of the clean run is left."""
    pairs = [random_pair(item, changed=(1, 4)) for item in range(4)]
    assert all(pair.clean[-1] == pair.corrupted[-1] for pair in pairs)
    nodes = [*heads_of(llama), *mlps_of(llama)]
    everything = ablated_differences(llama, pairs, [nodes], "resample")[0]
    assert np.allclose(everything, logit_differences(llama, pairs, "corrupted"), atol=1e-5)
    assert not np.allclose(everything, logit_differences(llama, pairs), atol=1e-2)


def test_means_keep_orders_and_answer_branches_apart(llama):
    """Two prompts of one template in two orders: the mean of each is its own corrupted run."""
    pairs = [replace(random_pair(item), template="t", order=order) for item, order in ((0, "ABBA"), (2, "BABA"))]
    assert len(pairs[0].clean) == len(pairs[1].clean)
    nodes = [Head(1, 0), MLP(1)]
    apart = ablated_differences(llama, pairs, [nodes], "mean")
    assert np.allclose(apart, ablated_differences(llama, pairs, [nodes], "resample"), atol=1e-5)
    # an answer of two tokens: its branch and the foil's are continued by other words, and have means of their own
    long = [replace(pairs[0], target=(7, 9), foil=(8, 10))]
    found = ablated_differences(llama, long, [nodes], "mean")
    assert np.allclose(found, ablated_differences(llama, long, [nodes], "resample"), atol=1e-5)


def test_means_are_over_template_order_and_length_however_batched(llama, pairs):
    more = [random_pair(item) for item in range(6)] + pairs[2:]
    nodes = [Head(0, 1), Head(2, 3), MLP(1)]
    whole = ablated_differences(llama, more, [nodes], "mean")
    small = ablated_differences(llama, more, [nodes], "mean", budget=9)
    assert np.allclose(whole, small, atol=1e-5)
    # by hand, for the pairs of one template, order and length
    same = [pair for pair in more if (pair.template, pair.order, len(pair.clean)) == ("t0", "BABA", 9)]
    site = Site("z", 2)
    with torch.no_grad(), capture(llama, [site]) as seen:
        llama.trunk(torch.tensor([pair.corrupted for pair in same]))
    mean = seen[site].mean(0)

    def put(value):
        value = value.clone()
        value[:, :, 3] = mean[:, 3]
        return value

    with torch.no_grad(), edit(llama, {site: put}):
        final = llama.trunk(torch.tensor([same[0].clean]))
    expected = reference.logit_difference(llama, [final], same[0].target, same[0].foil)
    found = ablated_differences(llama, more, [[Head(2, 3)]], "mean")
    assert found[0, more.index(same[0])] == pytest.approx(expected, abs=1e-5)


def test_optimal_constants_do_better_than_means_and_leave_no_gradients(llama):
    pairs = [random_pair(item) for item in range(6)]
    nodes = [Head(0, 0), Head(1, 1), MLP(1)]
    constants, losses = optimal_values(llama, pairs, nodes, steps=15)
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is None for parameter in llama.hf.parameters())
    assert np.isfinite(ablated_differences(llama, pairs, [nodes], constants)).all()


def test_the_whole_circuit_gives_one_and_the_empty_one_nothing(model, pairs):
    everything = [*heads_of(model), *mlps_of(model)]
    for kind in ("zero", "mean", "resample"):
        space = NodeSpace(model, pairs, kind, mlps=True)
        found = score(space, [space.mask(everything), space.mask([])])
        assert found.faithfulness() == pytest.approx([1, 0], abs=1e-4)


def test_the_lens_ends_in_the_models_own_answer(model, pairs):
    lens = logit_lens(model, pairs)
    assert np.allclose(lens.after[-1], logit_differences(model, pairs), atol=1e-4)
    silent = ablated_differences(model, pairs, [[MLP(model.layers - 1)]], "zero")[0]
    assert np.allclose(lens.before[-1], silent, atol=1e-4)  # before its FFN: the model without that FFN


def test_windows_and_matched_random_heads(llama):
    assert windows(llama, 1) == [[MLP(0)], [MLP(1)], [MLP(2)]]
    assert windows(llama, 3)[0] == [MLP(0), MLP(1)]
    with pytest.raises(InputError, match="odd"):
        windows(llama, 2)
    chosen = [Head(0, 1), Head(2, 0), Head(2, 3)]
    few = matched_random(llama, chosen, draws=20)  # one of three heads of layer 0, both others of layer 2
    assert sorted(few) == [[Head(0, head), Head(2, 1), Head(2, 2)] for head in (0, 2, 3)]
    wide = [Head(0, 1), Head(1, 0), Head(2, 0)]
    draws = matched_random(llama, wide, draws=20)
    assert len({tuple(drawn) for drawn in draws}) == 20  # of 27
    for drawn in draws:
        assert sorted(node.layer for node in drawn) == [0, 1, 2]
        assert not set(drawn) & set(wide)


def test_bad_input_is_one_clear_line(llama, pairs):
    with pytest.raises(InputError, match="heads 0 to 3"):
        ablated_differences(llama, pairs, [[Head(0, 9)]], "zero")
    with pytest.raises(InputError, match="no ablation 'none'; there are zero, mean, resample, optimal"):
        ablated_differences(llama, pairs, [[Head(0, 1)]], "none")
    with pytest.raises(InputError, match=r"write 9\.6 for a head"):
        parse_node("nine")
    with pytest.raises(InputError, match="builds on nothing"):
        find_circuit(llama, {"x": pairs}, [Step("queries", "q", "nothing")])
    with pytest.raises(InputError, match="needs prompts with corruption 'flip'"):
        find_circuit(llama, {"x": pairs}, [Step("direct", corruption="flip")])


def test_a_knocked_out_head_has_no_direct_effect_of_its_own(pairs):
    # in float64: there the sum of the writes with and without a write of zero is the same number, whatever the kernel;
    # in float32 it is rounded anew, 4e-6 of an LD of 0.1
    llama = Model(tiny_model("llama").double(), tiny_tokenizer(), id="llama")
    mean, gone = ablated_by(llama, pairs, "mean"), Head(2, 1)
    effects = path_patching(llama, pairs, sweep=Sweep(without=(gone,)))
    assert effects.of(gone) == pytest.approx(0, abs=1e-12)
    assert np.abs(effects.effect).max() > 1e-3
    assert np.allclose(effects.clean, ablated_differences(llama, pairs, [[gone]], mean)[0], atol=1e-12)


def test_selection_by_deviation_and_by_significance(llama):
    pairs = [random_pair(item) for item in range(12)]
    effects = path_patching(llama, pairs)
    deviating = select(effects, "deviation", distance=[0] * 12)
    strength = np.abs(effects.effect)
    bound = max(abs(effects.effect.mean()) + 2 * effects.effect.std(), 0.02)
    assert set(deviating.nodes) == {node for node, value in zip(effects.senders, strength) if value > bound}
    assert select(effects, "significance", null=effects).nodes == ()  # nothing stands out from itself
    with pytest.raises(InputError, match="no selection rule"):
        select(effects, "luck")


def test_statistics_are_calibrated():
    generator = np.random.default_rng(0)
    p = prompt_test(generator.normal(size=(4000, 10)))
    assert 0.04 < (p <= 0.05).mean() < 0.065  # test 9 of section 8
    six = 5**0.5 * np.array([-1.0, -1, -1, 1, 1, 1]) + 2.570582  # error 1, so t = 2.5706: 5 % at 5 degrees of freedom
    assert prompt_test(six)[()] == pytest.approx(0.05, abs=1e-6)
    assert prompt_test(six, "greater")[()] == pytest.approx(0.025, abs=1e-6)
    assert prompt_test(-six, "greater")[()] == pytest.approx(0.975, abs=1e-6)
    assert np.allclose(prompt_interval(six), (0, 2 * 2.570582), atol=1e-5)
    # the same on every prompt: next to 0, and never 0
    assert 0 < prompt_test(np.full(6, 2.0))[()] < 1e-9
    assert 0 < prompt_test(np.full(200, 0.1), "greater")[()] < 1e-9
    assert prompt_test(np.full(6, -0.1), "greater")[()] == 1
    assert prompt_test(np.zeros(6))[()] == 1
    assert np.isnan(prompt_test(np.arange(5.0))[()])  # five prompts carry no test
    constant = correlate(np.ones((2, 3)), generator.normal(size=(2, 3)), permutations=5)
    assert np.isnan([constant.pearson, constant.p, constant.spearman, constant.spearman_p]).all()
    first = generator.normal(size=(6, 8)) + np.arange(6)[:, None]
    other = generator.normal(size=(6, 8)) + np.arange(6)[:, None]
    layered = correlate(first, other, permutations=200)
    assert layered.pearson > 0.5  # late heads score higher in both,
    assert layered.p > 0.01  # which the null knows
    assert correlate(first, first, permutations=200).p < 0.01


@pytest.mark.parametrize("tail", [1, -1])
def test_skewed_effects_are_called_at_the_stated_rate(tail):
    """48 heads of ten prompts with an exponential tail, none of which acts: Student's t calls some in half of runs."""
    generator = np.random.default_rng(0)
    values = tail * (generator.exponential(1, (60, 48, 10)) - 1)
    student = np.mean([benjamini_hochberg(prompt_test(one)).any() for one in values])
    held = np.mean([benjamini_hochberg(skewed_test(one)).any() for one in values])
    assert student > 0.3
    assert held <= 0.15  # 0.05 of 60 runs: at most 9 of them with p > 0.999


def test_the_test_for_skewed_effects_is_students_where_nothing_is_skewed():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(400, 20))
    p = skewed_test(values)
    assert (p >= prompt_test(values)).all()
    assert 0.03 < (p <= 0.05).mean() < 0.07
    assert 0.03 < (skewed_test(values, "greater") <= 0.05).mean() < 0.07
    assert (skewed_test(np.full((2, 6), 2.0)) < 1e-9).all()  # the same on every prompt
    assert np.isnan(skewed_test(np.zeros((2, 5)))).all()
    # a heavy tail on one side leaves the test on that side as it is
    right = generator.exponential(1, (48, 10))
    assert np.allclose(skewed_test(right, "greater"), prompt_test(right, "greater"))


def effects_of(change, unit=8.0, left=2.0):
    """Effects of one sender a row; `left`: LD of the run that was patched into."""
    senders = tuple(Head(0, place) for place in range(len(change)))
    base = np.full(change.shape[1], left)
    return Effects(senders, base + unit * change, base, base, settings={"layers": 1, "heads": len(change)})


def test_backups_are_heads_that_act_more_when_others_are_gone():
    """Test 10: −0.6 before and −0.45 after is no backup, 0 and −0.5 is; in shares of the whole LD."""
    generator = np.random.default_rng(0)
    noise = [generator.normal(0, 0.05, (4, 20)) for _ in range(2)]
    before = effects_of(np.array([[-0.6], [0.0], [0.0], [-0.9]]) + noise[0], left=8.0)
    after = effects_of(np.array([[-0.45], [-0.5], [0.0], [-1.5]]) + noise[1], left=0.5)
    found = growth(before, after, gone=[Head(0, 3)])
    assert found.backups == (Head(0, 1),)
    row = found.row(Head(0, 1))
    assert row["before"] == pytest.approx(0, abs=0.05)
    assert row["after"] == pytest.approx(-0.5, abs=0.05)
    assert row["growth"] == pytest.approx(row["after"] - row["before"])
    assert row["low"] < row["growth"] < row["high"] < 0
    assert np.isnan(found.p[3])  # it was knocked out itself
    few = [replace(each, patched=each.patched[:, :5], clean=each.clean[:5], corrupted=each.corrupted[:5])
           for each in (before, after)]  # fmt: skip
    assert growth(*few, gone=[]).backups == ()


def test_heads_that_do_not_grow_are_hardly_ever_called_backups():
    calls, power = 0, 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        before, after = (generator.normal(0, 0.3, (12, 20)) for _ in range(2))
        before[:6] -= 0.6
        after[:6] -= 0.45
        calls += bool(growth(effects_of(before, left=8.0), effects_of(after), gone=[]).backups)
        after[11] -= 0.5
        power += Head(0, 11) in growth(effects_of(before, left=8.0), effects_of(after), gone=[]).backups
    assert calls <= 6
    assert power >= 54


def test_effects_after_a_knock_out_are_shares_of_the_whole_models_difference():
    after = effects_of(np.full((1, 8), -0.25), left=0.5)
    assert after.effect == pytest.approx([-4.0])
    assert replace(after, unit=np.full(8, 8.0)).effect == pytest.approx([-0.25])


@pytest.mark.parametrize("kind", ["mean", "resample"])
def test_answers_without_a_set_come_from_the_same_pass_as_its_logit_difference(kind):
    from babelscope.circuits.core.ablation import reference
    from babelscope.circuits.core.metrics import behaviour
    from babelscope.circuits.core.nodes import MLP, Head
    from babelscope.circuits.heads.ablation import ablated_answers

    model, pairs = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny"), random_pairs()
    sets = [(), (Head(1, 2), MLP(2)), (Head(0, 0),)]
    scores, logged = ablated_answers(model, pairs, sets, kind, told=(1,))
    other = reference(model, pairs, kind)
    plain = behaviour(model, pairs, edits=lambda rows: node_changes(model, other(rows), sets[1]))
    assert logged[1] == pytest.approx(np.stack([plain.target, plain.foil]), abs=1e-5)
    assert scores[1] == pytest.approx(logged[1, 0] - logged[1, 1], abs=1e-5)
    assert np.isnan(logged[[0, 2]]).all()
