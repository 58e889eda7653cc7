"""Processor time of the whole study of circuits, now against an earlier commit, in one run.

    python -m benchmarks.circuits_cost [--n 8 16] [--layers 4] [--words 250880] [--before 772c1ee] [--pocket]
    python -m benchmarks.circuits_cost --languages [--n 10]
    python -m benchmarks.circuits_cost --plan --layers 24

A BLOOM of random weights (16 heads, d = 1 024) or the pocket model does the IOI study in one language with n prompts,
for two n: what does not depend on n and what each prompt costs follow, and with them n = 100 in two languages (one n:
it alone). The earlier commit is unpacked into a temporary folder. Every study has a process of its own, one thread; its
parts are told by the progress that it reports (what reports none is "the rest").

`--keep FOLDER` keeps every finished measurement, so that a run that was stopped goes on from there.

At 24 layers the parts are extrapolated by a·L + b·L² from two depths (`--layers 2 4`). `--languages` holds the selected
heads and all patching effects of the pocket model against the earlier commit's, in nine languages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measure import result, tell

PROGRAM = """
import json, resource, sys, tempfile, time
from contextlib import contextmanager
import numpy as np, torch
from babelscope import load_model
from babelscope.models import Model
from babelscope.studies.circuits import CircuitsSettings, study_circuits
asked = json.loads(sys.argv[1])
torch.set_num_threads(1)
model = load_model("pocket:pocket-bloom-m")
if asked["model"] == "random":
    from transformers import BloomConfig, BloomForCausalLM
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=asked["words"], hidden_size=1024, n_layer=asked["layers"], n_head=16, initializer_range=0.06
    )
    model = Model(BloomForCausalLM(config).eval(), model.tokenizer, id="random")
parts, within = {}, []
@contextmanager
def timed(title, total, unit):
    start = time.process_time()
    within.append(0.0)
    try:
        yield lambda amount: None
    finally:
        took = time.process_time() - start
        inner = within.pop()
        if within:
            within[-1] += took
        name = title.split(": ")[-1]
        name = "search" if name.startswith("search") else name
        parts[name] = parts.get(name, 0.0) + took - inner
settings = CircuitsSettings(n=asked["n"], languages=tuple(asked["languages"]), edges=asked["edges"])
with tempfile.TemporaryDirectory() as folder:
    start = time.process_time()
    run = study_circuits(model, settings, folder + "/run", progress=timed)
    took = time.process_time() - start
    arrays = run.arrays()
    effects = {
        name: np.asarray(arrays[name].values, dtype=float).tolist() for name in ("activation_patching", "path_logits")
    }
    screen = run.table("screen") if "screen" in run.tables else None
    kept = [] if screen is None else screen[["sweep", "kept", "heads"]].values.tolist()
    print(json.dumps({"seconds": took, "kept": kept, "heads": run.summary["heads"], "parts": parts,
                      "effects": effects if asked["model"] == "pocket" else {},
                      "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
PLAN = """
import json, sys, time
import torch
from transformers import BloomConfig, BloomForCausalLM
from babelscope import load_model
from babelscope.models import Model
from babelscope.studies.circuit_plan import plan_circuits
from babelscope.studies.circuits import CircuitsSettings
asked = json.loads(sys.argv[1])
torch.set_num_threads(1)
config = BloomConfig(
    vocab_size=asked["words"], hidden_size=1024, n_layer=asked["layers"], n_head=16, initializer_range=0.06
)
model = Model(BloomForCausalLM(config).eval(), load_model("pocket:pocket-bloom-m").tokenizer, id="random")
plan = plan_circuits(model, CircuitsSettings(n=100), clock=time.process_time)
print(json.dumps([[step.step, step.seconds] for step in plan.steps]))
"""
NINE = ("ar", "en", "es", "fr", "hi", "id", "pt", "vi", "zh")


def measured(name: str, source: Path, keep: Path | None, **asked: Any) -> dict[str, Any]:
    """One study in a process of its own, with the package of a working tree; or what an earlier call kept of it."""
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    given = json.dumps({"languages": ("en",), "edges": True} | asked)
    kept = None if keep is None else keep / f"{name}-{hashlib.sha256(given.encode()).hexdigest()[:12]}.json"
    if kept is not None and kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    last = done.stdout.splitlines()[-1]
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(last, encoding="utf-8")
    return json.loads(last)


def unpacked(commit: str, folder: str) -> Path:
    """The package as it was at a commit."""
    here = Path(__file__).resolve().parents[1]
    packed = subprocess.run(["git", "-C", str(here), "archive", commit, "src"], check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "x", "-C", folder], check=True, input=packed.stdout)
    return Path(folder)


def planned(layers: int, words: int) -> None:
    """Processor seconds of the study in two languages, n = 100, as `--plan` tells them after a probe."""
    given = json.dumps({"layers": layers, "words": words})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PLAN, given], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    steps: list[tuple[str, float]] = json.loads(done.stdout.splitlines()[-1])
    parts: dict[str, float] = {}
    for name, seconds in steps:
        kind = name.partition(": ")[2] or name
        parts[kind] = parts.get(kind, 0.0) + seconds
    whole = sum(parts.values())
    told = ", ".join(
        f"{kind} {100 * value / whole:.0f} %" for kind, value in sorted(parts.items(), key=lambda one: -one[1])
    )
    print(f"planned, {layers} layers, two languages, n = 100: {whole:.0f} processor seconds: {told}", flush=True)


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


def by_part(rows: dict[str, dict[str, Any]]) -> str:
    """Processor seconds of each part, before and now, the largest first."""
    names = sorted({name for row in rows.values() for name in row["parts"]})
    told: list[tuple[float, str]] = []
    for name in names:
        both = [row["parts"].get(name, 0.0) for row in (rows["before"], rows["now"])]
        told.append((max(both), f"| {name} | {both[0]:.1f} | {both[1]:.1f} |"))
    rest = [row["seconds"] - sum(row["parts"].values()) for row in (rows["before"], rows["now"])]
    told.append((0.0, f"| the rest | {rest[0]:.1f} | {rest[1]:.1f} |"))
    whole = f"| all | {rows['before']['seconds']:.1f} | {rows['now']['seconds']:.1f} |"
    head = ["| processor seconds | before | now |", "|---|---:|---:|"]
    return "\n".join([*head, *(line for _, line in sorted(told, reverse=True)), whole])


def costs(sources: dict[str, Path], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both versions at every depth and number of prompts."""
    totals: dict[str, list[float]] = {name: [] for name in sources}
    results: list[dict[str, Any]] = []
    kind = "pocket" if arguments.pocket else "random"
    for layers in arguments.layers:
        largest: dict[str, dict[str, Any]] = {}
        for name, source in sources.items():
            rows: list[dict[str, Any]] = []
            for n in arguments.n:
                rows.append(
                    measured(name, source, arguments.keep, model=kind, n=n, layers=layers, words=arguments.words)
                )
                print(f"{kind}, {layers} layers, {name}, n = {n}: {rows[-1]['seconds']:.1f} s", flush=True)
            largest[name] = rows[-1]
            if len(rows) == 1:
                totals[name].append(rows[0]["seconds"])
                continue
            fixed, slope = line_of(arguments.n, [row["seconds"] for row in rows])
            totals[name].append(whole(fixed, slope))
            told = ", ".join(f"n = {n}: {row['seconds']:.0f} s" for n, row in zip(arguments.n, rows))
            print(
                f"{kind}, {layers} layers, {name}: {told}; {fixed:.0f} s + {slope:.2f} s a prompt; two "
                f"languages, n = 100: {totals[name][-1]:.0f} s; peak {max(row['peak'] for row in rows):.0f} MB",
                flush=True,
            )
        if kept := largest["now"].get("kept"):
            print("heads that the screen kept: " + ", ".join(f"{sweep} {few} of {many}" for sweep, few, many in kept))
        print(f"\nn = {arguments.n[-1]}, one language:\n\n{by_part(largest)}\n", flush=True)
        ratio = totals["before"][-1] / totals["now"][-1]
        size = f"one language, n = {arguments.n[0]}" if len(arguments.n) == 1 else "two languages, n = 100"
        results.append(result(f"IOI study, {kind}, {layers} layers, {size}, before / now", ratio, 5, "higher"))
    if len(arguments.layers) == 2:
        for name, seconds in totals.items():
            print(
                f"extrapolated to 24 layers, {name}: {at_depth(arguments.layers, seconds) / 3600:.1f} processor hours"
            )
    return results


def nine(sources: dict[str, Path], n: int, keep: Path | None) -> list[dict[str, Any]]:
    """The pocket model in nine languages: the same effects, and the same selected heads."""
    found = {
        name: measured(name, source, keep, model="pocket", n=n, languages=NINE, edges=False)
        for name, source in sources.items()
    }
    before, now = found["before"], found["now"]
    apart = np.max(
        [
            np.abs(np.array(before["effects"][name]) - np.array(now["effects"][name])).reshape(len(NINE), -1).max(1)
            for name in before["effects"]
        ],
        axis=0,
    )
    print("| language | largest difference of an effect | heads before | heads now | same |\n|---|---|---|---|---|")
    same = 0
    for code, worst in zip(NINE, apart.tolist()):
        old, new = ({tuple(node) for node in side["heads"][code]} for side in (before, now))
        same += old == new
        names = [", ".join(f"{x}.{y}" for x, y in sorted(side)) for side in (old, new)]
        print(f"| {code} | {worst:.1e} | {names[0]} | {names[1]} | {'yes' if old == new else 'no'} |")
    print(f"\n{before['seconds']:.0f} s and {now['seconds']:.0f} s")
    return [
        result("languages with the same effects of all heads, of nine", int((apart < 1e-4).sum()), 9, "higher"),
        result("languages with the same selected heads, of nine", same, 9, "higher"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--layers", type=int, nargs="+", default=[4])
    parser.add_argument("--words", type=int, default=250_880)
    parser.add_argument("--before", default="772c1ee")
    parser.add_argument("--pocket", action="store_true", help="the trained pocket model instead")
    parser.add_argument("--languages", action="store_true", help="the pocket model's heads in nine languages instead")
    parser.add_argument("--plan", action="store_true", help="what `--plan` says at these --layers instead")
    parser.add_argument("--keep", type=Path, help="finished measurements, taken over by the next call")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.plan:
        for layers in arguments.layers:
            planned(layers, arguments.words)
        return
    with tempfile.TemporaryDirectory() as folder:
        sources = {"before": unpacked(arguments.before, folder), "now": Path(__file__).resolve().parents[1]}
        results = nine(sources, arguments.n[0], arguments.keep) if arguments.languages else costs(sources, arguments)
    tell(results, arguments.json)


if __name__ == "__main__":
    main()
