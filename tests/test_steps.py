"""Studies as lists of steps: keys, resuming, damage, what can be kept in a file, and progress without a terminal."""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from babelscope.errors import InputError, RunError
from babelscope.regions.masks import RegionSet
from babelscope.results import RunWriter
from babelscope.results.step_store import StepStore
from babelscope.results.values import Packer, unpack
from babelscope.studies.progress import lines
from babelscope.studies.steps import AGAIN, Cost, KeptSteps, Step, run_steps, step_keys


@dataclass(frozen=True)
class Recording:
    samples: int = 100


@dataclass(frozen=True)
class Null:
    draws: int = 10


def study(samples=100, draws=10, null=None, texts="t"):
    recording = Step("recording", Recording(samples), lambda own, _: {"n": own.samples}, cost=lambda s: Cost(40))
    null = null or (lambda own, given: given[recording]["n"] * own.draws)
    return [recording, Step("null of it", Null(draws), null, (recording,), {"texts": texts})]


def ran(steps, store, inputs=None) -> list[str]:
    heard: list[str] = []
    run_steps(steps, inputs, store, heard=lambda name, did: heard.append(name) if did else None)
    return heard


@pytest.fixture
def store(tmp_path):
    return StepStore(tmp_path / "run")


def test_a_finished_step_is_not_run_again(store):
    assert ran(study(), store) == ["recording", "null of it"]
    assert ran(study(), store) == []
    steps = study()
    assert run_steps(steps, store=store)[steps[1]] == 1000


def test_a_change_runs_its_step_and_what_needs_it(store):
    ran(study(), store)
    assert ran(study(draws=20), store) == ["null of it"]
    assert ran(study(texts="other"), store) == ["null of it"]
    assert ran(study(samples=50), store) == ["recording", "null of it"]
    assert ran(study(), store, {"weights": "w"}) == ["recording", "null of it"]


def test_a_result_that_is_cheap_is_made_again_and_may_hold_anything(store):
    def steps():
        cheap = Step("cheap", None, lambda own, given: len, kept=False)
        return [cheap, Step("dear", None, lambda own, given: given[cheap]("four"), (cheap,))]

    assert ran(steps(), store) == ["cheap", "dear"]
    assert ran(steps(), store) == ["cheap"]


def test_another_version_takes_over_nothing(store, monkeypatch):
    ran(study(), store)
    monkeypatch.setattr("babelscope.studies.steps.__version__", "0.0.0")
    assert ran(study(), store) == ["recording", "null of it"]


def test_a_study_that_was_broken_off_goes_on_and_says_that_it_can(store):
    def killed(settings, given):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        run_steps(study(null=killed), store=store)
    assert stop.value.__notes__ == [AGAIN]
    assert ran(study(), store) == ["null of it"]


def test_nothing_is_left_of_a_step_that_failed(store):
    def failing(settings, given):
        (given.folder / "big.npy").write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_steps(study(null=failing), store=store)
    assert not list(store.folder.glob("null*"))
    store.remove()
    assert not store.folder.exists()


@pytest.mark.parametrize("file", ["step.json", "0.npy"])
def test_damage_is_refused_by_file_name(store, file):
    def study_of_arrays():
        first = Step("first", None, lambda own, given: np.arange(6.0))
        return [first, Step("second", None, lambda own, given: float(given[first].sum()), (first,))]

    steps = study_of_arrays()
    run_steps(steps[:1], store=store)
    place = next(store.folder.glob("first-*")) / file
    content = bytearray(place.read_bytes())
    content[-3] ^= 1
    place.write_bytes(bytes(content))
    with pytest.raises(RunError, match=rf"{file} is not as it was written.*--fresh"):
        run_steps(study_of_arrays(), store=store)


def test_attack_3a_one_flipped_bit_of_a_kept_step_is_never_read_as_another_number(store):
    """One bit in a digit of a kept step once went into a finished run; every byte of every file is tried here."""
    with store.room("a", "0f") as room:
        store.keep("a", "0f", room, {"x": 6.744209, "array": np.arange(3.0), "table": pd.DataFrame({"y": [1, 2]})})
    place = store._place("a", "0f")
    for file in sorted(place.iterdir()):
        content = file.read_bytes()
        for at in range(0, len(content), 1 if file.suffix == ".json" else 7):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(RunError, match=r"is not as it was written.*--fresh"):
                store.read("a", "0f")
        file.write_bytes(content)
    assert store.read("a", "0f")["x"] == 6.744209


def test_a_missing_file_is_damage(store):
    step = Step("first", None, lambda own, given: np.arange(6.0))
    run_steps([step], store=store)
    next(store.folder.glob("first-*/*.npy")).unlink()
    with pytest.raises(RunError, match=r"0\.npy is not as it was written"):
        _ = run_steps([step], store=store)[step]


def test_steps_of_one_run_are_never_those_of_another(tmp_path):
    names = ["qwen2", "qwen2.5", "qwen2.steps-", ".qwen2", "qwen2.5.steps-00000000", "q w", "Qwen2"]
    stores = [StepStore(tmp_path / name) for name in names]
    assert len({store.folder for store in stores}) == len(names)
    for place, one in enumerate(stores):
        run_steps([Step("a", None, lambda own, given, place=place: place)], store=one)
    stores[0].remove()
    assert all(store.folder.is_dir() for store in stores[1:])


def test_two_studies_of_one_run_do_not_destroy_each_others_steps(tmp_path):
    first, second = (StepStore(tmp_path / "run") for _ in range(2))
    with first.room("recording", "0f") as folder:
        (folder / "half.npy").write_bytes(b"half")
        with pytest.raises(RunError, match=r"another process .* is writing"), second.room("recording", "0f"):
            pass
        with pytest.raises(RunError, match="is writing"):
            second.remove()
        assert first.once("part", "1a", lambda: 3) == 3
        assert (folder / "half.npy").read_bytes() == b"half"
        first.keep("recording", "0f", folder, 7)
    assert second.once("recording", "0f", lambda: 8) == 7
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_left_alone(store):
    store.folder.mkdir(parents=True)
    (store.folder / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="does not say that it is of the run"):
        run_steps(study(), store=store)
    with pytest.raises(RunError, match="does not say"):
        store.remove()
    assert (store.folder / "thesis.txt").read_text() == "mine"


def test_a_step_states_what_it_needs():
    steps = study()
    with pytest.raises(InputError, match="null of it needs recording"):
        step_keys(steps[1:], {})
    hidden = Step("hidden", None, lambda own, given: given[steps[0]])
    with pytest.raises(InputError, match="hidden uses recording without"):
        run_steps([steps[0], hidden])
    with pytest.raises(InputError, match="two steps are called recording"):
        step_keys([steps[0], steps[0]], {})


def test_results_that_nobody_needs_are_not_read(store):
    ran(study(), store)
    next(store.folder.glob("recording-*/step.json")).write_text("{}")
    assert run_steps(steps := study(), store=store)[steps[1]] == 1000


def test_values_come_back_as_they_were(tmp_path):
    regions = RegionSet({"en": torch.tensor([[True, False]])}, "z-score", {"n": 3}, {"en": torch.ones(1, 2)})
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, float("nan")]})
    value = {
        "scalars": (None, True, 3, 0.1, "ü", float("inf"), np.int64(4), np.float64(1 / 3)),
        ("key", 1): [np.array(["en", "zh"]), np.zeros((0, 3), np.float32)],
        "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "regions": regions,
        "frame": frame,
    }
    packed = json.loads(json.dumps(Packer(tmp_path).pack(value), allow_nan=False))
    again = unpack(packed, tmp_path)
    assert again["scalars"][:5] == (None, True, 3, 0.1, "ü")
    assert math.isinf(again["scalars"][5])
    assert again["scalars"][6:] == (4, 1 / 3)
    names, empty = again[("key", 1)]
    assert names.tolist() == ["en", "zh"]
    assert empty.shape == (0, 3)
    assert empty.dtype == np.float32
    assert again["half"].dtype == torch.bfloat16
    assert again["half"].tolist() == [1.5, -2]
    assert again["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert again["regions"].sizes == {"en": 1}
    assert again["regions"].facts == {"n": 3}
    assert again["regions"].scores["en"].dtype == torch.float32
    pd.testing.assert_frame_equal(again["frame"], frame)


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), Recording(), len])
def test_what_would_need_a_pickle_is_refused(tmp_path, value):
    with pytest.raises(RunError, match="a step left"):
        Packer(tmp_path).pack(value)


@pytest.mark.parametrize("name", ["os:system", "babelscope.errors:InputError", "subprocess:Popen"])
def test_a_file_cannot_name_code(tmp_path, name):
    with pytest.raises(RunError, match=name):
        unpack({"class": name, "fields": {}}, tmp_path)


def test_a_memory_map_in_the_rooms_own_folder_is_kept_as_it_is(store):
    def large(own, given):
        means = np.lib.format.open_memmap(given.folder / "means.npy", "w+", np.float32, (3, 4))
        means[:] = 7
        return means

    step = Step("large", None, large)
    assert run_steps([step], store=store)[step].sum() == 84
    again = Step("large", None, lambda own, given: None)
    assert run_steps([again], store=store)[again].sum() == 84
    assert len(list(store.folder.glob("large-*/*.npy"))) == 1


def test_a_log_gets_a_line_now_and_then():
    out = io.StringIO()
    with lines("recording", 900, "sentences", every=0.01, out=out) as step:
        step(300)
        for _ in range(500):
            if "300 of" in out.getvalue():
                break
            time.sleep(0.01)
    first = next(line for line in out.getvalue().splitlines() if "300 of" in line)
    assert first.startswith("recording: 300 of 900 sentences (33 %)")
    assert first.endswith("left")


def test_work_that_is_soon_done_leaves_no_line():
    out = io.StringIO()
    with lines("recording", 3, "sentences", out=out) as step:
        step(3)
    assert out.getvalue() == ""


def test_a_folder_that_was_never_said_to_be_anybodys_is_taken(tmp_path):
    """The disk was full, or the run killed, after the folder was made and before its owner was written whole."""
    store = StepStore(tmp_path / "run")
    store.folder.mkdir()
    (store.folder / "owner.json.part").write_text('{"steps')
    assert store.once("step", "0f", lambda: 3) == 3
    assert StepStore(tmp_path / "run").read("step", "0f") == 3
    store.remove()
    assert not store.folder.exists()


# -- steps beside a run ------------------------------------------------------------------------------------------------


def test_steps_belong_to_one_study_also_between_its_steps(tmp_path):
    out = tmp_path / "run"
    with KeptSteps(out) as beside:
        held = beside.open()
        assert ran(study(), held) == ["recording", "null of it"]
        other = StepStore(out)
        for use in (other.remove, lambda: ran(study(draws=3), other)):
            with pytest.raises(RunError, match=r"another process.* is writing .*run"):
                use()
        assert held.holds("recording", next(path.name[10:] for path in held.folder.glob("recording-*")))
    assert list(tmp_path.iterdir()) == []


def test_steps_are_removed_before_anybody_else_may_write_the_run(tmp_path, monkeypatch):
    """The moment that was open: the run has its name, its lock is free, and the steps are still there."""
    out, seen = tmp_path / "run", []
    removed = StepStore.remove

    def looking(store: StepStore) -> None:
        seen.append((out / "run.json").is_file())
        with pytest.raises(RunError, match="another process"):
            StepStore(out).hold()
        removed(store)

    monkeypatch.setattr(StepStore, "remove", looking)
    with KeptSteps(out) as beside, RunWriter(out, kind="regions"):
        run_steps(study(), store=beside.open())
    assert seen == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("where", ["before", "between", "after"])
def test_an_interruption_anywhere_in_a_study_says_that_steps_are_kept(tmp_path, where):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as stop:
        with KeptSteps(out) as beside, RunWriter(out, kind="regions"):
            store = beside.open()
            if where != "before":
                run_steps(study() if where == "after" else study()[:1], store=store)
            raise KeyboardInterrupt
    assert getattr(stop.value, "__notes__", []) == ([] if where == "before" else [AGAIN])
    with KeptSteps(out, "fresh") as beside:
        store = beside.open()
        assert not store.folder.exists()


def test_a_failure_keeps_the_steps_and_says_nothing(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="no"):
        with KeptSteps(out) as beside:
            run_steps(study()[:1], store=beside.open())
            raise ValueError("no")
    assert StepStore(out).folder.is_dir()
    with KeptSteps(out) as beside:
        assert ran(study(), beside.open()) == ["null of it"]
    with KeptSteps("memory://x/run") as beside:
        assert beside.open() is None
