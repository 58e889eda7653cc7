"""Which headline numbers of regions move with the number of sentences: one model and corpus, at growing n.

    python -m benchmarks.headlines pocket:pocket-bloom-m pocket:heldout 25 50 100 400

Every n is a subset of the largest recording, documents kept. One row a measure, with its interval where it has one.
"""

from __future__ import annotations

import sys

import torch

from babelscope.corpora import load_corpus
from babelscope.models import load_model
from babelscope.regions.contrast import contrast
from babelscope.regions.document_means import whole_intervals
from babelscope.regions.headlines import headlines, rarefied_excess
from babelscope.regions.nulls import score_null
from babelscope.regions.recording import record
from babelscope.regions.sinks import length_coupling, normalised
from babelscope.stats import Interval


def told(one: Interval, digits: int) -> str:
    """A value with its ends."""
    if one.low != one.low:
        return "–" if one.value != one.value else f"{one.value:.{digits}f}"
    return f"{one.value:.{digits}f} ({one.low:.{digits}f} to {one.high:.{digits}f})"


def main(model: str, spec: str, sizes: list[int]) -> None:
    """Print the table."""
    corpus = load_corpus(spec)
    sizes = sorted({min(n, len(corpus)) for n in sizes})
    whole = record(load_model(model), corpus.sample(sizes[-1], 0))
    order = torch.randperm(len(whole.ids), generator=torch.Generator().manual_seed(0)).tolist()
    columns: list[dict[str, str]] = []
    for n in sizes:
        recording, sinks = normalised(whole.subset(sorted(order[:n])))
        found, scores = headlines(recording), whole_intervals(recording)
        null = score_null(recording, 40)
        columns.append(
            {
                "documents": str(recording.document_count if recording.documents else "–"),
                "sinks, β": f"{sum(one.scope == 'model' for one in sinks)}, {length_coupling(recording):.2f}",
                "language share, %": told(found.language_share, 1),
                "N(d > 0.5)": told(found.strong_neurons, 0),
                "excess SKLR at 25": told(rarefied_excess(recording), 0),
                "SKLR": str(null.sklr),
                "excess SKLR at n": f"{null.excess:.0f}",
                "contrast at n": str(int(contrast(recording).raised.sum())),
                "LRDS": told(scores["lrds"], 4),
                "SADS": told(scores["sads"], 4),
            }
        )
    print(f"{model}, {spec}, {len(whole.languages)} languages, {whole.neurons} neurons\n")
    print("| measure | " + " | ".join(f"n = {n}" for n in sizes) + " |")
    print("|---|" + "---:|" * len(sizes))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(n) for n in sys.argv[3:]])
