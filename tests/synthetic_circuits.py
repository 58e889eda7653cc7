"""Runs of circuits with planted numbers, for tests of what shows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from babelscope.results import Run, RunWriter, open_run

from .synthetic_runs import HOSTILE, SENTENCES, _facts, write_regions, write_sweep

ROLES = ["IO", "S1", "S1+1", "S2", "END"]


def write_circuits(
    path: Path, layers: int = 4, heads: int = 4, languages: tuple[str, ...] = ("en", "zh", "ar"), seed: int = 0
) -> Run:
    """A circuits run: two to three languages that share a name mover and each have a head of their own."""
    rng = np.random.default_rng(seed)
    shape, half = (len(languages), layers, heads), ("language", "layer", "head")
    patch = rng.normal(0, 0.02, shape)
    patch[:, layers - 1, 1] = -0.8
    patch[:, 1, 2] = -0.4
    for i in range(len(languages)):
        patch[i, 2, i % heads] = -0.5
    frequency = np.clip(rng.beta(1, 4, shape) + (np.abs(patch) > 0.3) * 0.6, 0, 1)
    attention = rng.dirichlet(np.ones(len(ROLES)), size=(len(languages), len(ROLES), layers, heads)).transpose(
        0, 1, 4, 2, 3
    )
    found = {x: [[layers - 1, 1], [1, 2], [2, i % heads]] for i, x in enumerate(languages)}
    with RunWriter(path, kind="circuits", overwrite=True) as run:
        run.arrays(
            xr.Dataset(
                {
                    "activation_patching": (half, patch),
                    "path_logits": (half, patch * 0.7),
                    "path_logits_low": (half, patch * 0.7 - 0.05),
                    "path_logits_high": (half, patch * 0.7 + 0.05),
                    "mlp_patching": (("language", "layer"), rng.normal(0, 0.1, shape[:2])),
                    "step_s_inhibition": (half, patch * 0.3),
                    "head_frequency": (half, frequency),
                    "attention_role": (("language", "role", "role2", "layer", "head"), attention),
                },
                coords={
                    "language": list(languages),
                    "layer": np.arange(layers),
                    "head": np.arange(heads),
                    "role": ROLES,
                    "role2": ROLES,
                },
            )
        )
        _circuit_tables(run, rng, languages, found, layers, heads)
        for code in languages:
            told = _circuit_edges(found[code], layers, heads)
            run.file(f"circuits/{code}.json").write_text(json.dumps(told), encoding="utf-8")
        run.manifest.update(
            _facts("toy/babel", list(languages), 40, seed),
            task="ioi",
            languages=list(languages),
            corruption="pABC",
            summary={
                "accuracy": dict.fromkeys(languages, 0.98),
                "logit_difference": dict.fromkeys(languages, 2.5),
                "heads": found,
                "shared_heads": [[layers - 1, 1], [1, 2]],
                "correlation": {"en": {"zh": 0.72}},
                "cross_faithfulness": {},
            },
        )
    return open_run(path)


def _circuit_edges(found, layers, heads) -> dict:
    names = [f"{layer}.{head}" for layer, head in found]
    edges = [("embedding", f"{name}.v", -0.4) for name in names] + [(name, "logits", -0.9) for name in names]
    edges += [(names[1], f"{names[0]}.q", -0.5), (names[2], f"{names[0]}.k", 0.2)]
    return {
        "nodes": [{"node": name, "role": "", "score": -0.5} for name in ("embedding", *names)],
        "edges": [{"sender": a, "receiver": b, "score": score} for a, b, score in edges],
        "wiring": {"layers": layers, "heads": heads, "kv_heads": heads, "parallel": False},
    }


def _circuit_tables(run: RunWriter, rng, languages, found, layers, heads) -> None:
    run.table(
        "behaviour",
        pd.DataFrame(
            [
                {
                    "language": x,
                    "split": "test",
                    "stratum": "strict",
                    "n": 40,
                    "accuracy": 0.98,
                    "low": 0.93,
                    "high": 1.0,
                    "logit_difference": 2.5,
                }
                for x in languages
            ]
        ),
    )
    run.table(
        "census",
        pd.DataFrame(
            [
                {"language": x, "template": f"t{i} {HOSTILE[1]}", "offered": 40, "survived": 30 + i, "reason": "span"}
                for x in languages
                for i in range(3)
            ]
        ),
    )
    words = ["When", " Mary", " and", " John", " went", ",", " John", " gave", " to"]
    roles = ["", "IO", "", "S1", "S1+1", "", "S2", "", "END"]
    run.table(
        "examples",
        pd.DataFrame(
            [
                {
                    "language": x,
                    "example": place,
                    "position": position,
                    "token": word if place else word.upper(),
                    "role": role,
                    "answer": " Mary",
                    "foil": f" John {HOSTILE[0]}",
                    "template": f"t{place}",
                }
                for x in languages
                for place in range(2)
                for position, (word, role) in enumerate(zip(words, roles))
            ]
        ),
    )
    names = ["name mover", "induction", "own"]
    run.table(
        "roles",
        pd.DataFrame(
            [
                {"language": x, "layer": layer, "head": head, "role": names[k], "score": 0.9 - 0.1 * k}
                for x in languages
                for k, (layer, head) in enumerate(found[x])
            ]
        ),
    )
    run.table(
        "ablation",
        pd.DataFrame(
            [
                {
                    "set": s,
                    "language": x,
                    "accuracy": a,
                    "delta": a - 0.98,
                    "low": a - 0.04,
                    "high": a + 0.04,
                    "draw": draw,
                }
                for x in languages
                for s, a, draw in [
                    ("circuit", 0.2, -1),
                    ("ffn 1", 0.7, -1),
                    ("ffn 2", 0.5, -1),
                    ("random", 0.95, 0),
                    ("random", 0.93, 1),
                ]
            ]
        ),
    )
    run.table(
        "promoted",
        pd.DataFrame(
            [
                {
                    "language": x,
                    "layer": layers - 1,
                    "head": 1,
                    "token": SENTENCES[x].split()[0],
                    "attribution": 1.2 - 0.1 * i,
                }
                for x in languages
                for i in range(2)
            ]
        ),
    )
    run.table(
        "agreement", pd.DataFrame([{"method": "eap", "method2": "patching", "spearman": 0.9, "top_k_recall": 0.8}])
    )
    pairs = [(a, b) for a in languages for b in languages]
    run.table(
        "overlap",
        pd.DataFrame(
            [
                {
                    "language": a,
                    "language2": b,
                    "measure": m,
                    "value": 1.0 if a == b else rng.uniform(0.4, 0.8),
                    "null": 0.1,
                    "p": 0.001,
                }
                for a, b in pairs
                for m in ("node_iou", "pearson")
            ]
        ),
    )
    run.table(
        "cross_faithfulness",
        pd.DataFrame(
            [
                {
                    "found_in": a,
                    "run_on": b,
                    "faithfulness": 0.95 if a == b else 0.8,
                    "low": 0.7,
                    "high": 0.99,
                    "random": 0.05,
                }
                for a, b in pairs
            ]
        ),
    )
    run.table(
        "cross_edges",
        pd.DataFrame(
            [
                {
                    "found_in": a,
                    "run_on": b,
                    "faithfulness": 0.9 if a == b else 0.7,
                    "low": 0.6,
                    "high": 1.0,
                    "random": 0.0,
                    "relabelled": 0.1,
                    "control": 0.3,
                    "share": 1.0,
                    "edges": 9,
                    "prompts": 20,
                }
                for a, b in pairs
            ]
        ),
    )
    curve = [(0, 0.0), (2, 0.6), (8, 0.9)]
    run.table("faithfulness", pd.DataFrame([
        {"language": x, "order": order, "heads": size, "faithfulness": f * part, "low": f * part - 0.1,
         "high": f * part + 0.1}
        for x in languages for order, part in (("ranking", 1.0), ("random", 0.2)) for size, f in curve
    ]))  # fmt: skip
    run.table("edge_curve", pd.DataFrame([
        {"language": x, "area": area, "budget": budget, "edges": 10, "faithfulness": f, "low": f - 0.1, "high": f + 0.1,
         "half": "test", "prompts": 20}
        for x in languages for area in ("cpr", "cmd") for budget, f in ((0.001, 0.1), (0.01, 0.5), (0.1, 0.9))
    ]))  # fmt: skip
    run.table(
        "classification",
        pd.DataFrame(
            [
                {"language": languages[0], "language2": b, "node": f"{layers - 1}.1", "class": "shared"}
                for b in languages[1:]
            ]
        ),
    )


def write_one_of_each(folder: Path) -> list[Run]:
    """A run of regions, one of circuits and a sweep, which a page shows together."""
    return [write_regions(folder / "regions"), write_circuits(folder / "circuits"), write_sweep(folder / "sweep")]
