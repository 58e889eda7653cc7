"""The second main job, end to end: from a model and a task in some languages to a run directory with its circuits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from babelscope._version import __version__
from babelscope.circuits.core.nodes import Head, check_model
from babelscope.circuits.heads.roles import Roles
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.results import Run, RunWriter, open_run, run_key
from babelscope.studies import circuit_tables as tables
from babelscope.studies.circuit_measures import Measured, Prompts, prompts_of
from babelscope.studies.circuit_roles import ffn_rows, role_rows
from babelscope.studies.circuit_settings import PRESETS, CircuitsSettings, preset
from babelscope.studies.circuit_steps import CircuitsStudy, other_language
from babelscope.studies.progress import Progress, silent
from babelscope.studies.regions import versions
from babelscope.studies.steps import Results, run_steps, store_beside
from babelscope.tasks import task_named

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

    `against`: another model, whose heads (in `against_language`) are matched by role with this one's in the first.
    Finished steps are kept beside `out` until the run is whole, so that a stopped study goes on where it was (`fresh`
    begins anew). Raises NoPromptSurvives with the census, UnsupportedModel, and the errors of the settings, before it
    measures.

    >>> run = study_circuits(model, CircuitsSettings(languages=("en", "zh")), "runs/ioi")       # doctest: +SKIP
    >>> run.summary["shared_heads"]                                                            # doctest: +SKIP
    [[4, 5], [4, 4], [3, 0]]
    """
    study = circuits_study(model, settings, against)
    with RunWriter(out, kind="circuits", overwrite=overwrite) as run:
        store = store_beside(out, fresh)
        results = run_steps(study.steps, study.inputs, store, progress)
        _write(run, study, results)
    if store is not None:
        store.remove()
    return open_run(out)


def circuits_study(model: Model, settings: CircuitsSettings, against: Model | None = None) -> CircuitsStudy:
    """The steps of a study, its prompts drawn; raises what `study_circuits` raises before it measures."""
    check_model(model)
    prompts = {code: prompts_of(model, settings, code) for code in settings.languages}
    other = prompts_of(against, settings, other_language(settings)) if against is not None else None
    return CircuitsStudy(model, settings, prompts, against, other)


def _write(run: RunWriter, study: CircuitsStudy, results: Results) -> None:
    """Everything that the steps left, as arrays, tables and files of the run."""
    model, settings, done = study.model, study.settings, study.measured(results)
    _write_arrays(run, model, done)
    for code, language in done.items():
        content = {"model": model.id, "task": settings.task, "language": code, **language.found.to_json()}
        run.file(f"circuits/{code}.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8"
        )
    asked = [study.promoted, study.ablations, study.faithfulness]
    for step in [*asked, *([study.matching] if study.against is not None else [])]:
        for name, frame in results[step].tables.items():
            run.table(name, frame)
    correlations = _correlations(settings, done)
    crossed = results[study.faithfulness].tables.get("cross_faithfulness", pd.DataFrame()).to_dict("records")
    summary = _write_tables(run, settings, study.prompts, done, correlations, crossed)
    if settings.edges:
        edges = results[study.edges]
        edges.write(run, overlap=correlations)
        run.manifest["edges"] = edges.settings
        summary |= edges.summary
    else:
        _table(run, "overlap", correlations)
    _manifest(run, model, settings, study.prompts, summary, study.against)


def _correlations(settings: CircuitsSettings, done: Mapping[str, Measured]) -> list[dict[str, Any]]:
    matrices = {
        name: {code: getattr(language, part).heads() for code, language in done.items()}
        for name, part in (("path_logits", "path"), ("activation_patching", "activation"))
    }
    return tables.correlation_rows(matrices, settings.permutations, settings.seed)


def _write_arrays(run: RunWriter, model: Model, done: Mapping[str, Measured]) -> None:
    codes = list(done)
    half = ("language", "layer", "head")
    data: dict[str, Any] = {
        "activation_patching": (half, np.stack([done[code].activation.heads() for code in codes])),
        "path_logits": (half, np.stack([done[code].path.heads() for code in codes])),
        "mlp_patching": (("language", "layer"), np.stack([done[code].activation.mlps() for code in codes])),
        "mlp_path_logits": (("language", "layer"), np.stack([done[code].path.mlps() for code in codes])),
        "lens_before": (("language", "layer"), np.stack([done[code].lens.before.mean(1) for code in codes])),
        "lens_after": (("language", "layer"), np.stack([done[code].lens.after.mean(1) for code in codes])),
    }
    intervals = [done[code].path.interval() for code in codes]
    for name, place in (("path_logits_low", 0), ("path_logits_high", 1)):
        data[name] = (half, np.stack([done[c].path.heads(ends[place]) for c, ends in zip(codes, intervals)]))
    for role in _common(done[code].at_roles for code in codes):
        name = role.lower().replace("+", "_")
        data[f"step_patching_at_{name}"] = (half, np.stack([done[code].at_roles[role].heads() for code in codes]))
    blank = np.full((model.layers, model.heads), np.nan)
    for step in dict.fromkeys(found.step.name for code in codes for found in done[code].found.steps):
        effects = [done[code].found[step].effects for code in codes]
        if any(effect is not None for effect in effects):
            data[f"step_{step}"] = (half, np.stack([blank if e is None else e.heads() for e in effects]))
    for corruption in dict.fromkeys(name for code in codes for name in done[code].decomposed):
        effects = [done[code].decomposed.get(corruption) for code in codes]
        name = "step_s_inhibition_" + corruption.replace("-", "_")
        data[name] = (half, np.stack([blank if e is None else e.heads() for e in effects]))
    roles = _common({role: role for role in done[code].roles.readers} for code in codes)
    data["attention_role"] = (
        ("language", "role", "role2", "layer", "head"),
        np.stack([_between(done[code].roles, roles) for code in codes]),
    )
    coords = {
        "language": codes,
        "layer": np.arange(model.layers),
        "head": np.arange(model.heads),
        "role": roles,
        "role2": roles,
    }
    run.arrays(xr.Dataset(data, coords=coords))


def _common(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    every = list(parts)
    return [name for name in every[0] if all(name in part for part in every)] if every else []


def _between(roles: Roles, names: Sequence[str]) -> Array:
    places = [roles.readers.index(name) for name in names]
    return roles.attention[np.ix_(places, places)]


def _write_tables(
    run: RunWriter,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    done: Mapping[str, Measured],
    correlations: Sequence[Mapping[str, Any]],
    crossed: Sequence[Mapping[Any, Any]],
) -> dict[str, Any]:
    everything = {code: list(each.everything.pairs) for code, each in prompts.items()}
    behaved = [
        row for c, language in done.items() for row in tables.behaviour_rows(c, everything[c], language.behaviour)
    ]
    task = task_named(settings.task)
    run.table("behaviour", pd.DataFrame(behaved))
    halves = [row for c, x in done.items() for row in tables.behaviour_rows(c, everything[c], x.behaviour, True)]
    run.table("behaviour_heldout", pd.DataFrame(halves))
    run.table("census", pd.concat([each.everything.census.frame() for each in prompts.values()], ignore_index=True))
    _table(run, "roles", [row for c, x in done.items() for row in role_rows(c, x.found, x.roles, task)])
    _table(run, "ffn", [row for c, x in done.items() for row in ffn_rows(c, x.found)])
    _table(run, "role_scores", [row for c, x in done.items() for row in _score_rows(c, x.roles)])
    heads = {code: list(language.found.heads) for code, language in done.items()}
    return {
        "accuracy": {code: _of_stratum(behaved, code, prompts[code].stratum, "accuracy") for code in done},
        "logit_difference": {
            code: _of_stratum(behaved, code, prompts[code].stratum, "logit_difference") for code in done
        },
        "patched_stratum": {code: each.stratum for code, each in prompts.items()},
        "heads": {code: [[node.layer, node.head] for node in chosen] for code, chosen in heads.items()},
        "shared_heads": [[n.layer, n.head] for n in _shared(heads)],
        "correlation": _nested(row for row in correlations if row["measure"] == "pearson of path_logits"),
        "cross_faithfulness": {
            code: {row["run_on"]: row["faithfulness"] for row in crossed if row["found_in"] == code} for code in done
        },
    }


def _score_rows(code: str, roles: Roles) -> list[dict[str, Any]]:
    layers, heads = next(iter(roles.scores.values())).shape
    return [
        {"language": code, "layer": layer, "head": head, **{n: float(m[layer, head]) for n, m in roles.scores.items()}}
        for layer in range(layers)
        for head in range(heads)
    ]


def _table(run: RunWriter, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        run.table(name, pd.DataFrame(list(rows)))


def _of_stratum(rows: Sequence[Mapping[str, Any]], code: str, stratum: str, column: str) -> float:
    """The number of the stratum that is patched: others have their own rows, and are never averaged with it."""
    own = [row for row in rows if row["language"] == code and row["stratum"] == stratum]
    return float(own[0][column])


def _shared(heads: Mapping[str, Sequence[Head]]) -> list[Head]:
    chosen = list(heads.values())
    return [node for node in chosen[0] if all(node in others for others in chosen[1:])] if chosen else []


def _nested(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for row in rows:
        nested.setdefault(str(row["language"]), {})[str(row["language2"])] = float(row["value"])
    return nested


def _manifest(
    run: RunWriter,
    model: Model,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    summary: dict[str, Any],
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
        "weights": model.weight_hash,
        "against": against.weight_hash if against else None,
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
        task=settings.task,
        languages=list(settings.languages),
        corruption=settings.corruption or next(iter(next(iter(prompts.values())).patched)),
        corpus={"spec": settings.task, "hash": run_key(ids), "languages": list(settings.languages), "items": used},
        seeds={"prompts": settings.seed, "bootstrap": settings.seed, "random_sets": settings.seed},
        versions=versions(),
        key=run_key(decided),
        summary={"model": model.id, **summary},
    )
