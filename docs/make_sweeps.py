"""Print the numbers of `docs/sweeps.md` and draw its pictures of the built-in family.

babelscope sweep pocket-checkpoints --out runs/training
babelscope sweep pocket-scales --out runs/scales
python docs/make_sweeps.py runs/training runs/scales [runs/bible]
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

import babelscope
from babelscope import open_run
from babelscope.results import Run

IMAGES = Path(__file__).parent / "img"
TRAINING = {
    "sweep-training": "training_curves",
    "sweep-flow": "neuron_flow",
    "sweep-layers": "layers_over_training",
    "sweep-region-sizes": "sizes_over_training",
}


def draw(name: str, figure: object) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    Image.open(buffer).convert("RGB").quantize(96).save(IMAGES / f"{name}.png", optimize=True)


def points(run: Run) -> None:
    print(
        "| model | step | LRDS | SADS | SKLR | share of neurons | language share, % | members of regions "
        "| story cloze | cosine, neither same |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in run.table("points").itertuples():
        cloze = [100 * getattr(row, f"accuracy_story_cloze{end}", float("nan")) for end in ("", "_low", "_high")]
        told = f"{cloze[0]:.1f} % ({cloze[1]:.1f}–{cloze[2]:.1f})" if cloze[0] == cloze[0] else "–"
        name = row.model.removeprefix("pocket:")
        members = sum(value for column, value in row._asdict().items() if column.startswith("region_size_"))
        print(
            f"| {name} | {row.step:,} | {row.lrds:.3f} ({row.lrds_low:.3f}–{row.lrds_high:.3f}) "
            f"| {row.sads:.4f} ({row.sads_low:.4f}–{row.sads_high:.4f}) | {row.sklr:,} | {100 * row.sklr_share:.0f} % "
            f"| {row.language_share:.1f} ({row.language_share_low:.1f}–{row.language_share_high:.1f}) | {members:,} "
            f"| {told} | {row.neither:.2f} |"
        )


def flow(run: Run) -> None:
    counted = run.table("flow").groupby(["from", "to"], sort=False)[["kept", "born", "moved", "left", "lost"]].sum()
    counted["kept_share"] = counted["kept"] / (counted["kept"] + counted["born"] + counted["moved"])
    print(counted.to_string())


def main(training: Path, scales: Path, bible: Path | None = None) -> None:
    run = open_run(training)
    points(run)
    flow(run)
    for name, figure in TRAINING.items():
        draw(name, babelscope.draw(run, figure))
    run = open_run(scales)
    points(run)
    overlap = (
        run.table("scale_overlap")
        .groupby(["from", "to"], sort=False)[["overlap", "others"]]
        .agg(["min", "mean", "max"])
    )
    print(overlap.round(3).to_string())
    draw("sweep-scales", babelscope.draw(run, "scale_curves"))
    if bible:
        run = open_run(bible)
        points(run)
        draw("sweep-training-bible", babelscope.draw(run, "training_curves"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
