"""`babelscope explore`: look at a model or a run in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from babelscope.cli.options import Device, Dtype, Revision


def explore(
    what: Annotated[str, typer.Argument(help="Run directory, hub name, model folder, or pocket:NAME.")],
    corpus: Annotated[
        str | None, typer.Option(help="Parallel text; default: the run's own, or the built-in text for pocket models.")
    ] = None,
    languages: Annotated[str | None, typer.Option(help="Codes, by commas; default: all in the corpus.")] = None,
    samples: Annotated[int, typer.Option(help="Parallel sentences.")] = 100,
    threshold: Annotated[float, typer.Option(help="On z, for regions found here.")] = 2.0,
    model: Annotated[str | None, typer.Option(help="Where a run's model is now, if not where it was.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder whose runs can be opened from the page.")] = None,
    host: Annotated[str, typer.Option(help="Address to serve on; others than this machine need it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 7860,
    token: Annotated[
        str | None, typer.Option(help="Word that opens the page; default: a random one, in the printed address.")
    ] = None,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = None,
) -> None:
    """Compare sentences, switch regions off, browse neurons, and watch heads, in a browser on this machine.

    Example:

      babelscope explore pocket:pocket-bloom-m

      babelscope explore runs/bible --corpus bible:bibles
    """
    import importlib.util

    from babelscope.errors import MissingExtra

    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("gradio", "app", "the explorer")
    from babelscope.app.server import check_token, serve
    from babelscope.cli.options import quiet
    from babelscope.languages import parse_languages

    token = check_token(host, token)
    quiet()
    from babelscope.app.session import Loading, open_session

    codes = parse_languages(languages) if languages else None
    loading = Loading(revision, dtype, device)
    session = open_session(what, corpus, codes, samples, threshold, loading, model)
    folders = [folder for folder in (runs, session.run.path.parent if session.run else None) if folder is not None]
    serve(session, host, port, token, folders, Loading(None, dtype, device), _say)


def _say(address: str) -> None:
    typer.echo(f"open {address}\nstop with Ctrl-C")
