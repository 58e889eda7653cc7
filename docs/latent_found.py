"""What runs of latent language found, in the numbers of `docs/latent.md`: `python docs/latent_found.py RUN...`"""

from __future__ import annotations

import sys

import pandas as pd

from babelscope import open_run
from babelscope.latent.verdict import LEAST_ACCURACY, LEAST_SOLVED


def told(path: str) -> None:
    """How many pairs can be decided, what came of their candidates, and what is known of English."""
    run = open_run(path)
    verdicts = run.table("verdicts")
    print(f"{path}: {run.summary['headline'] or run.summary['sentences'][0]}")
    pairs = verdicts.drop_duplicates(["source", "target"])
    share = pairs.solved / pairs.asked
    asked = pairs.groupby("target")[["solved", "asked"]].sum()
    right = (100 * asked.solved / asked.asked).sort_values(ascending=False)
    print("  solved by target: " + ", ".join(f"{code} {value:.0f} %" for code, value in right.items()))
    print(
        f"  {len(pairs)} pairs; solved {pairs.solved.min()} to {pairs.solved.max()} of {pairs.asked.min()} to "
        f"{pairs.asked.max()} concepts ({100 * share.min():.0f} to {100 * share.max():.0f} %)"
    )
    for lens, rows in verdicts[verdicts.scope == "solved"].groupby("lens"):
        able = rows[(rows.solved >= LEAST_SOLVED) & (rows.accuracy_low >= LEAST_ACCURACY)]
        print(f"  {lens} lens, solved concepts: {able.groupby(['source', 'target']).ngroups} pairs can be decided")
        print(f"    all {len(rows)} candidates: {_counts(rows)}")
        print(f"    their {len(able)} candidates: {_counts(able)}; English in all pairs: {_counts(_english(rows))}")
        known = able[able.outcome != "not decidable"].sort_values("strength", ascending=False)
        for _, row in known.head(2).iterrows():
            print(
                f"    greatest strength: {row.language} on the way from {row.source} to {row.target}, "
                f"{row.strength:.3f} ({row.strength_low:.3f} to {row.strength_high:.3f}; "
                f"p = {row.p:.2g}), {row.outcome}"
            )
    english = _english(verdicts[(verdicts.scope == "all") & (verdicts.lens == "logit")])
    if len(english):
        print(
            f"  all concepts, solved or not: strength of English {english.strength.min():.3f} to "
            f"{english.strength.max():.3f}, p {english.p.min():.2f} to {english.p.max():.2f}"
        )


def _english(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows.language == "en") & (rows.source != "en") & (rows.target != "en")]


def _counts(rows: pd.DataFrame) -> str:
    return ", ".join(f"{count} {name}" for name, count in rows.outcome.value_counts().items()) or "none"


if __name__ == "__main__":
    for one in sys.argv[1:]:
        told(one)
