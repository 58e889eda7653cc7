"""`babelscope explore`: look at a model or a run in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading

app = verb_app("explore")


@app.default
@verb
def explore(
    what: Annotated[str, Parameter(help="Run directory, hub name, model folder, or pocket:NAME.")],
    *,
    corpus: Annotated[
        str | None, Parameter(help="Parallel text [the run's own, or the built-in text for pocket models]")
    ] = None,
    languages: Annotated[tuple[str, ...], Parameter(help="Codes, by commas [all in the corpus]")] = (),
    samples: Annotated[int, Parameter(help="Parallel sentences.")] = 100,
    threshold: Annotated[float, Parameter(help="On z, for regions found here.")] = 2.0,
    model: Annotated[str | None, Parameter(help="Where a run's model is now, if not where it was.")] = None,
    runs: Annotated[Path | None, Parameter(help="Folder whose runs can be opened from the page.")] = None,
    host: Annotated[str, Parameter(help="Address to serve on; others than this machine need it.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0: any that is free.")] = 7860,
    token: Annotated[
        str | None, Parameter(help="Word that opens the page; default: a random one, in the printed address.")
    ] = None,
    yes_expose: Annotated[bool, Parameter(help="Serve on an address that others can reach.", negative=())] = False,
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

    check_exposure(host, yes_expose)
    token = check_token(host, token)
    quiet()
    from babelscope.app import session as sessions

    codes = parse_languages(languages) if languages else None
    how = sessions.Loading(loading.revision, loading.dtype, loading.device)
    session = sessions.open_session(what, corpus, codes, samples, threshold, how, model)
    folders = [folder for folder in (runs, session.run.path.parent if session.run else None) if folder is not None]
    serve(session, host, port, token, folders, sessions.Loading(None, loading.dtype, loading.device), _say)


def _say(address: str) -> None:
    print(f"open {address}\nstop with Ctrl-C")
