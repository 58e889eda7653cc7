"""Serving the explorer: on this machine alone unless another host is asked for, never without a token, never shared."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from babelscope.app.guard import Guard
from babelscope.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from babelscope.app.session import Loading, Session

PORT = 7860
PATIENCE = 10.0
"""seconds that a connection may take to say what it wants"""
SHORTEST_TOKEN = 16
"""characters of a token that is chosen for a host that others can reach"""
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
}
"""what keeps the web framework from calling home, and from features that open more doors"""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> str:
    """The token of this session: the given one, or a random one; raises InputError for one that is too weak."""
    if token is None:
        return secrets.token_urlsafe(24)
    if not token.strip() or not token.isprintable():
        raise InputError("--token is empty or holds signs that cannot be typed; leave it out for a random one")
    if not is_loopback(host) and len(token) < SHORTEST_TOKEN:
        raise InputError(
            f"--host {host} can be reached by others: give a --token of at least {SHORTEST_TOKEN} characters, "
            "or leave it out for a random one"
        )
    return token


def check_exposure(host: str, agreed: bool) -> None:
    """Raises InputError for an address that others can reach, unless that is what is wanted."""
    if not is_loopback(host) and not agreed:
        raise InputError(
            f"--host {host} lets everybody on the network who has the address use this model and read its texts, "
            "unencrypted: add --yes-expose if that is meant, or reach this machine by ssh -L"
        )


def make_app(
    session: Session,
    token: str,
    host: str = "127.0.0.1",
    port: int = PORT,
    folders: Sequence[Path] = (),
    loading: Loading | None = None,
) -> Guard:
    """The guarded web application; raises MissingExtra where gradio is not installed."""
    # set, not defaulted: no share link and no telemetry, whatever the environment says
    os.environ.update(QUIET)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        import gradio
        from fastapi import FastAPI
    except ImportError as error:
        raise MissingExtra("gradio", "app", "the explorer") from error
    from babelscope.app.interface import make_interface
    from babelscope.app.markup import STYLE
    from babelscope.app.page import QUIET_TOASTS, make_theme

    page = make_interface(session, folders, typed_paths=is_loopback(host), loading=loading)
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mounted: Any = gradio.mount_gradio_app(
        outer,
        page,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=make_theme(),
        css=STYLE,
        js=QUIET_TOASTS,
    )
    return Guard(mounted, token, _names(host), port)


def serve(
    session: Session,
    host: str = "127.0.0.1",
    port: int = PORT,
    token: str | None = None,
    folders: Sequence[Path] = (),
    loading: Loading | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until interrupted, and say the address to open. Port 0 takes any that is free.

    Raises InputError when the token is too weak for the host, or the port cannot be had.
    """
    token = check_token(host, token)
    listener = _listen(host, port)
    try:
        port = int(listener.getsockname()[1])
        application = make_app(session, token, host, port, folders, loading)
        import uvicorn

        settings = uvicorn.Config(
            application,  # pyright: ignore[reportArgumentType]
            http=_impatient(),
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        say(address(host, port, token))
        uvicorn.Server(settings).run(sockets=[listener])
    finally:
        listener.close()


def _impatient() -> Any:
    """The protocol of the server, which closes connections that do not say within ten seconds what they want."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(PATIENCE, self._give_up)

        def _give_up(self) -> None:
            if self.cycle is None and not self.transport.is_closing():  # pyright: ignore[reportUnnecessaryComparison]
                self.transport.close()

    return Impatient


def address(host: str, port: int, token: str) -> str:
    """What to open in a browser."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/?token={quote(token, safe='')}"


def _names(host: str) -> set[str]:
    """Host names by which this server may be called."""
    if host in {"0.0.0.0", "::"}:
        return {host, socket.gethostname(), socket.getfqdn()}
    return {host}


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: ports go from 0 (any that is free) to 65535")
    try:
        place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(place[0], place[1])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place[4])
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{host}:{port} cannot be served: {reason}; give another --port, or --port 0") from error
    listener.listen(64)
    return listener
