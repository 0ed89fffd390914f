"""A stand-in for W&B's server: the runs, files and artifacts that its client sends, kept in memory.

It answers the requests that the client of wandb 0.31 makes for a run, its history, its files and its artifacts, as far
as these were seen; anything else it answers with nothing, and notes in `unknown`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

ENTITY = "lab"


@dataclass
class FakeRun:
    """One run as the server knows it."""

    name: str
    project: str
    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)  # of its history, by their offset
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @property
    def history(self) -> list[dict[str, Any]]:
        rows = (json.loads(line) for _, line in sorted(self.lines.items()))
        return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


@dataclass
class FakeArtifact:
    """One version of an artifact: the files of its manifest, and the run that made it."""

    id: str
    kind: str
    name: str
    digest: str
    made_by: str
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


class FakeWandb:
    """What was sent. `url` is where."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.artifacts: dict[str, FakeArtifact] = {}
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        self.unknown: list[str] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.charts: dict[str, dict[str, Any]] = {}
        self.url = ""

    def answer(self, operation: str, variables: dict[str, Any], query: str) -> Any:
        self.asked.append((operation, variables, query))
        handler = getattr(self, f"on_{operation}", None)
        if handler is None:
            self.unknown.append(operation)
            return {}
        return handler(variables)

    def on_Viewer(self, _: dict[str, Any]) -> Any:
        return {"viewer": {"id": "u", "entity": ENTITY, "username": "ada", "email": "", "flags": "{}",
                           "teams": {"edges": []}}}

    def on_RunResumeStatus(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        bucket = None if run is None else {
            "id": run.name, "name": run.name, "summaryMetrics": json.dumps(run.summary), "displayName": run.name,
            "logLineCount": 0, "historyLineCount": len(run.lines), "eventsLineCount": 0,
            "historyTail": json.dumps([line for _, line in sorted(run.lines.items())][-1:]), "eventsTail": "[]",
            "config": json.dumps(run.config), "tags": [], "notes": None, "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        return {"model": {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def on_UpsertBucket(self, given: dict[str, Any]) -> Any:
        name = given["name"] or given["id"]
        new = name not in self.runs
        run = self.runs.setdefault(name, FakeRun(name, str(given["project"])))
        run.config |= json.loads(given.get("config") or "{}")
        run.about |= {key: value for key, value in given.items() if value is not None}
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        return {"upsertBucket": {"inserted": new, "bucket": {
            "id": name, "name": name, "displayName": given.get("displayName") or name, "description": "",
            "config": json.dumps(run.config), "sweepName": None, "project": project, "historyLineCount": len(run.lines),
        }}}  # fmt: skip

    def on_CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/run/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def on_ArtifactType(self, given: dict[str, Any]) -> Any:
        kind = next((one.kind for one in self.artifacts.values() if one.name == given["name"].partition(":")[0]), None)
        return {"project": {"artifact": {"artifactType": {"name": kind}} if kind else None}}

    def on_CreateArtifact(self, given: dict[str, Any]) -> Any:
        told = given["input"]
        name, digest = told["artifactCollectionName"], told["digest"]
        known = next((one for one in self.artifacts.values() if (one.name, one.digest) == (name, digest)), None)
        if known is None:
            known = FakeArtifact(f"artifact{len(self.artifacts)}", told["artifactTypeName"], name, digest,
                                 told["runName"])
            self.artifacts[known.id] = known
        return {"createArtifact": {"artifact": {"id": known.id, "state": known.state,
                                                "artifactSequence": {"latestArtifact": None}}}}

    def on_CreateArtifactManifest(self, given: dict[str, Any]) -> Any:
        key = f"manifest-{given['artifactID']}"
        file: dict[str, Any] = {"id": key}
        if given.get("includeUpload"):
            file |= {"uploadUrl": f"{self.url}/put/upload/{key}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": key, "file": file}}}

    on_UpdateArtifactManifest = on_CreateArtifactManifest

    def on_CreateArtifactFiles(self, given: dict[str, Any]) -> Any:
        edges = []
        for one in given["input"]["artifactFiles"]:
            place = f"{one['artifactID']}/{one['name']}"
            edges.append({"node": {"storagePath": place, "uploadUrl": f"{self.url}/put/artifact/{place}",
                                   "uploadHeaders": [], "uploadMultipartUrls": None,
                                   "artifact": {"id": one["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_CommitArtifact(self, given: dict[str, Any]) -> Any:
        self.artifacts[given["artifactID"]].state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def on_UseArtifact(self, given: dict[str, Any]) -> Any:
        told = given.get("input") or given
        self.runs[told["runName"]].used.add(self.artifacts[told["artifactID"]].name)
        return {"useArtifact": {"artifact": {"id": told["artifactID"]}}}

    def on_ArtifactByID(self, given: dict[str, Any]) -> Any:
        one = self.artifacts[given["id"]]
        project = {"id": "p", "internalId": "p", "name": next(iter(self.runs.values())).project,
                   "entity": {"name": ENTITY}}
        sequence = {"__typename": "ArtifactSequence", "name": one.name, "project": project}
        return {"artifact": {
            "__typename": "Artifact", "id": one.id, "artifactSequence": sequence, "versionIndex": 0,
            "artifactType": {"name": one.kind}, "description": None, "metadata": "{}", "ttlDurationSeconds": -2,
            "ttlIsInherited": True, "tags": [], "historyStep": 0, "state": one.state, "size": 1,
            "digest": one.digest, "commitHash": "c", "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None, "aliases": [],
        }}  # fmt: skip

    def on_CreateCustomChart(self, given: dict[str, Any]) -> Any:
        name = f"{given['entity']}/{given['chartName']}"
        assert name not in self.charts
        self.charts[name] = {**given, "spec": json.loads(given["spec"])}
        return {"createCustomChart": {"chart": {"id": name}}}

    def on_ProjectInternalId(self, given: dict[str, Any]) -> Any:
        known = {run.project for run in self.runs.values()}
        there = given["projectName"] in known
        return {"project": {"id": "p", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="} if there else None}

    def on_upsertView(self, given: dict[str, Any]) -> Any:
        name = given.get("id") or f"VmlldzoxMj{len(self.views)}"
        self.views[name] = {**given, "spec": json.loads(given["spec"])}
        view = {"id": name, "type": given["type"], "name": given["name"], "displayName": given["displayName"],
                "description": given["description"], "spec": given["spec"], "updatedAt": "2026-01-01T00:00:00Z",
                "createdAt": "2026-01-01T00:00:00Z",
                "project": {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}}
        return {"upsertView": {"view": view, "inserted": True}}

    def on_GetProjects(self, given: dict[str, Any]) -> Any:
        names = sorted({run.project for run in self.runs.values()})
        nodes = [{"__typename": "Project", "id": name, "name": name, "entityName": ENTITY, "isBenchmark": False,
                  "createdAt": "2026-01-01T00:00:00Z", "user": None} for name in names]
        return {"models": {"edges": [{"cursor": "c", "node": node} for node in nodes],
                           "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def stream(self, run: str, data: dict[str, Any]) -> None:
        """Take lines of a run's history, and its summary."""
        for name, chunk in (data.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                for number, line in enumerate(chunk["content"]):
                    self.runs[run].lines[chunk["offset"] + number] = line
            elif name == "wandb-summary.json":
                self.runs[run].summary |= json.loads(chunk["content"][-1])

    def put(self, path: str, data: bytes) -> None:
        kind, _, rest = path.partition("/")
        if kind == "run":
            run, _, name = rest.partition("/")
            self.runs[run].files[name] = data
        elif kind == "artifact":
            artifact, _, name = rest.partition("/")
            self.artifacts[artifact].files[name] = data


@contextmanager
def serve() -> Iterator[FakeWandb]:
    """Serve one on a free port of this machine."""
    fake = FakeWandb()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            self._take("POST")

        def do_PUT(self) -> None:
            self._take("PUT")

        def do_GET(self) -> None:
            self._take("GET")

        def _take(self, verb: str) -> None:
            data = self._body()
            path = unquote(urlsplit(self.path).path).lstrip("/")
            answer: Any = {}
            try:
                if path == "graphql":
                    asked = json.loads(data)
                    name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"]).group(1)
                    answer = {"data": fake.answer(name, asked.get("variables") or {}, asked["query"])}
                elif path.endswith("/file_stream"):
                    fake.stream(path.split("/")[-2], json.loads(data))
                elif path.startswith("put/"):
                    fake.put(path.removeprefix("put/"), data)
                else:
                    fake.unknown.append(f"{verb} {path}")
            except Exception as error:  # a fault of the stand-in must be seen, not waited for
                fake.unknown.append(f"{verb} {path}: {error!r}")
            self._reply(answer)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                data = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _reply(self, answer: Any) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # the client is gone

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
