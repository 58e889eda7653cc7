"""What is fuzzed: every function that reads what others wrote, with good input to begin from.

A target reads bytes, in a fresh folder where it needs files; whatever it raises that is not an error class of our own
is a crash.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from .fuzz_corpora import CORPORA
from .fuzz_reading import Read, Seed, from_text
from .fuzz_runs import RUNS
from .fuzz_studied import STUDIED
from .fuzz_tokens import TOKENS

__all__ = ["TARGETS", "TOKENS"]

_REQUEST = b"GET /config HTTP/1.1\nhost: 127.0.0.1:7860\norigin: http://127.0.0.1:7860\ncookie: babelscope-7860=x\n"


def _door(data: bytes, _: Path) -> None:
    """Any request at the explorer's door: it is answered, and what stands behind is reached by nobody."""
    from babelscope.app.guard import Guard

    lines = data.split(b"\n")
    method, path, *_rest = [*lines[0].split(b" "), b"", b""]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
    path, _, query = path.partition(b"?")
    scope = {
        "type": "http", "method": method.decode("latin-1"), "path": path.decode("latin-1"), "query_string": query,
        "headers": headers,
    }  # fmt: skip
    sent: list[dict[str, object]] = []

    async def behind(*_: object) -> None:
        raise AssertionError("a stranger came in")

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(Guard(behind, "a-token-nobody-guesses", port=7860)(scope, receive, send))
    assert sent
    assert sent[0]["status"] in (400, 401, 403, 404, 405, 413)


TARGETS: dict[str, tuple[Read, Seed]] = {
    **CORPORA,
    **STUDIED,
    **RUNS,
    # the command line and the explorer
    "languages": (from_text("languages", "parse_languages"), lambda: b"en, zh-Hans,fr,pt-BR"),
    "door": (_door, lambda: _REQUEST),
}
