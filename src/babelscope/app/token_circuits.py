"""A circuit over the tokens of a prompt: each of its heads, its role, and the tokens that it reads there.

T position · H head
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.app.heads import Answer, patterns, role_places
from babelscope.app.session import Session
from babelscope.app.work import Work
from babelscope.figures.facts import own_rows
from babelscope.results.schemas.circuits import Role
from babelscope.tasks import TASKS
from babelscope.wording import decimals

STRONGEST = 8
"""heads that are shown where no circuit of a run is open"""


@dataclass(frozen=True)
class Reader:
    """One head, and where it looks from the place where it acts."""

    layer: int
    head: int
    what: str
    """its role and effect in the run's circuit, or what it adds to the difference"""
    place: int
    """the token that it reads from"""
    attention: tuple[float, ...]
    """to each token, in percent; NaN behind the place"""


@dataclass(frozen=True)
class TokenCircuit:
    """The heads of a circuit over a prompt."""

    words: tuple[str, ...]
    roles: tuple[str, ...]
    """of each token in the task's prompt; empty where it has none, and for a typed prompt"""
    readers: tuple[Reader, ...]
    source: str


def over_tokens(session: Session, prompt: str, language: str, found: Answer, work: Work) -> TokenCircuit:
    """The run's circuit in a language over a prompt, or, without one, the heads that add most to the difference.

    A head is read at the place where its step of the search acts (S2, the end), where the prompt is one of the task's
    and the roles of its tokens are known; else at the end.
    """
    words, maps = patterns(session, prompt, work)
    places = role_places(session, prompt)
    end = len(words) - 1
    heads, source = _of_run(session, language)
    if not heads:
        order = found.heads.abs().flatten().argsort(descending=True)[:STRONGEST].tolist()
        width = found.heads.shape[1]
        heads = [
            (at // width, at % width, f"adds {decimals(float(found.heads.flatten()[at]))}", "END")
            for at in order
            if not math.isnan(float(found.heads.flatten()[at]))
        ]
        source = "the heads that add most to the difference by themselves; no circuit of a run is open"
    readers = [
        Reader(layer, head, what, place, _row(maps[layer][0, head], place))
        for layer, head, what, at in heads
        if layer in maps and (place := places.get(at, end)) <= end
    ]
    named = [" ".join(role for role, place in places.items() if place == at) for at in range(len(words))]
    return TokenCircuit(words, tuple(named), tuple(readers), source)


def _row(weights: Float[Tensor, "T T"], place: int) -> tuple[float, ...]:
    row = 100 * weights[place].float()
    row[place + 1 :] = torch.nan
    return tuple(row.tolist())


def _of_run(session: Session, language: str) -> tuple[list[tuple[int, int, str, str]], str]:
    """Heads of the open run's circuit: layer, head, role with effect, and the role of the token where each acts."""
    run = session.run
    if run is None or run.kind != "circuits" or "roles" not in run.tables:
        return [], ""
    rows = [row for row in own_rows(run, Role) if row.language == language]
    task = TASKS.get(str((run.manifest.get("asked") or {}).get("task")))
    at = {step.name: step.at or "END" for step in (task.steps if task else ())}
    heads = [
        (row.layer, row.head, f"{row.role}, effect {decimals(row.effect)}{_ends(row)}", at.get(row.step, "END"))
        for row in rows
    ]
    return heads, f"the circuit of the run {run.source} in {language}, found by patching"


def _ends(row: Role) -> str:
    return "" if math.isnan(row.effect_low) else f" ({decimals(row.effect_low)} to {decimals(row.effect_high)})"
