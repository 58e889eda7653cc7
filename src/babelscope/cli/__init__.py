"""The command line: one file per verb, thin; every error made on purpose becomes one line and an exit code."""

from __future__ import annotations

import os
import sys

from babelscope.cli.stopping import Stop, polite

SUMMARY = "See how a language model holds many languages: regions, alignment, circuits, and how they grow."
VERBS = {
    "demo": "The whole study on the built-in models, to a page, offline.",
    "regions": "Find the neurons that serve each language; look at region files.",
    "latent": "Ask which language a model works in between input and output.",
    "steer": "Make a model write in another language, and measure what that costs.",
    "confusion": "Count how often a model leaves the language it was asked for.",
    "circuits": "Find which heads and FFNs do a task, and whether languages share them.",
    "sweep": "Measure many checkpoints or sizes; go on where it stopped.",
    "evaluate": "What a model can do, whole and with a region switched off.",
    "replicate": "Try published claims, each with a control and a twin that must fail.",
    "show": "Print the headline numbers and the tables of a run.",
    "compare": "What differs between two runs.",
    "figure": "Draw one figure of a run into a file.",
    "report": "Write one page of one or several runs.",
    "push": "Share a run on the Hugging Face hub.",
    "pull": "Fetch shared results, verified.",
    "explore": "Look at a model or a run in the browser.",
    "check": "Say whether a model can be measured.",
    "corpus": "Look at parallel corpora and texts.",
    "tasks": "Look at the prompt tasks and at what a tokenizer leaves of them.",
    "pocket": "The built-in model family.",
    "doctor": "Print environment, versions, devices and caches, and what is wrong.",
}
"""verb → what it does; `babelscope.cli.VERB` holds it as `app`, and is imported when it is called"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a check failed, 2 the input cannot be used, 130 or 143 stopped."""
    from babelscope.allocator import keep_freed_memory

    given = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["MPLBACKEND"] = "agg"  # figures go into files, whatever a window would be drawn by
    keep_freed_memory()
    with polite() as stop:
        _run(given or ["--help"], stop)


def call(words: list[str]) -> None:
    """Run one command line in this process; errors and exits go to the caller as exceptions."""
    from babelscope._version import __version__

    if words[:1] == ["--version"]:
        print(f"babelscope {__version__}")
        return
    from cyclopts import App

    from babelscope.cli.config_file import taken_from
    from babelscope.cli.devices import refuse_endless

    refuse_endless(words)
    words, config = taken_from(words)
    app = App(
        name="babelscope",
        help=SUMMARY,
        help_format="plaintext",
        version_flags=["--version"],
        config=config,
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_none",
    )
    for name, summary in VERBS.items():
        # a verb that is called has more to say of itself than a line
        app.command(f"babelscope.cli.{name}:app", name=name, help=None if words[:1] == [name] else summary)
    app(words)


def _run(given: list[str], stop: Stop) -> None:
    from babelscope.cli.door import guarded

    raise SystemExit(guarded(lambda: call(given), stop))
