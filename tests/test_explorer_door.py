"""The explorer's door without an explorer behind it: odd host names, failures behind it, addresses for everybody."""

from __future__ import annotations

import asyncio

import pytest

from babelscope.app.guard import Guard
from babelscope.app.server import check_exposure
from babelscope.errors import InputError

TOKEN = "a-token-nobody-guesses"


def answer(behind, path: str = "/config", host: str = "127.0.0.1:7860") -> list[dict]:
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": b"",
        "headers": [(b"host", host.encode()), (b"authorization", f"Bearer {TOKEN}".encode())],
    }  # fmt: skip
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(Guard(behind, TOKEN, port=7860)(scope, receive, send))
    return sent


async def well(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    "host",
    ["evil.com@127.0.0.1", "127.0.0.1:7899, evil.com", "127.0.0.1/evil.com", "127.0.0.1 evil.com", "127.0.0.1:x",
     "127.0.0.1?x", "127.0.0.1#x", "[::1", "127.0.0.1:7860:1", "", "user:pass@localhost", "localhost\\x"],
)  # fmt: skip
def test_attack_9_odd_hosts_are_refused(host):
    assert answer(well, host=host)[0]["status"] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:7860", "[::1]:7860"])
def test_the_hosts_of_browsers_are_served(host):
    assert answer(well, host=host)[0]["status"] == 200


def test_attack_9_what_fails_behind_the_door_is_one_line_and_no_traceback():
    async def broken(scope, receive, send) -> None:
        raise KeyError("nope")

    sent = answer(broken)
    assert sent[0]["status"] == 400
    assert sent[1]["body"] == b"this request cannot be answered (KeyError)\n"

    async def broken_late(scope, receive, send) -> None:
        await well(scope, receive, send)
        raise KeyError("nope")

    assert [message["type"] for message in answer(broken_late)] == ["http.response.start", "http.response.body"]


def test_attack_9_an_address_for_everybody_needs_a_yes():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(InputError, match="--yes-expose"):
            check_exposure(host, False)
        check_exposure(host, True)
    check_exposure("127.0.0.1", False)
