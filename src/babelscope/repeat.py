"""`repeat.yaml` of a run: the file of options with which the command line makes the run again.

The command line says once what was asked for; every run that is written meanwhile carries it. A run made in Python has
none: its settings are `run.manifest["asked"]`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

FILE = "repeat.yaml"
_ASKED: ContextVar[str | None] = ContextVar("asked", default=None)


def asked_now() -> str | None:
    """What `repeat.yaml` of a run says that is finished now; None outside the command line."""
    return _ASKED.get()


@contextmanager
def asked_for(verb: str, options: Mapping[str, str | bool]) -> Generator[None]:
    """For the length of a block, runs carry these options of this verb.

    >>> with asked_for("regions", {"model": "pocket:pocket-bloom-m", "samples": "40"}):
    ...     print(asked_now().splitlines()[2])
      model: pocket:pocket-bloom-m
    """
    import yaml

    body = yaml.safe_dump({verb: dict(options)}, allow_unicode=True, sort_keys=False, width=1000)
    token = _ASKED.set(f"# again: babelscope {verb} --config {FILE} --out ANOTHER\n{body}")
    try:
        yield
    finally:
        _ASKED.reset(token)
