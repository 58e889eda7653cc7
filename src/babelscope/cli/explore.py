"""`babelscope explore`: look at a model or a run in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading
from babelscope.errors import InputError
from babelscope.settings import Settings

app = verb_app("explore")


@dataclass(frozen=True, kw_only=True)
class Looked(Settings):
    """What is looked at."""

    corpus: str | None = None
    """parallel text [the run's own, or the built-in text for pocket models]"""
    languages: tuple[str, ...] = ()
    """codes, by commas [all in the corpus]"""
    samples: int = 100
    """parallel sentences"""
    threshold: float = 2.0
    """on z, for regions found here"""
    model: str | None = None
    """where a run's model is now, if not where it was"""
    runs: Path | None = None
    """folder whose runs can be opened from the page"""

    def check(self) -> None:
        """Raises InputError for a sample in which nothing can be compared, and regions that are everything."""
        if self.samples < 2:
            raise InputError(f"--samples {self.samples}: at least two sentences are needed")
        if self.threshold <= 0:
            raise InputError(f"--threshold {self.threshold:g}: a region lies above the mean, so above 0")


@dataclass(frozen=True, kw_only=True)
class Served(Settings):
    """Where it is served."""

    host: str = "127.0.0.1"
    """address to serve on; others than this machine need --yes-expose"""
    port: int = 7860
    """0: any that is free"""
    token: str | None = None
    """word that opens the page [a random one, in the printed address]"""
    yes_expose: bool = False
    """serve on an address that others can reach"""

    def check(self) -> None:
        """Raises InputError for a port that no machine has."""
        if self.port > 65535:
            raise InputError(f"--port {self.port}: ports end at 65535; 0 takes any that is free")


@app.default
@verb
def explore(
    what: Annotated[str, Parameter(help="Run directory, hub name, model folder, or pocket:NAME.")],
    *,
    looked: Looked,
    served: Served,
    loading: Loading,
) -> None:
    """Compare sentences, switch regions off, browse neurons, and watch heads, in a browser on this machine.

    For example:

      babelscope explore pocket:pocket-bloom-m

      babelscope explore runs/bible --corpus bible:bibles
    """
    import importlib.util

    from babelscope.errors import MissingExtra

    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("gradio", "app", "the explorer")
    from babelscope.app.server import check_exposure, check_token, serve
    from babelscope.cli.options import quiet
    from babelscope.languages import parse_languages

    check_exposure(served.host, served.yes_expose)
    token = check_token(served.host, served.token)
    quiet()
    from babelscope.app import session as sessions

    codes = parse_languages(looked.languages) if looked.languages else None
    how = sessions.Loading(loading.revision, loading.dtype, loading.device)
    session = sessions.open_session(what, looked.corpus, codes, looked.samples, looked.threshold, how, looked.model)
    folders = [one for one in (looked.runs, session.run.path.parent if session.run else None) if one is not None]
    elsewhere = sessions.Loading(None, loading.dtype, loading.device)
    serve(session, served.host, served.port, token, folders, elsewhere, _say)


def _say(address: str) -> None:
    print(f"open {address}\nstop with Ctrl-C")
