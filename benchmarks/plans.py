"""What a plan says against what the study then takes, on the built-in models: processor time, planned and measured.

    python -m benchmarks.plans [--json FILE] [--studies circuits,regions]

Plan and study run in one process on one thread; the probe's clock is the processor's here, so that others do not
count. Bound: within a factor of 1.5, either way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from babelscope import load_corpus, load_model
from babelscope.studies.circuit_plan import plan_circuits
from babelscope.studies.circuits import CircuitsSettings, study_circuits
from babelscope.studies.plan import StudyPlan, plan_steps, probe
from babelscope.studies.regions import RegionsSettings, regions_study, study_regions
from benchmarks._measure import result, tell

MODEL = "pocket:pocket-bloom-m"


def circuits() -> tuple[StudyPlan, Callable[[Path], object]]:
    """IOI in two languages, 16 prompts each."""
    model, settings = load_model(MODEL), CircuitsSettings(n=16)
    planned = plan_circuits(model, settings, measured=probe(model, clock=time.process_time))
    return planned, lambda out: study_circuits(model, settings, out)


def regions() -> tuple[StudyPlan, Callable[[Path], object]]:
    """Nine languages, 40 sentences, and what switching off does."""
    model = load_model(MODEL)
    settings = RegionsSettings(
        corpus="pocket:heldout", samples=40, texts="pocket:heldout?seed=1", window=128, joint="eos", text_tokens=512
    )
    corpus = load_corpus(settings.corpus, settings.languages)
    steps = regions_study(model, settings, corpus).steps
    planned = plan_steps(steps, probe(model, clock=time.process_time))
    return planned, lambda out: study_regions(model, settings, out, corpus=corpus)


STUDIES = {"circuits": circuits, "regions": regions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", default=",".join(STUDIES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    for name in arguments.studies.split(","):
        planned, study = STUDIES[name]()
        print(planned.table())
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            study(Path(folder) / "run")
            took = time.process_time() - start
        print(f"{name}: planned {planned.seconds:.1f} s, measured {took:.1f} s", flush=True)
        factor = max(took / planned.seconds, planned.seconds / took)
        results.append(result(f"plan of {name} against measured, either way", factor, 1.5, "lower"))
    tell(results, arguments.json)


if __name__ == "__main__":
    main()
