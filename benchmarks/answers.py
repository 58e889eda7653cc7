"""Scoring the answers to a prompt: their common beginning read once, against every text read whole.

    python -m benchmarks.answers [--json FILE] [--layers 8]

A random BLOOM, d = 512, 250 880 words, stories of four sentences with two endings each, float32, one thread. Plainly,
each text is a row of its own, and all its tokens are held against the vocabulary.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from babelscope import load_model
from babelscope.evaluation import choice_scores, cloze_items, load_stories
from babelscope.evaluation.items import ClozeItem
from babelscope.models import Batch, Model, over_batches
from babelscope.regions.perplexity import token_losses
from benchmarks._measure import best, result, tell
from benchmarks.perplexity import random_model

STORIES = 16


def plainly(model: Model, items: list[ClozeItem]) -> np.ndarray:
    """Every text whole, the losses of all its words, and of them those of the ending."""
    rows = [
        (model.tokenizer.encode(item.prompt + choice), len(model.tokenizer.encode(item.prompt)))
        for item in items
        for choice in item.choices
    ]
    scores = np.zeros(len(rows))

    def work(batch: Batch) -> None:
        losses = token_losses(model, model.trunk(batch.ids, batch.mask)[:, :-1], batch.ids[:, 1:]).double().numpy()
        for place, row in enumerate(batch.rows):
            ids, first = rows[row]
            scores[row] = -losses[place, first - 1 : len(ids) - 1].sum()

    with torch.inference_mode():
        over_batches([ids for ids, _ in rows], work, model.device)
    return scores.reshape(len(items), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--layers", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = Model(random_model(given.layers).hf, load_model("pocket:pocket-bloom-m").tokenizer, id="random")
    items = cloze_items(load_stories(f"pocket:?n={STORIES}", ["fr"])["fr"])
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["ours"] = choice_scores(model, items)

    def theirs() -> None:
        found["plain"] = plainly(model, items)

    choice_scores(model, items[:1])  # the model is checked once
    seconds = best({"plain": theirs, "ours": ours}, 3)
    off = float(np.abs(found["ours"] - found["plain"]).max())
    results = [
        result("answers together / every text whole, time", seconds["ours"] / seconds["plain"], None, "lower"),
        result("answers together, largest difference of a score", off, 1e-2, "lower", "nats"),
    ]
    tell(results, given.json)


if __name__ == "__main__":
    main()
