"""Which tests run a line: coverage of the source by test, recorded once and kept until source or tests change."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from babelscope.settings import syntax_tree
from tests.mutants import ROOT

SOURCE = ROOT / "src" / "babelscope"
INTO = "BABELSCOPE_COVERING"
"""the variable that names the file into which a recording run writes"""

READING = "tests/test_frozen.py"
"""tests that read the source and do not run it"""


@dataclass(frozen=True)
class Covering:
    """What was recorded: tests by file of the source and line, and the seconds of each test."""

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def of(self, file: Path, line: int) -> list[str]:
        """Tests that run the statement at a line; of one that runs at import, all that run anything in its file."""
        ran = self.lines.get(str(file.relative_to(SOURCE)), {})
        places = _statement(syntax_tree(file.read_text(encoding="utf-8")), line)
        found = {test for place in places or ran for test in ran.get(place, ())}
        if places is None:
            # of a file of constants and classes: all
            found = found or set(self.seconds)
            found |= {test for test in self.seconds if test.startswith(READING)}
        return sorted(found, key=lambda test: (self.seconds.get(test, 0.0), test))


def _statement(tree: ast.Module, line: int) -> range | None:
    """Lines of the innermost statement at a line; None outside functions, and in the head of one."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    bodies = [one for one in ast.walk(tree) if isinstance(one, functions)]
    if not any(one.body[0].lineno <= line <= (one.end_lineno or 0) for one in bodies):
        return None
    around = [
        one for one in ast.walk(tree) if isinstance(one, ast.stmt) and one.lineno <= line <= (one.end_lineno or 0)
    ]
    inner = max(around, key=lambda one: one.lineno)
    body = getattr(inner, "body", None)
    end = body[0].lineno - 1 if isinstance(body, list) else inner.end_lineno or line
    return range(inner.lineno, max(end, line, inner.lineno) + 1)


def covering(tests: Iterable[Path], kept: Path | None = None) -> Covering:
    """Coverage by test of these files, from `kept` (or a file of temporary ones) where it was recorded."""
    names = [str(test.relative_to(ROOT)) for test in tests]
    file = kept or Path(tempfile.gettempdir()) / f"babelscope-covering-{_state(names)}.json"
    if not file.is_file():
        asked = [sys.executable, "-m", "pytest", "-q", "-p", "tests.covering", "-p", "no:cacheprovider"]
        asked += ["-m", "not nightly and not browser and not ray", *names]
        where = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), INTO: str(file)}
        done = subprocess.run(asked, env=where, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode or not file.is_file():
            raise SystemExit(f"the tests do not pass as things are:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    read = json.loads(file.read_text(encoding="utf-8"))
    lines = {name: {int(line): ran for line, ran in of.items()} for name, of in read["lines"].items()}
    return Covering(lines, read["seconds"])


def _state(names: list[str]) -> str:
    texts = sorted([*SOURCE.rglob("*.py"), *(ROOT / "tests").glob("*.py")])
    parts = [*names, *(part for one in texts for part in (str(one), one.read_text(encoding="utf-8")))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class _Recorder:
    """A plugin of pytest: every line of the source that a test runs, or a fixture that it shares with others."""

    def __init__(self, into: Path) -> None:
        from coverage import Coverage

        self.into, self.seconds, self.sharing = into, dict[str, float](), dict[str, set[str]]()
        self.now = ""
        self.lines = Coverage(data_file=f"{into}.part", source=[str(SOURCE)], config_file=False)
        self.lines.start()

    @contextmanager
    def _within(self, context: str) -> Iterator[None]:
        before, self.now = self.now, context
        self.lines.switch_context(context)
        yield
        self.now = before
        self.lines.switch_context(before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Generator[None, object, object]:
        for fixtures in item._fixtureinfo.name2fixturedefs.values():
            self.sharing.setdefault(_named(fixtures[-1]), set()).add(item.nodeid)
        begun = time.process_time()
        with self._within(item.nodeid):
            done = yield
        self.seconds[item.nodeid] = time.process_time() - begun
        return done

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        with self._within(self.now if fixturedef.scope == "function" else _named(fixturedef)):
            return (yield)

    def pytest_sessionfinish(self) -> None:
        self.lines.stop()
        data, found = self.lines.get_data(), dict[str, dict[int, list[str]]]()
        for name in data.measured_files():
            by_line = data.contexts_by_lineno(name)
            found[str(Path(name).relative_to(SOURCE))] = {
                line: sorted({test for one in filter(None, ran) for test in self.sharing.get(one, {one})})
                for line, ran in by_line.items()
            }
        self.into.write_text(json.dumps({"lines": found, "seconds": self.seconds}), encoding="utf-8")


def _named(fixture: pytest.FixtureDef[object]) -> str:
    return f"fixture {fixture.baseid}::{fixture.argname}"


def pytest_configure(config: pytest.Config) -> None:
    if INTO in os.environ:
        config.pluginmanager.register(_Recorder(Path(os.environ[INTO])))
