"""What circuits-overlap.md is computed from: nine languages of IOI in one model, measured in runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from circuits_statistics import SEED
from numpy.typing import NDArray

from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.edges.circuit import greedy_edges
from babelscope.results.rows import rows_frame
from babelscope.results.schemas.circuit_edges import CrossEdges

Array = NDArray[np.float64]
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
GROUPS = (LANGUAGES[:3], LANGUAGES[3:6], LANGUAGES[6:])
BUDGETS, FAITHFUL = (0.01, 0.02, 0.05, 0.1, 0.2), 0.8
"""sizes tried, as shares of all edges, and the mean faithfulness in en and zh that chooses one for all languages"""
STRONGEST = 20
"""edges of each method that are patched"""
BLOCK = 4
"""prompts whose attribution is kept as one mean, to be drawn again and halved"""
METHODS = ("eap", "eap-ig", "relp")
DIMENSIONS = {
    "patched_prompt": ("layer", "head", "prompt"),
    "direct_prompt": ("layer", "head", "prompt"),
    "clean_prompt": ("prompt",),
    "block_routes": ("block", "layer", "head"),
    "block_eap_ig": ("block", "writer", "reader"),
    "control_scores": ("writer", "reader"),
}
CONFIRMED = ("en", "zh")
"""languages in which edges are patched one by one, prompt by prompt"""


def measure_scores(name: str, out: Path, n: int, codes: Sequence[str]) -> None:
    """Some languages: patching by prompt, routes and EAP-IG by block of prompts, EAP-IG of the control task."""
    from babelscope.circuits.core.metrics import logit_differences
    from babelscope.circuits.edges.eap import edge_attribution
    from babelscope.circuits.heads.routes import flow_routes
    from babelscope.circuits.patching.methods import activation_patching, path_patching
    from babelscope.studies.circuit_edges import control_prompts
    from babelscope.tasks import Options

    model, pairs = _prompts(name, n)
    controls = control_prompts(model, "ioi", codes, Options(n=n // 2, seed=SEED))
    shape = (model.layers, model.heads, -1)
    found: dict[str, list[Array]] = {}
    for code in codes:
        own = pairs[code]
        one = {
            "patched_prompt": activation_patching(model, own).differences.reshape(shape),
            "direct_prompt": path_patching(model, own).differences.reshape(shape),
            "clean_prompt": logit_differences(model, own),
            "block_routes": flow_routes(model, own).used().reshape(-1, BLOCK, model.layers, model.heads).mean(1),
            "block_eap_ig": np.array([edge_attribution(model, part, "eap-ig").scores for part in _parts(own)]),
            "control_scores": edge_attribution(model, controls[code], "eap-ig").scores,
        }
        for label, values in one.items():
            found.setdefault(label, []).append(values)
    data = {label: (("language", *DIMENSIONS[label]), np.stack(values)) for label, values in found.items()}
    _write(out, model, n, codes, xr.Dataset(data, coords={"language": list(codes)}))


def measure_methods(name: str, out: Path, n: int, codes: Sequence[str] = CONFIRMED) -> None:
    """EAP, RelP, AtP by block, and the true effects of the strongest edges of each method."""
    from babelscope.circuits.core.ablation import reference
    from babelscope.circuits.edges.atp import attribution_patching
    from babelscope.circuits.edges.eap import edge_attribution
    from babelscope.circuits.edges.single_edges import edge_effects

    model, pairs = _prompts(name, n)
    data: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        scores = [[edge_attribution(model, x, method).scores for x in _parts(pairs[code])] for code in codes]
        data[f"block_{method.replace('-', '_')}"] = (("language", *DIMENSIONS["block_eap_ig"]), np.array(scores))
    nodes = [[attribution_patching(model, part).heads for part in _parts(pairs[code])] for code in codes]
    data["block_atp"] = (("language", *DIMENSIONS["block_routes"]), np.array(nodes))
    for place, code in enumerate(codes):
        means = [np.abs(each[place].mean(0)) for _, each in (data[f"block_{x.replace('-', '_')}"] for x in METHODS)]
        chosen = sorted({divmod(int(k), one.shape[1]) for one in means for k in np.argsort(-one.ravel())[:STRONGEST]})
        effects = edge_effects(model, pairs[code], chosen, reference(model, pairs[code]))
        rows += [
            {"language": code, "writer": row, "reader": column, "block": block, "effect": float(effect)}
            for (row, column), each in zip(chosen, effects.reshape(len(chosen), -1, BLOCK).mean(2))
            for block, effect in enumerate(each)
        ]
    _write(out, model, n, codes, xr.Dataset(data, coords={"language": list(codes)}), confirmed=pd.DataFrame(rows))


def measure_cross(name: str, out: Path, n: int, codes: Sequence[str]) -> None:
    """Circuits of all nine, from the first of every two blocks, run on the other blocks of some languages."""
    from babelscope.circuits.comparison import transfer

    model, pairs = _prompts(name, n)
    scores = scores_of(out.with_name(out.name.partition("-cross")[0]))
    wiring = Wiring.of(model)
    tests = {code: [pair for part in _parts(own)[1::2] for pair in part] for code, own in pairs.items()}
    ranked = dict(zip(LANGUAGES, scores.block_eap_ig.values[:, ::2].mean(1)))
    curve = _curve(model, wiring, ranked, tests)
    shares = [share for share, f in curve.groupby("share").faithfulness.mean().items() if f >= FAITHFUL]
    size = int((shares[0] if shares else BUDGETS[-1]) * wiring.allowed.sum())
    circuits = {code: greedy_edges(wiring, own, size) for code, own in ranked.items()}
    controls = {c: greedy_edges(wiring, own, size) for c, own in zip(LANGUAGES, scores.control_scores.values)}
    chosen = {code: tests[code] for code in codes}
    rows = transfer.cross_faithfulness(model, circuits, chosen, transfer.Beside(controls, 1, SEED))
    _write(out, model, n, codes, None, cross_edges=rows_frame(CrossEdges, rows), curve=curve)


def _curve(model: Any, wiring: Wiring, ranked: Mapping[str, Array], tests: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Faithfulness of en's and zh's own circuits of growing size, by which the size of all is chosen."""
    from babelscope.circuits.edges.faithfulness import score_circuits

    rows: list[dict[str, Any]] = []
    for code in CONFIRMED:
        made = [greedy_edges(wiring, ranked[code], int(share * wiring.allowed.sum())) for share in BUDGETS]
        found = score_circuits(model, tests[code], made).faithfulness()
        rows += [{"language": code, "share": x, "faithfulness": float(f)} for x, f in zip(BUDGETS, found)]
    return pd.DataFrame(rows)


def _write(out: Path, model: Any, n: int, codes: Sequence[str], arrays: xr.Dataset | None, **tables: Any) -> None:
    from babelscope.results import RunWriter

    with RunWriter(out, kind="circuits") as run:
        if arrays is not None:
            run.arrays(arrays)
        for label, rows in tables.items():
            run.table(label, rows)
        run.manifest.update(
            task="ioi", corruption="pabc", languages=list(codes), model=model.facts(), weights=model.weight_hash,
            asked={"n": n, "seed": SEED, "block": BLOCK}, summary={"model": model.id},
        )  # fmt: skip


def _parts(pairs: Sequence[Any]) -> list[Sequence[Any]]:
    return [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]


def _prompts(name: str, n: int) -> tuple[Any, dict[str, list[Any]]]:
    from babelscope import load_model
    from babelscope.tasks import build_paired

    model = load_model(name)
    sets = build_paired("ioi", model.tokenizer, LANGUAGES, n=n, seed=SEED)
    return model, {code: list(prompts.pairs) for code, prompts in sets.items()}


def scores_of(out: Path) -> xr.Dataset:
    """The arrays of `measure_scores`, all languages together."""
    from babelscope.results import open_run

    parts = [open_run(out.with_name(f"{out.name}-{'-'.join(codes)}")).arrays().load() for codes in GROUPS]
    return xr.concat(parts, dim="language")


def measured(name: str, out: Path, n: int, steps: Sequence[str] = ("scores", "methods", "cross")) -> None:
    """Measure what is not there yet, in runs beside `out`; the groups of languages can be measured side by side."""
    for step in steps:
        for codes in GROUPS if step != "methods" else (CONFIRMED,):
            _step(name, out, n, step, codes)


def _step(name: str, out: Path, n: int, step: str, codes: Sequence[str]) -> None:
    middle = {"scores": "", "methods": "-methods", "cross": "-cross"}[step]
    place = out.with_name(f"{out.name}{middle}-{'-'.join(codes)}")
    if not place.exists():
        {"scores": measure_scores, "methods": measure_methods, "cross": measure_cross}[step](name, place, n, codes)


def crossed_of(out: Path) -> pd.DataFrame:
    """The rows of `measure_cross`, all languages together."""
    from babelscope.results import open_run

    runs = [open_run(out.with_name(f"{out.name}-cross-{'-'.join(codes)}")) for codes in GROUPS]
    return pd.concat([run.table("cross_edges") for run in runs], ignore_index=True)
