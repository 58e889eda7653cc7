"""The command line called in this process, as tests want it: what it printed and how it ended."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
from collections.abc import Iterator
from dataclasses import dataclass

from babelscope.cli import VERBS, main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def command(*words: object) -> Ended:
    """`babelscope` with these words."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    return Ended(code if isinstance(code, int) else 0 if code is None else 1, out.getvalue(), err.getvalue())


def every_command() -> Iterator[tuple[str, str]]:
    """Each command's words and what it says of itself."""
    for verb in VERBS:
        app = importlib.import_module(f"babelscope.cli.{verb}").app
        if app.default_command is not None:
            yield verb, inspect.getdoc(app.default_command) or ""
        for name in app:
            if not name.startswith("-"):
                yield f"{verb} {name}", inspect.getdoc(app[name].default_command) or ""


def every_option() -> Iterator[tuple[str, list[str]]]:
    """Each command's words and the names of its options."""
    for verb in VERBS:
        app = importlib.import_module(f"babelscope.cli.{verb}").app
        named = [(verb, app), *((f"{verb} {name}", app[name]) for name in app if not name.startswith("-"))]
        for words, one in named:
            if one.default_command is not None:
                yield words, list(inspect.signature(one.default_command).parameters)
