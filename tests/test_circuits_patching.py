"""Fast patching against the plain loop for every family; identities; grouped heads; one clear line for bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope.circuits.core.nodes import EMBEDDING, FINAL, MLP, Head, Receiver, heads_of, mlps_of, receivers
from babelscope.circuits.patching import methods
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.errors import InputError, TaskError, UnsupportedModel
from babelscope.models import Model, Site, capture, edit
from babelscope.models.hooks import hook_count
from tests import reference
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer

SUMMING = [family for family in FAMILIES if family != "opt-350m"]
SOME = [Head(0, 1), Head(1, 3), Head(2, 0), MLP(0), MLP(1), MLP(2), EMBEDDING]
TOLERANCE = 1e-5


def tiny(family, **changes):
    return Model(tiny_model(family, **changes), tiny_tokenizer(), id=family)


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


@pytest.fixture(scope="module")
def pairs():
    return random_pairs()


def equal(found, expected):
    """To 1e-5 of the size of the logit differences themselves."""
    scale = max(1.0, float(np.abs(expected).max()))
    return np.allclose(found, expected, rtol=0, atol=TOLERANCE * scale)


@pytest.fixture(scope="module", params=SUMMING)
def model(request):
    return tiny(request.param)


def test_activation_patching_equals_the_plain_loop(model, pairs):
    few = [pairs[0], pairs[4]]
    for role, senders in ((None, SOME[:4]), ("B", SOME[2:])):
        found = activation_patching(model, few, senders, at=role).patched
        expected = [[reference.naive_activation_patching(model, p, node, role) for p in few] for node in senders]
        assert equal(found, np.array(expected)), role


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_path_patching_to_the_logits_equals_the_plain_loop(model, mlps, pairs):
    few = [pairs[1], pairs[3]]
    found = path_patching(model, few, senders=SOME, mlps=mlps).patched
    expected = [[reference.naive_path_patching(model, p, node, [FINAL], "END", mlps) for p in few] for node in SOME]
    assert equal(found, np.array(expected))


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_path_patching_to_heads_and_mlps_equals_the_plain_loop(model, mlps, pairs):
    into = [Receiver("q", 2, 1), Receiver("k", 1, 0), Receiver("v", 2, 0), Receiver("mlp", 1)]
    for role, few in (("B", pairs[:1]), (None, pairs[2:3])):
        found = path_patching(model, few, into, SOME, at=role, mlps=mlps).patched
        expected = [[reference.naive_path_patching(model, p, node, into, role, mlps) for p in few] for node in SOME]
        assert equal(found, np.array(expected)), role


def test_a_sliding_window_shorter_than_the_prompt_changes_nothing(pairs):
    model = tiny("mistral", sliding_window=4)
    found = activation_patching(model, pairs[:2], SOME, at="B").patched
    expected = [[reference.naive_activation_patching(model, p, node, "B") for p in pairs[:2]] for node in SOME]
    assert equal(found, np.array(expected))


def test_opt_350m_is_refused(pairs):
    with pytest.raises(UnsupportedModel, match="writes miss the final residual"):
        path_patching(tiny("opt-350m"), pairs)


def test_batch_size_changes_no_score(llama, pairs):
    whole = path_patching(llama, pairs, [Receiver("q", 2, 1)], at="B").patched
    small = path_patching(llama, pairs, [Receiver("q", 2, 1)], at="B", sweep=Sweep(budget=9)).patched
    assert np.allclose(whole, small, atol=1e-5)
    assert np.allclose(
        activation_patching(llama, pairs).patched,
        activation_patching(llama, pairs, sweep=Sweep(budget=7)).patched,
        atol=1e-5,
    )


def test_memory_running_out_halves_the_chunk_with_the_same_results(llama, pairs, monkeypatch):
    expected, real, tried = path_patching(llama, pairs).patched, methods.through_mlps, []

    def scarce(model, runs, entries, positions, wanted):
        tried.append(sum(len(entry.change) for entry in entries))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("no more")
        return real(model, runs, entries, positions, wanted)

    monkeypatch.setattr(methods, "through_mlps", scarce)
    assert np.allclose(path_patching(llama, pairs).patched, expected, atol=1e-5)
    assert max(tried) == 12


def test_patching_a_prompt_into_itself_has_no_effect(model, pairs):
    same = [replace(pair, corrupted=pair.clean) for pair in pairs[:3]]
    assert np.abs(activation_patching(model, same, SOME, at="B").differences).max() < 1e-5
    assert np.abs(path_patching(model, same, senders=SOME).differences).max() < 1e-5
    everywhere = path_patching(model, same, receivers(model, [Head(2, 1)], "k"), SOME, at=None)
    assert np.abs(everywhere.differences).max() < 1e-5


def test_patching_the_embedding_everywhere_gives_the_corrupted_run(model, pairs):
    few = pairs[:3]
    effects = activation_patching(model, few, [EMBEDDING])
    assert equal(effects.patched[0], effects.corrupted)
    assert effects.recovery == pytest.approx([0], abs=1e-3)
    denoised = activation_patching(model, few, [EMBEDDING], sweep=Sweep(direction="denoising"))
    assert equal(denoised.patched[0], denoised.clean)
    assert denoised.effect == pytest.approx([1], abs=1e-3)


def test_freezing_z_equals_freezing_queries_keys_and_values(model):
    ids = torch.arange(4, 13)[None]
    kinds = {"z": ("z",), "qkv": ("q", "k", "v")}
    results = {}
    for name, frozen in kinds.items():
        sites = [Site(kind, layer) for layer in range(model.layers) for kind in frozen]
        with torch.no_grad():
            with capture(model, sites) as seen:
                model.trunk(ids)
            changes = {site: (lambda _, site=site: seen[site]) for site in sites}
            changes[Site("residual", 0)] = lambda value: value * 1.3
            with edit(model, changes):
                results[name] = model.trunk(ids)
    scale = max(1.0, float(results["z"].abs().max()))
    assert torch.allclose(results["z"], results["qkv"], atol=1e-5 * scale)


def test_under_grouped_queries_each_key_value_head_is_visited_once(llama):
    assert receivers(llama, [Head(2, 0), Head(2, 1), Head(2, 3)], "k") == [Receiver("k", 2, 0), Receiver("k", 2, 1)]
    assert receivers(llama, [Head(2, 0), Head(2, 1)], "q") == [Receiver("q", 2, 0), Receiver("q", 2, 1)]


def test_a_sender_behind_its_receiver_has_no_effect(llama, pairs):
    effects = path_patching(llama, pairs, [Receiver("q", 1, 0)])
    assert (effects.heads()[1:] == 0).all()
    assert (effects.heads()[0] != 0).any()


def test_patching_a_pattern_moves_the_pattern_and_keeps_the_values(llama, pairs):
    """By hand: queries and keys of one layer from the corrupted prompt, its head's output put into the clean run."""
    pair, node = pairs[0], Head(1, 2)
    found = activation_patching(llama, [pair], [node], what="pattern").patched[0, 0]
    clean, corrupted = torch.tensor([pair.clean]), torch.tensor([pair.corrupted])
    with torch.no_grad():
        with capture(llama, [Site("q", 1), Site("k", 1)]) as seen:
            llama.trunk(corrupted)
        with edit(llama, {site: (lambda _, s=site: seen[s]) for site in seen}), capture(llama, [Site("z", 1)]) as got:
            llama.trunk(clean)
        with edit(llama, reference.sender_edits(llama, got, node, range(9))):
            final = llama.trunk(clean)
    assert found == pytest.approx(reference.logit_difference(llama, [final], pair.target, pair.foil), abs=1e-5)


def test_divergence_is_zero_without_change_and_positive_with_it(llama, pairs):
    effects = activation_patching(llama, pairs, [EMBEDDING, Head(0, 0)], sweep=Sweep(divergence=True))
    assert effects.divergence is not None
    assert (effects.divergence > 1e-7).all()
    with torch.no_grad():
        logits = [llama.logits(llama.trunk(torch.tensor([ids]))[0, -1]) for ids in (pairs[3].clean, pairs[3].corrupted)]
    before, after = (value.log_softmax(-1) for value in logits)
    assert effects.divergence[0, 3] == pytest.approx(float((before.exp() * (before - after)).sum()), rel=1e-3)


def test_effects_are_relative_to_the_clean_logit_difference(llama, pairs):
    effects = path_patching(llama, pairs)
    expected = (effects.patched.mean(1) - effects.clean.mean()) / effects.clean.mean()
    assert np.allclose(effects.effect, expected)
    low, high = effects.interval(draws=200)
    assert (low <= effects.effect + 1e-9).all()
    assert (effects.effect <= high + 1e-9).all()
    assert effects.heads().shape == (3, 4)


def test_the_model_is_left_as_it_was(llama, pairs):
    before, forwards = hook_count(llama.hf), [m for m in llama.hf.modules() if "forward" in m.__dict__]
    path_patching(llama, pairs, [Receiver("k", 2, 1)], senders=[*heads_of(llama), *mlps_of(llama)], at="B")
    assert hook_count(llama.hf) == before
    assert [m for m in llama.hf.modules() if "forward" in m.__dict__] == forwards


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (dict(senders=[Head(0, 4)]), "heads 0 to 3"),
        (dict(senders=[MLP(3)]), "layers 0 to 2"),
        (dict(receivers=[Receiver("k", 1, 2)]), "key/value heads 0 to 1"),
        (dict(receivers=[Receiver("q", 1, 0)], at="S9"), "no role 'S9'.*A, B, END"),
        (dict(at="B"), "read at END"),
        (dict(receivers=[FINAL, Receiver("mlp", 1)]), "patched alone"),
        (dict(receivers=[]), "no receiver"),
    ],
)
def test_bad_input_is_one_clear_line(llama, pairs, arguments, line):
    with pytest.raises(InputError, match=line) as caught:
        path_patching(llama, pairs, **arguments)
    assert "\n" not in str(caught.value)


def test_names_that_ask_for_nothing_are_refused(llama, pairs):
    wrong = [dict(sweep=Sweep(direction="denoise")), dict(sweep=Sweep(routing="fixed"))]
    lines = [
        "direction denoise: there are noising, denoising",
        "routing fixed: there are frozen, free",
    ]
    for arguments, line in zip(wrong, lines):
        for call in (path_patching, activation_patching):
            with pytest.raises(InputError, match=line):
                call(llama, pairs, **arguments)
    with pytest.raises(InputError, match="mlps held: there are recomputed, frozen"):
        path_patching(llama, pairs, mlps="held")
    with pytest.raises(InputError, match="what patterns: there are output, pattern"):
        activation_patching(llama, pairs, what="patterns")


def test_bad_pairs_are_one_clear_line(llama):
    with pytest.raises(TaskError, match="no prompt pair"):
        path_patching(llama, [])
    pair = random_pair(0)
    shorter, equal_answers = object.__new__(type(pair)), object.__new__(type(pair))
    shorter.__dict__.update({**pair.__dict__, "corrupted": pair.corrupted[:-1]})
    equal_answers.__dict__.update({**pair.__dict__, "foil": pair.target})
    with pytest.raises(TaskError, match="clean has 9 tokens and corrupted 8"):
        path_patching(llama, [shorter])
    with pytest.raises(TaskError, match="target and foil are the same"):
        path_patching(llama, [equal_answers])
    with pytest.raises(InputError, match="only heads have an attention pattern"):
        activation_patching(llama, [pair], [MLP(0)], what="pattern")
