"""The command line: one file per verb, thin; every error made on purpose becomes one line and an exit code."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated, Any

import typer

from babelscope.cli.stopping import Stop, polite

app = typer.Typer(
    name="babelscope",
    help="See how a language model holds many languages: regions, alignment, circuits, and how they grow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = {
    "regions": "regions",
    "check": "check",
    "show": "show",
    "report": "report",
    "figure": "figure",
    "demo": "demo",
    "circuits": "circuits",
    "sweep": "sweep",
    "evaluate": "evaluate",
    "compare": "compare",
    "explore": "explore",
    "doctor": "doctor",
}
"""verbs with a function of the same name in the module of that name"""
GROUPS = ("corpus", "tasks", "pocket", "region-files")
"""verbs that hold further verbs in `app`"""
REGION_FILES = ("show", "compare", "import", "export")
"""`babelscope regions compare` is `babelscope region-files compare`; a model folder of such a name is `./compare`"""


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """See how a language model holds many languages."""


def _mount() -> None:
    for verb, function in COMMANDS.items():
        module = _module(verb)
        if module is not None:
            app.command(verb)(getattr(module, function))
    for verb in GROUPS:
        module = _module(verb.replace("-", "_"))
        if module is not None:
            app.add_typer(module.app, name=verb)


def _module(name: str) -> Any:
    """A verb's module, or None for one that this build does not have."""
    path = f"babelscope.cli.{name}"
    return importlib.import_module(path) if importlib.util.find_spec(path) else None


_mount()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a check failed, 2 the input cannot be used, 130 or 143 stopped."""
    from babelscope._version import __version__
    from babelscope.cli.allocator import keep_freed_memory

    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["--version"]:
        print(f"babelscope {__version__}")
        raise SystemExit(0)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed_memory()
    if given[:1] == ["regions"] and given[1:2] and given[1] in REGION_FILES:
        given = ["region-files", *given[1:]]
    with polite() as stop:
        _run(given, stop)


def _run(given: list[str], stop: Stop) -> None:
    from babelscope.cli.door import guarded

    raise SystemExit(guarded(lambda: app(args=given, standalone_mode=True), stop))
