"""Mutants tried in forks of one process that has imported and collected everything: functions get the mutant's code.

Nothing is imported twice, so that a mutant costs what the tests that kill it cost. What runs at import (constants,
defaults, decorators) cannot be changed in place; `tests.mutants.passes` imports a changed copy.
"""

from __future__ import annotations

import ast
import gc
import importlib
import os
import resource
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from babelscope.settings import syntax_tree
from tests.covering import SOURCE
from tests.mutants import copied, end_of


class Collected:
    """Every test of some files, collected and not yet run."""

    def __init__(self, session: pytest.Session) -> None:
        self.items = {item.nodeid: item for item in session.items}
        self.functions = list(_functions())
        gc.freeze()

    def passes(self, name: str, source: str, changed: str, line: int, tests: Iterable[str], seconds: float) -> bool:
        """Whether tests pass with the function around a line as the mutant has it; False after so much processor time.

        Raises LookupError where no function is around the line, or none that is loaded.
        """
        file = SOURCE / name
        where, code = _code(source, line, file), _code(changed, line, file)
        chosen = [self.items[test] for test in tests if test in self.items]
        with copied(name, changed) as folder:
            child = os.fork()
            if not child:
                self._run(folder, file, where, code, chosen, seconds)
            code = end_of(child, timeout=1800)
            if code == os.EX_SOFTWARE:
                raise LookupError(f"{name}: no function that is loaded has this code")
            return code == 0

    def _run(
        self, folder: str, file: Path, old: CodeType, new: CodeType, items: list[pytest.Item], seconds: float
    ) -> None:
        done = os.EX_SOFTWARE
        try:
            os.setsid()
            os.environ.update(PYTHONPATH=folder, PYTHONDONTWRITEBYTECODE="1")
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(quiet, stream)
            importlib.import_module(".".join(("babelscope", *file.relative_to(SOURCE).with_suffix("").parts)))
            same = [one for one in (*self.functions, *_functions()) if _place(one.__code__) == _place(old)]
            for function in same:
                function.__code__ = new
            if not same:
                raise LookupError(old.co_qualname)
            done = 1
            for item, after in zip(items, [*items[1:], None], strict=False):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            done = 0
        finally:
            os._exit(done)


class _Loop:
    """A plugin of pytest that does something else with what was collected than to run it."""

    def __init__(self, then: Callable[[Collected], None]) -> None:
        self.then = then

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.then(Collected(session))
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os._exit(1)


def with_tests(files: Iterable[Path], then: Callable[[Collected], None]) -> None:
    """Collect the tests of files and hand them over."""
    options = ["-qq", "-s", "-p", "no:cacheprovider", "-o", "timeout=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-m", "not nightly and not browser and not ray"]
    code = pytest.main([*options, *map(str, files)], plugins=[_Loop(then)])
    if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"the tests could not be collected: {code}")


def _functions() -> Iterable[FunctionType]:
    prefix = str(SOURCE)
    for one in gc.get_objects():
        if type(one) is FunctionType and os.path.realpath(one.__code__.co_filename).startswith(prefix):
            yield one


def _place(code: CodeType) -> tuple[str, str, int]:
    return os.path.realpath(code.co_filename), code.co_qualname, code.co_firstlineno


def _code(source: str, line: int, file: Path) -> CodeType:
    """Code of the outermost function around a line."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    around = [
        min([one.lineno, *(mark.lineno for mark in one.decorator_list)])
        for one in ast.walk(syntax_tree(source))
        if isinstance(one, kinds) and one.body[0].lineno <= line <= (one.end_lineno or 0)
    ]
    if not around:
        raise LookupError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # `is` beside a literal
        stack = [compile(source, str(file), "exec", dont_inherit=True)]
    while stack:
        code = stack.pop()
        if code.co_firstlineno == min(around) and code.co_flags & 2 and code.co_name != "<lambda>":  # CO_NEWLOCALS
            return code
        stack += [one for one in code.co_consts if isinstance(one, CodeType)]
    raise LookupError
