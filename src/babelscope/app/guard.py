"""The door of the explorer: a token, the right host name, the right origin, and a short list of what may be asked for.

It stands before the web framework, so that nothing behind it is reached by anyone else: not a page of another site in
the same browser (the origin is checked), not a name that is made to point here (DNS rebinding: the host is checked),
not another user of this machine (the token). What the framework offers beyond the page and its queue, such as files,
uploads and proxies, does not exist here.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Message = dict[str, Any]
"""of ASGI: of what kind its values are is said by each message"""
Scope = Message
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_LIMIT = 262_144
"""bytes of one request: every field is bounded far below"""
READS = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    r"|/(assets|static|svelte)/[\w./@+-]+"
    r"|/gradio_api/(info|app_id|startup-events|theme\.css|queue/data|heartbeat/\w+)"
)
WRITES = re.compile(r"/gradio_api/(queue/join|run/[\w-]+|cancel|reset)/?")
POLICY = "; ".join(
    (
        "default-src 'self'",
        # the framework compiles its own templates in the page; ours hold no text of the user's unescaped
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


class Refused(Exception):
    """A request that goes no further, and the status it is answered with."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Guard:
    """An ASGI application that lets the holder of the token pass to another one.

    The token comes once as `?token=…` (the answer puts it away in a cookie and leads to the address without it), or in
    every request as `Authorization: Bearer …`. `names` are host names besides those of this very machine's loopback.
    """

    def __init__(self, application: Application, token: str, names: Collection[str] = (), port: int = 0) -> None:
        self.application, self.token = application, token
        self.names = {name.lower() for name in names} | _LOOPBACK_NAMES
        self.addresses = any(_is_address(name) and name not in _LOOPBACK_NAMES for name in self.names)
        self.cookie = f"babelscope-{port}"
        # the cookie holds no token: who reads one cannot open a new session elsewhere by its address
        self.pass_word = hmac.new(token.encode(), b"babelscope explorer", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        try:
            entered = self._admit(scope)
        except Refused as refusal:
            await _refuse(scope, refusal, send)
            return
        if entered is not None:
            await self._put_away(entered, send)
            return
        await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is behind the door answers; where it fails (no such function, a cut body), one line says so."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.application(_without_forwarding(scope), _bounded(receive), _with_headers(noting))
        except Exception as error:  # the page has its own words for what goes wrong in a measurement
            if not begun:
                await _refuse(scope, Refused(400, f"this request cannot be answered ({type(error).__name__})"), send)

    def _admit(self, scope: Scope) -> str | None:
        """Raises Refused; gives the address to go on to where the token came in the address."""
        headers = _headers(scope)
        host = self._check_host(headers)
        _check_origin(headers, host, scope)
        if scope["type"] != "http":
            # the queue speaks over plain requests: no websocket is ever needed
            raise Refused(403, "no websockets here")
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        by_address = scope["method"] == "GET" and scope["path"] == "/" and "token" in query
        if by_address and self._same(query["token"][0], self.token):
            rest = {name: values for name, values in query.items() if name != "token"}
            return "/" + (f"?{urlencode(rest, doseq=True)}" if rest else "")
        if by_address or not (self._by_header(headers) or self._by_cookie(headers)):
            raise Refused(401, "the token is missing or wrong: open the address that `babelscope explore` printed")
        _check_path(scope, headers)
        return None

    def _check_host(self, headers: dict[str, str]) -> str:
        host = headers.get("host", "")
        name = _name(host)
        # an address typed as numbers cannot be rebound by anyone's DNS
        if name in self.names or (self.addresses and _is_address(name)):
            return host
        raise Refused(403, "this host name is not served here")

    def _by_header(self, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._same(given.strip(), self.token)

    def _by_cookie(self, headers: dict[str, str]) -> bool:
        try:
            jar = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self.cookie in jar and self._same(jar[self.cookie].value, self.pass_word)

    @staticmethod
    def _same(given: str, expected: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())

    async def _put_away(self, location: str, send: Send) -> None:
        cookie = f"{self.cookie}={self.pass_word}; Path=/; HttpOnly; SameSite=Lax"
        headers = [(b"location", location.encode("latin-1")), (b"set-cookie", cookie.encode()), *HEADERS]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in {"host", "origin", "authorization"}:
            raise Refused(400, f"two {key} headers")
        found[key] = f"{found[key]}; {value.decode('latin-1')}" if key in found else value.decode("latin-1")
    return found


_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


def _name(host: str) -> str:
    """Host name of a Host header or of a network location, without the port; empty for what is neither."""
    if not _HOST.fullmatch(host):
        return ""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _place(origin: str) -> str:
    """Host and port of an origin; empty for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(headers: dict[str, str], host: str, scope: Scope) -> None:
    origin = headers.get("origin")
    if origin is not None and _place(origin) != host.lower():
        raise Refused(403, "requests from other sites are not answered")
    # browsers say where a request comes from; following a link to the page itself is the one thing others may do
    site = headers.get("sec-fetch-site", "none")
    entering = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
    if site not in {"same-origin", "none"} and not (entering and followed):
        raise Refused(403, "requests from other sites are not answered")


def _check_path(scope: Scope, headers: dict[str, str]) -> None:
    path, method = scope["path"], scope["method"]
    known = {"GET": READS, "HEAD": READS, "POST": WRITES}.get(method)
    if known is None:
        raise Refused(405, "only GET, HEAD and POST")
    if not known.fullmatch(path) or ".." in path or "//" in path:
        raise Refused(404, "there is nothing here")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal() and len(length) < 20) or int(length) > BODY_LIMIT:
        raise Refused(413, "too much in one request")


def _without_forwarding(scope: Scope) -> Scope:
    """The scope without headers by which a visitor could claim another address of this server."""
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if not name.lower().startswith((b"x-forwarded", b"x-gradio", b"forwarded"))
    ]
    return {**scope, "headers": headers}


def _bounded(receive: Receive) -> Receive:
    """The body, cut off where it is longer than it may be, whatever its header said."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        return {"type": "http.disconnect"} if total > BODY_LIMIT else message

    return counted


def _with_headers(send: Send) -> Send:
    ours = {name for name, _ in HEADERS}

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if name.lower() not in ours and not name.lower().startswith(b"access-control")
            ]
            message = {**message, "headers": [*kept, *HEADERS]}
        await send(message)

    return sent


async def _refuse(scope: Scope, refusal: Refused, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.why})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{refusal.why}\n".encode()})
