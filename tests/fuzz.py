"""Fuzzing of everything that reads a file: `python -m tests.fuzz --seconds 600 [--engine atheris] [TARGET …]`.

A crash is anything but an error class of our own. `atheris` (pip install atheris), taken where it is installed, guides
the mutations by coverage of our code; otherwise good files are mutated at random from a printed seed. A crashing input
is written beside its traceback, and `python -m tests.fuzz TARGET --replay FILE` shows it again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

INSTRUMENTED = ("babelscope", "yaml", "defusedxml", "xml", "csv", "json", "http", "urllib")


@dataclass(frozen=True)
class Finding:
    """What fuzzing a target came to."""

    name: str
    inputs: int
    coverage: int | None
    crash: str | None

    def line(self) -> str:
        covered = "" if self.coverage is None else f", {self.coverage:,} edges covered"
        return f"{self.name}: {self.inputs:,} inputs{covered}, {self.crash or 'no crash'}"


def once(name: str, data: bytes) -> None:
    """Feed one input to a target; raises whatever is not one of our own errors."""
    from babelscope.errors import BabelscopeError

    from .fuzz_targets import TARGETS

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(BabelscopeError):
            TARGETS[name][0](data, Path(folder))


def mutate(data: bytes, dice: random.Random) -> bytes:
    """A few random edits: flipped bytes, cuts, repeats, and tokens that parsers trip over."""
    from .fuzz_targets import TOKENS

    result = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        place = dice.randint(0, len(result))
        match dice.randrange(5):
            case 0 if result:
                result[min(place, len(result) - 1)] = dice.randrange(256)
            case 1:
                del result[place : place + dice.randint(1, 40)]
            case 2:
                result[place:place] = result[place : place + dice.randint(1, 80)]
            case _:
                result[place:place] = dice.choice(TOKENS)
    return bytes(result)


def fuzz(name: str, seconds: float, seed: int) -> int:
    """Mutate until the time is over; returns the number of inputs tried. Raises the first crash, its input saved."""
    from .fuzz_targets import TARGETS

    dice, good, count = random.Random(seed), TARGETS[name][1](), 0
    once(name, good)  # the imports it makes are not fuzzing time
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(good, dice)
        try:
            once(name, data)
        except Exception:
            crash = Path(f"crash-{name}-{seed}-{count}.bin")
            crash.write_bytes(data)
            print(f"{name}: crashed on input {count}, kept as {crash}")
            traceback.print_exc()
            raise
        count += 1
    return count


# -- by coverage -------------------------------------------------------------------------------------------------------


def guided(name: str, seconds: float, seed: int, folder: Path) -> Finding:
    """One target under atheris, in a process of its own because libFuzzer ends it; what was found stays in `folder`."""
    here = folder / name
    (here / "corpus").mkdir(parents=True, exist_ok=True)
    log = here / "log.txt"
    given = [sys.executable, "-m", "tests.fuzz", name, "--child", "--seconds", str(seconds), "--seed", str(seed)]
    # libFuzzer counts from where the imports are instrumented, which a busy machine can take long over
    try:
        with log.open("w") as stream:
            ended = subprocess.run(
                [*given, "--folder", str(here)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=2 * seconds + 1800,
            ).returncode
    except subprocess.TimeoutExpired:
        ended = None
    said = log.read_text(errors="replace")
    counts = [int(found) for found in re.findall(r"^(?:#|Done )(\d+)", said, re.MULTILINE)]
    covered = [int(found) for found in re.findall(r"cov: (\d+)", said)]
    crash = (
        None if ended == 0 else f"NOT FINISHED: see {log}" if ended is None else f"CRASHED (exit {ended}): see {log}"
    )
    return Finding(name, max(counts, default=0), max(covered, default=None), crash)


def child(name: str, seconds: float, seed: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris  # pyright: ignore[reportMissingImports]

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from .fuzz_targets import TARGETS, TOKENS

        good = TARGETS[name][1]()
        once(name, good)  # what a target imports when it is first called is instrumented too
    (folder / "corpus" / "good").write_bytes(good)
    words = folder / "words.dict"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in TOKENS))
    options = {"max_total_time": int(seconds), "seed": seed + 1, "max_len": 8192, "timeout": 120, "rss_limit_mb": 6000}
    flags = [f"-{key}={value}" for key, value in options.items()]
    where = [f"-dict={words}", f"-artifact_prefix={folder}/", str(folder / "corpus")]
    atheris.Setup([sys.argv[0], *flags, *where], lambda data: once(name, data))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=[], help="default: all")
    parser.add_argument("--seconds", type=float, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--engine", choices=["auto", "random", "atheris"], default="auto")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for logs, corpora and crashes")
    parser.add_argument("--replay", type=Path, help="feed this one input to the target, and stop")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.targets[0], given.seconds, given.seed, given.folder)
        return
    if given.replay:
        once(given.targets[0], given.replay.read_bytes())
        return
    sys.exit(run(given))


def run(given: argparse.Namespace) -> int:
    """All targets, a line for each as it ends; 1 when one crashed."""
    from .fuzz_targets import TARGETS

    names = given.targets or list(TARGETS)
    installed = importlib.util.find_spec("atheris") is not None
    engine = given.engine if given.engine != "auto" else "atheris" if installed else "random"
    note = "" if installed else " (atheris is not installed: mutations are random, not guided by coverage)"
    print(f"{len(names)} targets, {given.seconds:g} s each, engine {engine}, seed {given.seed}{note}", flush=True)
    crashed = 0

    def one(name: str) -> Finding:
        if engine == "atheris":
            return guided(name, given.seconds, given.seed, given.folder)
        try:
            return Finding(name, fuzz(name, given.seconds, given.seed), None, None)
        except Exception as error:
            return Finding(name, 0, None, f"CRASHED: {type(error).__name__}: {error}")

    with ThreadPoolExecutor(given.jobs if engine == "atheris" else 1) as pool:
        for finding in pool.map(one, names):
            crashed += finding.crash is not None
            print(finding.line(), flush=True)
    print(f"{len(names) - crashed} of {len(names)} targets without a crash")
    return int(crashed > 0)


if __name__ == "__main__":
    main()
