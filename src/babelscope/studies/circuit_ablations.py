"""The part of a circuits study that takes out what was found: each role's heads, the circuit, random sets, FFNs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.ablation import matched_random, windows
from babelscope.circuits.heads.labels import CANDIDATE
from babelscope.models import Model
from babelscope.models.workers import Tell, over_workers
from babelscope.results.rows import rows_frame, write_rows
from babelscope.results.schemas.circuits import Ablation, Selective
from babelscope.studies import circuit_tables as tables
from babelscope.studies.circuit_measures import Measured
from babelscope.studies.circuit_roles import ALSO, role_rows
from babelscope.studies.circuit_settings import CircuitsSettings
from babelscope.studies.circuit_tables import AblationSet
from babelscope.studies.progress import Progress
from babelscope.studies.steps import TableSink
from babelscope.tasks import PromptPair, task_named

Array = NDArray[np.float64]


def write_ablations(
    run: TableSink,
    model: Model,
    settings: CircuitsSettings,
    everything: Mapping[str, list[PromptPair]],
    done: Mapping[str, Measured],
    progress: Progress,
) -> None:
    """Tables `ablation`, `ffn_windows` and `selectivity`: every set of heads and FFNs taken out, in every language."""
    sets = _ablation_sets(model, settings, done)
    scores: dict[str, Array] = {}
    rows: list[Ablation] = []
    with progress("ablation", len(everything) * len(sets), "sets") as step:
        asked, units = (sets, settings.ablation, settings.seed), list(everything.items())
        for code, (found, own) in zip(everything, over_workers(model, _taken_out, asked, units, step)):
            rows += found
            scores[code] = own
    for name, wide in ((Ablation.TABLE, False), ("ffn_windows", True)):
        chosen = [row for row in rows if row.set_.startswith("ffn window") == wide]
        if chosen:
            run.table(name, rows_frame(Ablation, chosen))
    selective = tables.selectivity_rows(sets, scores, everything, settings.seed)
    if selective:
        write_rows(run, Selective, selective)


def _taken_out(
    model: Model, asked: tuple[Sequence[AblationSet], str, int]
) -> Callable[[tuple[str, list[PromptPair]], Tell], tuple[list[Ablation], Array]]:
    """Work of `over_workers`: every set taken out in one language."""

    def rows(unit: tuple[str, list[PromptPair]], tell: Tell) -> tuple[list[Ablation], Array]:
        (code, pairs), (sets, kind, seed) = unit, asked
        found = tables.ablation_rows(model, code, pairs, sets, kind, seed)
        tell(len(sets))
        return found

    return rows


def _ablation_sets(model: Model, settings: CircuitsSettings, done: Mapping[str, Measured]) -> list[AblationSet]:
    """Each step's heads and the whole circuit of each language, random sets like it, FFNs and windows of them."""
    sets: list[AblationSet] = []
    task = task_named(settings.task)
    dissociated = {label.role for label in task.dissociation.labels} if task.dissociation else set[str]()
    for code, language in done.items():
        suffix = f" ({code})" if len(done) > 1 else ""
        named: dict[str, list[Head]] = {}
        for row in role_rows(code, language.found, language.roles, task):
            if row.role != ALSO:
                named.setdefault(row.role, []).append(Head(row.layer, row.head))
        for role, heads in named.items():
            chosen = tuple(dict.fromkeys(heads))
            sets.append(AblationSet(f"{role}{suffix}", chosen, code))
            # section 6: each of these sets beside random heads of its own layers
            if role.removeprefix(CANDIDATE) in dissociated:
                like = matched_random(model, chosen, settings.draws, settings.seed)
                sets += [AblationSet(f"random like {role}{suffix}", tuple(n), code, d) for d, n in enumerate(like)]
        circuit = language.found.heads
        if circuit:
            sets.append(AblationSet(f"circuit{suffix}", circuit, code))
            draws = matched_random(model, circuit, settings.draws, settings.seed)
            sets += [AblationSet(f"random{suffix}", tuple(nodes), code, draw) for draw, nodes in enumerate(draws)]
    for width in settings.windows:
        for centre, nodes in enumerate(windows(model, width)):
            name = f"ffn {centre}" if width == 1 else f"ffn window of {width} at {centre}"
            sets.append(AblationSet(name, tuple(nodes)))
    return sets
