"""Runs are written whole or not at all, read back equal, and say which file is damaged."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import PurePosixPath

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from babelscope.errors import RunError
from babelscope.results import RunWriter, compare_runs, get_run, is_run, list_runs, open_run, put_run, run_key
from babelscope.results.manifest import FORMAT, plain

from .synthetic_circuits import write_circuits
from .synthetic_runs import HOSTILE, SENTENCES, write_regions, write_sweep


def small(path, overwrite=False, value=1.0):
    with RunWriter(path, kind="regions", overwrite=overwrite) as run:
        run.manifest.update(summary={"lrds": value}, model={"id": "a/b"})
        run.table("t", pd.DataFrame({"language": ["hi"], "x": [value]}))
    return open_run(path)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back(tmp_path):
    scores = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    labels = {"language": ["zh", "hi"], "layer": [0, 1, 2]}
    with RunWriter(tmp_path / "run", kind="regions") as writer:
        writer.manifest.update(summary={"lrds": np.float32(0.5), "sads": float("nan")}, key="k", languages=("zh", "hi"))
        writer.arrays(xr.Dataset({"score": (("language", "layer", "neuron"), scores)}, coords=labels))
        writer.arrays(xr.Dataset({"mask": (("language",), [True, False])}, coords={"language": ["zh", "hi"]}))
        writer.arrays(xr.Dataset({"sklr_null": ("draw", np.zeros(5))}), group="null")
        writer.table("sentences", pd.DataFrame({"text": [*SENTENCES.values(), *HOSTILE]}))
        writer.file("regions/zscore.safetensors").write_bytes(b"123")
    run = open_run(tmp_path / "run")
    run.validate()
    assert run.kind == "regions"
    assert run.summary == {"lrds": 0.5, "sads": None}
    assert run.languages == ["zh", "hi"]
    assert run.key == "k"
    assert run.groups == ["null"]
    arrays = run.arrays()
    assert np.array_equal(arrays.score.sel(language="hi"), scores[1])
    assert arrays.mask.dtype == bool
    assert arrays.language.values.tolist() == ["zh", "hi"]
    assert run.arrays("null").sklr_null.shape == (5,)
    assert run.table("sentences").text.tolist() == [*SENTENCES.values(), *HOSTILE]
    assert pd.read_csv(run.file("tables/sentences.csv")).text.tolist() == run.table("sentences").text.tolist()
    assert run.file("regions/zscore.safetensors").read_bytes() == b"123"
    assert left(tmp_path) == ["run"]


def test_arrays_are_added_but_never_replaced(tmp_path):
    def dataset(name, value, language):
        return xr.Dataset({name: ("language", [value])}, coords={"language": [language]})

    with RunWriter(tmp_path / "run", kind="regions") as writer:
        writer.arrays(dataset("a", 1, "zh"))
        writer.arrays(dataset("b", 2, "zh"))
        with pytest.raises(RunError, match="already hold another 'a'"):
            writer.arrays(dataset("a", 3, "zh"))
        with pytest.raises(RunError, match="already hold another 'language'"):
            writer.arrays(dataset("c", 3, "hi"))
    assert open_run(tmp_path / "run").arrays().sel(language="zh").b == 2


def test_large_arrays_are_cut_into_chunks(tmp_path):
    with RunWriter(tmp_path / "run", kind="regions") as writer:
        writer.arrays(xr.Dataset({"score": (("language", "neuron"), np.zeros((9, 400_000), np.float32))}))
    stored = json.loads((tmp_path / "run/arrays.zarr/score/zarr.json").read_text())
    assert stored["zarr_format"] == 3
    assert np.prod(stored["chunk_grid"]["configuration"]["chunk_shape"]) * 4 <= 8 << 20


@pytest.mark.parametrize("write", [write_regions, write_circuits, write_sweep])
def test_the_contract_of_each_kind_can_be_written(tmp_path, write):
    run = write(tmp_path / "run")
    run.validate()
    assert "<script" not in run._repr_html_()


def test_an_existing_directory_is_in_the_way(tmp_path):
    small(tmp_path / "run")
    with pytest.raises(RunError, match="exists; give --overwrite or another --out"):
        small(tmp_path / "run")
    assert small(tmp_path / "run", overwrite=True, value=2.0).summary == {"lrds": 2.0}
    assert left(tmp_path) == ["run"]


def test_overwrite_spares_what_is_not_a_run(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letters.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for name in ("home", "file", "link"):
        with pytest.raises(RunError, match="not a run"):
            small(tmp_path / name, overwrite=True)
    assert (tmp_path / "home/letters.txt").read_text() == "dear"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_interruption(tmp_path, error):
    def work():
        with RunWriter(tmp_path / "run", kind="regions") as writer:
            writer.table("t", pd.DataFrame({"x": [1]}))
            raise error

    with pytest.raises(error):
        work()
    assert left(tmp_path) == []


def test_an_interrupted_overwrite_keeps_the_old_run(tmp_path):
    small(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), RunWriter(tmp_path / "run", kind="regions", overwrite=True):
        raise KeyboardInterrupt
    assert open_run(tmp_path / "run").summary == {"lrds": 1.0}


def test_a_second_writer_is_refused(tmp_path):
    with RunWriter(tmp_path / "run", kind="regions"):
        with pytest.raises(RunError, match="another process"):
            small(tmp_path / "run")
        second = "import sys; from babelscope.results import RunWriter; RunWriter(sys.argv[1], 'x').__enter__()"
        done = subprocess.run(
            [sys.executable, "-c", second, str(tmp_path / "run")], capture_output=True, text=True, check=False
        )
        assert f"another process (process {os.getpid()} on " in done.stderr
    assert left(tmp_path) == ["run"]


def test_the_leftovers_of_a_killed_process_are_cleared(tmp_path):
    killed = """
import os, sys
from babelscope.results import RunWriter
RunWriter(sys.argv[1], "x").__enter__()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "run")], check=False)
    assert len(left(tmp_path)) == 2
    with pytest.raises(RunError, match="no run at"):
        open_run(tmp_path / "run")
    small(tmp_path / "run")
    assert left(tmp_path) == ["run"]


def test_a_full_disk_is_one_line(tmp_path):
    script = f"""
        import resource, signal, sys
        import numpy as np, xarray as xr
        from babelscope.errors import RunError
        from babelscope.results import RunWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))
        try:
            with RunWriter(sys.argv[1], "regions") as run:
                run.arrays(xr.Dataset({{"x": ("a", np.random.default_rng(0).random(100_000))}}))
        except RunError as error:
            print(error)
    """
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(run)], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"cannot write the run {run}: File too large\n", done.stderr
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), Exception('IoError(Os { code: 28, message: "No space left on device" })')],
)
def test_a_full_disk_met_by_other_writers_is_ours_too(tmp_path, error):
    with (
        pytest.raises(RunError, match=r"cannot write the run .*No space left"),
        RunWriter(tmp_path / "run", kind="regions"),
    ):
        raise error


def test_other_errors_of_the_block_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), RunWriter(tmp_path / "run", kind="regions"):
        raise FileNotFoundError(2, "No such file", "corpus.txt")


def test_damage_is_named(tmp_path):
    run = small(tmp_path / "run")
    csv = run.file("tables/t.csv")
    csv.write_text("changed")
    (run.path / "extra").write_text("x")
    run.file("tables/t.parquet").unlink()
    with pytest.raises(RunError, match=r"tables/t.csv is damaged, tables/t.parquet is missing, extra was added"):
        run.validate()


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "..\\b", "c:/x", ""])
def test_no_name_leads_out_of_a_run(tmp_path, name):
    with RunWriter(tmp_path / "run", kind="regions") as writer, pytest.raises(RunError, match="outside the run"):
        writer.file(name)
    run = open_run(tmp_path / "run")
    with pytest.raises(RunError, match="outside the run"):
        run.file(name)
    (run.path / "checksums.json").write_text(json.dumps({name: "0"}))
    with pytest.raises(RunError, match="outside the run"):
        run.validate()
    with pytest.raises(RunError, match="cannot name a table"):
        run.table(name)


def test_links_do_not_lead_out_either(tmp_path):
    (tmp_path / "secret").write_text("s")
    run = small(tmp_path / "run")
    (run.path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(RunError, match="leads outside"):
        run.file("link")


def test_what_is_no_run(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is not a run"):
        open_run(tmp_path / "empty")
    run = small(tmp_path / "run")
    with pytest.raises(RunError, match="has no table 'nothing'; it has: t"):
        run.table("nothing")
    with pytest.raises(RunError, match="holds no arrays"):
        run.arrays()
    run.file("checksums.json").unlink()
    assert not is_run(run.path)
    with pytest.raises(RunError, match="unfinished"):
        open_run(run.path)
    (run.path / "run.json").write_bytes(b"\xff{")
    with pytest.raises(RunError, match=r"run\.json .* damaged"):
        open_run(run.path)
    for newer in (FORMAT + 1, 99):
        (run.path / "run.json").write_text(json.dumps({"kind": "regions", "format": newer}))
        with pytest.raises(RunError, match="newer"):
            open_run(run.path)


def test_the_manifest_is_plain_json(tmp_path):
    values = {"a": np.int64(3), "b": [np.nan, np.inf], "c": {2, 1}, "d": tmp_path, "e": np.array([1.5]), 3: True}
    assert plain(values) == {"a": 3, "b": [None, None], "c": [1, 2], "d": str(tmp_path), "e": [1.5], "3": True}
    with pytest.raises(RunError, match=r"run.json: model is a object"):
        plain({"model": object()})


def test_the_key_is_of_the_content():
    assert run_key({"a": 1, "b": {"c": (1, 2)}}) == run_key({"b": {"c": [1, 2]}, "a": 1})
    assert run_key({"a": 1}) != run_key({"a": 2})
    assert len(run_key({})) == 16


def test_runs_travel_through_a_store(tmp_path):
    run = write_regions(tmp_path / "runs/run")
    url = "memory://store/first"
    assert put_run(run.path, url) == url
    with pytest.raises(RunError, match="exists; give --overwrite"):
        put_run(run.path, url)
    put_run(run.path, url, overwrite=True)
    assert list_runs("memory://store") == [url]
    assert list_runs("memory://nothing") == []
    assert list_runs(tmp_path / "runs") == [str(run.path)]
    copy = open_run(get_run(url, tmp_path / "copy"))
    copy.validate()
    assert compare_runs(run, copy).empty
    fetched = open_run(url)
    assert fetched.source == url
    assert fetched.table("sentences").equals(run.table("sentences"))
    with pytest.raises(RunError, match="there is no run"):
        open_run("memory://store/second")


def test_the_manifest_arrives_last(tmp_path, monkeypatch):
    """A store has no rename: what breaks off in between must leave no run.json there."""
    run, there = small(tmp_path / "run"), []
    real = type(fsspec.filesystem("memory")).put_file

    def put_file(self, local, remote, **options):
        there.append(PurePosixPath(remote).name)
        return real(self, local, remote, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", put_file)
    put_run(run.path, "memory://store/last")
    assert len(there) > 2
    assert there.index("run.json") == len(there) - 1


def test_a_run_is_written_straight_to_a_url(tmp_path):
    assert small(f"file://{tmp_path}/remote").summary == {"lrds": 1.0}
    with pytest.raises(RunError, match="exists"):
        small(f"file://{tmp_path}/remote")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    with pytest.raises(RunError, match="not a run"):
        small(f"file://{tmp_path}/other", overwrite=True)


def test_a_store_with_a_damaged_file_is_refused(tmp_path):
    run = small(tmp_path / "run")
    put_run(run.path, "memory://store/damaged")
    fsspec.filesystem("memory").pipe_file("/store/damaged/tables/t.csv", b"x")
    with pytest.raises(RunError, match=r"t\.csv is damaged"):
        get_run("memory://store/damaged", tmp_path / "copy")
    assert left(tmp_path) == ["run"]


def test_comparison_lists_what_differs(tmp_path):
    table = compare_runs(small(tmp_path / "a"), small(tmp_path / "b", value=1.5))
    assert table.to_dict("records") == [{"entry": "summary.lrds", "first": 1.0, "second": 1.5, "difference": 0.5}]


def test_display_escapes(tmp_path):
    with RunWriter(tmp_path / "run", kind="regions") as writer:
        writer.manifest.update(model={"id": HOSTILE[1]})
    html = open_run(tmp_path / "run")._repr_html_()
    assert "<img" not in html
    assert "&lt;img" in html
