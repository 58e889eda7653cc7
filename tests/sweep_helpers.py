"""What the tests of sweeps share: folders like checkpoints, a quick stand-in for measuring, tiny real models."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from babelscope.evolution import plan_from
from babelscope.results import RunWriter

LANGUAGES = ["en", "fr", "es"]


def folder_of_checkpoints(folder: Path, steps) -> Path:
    """Model folders without weights: enough to plan a sweep."""
    for step in steps:
        (folder / f"step{step}").mkdir(parents=True)
        (folder / f"step{step}" / "config.json").write_text(json.dumps({"step": step}))
    return folder


def cloze_plan(models: Path, **rest):
    """All checkpoints of a folder, story cloze alone."""
    measures = {"story_cloze": {"stories": "pocket:?n=2", "languages": ["en", "fr"]}}
    return plan_from({"models": [{"id": str(models), "revisions": "step*"}], "measures": measures, **rest})


class FakeMeasure:
    """Writes a run whose numbers follow from the key; notes every beginning, and whether the point was there."""

    def __init__(self, store: Path | None = None, log: Path | None = None, pause: float = 0.0) -> None:
        self.store, self.log, self.pause = store, log, pause

    def __call__(self, point, folder, scratch, where) -> Path:
        if self.log is not None:
            again = self.store is not None and (self.store / point.key / "run.json").exists()
            note(self.log, f"{'AGAIN' if again else 'start'} {point.key} {os.getpid()}")
        time.sleep(self.pause)
        return write_fake_run(point, scratch)


def write_fake_run(point, scratch: Path) -> Path:
    seed = int(point.key[:8], 16)
    sizes = np.random.default_rng(seed).integers(1, 9, (len(LANGUAGES), 4))
    with RunWriter(scratch / "point", kind="regions") as run:
        run.arrays(
            xr.Dataset(
                {"region_size_layer": (("language", "layer"), sizes)},
                coords={"language": LANGUAGES, "layer": np.arange(4)},
            )
        )
        run.table("cloze", cloze_rows(seed))
        run.manifest.update(
            key=point.key,
            model={"id": point.model, "parameters": 1000, "weight_hash": point.key},
            summary={"lrds": seed % 97 / 97, "sads": seed % 89 / 89, "sklr": int(sizes.sum()), "layers": 4},
        )
    return scratch / "point"


def cloze_rows(seed: int) -> pd.DataFrame:
    accuracy = seed % 83 / 83
    rows = [
        {"language": code, "condition": "base", "n": 9, "accuracy": accuracy, "low": accuracy / 2, "high": 1.0}
        for code in ("en", "fr", "mean", "others")
    ]
    return pd.DataFrame(rows)


def note(log: Path, line: str) -> None:
    """Append a line at one stroke."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def save_tiny(folder: Path, seed: int, spoil: bool = False) -> None:
    """A real tiny BLOOM with a tokenizer; `spoil` puts a NaN into its weights."""
    import torch

    from .tiny_models import tiny_model, tiny_tokenizer

    model = tiny_model("bloom", seed=seed)
    if spoil:
        with torch.no_grad():
            next(model.parameters())[3, 3] = torch.nan
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)


def copy_checkpoint(source: Path, target: Path) -> None:
    """The same weights under another name, as it happened to published checkpoints; other bytes around them."""
    shutil.copytree(source, target)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**settings, "comment": "uploaded again"}))
