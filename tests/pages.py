"""The commands of a page of the documentation: found, run in order, and their output compared with its promises.

A block marked bash or python is run. A comment on the line before its fence says otherwise:

    <!-- not run: needs the hub -->     shown only; the reason must be there
    <!-- needs: ray -->                 run where that module is installed, and by night only (`make test-nightly`)

A block marked text, after <!-- output -->, holds lines that the block before it must have printed, in this order.
Numbers may differ by 5 %, or by one in the last digit; the sign … stands for any one word, at the end of a line
for the rest of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forked import server

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<fence>`{3,})(?P<kind>\w+)[^\n]*\n(?P<code>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
TOLERANCE = 0.05


@dataclass(frozen=True)
class Block:
    """One block of a page that is run."""

    kind: str
    code: str
    line: int
    needs: str = ""
    output: str = ""


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page that are run, each with the output it promises; ValueError for a mark that says nothing."""
    waiting: Block | None = None
    for found in FENCE.finditer(text):
        mark, kind, line = found["mark"] or "", found["kind"], text.count("\n", 0, found.start("fence")) + 1
        if kind == "text" and mark == "output":
            if waiting is None:
                raise ValueError(f"line {line}: output of which block?")
            waiting = Block(waiting.kind, waiting.code, waiting.line, waiting.needs, found["code"])
        if waiting is not None:
            yield waiting
            waiting = None
        if kind not in ("bash", "python") or re.match(r"not run: \w", mark):
            continue
        if mark and not mark.startswith("needs: "):
            raise ValueError(f"line {line}: {mark!r} is not a mark; write not run: REASON, or needs: MODULE")
        waiting = Block(kind, found["code"], line, mark.removeprefix("needs: "))
    if waiting is not None:
        yield waiting


def run_page(text: str, folder: Path, shell: Shell, by_night: bool = False) -> list[str]:
    """Run a page in a folder; what went wrong, block by block (the rest of the page is not run after a failure)."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(text):
        if block.needs and not (by_night and importlib.util.find_spec(block.needs)):
            continue
        # a library that starts processes of its own (Ray) wants a process that was not forked
        in_shell = block.kind == "bash"
        code, printed = shell.run(block.code, folder, not block.needs) if in_shell else _python(block, names, folder)
        if code:
            return [f"line {block.line}: exit code {code}\n{block.code}\n{printed[-3000:]}"]
        missing = unmet(block.output, printed)
        if missing:
            return [f"line {block.line}: not in the output: {missing!r}\n{printed[-3000:]}"]
    return []


def unmet(promised: str, printed: str) -> str:
    """The first promised line that the output does not have in its place; empty when all are there."""
    rest = iter([line.split() for line in printed.splitlines()])
    for line in promised.splitlines():
        words = line.split()
        if words and not any(_same_words(words, other) for other in rest):
            return line
    return ""


def _same_words(promised: list[str], printed: list[str]) -> bool:
    if promised[-1] == "…":
        promised = promised[:-1]
        printed = printed[: len(promised)]
    return len(promised) == len(printed) and all(map(_same, promised, printed))


def _same(promised: str, printed: str) -> bool:
    if promised in ("…", printed):
        return True
    try:
        one, other = float(promised), float(printed)
    except ValueError:
        return False
    digit = 10.0 ** -len(promised.partition(".")[2])
    return abs(one - other) <= max(TOLERANCE * abs(one), 1.001 * digit)


def _python(block: Block, names: dict[str, Any], folder: Path) -> tuple[int, str]:
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        try:
            exec(compile(block.code, f"line {block.line}", "exec"), names)
        except Exception:
            return 1, printed.getvalue() + traceback.format_exc()
    return 0, printed.getvalue()


@dataclass(frozen=True)
class Shell:
    """Bash with a `babelscope` that starts at once (`tests/forked.py`)."""

    home: Path

    def run(self, code: str, folder: Path, forked: bool = True) -> tuple[int, str]:
        """Exit code and everything printed; without `forked`, the command is the installed one."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        path = f"{self.home}:{path}" if forked else path
        # Ray's workers are of low priority: on a busy machine they would never finish
        variables = os.environ | {"PATH": path, "COLUMNS": "120", "RAY_worker_niceness": "0"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=folder, env=variables, timeout=800,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip
        return done.returncode, done.stdout


@contextlib.contextmanager
def shell() -> Generator[Shell]:
    with server() as started:
        yield Shell(started.home)
