"""Print the tables of circuits-overlap.md: nine languages of IOI in one model, and how far their circuits are the same.

    python docs/circuits_overlap.py runs/ioi9 [--model pocket:pocket-bloom-m] [--n 96]

Measures first when there is no run at that place; otherwise only prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
GROUPS = {
    "Romance": ("fr", "es", "pt"),
    "Indo-European": ("en", "fr", "es", "pt", "hi"),
    "Latin script": ("en", "fr", "es", "pt", "vi", "id"),
    "other scripts": ("zh", "ar", "hi"),
}


def measure(name: str, out: Path, n: int) -> None:
    """Paired prompts, activation patching, routes, edges; into a run directory."""
    from babelscope import load_model
    from babelscope.circuits.patching import activation_patching
    from babelscope.results import RunWriter
    from babelscope.studies.circuit_edges import EdgeSettings, control_prompts, find_edges
    from babelscope.studies.progress import bars
    from babelscope.tasks import build_paired

    model = load_model(name)
    sets = build_paired("ioi", model.tokenizer, LANGUAGES, n=n)
    pairs = {code: list(prompts.pairs) for code, prompts in sets.items()}
    patching = {code: activation_patching(model, own).heads() for code, own in pairs.items()}
    controls = control_prompts(model, "ioi", LANGUAGES, n // 2)
    found = find_edges(model, pairs, EdgeSettings(), patching, controls=controls, progress=bars)
    with RunWriter(out, kind="circuits") as run:
        found.write(run)
        run.manifest.update(
            task="ioi",
            corruption="pabc",
            languages=list(LANGUAGES),
            model=model.facts(),
            edges=found.settings,
            summary={"model": model.id, **found.summary},
        )


def tell(out: Path) -> None:
    """Every table of the page, as Markdown."""
    from babelscope.plots import frames
    from babelscope.results import open_run

    run = open_run(out)
    summary, codes = run.summary, list(run.languages)
    edges, model = summary["edges_asked"], summary["edges_of_model"]
    print(f"{run.model_name}: circuits of {edges} of {model} edges ({edges / model:.1%})\n")
    curve = run.table("edge_curve")
    print(_markdown(curve.pivot_table(index="budget", columns="language", values="faithfulness")[codes], "share"))
    crossed = run.table("cross_edges")
    matrix = frames.square(crossed, "found_in", "run_on", "faithfulness", codes)
    print(_markdown(matrix, "found in / run on"))
    columns = ["random", "relabelled", "control"]
    print(_markdown(crossed.groupby("found_in")[columns].mean().loc[codes], "found in"))
    own = crossed[crossed.found_in == crossed.run_on].faithfulness
    other = crossed[crossed.found_in != crossed.run_on]
    print(f"own circuit: mean f = {own.mean():.2f}; another language's: {other.faithfulness.mean():.2f}")
    print(f"(from {other.faithfulness.min():.2f} to {other.faithfulness.max():.2f})\n")
    overlaps = run.table("overlap")
    print(_markdown(overlaps.groupby("measure")[["value", "null", "p"]].agg(["mean", "min", "max"]), "measure"))
    for measure in ("edge_iou", "head_frequency_pearson"):
        rows = overlaps[overlaps.measure == measure]
        matrix = frames.square(rows, "language", "language2", "value", codes)
        matrix = matrix.reindex(index=codes, columns=codes)
        print(f"{measure}\n\n{_markdown(matrix.combine_first(matrix.T)[codes].loc[codes], '')}")
        print(_groups(rows, measure))
    print(
        _groups(other.rename(columns={"found_in": "language", "run_on": "language2"}), "faithfulness", "faithfulness")
    )
    keys = ["what", "method", "method2"]
    agreement = run.table("agreement").groupby(keys, sort=False)[["spearman", "pearson", "top_k_recall"]].mean()
    print(_markdown(agreement, " · ".join(keys)))
    classes = run.table("classification")
    kinds = classes["class"].where(classes["class"].isin(["shared", "repurposed"]), "one language only")
    print(classes.assign(kind=kinds).groupby("kind").size().to_string(), "\n")
    everywhere = _in_all(run.path, codes)
    print(f"nodes in all {len(codes)} circuits: {', '.join(everywhere)}")


def _in_all(folder: Path, codes: Iterable[str]) -> list[str]:
    from babelscope.circuits.circuit import Circuit

    nodes = [{str(node) for node in Circuit.load(folder / "circuits" / code).nodes} for code in codes]
    return sorted(set.intersection(*nodes))


def _groups(rows: pd.DataFrame, name: str, value: str = "value") -> str:
    """Mean within each group of languages against every other set of as many languages."""
    codes = sorted(set(rows.language) | set(rows.language2))
    found = {(row.language, row.language2): getattr(row, value) for row in rows.itertuples()}

    def mean(group: Iterable[str]) -> float:
        return float(np.mean([found[a, b] for a in group for b in group if (a, b) in found]))

    lines = [f"| {name} within | mean | of all sets as large: mean | share at least as high |", "|---|---|---|---|"]
    for group, members in GROUPS.items():
        every = [mean(other) for other in combinations(codes, len(members))]
        own = mean(members)
        p = float(np.mean([other >= own - 1e-12 for other in every]))
        lines.append(f"| {group} | {own:.3f} | {np.mean(every):.3f} | {p:.2f} |")
    return "\n".join(lines) + "\n"


def _markdown(frame: pd.DataFrame, corner: str) -> str:
    flat = [" ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in frame.columns]
    lines = [f"| {corner} | " + " | ".join(flat) + " |", "|---" * (len(flat) + 1) + "|"]
    for index, row in zip(frame.index, frame.to_numpy()):
        name = " · ".join(map(str, index)) if isinstance(index, tuple) else str(index)
        lines.append(f"| {name} | " + " | ".join("" if np.isnan(v) else f"{v:.2f}" for v in row) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="pocket:pocket-bloom-m")
    parser.add_argument("--n", type=int, default=96)
    given = parser.parse_args()
    if not given.run.exists():
        measure(given.model, given.run, given.n)
    tell(given.run)


if __name__ == "__main__":
    main()
