"""Writers and readers of runs: what is refused, what is noticed, and what a run says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babelscope.errors import RunError
from babelscope.results import store, writer
from babelscope.results.checksums import checksums
from babelscope.results.reader import Run, open_run
from babelscope.results.writer import RunWriter


def run_at(place: Path, **files: str) -> Path:
    """A finished run of a few files."""
    with RunWriter(place, kind="regions") as run:
        for name, text in files.items():
            run.file(name).write_text(text)
    return place


def damaged(place: Path, **manifest: object) -> Path:
    """A run whose manifest says this, with the sums of what is there."""
    place.mkdir(exist_ok=True)
    (place / "run.json").write_text(json.dumps({"kind": "regions", **manifest}))
    (place / "checksums.json").unlink(missing_ok=True)
    (place / "checksums.json").write_text(json.dumps(checksums(place)))
    return place


# -- writers --------------------------------------------------------------------------------------------------------


def test_a_writer_is_a_context():
    run = RunWriter("x", kind="regions")
    with pytest.raises(RunError, match=r"^a RunWriter is used as `with RunWriter\(…\) as run:`$"):
        _ = run.folder


def test_places_that_are_refused(tmp_path):
    root = run_at(tmp_path / "run", a="1")
    with pytest.raises(RunError, match=rf"^{root / 'in' / 'b'} lies inside the run {root}; give another --out$"):
        run_at(root / "in" / "b")
    with pytest.raises(RunError, match=rf"^{root} exists; give --overwrite or another --out"):
        run_at(root)
    with pytest.raises(RunError, match=r"names of this form are kept"):
        run_at(tmp_path / ".a.lock")
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "link").symlink_to(root)
    for odd in ("file", "full", "link"):
        with pytest.raises(RunError, match=rf"^{tmp_path / odd} is not a run, so it will not be overwritten"):
            with RunWriter(tmp_path / odd, kind="regions", overwrite=True):
                pass
    (tmp_path / "empty").mkdir()
    for place in ("empty", "run"):
        with RunWriter(tmp_path / place, kind="circuits", overwrite=True):
            pass
        assert open_run(tmp_path / place).files() == ["checksums.json", "run.json"]
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_three_files_that_are_missing_are_named(tmp_path):
    told = rf"^the run {tmp_path / 'run'} is not finished: a, b, c was not written$"
    with pytest.raises(RunError, match=told), RunWriter(tmp_path / "run", kind="regions") as run:
        for name in "dcba":
            run.file(name)
    lost = r"was removed, replaced or cut short by somebody else: a, b, c; nothing was written, start again$"
    with pytest.raises(RunError, match=lost), RunWriter(tmp_path / "run", kind="regions") as run:
        for name in "abcd":
            run.file(name).write_text("")
        run.file("e")
        for name in "abcd":
            (run.folder / name).unlink()
        run.file("f")
    with pytest.raises(RunError, match=r"is not finished: its lock was removed by somebody else; start again$"):
        with RunWriter(tmp_path / "run", kind="regions"):
            (tmp_path / ".run.lock").unlink()
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_how_long_it_took_and_of_what_kind_it_is(tmp_path, monkeypatch):
    now = iter([10.0, 12.3456])
    monkeypatch.setattr(writer.time, "monotonic", lambda: next(now))
    with RunWriter(tmp_path / "run", kind="regions") as run:
        run.manifest["kind"] = "other"
    found = open_run(tmp_path / "run")
    assert (found.kind, found.manifest["wall_time_s"]) == ("regions", 2.346)
    monkeypatch.setattr(writer.time, "monotonic", lambda: 0.0)
    with RunWriter(tmp_path / "two", kind="regions") as run:
        run.manifest["wall_time_s"] = 7
    assert open_run(tmp_path / "two").manifest["wall_time_s"] == 7


# -- readers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"kind": 3}, r"is not a run: its run\.json states no kind$"),
        ({"format": 2, "babelscope": "9"}, r"was written by a newer babelscope \(9\); update$"),
        ({"format": "1"}, r"was written by a newer babelscope"),
        ({"summary": []}, r"is damaged: summary is a list$"),
        ({"corpus": "x"}, r"is damaged: corpus is a str$"),
        ({"languages": {}}, r"is damaged: languages is a dict$"),
        ({"model": 3}, r"is damaged: model is a int$"),
        ({"key": 3}, r"is damaged: key is a int$"),
        ({"versions": []}, r"is damaged: versions is a list$"),
        ({"corpus": {"languages": "en"}}, r"is damaged: languages of the corpus are no list$"),
        ({"summary": {"languages": {"a": 1}}}, r"is damaged: languages of the summary are no list$"),
        ({"summary": {"intervals": [1]}}, r"is damaged: the intervals of the summary are no mapping$"),
    ],
)
def test_a_manifest_of_another_shape_is_told(tmp_path, said, told):
    with pytest.raises(RunError, match=told):
        open_run(damaged(tmp_path / "run", **said))
    open_run(damaged(tmp_path / "run", format=1, model="m", languages=["en"], summary={"intervals": {}}, key=None))
    open_run(damaged(tmp_path / "run", format=0, model={"id": "m"}))


def of(**manifest: object) -> Run:
    return Run(Path("/a/b/name"), manifest)


def test_what_a_run_says_of_itself():
    assert of(languages=["a"], corpus={"languages": ["b"]}).languages == ["a"]
    assert of(corpus={"languages": ["b"]}, summary={"languages": ["c"]}).languages == ["b"]
    assert of(summary={"languages": ["c", 4]}).languages == ["c", "4"]
    assert (of().languages, of().summary, of().key, of(key="k").key) == ([], {}, None, "k")
    assert of(model={"id": "org/m"}).model_name == "org/m"
    assert of(model="/x/y/z").model_name == "y/z"
    assert (of().model_name, of(model={}).model_name) == ("name", "name")
    assert [of(asked=asked).of_dimensions for asked in ({"site": "residual"}, {"site": "neurons"}, None, [1])] == [
        True, False, False, False,
    ]  # fmt: skip
    assert repr(of(kind="regions", model="m")) == "Run('/a/b/name', kind='regions', model='m')"


def test_files_are_compared_when_they_are_read(tmp_path):
    root = run_at(tmp_path / "run", a="1", b="2")
    (root / "b").write_text("9")
    (root / "added").write_text("")
    run, trusting = open_run(root), open_run(root, validate=False)
    assert run.file("a").read_text() == "1"
    (root / "a").write_text("8")
    run.file("a")  # it was as it was written when it was first read
    for name, told in (("b", "b is damaged$"), ("added", "added was added$")):
        with pytest.raises(RunError, match=told):
            run.file(name)
        trusting.file(name)
    with pytest.raises(RunError, match=rf"^the run {root} has no file c$"):
        run.file("c")
    (root / "b").unlink()
    with pytest.raises(RunError, match=r"b is missing$"):
        run.file("b")
    with pytest.raises(RunError, match=rf"^the run {root} has no file b$"):
        trusting.file("b")
    with pytest.raises(RunError, match=r": b is missing$"):
        open_run(root)
    open_run(root, validate=False)
    with pytest.raises(RunError, match=r": a is damaged, b is missing, added was added$"):
        run.validate()


def test_the_points_of_a_sweep_are_looked_at_when_they_are_opened(tmp_path):
    root = run_at(tmp_path / "sweep", a="1")
    run_at(tmp_path / "point", b="2").rename(root / "point")
    damaged(root)
    (root / "point" / "b").unlink()
    open_run(root)
    with pytest.raises(RunError, match=r"b is missing"):
        open_run(root / "point")


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(RunError, match=rf"^there is no run at {tmp_path / 'x'}$"):
        open_run(tmp_path / "x")
    with pytest.raises(RunError, match=rf"^{tmp_path} is not a run: it has no run\.json$"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text('{"kind": "regions"}')
    with pytest.raises(RunError, match=rf"^the run {tmp_path} is unfinished: it has no checksums\.json$"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=r"cannot be a run: "):
        open_run("a" * 5000)


def test_a_fetched_run_goes_by_its_url(tmp_path, memory):
    store.put_run(run_at(tmp_path / "run", a="1"), "memory://r")
    found: Any = open_run("memory://r")
    assert (found.source, found.file("a").read_text()) == ("memory://r", "1")
    folder = found._fetched.path
    del found
    assert not folder.exists()
