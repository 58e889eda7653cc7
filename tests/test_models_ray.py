"""Workers on a cluster that is made of plain objects: who gets which unit, who is replaced, and when a study ends."""

from __future__ import annotations

import sys
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from babelscope.errors import InputError, MissingExtra, RunError
from babelscope.models import Model, ray_cluster, ray_workers
from babelscope.models.ray_workers import RayWorkers, _Crew, _Holder, _identity, on_ray
from babelscope.models.workers import over_workers

from .planted_faults import model
from .tiny_models import tiny_model, tiny_tokenizer


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: BaseException | None = None) -> None:
        super().__init__("task")
        self.cause = cause


class Actor:
    """A worker whose calls end in the order in which they were made; `dies` says of which call it dies."""

    def __init__(self, ray: FakeRay, number: int, threads: int) -> None:
        self.ray, self.number, self.threads = ray, number, threads

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *given: self.ray.call(self, method, given))


class FakeRay:
    """Ray's module; `script` answers (worker, method, what was given) with a value, or raises."""

    exceptions = SimpleNamespace(RayTaskError=RayTaskError, RayError=RayError)

    def __init__(self, script: Any, resources: dict[str, float] | None = None, last: bool = False) -> None:
        self.script, self.resources, self.last = script, resources or {"CPU": 8.0}, last
        self.actors: list[Actor] = []
        self.killed: list[int] = []
        self.options: dict[str, Any] = {}
        self.pending: deque[Any] = deque()
        self.calls: list[tuple[int, str, tuple[Any, ...]]] = []
        self.most = 0

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: Any) -> Any:
        self.options = options

        def make(_: type) -> Any:
            def hired(threads: int) -> Actor:
                self.actors.append(Actor(self, len(self.actors), threads))
                return self.actors[-1]

            return SimpleNamespace(remote=hired)

        return make

    def call(self, actor: Actor, method: str, given: tuple[Any, ...]) -> tuple[int, Actor, str]:
        reference = (len(self.calls), actor, method)
        self.calls.append((actor.number, method, given))
        return reference

    def put(self, value: Any) -> Any:
        return ("put", value)

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        self.most = max(self.most, sum(method == "work" for _, _, method in references))
        ordered = sorted(references, key=lambda reference: reference[0])
        return [ordered[-1 if self.last else 0]], []

    def get(self, reference: Any) -> Any:
        number, actor, method = reference
        return self.script(actor.number, method, self.calls[number][2])

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.number)


ORIGIN = SimpleNamespace(of="a model")


def prepare(_model: Model, _shared: Any) -> Any:
    raise AssertionError("no worker of these tests prepares anything")


def again(_model: Model, _shared: Any) -> Any:
    raise AssertionError("no worker of these tests prepares anything twice")


def crew(script: Any, count: int | None = 2, last: bool = False, **asked: float) -> tuple[_Crew, FakeRay]:
    ray = FakeRay(script, last=last)
    return _Crew(ray, ORIGIN, {"weights": "w", "device": "cpu"}, RayWorkers(count, **asked)), ray  # pyright: ignore[reportArgumentType]


def plain(worker: int, method: str, given: tuple[Any, ...]) -> Any:
    if method == "load":
        assert given == (ORIGIN,)
        return {"weights": "w", "device": "cpu"}
    return (given[3] * 10, 1) if method == "work" else 100 + worker


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_order_whoever_ends_first(count, last):
    told: list[int] = []
    made, ray = crew(plain, count, last)
    assert list(made.results(prepare, "shared", list(range(20)), told.append)) == [10 * unit for unit in range(20)]
    assert told == [1] * 20
    units = [given for _, method, given in ray.calls if method == "work"]
    assert sorted(given[3] for given in units) == list(range(20))
    assert {given[:2] for given in units} == {(0, prepare)}
    assert units[0][2] == [("put", "shared")]
    assert ray.most <= count
    assert len(ray.actors) == count
    assert list(made.results(again, "shared", [7], told.append)) == [70]
    assert ray.calls[-1][2][0] == 1, "each work has a number of its own"
    assert list(made.results(prepare, "shared", [], told.append)) == []
    assert made.pids() == [100 + worker for worker in range(count)]
    made.dismiss()
    assert ray.killed == list(range(count))


class Slow(FakeRay):
    """The first unit ends when nothing else is under way."""

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        first = [one for one in references if one[2] == "work" and self.calls[one[0]][2][3] == 0]
        others = [one for one in references if one not in first]
        return super().wait(others or first, num_returns)


@pytest.mark.parametrize(("count", "most"), [(2, 7), (3, 11)])
def test_workers_run_ahead_by_four_units_each_and_no_further(count, most):
    ray = Slow(plain)
    made = _Crew(ray, ORIGIN, {"weights": "w", "device": "cpu"}, RayWorkers(count))  # pyright: ignore[reportArgumentType]
    found = made.results(prepare, "s", list(range(100)), lambda _: None)
    before: list[int] = []
    own = ray.get

    def get(reference: Any) -> Any:
        if reference[2] == "work" and ray.calls[reference[0]][2][3] == 0:
            before.extend(given[3] for _, method, given in ray.calls if method == "work")
        return own(reference)

    ray.get = get
    assert next(found) == 0
    assert sorted(before) == list(range(most + 1))
    assert ray_workers.AHEAD == 4


def test_processors_of_a_worker_are_its_threads():
    _, ray = crew(plain, 2, cpus=3.7, gpus=0.5)
    assert [actor.threads for actor in ray.actors] == [3, 3]
    assert ray.options == {"num_cpus": 3.7, "num_gpus": 0.5, "max_restarts": 0}
    assert [actor.threads for actor in crew(plain, 1, cpus=0.5)[1].actors] == [1]
    assert len(crew(plain, None)[1].actors) == 1


@pytest.mark.parametrize(("deaths", "ends"), [(1, False), (2, False), (3, True)])
def test_a_unit_at_which_workers_die_is_done_again_twice(deaths, ends):
    died: list[int] = []

    def script(worker: int, method: str, given: tuple[Any, ...]) -> Any:
        if method == "work" and given[3] == 2 and len(died) < deaths:
            died.append(worker)
            raise RayError("dead\nmore")
        return plain(worker, method, given)

    made, ray = crew(script)
    found = made.results(prepare, "s", [0, 1, 2, 3], lambda _: None)
    if ends:
        with pytest.raises(RunError, match=r"^3 workers died at the same piece of work: .* fewer --workers \(dead\)$"):
            list(found)
        return
    assert list(found) == [0, 10, 20, 30]
    assert (ray.killed, len(ray.actors)) == (died, 2 + deaths)


@pytest.mark.parametrize(("deaths", "ends"), [(2, False), (3, True)])
def test_a_worker_that_dies_over_its_model_is_replaced_twice(deaths, ends):
    died: list[int] = []

    def script(worker: int, method: str, given: tuple[Any, ...]) -> Any:
        if method == "load" and len(died) < deaths:
            died.append(worker)
            raise RayError("dead")
        return plain(worker, method, given)

    made, ray = crew(script, 1)
    found = made.results(prepare, "s", [5], lambda _: None)
    if ends:
        with pytest.raises(RunError, match="3 workers died"):
            list(found)
        return
    assert list(found) == [50]
    assert (ray.killed, len(ray.actors)) == ([0, 1], 3)


@pytest.mark.parametrize("method", ["load", "work"])
def test_what_the_work_raises_is_raised_here(method):
    for cause, kind in ((ValueError("own"), ValueError), (None, RayTaskError)):

        def script(worker: int, called: str, given: tuple[Any, ...], cause: Any = cause) -> Any:
            if called == method:
                raise RayTaskError(cause)
            return plain(worker, called, given)

        with pytest.raises(kind):
            list(crew(script)[0].results(prepare, "s", [1], lambda _: None))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ({"weights": "x", "device": "cpu"}, "^weights of a worker: x, of this process: w$"),
        ({"weights": "w", "device": "cuda"}, "^device of a worker: cuda, of this process: cpu; give --gpus$"),
        ({"device": "cpu"}, "^weights of a worker: None, of this process: w$"),
    ],
)
def test_a_worker_that_would_compute_something_else_is_refused(there, told):
    with pytest.raises(InputError, match=told):
        crew(plain)[0]._refuse_other(there)
    crew(plain)[0]._refuse_other({"weights": "w", "device": "cpu", "more": "x"})


def test_a_holder_prepares_each_work_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference * 2))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.append(count))
    threads: list[int] = []
    holder = _Holder(3)
    assert threads == [3]
    prepared: list[Any] = []

    def prepare(one: Any, shared: int) -> Any:
        prepared.append((one, shared))

        def work(unit: int, tell: Any) -> int:
            tell(2)
            tell(3)
            return unit + shared

        return work

    one = model()
    identity = holder.load(SimpleNamespace(load=lambda: one))  # pyright: ignore[reportArgumentType]
    assert identity == _identity(one)
    assert (identity["weights"], identity["number type"], identity["device"]) == (one.function_hash, "float32", "cpu")
    assert holder.pid() == __import__("os").getpid()
    assert [holder.work(0, prepare, [10], unit) for unit in (1, 2)] == [(21, 5), (22, 5)]
    assert holder.work(1, prepare, [20], 1) == (41, 5)
    assert prepared == [(one, 20), (one, 40)]


def test_studies_are_shared_out_while_workers_are_there(monkeypatch):
    from contextlib import contextmanager

    ray, given = FakeRay(plain, {"CPU": 5.0}), []

    @contextmanager
    def cluster(address: str | None, cpus: int):
        given.append((address, cpus))
        yield ray

    monkeypatch.setattr(ray_workers, "cluster", cluster)
    monkeypatch.setattr(ray_workers.os, "cpu_count", lambda: 2)
    one = Model(tiny_model("llama"), tiny_tokenizer(), id="mine")
    with pytest.raises(InputError, match=r"^mine did not come from load_model, so that no worker can load it: save it"):
        with on_ray(one, RayWorkers(2)):
            pass
    one.origin = ORIGIN  # pyright: ignore[reportAttributeAccessIssue]
    for asked, count, cpus in ((RayWorkers(2, cpus=2.5), 2, 5), (RayWorkers(cpus=2.0, address="a"), 2, 2)):
        with on_ray(one, asked) as found:
            assert found == count
            assert isinstance(one.workers, _Crew)
            assert one.workers._asked.count == count
        assert one.workers is None
        assert given[-1] == (asked.address, cpus)
    assert ray.killed == [0, 1, 2, 3]
    with pytest.raises(InputError, match="6 workers with 1 CPU each need 6; the cluster has 5"):
        with on_ray(one, RayWorkers(6)):
            pass
    monkeypatch.setattr(ray_workers.os, "cpu_count", lambda: None)
    with on_ray(one, RayWorkers(cpus=0.5)) as found:
        assert (found, given[-1]) == (10, (None, 1))


def test_work_is_done_here_beside_hooks_and_edits():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.workers = SimpleNamespace(results=lambda *_: iter(["there"]))
    heard: list[int] = []

    def prepare(_: Model, by: int) -> Any:
        return lambda unit, tell: (tell(unit), unit * by)[1]

    assert list(over_workers(one, prepare, 3, [1, 2])) == ["there"]
    handle = one.blocks[0].register_forward_hook(lambda *_: None)
    assert list(over_workers(one, prepare, 3, [1, 2], heard.append)) == [3, 6]
    handle.remove()
    assert heard == [1, 2]
    one.workers = None
    assert list(over_workers(one, prepare, 3, [4])) == [12]


def test_a_cluster_is_left_where_it_was_entered_here(monkeypatch):
    calls: list[Any] = []
    fake = SimpleNamespace(
        is_initialized=lambda: bool(calls and calls[0] == "there"),
        init=lambda **given: calls.append(given),
        shutdown=lambda: calls.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    with ray_cluster.cluster(None, 3) as ray:
        assert ray is fake
        assert calls[0] == dict(
            address=None, log_to_driver=False, logging_level=40, include_dashboard=False, num_cpus=3
        )
    assert calls[1:] == ["shutdown"]
    calls.clear()
    with ray_cluster.cluster("there:1"):
        assert calls[0] == dict(address="there:1", log_to_driver=False, logging_level=40)
    calls[:] = ["there"]
    with ray_cluster.cluster("there:1"):
        pass
    assert calls == ["there"]
    calls.clear()
    fake.init = lambda **_: (_ for _ in ()).throw(ConnectionError("nobody\nthere"))
    with pytest.raises(InputError, match=r"^no Ray cluster at there:1: nobody"):
        with ray_cluster.cluster("there:1"):
            pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="ray"):
        with ray_cluster.cluster(None):
            pass
