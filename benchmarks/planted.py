"""Which method finds planted language neurons, at which effect size: precision and recall.

    python -m benchmarks.planted [--repeats 3] [--json FILE]

9 languages × 40 sentences, 1 000 neurons with levels of their own, 10 of them raised in each language by `effect`
standard deviations over sentences. Twenty tokens to a sentence say whether a neuron is active
(lape). `lape`, `eta-squared` and `average-precision` are told the true number of neurons (as `share`), the others are
not told anything. `lape` gives a neuron to every language above a quantile of all probabilities: at the published 0.95
noise passes too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tests.region_data import planted

from babelscope.regions.methods import localise

EFFECTS = (0.5, 1.0, 2.0, 4.0, 6.0)
METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "z-score, z > 2": ("z-score", {}),
    "z-score, z > 2.8": ("z-score", {"threshold": 2.8}),
    "fdr": ("fdr", {"permutations": 1000}),
    "fdr-effect": ("fdr-effect", {"permutations": 1000}),
    "lape, quantile 0.95": ("lape", {"share": 0.09}),
    "lape, quantile 0.99": ("lape", {"share": 0.09, "quantile": 0.99}),
    "average-precision": ("average-precision", {"share": 0.01}),
    "eta-squared": ("eta-squared", {"share": 0.09}),
    "mean-difference": ("mean-difference", {}),
}
CONTROLLED = [name for name in METHODS if name not in ("z-score, z > 2", "lape, quantile 0.95")]
"""those that are to find the planted neurons and no others at the largest effect"""


def quality(name: str, effect: float, repeats: int) -> tuple[float, float, int]:
    """Precision, recall and mean size over repetitions."""
    method, changes = METHODS[name]
    hits = members = true = 0
    for seed in range(repeats):
        recording, truth = planted(effect, seed=seed)
        found = torch.stack([mask.flatten() for mask in localise(recording, method, **changes).masks.values()])
        hits, members, true = hits + int((found & truth).sum()), members + int(found.sum()), true + int(truth.sum())
    return hits / members if members else float("nan"), hits / true, round(members / repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        {"method": name, "effect": effect, "precision": p, "recall": r, "size": size, "repeats": arguments.repeats}
        for name in METHODS
        for effect in EFFECTS
        for p, r, size in [quality(name, effect, arguments.repeats)]
    ]
    print(f"precision / recall over {arguments.repeats} repetitions, 90 planted neurons each\n")
    print(f"| method | {' | '.join(f'{effect:g} sd' for effect in EFFECTS)} |")
    print(f"|---|{'---|' * len(EFFECTS)}")
    for name in METHODS:
        cells = [f"{row['precision']:.2f} / {row['recall']:.2f}" for row in rows if row["method"] == name]
        print(f"| {name} | {' | '.join(cells)} |")
    if arguments.json:
        strong = [row for row in rows if row["effect"] == EFFECTS[-1] and row["method"] in CONTROLLED]
        results = [
            {
                "name": f"{measure} of {row['method']} at {row['effect']:g} sd",
                "value": row[measure],
                "unit": "",
                "bound": 0.95,
                "better": "higher",
            }
            for row in strong
            for measure in ("precision", "recall")
        ]
        arguments.json.write_text(json.dumps({"results": results, "rows": rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
