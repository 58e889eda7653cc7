"""The whole study on the built-in models: regions, checkpoints and scales into runs, and one page from all of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from babelscope.evolution import read_plan, run_sweep
from babelscope.evolution.sweep_plan import plan_sweep
from babelscope.findings import findings_of
from babelscope.models import Model, load_model
from babelscope.report import write_report
from babelscope.results.scratch import Scratch
from babelscope.studies.plan import PlannedStep, StudyPlan
from babelscope.studies.progress import Progress, silent
from babelscope.studies.region_plan import plan_regions
from babelscope.studies.regions import RegionsSettings, regions_study, study_regions
from babelscope.studies.rehearsal import Clock, Spent, planned

MODEL = "pocket:pocket-bloom-m"
CORPUS = "pocket:heldout"
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
TEXTS = "pocket:heldout?seed=1"
"""other sentences than the regions were found on"""
FIRST = 40
"""sentences of the first look"""
SWEEPS = ("pocket-checkpoints", "pocket-scales")


def run_demo(
    out: Path,
    quick: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    say: Callable[[str], object] = lambda _: None,
) -> Path:
    """Run everything into `out` and return the page's path.

    `quick` takes less text, fewer controls, and no sweeps. Raises RunError when `out` is in the way.
    """
    if overwrite and out.is_dir():
        _remove_own(out)
    model = load_model(MODEL)
    say(f"a first look at {MODEL}: {FIRST} sentences in nine languages")
    for finding in first_findings(model, progress):
        say(f"• {finding}")
    say(f"regions of {MODEL} on held-out sentences in nine languages")
    runs = [study_regions(model, _regions(quick), out / "regions", overwrite, progress=progress).path]
    for preset in () if quick else SWEEPS:
        say(f"sweep {preset}")
        runs.append(run_sweep(read_plan(preset), out / preset.removeprefix("pocket-")).path)
    return write_report(runs, out / "report.html")


def _regions(quick: bool) -> RegionsSettings:
    return RegionsSettings(
        corpus=CORPUS,
        languages=LANGUAGES,
        samples=50 if quick else 100,
        texts=TEXTS,
        window=128,
        joint="eos",
        text_tokens=1024 if quick else 4096,
        controls=1 if quick else 3,
        bootstrap=200 if quick else 1000,
    )


def _first() -> RegionsSettings:
    return RegionsSettings(corpus=CORPUS, languages=LANGUAGES, samples=FIRST, bootstrap=200, permutations=0)


PAGE = 6.0
"""seconds for findings and the page, on the machine of the probe or not: they hold no model"""


def plan_demo(quick: bool = False, clock: Clock = time.perf_counter) -> StudyPlan:
    """What the demo will cost on this machine; nothing is written."""
    model = load_model(MODEL)
    steps: list[PlannedStep] = []
    for name, settings in (("a first look", _first()), ("regions", _regions(quick))):
        part = plan_regions(regions_study(model, settings), clock).steps
        steps += [replace(step, step=f"{name}: {step.step}") for step in part]
    for preset in () if quick else SWEEPS:
        steps += plan_sweep(read_plan(preset), clock=clock).steps
    steps += planned({"page": (Spent(PAGE), "")}).steps
    whole = sum(step.seconds for step in steps)
    return StudyPlan(tuple(replace(step, share=step.seconds / whole) for step in steps))


def first_findings(model: Model, progress: Progress = silent) -> list[str]:
    """What a few sentences say already, while the whole study has hardly begun: nothing of it is kept."""
    settings = _first()
    with Scratch("demo") as folder:
        run = study_regions(model, settings, folder / "first", progress=progress)
        return [found.text for found in findings_of(run) if found.kind != "not measured"]


def _remove_own(out: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    for name in ("regions", "circuits", "checkpoints", "scales"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "report.html").unlink(missing_ok=True)
