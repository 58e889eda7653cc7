"""What a plan says against what the study then takes, on the built-in models: processor time, planned and measured.

    python -m benchmarks.plans [--json FILE] [--studies regions,circuits,sweep,latent,steer,demo]

Plan and study run in one process on one thread; the probe's clock is the processor's here, so that others do not
count. Bound: within a factor of 1.5, either way.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from babelscope import load_corpus, load_model
from babelscope.cli.demo_study import plan_demo, run_demo
from babelscope.evolution import read_plan, run_sweep
from babelscope.evolution.sweep_plan import plan_sweep
from babelscope.studies.circuit_plan import plan_circuits
from babelscope.studies.circuits import CircuitsSettings, study_circuits
from babelscope.studies.latent import study_latent
from babelscope.studies.latent_plan import plan_latent
from babelscope.studies.latent_settings import LatentSettings
from babelscope.studies.plan import StudyPlan
from babelscope.studies.region_plan import plan_regions
from babelscope.studies.regions import RegionsSettings, regions_study, study_regions
from babelscope.studies.steer import study_steering
from babelscope.studies.steer_plan import plan_steering
from babelscope.studies.steer_settings import SteerSettings
from benchmarks._measure import result, tell

MODEL = "pocket:pocket-bloom-m"
CLOCK = time.process_time
Planned = tuple[StudyPlan, Callable[[Path], object]]


class Parts:
    """Processor seconds of the parts that a study reports as its progress, each without those inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.within: list[float] = []

    @contextmanager
    def __call__(self, title: str, _total: int, _unit: str) -> Generator[Callable[[int], None]]:
        start = CLOCK()
        self.within.append(0.0)
        try:
            yield lambda amount: None
        finally:
            took = CLOCK() - start
            inner = self.within.pop()
            if self.within:
                self.within[-1] += took
            self.seconds[title] = self.seconds.get(title, 0.0) + took - inner

    def told(self, whole: float) -> str:
        """One line a part; what reports no progress is the rest."""
        rows = {**self.seconds, "the rest": whole - sum(self.seconds.values())}
        return "\n".join(f"{name:<40}{seconds:>8.1f}" for name, seconds in rows.items())


PARTS = Parts()


def circuits() -> Planned:
    """IOI in two languages, 16 prompts each."""
    model, settings = load_model(MODEL), CircuitsSettings(n=16)
    return plan_circuits(model, settings, clock=CLOCK), lambda out: study_circuits(model, settings, out, progress=PARTS)


def regions() -> Planned:
    """Nine languages, 40 sentences, and what switching off does."""
    model = load_model(MODEL)
    settings = RegionsSettings(
        corpus="pocket:heldout", samples=40, texts="pocket:heldout?seed=1", window=128, joint="eos", text_tokens=512
    )
    corpus = load_corpus(settings.corpus, settings.languages)
    study = regions_study(model, settings, corpus)
    return plan_regions(study, CLOCK), lambda out: study_regions(model, settings, out, corpus=corpus)


def sweep() -> Planned:
    """Three checkpoints of the same, 20 sentences."""
    changes = {
        "models": [{"id": MODEL, "revisions": ["step16", "step256", "main"]}],
        "measures.regions.samples": 20,
    }
    asked = read_plan("pocket-checkpoints", changes)
    return plan_sweep(asked, clock=CLOCK), lambda out: run_sweep(asked, out)


def latent() -> Planned:
    """English to French and to Chinese by the logit lens, 40 concepts."""
    model = load_model(MODEL)
    settings = LatentSettings(
        words="pocket", from_=("en",), to=("fr", "zh"), task="sentence", parallel="pocket:train", n=40
    )
    return plan_latent(model, settings, clock=CLOCK), lambda out: study_latent(model, settings, out)


def steer() -> Planned:
    """English to French, 24 tokens, few prompts and controls."""
    model = load_model(MODEL)
    settings = SteerSettings(
        corpus="pocket:heldout?n=240", pairs=("en:fr",), fixed=True, tokens=24, choose_prompts=8, report_prompts=16,
        controls=5,
    )  # fmt: skip
    return plan_steering(model, settings, clock=CLOCK), lambda out: study_steering(model, settings, out)


def demo() -> Planned:
    """The short demo."""
    return plan_demo(quick=True, clock=CLOCK), lambda out: run_demo(out, quick=True)


STUDIES = {
    "regions": regions, "circuits": circuits, "sweep": sweep, "latent": latent, "steer": steer, "demo": demo
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", default=",".join(STUDIES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    results: list[dict[str, Any]] = []
    for name in arguments.studies.split(","):
        planned, study = STUDIES[name]()
        print(planned.table())
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            study(Path(folder) / "run")
            took = time.process_time() - start
        if PARTS.seconds:
            print(PARTS.told(took))
            PARTS.seconds.clear()
        print(f"{name}: planned {planned.seconds:.1f} s, measured {took:.1f} s", flush=True)
        factor = max(took / planned.seconds, planned.seconds / took)
        results.append(result(f"plan of {name} against measured, either way", factor, 1.5, "lower"))
    tell(results, arguments.json)


if __name__ == "__main__":
    main()
