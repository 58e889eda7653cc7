"""Runs kept for several sweeps: the same effects to the last bit, fewer passes, no run of an edited model, no more
memory than allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.cache import record
from babelscope.circuits.core.nodes import MLP, Head, Receiver, heads_of, mlps_of
from babelscope.circuits.patching import kept_runs
from babelscope.circuits.patching.kept_runs import keeping_runs, recorded, run_bytes
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.swept_batches import Sweep, in_chunks
from babelscope.models import Model, Site, edit, load_model
from babelscope.studies import circuit_costs
from babelscope.studies.circuit_costs import Sizes
from babelscope.tasks import build
from babelscope.tasks.ioi import STEPS as IOI
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture
def model():
    return Model(tiny_model("bloom"), tiny_tokenizer(), id="bloom")


def sweeps(model, pairs):
    nodes = [*heads_of(model), *mlps_of(model)]
    into = [Receiver("q", 2, 0)]
    return [
        *(activation_patching(model, pairs, nodes, at=at) for at in (None, "A", "B", "END")),
        path_patching(model, pairs, into, heads_of(model), "B"),
        path_patching(model, pairs, sweep=Sweep(without=(Head(1, 0),))),
        activation_patching(model, pairs, sweep=Sweep("denoising")),
        activation_patching(model, pairs, what="pattern"),
    ]


def test_effects_are_those_of_runs_made_anew(model):
    pairs = random_pairs()
    expected = sweeps(model, pairs)
    with keeping_runs(model):
        found = sweeps(model, pairs)
    for one, two in zip(found, expected):
        assert np.array_equal(one.patched, two.patched)
        assert np.array_equal(one.clean, two.clean)
        assert np.array_equal(one.corrupted, two.corrupted)


def whole_passes(model, work):
    """Passes that compute the first block's attention."""
    seen: list[int] = []
    handle = model.blocks[0].self_attention.query_key_value.register_forward_hook(lambda *_: seen.append(1))
    try:
        work()  # a model that is met for the first time is checked
        seen.clear()
        work()
    finally:
        handle.remove()
    return len(seen)


def test_runs_of_the_same_prompts_are_made_once(model):
    pairs, last = [random_pair(0), random_pair(1)], [Head(2, 0)]

    def several():
        for at in (None, "A", "B"):
            activation_patching(model, pairs, last, at=at)
        path_patching(model, pairs, [Receiver("q", 2, 0)], [Head(1, 0)], "B")

    def together():
        with keeping_runs(model):
            several()

    assert whole_passes(model, several) == 4 * 2
    assert whole_passes(model, together) == 2
    assert whole_passes(model, several) == 4 * 2


def test_runs_with_mlps_serve_those_without_and_not_the_other_way(model):
    [rows] = batches([random_pair(0), random_pair(1)], 512, model.device)
    with torch.no_grad(), keeping_runs(model):
        bare = recorded(model, rows, "noising", False)
        assert not bare.base.mlp
        both = recorded(model, rows, "noising", True)
        assert set(both.base.mlp) == {*model.neuron_layers}
        assert recorded(model, rows, "noising", False).base is both.base
        assert recorded(model, rows, "denoising", True).base is not both.base


def test_an_edited_model_has_runs_of_its_own(model):
    [rows] = batches([random_pair(0)], 512, model.device)
    with torch.no_grad(), keeping_runs(model):
        before = recorded(model, rows, "noising", True)
        with edit(model, {Site("mlp_write", 0): torch.zeros_like}):
            under = record(model, rows, "noising", True)
            assert torch.equal(recorded(model, rows, "noising", True).base.final, under.base.final)
        assert not torch.equal(before.base.final, under.base.final)
        assert recorded(model, rows, "noising", True).base is before.base


@pytest.mark.parametrize("mlps", [True, False])
def test_no_more_is_kept_than_allowed_and_a_plan_counts_the_bytes(model, mlps):
    one, two = (next(batches([random_pair(item)], 512, model.device)) for item in (0, 1))
    size = run_bytes(model, mlps) * one.clean.numel()
    with torch.no_grad(), keeping_runs(model, most=size) as kept:
        first = recorded(model, one, "noising", mlps)
        assert kept.bytes == size
        second = recorded(model, two, "noising", mlps)
        assert kept.bytes == size
        assert recorded(model, one, "noising", mlps).base is first.base
        assert recorded(model, two, "noising", mlps).base is not second.base
    with torch.no_grad():
        assert recorded(model, one, "noising", mlps).base is not first.base


def test_where_memory_runs_out_nothing_is_kept_any_more(model):
    [rows] = batches([random_pair(0)], 512, model.device)

    def work(chunk):
        if len(chunk) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return chunk

    with torch.no_grad(), keeping_runs(model) as kept:
        before = recorded(model, rows, "noising", True)
        assert recorded(model, rows, "noising", True).base is before.base
        nodes = [Head(0, 0), Head(0, 1)]
        assert [chunk for chunk, _ in in_chunks(nodes, 2, work, model.device)] == [nodes[:1], nodes[1:]]
        assert kept.bytes == 0
        after = recorded(model, rows, "noising", True)
        assert after.base is not before.base
        assert recorded(model, rows, "noising", True).base is not after.base
        assert torch.equal(after.base.final, before.base.final)


def test_on_a_cuda_device_a_quarter_of_what_is_free_is_kept(monkeypatch):
    assert kept_runs.room(torch.device("cpu")) == 2**31
    for free, most in ((4000, 1000), (2**40, 2**31)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2**41))
        assert kept_runs.room(torch.device("cuda")) == most


def plain_passes(cost):
    return (cost.passes if not cost.kind else 0) + sum(map(plain_passes, cost.parts))


def planned_runs(sizes, roles):
    """Plain passes and tokens that the plan counts for sweeps over these roles."""
    made = circuit_costs.on_the_same(sizes, len(roles))
    sweeps = circuit_costs.role_sweeps(sizes, roles)
    parts = circuit_costs.patched(sizes, None, sweeps, "", anew=made).parts
    return sum(part.passes for part in parts), sum(part.tokens for part in parts)


def test_the_plan_counts_the_runs_that_are_made(monkeypatch):
    model = load_model("pocket:pocket-bloom-s")
    pairs = list(build("ioi", model.tokenizer, "en", n=8))
    last = [Head(model.layers - 1, 0), MLP(model.layers - 1)]  # nothing of the first block is computed for these
    sizes, roles = Sizes(model, pairs, 8), (None, "S2", "END")

    def several(most):
        with keeping_runs(model, most):
            for role in roles:
                activation_patching(model, pairs, last, at=role)

    passes, tokens = planned_runs(sizes, roles)
    assert passes == whole_passes(model, lambda: several(kept_runs.MOST)) == 2 * sizes.batches
    assert tokens == 2 * sizes.tokens
    monkeypatch.setattr(kept_runs, "MOST", 0)
    passes, tokens = planned_runs(sizes, roles)
    assert passes == whole_passes(model, lambda: several(0)) == 3 * 2 * sizes.batches
    assert tokens == 3 * 2 * sizes.tokens


def test_a_search_is_planned_with_the_runs_of_its_null_made_once(monkeypatch):
    model = load_model("pocket:pocket-bloom-s")
    sizes = Sizes(model, list(build("ioi", model.tokenizer, "en", n=8)), 8)

    def plain(null):
        return plain_passes(circuit_costs.searched(sizes, None, IOI, null)) // (2 * sizes.batches)

    # three steps into heads find the main runs; backups are sought among runs of their own
    assert (plain(False), plain(True)) == (1, 1 + 1 + 1)
    monkeypatch.setattr(kept_runs, "MOST", 0)
    assert (plain(False), plain(True)) == (4, 4 + 5)
