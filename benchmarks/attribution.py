"""Scores of all edges (EAP) against one forward and backward pass, as ratios inside one process.

    python benchmarks/attribution.py [--json FILE] [--models llama,gpt2,bloom] [--repeat 3]

Random weights, d = 512, four pairs of 32 tokens, float32, one thread; seconds are of processor time. The pass compared
with is the plain one on the same clean prompts, its backward to the embeddings only (the cheapest there is), so the
whole cost is counted: two forward passes, one backward, and the inner products of all edges.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.edges.eap import Method, edge_attribution
from babelscope.models import Model
from babelscope.tasks import PromptPair
from benchmarks._measure import best, result, tell

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "llama",
        dict(
            vocab_size=32_000,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
        ),
    ),
    "gpt2": ("gpt2", dict(vocab_size=50_257, n_embd=512, n_layer=8, n_head=8)),
    "bloom": ("bloom", dict(vocab_size=32_000, hidden_size=512, n_layer=12, n_head=8)),
}
PAIRS, LENGTH = 4, 32


def random_model(name: str) -> Model:
    kind, settings = MODELS[name]
    torch.manual_seed(0)
    return Model(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval(), None, id=name)


def random_pairs(model: Model) -> list[PromptPair]:
    generator = torch.Generator().manual_seed(1)

    def words(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, model.vocabulary, (count,), generator=generator).tolist())

    common = dict(language="en", template="t", order="", stratum="", split="strict", clean_text="", corrupted_text="")
    return [
        PromptPair(
            item=item,
            clean=words(LENGTH),
            corrupted=words(LENGTH),
            target=words(1),
            foil=words(1),
            roles={"END": (LENGTH - 1, LENGTH)},
            **common,
        )
        for item in range(PAIRS)
    ]


def one_pass(model: Model, pairs: list[PromptPair]) -> None:
    """Forward, logit difference, backward to the embeddings."""
    ids = torch.tensor([pair.clean for pair in pairs])
    embedded = model.hf.get_input_embeddings()(ids).detach().requires_grad_()
    final = model.hf.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, -1]
    target, foil = (torch.tensor([getattr(pair, name)[0] for pair in pairs]) for name in ("target", "foil"))
    logits = model.logits(final, torch.cat([target, foil]))
    rows = torch.arange(len(pairs))
    torch.autograd.grad((logits[rows, rows] - logits[rows, rows + len(pairs)]).sum(), embedded)


def measured(name: str, repeat: int) -> list[dict[str, Any]]:
    """Cost of every method on one model, beside its bound."""
    model = random_model(name)
    pairs, edges = random_pairs(model), int(Wiring.of(model).allowed.sum())
    bounds: dict[Method, float | None] = {"eap": 4.0, "relp": None, "eap-ig": None}
    ways: dict[str, Callable[[], object]] = {"once": partial(one_pass, model, pairs)}
    ways |= {method: partial(edge_attribution, model, pairs, method, steps=5) for method in bounds}
    best(ways, 1)  # the first run of each is slower
    cost = best(ways, repeat)
    return [
        result(
            f"{method} of all {edges} edges, {name} / forward + backward", cost[method] / cost["once"], bound, "lower"
        )
        for method, bound in bounds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", default="llama,gpt2,bloom")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = [row for name in given.models.split(",") for row in measured(name, given.repeat)]
    tell(results, given.json)


if __name__ == "__main__":
    main()
