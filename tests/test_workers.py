"""Studies shared out to workers: what a unit gives depends on the unit alone, and a dead worker changes nothing."""

from __future__ import annotations

import os
import pickle
import signal
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from babelscope import load_corpus, load_model, load_texts
from babelscope.circuits.core.nodes import Head, Receiver
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.errors import InputError, RunError
from babelscope.models import Model, Site
from babelscope.models.decoding import Decoding, decode
from babelscope.models.ray_workers import RayWorkers, on_ray
from babelscope.models.rows import RowEdit
from babelscope.models.workers import over_workers
from babelscope.regions import RegionSet, deactivate, deactivation_table, record
from babelscope.regions.perplexity import cut_windows
from babelscope.steering.losses import losses, text_losses
from babelscope.studies.circuits import CircuitsSettings, study_circuits
from babelscope.studies.latent import LatentSettings, study_latent
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.regions import study_regions
from babelscope.studies.steer import study_steering
from babelscope.studies.steer_settings import SteerSettings
from babelscope.studies.steps import Apart, Step, run_steps
from tests.random_pairs import random_pairs

POCKET = "pocket:pocket-bloom-s"


class Elsewhere:
    """Another process, but for the process: its own model, all that travels pickled, units in an odd order."""

    def __init__(self, model: Model) -> None:
        self.model, self.units = model, 0

    def results(self, prepare, shared, units, tell):
        cloudpickle = pytest.importorskip("cloudpickle")
        found, told = {}, []
        for place in sorted(range(len(units)), key=lambda place: (place % 2 == 0, -place)):
            prepare_there, given, unit = pickle.loads(  # noqa: S301 - our own
                cloudpickle.dumps((prepare, shared, units[place]))
            )
            work = prepare_there(self.model, given)  # anew for each: nothing is left of an earlier unit
            found[place] = pickle.loads(cloudpickle.dumps(work(unit, told.append)))  # noqa: S301
            self.units += 1
        tell(sum(told))
        yield from (found[place] for place in range(len(units)))


@pytest.fixture(scope="module")
def model():
    return load_model(POCKET)


@pytest.fixture(scope="module")
def other():
    return load_model(POCKET)


@contextmanager
def elsewhere(model, other, least=2):
    """Work goes to the other model; at least so many units of it."""
    model.workers = Elsewhere(other)
    try:
        yield
        assert model.workers.units >= least
    finally:
        model.workers = None


def both(model, other, work):
    """What `work` gives here, and elsewhere, with what was told of progress."""
    told = [], []
    here = work(told[0].append)
    with elsewhere(model, other):
        there = work(told[1].append)
    assert sum(told[0]) == sum(told[1])
    return here, there


def test_units_come_in_order_whoever_does_them(model, other):
    assert list(over_workers(model, _longer, 10, [3, 1, 2])) == [13, 11, 12]
    with elsewhere(model, other, 3):
        assert list(over_workers(model, _longer, 10, [3, 1, 2])) == [13, 11, 12]


def _longer(_model, by):
    return lambda unit, tell: unit + by


def test_a_recording_is_the_same_to_the_bit(model, other):
    corpus = load_corpus("pocket:heldout", ("en", "fr", "zh")).sample(12, 0)
    here, there = both(model, other, lambda tell: record(model, corpus, activity=True, budget=64, progress=tell))
    assert np.array_equal(here.means, there.means)
    for name in ("tokens", "activity", "first_part"):
        assert torch.equal(getattr(here, name), getattr(there, name)), name
    assert here.first_position_share == there.first_position_share


def test_the_deactivation_table_is_the_same_to_the_bit(model, other):
    texts = load_texts("pocket:heldout", ("en", "fr"))
    windows = {code: cut_windows(model, text, 32, limit=6) for code, text in texts.items()}
    masks = {code: torch.rand(model.layers, model.neurons_per_layer, generator=torch.Generator().manual_seed(n)) > 0.9
             for n, code in enumerate(texts)}  # fmt: skip
    regions = RegionSet(masks, "planted")
    for fixed in (True, False):
        here, there = both(
            model,
            other,
            lambda tell, fixed=fixed: deactivation_table(
                model, windows, regions, 1, budget=64, progress=tell, fixed=fixed
            ),
        )
        assert repr(here) == repr(there)  # NaN is not itself


def test_inside_an_edit_nothing_is_shared_out(model, other):
    corpus = load_corpus("pocket:heldout", ("en", "fr")).sample(4, 0)
    mask = torch.zeros(model.layers, model.neurons_per_layer, dtype=torch.bool)
    mask[:, ::2] = True
    with deactivate(model, mask):
        expected = record(model, corpus).means
    model.workers = Elsewhere(other)
    try:
        with deactivate(model, mask):
            found = record(model, corpus).means
        assert model.workers.units == 0
    finally:
        model.workers = None
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, record(model, corpus).means)


@pytest.mark.parametrize(
    "work",
    [
        lambda model, pairs, tell: activation_patching(model, pairs, at="B", done=tell),
        lambda model, pairs, tell: path_patching(
            model, pairs, done=tell, sweep=Sweep(divergence=True, budget=20, without=(Head(1, 0),))
        ),
        lambda model, pairs, tell: path_patching(model, pairs, [Receiver("q", 3, 1)], at="B", done=tell),
    ],
)
def test_sweeps_are_the_same_to_the_bit(model, other, work):
    here, there = both(model, other, lambda tell: work(model, random_pairs(), tell))
    for name in ("patched", "clean", "corrupted"):
        assert np.array_equal(getattr(here, name), getattr(there, name)), name
    assert (here.divergence is None) == (there.divergence is None)
    assert here.divergence is None or np.array_equal(here.divergence, there.divergence)


def test_senders_of_one_batch_may_go_to_several_workers(model, other, monkeypatch):
    pairs = random_pairs()
    whole = activation_patching(model, pairs).patched
    monkeypatch.setattr("babelscope.circuits.patching.swept_batches.TOGETHER", 1)
    with elsewhere(model, other, 3 * model.layers):
        parts = activation_patching(model, pairs).patched
    assert np.array_equal(whole, parts)


def test_what_is_written_and_scored_under_edits_is_the_same(model, other):
    edits = [None, *(RowEdit({Site("residual", 1): lambda h, by=by: h + by}) for by in (0.1, -0.4))]
    prompts = [list(range(4, 9 + place)) for place in range(4)]
    here, there = both(model, other, lambda tell: decode(model, prompts, Decoding(5, batch=4), edits, progress=tell))
    assert here == there
    texts = [["the cat sees the dog", "a dog"], ["le chat"], ["the dog"]]
    one, two = both(model, other, lambda tell: text_losses(model, texts, edits))
    assert [found.totals.tolist() for found in one] == [found.totals.tolist() for found in two]
    first, second = both(model, other, lambda tell: losses(model, prompts, [1] * 4, budget=8))
    assert first == second


@dataclass(frozen=True)
class Toy:
    """A study of plain values."""

    by: int

    def steps(self, model):
        first = Step("first", None, lambda own, given: self.by)
        more = [
            Step(name, None, lambda own, given, name=name: [name, given[first], model.layers], (first,))
            for name in ("a", "b", "c")
        ]
        return [first, *more], {}


def test_whole_steps_are_made_elsewhere_and_those_that_were_kept_are_not(model, other, tmp_path):
    from babelscope.results.step_store import StepStore

    def steps(ran):
        made, _ = Toy(7).steps(model)
        apart = Apart(model, lambda results: Toy(results[made[0]]))
        return [
            made[0],
            *(Step(s.name, None, lambda own, given: ran.append(1), s.needs, apart=apart) for s in made[1:]),
        ]

    store = StepStore(tmp_path / "run")
    with elsewhere(model, other, 3):
        asked = steps([])
        found = run_steps(asked, store=store)
        assert [found[step] for step in asked[1:]] == [[name, 7, model.layers] for name in ("a", "b", "c")]
        run_steps(steps([]), store=store)
        assert model.workers.units == 3
    assert len(run_steps([*steps(here := [])])._values) == 4
    assert len(here) == 3  # without workers each step runs as ever


# -- on Ray ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_places():
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_worker_niceness", "0")  # on a busy machine idle-priority workers would never finish
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Killing:
    """Workers that are killed without warning, one after the other, when some units are done."""

    def __init__(self, crew, *at) -> None:
        self.crew, self.at, self.before, self.done = crew, at, crew.pids(), 0

    def results(self, prepare, shared, units, tell):
        for result in self.crew.results(prepare, shared, units, tell):
            self.done += 1
            if self.done in self.at:
                os.kill(self.before[self.at.index(self.done)], signal.SIGKILL)
            yield result


def assert_same(one, two):
    assert sorted(one.tables) == sorted(two.tables)
    for name in one.tables:
        pd.testing.assert_frame_equal(one.table(name), two.table(name), check_exact=True)
    assert one.summary == two.summary or str(one.summary) == str(two.summary)  # NaN is not itself
    assert (
        one.manifest["key" if "key" in one.manifest else "asked"]
        == two.manifest["key" if "key" in two.manifest else "asked"]
    )


REGIONS = RegionsSettings(
    corpus="pocket:heldout", languages=("en", "fr", "zh"), samples=12, texts="pocket:heldout?seed=1", window=32,
    text_tokens=1024, controls=1, bootstrap=50,
)  # fmt: skip


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_two_workers_find_what_one_process_finds_though_one_is_killed(model, two_places, tmp_path):
    one = study_regions(model, REGIONS, tmp_path / "one")
    with on_ray(model, RayWorkers(2)) as count:
        assert count == 2
        model.workers = crew = Killing(model.workers, 2, 9)
        two = study_regions(model, REGIONS, tmp_path / "two")
        assert crew.done > 9
        assert not set(crew.before) & set(crew.crew.pids())
    assert model.workers is None
    assert_same(one, two)
    one, two = one.arrays(), two.arrays()
    for name in one.data_vars:
        assert one[name].equals(two[name]), name


STUDIES = {
    "circuits": (POCKET, lambda model, out: study_circuits(
        model, CircuitsSettings(languages=("en", "zh"), n=8, permutations=20, draws=1), out)),
    "latent": ("pocket:planted-pivot", lambda model, out: study_latent(
        model, LatentSettings(words="planted", n=12, draws=100, permutations=19, parts=("lens", "patch"), trials=6,
                              from_=("fr", "en"), to=("zh",)), out)),
    "steer": (POCKET, lambda model, out: study_steering(
        model, SteerSettings(corpus="pocket:heldout?n=60", pairs=("en:fr",), fixed=True, tokens=6, controls=1,
                             method=("diffmean",)), out)),
}  # fmt: skip


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STUDIES)
def test_the_other_studies_too(name, two_places, tmp_path):
    place, study = STUDIES[name]
    loaded = load_model(place)
    one = study(loaded, tmp_path / "one")
    with on_ray(loaded, RayWorkers(2)):
        loaded.workers = crew = Killing(loaded.workers, 1, 3)
        two = study(loaded, tmp_path / "two")
        assert crew.done > 3
    assert_same(one, two)


def _deadly(_model, _shared):
    return lambda unit, tell: os.kill(os.getpid(), signal.SIGKILL)


def _wrong(_model, _shared):
    def work(unit, tell):
        raise InputError(f"unit {unit} is wrong")

    return work


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_work_that_fails_or_kills_ends_the_study_in_one_line(model, two_places):
    with on_ray(model, RayWorkers(1)):
        with pytest.raises(InputError, match="unit 5 is wrong"):
            list(over_workers(model, _wrong, None, [5]))
        with pytest.raises(RunError, match="3 workers died at the same piece of work"):
            list(over_workers(model, _deadly, None, [0]))


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_was_changed_and_a_cluster_without_room_are_refused(two_places):
    loaded = load_model(POCKET)
    with (
        pytest.raises(InputError, match="9 workers with 1 CPU each need 9; the cluster has 2"),
        on_ray(loaded, RayWorkers(9)),
    ):
        pass
    with torch.no_grad():
        loaded.hf.get_input_embeddings().weight[5] += 1
    with on_ray(loaded, RayWorkers(1)), pytest.raises(InputError, match="weights of a worker"):
        list(over_workers(loaded, _longer, 1, [1]))


def test_a_model_that_no_worker_could_load_is_refused(other):
    made = Model(other.hf, other.tokenizer, id="mine")
    with pytest.raises(InputError, match="mine did not come from load_model"), on_ray(made, RayWorkers(2)):
        pass
