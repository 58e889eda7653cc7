"""A latent run with planted numbers, for tests of what shows them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from babelscope.results import Run, RunWriter, open_run

from .synthetic_runs import HOSTILE


def write_latent(path: Path, layers: int = 5) -> Run:
    """A run of latent language: one pair, three candidates, hostile names of controls; no band in the outer layers."""
    key = {"lens": "logit", "source": "fr", "target": "zh"}
    inner = range(1, layers - 1)
    nan = float("nan")
    curves = [
        {**key, "language": code, "scope": scope, "layer": layer, "mass": 0.1, "row": 0.1, "col": 0.1,
         "excess": 0.1 * layer, "excess_low": 0.05 * layer if layer in inner else nan,
         "excess_high": 0.2 * layer if layer in inner else nan, "concepts": 7, "why": ""}
        for code in ("en", "fr", "zh") for scope in ("solved", "all") for layer in range(layers)
    ]  # fmt: skip
    ends = {"value": 0.3, "value_low": 0.1, "value_high": 0.5, "why": ""}
    patched = {"from": "fr→zh", "into": "de→en", "scope": "solved", "pairs": 9}
    tables = {
        "curves": curves,
        "entropy": [
            {**key, "layer": layer, "entropy": 3.0, "entropy_low": 2.0, "entropy_high": 4.0} for layer in range(layers)
        ],
        "controls": [
            {**key, "language": code, "scope": "solved", "control": name, **ends}
            for code in ("en", "fr") for name in ("none", HOSTILE[0], "minus zh")
        ],
        "verdicts": [
            {**key, "language": code, "scope": "solved", "outcome": told, "why": "", "solved": 7, "asked": 9,
             "accuracy_low": 0.4, "accuracy_high": 0.9, "concepts": 7, "strength": 0.2, "strength_low": 0.1,
             "strength_high": 0.3, "p": 0.01, "peak_layer": 2, "handover_layer": nan}
            for code, told in (("en", "passes through"), ("fr", "not readable"))
        ],
        "tuned": [
            {"lens": lens, "language": "en", "layer": layer, "positions": 9, "kl": 1.0, "agreement": 0.5, "bias": 0.1}
            for lens in ("logit", "tuned") for layer in range(layers)
        ],
        "patch": [
            {**patched, "experiment": "E1", "what": what, "layer": layer, "patched": "last", **ends}
            for what in ("c2 in d", "c1 in d") for layer in (None, 1, 2)
        ] + [
            {**patched, "experiment": "E2", "what": "c1 in d", "layer": layer, "patched": said, **ends}
            for layer, said in ((None, "asked for c1"), (0, "concept"), (1, "concept"))
        ],
        "alignment": [
            {"pooling": "mean", "treatment": name, "metric": "sads", "layer": layer, "value": 0.2, "shuffled": 0.01}
            for name in ("plain", "centred") for layer in range(layers)
        ],
    }  # fmt: skip
    with RunWriter(path, kind="latent", overwrite=True) as run:
        for name, rows in tables.items():
            run.table(name, pd.DataFrame(rows))
        run.manifest.update(languages=["en", "fr", "zh"], model={"id": "toy/babel"}, summary={"least": 0.01})
    return open_run(path)
