"""One study by two workers: the same numbers as by one process, a dead worker or not, and what time that takes.

    python -m benchmarks.shards [regions circuits latent steer] [--workers 2]

Each study is done in this process, then by so many workers of one processor each on Ray, then by as many, two of which
are killed in the middle, one after the other. Compared are all arrays and tables of the runs, number by number;
`largest difference` is over all of them, and cells that are not numbers must be the same. Time is by the clock, without
the start of the cluster and the loading of the workers' models, which is told by itself; this process computes with one
thread. On a machine that others use too, clock times say little, so the load is told beside them, and processor time of
this process alone, of this process beside workers, and of each worker: the first over the sum of the second and the
largest of the third is what the clock would say on a quiet machine, if nobody waited.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from babelscope import load_model
from babelscope.models import Model
from babelscope.models.ray_workers import RayWorkers, on_ray
from babelscope.results import Run
from babelscope.studies.circuits import CircuitsSettings, study_circuits
from babelscope.studies.latent import LatentSettings, study_latent
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.regions import study_regions
from babelscope.studies.steer import study_steering
from babelscope.studies.steer_settings import SteerSettings
from benchmarks._measure import result, tell

Study = Callable[[Model, Path], Run]
STUDIES: dict[str, tuple[str, Study]] = {
    "regions": ("pocket:pocket-bloom-m", lambda model, out: study_regions(
        model, RegionsSettings(corpus="pocket:heldout", languages=("en", "fr", "zh"), samples=60,
                               texts="pocket:heldout?seed=1", window=128, text_tokens=4096), out)),
    "circuits": ("pocket:pocket-bloom-m", lambda model, out: study_circuits(
        model, CircuitsSettings(languages=("en", "zh"), n=16), out)),
    "latent": ("pocket:planted-pivot", lambda model, out: study_latent(
        model, LatentSettings(words="planted", from_=("fr", "en"), to=("zh",), parts=("lens", "patch")), out)),
    "steer": ("pocket:pocket-bloom-s", lambda model, out: study_steering(
        model, SteerSettings(corpus="pocket:heldout?n=120", pairs=("en:fr",), fixed=True, tokens=12,
                             method=("diffmean",)), out)),
}  # fmt: skip
KILLED_AT = (2, 3)
"""units after which the first worker is killed, and the second; a study of latent language has four"""


class Killing:
    """Workers that are killed without warning, one after the other."""

    def __init__(self, crew: Any) -> None:
        self.crew, self.before, self.done = crew, crew.pids(), 0

    def results(self, *asked: Any) -> Iterator[Any]:
        """The crew's results."""
        for found in self.crew.results(*asked):
            self.done += 1
            if self.done in KILLED_AT:
                os.kill(self.before[KILLED_AT.index(self.done)], signal.SIGKILL)
            yield found


def largest_difference(one: Run, two: Run) -> float:
    """Over all numbers of two runs; infinite where anything else differs."""
    if sorted(one.tables) != sorted(two.tables):
        return float("inf")
    pairs: list[tuple[Any, Any]] = []
    for name in one.tables:
        first, second = one.table(name), two.table(name)
        if list(first) != list(second) or len(first) != len(second):
            return float("inf")
        pairs += [(first[column], second[column]) for column in first]
    for first, second in zip(_arrays(one), _arrays(two), strict=True):
        if list(first) != list(second):
            return float("inf")
        pairs += [(first[name].values, second[name].values) for name in first]
    worst = 0.0
    for a, b in pairs:
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind not in "fiu":
            worst = worst if pd.Series(a.ravel()).equals(pd.Series(b.ravel())) else float("inf")
        elif (np.isnan(a.astype(float)) != np.isnan(b.astype(float))).any():
            return float("inf")
        elif a.size:
            worst = max(worst, float(np.nan_to_num(np.abs(a.astype(float) - b.astype(float))).max()))
    return worst


def _arrays(run: Run) -> list[xr.Dataset]:
    """Of every group; a study of steering has none."""
    if not any(name.startswith("arrays") for name in run.files()):
        return []
    return [run.arrays(group) for group in (None, *run.groups)]


def processor_seconds(pid: int) -> float:
    """Of another process so far, as Linux tells it; NaN elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(name: str, workers: int, folder: Path) -> list[dict[str, Any]]:
    """One study, three ways."""
    place, study = STUDIES[name]
    model = load_model(place)

    def timed(out: str) -> tuple[Run, float, float]:
        start, busy = time.perf_counter(), time.process_time()
        run = study(model, folder / name / out)
        return run, time.perf_counter() - start, time.process_time() - busy

    one, alone, alone_busy = timed("one")
    start = time.perf_counter()
    with on_ray(model, RayWorkers(workers)):
        crew = Killing(model.workers)  # asked for its processes, which are there when the models are
        begun = time.perf_counter() - start
        before = list(map(processor_seconds, crew.before))
        two, shared, here = timed("two")
        each = [processor_seconds(pid) - spent for pid, spent in zip(crew.before, before)]
        model.workers = crew
        killed, after, _ = timed("killed")
    if crew.done < max(KILLED_AT):
        raise SystemExit(f"{name}: the study ended before the workers could be killed")
    same, still = largest_difference(one, two), largest_difference(one, killed)
    quiet = alone_busy / (here + max(each))
    print(
        f"| {name} | {same:g} | {still:g} | {alone:.0f} | {shared:.0f} | {after:.0f} | {begun:.0f} | "
        f"{os.getloadavg()[0]:.1f} | {alone / shared:.2f} | {alone_busy:.1f} | {here:.1f} | "
        f"{', '.join(f'{spent:.1f}' for spent in each)} | {quiet:.2f} |",
        flush=True,
    )
    return [
        result(f"{name}: largest difference, {workers} workers", same, 0, "lower", ""),
        result(f"{name}: largest difference, two of them killed", still, 0, "lower", ""),
        result(f"{name}: speed-up by {workers} workers, by the clock", alone / shared, None, "higher"),
        result(f"{name}: speed-up by {workers} workers, by processor time", quiet, None, "higher"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help=", ".join(STUDIES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    torch.set_num_threads(1)
    heads = [
        "study", f"largest difference, {arguments.workers} workers", "two killed", "one process, s", "workers, s",
        "killed, s", "start, s", "load", "speed-up", "processor s: one process", "this one beside workers",
        "each worker", "speed-up",
    ]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.studies:
            found += measured(name, arguments.workers, Path(folder))
    tell(found, arguments.json)


if __name__ == "__main__":
    main()
