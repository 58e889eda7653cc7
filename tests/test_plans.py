"""Plans of every long verb: what they count, that they follow the size of the study, and that nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope import load_corpus, load_model, plan
from babelscope.evolution import read_plan
from babelscope.evolution.sweep_plan import plan_sweep
from babelscope.studies import circuit_costs
from babelscope.studies.circuit_costs import Leg, Sizes
from babelscope.studies.latent_settings import LatentSettings
from babelscope.studies.plan import Probe, Rate, rate_of
from babelscope.studies.regions import RegionsSettings
from babelscope.studies.rehearsal import planned, rehearsed, spent
from babelscope.studies.steer_settings import SteerSettings
from babelscope.studies.steps import Cost
from babelscope.tasks import build
from tests.command import command


@pytest.fixture(scope="module")
def model():
    return load_model("pocket:pocket-bloom-s")


class Ticks:
    """A clock that goes on only when it is told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_cost_has_parts_of_other_kinds():
    probe = Probe(1.0, 10.0, 0.0, begun=100.0, rates={"patched": Rate(5.0, 2.0)})
    cost = Cost(tokens=3, passes=1, parts=(Cost(tokens=4, passes=2, kind="patched"), Cost(scored=1)))
    assert probe.seconds(cost) == 3 + 100 + 2 * 4 + 5 * 2 + 10
    assert (cost.all("tokens"), cost.all("passes"), cost.all("scored")) == (7, 3, 1)
    assert probe.seconds(Cost(tokens=1, kind="unknown")) == 1  # a plain pass


def test_a_rate_is_read_off_two_sizes(model):
    clock = Ticks()

    def work(size):
        clock.now += 3 + 0.5 * size
        return size

    found = rate_of(work, (2, 10), model, seconds=0.0, clock=clock)
    assert found.token == pytest.approx(0.5)
    assert found.begun == pytest.approx(3)


def test_a_rehearsal_is_carried_on_in_a_straight_line(model):
    clock = Ticks()

    def work(size):
        clock.now += 2 + 0.25 * size
        with torch.inference_mode():
            model.trunk(torch.ones(1, size, dtype=torch.long))

    found = rehearsed(model, work, (4, 8), 100, clock)
    assert found.seconds == pytest.approx(2 + 25)
    assert found.passes == 1
    assert found.tokens == pytest.approx(100)
    _, once = spent(model, lambda: work(6), clock)
    assert (once.seconds, once.tokens) == (3.5, 6)
    assert [step.share for step in planned({"a": (once, ""), "b": (once * 3, "")}).steps] == [0.25, 0.75]
    assert not model.blocks[0]._forward_pre_hooks  # nothing is left on the model


def test_prompts_of_each_length_are_batches_of_their_own(model):
    pairs = list(build("ioi", model.tokenizer, "en", n=16))
    assert Sizes(model, pairs, 16).batches == len({len(pair.clean) for pair in pairs})


def test_a_sweep_is_counted_by_its_legs(model):
    pairs = list(build("ioi", model.tokenizer, "en", n=16))
    sizes = Sizes(model, pairs, 16)
    there, on = sizes.sweep(10, 2, [Leg(1.0, 0.25), Leg(3.0, 0.5)], pairs[:4]).parts
    assert there.tokens == 4 * 12 * 1 * 0.25
    assert on.tokens == 4 * 12 * 3 * 0.5
    batches = sizes.batches_of(pairs[:4])
    assert sizes.sweep(100, 0, [Leg(1.0, 0.5)], pairs[:4]).parts[0].passes == int(batches * model.layers * 0.5)
    assert sizes.sweep(100, 0, [Leg(1.0, 0.5)], pairs[:4], together=1).parts[0].passes == int(batches * 0.5)


def test_the_way_between_senders_and_receivers_anywhere():
    generator = np.random.default_rng(0)
    receivers = np.sort(generator.random((200_000, circuit_costs.RECEIVERS)), axis=1)
    sender = generator.random(200_000)
    reached = receivers > sender[:, None]
    there = np.clip(receivers[:, -1] - sender, 0, None)
    first = np.where(reached.any(1), np.take_along_axis(receivers, reached.argmax(1)[:, None], 1)[:, 0], 1)
    assert there.mean() == pytest.approx(circuit_costs.BETWEEN, abs=0.003)
    assert (1 - first).mean() == pytest.approx(circuit_costs.BETWEEN, abs=0.003)


def test_text_under_deactivation_is_timed_as_it_is_read_and_in_rounds_less_of_it(model):
    whole, half = (
        plan(
            model,
            RegionsSettings(corpus="pocket:heldout", samples=4, texts="pocket:heldout?seed=1", window=32, joint="eos",
                            languages=("en", "fr", "es"), text_tokens=256, controls=2, fixed=fixed),
        )
        for fixed in (True, False)
    )  # fmt: skip
    tokens = [next(step.tokens for step in found.steps if step.step == "deactivation table") for found in (whole, half)]
    # three languages of 256 tokens, under nothing, three regions and two draws of two controls
    assert tokens[0] == 3 * 256 * (1 + 3 + 4)
    assert tokens[0] // 2 <= tokens[1] < tokens[0]
    assert [step.step for step in whole.steps][-1] == "run written"


def test_latent_and_steering_are_rehearsed(model, tmp_path):
    asked = LatentSettings(words="pocket", from_=("en",), to=("fr", "zh"), n=24, draws=100, permutations=19, matched=0,
                           task="sentence", parallel="pocket:train")  # fmt: skip
    found = plan(model, asked)
    assert [step.step for step in found.steps] == ["logit lens, 2 pairs", "texts read, run written"]
    assert found.seconds > 0
    assert found.steps[0].tokens > 0
    steering = SteerSettings(corpus="pocket:heldout?n=60", languages=("en", "fr", "es"), fixed=True, tokens=4,
                             choose_prompts=4, report_prompts=8, controls=2, layer="2", alpha=(1.0,))  # fmt: skip
    told = {step.step: step for step in plan(model, steering, load_corpus("pocket:heldout?n=60")).steps}
    assert list(told) == ["fit", "choosing", "reporting", "controls", "damage", "fidelity and continuation"]
    assert told["controls"].tokens > told["choosing"].tokens > 0
    assert all(step.seconds > 0 for step in told.values())
    assert not list(tmp_path.iterdir())


LATENT = {"words": "pocket", "from": ["en"], "to": ["fr"], "parts": ["lens"], "lens": ["logit"], "n": 16, "draws": 100}


def test_a_sweep_counts_its_points():
    one, two = (
        plan_sweep(
            read_plan(
                "pocket-checkpoints",
                {"models": [{"id": "pocket:pocket-bloom-s", "revisions": "all"}], "languages": ["en", "fr"],
                 "measures": {"regions": {"samples": samples, "threshold": 0.6}, "latent": LATENT}},
            )
        )
        for samples in (5, 10)
    )  # fmt: skip
    recording = [next(step for step in found.steps if "recording" in step.step) for found in (one, two)]
    assert recording[1].tokens == pytest.approx(2 * recording[0].tokens, rel=0.2)
    assert sum(step.share for step in one.steps) == pytest.approx(1)
    assert "pocket-bloom-s: logit lens, 1 pairs" in [step.step for step in one.steps]


@pytest.mark.parametrize(
    "words",
    [
        ("latent", "pocket:pocket-bloom-s", "--words", "pocket", "--task", "sentence", "--parallel", "pocket:train",
         "--from", "en", "--to", "fr", "--n", "8", "--matched", "0"),
        ("sweep", "pocket-checkpoints", "--samples", "5", "--languages", "en,fr"),
    ],
)  # fmt: skip
def test_a_verb_plans_and_writes_nothing(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command(*words, "--plan")
    assert ended.exit_code == 0, ended.stderr
    assert "cheaper with" in ended.stdout
    assert not list(tmp_path.iterdir())
