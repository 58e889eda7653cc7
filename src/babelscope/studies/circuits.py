"""The second main job, end to end: from a model and a task in some languages to a run directory with its circuits."""

from __future__ import annotations

import json
import shutil
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
from babelscope.circuits.heads.ablation import matched_random, windows
from babelscope.circuits.heads.roles import Roles, match_heads, random_twin, role_scores
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.results import Run, RunWriter, open_run, run_key
from babelscope.studies import circuit_tables as tables
from babelscope.studies.circuit_edges import EdgeSettings, control_prompts, find_edges
from babelscope.studies.circuit_measures import Measured, Prompts, measure, prompts_of, repeated
from babelscope.studies.circuit_roles import ALSO, CANDIDATE, ffn_rows, role_rows
from babelscope.studies.circuit_settings import PRESETS, CircuitsSettings, preset
from babelscope.studies.circuit_tables import AblationSet
from babelscope.studies.progress import Progress, silent
from babelscope.studies.regions import versions
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
) -> Run:
    """Behaviour, patching, search, roles, ablations in every language; writes a run directory and opens it.

    `against`: another model, whose heads (in `against_language`) are matched by role with this one's in the first.
    Finished steps of the search are kept beside `out` until the run is whole, so that a stopped study goes on where it
    was. Raises NoPromptSurvives with the census, UnsupportedModel, and the errors of the settings, before it measures.

    >>> run = study_circuits(model, CircuitsSettings(languages=("en", "zh")), "runs/ioi")       # doctest: +SKIP
    >>> run.summary["shared_heads"]                                                            # doctest: +SKIP
    [[4, 5], [4, 4], [3, 0]]
    """
    check_model(model)
    prompts = {code: prompts_of(model, settings, code) for code in settings.languages}
    other = prompts_of(against, settings, _other_language(settings)) if against is not None else None
    kept = Path(out).with_name(f".{Path(out).name}.steps") if "://" not in str(out) else None
    with RunWriter(out, kind="circuits", overwrite=overwrite) as run:
        done = {code: measure(model, settings, prompts[code], code, kept, progress) for code in prompts}
        _write_arrays(run, model, done)
        for code, language in done.items():
            content = {"model": model.id, "task": settings.task, "language": code, **language.found.to_json()}
            run.file(f"circuits/{code}.json").write_text(
                json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8"
            )
        summary = _write_tables(run, model, settings, prompts, done, progress)
        summary |= _write_edges(run, model, settings, prompts, done, progress)
        if against is not None and other is not None:
            _write_matching(run, settings, done[settings.languages[0]].roles, against, other)
        _manifest(run, model, settings, prompts, summary, against)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    return open_run(out)


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
    model: Model,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    done: Mapping[str, Measured],
    progress: Progress,
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
    promoted = [
        row for code in done for row in tables.promoted_rows(model, code, prompts[code].main, heads[code], settings.top)
    ]
    _table(run, "promoted", promoted)
    _write_ablations(run, model, settings, everything, done, progress)
    correlations = _correlations(settings, done)
    if not settings.edges:
        _table(run, "overlap", correlations)
    crossed = _write_faithfulness(run, model, settings, prompts, done, heads, progress)
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


def _correlations(settings: CircuitsSettings, done: Mapping[str, Measured]) -> list[dict[str, Any]]:
    matrices = {
        name: {code: getattr(language, part).heads() for code, language in done.items()}
        for name, part in (("path_logits", "path"), ("activation_patching", "activation"))
    }
    return tables.correlation_rows(matrices, settings.permutations, settings.seed)


def _write_edges(
    run: RunWriter,
    model: Model,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    done: Mapping[str, Measured],
    progress: Progress,
) -> dict[str, Any]:
    """The second half: routes, edges, and circuits as masks, compared across languages."""
    if not settings.edges:
        return {}
    chosen = EdgeSettings(share=settings.edge_share, permutations=settings.permutations, seed=settings.seed)
    controls = control_prompts(
        model, settings.task, list(done), max(2, settings.n // 2), seed=settings.seed, split=settings.split
    )
    roles: dict[str, dict[str, str]] = {}
    for code, language in done.items():
        for row in role_rows(code, language.found, language.roles, task_named(settings.task)):
            if row["role"] != ALSO:
                roles.setdefault(code, {}).setdefault(f"{row['layer']}.{row['head']}", str(row["role"]))
    found = find_edges(
        model,
        {code: each.main for code, each in prompts.items()},
        chosen,
        {code: language.activation.heads() for code, language in done.items()},
        roles,
        controls,
        progress,
    )
    found.write(run, overlap=_correlations(settings, done))
    run.manifest["edges"] = found.settings
    return found.summary


def _write_ablations(
    run: RunWriter,
    model: Model,
    settings: CircuitsSettings,
    everything: Mapping[str, list[PromptPair]],
    done: Mapping[str, Measured],
    progress: Progress,
) -> None:
    sets = _ablation_sets(model, settings, done)
    scores: dict[str, Array] = {}
    rows: list[dict[str, Any]] = []
    with progress("ablation", len(everything) * len(sets), "sets") as step:
        for code, pairs in everything.items():
            found, scores[code] = tables.ablation_rows(model, code, pairs, sets, settings.ablation, settings.seed)
            rows += found
            step(len(sets))
    frame = pd.DataFrame(rows)
    wide = frame["set"].str.startswith("ffn window")
    for name, chosen in (("ablation", ~wide), ("ffn_windows", wide)):
        if chosen.any():
            run.table(name, frame.loc[chosen].reset_index(drop=True))
    _table(run, "selectivity", tables.selectivity_rows(sets, scores, everything, settings.seed))


def _ablation_sets(model: Model, settings: CircuitsSettings, done: Mapping[str, Measured]) -> list[AblationSet]:
    """Each step's heads and the whole circuit of each language, random sets like it, FFNs and windows of them."""
    sets: list[AblationSet] = []
    task = task_named(settings.task)
    dissociated = {label.role for label in task.dissociation.labels} if task.dissociation else set[str]()
    for code, language in done.items():
        suffix = f" ({code})" if len(done) > 1 else ""
        named: dict[str, list[Head]] = {}
        for row in role_rows(code, language.found, language.roles, task):
            if row["role"] != ALSO:
                named.setdefault(str(row["role"]), []).append(Head(row["layer"], row["head"]))
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


def _write_faithfulness(
    run: RunWriter,
    model: Model,
    settings: CircuitsSettings,
    prompts: Mapping[str, Prompts],
    done: Mapping[str, Measured],
    heads: Mapping[str, list[Head]],
    progress: Progress,
) -> list[dict[str, Any]]:
    curves: list[dict[str, Any]] = []
    main = {code: each.main for code, each in prompts.items()}
    with progress("faithfulness", 2 * len(done), "languages") as step:
        for code, language in done.items():
            ranking = language.found.ranking()
            curves += tables.faithfulness_rows(model, code, main[code], ranking, settings.ablation, settings.seed)
            step(1)
        largest = max(heads.values(), key=len, default=[])
        draws = matched_random(model, largest, settings.draws, settings.seed) if largest else []
        crossed = tables.cross_rows(model, main, heads, draws, settings.ablation)
        step(len(done))
    _table(run, "faithfulness", curves)
    _table(run, "cross_faithfulness", crossed)
    return crossed


def _other_language(settings: CircuitsSettings) -> str:
    return settings.against_language or settings.languages[-1]


def _write_matching(run: RunWriter, settings: CircuitsSettings, own: Roles, against: Model, other: Prompts) -> None:
    """Heads of two models paired by role scores, with the random-weights null."""
    code = _other_language(settings)
    twice, prefix = repeated(against, settings, code)
    theirs = role_scores(against, other.main, twice, prefix, settings.seed)
    twins = [
        role_scores(random_twin(against, seed), other.main, twice, prefix, settings.seed)
        for seed in range(settings.twins)
    ]
    found = match_heads(own, theirs, twins)
    rows = [
        {
            "layer": a.layer,
            "head": a.head,
            "model2": against.id,
            "layer2": b.layer,
            "head2": b.head,
            "distance": float(found.distance[place]),
            "null_distance": float(found.null[place]),
            "p": found.p,
        }
        for place, (a, b) in enumerate(found.pairs)
    ]
    _table(run, "matching", rows)


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
