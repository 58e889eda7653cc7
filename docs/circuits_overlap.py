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
from circuits_nine import (
    BLOCK,
    CONFIRMED,
    GROUPS,
    LANGUAGES,
    METHODS,
    crossed_of,
    measured,
    scores_of,
)
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

from babelscope.circuits.comparison.overlap import circuit_overlap, rows
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.edges.circuit import Circuit, greedy_edges
from babelscope.stats import pearson

Array = NDArray[np.float64]
PERMUTATIONS = 39
OVERLAP_SHARE = 0.05
"""edges of the circuits whose overlap is taken, as a share of all"""
MEASURES = ("node_iou", "edge_iou", "weighted_jaccard")


def tell(out: Path) -> None:
    """Every table of the page, as Markdown."""
    tell_crossing(out)
    tell_overlaps(out)
    tell_heads(out)


def tell_crossing(out: Path) -> None:
    """Behaviour, and every language's circuit on every other."""
    from babelscope.figures.facts import square
    from babelscope.results import open_run

    arrays, codes = scores_of(out), list(LANGUAGES)
    crossed, run = crossed_of(out), open_run(out.with_name(f"{out.name}-cross-{'-'.join(GROUPS[0])}"))
    asked, size = run.manifest["asked"], int(crossed.edges.max())
    total = int(_wiring(arrays).allowed.sum())
    print(f"## Nine languages of IOI in {run.model_name}\n\nn = {asked['n']} scenes, the same in every language, seed")
    print(f"{asked['seed']}; circuits of at most {size} of {total} edges.\n")
    rows = [[c, float((x > 0).mean()), *_mean(x)] for c, x in zip(codes, arrays.clean_prompt.values)]
    print(table(["language", "accuracy", "logit difference", "low", "high"], rows))
    print(frame(run.table("curve").pivot_table(index="share", columns="language", values="faithfulness"), "of edges"))
    _, values = square(zip(crossed.found_in, crossed.run_on, crossed.faithfulness), codes)
    crossing = pd.DataFrame(values, index=codes, columns=codes)
    print(f"### Faithfulness across languages\n\n{frame(crossing, 'found in / run on')}")
    _tell_crossed(crossed)
    f = crossing.to_numpy(dtype=float)
    share = f / np.diag(f)[None]
    _tell_related({"faithfulness across, share of own": (share + share.T) / 2}, arrays)


def tell_overlaps(out: Path) -> None:
    """Circuits of equal size compared, with nulls and ceilings; whether related languages share more."""

    arrays, codes = scores_of(out), list(LANGUAGES)
    wiring, scores = _wiring(arrays), arrays.block_eap_ig.values
    size = int(OVERLAP_SHARE * wiring.allowed.sum())
    found = {c: greedy_edges(wiring, x.mean(0), size) for c, x in zip(codes, scores)}
    print(f"### Overlap of circuits of {size} edges ({OVERLAP_SHARE:.0%} of all)\n")
    rows_of = [
        row
        for one, other in combinations(codes, 2)
        for row in rows(one, other, circuit_overlap(found[one], found[other], PERMUTATIONS, SEED, MEASURES))
    ]
    overlaps = pd.DataFrame(rows_of)
    _tell_overlaps(overlaps, codes)
    halves, spread = half_overlap(scores, wiring, size)
    print("### Edge IoU of circuits from halves of the prompts\n")
    print(f"On the diagonal two halves of one language (the ceiling); {SPLITS} splits, standard deviation over splits")
    print(f"{spread.mean():.2f} on average.\n\n{frame(pd.DataFrame(halves, codes, codes), '')}")
    same, other = np.diag(halves), halves[~np.eye(len(codes), dtype=bool)]
    print(f"Mean on the diagonal {same.mean():.2f}, off it {other.mean():.2f}.\n")
    own, null, p = one_circuit(scores[0], scores[1], wiring, size)
    print(f"en and zh: IoU {own:.2f}; {null:.2f} when scenes change language at random; p = {p_value(p)}\n")
    _tell_nodes(found)
    weighted = np.eye(len(codes))
    for row in overlaps[overlaps.measure == "weighted_jaccard"].itertuples():
        a, b = codes.index(row.language), codes.index(row.language2)
        weighted[a, b] = weighted[b, a] = row.value
    effects = arrays.patched_prompt.values.mean(-1).reshape(len(codes), -1)
    routes = arrays.block_routes.values.mean(1).reshape(len(codes), -1)
    values = {"edge IoU, halves": halves, "weighted Jaccard of edges": weighted}
    values |= {"patching of heads, Pearson": np.corrcoef(effects), "routes of heads, Pearson": np.corrcoef(routes)}
    _tell_related(values, arrays)


def tell_heads(out: Path) -> None:
    """Heads of en and zh by patching and routes, and how far the methods agree."""
    from babelscope.results import open_run

    arrays, codes = scores_of(out), list(LANGUAGES)
    _tell_routes(arrays, codes)
    _tell_heads(arrays, codes)
    _tell_agreement(open_run(out.with_name(f"{out.name}-methods-{'-'.join(CONFIRMED)}")))


def _wiring(arrays: xr.Dataset) -> Wiring:
    layers, heads = arrays.block_routes.shape[2:]
    return Wiring(layers, heads, heads)


def _mean(values: Array) -> tuple[float, float, float]:
    from babelscope.stats import bootstrap_mean

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
    from babelscope.figures.facts import square

    print(f"### Overlap of all pairs, against heads renamed inside their layers ({PERMUTATIONS} times)\n")
    rows = []
    for measure, each in overlaps.groupby("measure", sort=False):
        passed = int((each.p <= 0.05).sum())
        rows.append([measure, *_three(each.value), float(each.null.mean()), f"{passed} of {len(each)}"])
    print(table(["measure", "mean", "least", "most", "null", "pairs with p ≤ 0.05"], rows))
    pair = overlaps[(overlaps.language == "en") & (overlaps.language2 == "zh")]
    rows = [[r.measure, r.value, r.null, p_value(r.p)] for r in pair.itertuples()]
    print(f"en and zh:\n\n{table(['measure', 'value', 'null', 'p'], rows)}")
    one = overlaps[overlaps.measure == "edge_iou"]
    _, values = square(zip(one.language, one.language2, one.value), list(codes))
    matrix = pd.DataFrame(values, index=codes, columns=codes)
    print(f"edge IoU:\n\n{frame(matrix.combine_first(matrix.T).loc[codes, codes], '')}")


def _tell_routes(arrays: xr.Dataset, codes: Sequence[str]) -> None:
    """Head activation frequencies of en and zh, and of all pairs."""
    from babelscope.circuits.core.statistics import correlate

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
    print(f"p {p_value(test.p)}, ceiling {ceiling:.2f}; all pairs: mean {every.mean():.2f},")
    print(f"{every.min():.2f} to {every.max():.2f}; intervals from {DRAWS} draws of blocks, the same scenes in both.\n")


def _tell_related(values: Mapping[str, Array], arrays: xr.Dataset) -> None:
    """Do related languages share more? Mantel's test, beside two other reasons to share."""
    codes = list(LANGUAGES)
    level = arrays.clean_prompt.values.mean(1)
    predictors = {
        "relatedness": np.array([[related(a, b) for b in codes] for a in codes]),
        "same script": np.array([[float((a in LATIN) and (b in LATIN)) for b in codes] for a in codes]),
        "equal LD": -np.abs(level[:, None] - level[None]),
    }
    print("### Do related languages share more?\n")
    every = list(combinations(range(len(codes)), 2))
    near = predictors["relatedness"]
    rows = []
    for name, matrix in values.items():
        tests = [mantel(matrix, predictor) for predictor in predictors.values()]
        cells = [f"{r:.2f} (p = {p_value(p)})".replace("-", "−") for r, p in tests]
        means = [float(np.mean([matrix[pair] for pair in every if near[pair] == step])) for step in (2, 1, 0)]
        rows.append([name, *cells, *means])
    head = ["measure", *(f"r with {name}" for name in predictors), "fr–es–pt", "same family", "unrelated"]
    print(table(head, rows))
    print("36 pairs; p one-sided over renamings of the languages (Mantel).\n")


def _tell_heads(arrays: xr.Dataset, codes: Sequence[str]) -> None:
    """Correlation of patching effects of en and zh, its ceiling, and the heads that differ."""
    from babelscope.circuits.core.statistics import correlate, prompt_test
    from babelscope.stats import benjamini_hochberg

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
    differ = benjamini_hochberg(prompt_test(gap))
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
    print(f"95 % intervals from {DRAWS} draws of blocks of {BLOCK} prompts.\n")
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
    from babelscope.circuits.comparison.transfer import classify

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
