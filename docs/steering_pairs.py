"""Steering every pair of languages of a pocket model, and the table of `docs/steering.md` made from the runs.

python docs/steering_pairs.py run runs/steer            # goes on where it was; 72 pairs, in a random order
python docs/steering_pairs.py show runs/steer           # of as many pairs as are finished
"""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from babelscope.stats import bootstrap_mean
from babelscope.studies.steer_settings import SteerSettings

MODEL, CHUNK = "pocket:pocket-bloom-m", 6
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
ROMANCE = ("fr", "es", "pt")
LIMITS = ("0.1", "0.3", "1")


def settings(pairs: tuple[str, ...]) -> SteerSettings:
    """Small enough for two processors: 24 prompts a pair, five draws of each control."""
    return SteerSettings(
        corpus="pocket:heldout?n=240", pairs=pairs, method=("diffmean", "neurons", "arithmetic"),
        alpha=(1.0, 1.5, 2.0), lape_share=0.05, choose_prompts=12, report_prompts=24, controls=5, third=1, tokens=24,
        fixed=True,
    )  # fmt: skip


def chunks() -> list[tuple[str, ...]]:
    """All pairs in a random order, so that the first of them are a sample of all."""
    pairs = [f"{s}:{t}" for s, t in permutations(LANGUAGES, 2)]
    order = [pairs[place] for place in np.random.default_rng(0).permutation(len(pairs))]
    return [tuple(order[start : start + CHUNK]) for start in range(0, len(order), CHUNK)]


def run(folder: Path) -> None:
    from babelscope import load_model
    from babelscope.studies.steer import study_steering

    model = load_model(MODEL)
    for place, pairs in enumerate(chunks()):
        if not (folder / f"{place:02d}").exists():
            study_steering(model, settings(pairs), folder / f"{place:02d}")
            print(place, pairs, flush=True)


def table(folder: Path, name: str) -> pd.DataFrame:
    from babelscope.results import open_run

    runs = sorted(one for one in folder.iterdir() if one.name.isdigit())
    return pd.concat([open_run(one).table(name) for one in runs], ignore_index=True)


def related(row: pd.Series) -> str:
    return "related" if row.source in ROMANCE and row.target in ROMANCE else "unrelated"


def show(folder: Path) -> None:
    steering, controls = table(folder, "steering"), table(folder, "controls")
    steering["kin"] = steering.apply(related, axis=1)
    pairs = steering[steering.condition == "unsteered"]
    print(f"{MODEL}, {len(pairs)} pairs, {int(pairs.n.sum())} prompts; mean over pairs, 95 % interval over pairs\n")
    print("| way | ΔNLL chosen ≤ | related pairs | unrelated pairs |\n|---|---|---|---|")
    for name in ("unsteered", "prompted"):
        print(f"| {name} | – | " + " | ".join(_cell(steering[steering.condition == name], kin) for kin in KIN) + " |")
    steered = steering[steering.condition == "steered"]
    for method in ("diffmean", "neurons", "arithmetic"):
        for limit in LIMITS:
            chosen = np.array([limit in _limits(text) for text in steered.chosen_at])
            rows = steered[(steered.method == method) & chosen]
            print(f"| {method} | {limit} | " + " | ".join(_cell(rows, kin) for kin in KIN) + " |")
    controls["kin"] = controls.apply(related, axis=1)
    for name in ("random", "random-cov", "shuffled", "third", "random-neurons"):
        rows = controls[controls.control == name].groupby(["source", "target", "kin"], as_index=False).success.mean()
        print(f"| control: {name} | 0.3 | " + " | ".join(_cell(rows, kin) for kin in KIN) + " |")
    print(f"\nlayers chosen (diffmean, 0.3): {_counts(steered, 'layer')}; strengths: {_counts(steered, 'alpha')}")
    measured = table(folder, "damage")
    own = measured[(measured.role == "target") & (measured.condition == "steered")]
    print("ΔNLL of the target on report documents, by way:", {
        method: str(_interval(rows.delta_nll)) for method, rows in own.groupby("method")
    })  # fmt: skip
    faith = table(folder, "fidelity")
    known = faith[(faith.method == "diffmean") & faith.value.notna()]
    print(f"fidelity, diffmean: {_interval(known.value)} of {len(known)} settings with a judge")
    broken(table(folder, "front"), table(folder, "answers"))


KIN = ("related", "unrelated")


def _limits(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _interval(values: pd.Series) -> str:
    found = bootstrap_mean(values.dropna().to_numpy())
    ends = "" if np.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{ends}"


def _cell(rows: pd.DataFrame, kin: str) -> str:
    own = rows[rows.kin == kin]
    if not len(own):
        return "–"
    found = bootstrap_mean(own.success.dropna().to_numpy())
    ends = "" if np.isnan(found.low) else f" [{max(found.low, 0):.2f}, {min(found.high, 1):.2f}]"
    return f"{found.value:.2f}{ends}, n = {len(own)}"


def _counts(frame: pd.DataFrame, name: str) -> dict[float, int]:
    rows = frame[(frame.method == "diffmean") & frame.chosen_at.map(lambda text: "0.3" in _limits(text))]
    return {float(key): int(value) for key, value in rows[name].value_counts().sort_index().items()}


def broken(front: pd.DataFrame, answers: pd.DataFrame) -> None:
    """What is text only by its letters: answers in the target with a repeat of half their length or more."""
    print("\nanswers all in the target that repeat a stretch of at least half their tokens:")
    own = answers[answers.all_target]
    for name, rows in own.groupby(own.condition.where(own.condition != "steered", own.method)):
        share = float((rows["repeat"] >= rows.tokens / 2).mean())
        print(f"  {name}: {100 * share:.0f} % of {len(rows)}; distinct-2 {rows.distinct_2.mean():.2f}")


if __name__ == "__main__":
    {"run": run, "show": show}[sys.argv[1]](Path(sys.argv[2]))
