"""The second main job, end to end: from a model and a task in some languages to a run directory with its circuits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from babelscope._version import __version__
from babelscope.circuits.comparison.head_matching import match_heads, random_twin, shuffled
from babelscope.circuits.core.ablation import prompts_alone
from babelscope.circuits.core.nodes import Head, check_model
from babelscope.circuits.heads.roles import role_scores
from babelscope.circuits.patching.kept_runs import keeping_runs
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.models.workers import Tell, over_workers
from babelscope.results import Run, RunWriter, open_run, run_key
from babelscope.results.manifest import versions
from babelscope.results.rows import R, rows_frame, write_rows
from babelscope.results.schemas.circuit_edges import Correlated
from babelscope.results.schemas.circuits import (
    Behaved,
    Behaviour,
    CrossFaithfulness,
    ExampleToken,
    ExpertEffect,
    FoundFFN,
    HeadFaithfulness,
    HeldoutBehaviour,
    MatchedHeads,
    Promoted,
    Role,
    RoleScores,
    Screened,
)
from babelscope.results.step_store import StepStore
from babelscope.studies import circuit_tables as tables
from babelscope.studies.circuit_ablations import write_ablations
from babelscope.studies.circuit_arrays import head_arrays
from babelscope.studies.circuit_edges import Edges, EdgeSettings, control_prompts, find_edges
from babelscope.studies.circuit_examples import example_rows
from babelscope.studies.circuit_experts import check_experts, expert_rows
from babelscope.studies.circuit_measures import (
    Measured,
    Prompts,
    check_repeats,
    name_beside,
    options_of,
    prompts_of,
    repeated,
)
from babelscope.studies.circuit_roles import ALSO, ffn_rows, role_rows, score_rows
from babelscope.studies.circuit_screen import screen_rows
from babelscope.studies.circuit_settings import PRESETS, CircuitsSettings, Prompted, preset
from babelscope.studies.circuit_steps import LanguageSteps, screen_facts
from babelscope.studies.progress import Progress, silent
from babelscope.studies.steps import KeptSteps, run_steps
from babelscope.tasks import PromptPair, task_named

__all__ = ["PRESETS", "CircuitsSettings", "preset", "study_circuits"]

Array = NDArray[np.float64]


def study_circuits(
    model: Model,
    settings: CircuitsSettings,
    out: str | Path,
    overwrite: bool = False,
    against: Model | None = None,
    progress: Progress = silent,
    fresh: bool = False,
) -> Run:
    """Behaviour, patching, search, roles, ablations in every language; writes a run directory and opens it.

    `against`: another model, studied in full in `against_language`: both are in the same tables (column `model`), and
    its heads are matched by role with this one's in the first language.
    Finished steps are kept beside `out` until the run is whole, so that a stopped study goes on where it was (`fresh`
    begins anew). Raises NoPromptSurvives with the census, UnsupportedModel, and the errors of the settings, before it
    measures.

    >>> run = study_circuits(model, CircuitsSettings(languages=("en", "zh")), "runs/ioi")       # doctest: +SKIP
    >>> run.summary["shared_heads"]                                                            # doctest: +SKIP
    [[4, 5], [4, 4], [3, 0]]
    """
    sides = [Side.of(model, settings, settings.languages)]
    if against is not None:
        second = Side.of(against, settings, (settings.against_language or settings.languages[-1],))
        sides.append(replace(second, name=name_beside(model, against)))
    tables: dict[str, list[pd.DataFrame]] = {}
    with (
        KeptSteps(out, "fresh" if fresh else "resume") as beside,
        RunWriter(out, kind="circuits", overwrite=overwrite) as run,
    ):
        store = beside.open()
        for side in sides:
            side.measure(settings, store, progress)
            for code, language in side.done.items():
                content = {"model": side.name, "task": settings.task, "language": code, **language.found.to_json()}
                run.file(f"circuits/{_file(side, code, sides)}.json").write_text(
                    json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8"
                )
        first = sides[0]
        run.arrays(head_arrays(first.model, first.done))
        summaries: list[dict[str, object]] = []
        for side in sides:
            writer = _Collected(tables, side.name)
            summaries.append(_write_tables(writer, side.model, settings, side.prompts, side.done, progress))
        for place, side in enumerate(sides if settings.edges else ()):
            found = _edges(side, settings, progress)
            names = {code: _file(side, code, sides) for code in side.done}
            found.write(run, _Collected(tables, side.name).table, names, arrays=side is first)
            summaries[place] |= found.summary
            run.manifest["edges"] = found.settings
        summary = summaries[0]
        if len(sides) > 1:
            summary["against"] = {"model": sides[1].name, **summaries[1]}
            matched = _matching(settings, first, sides[1])
            tables[MatchedHeads.TABLE] = [rows_frame(MatchedHeads, matched)]
        for name, frames in tables.items():
            run.table(name, pd.concat(frames, ignore_index=True))
        _manifest(run, first.model, settings, first.prompts, summary, against)
    return open_run(out)


@dataclass
class Side:
    """One model of a study, with its languages: what was asked, and what was measured."""

    model: Model
    prompts: dict[str, Prompts]
    name: str
    """of the model, in tables"""
    done: dict[str, Measured] = field(default_factory=dict[str, Measured])

    @classmethod
    def of(cls, model: Model, settings: CircuitsSettings, languages: Sequence[str]) -> Side:
        """The prompts of each language; raises UnsupportedModel, and NoPromptSurvives with the census."""
        check_model(model)
        check_repeats(model, settings)
        check_experts(model, settings)
        return cls(model, {code: prompts_of(model, settings, code) for code in languages}, model.id)

    def languages(self, settings: CircuitsSettings) -> dict[str, LanguageSteps]:
        """The steps of each language."""
        return {code: LanguageSteps(self.model, settings, code, own) for code, own in self.prompts.items()}

    def measure(self, settings: CircuitsSettings, store: StepStore | None, progress: Progress) -> None:
        """Behaviour, patching, search and roles in every language, each a step that is kept until the run is whole."""
        inputs = {
            "model": self.model.function_hash,
            "tokenizer": self.model.tokenizer_hash,
            "dtype": str(self.model.dtype),
            "device": str(self.model.device),
            "asked": run_key({**asdict(settings.part(Prompted)), "languages": None}),
        }
        for code, one in self.languages(settings).items():
            with keeping_runs(self.model):
                self.done[code] = one.measured(run_steps(one.steps, inputs, store, progress))


@dataclass
class _Collected:
    """Tables of several models, under the names that a run's tables have, each row with its model."""

    tables: dict[str, list[pd.DataFrame]]
    model: str

    def table(self, name: str, frame: pd.DataFrame) -> None:
        self.tables.setdefault(name, []).append(frame.assign(model=self.model))


def _file(side: Side, code: str, sides: Sequence[Side]) -> str:
    """Name of a language's circuit: the second model's own where both models have the language."""
    return f"{code}-against" if side is not sides[0] and code in sides[0].done else code


def _write_tables(
    run: _Collected,
    model: Model,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    done: Mapping[str, Measured],
    progress: Progress,
) -> dict[str, object]:
    everything = {code: list(each.everything.pairs) for code, each in prompts.items()}
    behaved = [row for c, x in done.items() for row in tables.behaviour_rows(c, everything[c], x.behaviour)]
    task = task_named(settings.task)
    write_rows(run, Behaviour, behaved)
    halves = [row for c, x in done.items() for row in tables.heldout_rows(c, everything[c], x.behaviour)]
    write_rows(run, HeldoutBehaviour, halves)
    run.table("census", pd.concat([each.everything.census.frame() for each in prompts.values()], ignore_index=True))
    _table(run, Screened, screen_rows(done, settings.sigmas))
    experts = {code: one.experts for code, one in done.items() if one.experts is not None}
    if experts:
        strongest = sorted(expert_rows(experts, settings), key=lambda row: -abs(row.effect))
        write_rows(run, ExpertEffect, strongest)
    _table(run, Role, [row for c, x in done.items() for row in role_rows(c, x.found, x.roles, task)])
    _table(run, FoundFFN, [row for c, x in done.items() for row in ffn_rows(c, x.found)])
    scores = [row for c, x in done.items() for row in score_rows(c, x.roles)]
    if scores:
        run.table(RoleScores.TABLE, pd.DataFrame(scores))
    heads = {code: list(language.found.heads) for code, language in done.items()}
    promoted = [
        row for code in done for row in tables.promoted_rows(model, code, prompts[code].main, heads[code], settings.top)
    ]
    _table(run, Promoted, promoted)
    _table(run, ExampleToken, [row for code in done for row in example_rows(model, code, list(prompts[code].main))])
    write_ablations(run, model, settings, everything, done, progress)
    correlations = _correlations(settings, done)
    if not settings.edges:
        _table(run, Correlated, correlations)
    crossed = _write_faithfulness(run, model, settings, prompts, done, heads, progress)
    # the stratum that is patched: others have their own rows, and are never averaged with it
    patched: dict[str, Behaved] = {}
    for row in behaved:
        if row.stratum == prompts[row.language].stratum:
            patched.setdefault(row.language, row.seen)
    return {
        "accuracy": {code: each.accuracy for code, each in patched.items()},
        "logit_difference": {code: each.logit_difference for code, each in patched.items()},
        "patched_stratum": {code: each.stratum for code, each in prompts.items()},
        "heads": {code: [[node.layer, node.head] for node in chosen] for code, chosen in heads.items()},
        "shared_heads": [[n.layer, n.head] for n in _shared(heads)],
        "correlation": _nested(row for row in correlations if row.measure == "pearson of path_logits"),
        "cross_faithfulness": {
            code: {row.run_on: row.faithfulness for row in crossed if row.found_in == code} for code in done
        },
    }


def _correlations(settings: CircuitsSettings, done: Mapping[str, Measured]) -> list[Correlated]:
    matrices = {
        name: {code: getattr(language, part).heads() for code, language in done.items()}
        for name, part in (("path_logits", "path"), ("activation_patching", "activation"))
    }
    return tables.correlation_rows(matrices, settings.permutations, settings.seed)


def _edges(side: Side, settings: CircuitsSettings, progress: Progress) -> Edges:
    """The second half: routes, edges, and circuits as masks, compared across the languages of one model."""
    model, done = side.model, side.done
    chosen = EdgeSettings(
        share=settings.edge_share,
        permutations=settings.permutations,
        seed=settings.seed,
        counted=settings.counted,
        construction=settings.construction,
        half=settings.half,
        slopes=settings.slopes,
    )
    options = replace(options_of(settings), n=max(2, settings.n // 2))
    controls = control_prompts(model, settings.task, list(done), options)
    roles: dict[str, dict[str, str]] = {}
    for code, language in done.items():
        for row in role_rows(code, language.found, language.roles, task_named(settings.task)):
            if row.role != ALSO:
                roles.setdefault(code, {}).setdefault(f"{row.layer}.{row.head}", row.role)
    return find_edges(
        model,
        {code: each.main for code, each in side.prompts.items()},
        chosen,
        {code: language.activation.heads() for code, language in done.items()},
        roles,
        controls,
        progress,
    )


def _write_faithfulness(
    run: _Collected,
    model: Model,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    done: Mapping[str, Measured],
    heads: Mapping[str, list[Head]],
    progress: Progress,
) -> list[CrossFaithfulness]:
    curves: list[HeadFaithfulness] = []
    main = {code: each.main for code, each in prompts.items()}
    with progress("faithfulness", 2 * len(done), "languages") as step:
        units = [(code, main[code], language.found.ranking()) for code, language in done.items()]
        for rows in over_workers(model, _growing, (settings.ablation, settings.seed), units, step):
            curves += rows
        crossed = tables.cross_rows(model, main, heads, settings.draws, settings.ablation, settings.seed)
        step(len(done))
    _table(run, HeadFaithfulness, curves)
    _table(run, CrossFaithfulness, crossed)
    return crossed


def _growing(
    model: Model, asked: tuple[str, int]
) -> Callable[[tuple[str, list[PromptPair], list[Head]], Tell], list[HeadFaithfulness]]:
    """Work of `over_workers`: more and more heads of one language's ranking."""

    def rows(unit: tuple[str, list[PromptPair], list[Head]], tell: Tell) -> list[HeadFaithfulness]:
        found = tables.faithfulness_rows(model, *unit, *asked)
        tell(1)
        return found

    return rows


def _matching(settings: CircuitsSettings, first: Side, second: Side) -> list[MatchedHeads]:
    """Heads of two models paired by role scores, against shuffled scores or models with random weights."""
    (code, theirs), own = next(iter(second.done.items())), first.done[settings.languages[0]]
    if settings.matching == "shuffle":
        generator = np.random.default_rng(settings.seed)
        null = [shuffled(theirs.roles, generator) for _ in range(settings.twins)]
    else:
        twice, prefix = repeated(second.model, settings, code)
        copied = task_named(settings.task).copied_roles
        null = [
            role_scores(
                random_twin(second.model, seed), second.prompts[code].main, twice, prefix, settings.seed, copied
            )
            for seed in range(settings.twins)
        ]
    found = match_heads(own.roles, theirs.roles, null)
    return [
        MatchedHeads(
            model=first.name, layer=a.layer, head=a.head, model2=second.name, layer2=b.layer, head2=b.head,
            distance=float(found.distance[place]), null_distance=float(found.null[place]),
            p=float(found.pair_p[place]), matching_p=found.p, null=settings.matching,
        )
        for place, (a, b) in enumerate(found.pairs)
    ]  # fmt: skip


def _table(run: _Collected, schema: type[R], rows: Sequence[R]) -> None:
    if rows:
        write_rows(run, schema, rows)


def _shared(heads: Mapping[str, Sequence[Head]]) -> list[Head]:
    chosen = list(heads.values())
    return [node for node in chosen[0] if all(node in others for others in chosen[1:])] if chosen else []


def _verbs(pairs: Sequence[PromptPair]) -> set[int]:
    return {pair.scene["verb"] for pair in pairs if "verb" in pair.scene}


def _nested(rows: Iterable[Correlated]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for row in rows:
        nested.setdefault(row.language, {})[row.language2] = row.value
    return nested


def _manifest(
    run: RunWriter,
    model: Model,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    summary: dict[str, object],
    against: Model | None,
) -> None:
    facts = model.facts()
    asked = {**asdict(settings), "stratum": dict(settings.stratum), "against": against.id if against else None}
    used = {code: {c: [pair.item for pair in pairs] for c, pairs in p.patched.items()} for code, p in prompts.items()}
    ids = {
        c: [[pair.clean, pair.corrupted, pair.target, pair.foil] for pair in p.everything] for c, p in prompts.items()
    }
    decided = {
        "settings": asked,
        "model": model.function_hash,
        "against": against.function_hash if against else None,
        "tokenizer": model.tokenizer_hash,
        "prompts": run_key(ids),
        "dtype": facts["dtype"],
        "version": __version__,
    }
    run.manifest.update(
        babelscope=__version__,
        asked=asked,
        defaults={"token_budget": token_budget(model.device), "patched_stratum": summary["patched_stratum"]},
        model=facts,
        tokenizer_hash=model.tokenizer_hash,
        screen=screen_facts(model, settings),
        alone={code: prompts_alone(each.main) for code, each in prompts.items()} if settings.ablation == "mean" else {},
        verbs={code: len(named) for code, each in prompts.items() if (named := _verbs(each.main))},
        task=settings.task,
        languages=list(settings.languages),
        corruption=settings.corruption or next(iter(next(iter(prompts.values())).patched)),
        corpus={"spec": settings.task, "hash": run_key(ids), "languages": list(settings.languages), "items": used},
        seeds={"prompts": settings.seed, "bootstrap": settings.seed, "random_sets": settings.seed},
        versions=versions(),
        key=run_key(decided),
        summary={"model": model.id, **summary},
    )
