"""Do verdicts of claims hold what they promise? False "holds" on nulls, power, and the printed n.

    python -m benchmarks.claims [--repeats 400] [--json FILE]

- null: the truth lies at the bar, where "holds" is false; at most 2.5 % (+ 2 standard errors) may say it, for one part
  and for several together. Means of normal items, of skewed ones and of shares, 40 items a part, with the interval that
  claims use; and SADS and LRDS of a recording whose ids or labels were permuted anew each time, with their own controls
- power: the truth lies three standard errors above the bar; "holds" must come up in at least 80 % (one part)
- printed n: where a verdict is undecided and prints an n, new items of that number must decide in at least 70 %
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babelscope.claims.case import Case
from babelscope.claims.measures.regions import score_part
from babelscope.claims.verdict import aggregate, judge, mean_part
from babelscope.regions import nulls, similarity
from babelscope.regions.recording import Recording

Array = NDArray[np.float64]
ITEMS, BAR = 40, 0.1
MOST = 4000
"""items beyond which a printed n is not tried"""
DRAWN: dict[str, tuple[Callable[[np.random.Generator, int], Array], float]] = {
    "normal": (lambda rng, n: rng.normal(0, 1, n), 1.0),
    "skewed (exponential)": (lambda rng, n: rng.exponential(1, n) - 1, 1.0),
    "share of 0.3": (lambda rng, n: (rng.random(n) < 0.3) - 0.3, 0.21**0.5),
}
"""items of mean 0, and their standard deviation"""


def holds(
    rng: np.random.Generator, draw: Callable[[np.random.Generator, int], Array], truth: float, parts: int
) -> bool:
    """Whether a claim of some parts, all with this truth, is said to hold."""
    found = [mean_part(str(place), truth + draw(rng, ITEMS), "items", parts) for place in range(parts)]
    return aggregate({one.name: judge(one, "greater", BAR) for one in found}).answer == "holds"


def decided(rng: np.random.Generator, draw: Callable[[np.random.Generator, int], Array], truth: float) -> bool | None:
    """Whether new items of the printed number decide; None where the first ones did, or no number was printed."""
    first = judge(mean_part("x", truth + draw(rng, ITEMS), "items", 1), "greater", BAR)
    if first.needed is None or first.needed > MOST:
        return None
    again = judge(mean_part("x", truth + draw(rng, first.needed), "items", 1), "greater", BAR)
    return again.answer != "cannot be decided"


def similarity_holds(recording: Recording, name: str, seed: int) -> bool:
    """Whether SADS (LRDS) of a recording whose ids (labels) were permuted is said to hold beyond its control alone."""
    rng = np.random.default_rng(seed)
    means = np.asarray(recording.means)
    languages, sentences = means.shape[:2]
    if name == "SADS":
        moved = np.stack([rows[rng.permutation(sentences)] for rows in means])
    else:
        order = rng.permuted(np.tile(np.arange(languages)[:, None], sentences), axis=0)
        moved = np.take_along_axis(means, order[..., None], 0)
    changed = replace(recording, means=moved)
    null = (nulls.sentence_null if name == "SADS" else nulls.label_null)(similarity.gram(changed), 40, seed)
    part = score_part(name, changed, null, Case((), "", "", sentences, seed, bootstrap=200))
    return judge(part, "greater", 1e-9).answer == "holds"


def main() -> None:
    from babelscope import load_model
    from babelscope.corpora import load_corpus
    from babelscope.regions.recording import record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    count = given.repeats
    found: dict[str, dict[str, float]] = {}
    for name, (draw, spread) in DRAWN.items():
        rng = np.random.default_rng(0)
        error = spread / ITEMS**0.5
        tried = [decided(rng, draw, BAR + 1.5 * error) for _ in range(count)]
        printed = [one for one in tried if one is not None]
        found[name] = {
            "null, 1 part": float(np.mean([holds(rng, draw, BAR, 1) for _ in range(count)])),
            "null, 5 parts": float(np.mean([holds(rng, draw, BAR, 5) for _ in range(count)])),
            "power": float(np.mean([holds(rng, draw, BAR + 3 * error, 1) for _ in range(count)])),
            "printed n decides": float(np.mean(printed)),
            "printed n tried": len(printed),
        }
    corpus = load_corpus("pocket:heldout", ("en", "fr", "zh")).sample(30, 0)
    recording = record(load_model("pocket:pocket-bloom-s"), corpus)
    for name in ("SADS", "LRDS"):
        false = [similarity_holds(recording, name, seed) for seed in range(count)]
        found[f"{name}, permuted"] = {"null, 1 part": float(np.mean(false))}
    columns = ("null, 1 part", "null, 5 parts", "power", "printed n decides")
    print(f"| {count} data sets each | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, row in found.items():
        cells = [f"{100 * row[column]:.1f} %" if column in row else "–" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")
    allowed = 0.025 + 2 * (0.025 * 0.975 / count) ** 0.5
    print(f"\nAllowed: false at most {100 * allowed:.1f} %; power at least 80 %; the printed n at least 70 %.")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
