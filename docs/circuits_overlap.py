"""Measure and print circuits-overlap.md: nine languages of IOI in one model, and how far their circuits are the same.

    python docs/circuits_overlap.py runs/circuits/ioi9 [--model pocket:pocket-bloom-m] [--n 32]

Runs beside that place hold the scores, the methods and the crossing; what is there already is only printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from circuits_statistics import (
    DRAWS,
    LATIN,
    SEED,
    SPLITS,
    drawn_agreement,
    half_overlap,
    mantel,
    one_circuit,
    related,
    reliability,
)
from markdown_tables import frame, p_value, span, table
from numpy.typing import NDArray

from babelscope.circuits.circuit import Circuit, greedy_edges
from babelscope.circuits.languages import pearson
from babelscope.circuits.nodes import Head
from babelscope.circuits.wiring import Wiring

Array = NDArray[np.float64]
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
GROUPS = (LANGUAGES[:3], LANGUAGES[3:6], LANGUAGES[6:])
BUDGETS, FAITHFUL = (0.01, 0.02, 0.05, 0.1, 0.2), 0.8
"""sizes tried, as shares of all edges, and the mean faithfulness in en and zh that chooses one for all languages"""
STRONGEST, PERMUTATIONS = 20, 39
MEASURES = ("node_iou", "edge_iou", "weighted_jaccard")
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


# -- measuring ------------------------------------------------------------------------------------------------------


def measure_scores(name: str, out: Path, n: int, codes: Sequence[str]) -> None:
    """Some languages: patching by prompt, routes and EAP-IG by block of prompts, EAP-IG of the control task."""
    from babelscope.circuits.attribution import edge_attribution
    from babelscope.circuits.metrics import logit_differences
    from babelscope.circuits.patching import activation_patching, path_patching
    from babelscope.circuits.routes import flow_routes
    from babelscope.studies.circuit_edges import control_prompts

    model, pairs = _prompts(name, n)
    controls = control_prompts(model, "ioi", codes, n // 2, seed=SEED)
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
    from babelscope.circuits.atp import attribution_patching
    from babelscope.circuits.attribution import edge_attribution
    from babelscope.circuits.masked import edge_effects
    from babelscope.circuits.references import reference

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
    from babelscope.circuits import cross

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
    rows = cross.cross_faithfulness(model, circuits, chosen, controls, random=1, seed=SEED)
    _write(out, model, n, codes, None, cross_edges=pd.DataFrame(rows), curve=curve)


def _curve(model: Any, wiring: Wiring, ranked: Mapping[str, Array], tests: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Faithfulness of en's and zh's own circuits of growing size, by which the size of all is chosen."""
    from babelscope.circuits.budgets import score_circuits

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


# -- printing -------------------------------------------------------------------------------------------------------


def tell(out: Path) -> None:
    """Every table of the page, as Markdown."""
    from babelscope.circuits import overlap
    from babelscope.plots import frames
    from babelscope.results import open_run

    arrays, codes = scores_of(out), list(LANGUAGES)
    runs = [open_run(out.with_name(f"{out.name}-cross-{'-'.join(each)}")) for each in GROUPS]
    crossed = pd.concat([run.table("cross_edges") for run in runs], ignore_index=True)
    run, asked = runs[0], runs[0].manifest["asked"]
    wiring, size = Wiring(*arrays.block_routes.shape[2:], arrays.block_routes.shape[3]), int(crossed.edges.max())
    print(f"## Nine languages of IOI in {run.model_name}\n\nn = {asked['n']} scenes, the same in every language, seed")
    print(f"{asked['seed']}; circuits of about {size} of {int(wiring.allowed.sum())} edges.\n")
    level = arrays.clean_prompt.values
    rows = [[c, float((x > 0).mean()), *_mean(x)] for c, x in zip(codes, level)]
    print(table(["language", "accuracy", "logit difference", "low", "high"], rows))
    print(frame(run.table("curve").pivot_table(index="share", columns="language", values="faithfulness"), "of edges"))
    crossing = frames.square(crossed, "found_in", "run_on", "faithfulness", codes).loc[codes, codes]
    print(f"### Faithfulness across languages\n\n{frame(crossing, 'found in / run on')}")
    _tell_crossed(crossed)
    scores = arrays.block_eap_ig.values
    found = {c: greedy_edges(wiring, x.mean(0), size) for c, x in zip(codes, scores)}
    rows_of = [
        row
        for one, other in combinations(codes, 2)
        for row in overlap.rows(one, other, overlap.overlap(found[one], found[other], PERMUTATIONS, SEED, MEASURES))
    ]
    overlaps = pd.DataFrame(rows_of)
    _tell_overlaps(overlaps, codes)
    halves, spread = half_overlap(scores, wiring, size)
    print("### Edge IoU of circuits from halves of the prompts\n")
    print(f"On the diagonal two halves of one language (the ceiling); {SPLITS} splits, standard deviation over splits")
    print(f"{spread.mean():.2f} on average.\n\n{frame(pd.DataFrame(halves, codes, codes), '')}")
    own, null, p = one_circuit(scores[0], scores[1], wiring, size)
    print(f"en and zh: IoU {own:.2f}; {null:.2f} when scenes change language at random; p = {p_value(p)}\n")
    _tell_routes(arrays, codes)
    _tell_related(overlaps, crossing, halves, arrays, codes)
    _tell_heads(arrays, codes)
    _tell_agreement(open_run(out.with_name(f"{out.name}-methods-{'-'.join(CONFIRMED)}")))
    _tell_nodes(found)


def _mean(values: Array) -> tuple[float, float, float]:
    from babelscope.circuits.statistics import bootstrap_mean

    found = bootstrap_mean(values, seed=SEED)
    return found.value, found.low, found.high


def _tell_crossed(crossed: pd.DataFrame) -> None:
    own, other = (crossed[(crossed.found_in == crossed.run_on) == same] for same in (True, False))
    rows = [
        ["of the language itself", *_three(own.faithfulness)],
        ["of another language", *_three(other.faithfulness)],
        ["of another, share of the own circuit's f", *_three(other.share)],
        ["the control task's (no name repeated)", *_three(crossed.control)],
        ["heads renamed inside their layers", *_three(crossed.relabelled)],
        ["random edges, as many", *_three(crossed.random)],
    ]
    print(table(["circuit", "mean f", "least", "most"], rows))
    between = crossed[crossed.found_in.isin(CONFIRMED) & crossed.run_on.isin(CONFIRMED)]
    rows = [[r.found_in, r.run_on, span(r.faithfulness, r.low, r.high), int(r.prompts)] for r in between.itertuples()]
    print(table(["found in", "run on", "f (95 % interval over prompts)", "prompts"], rows))


def _three(values: pd.Series) -> tuple[float, float, float]:
    return float(values.mean()), float(values.min()), float(values.max())


def _tell_overlaps(overlaps: pd.DataFrame, codes: Sequence[str]) -> None:
    from babelscope.plots import frames

    print(f"### Overlap of all pairs, against heads renamed inside their layers ({PERMUTATIONS} times)\n")
    rows = []
    for measure, each in overlaps.groupby("measure", sort=False):
        passed = int((each.p <= 0.05).sum())
        rows.append([measure, *_three(each.value), float(each.null.mean()), f"{passed} of {len(each)}"])
    print(table(["measure", "mean", "least", "most", "null", "pairs with p ≤ 0.05"], rows))
    pair = overlaps[(overlaps.language == "en") & (overlaps.language2 == "zh")]
    rows = [[r.measure, r.value, r.null, p_value(r.p)] for r in pair.itertuples()]
    print(f"en and zh:\n\n{table(['measure', 'value', 'null', 'p'], rows)}")
    matrix = frames.square(overlaps[overlaps.measure == "edge_iou"], "language", "language2", "value", list(codes))
    matrix = matrix.reindex(index=codes, columns=codes)
    print(f"edge IoU:\n\n{frame(matrix.combine_first(matrix.T).loc[codes, codes], '')}")


def _tell_routes(arrays: xr.Dataset, codes: Sequence[str]) -> None:
    """Head activation frequencies of en and zh, and of all pairs."""
    from babelscope.circuits.statistics import correlate

    blocks = arrays.block_routes.values
    rng, count = np.random.default_rng(SEED), blocks.shape[1]
    a, b = (blocks[codes.index(code)] for code in CONFIRMED)
    drawn = [pearson(a[o].mean(0), b[o].mean(0)) for o in rng.integers(0, count, (DRAWS, count))]
    test = correlate(a.mean(0), b.mean(0), seed=SEED)
    ceiling = float(np.sqrt(np.prod([reliability(np.moveaxis(x, 0, -1), rng) for x in (a, b)])))
    every = np.corrcoef(blocks.mean(1).reshape(len(codes), -1))[np.triu_indices(len(codes), 1)]
    print("### Head activation frequency (routes, τ = 0.04)\n")
    print(
        f"en and zh: Pearson {span(test.pearson, *np.quantile(drawn, [0.025, 0.975]))}, null {test.pearson_null:.2f},"
    )
    print(f"p = {p_value(test.p)}, ceiling {ceiling:.2f}; all pairs: mean {every.mean():.2f},")
    print(f"{every.min():.2f} to {every.max():.2f}; intervals from {DRAWS} draws of blocks, the same scenes in both.\n")


def _tell_related(
    overlaps: pd.DataFrame, crossing: pd.DataFrame, halves: Array, arrays: xr.Dataset, codes: Sequence[str]
) -> None:
    """Do related languages share more? Mantel's test, beside two other reasons to share."""
    predictors = {
        "relatedness": np.array([[related(a, b) for b in codes] for a in codes]),
        "same script": np.array([[float((a in LATIN) and (b in LATIN)) for b in codes] for a in codes]),
    }
    level = arrays.clean_prompt.values.mean(1)
    predictors["equally good at it (−|Δ LD|)"] = -np.abs(level[:, None] - level[None])
    effects = arrays.patched_prompt.values.mean(-1).reshape(len(codes), -1)
    routes = arrays.block_routes.values.mean(1).reshape(len(codes), -1)
    values = {"edge IoU, halves": halves, "patching of heads, Pearson": np.corrcoef(effects)}
    values["head activation frequency, Pearson"] = np.corrcoef(routes)
    f = crossing.loc[codes, codes].to_numpy(dtype=float)
    values["faithfulness across, share of own"] = (f / np.diag(f)[None] + (f / np.diag(f)[None]).T) / 2
    for measure in ("weighted_jaccard",):
        matrix = np.eye(len(codes))
        for row in overlaps[overlaps.measure == measure].itertuples():
            a, b = codes.index(row.language), codes.index(row.language2)
            matrix[a, b] = matrix[b, a] = row.value
        values[measure] = matrix
    print("### Do related languages share more?\n")
    tests = len(values)
    rows = []
    for name, matrix in values.items():
        cells = [name]
        for predictor in predictors.values():
            r, p = mantel(matrix, predictor)
            cells.append(f"{r:.2f} (p = {p_value(p)})".replace("-", "−"))
        inside = [matrix[a, b] for a, b in combinations(range(len(codes)), 2) if predictors["relatedness"][a, b] == 2]
        outside = [matrix[a, b] for a, b in combinations(range(len(codes)), 2) if predictors["relatedness"][a, b] == 0]
        rows.append([*cells, float(np.mean(inside)), float(np.mean(outside))])
    print(table(["measure", *(f"r with {name}" for name in predictors), "fr–es–pt", "unrelated"], rows))
    print(f"36 pairs; p one-sided over 9 999 renamings of the languages; with {tests} measures, 0.05 / {tests} = "
          f"{0.05 / tests:.3f} is the cut-off after Bonferroni.\n")  # fmt: skip


def _tell_heads(arrays: xr.Dataset, codes: Sequence[str]) -> None:
    """Correlation of patching effects of en and zh, its ceiling, and the heads that differ."""
    from babelscope.circuits.statistics import benjamini_hochberg, bootstrap_p, correlate

    print("### Effects of heads, en against zh\n")
    a, b = (codes.index(code) for code in CONFIRMED)
    clean = arrays.clean_prompt.values
    rows = []
    for name in ("patched_prompt", "direct_prompt"):
        effects = arrays[name].values / clean.mean(1)[:, None, None, None]
        one, two = effects[a], effects[b]
        rng, count = np.random.default_rng(SEED), one.shape[-1]
        drawn = [
            pearson(one[..., o].mean(-1), two[..., o].mean(-1)) for o in rng.integers(0, count, (DRAWS, count))
        ]  # the same scenes in both
        ceiling = np.sqrt(reliability(one, rng) * reliability(two, rng))
        test = correlate(one.mean(-1), two.mean(-1), seed=SEED)
        rows.append([name.split("_")[0], span(test.pearson, *np.quantile(drawn, [0.025, 0.975])), ceiling,
                     test.pearson_null, p_value(test.p), test.spearman, p_value(test.spearman_p)])  # fmt: skip
    print(table(["effect", "Pearson", "ceiling", "null", "p", "Spearman", "p"], rows))
    effects = arrays.patched_prompt.values / clean.mean(1)[:, None, None, None]
    gap = (effects[a] - effects[b]).reshape(-1, effects.shape[-1])
    differ = benjamini_hochberg(bootstrap_p(gap, seed=SEED))
    heads = effects.shape[2]
    rows = [
        [f"{k // heads}.{k % heads}", *(effects[x].reshape(len(gap), -1)[k].mean() for x in (a, b)), gap[k].mean()]
        for k in np.argsort(-np.abs(gap.mean(1)))
        if differ[k]
    ]
    print(f"Heads whose effect differs (paired by scene, Benjamini–Hochberg at 0.05): {len(rows)} of {len(gap)}; the")
    print(f"largest:\n\n{table(['head', 'en', 'zh', 'difference'], rows[:8])}")


def _tell_agreement(run: Any) -> None:
    print(
        "### Agreement of methods\n\nSpearman of absolute scores with those of patching, recall of its ten strongest;"
    )
    print(f"95 % intervals from {DRAWS // 2} draws of blocks of {BLOCK} prompts.\n")
    arrays, confirmed = run.arrays().load(), run.table("confirmed")
    others = scores_of(run.path.with_name(run.path.name.partition("-methods")[0]))
    for what in ("heads", "edges"):
        rows = []
        for code in CONFIRMED:
            methods, truth = _scored(what, arrays.sel(language=code), others.sel(language=code), confirmed)
            for name, ((s, *ends), (r, *bounds)) in drawn_agreement(methods, truth).items():
                rows.append([code, name, span(s, *ends), span(r, *bounds), truth.shape[1]])
        print(f"{what}:\n\n{table(['language', 'method', 'Spearman', 'recall of 10', 'n'], rows)}")


def _scored(what: str, one: xr.Dataset, other: xr.Dataset, confirmed: pd.DataFrame) -> tuple[dict[str, Array], Array]:
    """Every method's scores [block, what], and those of patching."""
    edges = {name: one[f"block_{name.replace('-', '_')}"].values for name in METHODS}
    if what == "edges":
        chosen = confirmed[confirmed.language == str(one.language.values)]
        wide = chosen.pivot_table(index="block", columns=["writer", "reader"], values="effect")
        rows, columns = zip(*wide.columns)
        return {name: scores[:, list(rows), list(columns)] for name, scores in edges.items()}, wide.to_numpy()
    blocks, layers, heads = one.block_atp.shape
    wiring = Wiring(layers, heads, heads)
    places = [wiring.writer(Head(layer, head)) for layer in range(layers) for head in range(heads)]

    def by_block(values: Array) -> Array:
        return values.reshape(layers * heads, blocks, -1).mean(2).T

    methods = {"routes": other.block_routes.values.reshape(blocks, -1), "AtP": one.block_atp.values.reshape(blocks, -1)}
    methods |= {name: scores.sum(2)[:, places] for name, scores in edges.items()}
    methods["path to the logits"] = by_block(other.direct_prompt.values)
    return methods, by_block(other.patched_prompt.values)


def _tell_nodes(found: Mapping[str, Circuit]) -> None:
    from babelscope.circuits.cross import classify

    rows = []
    for one, other in combinations(found, 2):
        kinds = pd.Series(list(classify(found[one], found[other]).values()))
        kinds = kinds.where(kinds.isin(["shared", "repurposed"]), "one language only")
        rows.append(kinds.value_counts(normalize=True))
    share = pd.DataFrame(rows).fillna(0)
    print("### Nodes of two circuits: shared, repurposed, of one language only (share of nodes, over the 36 pairs)\n")
    print(frame(share.agg(["mean", "min", "max"]).T, "class"))
    nodes = {code: {str(node) for node in circuit.nodes} for code, circuit in found.items()}
    everywhere = sorted(set.intersection(*nodes.values()))
    sizes = [len(each) for each in nodes.values()]
    print(
        f"Circuits have {min(sizes)} to {max(sizes)} nodes; in all nine ({len(everywhere)}): {', '.join(everywhere)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="pocket:pocket-bloom-m")
    parser.add_argument("--n", type=int, default=32)
    given = parser.parse_args()
    measured(given.model, given.run, given.n)
    tell(given.run)


if __name__ == "__main__":
    main()
