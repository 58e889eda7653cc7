"""What the screens of a circuits study kept and may have missed: one row a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import Sender
from babelscope.circuits.patching.screen import Missed, missed
from babelscope.results.schemas.circuits import Screened
from babelscope.studies.circuit_measures import Measured


def screen_rows(done: Mapping[str, Measured], sigmas: float) -> list[Screened]:
    """Heads that were screened, kept, sampled and passed in each sweep, and how many more there may be (95 %).

    In the search a head passes when it is selected, in a map of effects when it reaches `sigmas` deviations over all
    heads. No rows where every head was patched.
    """
    return [_row(code, sweep, found) for code, one in done.items() for sweep, found in _of_language(one, sigmas)]


def _of_language(one: Measured, sigmas: float) -> Iterator[tuple[str, Missed]]:
    maps = {"activation patching": one.activation}
    maps |= {f"activation patching at {role}": effects for role, effects in one.at_roles.items()}
    maps |= {f"messages, {corruption}": effects for corruption, effects in one.decomposed.items()}
    for sweep, effects in maps.items():
        found = missed(effects, _strong(effects, sigmas))
        if found is not None:
            yield sweep, found
    for step in one.found.steps:
        if step.missed is not None:
            yield f"search: {step.step.name.replace('_', ' ')}", step.missed


def _strong(effects: Effects, sigmas: float) -> set[Sender]:
    strength, least = np.abs(effects.effect), sigmas * effects.deviation
    return {node for node, value in zip(effects.senders, strength) if value >= least and value > 0}


def _row(code: str, sweep: str, found: Missed) -> Screened:
    return Screened(
        language=code, sweep=sweep, heads=found.heads, kept=found.kept, sampled=found.sampled, passed=found.passed,
        sampled_passed=found.sampled_passed, left=found.heads - found.kept - found.sampled,
        missed_at_most=found.at_most,
    )  # fmt: skip
