"""Latent language: rates of false verdicts, power against n, coverage, and the price of the lens and of patching.

    python -m benchmarks.latent [--seeds 200] [--repeat 3] [--json FILE]

False verdicts: concepts of a planted model get each other's words (one random relabelling a seed, the same
in every layer), so that no word belongs to its prompt; and masses drawn without any concept, with words of unlike
frequency and prompts of unlike certainty. Power: the same masses with an excess planted at two of five inner layers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from babelscope.latent.census import Kept
from babelscope.latent.excess import excess
from babelscope.latent.geometry import target_projection
from babelscope.latent.inference import derangements, mean_interval, permutation_p, simultaneous
from babelscope.latent.judging import Pair, Rules
from babelscope.latent.lens import Readings, items_of, read, read_out, solved, states
from babelscope.latent.patching import single_layers
from babelscope.latent.prompts import word_prompts
from babelscope.latent.tokens import token_sets
from babelscope.latent.variants import final_states, final_states_plainly
from babelscope.latent.words import load_words
from babelscope.models import Model, load_model, over_batches
from babelscope.stats import wilson
from benchmarks._measure import best, result

Array = NDArray[np.float64]
SIZES, EFFECTS = (30, 60, 120), (0.005, 0.01, 0.02, 0.05)
LAYERS = 7


def planted_pair(kind: str) -> Pair:
    """The readings of one planted model, French to Chinese."""
    model, words = load_model(f"pocket:planted-{kind}"), load_words("planted")
    prompts = word_prompts(words, "translation", "fr", "zh", demonstrations=1)
    tokens = token_sets(model, words, prompts, words.languages)
    items = items_of(prompts, tokens)
    hidden = states(model, [prompt.text for prompt in prompts])
    readings = read(model, hidden, items, tokens)
    projected = read(model, hidden, items, tokens, project=target_projection(model, tokens, items, "fr", "zh"))
    return Pair(words, tokens, "fr", "zh", readings, solved(readings, items, tokens, "zh"), projected)


def relabelled(pair: Pair, seed: int) -> Pair:
    """The same readings with the candidates' words exchanged between concepts."""
    order = np.random.default_rng(seed).permutation(len(pair.tokens.concepts))

    def moved(readings: Readings) -> Readings:
        q = {code: values if code == pair.target else values[:, :, order] for code, values in readings.q.items()}
        return Readings(q, readings.entropy, readings.top)

    assert pair.projected is not None
    other = Pair(
        pair.words, pair.tokens, pair.source, pair.target, moved(pair.readings), pair.solved, moved(pair.projected)
    )
    count = len(order)
    every = ~np.eye(count, dtype=bool)
    kept = {code: Kept(code, np.ones(count, bool), every, {}) for code in pair.tokens.languages}
    other.__dict__["kept"] = kept  # token sets are disjoint here, whichever concept they go to
    return other


def outcomes(pair: Pair, seeds: int) -> dict[str, int]:
    """Verdicts of both candidates over relabellings."""
    counts: dict[str, int] = {}
    for seed in range(seeds):
        other = relabelled(pair, seed)
        rules = Rules(draws=500, permutations=199, matched=0, seed=seed)
        for _, verdict in other.verdicts(other.solved, rules).values():
            counts[verdict.outcome] = counts.get(verdict.outcome, 0) + 1
    return counts


def masses(n: int, effect: float, seed: int) -> Array:
    """Skewed masses by layer, prompt and word; `effect` added to a concept's own word at layers 3 and 4."""
    generator = np.random.default_rng(seed)
    shape = generator.normal(size=(LAYERS, n, n)) + generator.normal(size=(n, 1)) + generator.normal(size=n)
    q = 0.01 * np.exp(shape)
    own = effect * np.exp(generator.normal(size=n) - 0.5)
    for layer in (3, 4):
        q[layer, range(n), range(n)] += own
    return q / (1 + q)


def rejections(n: int, effect: float, seeds: int) -> tuple[int, int]:
    """Seeds in which p < 0.05, and in which the interval of A lies above 0 as well."""
    comparable, chosen = ~np.eye(n, dtype=bool), np.ones(n, bool)
    small = above = 0
    for seed in range(seeds):
        q = masses(n, effect, seed)
        own = excess(q, comparable)
        p = permutation_p(q, own.row, own.col, comparable, chosen, derangements(n, 199, seed))
        small += p <= 0.05
        above += p <= 0.05 and mean_interval(own.strength(), 500, seed).low > 0
    return small, above


def coverage(n: int, seeds: int) -> int:
    """Seeds whose simultaneous band holds the true means of skewed excess in all layers."""
    held = 0
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        values = np.exp(generator.normal(size=(LAYERS - 2, n)) + generator.normal(size=n)) - np.exp(1.0)
        # a bootstrap that draws by the seed of the data is not independent of them
        band = simultaneous(values, 1000, seed + 10**6)
        held += bool(((band.low <= 0) & (band.high >= 0)).all())
    return held


def lens_price(repeat: int) -> list[dict[str, Any]]:
    """All layers read in the vocabulary against the trunk alone, on pocket-bloom-m and on a wider vocabulary."""
    found: list[dict[str, Any]] = []
    given = load_model("pocket:pocket-bloom-m")
    words = load_words("concepts")
    prompts = word_prompts(words, "translation", "fr", "zh")[:24]
    texts = [prompt.text for prompt in prompts]
    sequences = given.tokenize(texts)
    tokens = token_sets(given, words, prompts, words.languages)
    items = items_of(prompts, tokens)
    for name, model in (("pocket-bloom-m", given), ("BLOOM, 6 layers, d = 512, 32 768 words", wide(given))):

        def trunk(model: Model = model) -> None:
            with torch.inference_mode():
                over_batches(sequences, lambda batch: model.trunk(batch.ids, batch.mask), model.device)

        def lens(model: Model = model) -> None:
            read(model, states(model, texts), items, tokens)

        seconds = best({"trunk": trunk, "lens": lens}, repeat)
        ratio = seconds["lens"] / seconds["trunk"]
        found.append(result(f"lens of all layers, 9 languages, {len(texts)} prompts: {name}", ratio, 1.5, "lower"))
    return found


def wide(given: Model) -> Model:
    """A random BLOOM with many words and the tokenizer of the pocket family."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=32_768, hidden_size=512, n_layer=6, n_head=8)
    return Model(BloomForCausalLM(config), given.tokenizer, id="wide")


def patch_price(repeat: int) -> list[dict[str, Any]]:
    """E1 on a cached prefix, rows stacked, against one whole pass a layer."""
    model = load_model("pocket:pocket-bloom-m")
    words = load_words("concepts")
    prompts = word_prompts(words, "translation", "fr", "zh", demonstrations=5)[:4]
    sequences = model.tokenize([prompt.text for prompt in prompts])
    hidden = states(model, [prompt.text for prompt in prompts])
    asked = torch.arange(20)

    def every(way: Any) -> torch.Tensor:
        parts = []
        for place, ids in enumerate(sequences):
            rows = single_layers(hidden[:, place - 1])
            parts.append(read_out(model, way(model, ids, len(ids) - 1, *rows), asked).answers)
        return torch.cat(parts)

    seconds = best({"plain": lambda: every(final_states_plainly), "cached": lambda: every(final_states)}, repeat)
    gap = float((every(final_states) - every(final_states_plainly)).abs().max())
    tokens = sum(map(len, sequences)) // len(sequences)
    factor = seconds["plain"] / seconds["cached"]
    return [
        result(f"E1 on cached prefixes, {tokens} tokens, 6 layers: times faster than whole passes", factor, 2.0),
        result("the same: largest difference of a probability", gap, 1e-5, "lower", ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = [*lens_price(asked.repeat), *patch_price(asked.repeat)]
    for one in results:
        print(f"{one['name']}: {one['value']:.3g}", flush=True)
    for kind in ("pivot", "frequency", "geometry"):
        counts = outcomes(planted_pair(kind), asked.seeds)
        print(f"planted-{kind}, concepts relabelled, {2 * asked.seeds} verdicts: {counts}", flush=True)
        wrong = sum(number for outcome, number in counts.items() if outcome.startswith(("passes", "readable")))
        results.append(
            result(f"false verdicts, planted-{kind} relabelled", wrong / (2 * asked.seeds), 0.05, "lower", "")
        )
    for n in SIZES:
        small, above = rejections(n, 0.0, asked.seeds)
        share = wilson(small, asked.seeds)
        print(
            f"n = {n}, nothing planted, {asked.seeds} seeds: p < 0.05 in {share.value:.3f} "
            f"({share.low:.3f} to {share.high:.3f}), "
            f"interval above 0 too in {above / asked.seeds:.3f}",
            flush=True,
        )
        results.append(result(f"p < 0.05 with nothing planted, n = {n}", share.value, 0.05, "lower", ""))
    for effect in EFFECTS:
        powers = [rejections(n, effect, asked.seeds)[1] / asked.seeds for n in SIZES]
        said = ", ".join(f"{power:.2f} at n = {n}" for power, n in zip(powers, SIZES))
        print(f"excess {effect} at two of five layers: readable in {said}", flush=True)
    for n in SIZES:
        held = wilson(coverage(n, 5 * asked.seeds), 5 * asked.seeds)  # ends of a share near 0.95 need more seeds
        print(
            f"simultaneous band, skewed, n = {n}, {5 * asked.seeds} seeds: holds in {held.value:.3f} "
            f"({held.low:.3f} to {held.high:.3f})",
            flush=True,
        )
    if asked.json:
        asked.json.write_text(json.dumps({"results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
