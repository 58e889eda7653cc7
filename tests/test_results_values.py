"""Values in files, kept steps, labelled arrays and sealed tensors on contents made by hand."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from babelscope.errors import InputError, RunError
from babelscope.results import arrays, sealed, step_store, values
from babelscope.results.arrays import read_arrays, write_arrays
from babelscope.results.reader import Run
from babelscope.results.schemas.steering import Judged
from babelscope.results.step_store import StepStore
from babelscope.results.values import Packer, unpack


def packed(value: object, folder: Path) -> tuple[Any, list[str]]:
    packer = Packer(folder)
    return packer.pack(value), packer.files


@pytest.mark.parametrize(
    ("value", "json_of"),
    [
        (None, None), (True, True), ("a", "a"), (3, 3), (1.5, 1.5), (np.float64(1.5), 1.5), (np.float32(0.5), 0.5),
        (np.int64(3), 3), (np.bool_(True), True), (math.inf, {"float": "inf"}), (-math.inf, {"float": "-inf"}),
        ([1, [2]], [1, [2]]), ((1, "a"), {"tuple": [1, "a"]}), ({1: "a"}, {"map": [[1, "a"]]}),
        (np.float64(math.inf), {"float": "inf"}),
    ],
)  # fmt: skip
def test_plain_values_in_json(tmp_path, value, json_of):
    found, files = packed(value, tmp_path)
    assert (found, files) == (json_of, [])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert unpack(found, tmp_path) == value
    assert type(found) is type(json_of)


def test_what_is_no_number_comes_back(tmp_path):
    found, _ = packed([math.nan, np.float32(math.nan)], tmp_path)
    assert found == [{"float": "nan"}] * 2
    assert all(math.isnan(one) for one in unpack(found, tmp_path))


def test_arrays_tables_and_tensors_are_files(tmp_path):
    value = {
        "a": np.arange(3), "t": pd.DataFrame({"x": [1]}, index=[7]), "b": torch.ones(2, dtype=torch.bfloat16),
        "f": torch.arange(3.0)[::2], "s": np.array(["x", "yy"], dtype=object),
    }  # fmt: skip
    found, files = packed(value, tmp_path)
    assert files == ["0.npy", "1.parquet", "2.npy", "3.npy", "4.npy"]
    assert dict(found["map"])["b"] == {"tensor": "2.npy", "dtype": "bfloat16"}
    assert dict(found["map"])["f"] == {"tensor": "3.npy"}
    back = unpack(found, tmp_path)
    assert back["a"].tolist() == [0, 1, 2]
    assert back["t"].index.tolist() == [0]
    assert (back["b"].dtype, back["b"].tolist()) == (torch.bfloat16, [1.0, 1.0])
    assert (back["f"].tolist(), back["s"].tolist()) == ([0.0, 2.0], ["x", "yy"])
    back["f"][0] = 5.0
    assert unpack(found, tmp_path)["f"].tolist() == [0.0, 2.0]


def test_labelled_arrays_and_our_own_classes_come_back(tmp_path):
    one = xr.DataArray([[1.0, 2.0]], {"x": ["a"], "y": [3, 4]}, ("x", "y"), "name")
    both = xr.Dataset({"u": ("x", [1, 2])}, {"x": ["p", "q"]})
    found, _ = packed([one, both, Judged(text="t", repeat=2, success=math.nan)], tmp_path)
    back = unpack(found, tmp_path)
    assert back[0].identical(one)
    assert back[1].identical(both)
    assert (back[2].text, back[2].repeat, math.isnan(back[2].success)) == ("t", 2, True)
    assert found[2]["class"] == "babelscope.results.schemas.steering:Judged"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({1, 2}, "^a step left a set, which cannot be kept in a file$"),
        (Judged, "^a step left a type, which cannot be kept in a file$"),
        (np.array([1, None], dtype=object), "^a step left an array of Python objects, which cannot be kept in a file$"),
        (np.array(["a", 1], dtype=object), "array of Python objects"),
        (Packer, "a step left a type"),
        (xr.Variable("x", [1]), "^a step left a Variable, which cannot be kept"),
    ],
)
def test_what_cannot_be_kept_is_told(tmp_path, value, told):
    with pytest.raises(RunError, match=told):
        packed(value, tmp_path)


def test_classes_of_others_are_not_kept(tmp_path):
    from dataclasses import dataclass

    @dataclass
    class Mine:
        a: int = 1

    with pytest.raises(RunError, match=r"Mine, which is not babelscope's$"):
        packed(Mine(), tmp_path)
    for module in ("aaa", "zzz.babelscope"):
        Mine.__module__ = module
        with pytest.raises(RunError, match=r"Mine, which is not babelscope's$"):
            packed(Mine(), tmp_path)
    for name, told in (
        ("aaa:x", "which is not babelscope's$"),
        ("os:system", "^it names os:system, which is not babelscope's$"),
        ("babelscopes.x:y", "which is not babelscope's$"),
        ("babelscope.results.values:unpack", "which is not a dataclass$"),
        ("babelscope.results.reader:Run", "which is not a dataclass$"),
    ):
        with pytest.raises(RunError, match=told):
            unpack({"class": name, "fields": {}}, tmp_path)
    with pytest.raises(RunError, match=r"^it holds something that no step writes$"):
        unpack({"other": 1}, tmp_path)


def test_a_file_that_the_step_wrote_itself_is_kept_as_it_is(tmp_path):
    inner = tmp_path / "room"
    inner.mkdir()
    for folder in (inner, tmp_path):
        np.save(folder / "own.npy", np.arange(4))
    mapped, elsewhere = (np.load(folder / "own.npy", mmap_mode="r") for folder in (inner, tmp_path))
    assert packed([mapped, elsewhere], inner) == ([{"array": "own.npy"}, {"array": "1.npy"}], ["own.npy", "1.npy"])
    below = inner / "sub"
    below.mkdir()
    np.save(below / "own.npy", np.arange(4))
    assert packed(np.load(below / "own.npy", mmap_mode="r"), inner)[0] == {"array": "0.npy"}
    raw = np.memmap(inner / "raw.dat", dtype=np.int64, mode="w+", shape=(2,))
    assert packed(raw, inner)[0] == {"array": "0.npy"}


@pytest.mark.parametrize(("more", "mapped"), [(0, False), (1, True)])
def test_large_arrays_are_mapped(tmp_path, monkeypatch, more, mapped):
    np.save(tmp_path / "a.npy", np.arange(10))
    monkeypatch.setattr(values, "MAPPED_BYTES", (tmp_path / "a.npy").stat().st_size - more)
    assert isinstance(values._read_array(tmp_path / "a.npy"), np.memmap) is mapped
    monkeypatch.undo()
    assert values.MAPPED_BYTES == 64 * 1024 * 1024


# -- kept steps -----------------------------------------------------------------------------------------------------


def folder_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.steps-{hashlib.sha256(out.name.encode()).hexdigest()[:8]}")


def test_a_step_is_kept_under_its_name_and_key(tmp_path):
    kept = StepStore(tmp_path / "run")
    assert kept.folder == folder_of(tmp_path / "run")
    assert not kept.holds("a step", "0f")
    with kept.room("a step!", "0f") as part:
        assert part.name == "a-step-0f.part"
        (part / "stray").write_text("")
        (part / "strays").mkdir()
        kept.keep("a step!", "0f", part, [1, np.arange(2)])
        assert not part.exists()
    place = kept.folder / "a-step-0f"
    assert sorted(one.name for one in place.iterdir()) == ["0.npy", "step.json"]
    said = json.loads((place / "step.json").read_text())
    assert said["body"]["step"] == "a step!"
    assert said["sha256"] == hashlib.sha256(json.dumps(said["body"], sort_keys=True).encode()).hexdigest()
    assert kept.holds("a step", "0f")
    assert kept.read("a step", "0f")[0] == 1
    assert kept.once("a step", "0f", lambda: pytest.fail("it is kept"))[0] == 1
    assert kept.once("other", "1", lambda: 5) == 5
    assert kept.read("other", "1") == 5
    with kept.room("x", "1"):
        pass
    assert sorted(one.name for one in kept.folder.iterdir()) == ["a-step-0f", "other-1", "owner.json"]
    assert json.loads((kept.folder / "owner.json").read_text()) == {"steps of": "run"}
    kept.remove()
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_not_as_it_was_written_is_told(tmp_path):
    kept = StepStore(tmp_path / "run")
    kept.once("a", "1", lambda: np.arange(2))
    place = kept.folder / "a-1"
    told = rf"^{place / '0.npy'} is not as it was written; remove {place} to compute this step again, or give --fresh"
    (place / "0.npy").write_bytes(b"x")
    with pytest.raises(RunError, match=told):
        kept.read("a", "1")
    (place / "0.npy").unlink()
    with pytest.raises(RunError, match=told):
        kept.read("a", "1")
    text = (place / "step.json").read_text()
    for wrong in (text.replace('"a"', '"b"'), "{", "[]", "{}", '{"body": 1}'):
        (place / "step.json").write_text(wrong)
        with pytest.raises(RunError, match=rf"^{place / 'step.json'} is not as it was written; remove"):
            kept.read("a", "1")
    body = {"files": {}, "value": {"odd": 1}}
    (place / "step.json").write_text(json.dumps({"body": body, "sha256": step_store._hash(body)}))
    with pytest.raises(RunError, match=r"is not as it was written \(it holds something that no step writes\); remove"):
        kept.read("a", "1")


def test_steps_are_one_studys_at_a_time(tmp_path):
    first, second = StepStore(tmp_path / "run"), StepStore(tmp_path / "run")
    first.hold()
    with first.room("a", "1") as outer, first.room("b", "1") as inner:
        assert outer != inner
    with pytest.raises(RunError, match=r"is writing"), second.room("a", "1"):
        pass
    with pytest.raises(RunError, match=r"is writing"):
        second.remove()
    first.let_go()
    with second.room("a", "1"):
        pass
    with pytest.raises(ValueError, match="stop"), first.room("a", "1") as part:
        (part / "x").write_text("")
        raise ValueError("stop")
    assert [one.name for one in first.folder.iterdir()] == ["owner.json"]
    assert first._inside == 0


def test_the_folder_of_steps_says_whose_it_is(tmp_path):
    kept = StepStore(tmp_path / "run")
    kept.folder.mkdir()
    for names, refused in (((), False), (("owner.json.part",), False), (("other",), True), (("owner.json",), True)):
        for one in kept.folder.iterdir():
            one.unlink()
        for name in names:
            (kept.folder / name).write_text('{"steps of": "another"}')
        if refused:
            told = rf"^{kept.folder} does not say that it is of the run run; remove it, or choose another --out$"
            with pytest.raises(RunError, match=told), kept.room("a", "1"):
                pass
        else:
            with kept.room("a", "1"):
                pass
            assert [one.name for one in kept.folder.iterdir()] == ["owner.json"]
    for one in kept.folder.iterdir():
        one.unlink()
    kept.folder.rmdir()
    (tmp_path / "else").mkdir()
    kept.folder.symlink_to(tmp_path / "else")
    told = rf"^{kept.folder} is not the folder of this run's steps; remove it or choose another --out$"
    with pytest.raises(RunError, match=told), kept.room("a", "1"):
        pass
    with pytest.raises(RunError, match=told):
        kept.remove()


def test_steps_that_cannot_be_kept_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=rf"^cannot keep steps of the run {tmp_path / 'file' / 'run'}: "):
        with StepStore(tmp_path / "file" / "run").room("a", "1"):
            pass


# -- labelled arrays ------------------------------------------------------------------------------------------------


def dataset(**variables: object) -> xr.Dataset:
    return xr.Dataset({name: ("x", np.asarray(one)) for name, one in variables.items()}, {"x": ["a", "b"]})


def test_groups_of_arrays(tmp_path):
    arrays.consolidate(tmp_path)
    assert arrays.groups(tmp_path) == []
    write_arrays(tmp_path, dataset(u=[1, 2]))
    write_arrays(tmp_path, dataset(v=[3, 4]))
    write_arrays(tmp_path, dataset(w=[5, 6]), "zh/deep")
    write_arrays(tmp_path, dataset(w=[7, 8]).assign_attrs(note=(1, np.float32(0.5))), "en")
    arrays.consolidate(tmp_path)
    assert arrays.groups(tmp_path) == ["en", "zh", "zh/deep"]
    root = read_arrays(tmp_path)
    assert (root["u"].values.tolist(), root["v"].values.tolist(), root["x"].values.tolist()) == (
        [1, 2],
        [3, 4],
        ["a", "b"],
    )
    assert root["x"].dtype.kind == "U"
    assert read_arrays(tmp_path, "en").attrs["note"] == [1, 0.5]
    assert read_arrays(tmp_path, "zh/deep")["w"].values.tolist() == [5, 6]
    for given, told in (({"u": [1, 2]}, "u"), ({"u": [9, 9]}, "u")):
        with pytest.raises(RunError, match=rf"^the arrays of this run already hold another '{told}'$"):
            write_arrays(tmp_path, dataset(**given))
    with pytest.raises(RunError, match=r"already hold another 'x'$"):
        write_arrays(tmp_path, dataset(n=[1, 2]).assign_coords(x=["a", "c"]))
    with pytest.raises(RunError, match=rf"^the run {tmp_path} holds no arrays in the group 'fr'$"):
        read_arrays(tmp_path, "fr")
    with pytest.raises(RunError, match=r" holds no arrays$"):
        read_arrays(tmp_path / "nothing")
    (tmp_path / arrays.STORE / "zarr.json").write_text("{")
    with pytest.raises(RunError, match=rf"^the arrays of the run {tmp_path} are damaged: "):
        read_arrays(tmp_path)


def test_what_is_said_of_a_group_outlives_what_is_added_to_it(tmp_path):
    write_arrays(tmp_path, dataset(u=[1, 2]).assign_attrs(unit="nats", n=3), "en")
    write_arrays(tmp_path, dataset(v=[3, 4]).assign_attrs(n=4), "en")
    arrays.consolidate(tmp_path)
    assert read_arrays(tmp_path, "en").attrs == {"unit": "nats", "n": 4}


def test_the_files_of_the_root_are_not_those_of_its_groups(tmp_path):
    for name in ("zarr.json", "u/zarr.json", "en/zarr.json", "en/w/c/0"):
        file = tmp_path / arrays.STORE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{\n  "node_type": "group"}' if name == "en/zarr.json" else "{}")
    run = Run(tmp_path, {})
    run._sums = {"arrays.zarr/gone": "", "other": "", "arrays.zarr/en/lost": ""}
    assert run.groups == ["en"]
    assert run._stored(None) == ["arrays.zarr/gone", "arrays.zarr/u/zarr.json", "arrays.zarr/zarr.json"]
    assert run._stored("en") == ["arrays.zarr/en/lost", "arrays.zarr/en/w/c/0", "arrays.zarr/en/zarr.json"]
    assert Run(tmp_path, {}, validate=False)._stored("en") == []


# -- sealed tensors -------------------------------------------------------------------------------------------------


def test_the_sum_of_tensors_is_of_text_names_shapes_types_and_bytes(tmp_path):
    tensors = {"b": torch.tensor([[1.0, 2.0]]).T, "a": torch.tensor([3], dtype=torch.int8)}
    sealed.save_sealed(tensors, tmp_path / "x", "circuit", "text")
    wanted = b"text" + b"\na [1] torch.int8\n\x03" + b"\nb [2, 1] torch.float32\n\x00\x00\x80?\x00\x00\x00@"
    assert sealed._sum(tensors, "text") == hashlib.sha256(wanted).hexdigest()
    text, back = sealed.read_sealed(tmp_path / "x", "circuit")
    assert (text, back["b"].tolist(), back["a"].tolist()) == ("text", [[1.0], [2.0]], [3])
    told = rf"^{tmp_path / 'x'} holds a circuit, not a tuned lens$"
    with pytest.raises(InputError, match=told):
        sealed.read_sealed(tmp_path / "x", "babelscope.tuned_lens")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "y")
    with pytest.raises(RunError, match=r"holds nothing that babelscope wrote, not a circuit$"):
        sealed.read_sealed(tmp_path / "y", "circuit", RunError)
    save_file({"a": torch.ones(1)}, tmp_path / "y", {"circuit": "t"})
    assert sealed.read_sealed(tmp_path / "y", "circuit")[0] == "t"
    save_file({"a": torch.ones(1)}, tmp_path / "y", {"circuit": "t", "sha256": "0"})
    with pytest.raises(InputError, match=r"y is damaged: its content is not what was written$"):
        sealed.read_sealed(tmp_path / "y", "circuit")
