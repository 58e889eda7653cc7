"""A small server that speaks as much of the Hugging Face hub's protocol as pushing and pulling needs, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class Hub:
    """Repositories by name → file → bytes; whatever is asked is kept in `asked`."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.refuses = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                pass

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline().strip(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(self, value: object, status: int = 200, **headers: str) -> None:
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if not isinstance(value, bytes):
                    self.send_header("Content-Type", "application/json")
                for name, told in headers.items():
                    self.send_header(name.replace("_", "-"), told)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _do(self) -> None:
                path = unquote(urlparse(self.path).path)
                hub.asked.append(f"{self.command} {path}")
                body = self._body()
                if hub.refuses:
                    return self._answer({"error": "Forbidden"}, 403)
                parts = path.strip("/").split("/")
                if path == "/api/repos/create":
                    asked = json.loads(body)
                    name = f"{asked.get('organization') or 'anna'}/{asked['name']}"
                    hub.repositories.setdefault(name, {".gitattributes": b"* text"})
                    hub.private[name] = asked.get("private", False) or asked.get("visibility") == "private"
                    return self._answer({"url": f"{hub.url}/datasets/{name}"})
                if path == "/api/validate-yaml":
                    return self._answer({"errors": [], "warnings": []})
                name = "/".join(parts[2:4] if parts[0] == "api" else parts[1:3])
                files = hub.repositories.get(name)
                if files is None:
                    return self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                what = parts[4] if parts[0] == "api" and len(parts) > 4 else parts[3] if len(parts) > 3 else ""
                if what == "preupload":
                    asked = json.loads(body)["files"]
                    told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                    return self._answer({"files": told})
                if what == "commit":
                    for line in body.decode().splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                        elif entry["key"] == "deletedFile":
                            files.pop(entry["value"]["path"])
                    oid = hub.state(name)
                    return self._answer(
                        {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/datasets/{name}/commit/{oid}"}
                    )
                if what == "tree":
                    return self._answer(
                        [
                            {"type": "file", "path": f, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                            for f, b in files.items()
                        ]
                    )
                if what == "resolve":
                    inner = "/".join(parts[5:])
                    if inner not in files:
                        return self._answer({"error": "no"}, 404, X_Error_Code="EntryNotFound")
                    etag = hashlib.sha1(files[inner]).hexdigest()
                    return self._answer(files[inner], X_Repo_Commit=hub.state(name), ETag=f'"{etag}"')
                info = {"id": name, "sha": hub.state(name), "siblings": [{"rfilename": f} for f in files]}
                return self._answer(info | {"private": False, "tags": [], "downloads": 0, "likes": 0})

            do_GET = do_POST = do_HEAD = _do

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def state(self, name: str) -> str:
        files = self.repositories[name]
        return hashlib.sha1(b"".join(key.encode() + files[key] for key in sorted(files))).hexdigest()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
