"""What a study of circuits will cost on this machine, part by part: nothing is run but a probe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from babelscope.models import Model
from babelscope.studies import circuit_costs as costs
from babelscope.studies.circuit_rates import circuit_rates
from babelscope.studies.circuit_settings import CircuitsSettings
from babelscope.studies.circuits import Side
from babelscope.studies.plan import WRITING, Probe, StudyPlan, plan_costs, probe
from babelscope.studies.steps import Cost

ROLES = 6
"""roles that a search names in a language, about"""
SIZES = 14
"""sizes at which faithfulness over heads is taken"""

SHARED = ("patching", "paths", "search", "messages", "experts", "ablation", "faithfulness", "edges")
"""parts whose work is shared out where workers hold the model: all but behaviour, roles and the lens"""


def plan_circuits(
    model: Model,
    settings: CircuitsSettings,
    against: Model | None = None,
    measured: Probe | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> StudyPlan:
    """Passes, tokens and time of each part, from sizes and a probe of a few seconds; nothing is written.

    Raises NoPromptSurvives with the census, and UnsupportedModel, as the study itself would.
    """
    sides = [Side.of(model, settings, settings.languages)]
    if against is not None:
        sides.append(Side.of(against, settings, (settings.against_language or settings.languages[-1],)))
    named: list[tuple[str, Cost]] = []
    for side in sides:
        languages = side.languages(settings)
        for one in languages.values():
            named += [(step.name, step.cost(step.settings)) for step in one.steps]
        sets = len(languages) * (ROLES + 1 + settings.draws)
        windows = side.model.layers * len(settings.windows)
        for code, one in languages.items():
            named.append((f"{code}: ablation", costs.ablated(one.sizes, sets, windows)))
            circuits = 2 * SIZES + len(languages) * (1 + settings.draws)
            named.append((f"{code}: faithfulness over heads", costs.faithful(one.sizes, circuits)))
        if settings.edges and side is sides[0]:
            named += [(f"{code}: edges", costs.edges(one.sizes, len(languages))) for code, one in languages.items()]
    named.append(("run written", Cost(seconds=WRITING)))
    return plan_costs(named, measured or circuits_probe(model, sides[0], settings, clock))


def circuits_probe(
    model: Model, side: Side, settings: CircuitsSettings, clock: Callable[[], float] = time.perf_counter
) -> Probe:
    """The machine's rates with this model, those of the passes of a circuits study among them."""
    pairs = next(iter(side.prompts.values())).main
    return replace(probe(model, clock=clock), rates=circuit_rates(model, pairs, settings.edges, clock=clock))
