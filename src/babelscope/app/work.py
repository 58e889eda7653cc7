"""One piece of work in the explorer: it tells how far it is, and stops between two steps when it is asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from babelscope.errors import InputError, Interrupted

TEXT_LIMIT = 2000
"""characters of one text field"""
SENTENCES_LIMIT = 12
TOKENS_LIMIT = 512
"""tokens of a prompt"""
ATTENTION_LIMIT = 64
"""tokens of a prompt whose attention is shown"""
NEW_TOKENS_LIMIT = 100

Tell = Callable[[float, str], None]


class Work:
    """Progress and cancellation of one call; `tell` hears the share done and a short text.

    >>> work = Work(lambda share, text: print(f"{share:.0%} {text}"))
    >>> with work.stage("recording", 4, "sentences") as step:
    ...     step(2)
    0% recording
    50% recording: 2 of 4 sentences
    """

    def __init__(self, tell: Tell | None = None) -> None:
        self._tell = tell
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ask the work to end; callable from any thread."""
        self._stopped.set()

    def check(self) -> None:
        """Raises Interrupted when it was asked to stop."""
        if self._stopped.is_set():
            raise Interrupted("stopped")

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Generator[Callable[[int], None]]:
        """A stage of known length, in the form of `babelscope.studies.progress`; each step may raise Interrupted."""
        self.check()
        done = 0
        self._say(0.0, title)

        def step(amount: int) -> None:
            nonlocal done
            self.check()
            done += amount
            self._say(min(1.0, done / max(total, 1)), f"{title}: {done} of {total} {unit}")

        yield step

    def _say(self, share: float, text: str) -> None:
        if self._tell:
            self._tell(share, text)


def bounded(text: str | None, what: str, limit: int = TEXT_LIMIT) -> str:
    """The text, when it is there and not too long; raises InputError that says which field is wrong."""
    text = text or ""
    if not text.strip():
        raise InputError(f"{what} is empty")
    if len(text) > limit:
        raise InputError(f"{what} has {len(text)} characters; at most {limit} are taken here")
    # half of a surrogate pair can be typed into JSON, but no tokenizer takes it
    return text.encode("utf-8", "replace").decode()
