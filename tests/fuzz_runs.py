"""Fuzzed: run directories, kept steps, sweeps, and the files that say what is to be run."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from .fuzz_reading import Read, Seed, as_json, from_file

_PLAN = b"""name: x
models:
  - pocket:pocket-bloom-s
  - {id: pocket:pocket-bloom-m, revisions: "step*"}
corpora: ["pocket:heldout"]
languages: [en, fr]
measures:
  regions: {samples: 20}
  perplexity: {texts: "pocket:heldout"}
"""


def _within(name: str) -> Read:
    """One file of a good run replaced; then everything in the run is read."""

    def read(data: bytes, folder: Path) -> None:
        from babelscope.errors import BabelscopeError
        from babelscope.results import open_run

        for path, content in _good_run().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data if path == name else content)
        run = open_run(folder)
        uses = [run.validate, run._repr_html_, run.arrays, lambda: run.arrays("null"), lambda: run.table("t")]
        for use in [*uses, lambda: (run.summary, run.tables, run.groups, run.languages, run.model_name, run.key)]:
            try:
                use()
            except BabelscopeError:
                continue

    return read


@lru_cache
def _good_run() -> dict[str, bytes]:
    import pandas as pd
    import xarray as xr

    from babelscope.results import RunWriter

    with tempfile.TemporaryDirectory() as folder:
        with RunWriter(Path(folder) / "run", kind="regions") as run:
            run.manifest.update(summary={"lrds": 0.1}, model={"id": "a/b"}, corpus={"languages": ["en"]})
            run.table("t", pd.DataFrame({"language": ["en", "zh"], "x": [1.5, None]}))
            run.arrays(xr.Dataset({"score": (("language", "layer"), [[1.0, 2.0]])}, coords={"language": ["en"]}))
            run.arrays(xr.Dataset({"sklr_null": ("draw", [1.0, 2.0])}), group="null")
        root = Path(folder) / "run"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _of_run(name: str) -> Seed:
    return lambda: _good_run()[name]


def _sweep(data: bytes, folder: Path) -> None:
    from babelscope.evolution.sweep import status

    (folder / "sweep.json").write_bytes(data)
    status(folder)


_STATE = {"plan": {}, "name": "x", "points": [{"key": "0123456789abcdef", "label": "m@step1", "corpus": "c"}]}


def _step(data: bytes, folder: Path) -> None:
    """One kept step of a study whose file was changed."""
    from babelscope.results.step_store import StepStore

    store = StepStore(folder / "run")
    with store.room("a", "0f") as room:
        store.keep("a", "0f", room, {"n": 3, "x": (1.5, float("nan"))})
    (store._place("a", "0f") / "step.json").write_bytes(data)
    store.read("a", "0f")


def _step_bytes() -> bytes:
    from babelscope.results.step_store import StepStore

    with tempfile.TemporaryDirectory() as folder:
        store = StepStore(Path(folder) / "run")
        with store.room("a", "0f") as room:
            store.keep("a", "0f", room, {"n": 3, "x": (1.5, float("nan"))})
        return (store._place("a", "0f") / "step.json").read_bytes()


def _options(data: bytes, folder: Path) -> None:
    from babelscope.cli.config_file import taken_from

    (folder / "o.yaml").write_bytes(data)
    taken_from(["regions", "--config", str(folder / "o.yaml")])


_OPTIONS = b"regions:\n  samples: 20\n  languages: [en, fr]\n  doses: [0.1, 0.5]\n"


def _claim(data: bytes, folder: Path) -> None:
    from babelscope.claims import load_claim

    (folder / "c.yaml").write_bytes(data)
    claim = load_claim(str(folder / "c.yaml"))
    assert claim.hash
    assert all(claim.effect(part) > 0 and claim.rule(part) for part in claim.least_effect if part != "*")


def _packaged_claim() -> bytes:
    from importlib.resources import files

    return (files("babelscope.claims") / "data" / "zeng-same-meaning.yaml").read_bytes()


RUNS: dict[str, tuple[Read, Seed]] = {
    "run": (_within("run.json"), _of_run("run.json")),
    "checksums": (_within("checksums.json"), _of_run("checksums.json")),
    "arrays": (_within("arrays.zarr/score/zarr.json"), _of_run("arrays.zarr/score/zarr.json")),
    "group": (_within("arrays.zarr/zarr.json"), _of_run("arrays.zarr/zarr.json")),
    "chunk": (_within("arrays.zarr/score/c/0/0"), _of_run("arrays.zarr/score/c/0/0")),
    "run-table": (_within("tables/t.parquet"), _of_run("tables/t.parquet")),
    "plan": (from_file("plan.yaml", "evolution.plan", "read_plan"), lambda: _PLAN),
    "sweep": (_sweep, as_json(_STATE)),
    "step": (_step, _step_bytes),
    "options": (_options, lambda: _OPTIONS),
    "claim": (_claim, _packaged_claim),
}
