"""Perplexity of long windows over a large vocabulary, against full logits; several masks in a pass, against one by one.

    python -m benchmarks.perplexity [--json FILE] [--window 1024]

A random BLOOM of 2 layers, d = 512, 250 880 words, float32, one thread: the unembedding is nearly all the work, as the
design measures it. Floors: processor time ≤ 0.75 × that of Hugging Face's loss on full logits, extra memory at the
peak ≤ 200 MB (each way in a process of its own, above what the model and a short pass take).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.models import Model, Site, edit
from babelscope.regions.deactivation import deactivate
from babelscope.regions.masks import random_region
from babelscope.regions.perplexity import Windows, score, token_losses

WORDS = 250_880


def random_model(layers: int = 2, words: int = WORDS) -> Model:
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=words, hidden_size=512, n_layer=layers, n_head=8)
    return Model(AutoModelForCausalLM.from_config(config), None, id="random")


def text(window: int, count: int = 1, words: int = WORDS) -> Windows:
    ids = torch.randint(0, words, (count, window), generator=torch.Generator().manual_seed(1))
    return Windows("en", ids, torch.zeros_like(ids), window * count)


def full(model: Model, windows: Windows) -> float:
    """The mean loss that Hugging Face computes from whole logits."""
    with torch.inference_mode():
        return float(model.hf(windows.ids, labels=windows.ids).loss)


def ours(model: Model, windows: Windows) -> float:
    return score(model, windows, budget=windows.ids.numel()).nll


def _peak() -> float:
    """Highest resident memory in bytes since `_forget`, where the system says so (Linux)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _forget() -> None:
    # making the random model took more memory than it keeps: start counting anew
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def alone(which: str, window: int) -> None:
    """Time, extra peak memory and loss of one way in this process."""
    model = random_model()
    way = full if which == "full" else ours
    # a short pass first, so that what libraries set up is not counted
    way(model, text(8))
    _forget()
    before, times, loss = _peak(), [], 0.0
    for _ in range(2):
        start = time.process_time()
        loss = way(model, text(window))
        times.append(time.process_time() - start)
    print(json.dumps({"seconds": min(times), "bytes": _peak() - before, "loss": loss}))


def in_own_process(which: str, window: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.perplexity", "--alone", which, "--window", str(window)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def one_by_one(model: Model, windows: Windows, masks: Sequence[Tensor]) -> list[float]:
    found: list[float] = []
    for mask in masks:
        with deactivate(model, mask):
            found.append(score(model, windows, budget=windows.ids.numel()).nll)
    return found


def together(model: Model, windows: Windows, masks: Sequence[Tensor]) -> list[float]:
    """One pass in which each copy of the text carries its own mask."""
    copies, rows = len(masks), windows.ids.shape[0]
    kept = 1 - torch.stack(list(masks)).float().repeat_interleave(rows, 0)
    changes = {
        Site("neurons", layer): (lambda h, layer=layer: h * kept[:, layer, None].to(h)) for layer in range(model.layers)
    }
    ids = windows.ids.repeat(copies, 1)
    with torch.inference_mode(), edit(model, changes, exclusive=True):
        hidden = model.trunk(ids)
        losses = token_losses(model, hidden[:, :-1], ids[:, 1:])
    return losses.double().reshape(copies, -1).mean(1).tolist()


def masks_per_pass(copies: int = 8, repeat: int = 3) -> tuple[float, float]:
    """Time of one by one over time of all in one pass, and the largest difference of the losses."""
    model, windows = random_model(layers=8, words=8192), text(128, 2, 8192)
    masks = [random_region(500, model.widths, seed) for seed in range(copies)]
    seconds = {"one": float("inf"), "all": float("inf")}
    off = 0.0
    for _ in range(repeat):
        start = time.process_time()
        single = one_by_one(model, windows, masks)
        middle = time.process_time()
        joint = together(model, windows, masks)
        seconds["one"] = min(seconds["one"], middle - start)
        seconds["all"] = min(seconds["all"], time.process_time() - middle)
        off = max(abs(a - b) for a, b in zip(single, joint))
    return seconds["one"] / seconds["all"], off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--alone", choices=["full", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.alone:
        alone(arguments.alone, arguments.window)
        return
    slow, fast = (in_own_process(which, arguments.window) for which in ("full", "ours"))
    ratio, off = masks_per_pass()
    results: list[dict[str, Any]] = [
        _result("perplexity / full logits, time", fast["seconds"] / slow["seconds"], 0.75, "lower"),
        _result("perplexity, extra memory in MB", fast["bytes"] / 1e6, 200.0, "lower"),
        _result("full logits, extra memory in MB", slow["bytes"] / 1e6, None, "lower"),
        _result("8 masks one by one / in one pass, time", ratio, None, "higher"),
    ]
    for row in results:
        bound = "" if row["bound"] is None else f"   floor {row['bound']:g}"
        print(f"{row['name']:<42}{row['value']:>10.3g}{bound}")
    print(f"differences of losses: {abs(fast['loss'] - slow['loss']):.1e} (full logits), {off:.1e} (masks)")
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results}), encoding="utf-8")


def _result(name: str, value: float, bound: float | None, better: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "", "bound": bound, "better": better}


if __name__ == "__main__":
    main()
