"""Circuits that were put there by hand are found, with their known effects, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from babelscope.circuits.core.faithfulness import completeness, minimality, score
from babelscope.circuits.core.metrics import behaviour, logit_differences
from babelscope.circuits.core.nodes import MLP, Head, Receiver, mlps_of
from babelscope.circuits.heads.ablation import NodeSpace, ablated_differences
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.search import SearchSettings, find_circuit
from babelscope.tasks.ioi import STEPS as IOI
from babelscope.tasks.steps import Step
from babelscope.tasks.tense import STEPS as TENSE
from tests import planted


@pytest.fixture(scope="module", params=["gpt2", "llama", "bloom"])
def ioi(request):
    return planted.ioi(request.param)


@pytest.fixture(scope="module", params=["gpt2", "llama", "bloom"])
def tense(request):
    return planted.two_languages(request.param)


def named(nodes):
    return [str(node) for node in nodes]


def test_ioi_is_found_step_by_step_and_nothing_else(ioi, tmp_path):
    model, pairs = ioi
    found = find_circuit(model, {"pabc": pairs}, IOI, SearchSettings(sigmas=1))
    assert named(found["name_movers"].supporting) == ["3.3"]
    assert named(found["name_movers"].opposing) == ["3.2"]
    assert named(found["s_inhibition"].supporting) == ["2.0"]
    assert named(found["duplicate_induction"].supporting) == ["1.2"]
    assert found["previous_token"].supporting == ()  # no name decides where it looks, so other names change nothing
    assert set(named(found.heads)) == {"3.3", "3.2", "2.0", "1.2"}
    assert found.to_json()["steps"][0]["supporting"][0]["node"] == "3.3"


def test_known_effects_of_edges_hold_to_a_millionth(ioi):
    """+10 from the name mover, −4 from its opponent; without S-inhibition a mover reads both names alike."""
    model, pairs = ioi
    direct = path_patching(model, pairs)
    assert direct.clean == pytest.approx(np.full(12, 6.0), abs=1e-6)
    assert direct.of(Head(3, 3)) == pytest.approx(-10 / 6, abs=1e-6)
    assert direct.of(Head(3, 2)) == pytest.approx(4 / 6, abs=1e-6)
    queries = path_patching(model, pairs, [Receiver("q", 3, 3)])
    assert queries.of(Head(2, 0)) == pytest.approx(-10 / 6, abs=1e-6)
    both = path_patching(model, pairs, [Receiver("q", 3, 3), Receiver("q", 3, 2)])
    assert both.of(Head(2, 0)) == pytest.approx(-1, abs=1e-6)
    values = path_patching(model, pairs, [Receiver("v", 2, 0 // (model.heads // model.kv_heads))], at="S2")
    assert values.of(Head(1, 2)) == pytest.approx(-1, abs=1e-6)
    others = [Head(layer, head) for layer in range(4) for head in range(4) if (layer, head) not in ((3, 3), (3, 2))]
    assert max(abs(direct.of(node)) for node in others) < 1e-6


def test_activation_patching_finds_every_head_that_reads_names(ioi):
    model, pairs = ioi
    effects = activation_patching(model, pairs)
    strong = {node for node in effects.senders if abs(effects.of(node)) > 0.05}
    assert strong == {Head(1, 2), Head(2, 0), Head(3, 3), Head(3, 2)}
    at_s2 = activation_patching(model, pairs, at="S2")
    assert {node for node in at_s2.senders if abs(at_s2.of(node)) > 0.05} == {Head(1, 2)}


def test_the_circuit_alone_is_faithful_complete_and_minimal(ioi):
    model, pairs = ioi
    heads = [Head(0, 1), Head(1, 2), Head(2, 0), Head(3, 3), Head(3, 2)]
    space = NodeSpace(model, pairs, "zero")
    found = score(space, [space.whole, space.mask([]), space.mask(heads)])
    assert found.faithfulness() == pytest.approx([1, 0, 1], abs=1e-6)
    assert completeness(space, space.mask(heads), draws=4).gap == pytest.approx(0, abs=1e-6)
    parts = {str(node): space.mask([node]) for node in heads}
    least = minimality(space, space.mask(heads), parts, {"movers": ["3.3", "3.2"], "rest": ["0.1", "1.2", "2.0"]})
    assert min(least.values()) > 0.3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_induction_is_found_with_its_previous_token_head(family):
    model, pairs = planted.induction(family)
    steps = [Step("direct", mlps=True), Step("previous", "k", "direct", "S1+1", mlps=True)]
    found = find_circuit(model, {"first": pairs}, steps, SearchSettings(null=False))
    assert named(found["direct"].supporting) == ["1.1"]
    assert named(found["previous"].supporting) == ["0.2"]
    assert found["direct"].effects.of(Head(1, 1)) == pytest.approx(-1, abs=1e-5)
    assert len(found.nodes) == 2


def test_two_languages_share_the_copy_head_and_nothing_else(tense):
    model, sets = tense
    found = {code: find_circuit(model, sets[code], TENSE, SearchSettings(sigmas=1)) for code in sets}
    assert set(named(found["en"]["direct"].supporting)) == {"0.2", "m1"}
    assert set(named(found["en"]["direct_verb"].supporting)) == {"0.1", "m1"}
    assert named(found["en"]["ffn_inputs"].supporting) == ["0.2"]
    assert found["zh"]["direct"].supporting == ()
    assert named(found["zh"]["direct_verb"].supporting) == ["0.1"]
    assert set(named(found["en"].nodes)) == {"0.1", "0.2", "m1"}
    assert set(named(found["zh"].nodes)) == {"0.1"}


def test_ablating_the_language_only_parts_hurts_that_language_alone(tense):
    model, sets = tense
    parts = {"copy": [Head(0, 1)], "tense": [Head(0, 2)], "ffn": [MLP(1)], "other ffns": [MLP(0), MLP(2)]}
    hurt = {}
    for code in sets:
        pairs = sets[code]["verb-swap"]
        scores = ablated_differences(model, pairs, [[], *parts.values()], "zero").mean(1)
        hurt[code] = {name for name, score in zip(parts, scores[1:]) if score < scores[0] - 1e-4}
        assert scores[0] == pytest.approx(behaviour(model, pairs).logit_difference.mean())
    assert hurt == {"en": {"copy", "tense", "ffn"}, "zh": {"copy"}}


def test_the_model_does_the_task_as_planted(tense):
    model, sets = tense
    for code in sets:
        assert behaviour(model, sets[code]["verb-swap"]).exact.all()
    flipped = logit_differences(model, sets["en"]["tense-flip"], "corrupted")
    assert (flipped < 0).all()
    assert len(mlps_of(model)) == 3


def test_a_search_goes_on_where_it_was(tmp_path, monkeypatch):
    from babelscope.circuits.patching import search as module
    from babelscope.errors import RunError
    from babelscope.results.step_store import StepStore

    model, pairs = planted.ioi("gpt2")
    store, calls = StepStore(tmp_path / "run"), []
    real = module.path_patching
    monkeypatch.setattr(module, "path_patching", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    first = find_circuit(model, {"pabc": pairs}, IOI, once=store.once)
    asked = len(calls)
    assert len(list(store.folder.glob("*/step.json"))) == asked
    again = find_circuit(model, {"pabc": pairs}, IOI, once=store.once).to_json()
    assert repr(again) == repr(first.to_json())  # effects without spread have no interval: NaN is not NaN
    assert len(calls) == asked
    find_circuit(model, {"pabc": pairs[:-1]}, IOI, once=store.once)  # other prompts: nothing is taken over
    assert len(calls) == 2 * asked
    kept = next(store.folder.glob("s-inhibition-*/step.json"))
    kept.write_text(kept.read_text().replace("0.", "1.", 1))
    with pytest.raises(RunError, match=r"step\.json is not as it was written"):
        find_circuit(model, {"pabc": pairs}, IOI, once=store.once)
        find_circuit(model, {"pabc": pairs[:-1]}, IOI, once=store.once)


def test_the_public_names_exist_and_hide_no_module():
    import pkgutil
    from importlib import import_module

    package = import_module("babelscope.circuits")
    assert sorted(package.__all__) == sorted(set(package.__all__))
    assert not [name for name in package.__all__ if not hasattr(package, name)]
    for room in pkgutil.walk_packages(package.__path__, "babelscope.circuits."):
        module = import_module(room.name)
        hidden = {name for name in vars(module) if not name.startswith("_")} & {room.name.rpartition(".")[2]}
        assert not hidden, f"{room.name} holds a name that is its own"
