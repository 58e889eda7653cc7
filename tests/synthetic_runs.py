"""Runs of the three kinds with invented numbers and hostile text, written as the contract has them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from babelscope.results import Run, RunWriter, open_run

LANGUAGES = ["en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id"]
SENTENCES = {
    "en": "The boat crosses the river before dawn",
    "zh": "小船在黎明前过河",
    "fr": "La barque traverse le fleuve avant l’aube",
    "es": "La barca cruza el río antes del alba",
    "pt": "O barco atravessa o rio antes da aurora",
    "ar": "يعبر القارب النهر قبل الفجر",
    "vi": "Con thuyền qua sông trước bình minh",
    "hi": "नाव भोर से पहले नदी पार करती है",
    "id": "Perahu menyeberangi sungai sebelum fajar",
}
HOSTILE = [
    "<script>window.__xss = 1</script>",
    '"><img src=x onerror="window.__xss = 2">',
    "abc \u202e txt.exe \u202c\u2066 isolated \u2069",
    "</script><script>window.__xss = 3</script>",
    "<!--<script>{{ 7 * 7 }} {% raw %} \u2028\u2029 & ' ` ${1+1}",
]


def hostile_sentence(language: str, i: int) -> str:
    """Sentence i of a language; the first few carry what an attacker would write."""
    text = f"{SENTENCES[language]} {i}"
    return f"{HOSTILE[i % len(HOSTILE)]} {text}" if i < len(HOSTILE) else text


def similarity(rng: np.random.Generator, languages: int, n: int) -> np.ndarray:
    """Cosines of vectors made of a language part, a meaning part and noise."""
    language, meaning = rng.normal(size=(languages, 1, 48)), rng.normal(size=(1, n, 48))
    x = np.abs(1.2 * language + 0.9 * meaning + 0.8 * rng.normal(size=(languages, n, 48))).reshape(languages * n, 48)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return (x @ x.T).astype(np.float32)


def write_regions(
    path: Path,
    n: int = 6,
    layers: int = 4,
    width: int = 50,
    texts: bool = True,
    seed: int = 0,
    model: str = "toy/babel",
    site: str = "neurons",
) -> Run:
    """A regions run: every array and table of the contract."""
    rng = np.random.default_rng(seed)
    languages, count = LANGUAGES, len(LANGUAGES)
    score = rng.gamma(1.0, 1e-4, size=(count, layers, width)).astype(np.float32)
    z = ((score - score.mean(0)) / score.std(0)).astype(np.float32)
    mask = z > 2.0
    size_layer = mask.sum(-1)
    size = {language: int(size_layer[i].sum()) for i, language in enumerate(languages)}
    with RunWriter(path, kind="regions", overwrite=True) as run:
        run.arrays(_regions_arrays(rng, languages, n, layers, score, z, size_layer))
        observed = float(sum(size.values()))
        null = rng.normal(observed * 0.4, observed * 0.03, size=60)
        run.arrays(xr.Dataset({"sklr_null": ("draw", null)}), group="null")
        run.table(
            "sentences",
            pd.DataFrame(
                [
                    {"id": f"s{i}", "language": language, "text": hostile_sentence(language, i)}
                    for language in languages
                    for i in range(n)
                ]
            ),
        )
        run.table(
            "region_size",
            pd.DataFrame(
                [{"language": x, "size": s, "share": s / (layers * width), "mean_depth": 0.5} for x, s in size.items()]
            ),
        )
        run.table(
            "calibration",
            pd.DataFrame(
                [
                    {
                        "language": x,
                        "observed": s,
                        "expected_null": s * 0.4,
                        "excess": s * 0.6,
                        "excess_low": s * 0.5,
                        "excess_high": s * 0.7,
                        "p": 0.01,
                    }
                    for x, s in size.items()
                ]
            ),
        )
        run.table("alignment", pairs := _alignment(rng, languages, layers))
        means = pairs.groupby(["metric", "layer"], sort=False)[["value", "low", "high"]].mean().reset_index()
        run.table("alignment_means", means.assign(interval="leave-one-document-out t", why="", n=n))
        summary = {
            "lrds": 0.21,
            "sads": 0.064,
            "sklr": int(observed),
            "region_size": size,
            "neurons": layers * width,
            "layers": layers,
            "threshold": 2.0,
            "languages": languages,
            "n": n,
            "intervals": {
                "lrds": [0.19, 0.23],
                "sads": [0.05, 0.08],
                "excess_sklr": [observed * 0.5, observed * 0.7],
            },
            "excess_sklr": observed * 0.6,
        }
        run.table("stability", _stability())
        run.table("routing_layer", pd.DataFrame([
            {"layer": layer, "language": x, "reference": "en", "divergence": 0.2, "divergence_low": 0.1,
             "divergence_high": 0.3, "divergence_null_low": 0.0, "divergence_null_high": 0.1, "other_sentence": 0.5,
             "n": n, "why": ""}
            for x in languages[1:] for layer in range(layers)
        ]))  # fmt: skip
        if texts:
            run.table("dose", _dose())
            frame = _perplexity(rng, languages)
            run.table("perplexity", frame)
            run.table(
                "selectivity",
                pd.DataFrame(
                    [
                        {"language": x, "own": 0.4, "others": 0.05, "selectivity": 0.35, "low": 0.3, "high": 0.41}
                        for x in languages
                    ]
                ),
            )
            run.table(
                "generations",
                pd.DataFrame(
                    [
                        {
                            "language": x,
                            "deactivated": d,
                            "prompt": hostile_sentence(x, 0),
                            "continuation": hostile_sentence(x, 3),
                            "identified": x if d == "base" else "en",
                            "broken_share": 0.0 if d == "base" else 0.12,
                            "distinct_1": 0.8,
                            "distinct_2": 0.9,
                        }
                        for x in ["en", "zh", "ar"]
                        for d in ["base", "zh"]
                    ]
                ),
            )
            pivot = frame.groupby(["deactivated", "language"]).perplexity.mean()
            summary["perplexity"] = {d: pivot[d].to_dict() for d in frame.deactivated.unique()}
        run.manifest.update(
            _facts(model, languages, n, seed) | {"asked": {"samples": n, "site": site}}, summary=summary
        )
        run.file("regions/zscore.safetensors").write_bytes(b"\0" * 16)
    return open_run(path)


def _regions_arrays(rng, languages, n, layers, score, z, size_layer) -> xr.Dataset:
    count = len(languages)
    curve = {}
    for name, base in [
        ("lrds_layer", 0.2),
        ("sads_layer", 0.06),
        ("same_language_layer", 0.8),
        ("same_sentence_layer", 0.7),
        ("neither_layer", 0.6),
    ]:
        value = base + 0.05 * np.sin(np.arange(layers)) + rng.normal(0, 0.005, layers)
        curve |= {
            name: ("layer", value),
            f"{name}_low": ("layer", value - 0.02),
            f"{name}_high": ("layer", value + 0.02),
        }
    pair = rng.uniform(0, 0.3, size=(count, count))
    pair = (pair + pair.T) / 2
    return xr.Dataset(
        {
            "similarity": (("item", "item2"), similarity(rng, count, n)),
            **curve,
            **dict.fromkeys(("lrds_pair", "sads_pair", "similarity_pair"), (("language", "language2"), pair)),
            "score": (("language", "layer", "neuron"), score),
            "z": (("language", "layer", "neuron"), z),
            "region_size_layer": (("language", "layer"), size_layer),
            "top10_share": ((), 0.18),
            "first_position_share": ((), 0.3),
        },
        coords={
            "language": languages,
            "language2": languages,
            "layer": np.arange(layers),
            "item_language": ("item", np.repeat(languages, n)),
            "item_sentence": ("item", [f"s{i}" for i in range(n)] * count),
        },
    )


def _stability() -> pd.DataFrame:
    names = ("bootstrap", "split_half")
    ends = {f"{a}_{b}": v for a in names for b, v in (("jaccard", 0.6), ("low", 0.5), ("high", 0.7))}
    return pd.DataFrame([{"language": x, **ends, "chance_jaccard": 0.02, "draws": 20, "n": 6} for x in LANGUAGES])


def _dose() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "region": region, "matched": "zh", "kind": "zero", "share": share, "neurons": 10, "draw": -1,
                "language": x,
                "nll": 3.0, "delta_nll": share * 10, "delta_low": share * 9, "delta_high": share * 11, "documents": 5,
            }
            for region in ("zh", "random-layer") for share in (0.01, 0.05) for x in ("zh", "en")
        ]
    )  # fmt: skip


def _alignment(rng, languages, layers) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "metric": metric,
                "layer": layer,
                "language": a,
                "language2": b,
                "value": (v := rng.uniform(0.2, 0.9)),
                "low": v - 0.05,
                "high": v + 0.05,
            }
            for metric in ("mexa", "cka")
            for layer in range(layers)
            for a in languages[:3]
            for b in languages[:3]
            if a < b
        ]
    )


def _perplexity(rng, languages) -> pd.DataFrame:
    rows = []
    base = dict(zip(languages, rng.uniform(5, 25, len(languages))))
    columns = [
        ("base", -1),
        *[("random", d) for d in range(3)],
        *[("random-layer", d) for d in range(3)],
        *[(x, -1) for x in languages],
    ]
    for language in languages:
        for deactivated, draw in columns:
            increase = {"base": 0.0, language: 180.0 if language != "id" else 1500.0}.get(
                deactivated, abs(rng.normal(8, 4))
            )
            perplexity = base[language] * (1 + increase / 100)
            delta = float(np.log1p(increase / 100))
            rows.append(
                {
                    "language": language,
                    "deactivated": deactivated,
                    "draw": draw,
                    "nll": float(np.log(perplexity)),
                    "tokens": 5000,
                    "bytes": 21000,
                    "bits_per_byte": 1.1,
                    "perplexity": perplexity,
                    "increase_percent": increase,
                    "delta_nll": delta,
                    "delta_low": delta - 0.02,
                    "delta_high": delta + 0.02,
                    "documents": 20,
                }
            )
    return pd.DataFrame(rows)


def _facts(model, languages, n, seed) -> dict:
    return {
        "model": {
            "id": model,
            "revision": "main",
            "family": "bloom",
            "weight_hash": "ab" * 8,
            "dtype": "float32",
            "device": "cpu",
        },
        "tokenizer_hash": "cd" * 8,
        "seeds": [seed],
        "asked": {"samples": n},
        "defaults": {"window": 2048},
        "hooks_fired": 120,
        "key": "0123456789abcdef",
        "corpus": {
            "spec": "lines:toy",
            "hash": "ef" * 8,
            "languages": languages,
            "sentence_ids": [f"s{i}" for i in range(n)],
        },
    }


def write_sweep(path: Path, steps: tuple[int, ...] = (1000, 10000, 100000, 200000, 300000), layers: int = 4) -> Run:
    """A sweep run: five checkpoints of one model, of which two are the same weights, and three sizes."""
    rng = np.random.default_rng(3)
    rows = []
    for i, step in enumerate(steps):
        rows.append(
            _point(rng, "toy/babel", f"step{step}", step, 7_069_016_064, i, "step100000" if step == 200000 else None)
        )
    for i, size in enumerate((559_214_592, 1_722_408_960, 7_069_016_064)):
        rows.append(_point(rng, f"toy/babel-{size // 10**6}m", "main", None, size, i, None))
    rows.append(
        {
            **_point(rng, "toy/broken", "main", None, 13_000_000_000, 1, None),
            "status": "failed",
            "lrds": None,
            "sads": None,
        }
    )
    with RunWriter(path, kind="sweep", overwrite=True) as run:
        run.table("points", pd.DataFrame(rows))
        run.table(
            "flow",
            pd.DataFrame(
                [
                    {
                        "from": f"step{a}",
                        "to": f"step{b}",
                        "language": x,
                        "born": 20,
                        "kept": 60,
                        "moved": 8,
                        "lost": 12,
                    }
                    for a, b in itertools.pairwise(steps)
                    for x in LANGUAGES[:3]
                ]
            ),
        )
        run.arrays(
            xr.Dataset(
                {
                    "region_size_layer": (
                        ("point", "language", "layer"),
                        rng.integers(1, 40, (len(rows), len(LANGUAGES), layers)),
                    )
                },
                coords={"point": [row["key"] for row in rows], "language": LANGUAGES, "layer": np.arange(layers)},
            )
        )
        bins = [{"from_depth": i / 4, "to_depth": (i + 1) / 4, "share": 0.25} for i in range(4)]
        run.table(
            "depth",
            pd.DataFrame([{"label": "step1000", "key": "k", "language": x, **b} for x in LANGUAGES for b in bins]),
        )
        run.manifest.update(
            languages=LANGUAGES,
            model={"id": "toy/babel"},
            corpus={"spec": "lines:toy", "languages": LANGUAGES},
            summary={"points": len(rows)},
        )
    return open_run(path)


def _point(rng, model, revision, step, parameters, i, duplicate) -> dict:
    return {
        "model": model,
        "revision": revision,
        "step": step,
        "parameters": parameters,
        "corpus": "lines:toy",
        "status": "done",
        "key": f"{rng.integers(1 << 62):016x}",
        "duplicate_of": duplicate,
        "lrds": 0.4 - 0.04 * i,
        "sads": 0.02 + 0.015 * i,
        "sklr": 900 + 150 * i,
        "accuracy_xstorycloze": 0.5 + 0.03 * i,
        **{f"region_size_{x}": int(rng.integers(50, 400)) for x in LANGUAGES},
    }
