"""Who is let in: the token, the host name, the origin, the short list of addresses; and that nobody is called."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest

from babelscope.app.guard import BODY_LIMIT, READS, WRITES, Guard
from babelscope.app.server import address, check_token, is_loopback
from babelscope.app.session import Session
from babelscope.errors import InputError, Interrupted
from tests.command import command

pytest.importorskip("gradio")
import hypothesis  # noqa: F401  (imported at the end of the session, after gradio, it can crash Python 3.11)
from starlette.testclient import TestClient

TOKEN = "a-token-of-this-test"
HERE = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def application():
    from babelscope.app.server import make_app

    return make_app(Session(), TOKEN)


@pytest.fixture
def stranger(application):
    return TestClient(application, base_url=HERE, follow_redirects=False)


@pytest.fixture
def visitor(stranger):
    assert stranger.get(f"/?token={TOKEN}").status_code == 303
    return stranger


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?token=wrong",
        "/?token=",
        "/config",
        "/gradio_api/queue/data?session_hash=x",
        "/assets/index.js",
        "/nothing",
    ],
)
def test_without_the_token_nothing_is_told(stranger, path):
    answer = stranger.get(path)
    assert answer.status_code == 401
    assert "gradio" not in answer.text.lower()


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/upload"])
def test_without_the_token_nothing_is_done(stranger, path):
    assert stranger.post(path, json={"data": []}).status_code == 401
    assert stranger.post(f"{path}?token={TOKEN}", json={"data": []}).status_code == 401


def test_the_token_opens_the_page_and_leaves_the_address(stranger):
    answer = stranger.get(f"/?token={TOKEN}&__theme=dark")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?__theme=dark")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKEN not in cookie
    page = stranger.get("/")
    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in page.headers


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}x", "Bearer", "Basic YTpi", "Bearer é"])
def test_other_headers_do_not_open(stranger, header):
    assert stranger.get("/config", headers={"authorization": header.encode("utf-8")}).status_code == 401


def test_a_bearer_header_opens(stranger):
    assert stranger.get("/config", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_cookies_of_others_do_not_open(stranger):
    for value in (f"babelscope-7860={TOKEN}", "babelscope-7860=", "x" * 3000, "babelscope-7861=a"):
        assert stranger.get("/config", headers={"cookie": value}).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:7860", "192.168.0.7:7860", "", "[::1", "x@y:1"]
)
def test_other_host_names_are_refused(visitor, host):
    assert visitor.get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:9000", "LOCALHOST", "[::1]:7860"])
def test_names_of_this_machine_are_served(visitor, host):
    assert visitor.get("/", headers={"host": host, "authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:7860", ""]
)
def test_other_origins_are_refused(visitor, origin):
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    assert visitor.post("/gradio_api/queue/join", json=body, headers={"origin": origin}).status_code == 403
    assert visitor.get("/", headers={"origin": origin}).status_code == 403


def test_the_browsers_own_word_about_other_sites_counts(visitor):
    crossing = {"sec-fetch-site": "cross-site"}
    assert visitor.get("/config", headers=crossing).status_code == 403
    assert visitor.get("/", headers={**crossing, "sec-fetch-mode": "no-cors"}).status_code == 403
    followed = {**crossing, "sec-fetch-mode": "navigate"}
    assert visitor.get("/", headers={**followed, "sec-fetch-dest": "document"}).status_code == 200
    assert visitor.get("/", headers={**followed, "sec-fetch-dest": "iframe"}).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/runs",
        "/gradio_api/openapi.json",
        "/gradio_api/stream/x/y/z/playlist-file",
        "/gradio_api/upload_progress?upload_id=x",
        "/gradio_api/vibe-code",
        "/gradio_api/deep_link",
        "/monitoring",
        "/static/../../routes.py",
        "/static/%2e%2e/%2e%2e/routes.py",
        "/assets/..%2f..%2froutes.py",
        "/custom_component/x/client/component/../../y",
    ],
)
def test_the_frameworks_other_doors_do_not_exist(visitor, path):
    assert visitor.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/login", "/gradio_api/vibe-edit", "/gradio_api/process_recording"]
)
def test_nothing_can_be_sent_elsewhere(visitor, path):
    assert visitor.post(path, json={}).status_code == 404
    assert visitor.put(path, json={}).status_code == 405


def test_a_request_is_bounded(visitor):
    huge = b"x" * (BODY_LIMIT + 1)
    assert visitor.post("/gradio_api/queue/join", content=huge).status_code == 413
    assert visitor.post("/gradio_api/queue/join", headers={"content-length": "-1"}).status_code == 413


def test_the_queue_cannot_be_passed_by(visitor, application):
    """Events that run the model are not answered outside the queue."""
    config = visitor.get("/config").json()
    queued = [event["id"] for event in config["dependencies"] if event["queue"]]
    assert len(queued) >= 7
    for event in queued:
        body = {"data": ["a", "b", "c"], "fn_index": event, "session_hash": "x"}
        assert visitor.post("/gradio_api/run/predict", json=body).status_code in (404, 422)


def test_one_model_call_at_a_time(visitor):
    from babelscope.app.interface import make_interface

    limits = {
        (function.concurrency_id, function.concurrency_limit)
        for function in make_interface(Session()).fns.values()
        if function.queue
    }
    assert limits == {("model", 1)}


def test_the_page_stands_filled_before_it_asks_for_anything():
    import gradio

    from babelscope.app.interface import make_interface
    from babelscope.app.session import open_session

    blocks = make_interface(open_session("pocket:pocket-bloom-s", "pocket:heldout?n=8", ["en", "fr", "zh"]))
    fields = {one.label: one for one in blocks.blocks.values() if isinstance(one, gradio.Textbox | gradio.Dropdown)}
    assert fields["Beginnings in"].choices[0] == ("English (en)", "en")
    assert fields["Right answer"].value
    assert len(fields["Sentences"].value.splitlines()) == 3
    assert sum(isinstance(one, gradio.Tabs) for one in blocks.blocks.values()) == 1  # nothing was added to the page


def test_tables_take_text_for_text():
    from babelscope.app.interface import make_interface

    page = make_interface(Session())
    kinds = {type(block).__name__: block for block in page.blocks.values()}
    assert {"Dataframe", "Textbox", "HTML"} <= set(kinds)
    tables = [block for block in page.blocks.values() if type(block).__name__ == "Dataframe"]
    assert all(table.datatype == "str" for table in tables)
    written = [block.value for block in page.blocks.values() if type(block).__name__ == "Markdown"]
    assert len(written) == 8  # headings of our own, and nothing else, are Markdown


def test_errors_leave_the_page_as_it_was(monkeypatch):
    from babelscope.app import page

    said = []
    for name in ("Info", "Warning"):
        monkeypatch.setattr(page.ANY, name, lambda text, **_: said.append(text))

    def fails(error):
        raise error

    event = page.told(fails)
    for error in (InputError("<b>no</b>"), Interrupted("stopped"), ZeroDivisionError("secret path")):
        assert event(error) == page.ANY.skip()
    assert said == ["&lt;b&gt;no&lt;/b&gt;", "Stopped.", "This failed (ZeroDivisionError); the terminal says more."]


def test_only_the_callers_work_is_stopped():
    import gradio as gr

    from babelscope.app.page import Jobs

    jobs, mine, other = Jobs(Session()), gr.Request(session_hash="a"), gr.Request(session_hash="b")
    with jobs.begin(mine, lambda share, desc: None) as work:
        jobs.stop(other)
        work.check()
        jobs.stop(mine)
        with pytest.raises(Interrupted):
            work.check()
    assert jobs.running == {}


def test_paths_are_typed_on_this_machine_only(tmp_path):
    from babelscope.app.interface import _allowed
    from babelscope.app.page import Jobs, Page
    from babelscope.app.session import Loading

    def page(typed):
        return Page(Session(), Jobs(Session()), [tmp_path], typed, Loading())

    assert _allowed(page(True), None, " /a/run ") == "/a/run"
    for known, typed in ((None, "/a/run"), ("/a/run", ""), (None, None)):
        with pytest.raises(InputError):
            _allowed(page(False), known, typed)


def test_websockets_are_refused(visitor):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), visitor.websocket_connect("/queue/join"):
        pass


def test_forwarding_headers_claim_nothing(visitor):
    page = visitor.get("/", headers={"x-forwarded-host": "evil.example", "x-forwarded-proto": "https"})
    assert "evil.example" not in page.text


def test_the_page_names_no_foreign_font(visitor):
    sheet = visitor.get("/theme.css").text
    assert "googleapis" not in sheet
    assert not re.findall(r"@import|url\(['\"]?https?:", sheet)


def test_gates_are_narrow():
    assert READS.fullmatch("/assets/index-Dph_v.js")
    assert not READS.fullmatch("/assets/")
    assert not WRITES.fullmatch("/gradio_api/queue/join/x")


async def _nothing(scope, receive, send):
    raise AssertionError("reached")


def test_where_others_can_reach_it_addresses_typed_as_numbers_are_served():
    open_wide = Guard(_nothing, TOKEN, {"0.0.0.0", "workstation"}, 7860)
    assert open_wide._check_host({"host": "10.1.2.3:7860"})
    assert open_wide._check_host({"host": "Workstation:7860"})
    alone = TestClient(Guard(_nothing, TOKEN, {"workstation"}, 7860), base_url="http://10.1.2.3:7860")
    assert alone.get("/").status_code == 403


@pytest.mark.parametrize(
    ("host", "token"), [("0.0.0.0", "short"), ("192.168.0.7", "a" * 15), ("127.0.0.1", " "), ("::1", "")]
)
def test_weak_tokens_are_refused(host, token):
    with pytest.raises(InputError, match="--token"):
        check_token(host, token)


def test_without_a_token_a_random_one_is_made():
    tokens = {check_token(host, None) for host in ("127.0.0.1", "0.0.0.0", "127.0.0.1")}
    assert len(tokens) == 3
    assert all(len(token) >= 32 for token in tokens)
    assert check_token("127.0.0.1", "mine") == "mine"


def test_addresses():
    assert is_loopback("127.0.0.7")
    assert is_loopback("::1")
    assert not is_loopback("example.org")
    assert address("::1", 80, "a&b") == "http://[::1]:80/?token=a%26b"


def test_a_port_in_use_is_said_in_one_line():
    from babelscope.app.server import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            serve(Session(), port=taken.getsockname()[1])
    with pytest.raises(InputError, match="65535"):
        serve(Session(), port=70000)


def test_without_gradio_the_extra_is_named(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = command("explore", "pocket:pocket-bloom-s")
    assert result.exit_code == 2
    assert "babelscope[app]" in result.stderr


def test_nobody_is_called():
    """Importing, building and serving the page opens no connection to any other machine, nor asks for any name."""
    code = """
import socket, sys
def refuse(self, address, *rest):
    if self.family != socket.AF_UNIX: raise SystemExit(f"connects to {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
def resolve(host, *rest, **named):
    raise SystemExit(f"asks for {host}")
socket.getaddrinfo = resolve
from babelscope.app.server import make_app
from babelscope.app.session import Session
from starlette.testclient import TestClient
with TestClient(make_app(Session(), "token"), base_url="http://localhost:7860") as client:
    assert client.get("/?token=token").status_code == 200
import threading, time
time.sleep(0.5)
print("quiet")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.strip() == "quiet", done.stdout + done.stderr
