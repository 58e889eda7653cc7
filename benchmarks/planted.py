"""Which method finds planted language neurons, at which effect size: precision and recall with intervals.

    python -m benchmarks.planted [--repeats 10] [--json FILE]

A BLOOM of random weights (1 024 neurons) reads 40 sentences in 9 languages whose labels are shuffled within each
sentence: no neuron has anything to do with a label. While a label's texts are read, ten neurons of the last layer are
raised by `effect` standard deviations (over sentences, of the neuron's mean activation). Every repetition has weights,
sentences and planted neurons of its own; intervals are of the mean over repetitions (Student's t).

`lape`, `eta-squared` and `average-precision` are told the true number of neurons (as `share`), the others are not told
anything. `lape` gives a neuron to every language above a quantile of all probabilities: at the published 0.95 noise
passes too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.models import Model, Site, edit
from babelscope.regions.methods import localise
from babelscope.regions.nulls import score_null
from babelscope.regions.recording import Recording, record

EFFECTS = (0.5, 1.0, 2.0, 4.0, 6.0)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "z-score, z > 2": ("z-score", {}),
    "z-score, z > 2.8": ("z-score", {"threshold": 2.8}),
    "fdr": ("fdr", {}),
    "fdr-effect": ("fdr-effect", {}),
    "lape, quantile 0.95": ("lape", {"share": 0.09}),
    "lape, quantile 0.99": ("lape", {"share": 0.09, "quantile": 0.99}),
    "average-precision": ("average-precision", {"share": 0.01}),
    "eta-squared": ("eta-squared", {"share": 0.09}),
    "mean-difference": ("mean-difference", {}),
}
CONTROLLED = ("fdr", "fdr-effect", "average-precision", "eta-squared", "mean-difference")
"""those that are to find the planted neurons and no others at the largest effect"""
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
SENTENCES, PER_LANGUAGE, PERMUTATIONS = 40, 10, 1000


def random_model(seed: int) -> Model:
    """BLOOM, four layers of 256 neurons, fresh weights, with the tokenizer of the pocket family."""
    from transformers import BloomConfig, BloomForCausalLM

    from babelscope import load_model

    given = load_model("pocket:pocket-bloom-s")
    torch.manual_seed(seed)
    config = BloomConfig(vocab_size=given.vocabulary, hidden_size=64, n_layer=4, n_head=4)
    return Model(BloomForCausalLM(config), given.tokenizer, id="random")


def shuffled(sample: ParallelCorpus, seed: int) -> ParallelCorpus:
    """The same texts, language labels permuted within each sentence."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(sample), len(sample.languages), generator=generator).argsort(-1)
    return ParallelCorpus.from_texts(
        {
            code: [sample.texts[sample.languages[order[row, place]]][row] for row in range(len(sample))]
            for place, code in enumerate(sample.languages)
        }
    )


def raised(model: Model, corpus: ParallelCorpus, chosen: Tensor, lift: Tensor) -> Recording:
    """A recording in which, for each language, the chosen neurons of the last layer carry `lift` on top."""
    last = Site("neurons", model.layers - 1)
    parts: list[Recording] = []
    for place, code in enumerate(corpus.languages):
        added = torch.zeros(model.neurons_per_layer)
        added[chosen[place]] = lift[chosen[place]]
        with edit(model, {last: lambda h, added=added: h + added.to(h)}):
            parts.append(record(model, ParallelCorpus.from_texts({code: corpus.texts[code]}), activity=True))
    means = torch.cat([torch.from_numpy(part.means) for part in parts]).numpy()
    activity = torch.cat([part.activity for part in parts if part.activity is not None])
    tokens = torch.cat([part.tokens for part in parts])
    return Recording(corpus.languages, corpus.ids, model.layers, means, tokens, 0.0, activity)


def planted(effect: float, seed: int) -> tuple[Recording, Tensor]:
    """A recording of a random model and which neurons were planted, [L, D]."""
    model = random_model(seed)
    corpus = shuffled(load_corpus("pocket:heldout", LANGUAGES).sample(SENTENCES, seed), seed)
    width, first = model.neurons_per_layer, (model.layers - 1) * model.neurons_per_layer
    generator = torch.Generator().manual_seed(seed)
    count = len(LANGUAGES) * PER_LANGUAGE
    chosen = torch.randperm(width, generator=generator)[:count].reshape(len(LANGUAGES), PER_LANGUAGE)
    spread = record(model, corpus).layer(model.layers - 1).std(1).mean(0)
    truth = torch.zeros(len(LANGUAGES), model.neurons, dtype=torch.bool)
    truth.scatter_(1, first + chosen, True)
    return raised(model, corpus, chosen, effect * spread), truth


def qualities(effect: float, seed: int) -> Iterator[dict[str, Any]]:
    """Precision, recall and size of every method on one planted recording."""
    recording, truth = planted(effect, seed)
    null = score_null(recording, PERMUTATIONS, seed=seed)
    for name, (method, changes) in METHODS.items():
        masks = localise(recording, method, null=null, **changes).masks.values()
        found = torch.stack([mask.flatten() for mask in masks])
        hits, size = int((found & truth).sum()), int(found.sum())
        precision = hits / size if size else float("nan")
        yield {"method": name, "effect": effect, "seed": seed, "precision": precision} | {
            "recall": hits / int(truth.sum()),
            "size": size,
        }


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean over repetitions and its 95 % interval by Student's t; NaN of fewer than two."""
    from scipy.stats import t

    kept = torch.tensor([value for value in values if value == value], dtype=torch.float64)
    if len(kept) < 2:
        return (float(kept.mean()) if len(kept) else float("nan"), float("nan"), float("nan"))
    half = float(t.ppf(0.975, len(kept) - 1) * kept.std() / len(kept) ** 0.5)
    return float(kept.mean()), max(0.0, float(kept.mean()) - half), min(1.0, float(kept.mean()) + half)


def summarised(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method and effect."""
    found: list[dict[str, Any]] = []
    for name in METHODS:
        for effect in EFFECTS:
            mine = [row for row in rows if row["method"] == name and row["effect"] == effect]
            one: dict[str, Any] = {"method": name, "effect": effect, "repeats": len(mine)}
            for measure in ("precision", "recall"):
                value, low, high = mean_interval([row[measure] for row in mine])
                one |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
            found.append(one)
    return found


def cell(row: dict[str, Any]) -> str:
    def number(name: str) -> str:
        value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
        return "–" if value != value else f"{value:.2f}" if low != low else f"{value:.2f} ({low:.2f}–{high:.2f})"

    return f"{number('precision')} / {number('recall')}"


def show(rows: list[dict[str, Any]], repeats: int) -> None:
    print(
        f"precision / recall, mean over {repeats} repetitions (95 % interval); {len(LANGUAGES) * PER_LANGUAGE} planted "
        f"among 1024 neurons, {len(LANGUAGES)} languages × {SENTENCES} sentences; – where nothing was found\n"
    )
    print(f"| method | {' | '.join(f'{effect:g} sd' for effect in EFFECTS)} |")
    print(f"|---|{'---|' * len(EFFECTS)}")
    for name in METHODS:
        print(f"| {name} | {' | '.join(cell(row) for row in rows if row['method'] == name)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    raw = [row for seed in range(arguments.repeats) for effect in EFFECTS for row in qualities(effect, seed)]
    rows = summarised(raw)
    show(rows, arguments.repeats)
    if arguments.json:
        results = [
            {
                "name": f"{measure} of {row['method']} at {row['effect']:g} sd",
                "value": row[measure],
                "unit": "",
                "bound": 0.95,
                "better": "higher",
            }
            for row in rows
            if row["effect"] == EFFECTS[-1] and row["method"] in CONTROLLED
            for measure in ("precision", "recall")
        ]
        arguments.json.write_text(json.dumps({"results": results, "rows": rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
