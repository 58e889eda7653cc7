"""Is the permutation null calibrated? Recordings whose labels were permuted must look like nothing.

    python -m benchmarks.calibration [--repeats 200] [--model pocket:pocket-bloom-m] [--json FILE]

A recording of a trained model on 100 held-out sentences in nine languages, its language labels permuted anew within
each sentence in every repetition: meanings, neurons that move together and heavy tails stay, languages go.

- excess SKLR of all neurons (B = 200): how often its 95 % interval holds 0, and its mean over repetitions
- p of one neuron and language per repetition (those of one recording depend on each other): Kolmogorov–Smirnov against
  the uniform distribution
- regions at a false discovery rate of 5 %: how often they are empty. Fifty neurons at a time with B = 1000, so that one
  neuron alone can pass (fifty at 0.05 need one at the smallest p); every neuron kept would be a false one, so regions
  must be empty in 95 % of repetitions or more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from babelscope import load_model
from babelscope.corpora import load_corpus
from babelscope.regions.generation import share
from babelscope.regions.nulls import score_null
from babelscope.regions.recording import Recording, record
from babelscope.stats import benjamini_hochberg

LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
RATE, FEW = 0.05, 50


def permuted(recording: Recording, seed: int, columns: torch.Tensor | None = None) -> Recording:
    """Labels permuted within each sentence; of some neurons only, their norms kept."""
    generator = torch.Generator().manual_seed(seed)
    values = recording.values()
    order = torch.rand(*values.shape[:2], generator=generator).argsort(0)
    # unit vectors first: a part of the neurons must not be scaled by its own norm
    units = (values.double() / recording.norms()[..., None]).gather(0, order[..., None].expand_as(values))
    kept = units if columns is None else units[..., columns]
    return Recording(recording.languages, recording.ids, 1, kept.float().numpy(), recording.tokens, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--model", default="pocket:pocket-bloom-m")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    from scipy.stats import kstest, t

    recording = record(load_model(given.model), load_corpus("pocket:heldout", LANGUAGES).sample(100, 0))
    inside: list[bool] = []
    empty: dict[str, list[bool]] = {"fdr": [], "fdr-effect": []}
    excess: list[float] = []
    p: dict[str, list[float]] = {"z": [], "effect": []}
    expected = 0.0
    for seed in range(given.repeats):
        whole = score_null(permuted(recording, seed), 200, seed=10_000 + seed)
        low, high = whole.null_ends
        inside.append(low <= whole.sklr <= high)
        excess.append(whole.excess)
        expected += float(whole.sklr_null.double().mean()) / given.repeats
        generator = torch.Generator().manual_seed(seed)
        columns = torch.randperm(recording.neurons, generator=generator)[:FEW]
        few = score_null(permuted(recording, seed, columns), 1000, seed=20_000 + seed)
        place = seed % len(LANGUAGES)
        p["z"].append(float(few.p[place, 0]))
        p["effect"].append(float(few.p_effect[place, 0]))
        empty["fdr"].append(not bool(benjamini_hochberg(few.p.numpy(), RATE).any()))
        empty["fdr-effect"].append(not bool(benjamini_hochberg(few.p_effect.numpy(), RATE).any()))
    values = torch.tensor(excess, dtype=torch.float64)
    half = float(t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5)
    held = share(inside)
    tests = {name: kstest(found, "uniform") for name, found in p.items()}
    print(f"{given.model}, {recording.neurons} neurons, 9 languages × 100 sentences, {given.repeats} repetitions\n")
    print("| | value | 95 % interval | should be |\n|---|---|---|---|")
    print(f"| excess SKLR, mean | {values.mean():.1f} | {values.mean() - half:.1f} to {values.mean() + half:.1f} | 0 |")
    print(f"| expected SKLR under the null, mean | {expected:.0f} | – (mean of {200 * given.repeats} draws) | – |")
    print(f"| intervals of excess SKLR that hold 0 | {held.value:.3f} | {held.low:.3f} to {held.high:.3f} | 0.95 |")
    for name, found in tests.items():
        print(f"| p of {name}: Kolmogorov–Smirnov D | {found.statistic:.3f} | p = {found.pvalue:.2f} | p > 0.05 |")
    shares = {name: share(found) for name, found in empty.items()}
    for name, one in shares.items():
        print(f"| {name} at 0.05: regions empty | {one.value:.3f} | {one.low:.3f} to {one.high:.3f} | ≥ 0.95 |")
    if given.json:
        found = [("intervals that hold 0", held.value, 0.95)]
        found += [(f"{name}: regions empty", one.value, 0.95) for name, one in shares.items()]
        found += [(f"uniform p of {name}", float(one.pvalue), 0.05) for name, one in tests.items()]
        results = [{"name": name, "value": value, "bound": bound, "better": "higher"} for name, value, bound in found]
        results.append({"name": "excess / expected SKLR", "value": abs(float(values.mean())) / expected, "bound": 0.05})
        given.json.write_text(json.dumps({"results": results}), encoding="utf-8")


if __name__ == "__main__":
    main()
