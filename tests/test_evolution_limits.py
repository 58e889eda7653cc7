"""Sweeps at their limits, by numbers made by hand: plans, live tables, weights, and rooms for Ray tasks."""

from __future__ import annotations

import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import babelscope.evaluation
import babelscope.studies.circuits
import babelscope.studies.latent
import babelscope.studies.regions
from babelscope.errors import BabelscopeError, NonFinite, PlanError
from babelscope.evolution import located, measures, ray_engine, sweep_plan
from babelscope.evolution.attempt import Listener, Outcome, RayOptions, SweepOptions, Task
from babelscope.evolution.live import LiveTable, duration
from babelscope.evolution.located import read_yaml_file
from babelscope.evolution.plan import plan_from
from babelscope.evolution.points import plan_points
from babelscope.evolution.store import SweepStore
from babelscope.evolution.types import Place, Point, Source, Work
from babelscope.evolution.weights import Weights
from babelscope.studies.plan import PlannedStep


def point(key: str, work: Work | None = None, source: Source | None = None) -> Point:
    return Point(key, "m", key, None, None, source, work or Work())


def test_a_plan_rehearses_four_stories_and_carries_on_to_all(monkeypatch):
    """Ten stories at 3 seconds for four of them: 7.5 seconds."""
    asked: dict[str, int] = {}
    monkeypatch.setattr(measures, "stories_of", lambda *_: {"en": list(range(10)), "zh": [1, 2]})
    monkeypatch.setattr(
        babelscope.evaluation,
        "evaluate_cloze",
        lambda _, stories: asked.update({code: len(own) for code, own in stories.items()}),
    )
    model = SimpleNamespace(blocks=[torch.nn.Identity()], device=torch.device("cpu"))
    ticks = iter([10.0, 13.0])
    steps = measures.ClozeMeasure("s").planned(model, lambda: next(ticks))
    assert asked == {"en": 4, "zh": 2}
    assert [(step.step, step.seconds) for step in steps] == [("story cloze", 7.5)]


def test_few_stories_are_planned_as_they_are(monkeypatch):
    monkeypatch.setattr(measures, "stories_of", lambda *_: {"en": [1, 2, 3]})
    monkeypatch.setattr(babelscope.evaluation, "evaluate_cloze", lambda *_: None)
    model = SimpleNamespace(blocks=[torch.nn.Identity()], device=torch.device("cpu"))
    ticks = iter([1.0, 3.0])
    (step,) = measures.ClozeMeasure("s").planned(model, lambda: next(ticks))
    assert step.seconds == 2.0


def test_a_step_of_three_points_costs_three_times_as_much():
    step = PlannedStep("s", 2, 5, 1.5, 1.0, 7, 11, "")
    three = sweep_plan._times(step, "m: s", 3)
    assert (three.step, three.passes, three.tokens, three.seconds) == ("m: s × 3", 6, 15, 4.5)
    assert (three.peak_bytes, three.disk_bytes) == (7, 11)
    one = sweep_plan._times(step, "m: s", 1)
    assert (one.step, one.passes, one.tokens, one.seconds) == ("m: s", 2, 5, 1.5)


def test_loading_is_timed_the_second_time(monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr(sweep_plan, "load_point", lambda *_: loaded.append("once"))
    ticks = iter([5.0, 7.5])
    _, cost = sweep_plan.spent_loading(point("a"), Path("x"), Place(), lambda: next(ticks))
    assert cost.seconds == 2.5
    assert len(loaded) == 2


def live(*keys: str, finished: set[str] | None = None) -> LiveTable:
    table = LiveTable(Console(file=StringIO()))
    table.planned([point(key) for key in keys], finished or set())
    return table


def test_all_but_the_error_stands_on_one_line():
    columns = live("a").__rich__().columns
    assert [column.no_wrap for column in columns] == [True, True, True, True, False]


def test_time_left_is_that_of_the_computed_points_times_those_that_are_open(monkeypatch):
    """Two computed in 20 seconds, three open: 30 seconds; what an earlier run finished says nothing of time."""
    table = live("a", "b", "c", "d", "e", "f", finished={"f"})
    table._start = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: 120.0)
    assert table.seconds_left() is None
    assert table.headline() == "1 done, 5 waiting"
    for key, status in (("a", "done"), ("b", "failed")):
        table.ended(point(key), Outcome(key, status, 1.0))
    table.started(point("c"))
    assert table.seconds_left() == 30.0
    assert table.headline() == "2 done, 1 failed, 1 running, 2 waiting, about 30.0 s left"
    for key in "cde":
        table.ended(point(key), Outcome(key, "done", 1.0))
    assert table.seconds_left() is None


def test_a_table_shows_the_points_that_ran_each_once():
    table = live("a", "b")
    table.started(point("a"))
    table.ended(point("a"), Outcome("a", "done", 2.0))
    assert list(table.recent) == ["a"]
    assert [list(column.cells) for column in table.__rich__().columns][3] == ["2.0 s"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7380, "2 h 3 min"),
    ],
)
def test_seconds_are_told_in_the_units_that_people_use(seconds, told):
    assert duration(seconds) == told


def hub(name: str) -> Source:
    return Source("hub", name, None, f"org/{name}", f"{name}0123456789abcdef")


def weights(folder: Path, keep: str, *names: str) -> tuple[Weights, list[Path]]:
    """Weights as they are when all of these were downloaded."""
    made = Weights(folder, keep)
    places = [made._own(hub(name)) for name in names]
    for place in places:
        place.mkdir(parents=True)
        (place / ".complete").touch()
    return made, places


def test_weights_are_kept_until_the_next_are_done(tmp_path):
    kept, (a, b, c) = weights(tmp_path / "w", "last", "a", "b", "c")
    kept.done(hub("a"))
    assert a.exists()
    kept.done(hub("b"))
    assert (a.exists(), b.exists()) == (False, True)
    (b / ".complete").unlink()
    b.rmdir()  # by somebody else: nothing is left to be deleted
    kept.done(hub("c"))
    assert c.exists()


def test_weights_that_no_point_needs_go_and_the_empty_folder_with_them(tmp_path):
    gone, (a, b) = weights(tmp_path / "w", "none", "a", "b")
    gone.done(hub("a"))
    assert (a.exists(), b.exists()) == (False, True)
    gone.done(hub("b"))
    assert not (tmp_path / "w").exists()
    kept, (a,) = weights(tmp_path / "v", "all", "a")
    kept.done(hub("a"))
    assert a.exists()


def test_weights_lie_in_a_folder_named_by_repository_and_commit(tmp_path):
    made, (a,) = weights(tmp_path, "all", "a")
    assert a == tmp_path / "org--a--a0123456789a"
    assert made.folder(hub("a")) == a
    assert made.folder(Source("folder", "x", None, "/somewhere", "hash")) == Path("/somewhere")


class FakeRay:
    """A cluster that ends one task at a time, the oldest first, and counts what waits at once."""

    def __init__(self, status: str, **resources: float) -> None:
        self.status, self.resources = status, resources
        self.most, self.sent, self.cancelled = 0, list[str](), list[str]()

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **asked: object):
        self.asked = asked
        return lambda _: SimpleNamespace(remote=self._send)

    def _send(self, points: list[Point], *_: object) -> str:
        self.sent.append(points[0].key)
        return points[0].key

    def wait(self, waiting: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert waiting, "there is nothing to wait for"
        self.most = max(self.most, len(waiting))
        return waiting[:1], waiting[1:]

    def get(self, reference: str) -> list[Outcome]:
        return [Outcome(reference, self.status, 1.0, "broken" if self.status == "failed" else "")]

    def cancel(self, reference: str, force: bool) -> None:
        self.cancelled.append(reference)


def task(folder: Path, **options: object) -> Task:
    return Task(SweepStore(str(folder / "sweep")), SweepOptions(**options), Listener(), lambda *_: None)


def test_as_many_tasks_wait_as_the_cluster_has_room_for(tmp_path):
    ray = FakeRay("done", CPU=2.0)
    ray_engine._run(ray, [point(key) for key in "abcde"], task(tmp_path, fail_fast=True))
    assert ray.sent == list("abcde")
    assert ray.most == 2
    assert ray.cancelled == []
    assert ray.asked == {"num_cpus": 1.0, "num_gpus": 0.0, "max_retries": 3}


def test_the_first_failure_ends_a_sweep_only_where_that_is_asked(tmp_path):
    ray = FakeRay("failed", CPU=2.0)
    with pytest.raises(BabelscopeError, match=r"m@a failed: broken"):
        ray_engine._run(ray, [point(key) for key in "abc"], task(tmp_path, fail_fast=True))
    assert (ray.sent, ray.cancelled) == (["a", "b"], ["b"])
    ray = FakeRay("failed", CPU=2.0)
    ray_engine._run(ray, [point(key) for key in "abc"], task(tmp_path))
    assert ray.sent == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("there", "cpus", "gpus", "slots"),
    [
        ({"CPU": 8.0}, 0.0, 0.0, 1),
        ({"CPU": 8.0}, 3.0, 0.0, 2),
        ({"CPU": 8.0, "GPU": 1.0}, 2.0, 0.5, 2),
        ({"CPU": 8.0, "GPU": 3.0}, 4.0, 1.0, 2),
        ({}, 1.0, 0.0, 1),
    ],
)
def test_room_is_that_of_the_scarcest_and_at_least_one(there, cpus, gpus, slots):
    assert ray_engine._slots(FakeRay("done", **there), RayOptions(cpus=cpus, gpus=gpus)) == slots


def test_points_with_the_same_download_are_one_task():
    folder = Source("folder", "m", None, "/m", "h")
    points = [
        point("a", source=hub("x")), point("b", source=folder), point("c", source=hub("x")), point("d", source=folder),
        point("e"), point("f"),
    ]  # fmt: skip
    assert [[it.key for it in group] for group in ray_engine.grouped(points)] == [
        ["a", "c"],
        ["b"],
        ["d"],
        ["e"],
        ["f"],
    ]


def test_from_in_a_plan_is_the_language_that_is_translated_from(tmp_path):
    asked = {"measures": {"latent": {"words": "pocket", "to": ["zh", "es"], "from": ["fr"]}}, "models": [str(tmp_path)]}
    (latent,) = next(iter(plan_points(plan_from(asked)))).work.measures
    assert isinstance(latent, measures.LatentMeasure)
    assert latent.settings.pairs == [("fr", "zh"), ("fr", "es")]


def test_measures_stand_in_one_order_and_take_the_languages_of_the_plan(tmp_path):
    asked = {
        "measures": {
            "latent": {"words": "pocket", "from": ["en"], "to": ["zh"]}, "circuits": {"task": "ioi"}, "alignment": {},
            "story_cloze": {"stories": "pocket:?n=2"}, "perplexity": {"texts": "pocket:heldout"},
        },
        "models": [str(tmp_path)], "corpora": ["pocket:heldout"], "languages": "en,zh",
    }  # fmt: skip
    regions, cloze, circuits, latent = next(iter(plan_points(plan_from(asked)))).work.measures
    assert [one.name for one in (regions, cloze, circuits, latent)] == ["regions", "story_cloze", "circuits", "latent"]
    assert regions.settings.alignment is True
    assert regions.settings.texts == "pocket:heldout"
    for languages in (regions.settings.languages, cloze.languages, circuits.settings.languages):
        assert languages == ("en", "zh")
    assert latent.settings.languages == ("en", "zh")


def test_circuits_and_latent_languages_have_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(babelscope.studies.latent, "study_latent", lambda _, settings, folder: (settings, folder))
    monkeypatch.setattr(babelscope.studies.circuits, "study_circuits", lambda _, settings, folder: (settings, folder))
    for one in (measures.LatentMeasure("s"), measures.CircuitsMeasure("s")):
        assert one.measured(None, "m@a", tmp_path / one.name) == ("s", tmp_path / one.name)
        (tmp_path / one.name).mkdir()
        (tmp_path / one.name / "run.json").write_text("{}")
        run = SimpleNamespace(file=lambda name: folder_for(tmp_path / "point" / name), manifest={"summary": {}})
        one.leave(SimpleNamespace(path=tmp_path / one.name, summary={"n": 1}), run)
        assert (tmp_path / "point" / one.name / "run.json").read_text() == "{}"
        assert run.manifest["summary"] == {one.name: {"n": 1}}


def folder_for(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize(("lrds", "sads"), [(float("nan"), 0.5), (0.5, float("inf")), (None, 0.5), ("–", 0.5)])
def test_a_point_whose_headline_is_no_number_fails(monkeypatch, tmp_path, lrds, sads):
    def measured(summary: dict[str, object]) -> object:
        asked = SimpleNamespace(corpus="c", languages=None, texts=None)
        monkeypatch.setattr(measures, "corpus_of", lambda *_: SimpleNamespace(languages=("en",)))
        run = SimpleNamespace(summary=summary)
        monkeypatch.setattr(babelscope.studies.regions, "study_regions", lambda *_, **__: run)
        return measures.RegionsMeasure(asked).measured(None, "m@a", tmp_path)

    with pytest.raises(NonFinite, match="SADS of m@a" if lrds == 0.5 else "LRDS of m@a"):
        measured({"lrds": lrds, "sads": sads})
    assert measured({"lrds": 0, "sads": -0.5}).summary["sads"] == -0.5


def test_a_point_takes_over_all_but_the_seals_of_its_regions(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    for name in ("run.json", "checksums.json", "table.parquet"):
        (source / name).write_text("x")
    was = SimpleNamespace(
        path=source, files=lambda: sorted(path.name for path in source.iterdir()),
        manifest={"wall_time_s": 5.0, "seeds": [1]}, summary={"lrds": 0.5},
    )  # fmt: skip
    run = SimpleNamespace(file=lambda name: target / name, manifest={"wall_time_s": 9.0})
    measures.RegionsMeasure("s").leave(was, run)
    assert [path.name for path in target.iterdir()] == ["table.parquet"]
    assert run.manifest == {"wall_time_s": 9.0, "seeds": [1], "summary": {"lrds": 0.5, "regions_wall_time_s": 5.0}}


def test_a_plan_counts_one_point_of_each_model_as_often_as_it_has_points(monkeypatch):
    """Three points of 2 seconds and 1 of loading, one of the other model: 9 and 3 of 12 seconds."""
    place = Source("folder", "m", None, "/m", "h")
    step = PlannedStep("s", 1, 4, 2.0, 1.0, 0, 0, "")
    work = Work(measures=(SimpleNamespace(planned=lambda *_: [step]),))
    points = [point(key, work, place) for key in "abc"]
    points += [Point("d", "pocket:n", None, None, None, place, work), point("e")]
    monkeypatch.setattr(sweep_plan, "plan_points", lambda _: points)
    monkeypatch.setattr(sweep_plan, "spent_loading", lambda *_: (None, sweep_plan.Spent(1.0)))
    found = sweep_plan.plan_sweep(SimpleNamespace(name="p")).steps
    assert [(one.step, one.seconds, one.share) for one in found] == [
        ("m: s × 3", 6.0, 0.5), ("m: loading × 3", 3.0, 0.25), ("n: s", 2.0, pytest.approx(1 / 6)),
        ("n: loading", 1.0, pytest.approx(1 / 12)),
    ]  # fmt: skip
    monkeypatch.setattr(sweep_plan, "plan_points", lambda _: [point("e")])
    with pytest.raises(BabelscopeError, match="no model of it can be found"):
        sweep_plan.plan_sweep(SimpleNamespace(name="p"))


def test_an_error_is_printed_letter_by_letter():
    out = StringIO()
    table = LiveTable(Console(file=out))
    table.planned([point("a")], set())
    table.ended(point("a"), Outcome("a", "failed", 1.0, error="no [bold]file[/bold] a"))
    assert "failed  m@a  1.0 s: no [bold]file[/bold] a  (1 failed)" in out.getvalue()


def test_a_plan_is_read_unless_it_is_too_large(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("models: [a]\n", encoding="utf-8")
    assert read_yaml_file(file).data == {"models": ["a"]}
    file.write_text("#" * (4 * located._LONGEST + 1), encoding="utf-8")
    with pytest.raises(PlanError, match="too large or too deep for a plan"):
        read_yaml_file(file)
