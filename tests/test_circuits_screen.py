"""The screen keeps what exact patching selects, its bound is exact, and what is left out is never taken for zero."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from babelscope.circuits.core.effects import Effects, Screening
from babelscope.circuits.core.nodes import MLP, Head, Receiver, heads_of, reaches
from babelscope.circuits.core.statistics import correlate
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.screen import (
    Screen,
    activation_estimates,
    missed,
    path_estimates,
    screened,
    spread_over,
)
from babelscope.circuits.patching.search import SearchSettings, find_circuit
from babelscope.circuits.patching.selection import select
from babelscope.models import Model
from babelscope.stats import benjamini_hochberg, hypergeometric_upper
from babelscope.tasks.ioi import STEPS as IOI
from tests import planted
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer

SMALL = Screen(pairs=8, drops=2, trial=6, share=0.1, least=3, fewest=1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_a_screened_search_finds_the_planted_circuit_and_leaves_heads_unpatched(family):
    model, pairs = planted.ioi(family)
    exact = find_circuit(model, {"pabc": pairs}, IOI, SearchSettings(sigmas=1))
    found = find_circuit(model, {"pabc": pairs}, IOI, SearchSettings(sigmas=1, screen=SMALL))
    for step, other in zip(exact.steps, found.steps):
        assert step.supporting == other.supporting
        assert step.opposing == other.opposing
    effects = found["s_inhibition"].effects
    assert effects.screening is not None
    assert effects.screening.asked == 12  # heads of the last layer cannot reach its queries: they are free, and there
    assert {node for node in effects.senders if node.layer == 3} == {Head(3, head) for head in range(4)}
    assert effects.screening.left == 16 - len(effects.senders)
    assert effects.screening.left > 0
    assert found["name_movers"].effects.screening is None  # paths to the logits are always taken of every head
    bound = found["s_inhibition"].missed
    assert bound.sampled_passed == 0
    assert bound.at_most == hypergeometric_upper(0, bound.sampled, bound.heads - bound.kept)


def test_what_is_patched_has_its_exact_effect():
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    pairs = random_pairs()
    nodes = [*heads_of(model), MLP(0)]
    exact = activation_patching(model, pairs, nodes)
    screen = replace(SMALL, trial=2)
    found = screened(lambda some, senders: activation_patching(model, some, senders), pairs, nodes, screen)
    assert found.screening.left > 0
    assert MLP(0) in found.senders  # only heads are screened
    for node in found.senders:
        assert found.of(node) == pytest.approx(exact.of(node), abs=1e-6)
    assert np.isnan(found.heads()).sum() == found.screening.left


def test_no_head_is_patched_twice_on_a_prompt():
    generator = np.random.default_rng(0)
    pairs = [random_pair(item) for item in range(40)]
    nodes = [*(Head(layer, head) for layer in range(8) for head in range(8)), MLP(0)]
    truth = dict(zip(nodes, [3.0, -3.0, 2.0, *generator.normal(0, 0.3, 61), 1.0]))
    noise = {(pair.item, node): 0.2 * generator.normal() for pair in pairs for node in nodes}
    patched = Counter()

    def sweep(some, senders):
        patched.update((pair.item, node) for pair in some for node in senders)
        base = np.array([float(pair.item) + 1 for pair in some])
        change = np.array([[truth[node] + noise[pair.item, node] for pair in some] for node in senders])
        return Effects(tuple(senders), base + change, base, base - 1, settings={"layers": 8, "heads": 8})

    exact = sweep(pairs, nodes)
    patched.clear()
    found = screened(sweep, pairs, nodes, Screen(least=4))
    assert set(patched.values()) == {1}
    assert {Head(0, 0), Head(0, 1), Head(0, 2)} <= set(found.senders) - set(found.screening.sampled)
    assert MLP(0) in found.senders
    assert found.differences == pytest.approx(exact.only(set(found.senders)).differences)
    assert np.array_equal(found.clean, exact.clean)
    assert np.array_equal(found.corrupted, exact.corrupted)
    times = Counter(node for _, node in patched)
    assert {times[node] for node in found.senders} == {40}
    assert {times[node] for node in nodes if node not in found.senders} == {8}


def test_few_heads_are_all_patched():
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    found = screened(lambda some, s: activation_patching(model, some, s), random_pairs(), heads_of(model), Screen())
    assert found.screening is None
    assert missed(found, found.senders) is None
    few = screened(lambda some, s: activation_patching(model, some, s), random_pairs(), heads_of(model), SMALL)
    assert few.screening is None  # no more prompts than the trial has


def test_first_order_estimates_follow_exact_patching():
    """In a small random model effects are nearly linear; along direct paths more so than all the way down."""
    model = Model(tiny_model("gpt2").double(), tiny_tokenizer(), id="tiny")
    pairs = random_pairs()
    screen = Screen(drops=0)
    told = activation_estimates(model, pairs, [None, "A"], screen)
    for role in (None, "A"):
        exact = activation_patching(model, pairs, at=role).differences.mean(1)
        assert np.corrcoef(told[role][0].ravel(), exact)[0, 1] > 0.95
    into = [Receiver("q", 2, 1), Receiver("mlp", 2)]
    for mlps in ("recomputed", "frozen"):
        paths = path_patching(model, pairs, into, at="END", mlps=mlps).differences.mean(1)
        estimate = path_estimates(model, pairs, into, "END", mlps, screen)[0].ravel()
        assert estimate == pytest.approx(paths, abs=0.1 * np.abs(paths).max())
        assert all(not estimate[place] for place, n in enumerate(heads_of(model)) if not _reaches(model, n, into))


def _reaches(model, node, into):
    return any(reaches(model, node, receiver) for receiver in into)


def test_a_dropped_layer_shows_what_cancels():
    """Two layers undo each other at first order; the gradient that does not pass the second sees the first."""
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    told = activation_estimates(model, random_pairs(), [None], Screen(drops=model.layers))[None]
    assert told.shape == (3 + model.layers, model.layers, model.heads)
    plain, first = told[0], told[3]
    assert not np.allclose(plain[0], first[0]) or np.allclose(first[0], 0)  # its own layer is held
    assert np.allclose(first[0], 0)
    assert np.allclose(told[2 + model.layers][-1], 0)


def test_deviation_and_mean_stand_for_all_heads():
    values = np.array([-1.0, -0.5, 0.1, 0.0, 0.2])
    senders = tuple(Head(0, head) for head in range(5))
    base = np.ones(4)
    effects = Effects(senders, base + values[:, None], base, base, screening=Screening(8, 2, senders[3:]))
    # two kept, one free, two sampled for six heads
    whole = np.array([-1, -0.5, 0.1, *[0.0] * 3, *[0.2] * 3])
    assert effects.mean == pytest.approx(whole.mean())
    assert effects.deviation == pytest.approx(whole.std())
    assert effects.only(senders[:2]).senders == senders[:2]


def test_the_bound_is_the_largest_number_that_could_have_stayed_hidden():
    """By counting every sample: with one head more than the bound, fewer than one sample in twenty shows as few."""
    for found, drawn, of in ((0, 4, 12), (1, 4, 12), (2, 5, 10), (0, 12, 12)):
        bound = hypergeometric_upper(found, drawn, of)
        samples = list(combinations(range(of), drawn))

        def chance(there, samples=samples, found=found):
            return np.mean([sum(place < there for place in sample) <= found for sample in samples])

        assert chance(bound) > 0.05
        if bound < of - (drawn - found):
            assert chance(bound + 1) <= 0.05


def test_unpatched_heads_count_in_the_false_discovery_rate():
    generator = np.random.default_rng(0)
    change = generator.normal(0, 0.3, (10, 12))
    change[0] -= 0.32
    senders = tuple(Head(0, head) for head in range(10))
    base = np.ones(12)
    effects = Effects(senders, base + change, base, base, settings={"layers": 1, "heads": 10})
    few = select(effects, sigmas=0.0)
    assert senders[0] in few.nodes
    many = Effects(
        senders, base + change, base, base, screening=Screening(1010, 8, senders[8:]), settings=effects.settings
    )
    chosen = select(many, sigmas=0.0)
    assert np.array_equal(chosen.p, few.p)
    assert len(chosen.nodes) == benjamini_hochberg(np.append(few.p, np.ones(1000))).sum()


def test_heads_without_a_number_are_left_out_of_correlations():
    generator = np.random.default_rng(1)
    first = generator.normal(size=(4, 8))
    second = first + generator.normal(size=(4, 8))
    holes = first.copy()
    holes[:, ::2] = np.nan
    found = correlate(holes, second, 50)
    assert found.pearson == pytest.approx(np.corrcoef(first[:, 1::2].ravel(), second[:, 1::2].ravel())[0, 1])
    assert correlate(first, second, 50).pearson == pytest.approx(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_a_part_of_the_prompts_is_spread_over_them():
    pairs = random_pairs()
    assert spread_over(pairs, 99) == pairs
    assert spread_over(pairs, 2) == [pairs[0], pairs[-1]]


def test_a_study_says_what_its_screen_kept_and_may_have_missed(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    from babelscope.figures import draw
    from babelscope.findings import findings_of
    from babelscope.models import load_model
    from babelscope.report import write_report
    from babelscope.studies.circuits import CircuitsSettings, study_circuits

    given = load_model("pocket:pocket-bloom-s")
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=given.vocabulary, hidden_size=48, n_layer=8, n_head=8, initializer_range=0.2, bos_token_id=None
    )
    model = Model(BloomForCausalLM(config), given.tokenizer, id="random")
    settings = CircuitsSettings(
        languages=("en", "zh"), n=12, draws=1, repeats=(10,), windows=(1,), edges=False, permutations=20
    )
    run = study_circuits(model, settings, tmp_path / "screened")
    run.validate()
    assert run.manifest["screen"]["sample"] == 0.1
    rows = run.table("screen")
    assert set(rows.sweep) >= {"activation patching", "activation patching at S2"}
    assert (rows.kept + rows.sampled + rows.left == rows.heads).all()
    arrays = run.arrays()
    missing = np.isnan(arrays.activation_patching.values).sum((1, 2))
    left = rows[rows.sweep == "activation patching"].set_index("language").left
    assert missing.tolist() == [left["en"], left["zh"]]
    assert left.min() > 0
    assert np.isfinite(arrays.path_logits.values).all()
    assert len(run.table("overlap"))
    page = write_report([run.path], tmp_path / "page.html", static=False).read_text(encoding="utf-8")
    assert "Screen of heads" in page
    for drawn in ("head_heatmap", "head_scatter", "head_difference"):
        assert draw(run, drawn, measure="activation_patching").axes
    searched = rows.sweep.str.startswith("search")
    assert any("screened" in one.text for one in findings_of(run)) == bool(searched.any())


def test_a_small_model_is_patched_whole_and_says_so(tmp_path):
    from babelscope.models import load_model
    from babelscope.studies.circuit_steps import screen_facts
    from babelscope.studies.circuits import CircuitsSettings

    model = load_model("pocket:pocket-gpt2-en")
    assert "fewer than" in screen_facts(model, CircuitsSettings())["patched"]
    assert "as asked" in screen_facts(model, CircuitsSettings(exact=True))["patched"]


def test_a_plan_says_what_a_study_of_circuits_costs_and_writes_nothing(tmp_path):
    import babelscope
    from babelscope.studies.circuit_plan import plan_circuits
    from babelscope.studies.plan import Probe
    from tests.command import command

    model = babelscope.load_model("pocket:pocket-gpt2-en")
    measured = Probe(1.0, 1.0, 0.0)
    small, large = (
        plan_circuits(model, babelscope.CircuitsSettings(languages=("en",), n=n), measured=measured) for n in (8, 32)
    )
    assert 3 < large.seconds / small.seconds < 5
    names = [one.step for one in large.steps]
    assert {"en: activation patching", "en: search", "en: ablation", "en: edges"} <= set(names)
    assert sum(one.share for one in large.steps) == pytest.approx(1)
    without = plan_circuits(model, babelscope.CircuitsSettings(languages=("en",), n=32, edges=False), measured=measured)
    assert without.seconds < large.seconds
    ended = command(
        "circuits", "pocket:pocket-gpt2-en", "--languages", "en", "--n", "8", "--out", tmp_path / "run", "--plan"
    )
    assert ended.exit_code == 0
    assert "en: edges" in ended.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", ["en", pytest.param("zh", marks=pytest.mark.nightly)])
def test_the_screen_selects_what_exact_patching_selects_in_a_trained_model(code):
    from babelscope.models import load_model
    from babelscope.tasks import build

    model = load_model("pocket:pocket-bloom-m")
    pairs = list(build("ioi", model.tokenizer, code, n=24, corruption="pabc", split="auto"))
    asked = dict(null=False, seed=0)
    exact = find_circuit(model, {"pabc": pairs}, IOI, SearchSettings(**asked))
    found = find_circuit(model, {"pabc": pairs}, IOI, SearchSettings(**asked, screen=Screen(fewest=8)))
    assert set(found.heads) == set(exact.heads)
    assert any(step.effects is not None and step.effects.screening for step in found.steps)
