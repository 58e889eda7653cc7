"""The tables of docs/calibrated-regions.md, from runs of `babelscope regions`: python -m benchmarks._calibrated RUN …

A dash in the place of a number or an interval means that there is none, for the reason in the table's title.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from babelscope.regions import load_regions
from babelscope.results import Run, open_run
from benchmarks._intervals import between, cell, mantel, over, spread, wilson


def markdown(title: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    head = list(head)
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(cell(value) for value in row)} |")


def interval(row: Any, prefix: str = "") -> str:
    return between(row[f"{prefix}low"], row[f"{prefix}high"])


def units(run: Run) -> str:
    """What intervals over text resample: documents, or sentences where the corpus names none."""
    documents = run.summary.get("documents")
    return f"{documents} documents" if documents else f"{run.summary['n']} sentences"


def headline(run: Run) -> None:
    summary = run.summary
    if "excess_sklr" not in summary:
        return
    neurons, boot = summary["neurons"], summary["sklr_bootstrap_interval"]
    null = run.arrays("null").sklr_null.values
    low, high = np.quantile(null, [0.025, 0.975])
    rows = [
        ("SKLR", summary["sklr"], f"{between(*boot)}, {units(run)} resampled"),
        ("SKLR as a share of neurons", summary["sklr_share"], between(*(bound / neurons for bound in boot))),
        ("expected SKLR under permuted labels", summary["expected_sklr"], f"{between(low, high)}, middle of the draws"),
        ("excess SKLR", summary["excess_sklr"], f"{between(*summary['intervals']['excess_sklr'])}, {units(run)}"),
        ("p of SKLR", summary["p_sklr"], f"– (of {summary['permutations']} draws)"),
    ]
    for name in ("lrds", "sads"):
        rows.append((name.upper(), summary[name], f"{between(*summary['intervals'][name])}, {units(run)}"))
        rows.append((f"{name.upper()} under its null", "–", between(*summary[f"{name}_null_ends"])))
    title = (
        f"{run.model_name}: {summary['n']} sentences × {len(run.languages)} languages, {neurons} neurons, "
        f"{summary['permutations']} permutations"
    )
    markdown(title, ("", "value", "95 %"), rows)


def calibration(run: Run) -> None:
    if "calibration" not in run.tables:
        return
    table = run.table("calibration").merge(run.table("stability"), on="language")
    rows = [
        (
            row["language"],
            int(row["observed"]),
            between(row["size_low"], row["size_high"]),
            float(row["expected_null"]),
            float(row["excess"]),
            between(row["excess_low"], row["excess_high"]),
            float(row["p"]),
            f"{cell(row['split_half_jaccard'])} ({between(row['split_half_low'], row['split_half_high'])})",
            float(row["chance_jaccard"]),
        )
        for row in table.to_dict("records")
    ]
    head = ("language", "size", "95 % resampled", "by chance", "excess", "95 %", "p", "split-half Jaccard", "by chance")
    markdown(f"Regions at z > 2 against chance, and found again (n = {run.summary['n']} sentences)", head, rows)


def methods(run: Run) -> None:
    if "agreement" not in run.tables:
        return
    sizes, agreement = run.table("methods"), run.table("agreement")
    rows: list[tuple[Any, ...]] = []
    for method, found in sizes.groupby("method", sort=False):
        pair = _pair(agreement, str(method), "z-score")
        rows.append(
            (
                method,
                int(found["size"].sum()),
                float(found["size"].sum() / found.neurons.iloc[0]),
                int(found.shared_with_others.sum()),
                float(found.raised.sum() / max(found["size"].sum(), 1)) if "raised" in found else float("nan"),
                spread(found.mean_depth / (run.arrays().sizes["layer"] - 1)),
                spread(pair.jaccard),
                float(pair.chance.mean()),
                spread(pair.spearman),
            )
        )
    head = ("method", "size", "share of neurons", "shared", "raised", "depth", "Jaccard with z-score", "by chance")
    count = len(run.languages)
    markdown(
        f"By method: sizes are counts of one recording (no interval); the rest mean over {count} languages, 95 % over "
        f"languages; n = {run.summary['n']} sentences",
        (*head, "rank correlation"),
        rows,
    )
    names = [str(name) for name in sizes.method.unique()]
    short = [name for name in names if not name.startswith("random")]
    matrix = [
        (one, *("" if one == other else spread_of_pair(agreement, one, other) for other in short)) for one in names
    ]
    markdown(
        f"Jaccard index less chance of every two methods, mean over {count} languages (95 % over languages)",
        ("", *short),
        matrix,
    )


def _pair(agreement: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    there = (agreement.method == one) & (agreement.method2 == other)
    back = (agreement.method == other) & (agreement.method2 == one)
    return agreement[there | back]


def spread_of_pair(agreement: pd.DataFrame, one: str, other: str) -> str:
    found = _pair(agreement, one, other)
    return spread(found.jaccard - found.chance)


def dose_effects(run: Run) -> pd.DataFrame:
    """One row per method, kind, share and language: ΔNLL of its own ranking, of the others', of random neurons."""
    table = run.table("dose")
    rows: list[dict[str, Any]] = []
    for (method, kind, share, matched), found in table.groupby(["method", "kind", "share", "matched"], sort=False):
        mine = found[found.region == matched].set_index("language").delta_nll
        control = found[found.region == "random-layer"].groupby("language").delta_nll.mean()
        rows.append(
            {"method": method, "kind": kind, "share": share, "language": matched, "neurons": found.neurons.iloc[0]}
            | {"own": mine[matched], "others": mine.drop(matched).mean(), "random": control.get(matched, np.nan)}
        )
    return pd.DataFrame(rows)


def doses(run: Run) -> None:
    if "dose" not in run.tables:
        return
    effects = dose_effects(run)
    rows: list[tuple[Any, ...]] = []
    for (method, kind, share), found in effects.groupby(["method", "kind", "share"], sort=False):
        beyond = over(found.own - found.random)
        selective = over(found.own - found.others)
        rows.append(
            (
                method,
                kind,
                f"{share:.1%} ({int(found.neurons.iloc[0])})",
                *(spread(found[name]) for name in ("own", "others", "random")),
                f"{cell(selective[0])} ({between(*selective[1:])})",
                f"{int((found.own > found.others).sum())} of {len(found)}",
                f"{cell(beyond[0])} ({between(*beyond[1:])})",
                f"{int((found.own > found.random).sum())} of {len(found)}",
            )
        )
    head = ("method", "kind", "share (neurons)", "own", "others", "random by layer", "own − others", "languages")
    table, scored = run.table("dose"), run.manifest["defaults"]["window"]
    tokens = sum(one["windows"] * (one["tokens"] - 1) for one in scored.values()) // len(scored)
    markdown(
        f"The top share of each ranking treated: ΔNLL in nats per token, mean over {len(run.languages)} languages (95 %"
        f" over languages); {tokens} tokens in {int(table.documents.median())} documents per language",
        (*head, "own − random", "languages"),
        rows,
    )


def perplexity(run: Run) -> None:
    if "selectivity" not in run.tables:
        return
    table, rows = run.table("perplexity"), []
    for row in run.table("selectivity").to_dict("records"):
        mine = table[table.language == row["language"]]
        own = mine[mine.deactivated == row["language"]].iloc[0]
        random = mine[mine.deactivated == "random-layer"].delta_nll
        base = mine[mine.deactivated == "base"].iloc[0]
        rows.append(
            (
                row["language"],
                float(base.perplexity),
                int(own.neurons),
                f"{cell(row['own'])} ({interval(own, 'delta_')})",
                float(row["others"]),
                f"{cell(row['selectivity'])} ({between(row['low'], row['high'])})",
                spread(random),
                int(row["documents"]),
            )
        )
    head = ("language", "perplexity", "neurons", "own ΔNLL", "others", "own − others", "random by layer", "documents")
    draws = int(table[table.deactivated == "random-layer"].draw.nunique())
    markdown(
        "Whole regions at z > 2 switched off, nats per token; 95 % over documents (– with fewer than three), of random "
        f"neurons over {draws} draws, as many of every layer as the language's own region; perplexity: a fact of the "
        "text, no interval",
        head,
        rows,
    )


LOCATED = ("z-score", "fdr-effect", "lape", "average-precision", "eta-squared")


def layers(run: Run) -> None:
    if "alignment" not in run.tables:
        return
    arrays = run.arrays()
    width, count = arrays.sizes["neuron"], len(run.languages)
    sets = {name: load_regions(run.file(f"regions/{name}.safetensors")) for name in LOCATED}
    rows = [
        (
            layer,
            *(
                f"{cell(float(arrays[name][layer]))} "
                f"({between(float(arrays[f'{name}_low'][layer]), float(arrays[f'{name}_high'][layer]))})"
                for name in ("lrds_layer", "sads_layer")
            ),
            *(spread([sizes[layer] / width for sizes in found.by_layer().values()]) for found in sets.values()),
        )
        for layer in range(arrays.sizes["layer"])
    ]
    markdown(
        f"By layer: LRDS and SADS (95 % over {units(run)}), and the share of the layer's neurons in a "
        f"language's region, mean over {count} languages (95 % over languages)",
        ("layer", "LRDS", "SADS", *sets),
        rows,
    )


def alignment(run: Run) -> None:
    if "alignment" not in run.tables:
        return
    table = run.table("alignment")
    by_layer = table[table.layer.notna()]
    beside = table[table.layer.isna()].pivot_table(index=["language", "language2"], columns="metric", values="value")
    places = sorted(by_layer.layer.unique())
    # the first, the middle and the last one: the run holds them all
    shown = [places[0], places[len(places) // 2], places[-1]]
    rows: list[tuple[Any, ...]] = []
    for metric, found in by_layer.groupby("metric", sort=False):
        bounds = found.groupby("layer")[["value", "low", "high"]].mean().loc[shown]
        by_pair = found.groupby(["language", "language2"]).value.mean().reindex(beside.index)
        overlap, script = (mantel(by_pair, beside[name]) for name in ("token-overlap", "same-script"))
        rows.append(
            (
                metric,
                *(f"{cell(row['value'])} ({between(row['low'], row['high'])})" for row in bounds.to_dict("records")),
                f"{overlap[0]:.2f} (p = {overlap[1]:.2g})",
                f"{script[0]:.2f} (p = {script[1]:.2g})",
            )
        )
    head = ("metric", *(f"layer {place:g}" for place in shown), "ρ with token overlap", "ρ with same script")
    pairs = len(beside)
    markdown(
        f"Alignment, mean over {pairs} language pairs (mean of the pairs' 95 % bounds over {units(run)}); ρ over "
        "pairs, p by permuting languages",
        head,
        rows,
    )


def alignment_neurons(run: Run) -> None:
    if "alignment_neurons" not in run.tables:
        return
    table = run.table("alignment_neurons")
    rows: list[tuple[Any, ...]] = []
    for (share, condition, measure), found in table.groupby(["share", "deactivated", "measure"], sort=False):
        found = found[~found.language.isin(["mean", "others"])] if measure == "story_cloze" else found
        random = condition == "random-layer"
        per_draw = found.groupby("draw").value.mean()
        one = measure in ("sads", "lrds", "sads_left") and not random
        value = f"{cell(found.value.iloc[0])} ({interval(found.iloc[0])})" if one else None
        if measure == "story_cloze" and not random:
            value = spread(found.value)
        rows.append(
            (
                f"{share:.0%} ({int(found.neurons.iloc[0])})" if share else "–",
                condition,
                measure,
                value or (spread(per_draw) if random else spread(found.value)),
                "draws" if random else units(run).split()[1] if one else "languages",
                int(len(per_draw) if random else units(run).split()[0] if one else len(found)),
            )
        )
    head = ("share (neurons)", "switched off", "measure", "value (95 %)", "interval over", "n")
    markdown("Alignment neurons: the top shares of SADS switched off", head, rows)


def writing(run: Run) -> None:
    if "generation_shares" in run.tables:
        table = run.table("generations")
        table = table[~table.deactivated.str.contains(" to ")]
        groups = {
            "nothing": table.deactivated == "base",
            "own region": table.deactivated == table.language,
            "another's region": ~table.deactivated.isin(["base", "random-layer"])
            & (table.deactivated != table.language),
            "random by layer": table.deactivated == "random-layer",
        }
        rows = [
            (
                name,
                int(kept.sum()),
                wilson((table[kept].identified == table[kept].language).tolist()),
                *(spread(table[kept][measure]) for measure in ("broken_share", "distinct_1", "distinct_2")),
            )
            for name, kept in groups.items()
        ]
        head = ("switched off", "n", "in their language", "broken UTF-8", "distinct-1", "distinct-2")
        markdown("Continuations (95 % over continuations)", head, rows)


PARTS: tuple[Callable[[Run], None], ...] = (
    headline,
    calibration,
    methods,
    perplexity,
    doses,
    layers,
    alignment,
    alignment_neurons,
    writing,
)


def main() -> None:
    for path in sys.argv[1:]:
        run = open_run(path)
        for part in PARTS:
            part(run)


if __name__ == "__main__":
    main()
