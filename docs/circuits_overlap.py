"""Measure and print circuits-overlap.md: nine languages of IOI in one model, and how far their circuits are the same.

    python docs/circuits_overlap.py runs/circuits/ioi9 [--model pocket:pocket-bloom-m] [--n 32]

Measures first when there is no run at that place; otherwise only prints.
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

from babelscope.circuits.circuit import Circuit
from babelscope.circuits.languages import pearson
from babelscope.circuits.wiring import Wiring

Array = NDArray[np.float64]
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
BLOCK = 2
"""prompts whose attribution is kept as one mean, to be drawn again and halved"""
METHODS = ("eap", "eap-ig", "relp")
CONFIRMED = ("en", "zh")
"""languages in which edges are patched one by one, prompt by prompt"""


# -- measuring ------------------------------------------------------------------------------------------------------


def measure_edges(name: str, out: Path, n: int) -> None:
    """The study's second half on paired prompts: routes, edges, circuits, each language's on every other's prompts."""
    from babelscope.circuits.patching import activation_patching
    from babelscope.results import RunWriter
    from babelscope.studies.circuit_edges import EdgeSettings, control_prompts, find_edges
    from babelscope.studies.progress import bars

    model, pairs = _prompts(name, n)
    patching = {code: activation_patching(model, own).heads() for code, own in pairs.items()}
    settings = EdgeSettings(random=2, confirm=10, permutations=199, seed=SEED)
    controls = control_prompts(model, "ioi", LANGUAGES, n // 2, seed=SEED)
    found = find_edges(model, pairs, settings, patching, None, controls, bars)
    with RunWriter(out, kind="circuits") as run:
        found.write(run)
        run.manifest.update(
            task="ioi", corruption="pabc", languages=list(LANGUAGES), model=model.facts(), edges=found.settings,
            weights=model.weight_hash, asked={"n": n, "seed": SEED}, summary={"model": model.id, **found.summary},
        )  # fmt: skip


def measure_blocks(name: str, out: Path, n: int) -> None:
    """Patching by prompt, routes and attribution by block of prompts: what intervals and ceilings are made of."""
    from babelscope.circuits.metrics import logit_differences
    from babelscope.circuits.patching import activation_patching, path_patching
    from babelscope.results import RunWriter

    model, pairs = _prompts(name, n)
    shape = (len(LANGUAGES), model.layers, model.heads, -1)
    prompts = ("language", "layer", "head", "prompt")
    data: dict[str, Any] = {
        label: (prompts, np.stack([sweep(model, own).differences for own in pairs.values()]).reshape(shape))
        for label, sweep in (("patched_prompt", activation_patching), ("direct_prompt", path_patching))
    }
    data["clean_prompt"] = (("language", "prompt"), np.stack([logit_differences(model, own) for own in pairs.values()]))
    data |= _blocks(model, pairs)
    with RunWriter(out, kind="circuits") as run:
        run.arrays(xr.Dataset(data, coords={"language": list(LANGUAGES)}))
        run.table("confirmed", _confirmed(model, pairs, data["block_scores"][1]))
        run.manifest.update(
            task="ioi", corruption="pabc", languages=list(LANGUAGES), model=model.facts(), weights=model.weight_hash,
            asked={"n": n, "seed": SEED, "block": BLOCK}, summary={"model": model.id},
        )  # fmt: skip


def _prompts(name: str, n: int) -> tuple[Any, dict[str, list[Any]]]:
    from babelscope import load_model
    from babelscope.tasks import build_paired

    model = load_model(name)
    sets = build_paired("ioi", model.tokenizer, LANGUAGES, n=n, seed=SEED)
    return model, {code: list(prompts.pairs) for code, prompts in sets.items()}


MEASURES = {"": measure_edges, "-blocks": measure_blocks}


def measured(name: str, out: Path, n: int, only: Sequence[str] = tuple(MEASURES)) -> None:
    """Measure what is not there yet: a run at `out`, and another beside it at `out`-blocks."""
    for suffix in only:
        place = out.with_name(out.name + suffix)
        if not place.exists():
            MEASURES[suffix](name, place, n)


def _blocks(model: Any, pairs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    from babelscope.circuits.atp import attribution_patching
    from babelscope.circuits.attribution import edge_attribution
    from babelscope.circuits.routes import flow_routes

    edges, nodes, routes = [], [], []
    for own in pairs.values():
        parts = [own[start : start + BLOCK] for start in range(0, len(own), BLOCK)]
        edges.append([[edge_attribution(model, part, method).scores for part in parts] for method in METHODS])
        nodes.append([attribution_patching(model, part).heads for part in parts])
        routes.append(flow_routes(model, own).used().reshape(len(parts), -1, model.layers, model.heads).mean(1))
    heads = ("language", "block", "layer", "head")
    return {
        "block_scores": (("language", "method", "block", "writer", "reader"), np.array(edges)),
        "block_atp": (heads, np.array(nodes)),
        "block_routes": (heads, np.array(routes)),
    }


def _confirmed(model: Any, pairs: Mapping[str, Sequence[Any]], scores: Array, top: int = 25) -> pd.DataFrame:
    """True effects, prompt by prompt, of the union of every method's strongest edges."""
    from babelscope.circuits.masked import edge_effects
    from babelscope.circuits.references import reference

    rows: list[dict[str, Any]] = []
    for place, code in enumerate(pairs):
        if code not in CONFIRMED:
            continue
        means = np.abs(scores[place].mean(1))
        chosen = sorted({divmod(int(k), means.shape[2]) for one in means for k in np.argsort(-one.ravel())[:top]})
        effects = edge_effects(model, pairs[code], chosen, reference(model, pairs[code]))
        by_block = effects.reshape(len(chosen), -1, BLOCK).mean(2)
        rows += [
            {"language": code, "writer": row, "reader": column, "block": block, "effect": float(effect)}
            for (row, column), each in zip(chosen, by_block)
            for block, effect in enumerate(each)
        ]
    return pd.DataFrame(rows)


# -- printing -------------------------------------------------------------------------------------------------------


def tell(out: Path) -> None:
    """Every table of the page, as Markdown."""
    from babelscope.plots import frames
    from babelscope.results import open_run

    run = open_run(out)
    arrays = open_run(out.with_name(f"{out.name}-blocks")).arrays().load()
    summary, codes = run.summary, list(run.languages)
    asked, size = run.manifest["asked"], summary["edges_asked"]
    print(f"## Nine languages of IOI in {run.model_name}\n\nn = {asked['n']} scenes, the same in every language; seed")
    print(f"{asked['seed']}; circuits of {size} of {summary['edges_of_model']} edges.\n")
    curve = run.table("edge_curve")
    print(frame(curve.pivot_table(index="budget", columns="language", values="faithfulness")[codes], "share of edges"))
    crossed = run.table("cross_edges")
    crossing = frames.square(crossed, "found_in", "run_on", "faithfulness", codes)
    print(f"### Faithfulness across languages\n\n{frame(crossing, 'found in / run on')}")
    _tell_crossed(crossed)
    found = {code: Circuit.load(run.path / "circuits" / code) for code in codes}
    scores, wiring = arrays.block_scores.values[:, METHODS.index("eap-ig")], found[codes[0]].wiring
    _tell_overlaps(run.table("overlap"), codes)
    halves, spread = half_overlap(scores, wiring, size)
    print("### Edge IoU of circuits from halves of the prompts\n")
    print(f"On the diagonal two halves of one language (the ceiling); {SPLITS} splits, standard deviation over splits")
    print(f"{spread.mean():.2f} on average.\n\n{frame(pd.DataFrame(halves, codes, codes), '')}")
    own, null, p = one_circuit(scores[0], scores[1], wiring, size)
    print(f"en and zh: IoU {own:.2f}; {null:.2f} when scenes change language at random; p = {p_value(p)}\n")
    _tell_related(run.table("overlap"), crossing, halves, arrays, codes)
    _tell_heads(arrays, codes)
    _tell_agreement(run, open_run(out.with_name(f"{out.name}-blocks")).table("confirmed"), arrays)
    _tell_nodes(found, run.table("classification"))


def _tell_crossed(crossed: pd.DataFrame) -> None:
    own, other = (crossed[(crossed.found_in == crossed.run_on) == same] for same in (True, False))
    print(table(
        ["circuit", "mean f", "least", "most"],
        [
            ["of the language itself", *_three(own.faithfulness)],
            ["of another language", *_three(other.faithfulness)],
            ["of another, share of the own circuit's f", *_three(other.share)],
            ["the control task's (no name repeated)", *_three(crossed.control)],
            ["heads renamed inside their layers", *_three(crossed.relabelled)],
            ["random edges, as many", *_three(crossed.random)],
        ],
    ))  # fmt: skip
    between = crossed[crossed.found_in.isin(CONFIRMED) & crossed.run_on.isin(CONFIRMED)]
    rows = [[r.found_in, r.run_on, span(r.faithfulness, r.low, r.high), int(r.prompts)] for r in between.itertuples()]
    print(table(["found in", "run on", "f (95 % interval over prompts)", "prompts"], rows))


def _three(values: pd.Series) -> tuple[float, float, float]:
    return float(values.mean()), float(values.min()), float(values.max())


def _tell_overlaps(overlaps: pd.DataFrame, codes: Sequence[str]) -> None:
    print("### Overlap of all pairs, against heads renamed inside their layers\n")
    rows = []
    for measure, each in overlaps.groupby("measure", sort=False):
        passed = int((each.p <= 0.05).sum())
        rows.append([measure, *_three(each.value), each.null.mean(), f"{passed} of {len(each)}"])
    print(table(["measure", "mean", "least", "most", "null", "pairs with p ≤ 0.05"], rows))
    pair = overlaps[(overlaps.language == "en") & (overlaps.language2 == "zh")]
    rows = [[r.measure, r.value, r.low, r.high, r.null, p_value(r.p), r.ceiling, r.control] for r in pair.itertuples()]
    print(f"en and zh:\n\n{table(['measure', 'value', 'low', 'high', 'null', 'p', 'ceiling', 'control task'], rows)}")
    from babelscope.plots import frames

    for measure in ("edge_iou", "head_frequency_pearson"):
        matrix = frames.square(overlaps[overlaps.measure == measure], "language", "language2", "value", list(codes))
        matrix = matrix.reindex(index=codes, columns=codes)
        print(f"{measure}:\n\n{frame(matrix.combine_first(matrix.T).loc[codes, codes], '')}")


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
    values = {"edge IoU, halves": halves, "patching of heads, Pearson": np.corrcoef(effects)}
    f = crossing.loc[codes, codes].to_numpy(dtype=float)
    values["faithfulness across, share of own"] = (f / np.diag(f)[None] + (f / np.diag(f)[None]).T) / 2
    for measure in ("weighted_jaccard", "score_spearman", "head_frequency_pearson"):
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


def _tell_agreement(run: Any, confirmed: pd.DataFrame, arrays: xr.Dataset) -> None:
    print("### Agreement of methods\n\nOf heads: with activation patching. Spearman of absolute scores, recall of the")
    print(f"ten strongest; bootstrap over blocks of {BLOCK} prompts.\n")
    for what in ("heads", "edges"):
        rows = []
        for code in CONFIRMED:
            methods, truth = _scored(what, code, arrays, confirmed)
            for name, ((s, *ends), (r, *bounds)) in drawn_agreement(methods, truth).items():
                rows.append([code, name, span(s, *ends), span(r, *bounds), truth.shape[1]])
        print(f"{what}:\n\n{table(['language', 'method', 'Spearman', 'recall of 10', 'n'], rows)}")
    every = run.table("agreement")
    every = every[every.method2.isin(["patching", "edge patching"])]
    each = every.groupby(["what", "method"], sort=False)[["spearman", "top_k_recall"]].agg(["mean", "min", "max"])
    print(f"all nine languages, edges patched on the half that did not rank them:\n\n{frame(each, 'what · method')}")


def _scored(what: str, code: str, arrays: xr.Dataset, confirmed: pd.DataFrame) -> tuple[dict[str, Array], Array]:
    """Every method's scores [block, what], and those of patching."""
    one = arrays.sel(language=code)
    edges = {name: one.block_scores.values[place] for place, name in enumerate(METHODS)}
    if what == "edges":
        wide = confirmed[confirmed.language == code].pivot_table(
            index="block", columns=["writer", "reader"], values="effect"
        )
        rows, columns = zip(*wide.columns)
        return {name: scores[:, rows, columns] for name, scores in edges.items()}, wide.to_numpy()
    blocks, layers, heads = one.block_atp.shape
    wiring = Wiring(layers, heads, heads)
    from babelscope.circuits.nodes import Head

    places = [wiring.writer(Head(layer, head)) for layer in range(layers) for head in range(heads)]

    def by_block(values: Array) -> Array:
        return values.reshape(layers * heads, blocks, -1).mean(2).T

    methods = {"routes": one.block_routes.values.reshape(blocks, -1), "atp": one.block_atp.values.reshape(blocks, -1)}
    methods |= {name: scores.sum(2)[:, places] for name, scores in edges.items()}
    methods["path to the logits"] = by_block(one.direct_prompt.values)
    return methods, by_block(one.patched_prompt.values)


def _tell_nodes(found: Mapping[str, Circuit], classes: pd.DataFrame) -> None:
    kinds = classes["class"].where(classes["class"].isin(["shared", "repurposed"]), "one language only")
    counts = classes.assign(kind=kinds).groupby(["language", "language2", "kind"]).size().unstack(fill_value=0)
    share = counts.div(counts.sum(1), axis=0)
    print("### Nodes of two circuits: shared, repurposed, of one language only (share of nodes, over the 36 pairs)\n")
    print(frame(share.agg(["mean", "min", "max"]).T, "class"))
    nodes = {code: {str(node) for node in circuit.nodes} for code, circuit in found.items()}
    everywhere = sorted(set.intersection(*nodes.values()))
    print(f"nodes in all {len(nodes)} circuits ({len(everywhere)}): {', '.join(everywhere)}\n")


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
