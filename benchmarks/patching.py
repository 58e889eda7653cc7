"""Patching every head: the fast paths against one naive full forward pass per head, as ratios inside one process.

    python -m benchmarks.patching [--json FILE] [--models llama,gpt2,bloom] [--repeat 3]

Random weights, d = 512, four prompts of 32 tokens, float32, one thread; seconds are of processor time. Both ways start
from the same two recorded runs (the corrupted and the clean one), so what is compared is the sweep over heads. Floors
are those of the design; there the two prompts are alike up to the middle, since a prefix that is alike is not computed
again. The first row has them differ from the third token on: the worst case, for which the design sets no floor.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import Rows
from babelscope.circuits.core.cache import Runs, output_changes, record, stream_changes
from babelscope.circuits.core.nodes import FINAL, Head, heads_of
from babelscope.circuits.patching import methods
from babelscope.circuits.patching.path_passes import Entry, through_mlps, without_mlps
from babelscope.models import Model, Site, edit
from babelscope.models.batches import token_budget

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "llama",
        dict(
            vocab_size=32_000,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
        ),
    ),
    "gpt2": ("gpt2", dict(vocab_size=50_257, n_embd=512, n_layer=8, n_head=8)),
    "bloom": ("bloom", dict(vocab_size=250_880, hidden_size=512, n_layer=12, n_head=8)),
}
FLOORS = {
    "all positions, first 2 alike": 0.0,
    "all positions": 6.0,
    "one position": 30.0,
    "path, MLPs recomputed": 100.0,
    "path, MLPs frozen": 1000.0,
}
PROMPTS, LENGTH = 4, 32


def random_model(name: str) -> Model:
    kind, settings = MODELS[name]
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()
    return Model(hf, None, id=name)


def prompts(model: Model, shared: int) -> Rows:
    """Clean and corrupted prompts that share their first tokens and no other."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = (torch.randint(0, model.vocabulary, (PROMPTS, LENGTH), generator=generator) for _ in range(2))
    corrupted[:, :shared] = clean[:, :shared]
    words = torch.randint(0, model.vocabulary, (2, PROMPTS), generator=generator)
    rows = tuple(range(PROMPTS))
    return Rows((), rows, (0,) * PROMPTS, clean, corrupted, 1, words[0][:, None], words[1])


@torch.no_grad()
def naive(model: Model, runs: Runs, heads: list[Head], positions: slice, path: str | None) -> np.ndarray:
    """One full forward pass with full logits per head (`path`: every other head frozen, MLPs recomputed or frozen)."""
    rows, found = runs.rows, []
    for node in heads:
        changes: dict[Site, Callable[[torch.Tensor], torch.Tensor]] = {}
        if path is not None:
            changes = {Site("z", layer): (lambda _, z=z: z) for layer, z in runs.base.z.items()}
        if path == "frozen":
            changes |= {Site("mlp_write", layer): (lambda _, w=w: w) for layer, w in runs.base.mlp.items()}

        def patched(value: torch.Tensor, node: Head = node) -> torch.Tensor:
            value = runs.base.z[node.layer].clone() if path is not None else value.clone()
            value[:, positions, node.head] = runs.source.z[node.layer][:, positions, node.head]
            return value

        changes[Site("z", node.layer)] = patched
        with edit(model, changes):
            logits = model.hf(input_ids=rows.clean).logits[:, -1]
        which = torch.arange(len(rows))
        found.append((logits[which, rows.words[:, 0]] - logits[which, rows.foils]).numpy())
    return np.array(found)


@torch.no_grad()
def fast(model: Model, runs: Runs, positions: slice, path: str | None) -> np.ndarray:
    """What `path_patching` and `activation_patching` do with a batch of recorded pairs."""
    rows, layers, everyone = runs.rows, range(model.layers), list(range(model.heads))
    places = torch.arange(LENGTH)[positions].expand(len(rows), -1)
    finals, entries = [], []
    for layer in layers:
        if path == "recomputed":
            entries.append(Entry(layer, output_changes(model, runs, layer, everyone, places), "attention"))
        elif path == "frozen":
            entry = Entry(layer, stream_changes(model, runs, layer, everyone, places), "stream")
            finals.append(without_mlps(model, runs, entry, places, [FINAL])[FINAL])
        else:
            size = max(1, token_budget(model.device) // (len(rows) * places.shape[1]))
            group = [Head(layer, head) for head in everyone]
            for start in range(0, len(group), size):
                finals.append(methods.activation_finals(model, runs, group[start : start + size], places))
    if entries:
        finals = [through_mlps(model, runs, entries, places, [FINAL])[FINAL]]
    return logit_diff.scores(model, rows, torch.cat(finals)).numpy()


def best(work: Callable[[], np.ndarray], repeat: int) -> tuple[float, np.ndarray]:
    """Shortest of several runs, and the result."""
    times, result = [], np.zeros(0)
    for _ in range(repeat):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return min(times), result


def measure(name: str, repeat: int) -> list[dict[str, Any]]:
    model = random_model(name)
    heads = heads_of(model)
    cases: list[tuple[str, int, slice, str | None]] = [
        ("all positions, first 2 alike", 2, slice(2, None), None),
        ("all positions", LENGTH // 2, slice(LENGTH // 2, None), None),
        ("one position", LENGTH // 2, slice(-1, None), None),
        ("path, MLPs recomputed", LENGTH // 2, slice(-1, None), "recomputed"),
        ("path, MLPs frozen", LENGTH // 2, slice(-1, None), "frozen"),
    ]
    results = []
    for work, shared, positions, path in cases:
        rows = prompts(model, shared)
        with torch.no_grad():
            started = time.process_time()
            runs = record(model, rows)
            recording = time.process_time() - started
        slow, expected = best(lambda r=runs, p=positions, q=path: naive(model, r, heads, p, q), 1)
        quick, found = best(lambda r=runs, p=positions, q=path: fast(model, r, p, q), repeat)
        results.append(
            {
                "model": name,
                "work": work,
                "heads": len(heads),
                "naive_s": slow,
                "fast_s": quick,
                "ratio": slow / quick,
                "floor": FLOORS[work],
                "difference": float(np.abs(found - expected).max()),
                "recording_s": recording,
                "ratio_with_recording": slow / (quick + recording),
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--models", default="llama,gpt2,bloom")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [row for name in arguments.models.split(",") for row in measure(name, arguments.repeat)]
    columns = ("model", "work", "naive s", "fast s", "ratio", "floor", "difference", "ratio with both recorded runs")
    table = Table(*columns, title="patching all heads, 4 × 32 tokens")
    for row in results:
        fine = row["ratio"] >= row["floor"] and row["difference"] < 1e-5
        table.add_row(
            row["model"],
            row["work"],
            f"{row['naive_s']:.2f}",
            f"{row['fast_s']:.4f}",
            f"[{'green' if fine else 'red'}]{row['ratio']:.0f}×",
            f"{row['floor']:.0f}×",
            f"{row['difference']:.1e}",
            f"{row['ratio_with_recording']:.1f}×",
        )
    Console(width=130).print(table)
    if arguments.json:
        told = [
            {
                "name": f"patching all heads of {row['model']}, {row['work']}: naive ÷ fast",
                "value": row["ratio"],
                "unit": "×",
                "bound": row["floor"] or None,
                "better": "higher",
            }
            for row in results
        ]
        arguments.json.write_text(json.dumps({"results": told, "measured": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
