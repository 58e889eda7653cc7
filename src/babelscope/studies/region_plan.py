"""What a study of regions will cost: the machine's rates with its model, and of text that is scored under an edit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from babelscope.models.batches import token_budget
from babelscope.regions.deactivation import deactivate
from babelscope.regions.perplexity import score
from babelscope.studies.plan import WRITING, Probe, StudyPlan, plan_costs, probe, rate_of
from babelscope.studies.region_steps import UNDER_EDIT, RegionsStudy
from babelscope.studies.steps import Cost

SHARED = ("recording", "deactivation table", "writing")
"""steps whose work is shared out where workers hold the model"""


def plan_regions(study: RegionsStudy, clock: Callable[[], float] = time.perf_counter) -> StudyPlan:
    """Time, passes and tokens of each step; nothing is written."""
    named = [(step.name, step.cost(step.settings)) for step in study.steps]
    return plan_costs([*named, ("run written", Cost(seconds=WRITING))], regions_probe(study, clock))


def regions_probe(study: RegionsStudy, clock: Callable[[], float] = time.perf_counter) -> Probe:
    """The rates of this machine with the study's model."""
    model = study.model
    measured = probe(model, clock=clock)
    if not study.windows or model.no_neurons:
        return measured
    text = next(iter(study.windows.values()))
    most = min(len(text.ids), max(1, token_budget(model.device) // text.ids.shape[1]))
    flat = torch.zeros(model.neurons, dtype=torch.bool)
    flat[:: max(1, model.neurons // 100)] = True
    mask = model.layout.by_layer(flat, False)

    def scored(rows: int) -> int:
        some = replace(text, ids=text.ids[:rows], document=text.document[:rows])
        with deactivate(model, mask):
            score(model, some)
        return some.ids.numel()

    return replace(measured, rates={UNDER_EDIT: rate_of(scored, (1, most), model, clock=clock)})
