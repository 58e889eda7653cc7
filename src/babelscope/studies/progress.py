"""How a study tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""`with progress("recording", 900, "sentences") as step: … step(32)`"""


@contextmanager
def silent(_title: str, _total: int, _unit: str) -> Generator[Callable[[int], None]]:
    """Tells nobody."""
    yield lambda _amount: None


@contextmanager
def bars(title: str, total: int, unit: str) -> Generator[Callable[[int], None]]:
    """A bar with rate and time left on standard error; plain where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " · {task.fields[rate]} " + unit + "/s ·"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, rate="–")

        def step(amount: int) -> None:
            bar.advance(task, amount)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f}" if speed else "–")

        yield step
