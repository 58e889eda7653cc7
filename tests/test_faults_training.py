"""A training that is killed goes on to the same weights."""

from __future__ import annotations

import json
import os
import random
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from babelscope.pocket.models import MODELS, Recipe

from .fault_points import Struck, strike

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
NIGHTLY = "BABELSCOPE_FAULTS" in os.environ
RECIPE = Recipe(steps=6, batch=2, length=8, learning_rate=3e-3, warmup=2, checkpoints=(2,))


@pytest.fixture(scope="module")
def lesson():
    from pocket_factory.packing import pack
    from pocket_factory.tokenizer import train_tokenizer

    text = "The boat crosses the river before dawn and the boy reads a letter. "
    tokenizer = train_tokenizer([text], 280)
    return tokenizer, pack([("en", text)] * 60, tokenizer, limit=600)


def train(lesson, folder: Path, name: str) -> None:
    from pocket_factory import train as module

    module.SAVE_SECONDS = 0.0
    tokenizer, stream = lesson
    spec = replace(MODELS["pocket-bloom-m"], layers=1, heads=2, width=16, recipe=RECIPE, key_value_heads=1)
    torch.set_num_threads(1)
    module.Trainer(spec, tokenizer, stream, folder / name, report=lambda _: None, device="cpu").run()


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, lesson):
    from safetensors.torch import load_file

    folder, notes = tmp_path / "training", tmp_path / "notes"
    folder.mkdir()
    whole = strike(partial(train, lesson, folder, "whole"), folder, notes)
    assert whole.code == 0, whole
    dice, struck = random.Random(3), 0
    moments = sorted(dice.sample(range(1, whole.changes), 40 if NIGHTLY else 4))
    for at in moments:
        ended: Struck = strike(partial(train, lesson, folder, "killed"), folder, notes, at=at)
        assert ended.code in (0, -signal.SIGKILL), ended
        struck += ended.code < 0
        state = next((folder / "killed" / name for name in ("state", "state-old") if
                      (folder / "killed" / name).is_dir()), None)  # fmt: skip
        if state is not None:
            load_file(state / "state.safetensors")
            json.loads((state / "state.json").read_text())
    assert struck
    assert strike(partial(train, lesson, folder, "killed"), folder, notes).code == 0
    for revision in ("step2", "main"):
        one, two = (load_file(folder / name / revision / "model.safetensors") for name in ("whole", "killed"))
        assert all(torch.equal(one[key], two[key]) for key in one), revision
    curves = [(folder / name / "loss.csv").read_text() for name in ("whole", "killed")]
    assert curves[0].splitlines()[0] == curves[1].splitlines()[0]
    assert len(curves[0].splitlines()) == len(curves[1].splitlines())
