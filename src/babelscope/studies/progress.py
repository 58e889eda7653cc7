"""How a study tells how far it is, without knowing who listens: bars on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""`with progress("recording", 900, "sentences") as step: … step(32)`"""

EVERY = 60.0
"""seconds between two lines"""


@contextmanager
def silent(_title: str, _total: int, _unit: str) -> Generator[Callable[[int], None]]:
    """Tells nobody."""
    yield lambda _amount: None


def shown(title: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
    """A bar where standard error is a terminal, a line a minute where it is a file or a pipe."""
    return bars(title, total, unit) if sys.stderr.isatty() else lines(title, total, unit)


@contextmanager
def bars(title: str, total: int, unit: str) -> Generator[Callable[[int], None]]:
    """A bar with rate and time left on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " · {task.fields[rate]} " + unit + "/s ·"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate="–")

        def step(amount: int) -> None:
            bar.advance(task, amount)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f}" if speed else "–")

        yield step


class Account:
    """How far one piece of work is: amount done, rate, time left."""

    def __init__(self, title: str, total: int, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.total, self.unit, self._clock = title, total, unit, clock
        self.done, self._started = 0, clock()

    def add(self, amount: int) -> None:
        """More is done."""
        self.done += amount

    def line(self) -> str:
        """One line for a log.

        >>> clock = iter([0.0, 60.0])
        >>> account = Account("recording", 900, "sentences", lambda: next(clock))
        >>> account.add(300)
        >>> account.line()
        'recording: 300 of 900 sentences (33 %), 1:00 gone, 2:00 left'
        """
        gone = self._clock() - self._started
        if not self.total:
            return f"{self.title}: {self.done} {self.unit}, {_minutes(gone)} gone"
        share = min(self.done / self.total, 1.0)
        left = f"{_minutes(gone * (1 - share) / share)} left" if share > 0 else "time left not known yet"
        counted = f"{self.done} of {self.total} {self.unit} ({100 * share:.0f} %)"
        return f"{self.title}: {counted}, {_minutes(gone)} gone, {left}"


@contextmanager
def lines(
    title: str, total: int, unit: str, every: float = EVERY, out: TextIO | None = None
) -> Generator[Callable[[int], None]]:
    """A line every minute on standard error, so that a batch job's log lives; none for work that is done sooner."""
    account, stop = Account(title, total, unit), threading.Event()

    def say(text: str) -> None:
        print(text, file=out or sys.stderr, flush=True)

    def keep_saying() -> None:
        while not stop.wait(every):
            say(account.line())

    speaker = threading.Thread(target=keep_saying, daemon=True)
    speaker.start()
    try:
        yield account.add
    finally:
        stop.set()
        speaker.join()


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
