"""The figures of docs/calibrated-regions.md: python -m benchmarks._calibrated_figures OUT PLANTED.json NAME=RUN …

PLANTED.json is written by `python -m benchmarks.planted --json`; of runs with one NAME the first that holds what a
figure needs is drawn.
"""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from babelscope.figures.palette import COLOURS, MARKERS
from babelscope.results import Run, open_run
from benchmarks._calibrated import dose_effects
from benchmarks._intervals import over

NEGATIVES = {
    "sads": "all other sentences",
    "sads-length-matched": "those of equal length",
    "sads-overlap-matched": "those of equal token overlap",
}
STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}


def save(figure: Figure, path: Path) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)
    print(path, path.stat().st_size)


def regions(named: dict[str, list[Run]]) -> Figure:
    """Region sizes observed, and the middle 95 % under permuted labels."""
    chosen = _first(named, "calibration")
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (name, run) in zip(np.atleast_1d(figure.subplots(1, len(chosen))), chosen.items()):
        sizes, table = run.arrays("null").size_null.values, run.table("calibration")
        low, high = np.quantile(sizes, [0.025, 0.975], axis=0)
        place = np.arange(len(table))
        axes.bar(place, high - low, bottom=low, width=0.8, color="#cccccc", label="permuted labels, middle 95 %")
        axes.plot(place, table.observed, "o", color=COLOURS[1], label="observed")
        axes.set_xticks(place, table.language)
        axes.set_title(f"{name}: SKLR {run.summary['sklr']}, by chance {run.summary['expected_sklr']:.0f}")
        axes.set_ylim(0)
    first = figure.axes[0]
    first.set_ylabel("neurons at z > 2")
    first.legend(fontsize=7)
    return figure


def planted(path: Path) -> Figure:
    """Precision and recall by effect size."""
    rows = json.loads(path.read_text())["rows"]
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), ("precision", "recall")):
        for place, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            mine = [row for row in rows if row["method"] == method]
            colour = COLOURS[place % len(COLOURS)]
            x = [row["effect"] for row in mine]
            low, high = ([row[f"{measure}_{end}"] for row in mine] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            marker = MARKERS[place % len(MARKERS)]
            line = "-" if place < len(COLOURS) else "--"  # colours come round again
            shares = [row[measure] for row in mine]
            axes.plot(x, shares, line, color=colour, marker=marker, markersize=4, label=method)
        axes.axhline(0.95, color="black", linewidth=0.6, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xlabel("planted effect, standard deviations over sentences")
        axes.set_title(measure)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def doses(named: dict[str, list[Run]]) -> Figure:
    """ΔNLL of the own ranking, of the others', and of random neurons, by method and share zeroed."""
    chosen = _first(named, "dose")
    figure = Figure(figsize=(9, 3 * len(chosen)), layout="constrained")
    frames = {name: dose_effects(run).query("kind == 'zero'") for name, run in chosen.items()}
    methods = list(dict.fromkeys(method for frame in frames.values() for method in frame.method))
    grid = figure.subplots(len(chosen), len(methods), sharey="row", squeeze=False)
    kinds = (("own", COLOURS[1], "o"), ("others", COLOURS[0], "s"), ("random", "#777777", "^"))
    for row, (name, frame) in enumerate(frames.items()):
        for axes, method in zip(grid[row], methods):
            mine = frame[frame.method == method]
            for which, colour, marker in kinds:
                bounds = [over(found[which]) for _, found in mine.groupby("share")]
                if not bounds:
                    axes.set_axis_off()
                    continue
                mean, low, high = np.array(bounds).T
                x = sorted(mine.share.unique())
                axes.errorbar(
                    x, mean, [mean - low, high - mean], color=colour, marker=marker, markersize=4, label=which
                )
                axes.set_xscale("log")
                axes.set_xticks(x, [f"{share:.1%}" for share in x], minor=False)
                axes.set_xticks([], minor=True)
            axes.set_title(f"{name}, {method}", fontsize=8)
        grid[row][0].set_ylabel("ΔNLL, nats per token")
    grid[0][0].legend(fontsize=7)
    return figure


def alignment(named: dict[str, list[Run]]) -> Figure:
    """SADS by layer as it is, and against negatives matched in length and in tokens shared."""
    chosen = _first(named, "alignment")
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (name, run) in zip(np.atleast_1d(figure.subplots(1, len(chosen))), chosen.items()):
        table = run.table("alignment")
        for place, (metric, label) in enumerate(NEGATIVES.items()):
            found = table[table.metric == metric].groupby("layer")[["value", "low", "high"]].mean()
            axes.fill_between(found.index, found.low, found.high, color=COLOURS[place], alpha=0.2, linewidth=0)
            axes.plot(found.index, found.value, color=COLOURS[place], marker=MARKERS[place], markersize=4, label=label)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_title(name)
        axes.set_xlabel("layer")
    figure.axes[0].set_ylabel("SADS against")
    figure.axes[0].legend(fontsize=7)
    return figure


def _first(named: dict[str, list[Run]], table: str) -> dict[str, Run]:
    found = {name: [run for run in runs if table in run.tables] for name, runs in named.items()}
    return {name: runs[0] for name, runs in found.items() if runs}


def main() -> None:
    out, measured = Path(sys.argv[1]), Path(sys.argv[2])
    named: dict[str, list[Run]] = {}
    for given in sys.argv[3:]:
        name, _, path = given.partition("=")
        named.setdefault(name, []).append(open_run(path))
    with rc_context(STYLE):
        save(regions(named), out / "calibrated-regions.png")
        save(planted(measured), out / "calibrated-planted.png")
        save(doses(named), out / "calibrated-doses.png")
        save(alignment(named), out / "calibrated-alignment.png")


if __name__ == "__main__":
    main()
