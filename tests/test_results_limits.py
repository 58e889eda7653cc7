"""What a reader of a run is told, sizes of chunks, names of files and messages, word by word."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from babelscope.errors import RunError, Unwritable
from babelscope.results.arrays import STORE, _chunks
from babelscope.results.checksums import inside
from babelscope.results.display import facts, run_html
from babelscope.results.hidden import HiddenFolder
from babelscope.results.reader import Run
from babelscope.results.schemas.sweep import PointRow, SweepPoint
from babelscope.results.scratch import Scratch


def shown(**summary: object) -> SimpleNamespace:
    return SimpleNamespace(
        kind="regions", model_name="m", languages=("en", "zh"), source="here", tables=["overlap"], manifest={},
        summary=summary,
    )  # fmt: skip


def test_the_facts_of_a_run_stand_once_each_and_in_their_order():
    intervals = {"lrds": [0.1, 0.3], "sklr": [3.0, 5.0], "excess_sklr": [1.0, 3.0], "neurons": [1.0]}
    run = shown(
        lrds=0.2, sads=0.5, sklr=4.0, excess_sklr=2.0, at="n = 40", neurons=12, threshold=2.5, intervals=intervals
    )
    assert list(facts(run)) == [
        ("Model", "m"),
        ("LRDS", "0.2 (0.1 to 0.3)"),
        ("SADS", "0.5"),
        ("SKLR", "4 (3 to 5)"),
        ("Excess", "2 (1 to 3) of SKLR above permuted labels, at n = 40"),
        ("Neurons", "12"),
        ("Threshold of z", "2.5"),
        ("Languages", "en, zh"),
        ("Tables", "overlap"),
        ("Where", "here"),
    ]
    assert [name for name, _ in facts(shown(sklr=4.0, threshold=2.5, method="lape"))] == [
        "Model", "SKLR", "Languages", "Tables", "Where",
    ]  # fmt: skip


def test_points_are_shown_of_a_sweep_alone():
    run = shown()
    run.tables = ["points"]
    assert "points</caption>" not in run_html(run)


@pytest.mark.parametrize(
    ("shape", "itemsize", "chunk"),
    [
        ((9, 400_000), 4, (5, 400_000)),  # 14.4 MB; 5 rows are 8.0 MB, at most 8 MiB
        ((2, 1 << 20), 4, (2, 1 << 20)),  # 8 MiB, as it is
        ((2, (1 << 20) + 1), 4, (1, (1 << 20) + 1)),
        ((1, 1 << 22), 4, (1, 1 << 21)),
        ((0, 3), 8, (1, 3)),
        ((), 8, ()),
    ],
)
def test_chunks_are_halved_until_they_have_eight_mebibytes_at_most(shape, itemsize, chunk):
    assert _chunks(shape, itemsize) == chunk


@pytest.mark.parametrize("letter", [0xD800, 0xDABC, 0xDFFF, 0])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, letter):
    with pytest.raises(RunError, match="cannot be a file name"):
        inside(tmp_path, f"a{chr(letter)}b")


@pytest.mark.parametrize("letter", [0xD7FF, 0xE000])
def test_the_letters_beside_the_halves_of_pairs_are_names(tmp_path, letter):
    assert inside(tmp_path, f"a{chr(letter)}b").name == f"a{chr(letter)}b"


def test_sizes_of_regions_are_those_that_are_known():
    values = {"region_size_en": 3.0, "region_size_zh": np.nan, "lrds": 0.5}
    found = SweepPoint(PointRow(model="m", key="k"), values, {}).region_sizes
    assert found == {"en": 3.0}


def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match=r"^cannot write .*file.*: (Not a directory|File exists)$"):
        Scratch("x", tmp_path / "file" / "inner")


def test_a_hidden_folder_of_another_maker_is_given_no_name(tmp_path):
    hidden = HiddenFolder(tmp_path / "run")
    assert not hidden.intact()
    hidden.open()
    hidden.new.mkdir()
    assert hidden.intact()
    (owner,) = tmp_path.glob(".run.*.tmp/owner")
    mine = owner.read_text(encoding="utf-8")
    owner.write_text(json.dumps({**json.loads(mine), "token": "0" * 32}), encoding="utf-8")
    assert not hidden.intact()
    with pytest.raises(RunError, match="was removed or replaced meanwhile"):
        hidden.commit(replace=False)
    owner.write_text(mine, encoding="utf-8")
    hidden.commit(replace=False)
    hidden.close()
    assert (tmp_path / "run").is_dir()


def test_a_link_to_itself_is_no_file_of_a_run(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RunError, match=r"^'loop' cannot be a file of the run|^the file 'loop' is a link"):
        inside(tmp_path, "loop")


def test_the_files_of_arrays_are_those_of_their_own_group(tmp_path):
    (tmp_path / STORE / "zh").mkdir(parents=True)
    (tmp_path / STORE / "zh" / "there").write_text("")
    stated = [f"{STORE}/zarr.json", f"{STORE}/en/stated", f"{STORE}/english/c", "run.json"]
    run = SimpleNamespace(_validates=True, groups=("en", "zh"), path=tmp_path, _stated=lambda: dict.fromkeys(stated))
    assert Run._stored(run, None) == [f"{STORE}/english/c", f"{STORE}/zarr.json"]
    assert Run._stored(run, "en") == [f"{STORE}/en/stated"]
    assert Run._stored(run, "zh") == [f"{STORE}/zh/there"]
    run._validates = False
    assert Run._stored(run, "zh") == []
