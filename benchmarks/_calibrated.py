"""The tables of docs/calibrated-regions.md, from a run of `babelscope regions`: python -m benchmarks._calibrated RUN"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from babelscope.results import Run, open_run


def markdown(title: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    head = list(head)
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(_cell(value) for value in row)} |")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def between(low: float, high: float) -> str:
    return f"{_cell(float(low))} to {_cell(float(high))}"


def headline(run: Run) -> None:
    summary = run.summary
    print(
        f"{run.model_name}: n = {summary['n']} sentences × {len(run.languages)} languages, "
        f"{summary['neurons']} neurons, B = {summary['permutations']}"
    )
    rows = [
        ("SKLR", summary["sklr"], between(*summary["sklr_bootstrap_interval"])),
        ("SKLR as a share of neurons", summary["sklr_share"], "–"),
        ("expected under permuted labels", summary["expected_sklr"], "–"),
        ("excess SKLR", summary["excess_sklr"], between(*summary["excess_sklr_interval"])),
        ("p of SKLR", summary["p_sklr"], "–"),
    ]
    for name in ("lrds", "sads"):
        rows.append((name.upper(), summary[name], between(*summary["intervals"][name])))
        rows.append((f"{name.upper()} under its null (middle 95 %)", "–", between(*summary[f"{name}_null_interval"])))
    markdown("Headline", ("", "value", "95 % interval"), rows)


def calibration(run: Run) -> None:
    table = run.table("calibration").merge(run.table("stability"), on="language")
    markdown(
        "Regions at z > 2 against chance, and found again",
        ("language", "size", "95 % (bootstrap)", "by chance", "excess", "95 %", "p", "split-half Jaccard", "by chance"),
        (
            (
                row["language"],
                int(row["observed"]),
                between(row["size_low"], row["size_high"]),
                float(row["expected_null"]),
                float(row["excess"]),
                between(row["excess_low"], row["excess_high"]),
                float(row["p"]),
                float(row["split_half_jaccard"]),
                float(row["chance_jaccard"]),
            )
            for row in table.to_dict("records")
        ),
    )


def methods(run: Run) -> None:
    sizes, agreement = run.table("methods"), run.table("agreement")
    rows: list[tuple[Any, ...]] = []
    for method, found in sizes.groupby("method", sort=False):
        with_z = agreement[
            ((agreement.method == method) & (agreement.method2 == "z-score"))
            | ((agreement.method2 == method) & (agreement.method == "z-score"))
        ]
        rows.append(
            (
                method,
                int(found["size"].sum()),
                float(found["size"].sum() / found.neurons.iloc[0]),
                int(found.shared_with_others.sum()),
                float(found.raised.sum() / max(found["size"].sum(), 1)) if "raised" in found else float("nan"),
                float(with_z.jaccard.mean()),
                float(with_z.chance.mean()),
                float(with_z.spearman.mean()),
            )
        )
    markdown(
        "By method (mean over languages)",
        (
            "method",
            "size",
            "share of neurons",
            "shared",
            "raised",
            "Jaccard with z-score",
            "by chance",
            "rank correlation",
        ),
        rows,
    )


def doses(run: Run) -> None:
    if "dose" not in run.tables:
        return
    table = run.table("dose")
    rows: list[tuple[Any, ...]] = []
    for (method, kind, share), found in table.groupby(["method", "kind", "share"], sort=False):
        own = found[(found.region == found.matched) & (found.language == found.matched)].set_index("language").delta_nll
        away = found[(found.region == found.matched) & (found.language != found.matched)]
        control = found[found.region == "random-layer"]
        others = away.groupby("matched").delta_nll.mean()
        random = control[control.language == control.matched].groupby("matched").delta_nll.mean()
        selective = int((own > others.reindex(own.index)).sum())
        beyond = int((own > random.reindex(own.index)).sum())
        rows.append(
            (
                method,
                kind,
                float(share),
                float(own.mean()),
                float(others.mean()),
                float(random.mean()),
                f"{selective} of {len(own)}",
                f"{beyond} of {len(own)}",
            )
        )
    markdown(
        "The top share of each ranking deactivated: ΔNLL in nats per token, mean over languages",
        ("method", "kind", "share", "own", "others", "random, own", "own > others", "own > random"),
        rows,
    )


def perplexity(run: Run) -> None:
    if "selectivity" not in run.tables:
        return
    table, rows = run.table("perplexity"), []
    for row in run.table("selectivity").to_dict("records"):
        mine = table[table.language == row["language"]]
        random = mine[mine.deactivated == "random-layer"].delta_nll
        rows.append(
            (
                row["language"],
                float(row["own"]),
                float(row["others"]),
                between(row["low"], row["high"]),
                f"{random.mean():.3g} ± {random.std():.2g}",
                int(row["documents"]),
            )
        )
    head = ("language", "own ΔNLL", "others", "own − others, 95 %", "random by layer", "documents")
    markdown("Whole regions at z > 2 deactivated", head, rows)


def alignment(run: Run) -> None:
    table = run.table("alignment")
    layers = table[table.layer.notna()]
    beside = table[table.layer.isna()].pivot_table(index=["language", "language2"], columns="metric", values="value")
    rows: list[tuple[Any, ...]] = []
    for metric, found in layers.groupby("metric", sort=False):
        by_layer = found.groupby("layer").value.mean()
        by_pair = found.groupby(["language", "language2"]).value.mean().reindex(beside.index)
        rows.append(
            (
                metric,
                *map(float, by_layer),
                float(by_pair.corr(beside["token-overlap"], method="spearman")),
                float(by_pair[beside["same-script"] == 1].mean() - by_pair[beside["same-script"] == 0].mean()),
            )
        )
    count = len(rows[0]) - 3
    head = ("metric", *(f"layer {place}" for place in range(count)), "ρ with token overlap", "same − other script")
    markdown("Alignment, mean over language pairs", head, rows)


def alignment_neurons(run: Run) -> None:
    if "alignment_neurons" not in run.tables:
        return
    table = run.table("alignment_neurons")
    columns = table.groupby(["deactivated", "share", "measure"], sort=False).value.agg(["mean", "std", "count"])
    rows = [
        (*key, float(row["mean"]), float(row["std"]), int(row["count"]))
        for key, row in zip(columns.index, columns.to_dict("records"))
    ]
    markdown("Alignment neurons off", ("deactivated", "share", "measure", "mean", "spread", "values"), rows)


def writing(run: Run) -> None:
    if "generation_shares" in run.tables:
        table = run.table("generation_shares")
        groups = {
            "base": table.deactivated == "base",
            "own region": table.deactivated == table.language,
            "another's region": ~table.deactivated.isin(["base", "random-layer"])
            & (table.deactivated != table.language),
            "random by layer": table.deactivated == "random-layer",
        }
        names = ["own_share", "broken_share", "distinct_1", "distinct_2"]
        rows = [
            (name, int(table[kept].n.sum()), *map(float, table[kept][names].mean())) for name, kept in groups.items()
        ]
        markdown(
            "Continuations", ("switched off", "n", "in their language", "broken", "distinct-1", "distinct-2"), rows
        )
    if "steering" in run.tables:
        table = run.table("steering")
        rows = [
            (
                f"{row['source']} to {row['target']}",
                row["condition"],
                int(row["neurons"]),
                float(row["success"]),
                between(row["low"], row["high"]),
                int(row["n"]),
                float(row["distinct_2"]),
            )
            for row in table.to_dict("records")
        ]
        markdown("Steering", ("", "condition", "neurons", "success", "95 %", "n", "distinct-2"), rows)


PARTS: tuple[Callable[[Run], None], ...] = (
    headline,
    calibration,
    methods,
    perplexity,
    doses,
    alignment,
    alignment_neurons,
    writing,
)


def main() -> None:
    pd.set_option("mode.copy_on_write", True)
    for path in sys.argv[1:]:
        run = open_run(path)
        for part in PARTS:
            part(run)


if __name__ == "__main__":
    main()
