"""The same work on the same weights with TransformerLens and nnsight (extra `bench`): time and peak memory.

    pip install -e '.[bench]' -c constraints.txt
    python -m benchmarks.peers [--json FILE] [--repeat 3] [--models llama,bloom,gpt2]

Recording: 16 × 64 random tokens, the mean over positions of every neuron; LLaMA 8 layers, 32 000 words; BLOOM 12
layers, 250 880 words; d = 512, float32, one thread. Peers as their guides have it (`run_with_cache` with a filter of
names; a trace that saves each layer's mean), and, for nnsight, once more broken off after the last layer by
`tracer.stop()`. Patching: all heads at all positions, 4 prompts of 32 tokens, one forward pass per head, as
TransformerLens' `get_act_patch_attn_head_out_all_pos` and a trace per head. Each way in a process of its own; a peer
that is not installed is skipped with a message. Results are checked against ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from babelscope.circuits.core.batching import Rows
from babelscope.circuits.core.cache import record as record_runs
from babelscope.corpora import ParallelCorpus
from babelscope.models import Model, Site
from babelscope.pocket.models import path
from babelscope.regions.recording import Recording, record
from benchmarks import patching
from benchmarks._measure import forget_peak, in_own_process, peak, result, tell

PEERS = {"transformer_lens": "TransformerLens", "nnsight": "nnsight"}
SENTENCES, LENGTH = 16, 64
# ours ÷ theirs, by the words of the vocabulary (design): no logits are made
FLOORS = {"llama": 1.7, "bloom": 4.0}
Ways = dict[str, Callable[[], np.ndarray]]


class Numbered(Model):
    """Reads "3" as the third of given sequences of tokens."""

    rows: list[list[int]]

    def tokenize(self, texts: Any, special: Any = "none", names: Any = None) -> list[list[int]]:
        return [self.rows[int(text)] for text in texts]


NUMBERS = ParallelCorpus.from_texts({"en": list(map(str, range(SENTENCES)))})
"""texts that are numbers of sequences"""


def ids(model: Model) -> torch.Tensor:
    return torch.randint(0, model.vocabulary, (SENTENCES, LENGTH), generator=torch.Generator().manual_seed(2))


def numbered(model: Model) -> Numbered:
    """The model with the sequences: wrapped once, as the peers wrap theirs."""
    found = Numbered(model.hf, None, id="random")
    found.rows = ids(model).tolist()
    return found


def ours_recording(model: Numbered) -> np.ndarray:
    found: Recording = record(model, NUMBERS)
    return found.means[0]


def lens_recording(bridge: Any, model: Model) -> np.ndarray:
    names = {f"blocks.{layer}.mlp.hook_post" for layer in range(model.layers)}
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(ids(model), names_filter=lambda name: name in names, return_type=None)
        return torch.cat([cache[f"blocks.{layer}.mlp.hook_post"].mean(1) for layer in range(model.layers)], 1).numpy()


def nnsight_recording(wrapped: Any, parts: list[Any], model: Model, stop: bool) -> np.ndarray:
    means: list[Any] = []
    with torch.inference_mode():
        with wrapped.trace(input_ids=ids(model)) as tracer:
            for part in parts:
                means.append(part.input.mean(1).save())
            if stop:
                tracer.stop()
    return torch.cat(means, 1).numpy()


def envoy(wrapped: Any, model: Model, module: torch.nn.Module) -> Any:
    """nnsight's view of one of the model's modules."""
    name = next(name for name, part in model.hf.named_modules() if part is module)
    found = wrapped
    for step in name.split("."):
        found = found[int(step)] if step.isdigit() else getattr(found, step)
    return found


def difference(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    which = torch.arange(len(rows))
    return logits[which, -1, rows.words[:, 0]] - logits[which, -1, rows.foils]


def lens_patching(bridge: Any, rows: Rows) -> np.ndarray:
    """[layers, heads]: mean logit difference with the head's corrupted output in the clean run."""
    from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

    with torch.no_grad():
        _, source = bridge.run_with_cache(rows.corrupted, names_filter=lambda name: name.endswith("attn.hook_z"))
        return get_act_patch_attn_head_out_all_pos(
            bridge, rows.clean, source, lambda logits: difference(logits, rows).mean()
        ).numpy()


def nnsight_patching(wrapped: Any, parts: list[Any], rows: Rows, heads: int) -> np.ndarray:
    found: list[float] = []
    source: list[Any] = []
    with torch.no_grad():
        with wrapped.trace(input_ids=rows.corrupted):
            for part in parts:
                source.append(part.input.save())
        width = source[0].shape[-1] // heads
        for layer, part in enumerate(parts):
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                with wrapped.trace(input_ids=rows.clean):
                    z = part.input.clone()
                    z[..., own] = source[layer][..., own]
                    part.input = z
                    logits = wrapped.output.logits.save()
                found.append(float(difference(logits, rows).mean()))
    return np.array(found).reshape(len(parts), heads)


def ours_patching(model: Model, rows: Rows) -> np.ndarray:
    with torch.no_grad():
        runs = record_runs(model, rows)
    return patching.fast(model, runs, slice(None), None).mean(-1).reshape(model.layers, model.heads)


@cache
def bridged(name: str) -> Any:
    """A TransformerBridge over the same random weights."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        patching.random_model(name).hf.save_pretrained(folder)
        AutoTokenizer.from_pretrained(path("pocket-bloom-s")).save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32).eval()


def way(name: str, work: str, which: str) -> Callable[[], np.ndarray]:
    """One way of doing one work on one model."""
    model = patching.random_model(name)
    rows = patching.prompts(model, 1)
    if which == "ours" and work == "recording":
        own = numbered(model)
        return lambda: ours_recording(own)
    if which == "ours":
        return lambda: ours_patching(model, rows)
    if which == "transformer_lens":
        bridge = bridged(name)
        return (lambda: lens_recording(bridge, model)) if work == "recording" else (lambda: lens_patching(bridge, rows))
    import nnsight

    wrapped: Any = nnsight.NNsight(model.hf)
    places = [Site("neurons" if work == "recording" else "z", layer) for layer in range(model.layers)]
    parts = [envoy(wrapped, model, model.locate(place).module) for place in places]
    if work == "recording":
        return lambda: nnsight_recording(wrapped, parts, model, which.endswith("stop"))
    return lambda: nnsight_patching(wrapped, parts, rows, model.heads)


def alone(name: str, work: str, which: str, repeat: int, keep: Path) -> None:
    """Time, extra peak memory and the values of one way, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = way(name, work, which)
    if work == "recording":
        run()
    forget_peak()
    before, times = peak(), []
    values = np.zeros(0)
    for _ in range(repeat):
        start = time.process_time()
        values = run()
        times.append(time.process_time() - start)
    np.save(keep, values)
    print(json.dumps({"seconds": min(times), "bytes": peak() - before}))


def compare(name: str, work: str, repeat: int, rounds: int) -> list[dict[str, Any]]:
    """Ratios of every installed peer to ours, and their extra memory."""
    peers = [peer for peer in PEERS if importlib.util.find_spec(peer)]
    ways = ["ours", *peers, *(["nnsight-stop"] if work == "recording" and "nnsight" in peers else [])]
    seconds, held = dict.fromkeys(ways, math.inf), dict.fromkeys(ways, 0.0)
    values: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        # in turns, so that a busy machine slows all alike
        for _ in range(rounds if work == "recording" else 1):
            for which in ways:
                keep = Path(folder) / f"{which}.npy"
                arguments = ("--alone", which, "--models", name, "--work", work, "--keep", str(keep))
                found = in_own_process("peers", *arguments, "--repeat", str(repeat if work == "recording" else 1))
                seconds[which] = min(seconds[which], found["seconds"])
                held[which] = max(held[which], found["bytes"])
                values[which] = np.load(keep)
    words = f"{patching.MODELS[name][1]['vocab_size']:,}".replace(",", " ")
    label = f"{work}, {name} ({words} words)"
    results: list[dict[str, Any]] = []
    for which in ways[1:]:
        off = float(np.abs(values[which] - values["ours"]).max())
        assert off < 1e-4 * max(1.0, float(np.abs(values["ours"]).max())), (which, off)
        told = PEERS[which.removesuffix("-stop")] + (" broken off after the last layer" if "-stop" in which else "")
        bound = FLOORS.get(name) if work == "recording" and "-stop" not in which else None
        results.append(result(f"{label}: {told} / ours, time", seconds[which] / seconds["ours"], bound))
        results.append(result(f"{label}: extra memory of {told}", held[which] / 1e6, None, "lower", "MB"))
    results.append(result(f"{label}: extra memory of ours", held["ours"] / 1e6, None, "lower", "MB"))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="fresh processes of each way")
    parser.add_argument("--models", default="llama,bloom,gpt2")
    parser.add_argument("--works", default="recording,patching")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--work", default="recording", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.models, given.work, given.alone, given.repeat, given.keep)
        return
    missing = [told for peer, told in PEERS.items() if not importlib.util.find_spec(peer)]
    for told in missing:
        print(f"{told} is not installed (pip install 'babelscope[bench]'): left out")
    results: list[dict[str, Any]] = []
    for work in given.works.split(",") if len(missing) < len(PEERS) else []:
        # naive patching through the vocabulary of BLOOM takes minutes for each peer
        for name in (
            given.models.split(",") if work == "recording" else [m for m in given.models.split(",") if m != "bloom"]
        ):
            results += compare(name, work, given.repeat, given.rounds)
    tell(results, given.json)


if __name__ == "__main__":
    main()
