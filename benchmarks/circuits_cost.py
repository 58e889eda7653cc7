"""Processor time of the whole study of circuits, now against an earlier commit, in one run.

    python -m benchmarks.circuits_cost [--n 2 4] [--layers 4] [--words 250880] [--before 772c1ee] [--pocket]

A BLOOM of random weights (16 heads, d = 1 024) or the pocket model does the IOI study in one language with n prompts,
for two n: what does not depend on n and what each prompt costs follow, and with them n = 100 in two languages. The
earlier commit runs from a git worktree that is removed afterwards. Every study has a process of its own, one thread.

At 24 layers the parts are extrapolated by a·L + b·L² from two depths (`--layers 2 4`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._measure import result, tell

PROGRAM = """
import json, resource, sys, tempfile, time
import torch
from babelscope import load_model
from babelscope.models import Model
from babelscope.studies.circuits import CircuitsSettings, study_circuits
n, layers, words, pocket = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "pocket"
torch.set_num_threads(1)
model = load_model("pocket:pocket-bloom-m")
if not pocket:
    from transformers import BloomConfig, BloomForCausalLM
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=words, hidden_size=1024, n_layer=layers, n_head=16, initializer_range=0.06)
    model = Model(BloomForCausalLM(config).eval(), model.tokenizer, id="random")
with tempfile.TemporaryDirectory() as folder:
    start = time.process_time()
    run = study_circuits(model, CircuitsSettings(n=n, languages=("en",)), folder + "/run")
    took = time.process_time() - start
    print(json.dumps({"seconds": took, "heads": run.summary["heads"]["en"],
                      "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measured(source: Path, *arguments: str) -> dict[str, Any]:
    """One study in a process of its own, with the package of a working tree."""
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def line_of(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """What does not depend on n, and seconds a prompt: the line through the two (least squares of more)."""
    middle = sum(sizes) / len(sizes), sum(seconds) / len(seconds)
    spread = sum((n - middle[0]) ** 2 for n in sizes)
    slope = sum((n - middle[0]) * (s - middle[1]) for n, s in zip(sizes, seconds)) / spread
    return max(0.0, middle[1] - slope * middle[0]), slope


def whole(fixed: float, slope: float, n: int = 100, languages: int = 2) -> float:
    """Seconds of a study of n prompts in some languages."""
    return languages * (fixed + slope * n)


def at_depth(depths: list[int], seconds: list[float], layers: int = 24) -> float:
    """a·L + b·L² through two depths, at another one."""
    (one, two), (s, t) = depths, seconds
    b = (t / two - s / one) / (two - one)
    return (s / one - b * one) * layers + b * layers**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--layers", type=int, nargs="+", default=[4])
    parser.add_argument("--words", type=int, default=250_880)
    parser.add_argument("--before", default="772c1ee")
    parser.add_argument("--pocket", action="store_true", help="the trained pocket model instead")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "before"
        subprocess.run(
            ["git", "-C", str(here), "worktree", "add", "-q", "--detach", str(old), arguments.before], check=True
        )
        try:
            totals: dict[str, list[float]] = {"before": [], "now": []}
            for layers in arguments.layers:
                kind = "pocket" if arguments.pocket else "random"
                chosen: dict[str, Any] = {}
                for name, source in (("now", here), ("before", old)):
                    rows = [measured(source, str(n), str(layers), str(arguments.words), kind) for n in arguments.n]
                    fixed, slope = line_of(arguments.n, [row["seconds"] for row in rows])
                    totals[name].append(whole(fixed, slope))
                    chosen[name] = [row["heads"] for row in rows]
                    told = ", ".join(f"n = {n}: {row['seconds']:.0f} s" for n, row in zip(arguments.n, rows))
                    print(
                        f"{kind}, {layers} layers, {name}: {told}; {fixed:.0f} s + {slope:.2f} s a prompt; two "
                        f"languages, n = 100: {totals[name][-1]:.0f} s; peak {max(row['peak'] for row in rows):.0f} MB",
                        flush=True,
                    )
                print(f"same selected heads: {chosen['now'] == chosen['before']}", flush=True)
                ratio = totals["before"][-1] / totals["now"][-1]
                results.append(result(f"IOI study, {kind}, {layers} layers, before / now", ratio, 5, "higher"))
            if len(arguments.layers) == 2:
                for name, seconds in totals.items():
                    hours = at_depth(arguments.layers, seconds) / 3600
                    print(f"extrapolated to 24 layers, {name}: {hours:.1f} processor hours")
        finally:
            subprocess.run(["git", "-C", str(here), "worktree", "remove", "--force", str(old)], check=False)
    tell(results, arguments.json)


if __name__ == "__main__":
    main()
