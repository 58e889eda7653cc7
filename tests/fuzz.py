"""Fuzzing of everything that reads a file: `python -m tests.fuzz --seconds 600 [--engine atheris] [TARGET …]`.

A crash is anything but an error class of our own. The default engine mutates good files at random from a printed seed;
`atheris` (from PyPI) guides the mutations by coverage. A crashing input is written beside its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from babelscope.errors import BabelscopeError

Target = Callable[[bytes, Path], None]

_BIBLE = (
    b'<?xml version="1.0" encoding="utf-8"?><cesDoc version="4"><cesHeader><profileDesc><langUsage>'
    b'<language id="en" iso639="eng">English</language></langUsage></profileDesc></cesHeader><text><body>'
    b'<div id="b.MAT" type="book"><div id="b.MAT.1" type="chapter"><seg id="b.MAT.1.1" type="verse">In the beginning.'
    b'</seg><seg id="b.MAT.1.2" type="verse">And &amp; then.</seg></div></div></body></text></cesDoc>'
)
_JSONL = b'{"id": "1", "en": "a cat", "fr": "un chat"}\n{"id": "2", "en": "a dog", "fr": "un chien"}\n'
_PLAN = b"""name: x
models:
  - pocket:pocket-bloom-s
corpora: ["pocket:heldout"]
measures:
  regions: {samples: 20}
"""


def _corpus(reader: str, names: list[str], options: str = "") -> Target:
    def read(data: bytes, folder: Path) -> None:
        from babelscope.corpora import load_corpus, load_texts

        for name in names:
            (folder / name).write_bytes(data)
        place = folder if len(names) > 1 else folder / names[0]
        for load in (load_corpus, load_texts):
            load(f"{reader}:{place}{options}", ["en", "fr"])

    return read


def _regions(data: bytes, folder: Path) -> None:
    from babelscope.regions import load_regions

    (folder / "r.safetensors").write_bytes(data)
    load_regions(folder / "r.safetensors")


def _run(data: bytes, folder: Path) -> None:
    from babelscope.results import open_run

    (folder / "run.json").write_bytes(data)
    (folder / "checksums.json").write_bytes(b"{}")
    run = open_run(folder)
    run.validate()
    _ = (run.summary, run.tables)


def _plan(data: bytes, folder: Path) -> None:
    from babelscope.evolution.plan import read_plan

    (folder / "plan.yaml").write_bytes(data)
    read_plan(folder / "plan.yaml")


def _region_bytes() -> bytes:
    import torch

    from babelscope.regions.masks import RegionSet, save_regions

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.safetensors"
        save_regions(RegionSet({"en": torch.ones(2, 3).bool(), "zh": torch.zeros(2, 3).bool()}, "z-score"), path)
        return path.read_bytes()


def _manifest() -> bytes:
    return json.dumps({"kind": "regions", "summary": {"lrds": 0.1}, "babelscope": "0.1.0", "corpus": {}}).encode()


TARGETS: dict[str, tuple[Target, Callable[[], bytes]]] = {
    "bible": (_corpus("bible", ["English-NT.xml", "French-NT.xml"]), lambda: _BIBLE),
    "ntrex": (
        _corpus("ntrex", ["newstest2019-src.eng.txt", "newstest2019-ref.fra.txt"]),
        lambda: "A line.\nAnother – one.\n".encode(),
    ),
    "lines": (_corpus("lines", ["en.txt", "fr.txt"]), lambda: "One.\nTwo.\nÜ\n".encode()),
    "tsv": (_corpus("table", ["t.tsv"]), lambda: b"id\ten\tfr\n1\ta cat\tun chat\n2\ta dog\tun chien\n"),
    "csv": (_corpus("table", ["t.csv"]), lambda: b'id,en,fr\n1,"a, cat",un chat\n2,a dog,un chien\n'),
    "jsonl": (_corpus("table", ["t.jsonl"]), lambda: _JSONL),
    "regions": (_regions, _region_bytes),
    "run": (_run, _manifest),
    "plan": (_plan, lambda: _PLAN),
}


def once(name: str, data: bytes) -> None:
    """Feed one input to a target; raises whatever is not one of our own errors."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(BabelscopeError):
            TARGETS[name][0](data, Path(folder))


def mutate(data: bytes, dice: random.Random) -> bytes:
    """A few random edits: flipped bytes, cuts, repeats, and tokens that parsers trip over."""
    tokens = [
        b"\x00",
        b"\xff\xfe",
        b"<!ENTITY a 'b'>",
        b"&a;",
        b"{",
        b"[",
        b'"',
        b"\t",
        b"\n",
        b"9" * 30,
        b"null",
        b"\xe2\x80\xae",
        b"- &x [*x]",
        b"!!python/object",
    ]
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
                result[place:place] = dice.choice(tokens)
    return bytes(result)


def fuzz(name: str, seconds: float, seed: int) -> int:
    """Mutate until the time is over; returns the number of inputs tried. Raises the first crash, its input saved."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=[], help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    given = parser.parse_args()
    if given.engine == "atheris":
        _atheris((given.targets or list(TARGETS))[0], given.seconds)
        return
    for name in given.targets or TARGETS:
        print(f"{name}: {fuzz(name, given.seconds, given.seed):,} inputs, no crash")


def _atheris(name: str, seconds: float) -> None:
    import atheris  # pyright: ignore[reportMissingImports]

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}"], lambda data: once(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
