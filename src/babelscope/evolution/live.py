"""What a sweep is doing, as a table that changes on a terminal, and as plain lines anywhere else."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from babelscope.evolution.attempt import Listener, Outcome
from babelscope.evolution.types import Point

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table


_ROWS = 14
_MARKS = {"done": "green", "failed": "red", "running": "yellow", "waiting": "dim"}


class LiveTable(Listener):
    """A table of points with counts and the time left, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console: Console = console or Console(stderr=True)
        self.points: list[Point] = []
        self.outcomes: dict[str, Outcome] = {}
        self.began: dict[str, float] = {}
        self.recent: deque[str] = deque(maxlen=_ROWS)
        self._live: Live | None = None
        self._start = time.monotonic()

    def planned(self, points: list[Point], finished: set[str]) -> None:
        """Open the table."""
        self.points = list({point.key: point for point in points}.values())
        self.outcomes = {
            point.key: Outcome(point.key, "done", cached=True) for point in self.points if point.key in finished
        }
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(self, console=self.console, refresh_per_second=2, transient=False)
            self._live.start()
        else:
            self.console.print(self.headline(), highlight=False, soft_wrap=True)

    def started(self, point: Point) -> None:
        """Show the point as running."""
        self.began[point.key] = time.monotonic()
        self._show(point.key)

    def ended(self, point: Point, outcome: Outcome) -> None:
        """Show how it ended."""
        self.began.pop(point.key, None)
        self.outcomes[point.key] = outcome
        self._show(point.key)
        if self._live is None:
            error = f": {outcome.error}" if outcome.error else ""
            line = f"{outcome.status}  {point.label}  {duration(outcome.seconds)}{error}  ({self.headline()})"
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def closed(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def headline(self) -> str:
        """Counts and the time left."""
        counts = dict.fromkeys(_MARKS, 0)
        for point in self.points:
            counts[self.status_of(point.key)] += 1
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        left = self.seconds_left()
        return f"{told or 'no points'}{f', about {duration(left)} left' if left else ''}"

    def status_of(self, key: str) -> str:
        """done, failed, running or waiting."""
        if key in self.outcomes:
            return self.outcomes[key].status
        return "running" if key in self.began else "waiting"

    def seconds_left(self) -> float | None:
        """From the points that were computed now, one as long as another; None before the first has ended."""
        measured = sum(1 for outcome in self.outcomes.values() if not outcome.cached)
        open_points = sum(1 for point in self.points if point.key not in self.outcomes)
        if not measured or not open_points:
            return None
        return (time.monotonic() - self._start) / measured * open_points

    def __rich__(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=self.headline(), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("point", "corpus", "status", "time", ""):
            table.add_column(name, no_wrap=name != "", overflow="ellipsis")
        by_key = {point.key: point for point in self.points}
        for key in self.recent:
            status, point = self.status_of(key), by_key[key]
            outcome = self.outcomes.get(key)
            took = outcome.seconds if outcome else time.monotonic() - self.began.get(key, time.monotonic())
            colour = _MARKS[status]
            table.add_row(
                escape(point.label), escape(point.corpus or ""), f"[{colour}]{status}[/]", duration(took),
                escape(outcome.error if outcome else ""),
            )  # fmt: skip
        return table

    def _show(self, key: str) -> None:
        if key not in self.recent:
            self.recent.append(key)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(4.21), duration(200), duration(7300)
    ('4.2 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
