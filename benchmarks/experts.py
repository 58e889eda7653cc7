"""Mixtures of experts: recording all neurons and routers against the bare trunk, and memory at five million neurons.

    python -m benchmarks.experts [--neurons 5000000] [--json FILE]

The trunk runs with the kernel that transformers takes by itself. Memory is that of scores, regions and a null of a
synthetic recording (9 languages × 100 sentences), beside a model: its means are made anew block by
block, as passes over a corpus would. The null is measured on a tenth of the neurons, and its arrays scaled up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.models import Model
from babelscope.regions.blocks import RecomputedMeans, scores_in_blocks
from babelscope.regions.expert_pooling import mixtures_pooled, pooled_pairs
from babelscope.regions.nulls import score_null
from babelscope.regions.recording import Recording
from babelscope.regions.routing_recording import RoutingTally
from benchmarks._measure import best, forget_peak, in_own_process, peak, result, tell

LANGUAGES, SENTENCES = 9, 100
SHAPES = {
    "8 experts, 2 for each token": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=256),
    "64 experts, 4 for each token": dict(num_experts=64, num_experts_per_tok=4, moe_intermediate_size=128),
}


def mixture(experts: dict[str, int]) -> Model:
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=512, hidden_size=256, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
        head_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, **experts,
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(AutoModelForCausalLM.from_config(config).eval(), None, id="random")


def recording_cost(experts: dict[str, int], repeat: int) -> dict[str, float]:
    """Seconds of one batch of 8 × 64 tokens: the trunk, the trunk with eager experts, and recording."""
    model = mixture(experts)
    ids = torch.randint(4, 512, (8, 64), generator=torch.Generator().manual_seed(0))
    weights = torch.ones(8, 64)
    shares = weights / 64
    tally = RoutingTally(model, 8)
    config = next(iter(model.mixtures.values())).experts.config
    default = config._experts_implementation_internal

    def trunk() -> None:
        model.trunk(ids)

    def eager() -> None:
        config._experts_implementation_internal = "eager"
        model.trunk(ids)
        config._experts_implementation_internal = default

    def recorded() -> None:
        layers: list[tuple[torch.Tensor, ...]] = []
        pool = lambda pairs: pooled_pairs(pairs, weights, shares, first=0, activity=False)  # noqa: E731
        with mixtures_pooled(model, pool, lambda h: (h,), layers.append), tally.watch(weights):
            model.trunk(ids)
        tally.store(range(8), torch.full((8,), 64))
        assert len(layers) == model.layers

    with torch.inference_mode():
        return best({"trunk": trunk, "eager": eager, "recorded": recorded}, repeat)


def memory(neurons: int, budget: int, null: bool) -> dict[str, float]:
    """Peak bytes beyond the start of scores, regions and a null of a recording of `neurons`."""
    base = np.random.default_rng(0).gamma(1.0, size=neurons + LANGUAGES * SENTENCES).astype(np.float32)

    def make(columns: slice) -> np.ndarray:
        made = np.empty((LANGUAGES, SENTENCES, columns.stop - columns.start), np.float32)
        for language in range(LANGUAGES):
            for sentence in range(SENTENCES):
                shift = language * SENTENCES + sentence
                made[language, sentence] = base[columns.start + shift : columns.stop + shift]
        return made

    means = RecomputedMeans((LANGUAGES, SENTENCES, neurons), make, budget)
    codes = tuple(str(place) for place in range(LANGUAGES))
    recording = Recording(
        codes, tuple(str(place) for place in range(SENTENCES)), 1, means, torch.full((LANGUAGES, SENTENCES), 20), 0.0
    )
    forget_peak()
    start = peak()
    scores, z, regions = scores_in_blocks(recording)
    after_scores = peak()
    passes = means.passes
    assert scores.shape == z.shape == regions.shape
    if null:
        del scores, z, regions
        forget_peak()
        start = peak()
        found = score_null(recording, draws=1, threshold=2.0)
        arrays = 8 * LANGUAGES * neurons
        assert found.p.numel() * 8 == arrays
        return {"null": peak() - start - arrays}
    return {"scores": after_scores - start, "passes": passes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=5_000_000)
    parser.add_argument("--budget", type=int, default=2**29)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="measure memory alone and print it as JSON")
    parser.add_argument("--null", action="store_true", help="with --memory: of the null, beyond its two arrays")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.memory:
        print(json.dumps(memory(given.neurons, given.budget, given.null)))
        return
    torch.set_num_threads(1)
    results = []
    for name, experts in SHAPES.items():
        times = SimpleNamespace(**recording_cost(experts, given.repeat))
        results.append(result(f"recording, {name}: over the trunk", times.recorded / times.trunk, 1.3, "lower"))
        results.append(result(f"eager experts, {name}: over the trunk", times.eager / times.trunk))
    size = ("--memory", "--budget", str(given.budget), "--neurons")
    taken = in_own_process("experts", *size, str(given.neurons))
    rest = in_own_process("experts", *size, str(given.neurons // 10), "--null")["null"]
    whole = rest + 8 * LANGUAGES * given.neurons
    told = f"{given.neurons:,} neurons × {LANGUAGES} languages × {SENTENCES} sentences"
    results.append(result(f"scores and regions, {told}: peak", taken["scores"] / 1e9, 2.0, "lower", "GB"))
    results.append(result(f"null, {told}: peak", whole / 1e9, 2.0, "lower", "GB"))
    results.append(result(f"passes over the corpus for the scores, {told}", taken["passes"], None, "lower", ""))
    tell(results, given.json)


if __name__ == "__main__":
    main()
