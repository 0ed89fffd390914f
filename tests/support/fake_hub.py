"""A stand-in for the hub: the part of its HTTP interface that huggingface_hub uses, served from memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What of the environment says where the hub's files are and who asks for them.
VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE",
             "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH")  # fmt: skip


@dataclass
class FakeRepository:
    """Files by name, and what is wrong with it."""

    files: dict[str, bytes]
    commit: str = COMMIT
    gated: bool = False
    accepted: tuple[str, ...] = ()  # tokens that may read it
    changed: tuple[str, ...] = ()  # files whose bytes are not those declared
    breaks: dict[str, int] = field(default_factory=dict)  # connections that end early, by file

    def served(self, name: str) -> bytes:
        data = self.files[name]
        return bytes(len(data)) if name in self.changed else data


@dataclass
class FakeHub:
    """Repositories by `models/<id>` or `datasets/<id>`, and what was asked for."""

    url: str = ""
    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)  # what is at other addresses, by path
    breaks: dict[str, int] = field(default_factory=dict)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self._info()
        else:
            self._file(body=True)

    def _info(self) -> None:
        kind, owner, name, *_ = self.path.removeprefix("/api/").split("?")[0].split("/")
        found = self.hub.repositories.get(f"{kind}/{owner}/{name}")
        if found is None:
            return self._refuse(401 if not self._token() else 404, "RepoNotFound")
        siblings = [{"rfilename": n, "size": len(d)} | (
            {"lfs": {"sha256": sha256(d), "size": len(d), "pointerSize": 134}} if n.endswith(".safetensors") else {})
            for n, d in found.files.items()]
        body = json.dumps({"id": f"{owner}/{name}", "sha": found.commit, "siblings": siblings, "private": False,
                           "gated": "auto" if found.gated else False}).encode()
        return self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        if path.startswith("files/"):
            return self._plain(path.removeprefix("files/"), body)
        kind = "datasets" if path.startswith("datasets/") else "models"
        owner, name, _, _revision, file = path.removeprefix("datasets/").split("/", 4)
        found = self.hub.repositories.get(f"{kind}/{owner}/{name}")
        if found is None:
            return self._refuse(401 if not self._token() else 404, "RepoNotFound")
        if found.gated and self._token() not in found.accepted:
            return self._refuse(403 if self._token() else 401, "GatedRepo")
        if file not in found.files:
            return self._refuse(404, "EntryNotFound")
        data = found.served(file)
        headers = {"ETag": f'"{sha256(found.files[file])}"', "X-Repo-Commit": found.commit}
        if not body:
            return self._answer(200, data, headers, body=False)
        self.hub.downloads.append(f"{owner}/{name}/{file}")
        if found.breaks.get(file):
            found.breaks[file] -= 1
            return self._break_off(data, headers)
        return self._answer(200, data, headers)

    def _plain(self, name: str, body: bool) -> None:
        if name not in self.hub.files:
            return self._refuse(404, "none")
        if body:
            self.hub.downloads.append(name)
        if body and self.hub.breaks.get(name):
            self.hub.breaks[name] -= 1
            return self._break_off(self.hub.files[name], {})
        return self._answer(200, self.hub.files[name], {}, body)

    def _break_off(self, data: bytes, headers: dict[str, str]) -> None:
        self._answer(200, data, headers, body=False)
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, status: int, data: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Serve an empty hub on a free port of this machine."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
