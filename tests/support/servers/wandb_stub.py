"""A W&B server to test against: what the SDK needs to make, fill, resume and finish a run, in memory.

It keeps what was uploaded as the real server does (a line of history by its offset in the file, an artifact
once for each content), and can be told to answer with errors. It speaks HTTP on this host only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

HISTORY = "wandb-history.jsonl"
SUMMARY = "wandb-summary.json"
MANIFEST = "wandb_manifest.json"
API_KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class StubRun:
    """What the server holds of one run."""

    entity: str
    project: str
    name: str
    upserts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[int, str]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, in the order of its lines; nothing missing between them."""
        lines = self.files.get(HISTORY, {})
        assert sorted(lines) == list(range(len(lines))), f"holes in the history: {sorted(lines)}"
        return [json.loads(lines[at]) for at in sorted(lines)]

    def merged(self, variable: str) -> Any:
        """The last value that an upsert gave ``variable``."""
        return next((u[variable] for u in reversed(self.upserts) if u.get(variable) is not None), None)

    @property
    def config(self) -> dict[str, Any]:
        document = json.loads(self.merged("config") or "{}")
        return {key: item["value"] for key, item in document.items()}

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.files.get(SUMMARY, {})
        return json.loads(lines[max(lines)]) if lines else {}


@dataclass
class StubArtifact:
    """One version of an artifact: what the SDK has promised, and what came."""

    number: int
    type: str
    name: str
    digest: str
    metadata: dict[str, Any]
    expected: dict[str, str] = field(default_factory=dict)
    """The files of which it asked for the addresses, and their MD5 in base 64."""
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    committed: bool = False

    def receive(self, name: str, content: bytes) -> int:
        """Take a file; the HTTP status. As the real store, it takes none that is not what was promised."""
        if name == MANIFEST:
            self.manifest = json.loads(content)
            return 200
        if self.expected.get(name) != base64.b64encode(hashlib.md5(content).digest()).decode():
            return 400
        self.files[name] = content
        return 200

    @property
    def whole(self) -> bool:
        """Whether all that its manifest lists is there."""
        return bool(self.manifest) and self.manifest["contents"].keys() == self.files.keys()


class WandbStub:
    """The server. ``with WandbStub() as stub`` serves at ``stub.url`` until the end of the block."""

    def __init__(self) -> None:
        self.runs: dict[str, StubRun] = {}
        self.artifacts: list[StubArtifact] = []
        self.requests: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        self.answer_file_stream: Callable[[], int] = lambda: 200
        self.answer_graphql: Callable[[str], int] = lambda _operation: 200
        self._server = Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes the SDK use this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, "WANDB_ERROR_REPORTING": "false"}

    def __enter__(self) -> WandbStub:  # noqa: PYI034 - it has no subclasses, and Self needs 3.11
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
        """Wait until ``condition`` holds, looked at after every request."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    # ---- the answers ----

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            return {"upsertBucket": self._upsert(variables)}
        if operation == "RunResumeStatus":
            return {"model": self._resume_status(variables)}
        if operation == "CreateRunFiles":
            return {"createRunFiles": self._create_files(variables)}
        if operation == "ArtifactType":
            return {"project": {"artifact": self._artifact_type(variables["name"])}}
        if operation == "CreateArtifact":
            return {"createArtifact": self._create_artifact(variables["input"])}
        if operation == "CreateArtifactFiles":
            return {"createArtifactFiles": self._create_artifact_files(variables["input"])}
        if operation in {"CreateArtifactManifest", "UpdateArtifactManifest"}:
            return {f"{operation[0].lower()}{operation[1:]}": self._artifact_manifest(variables)}
        if operation == "CommitArtifact":
            return {"commitArtifact": self._commit_artifact(variables["artifactID"])}
        if operation in {"Viewer", "GetViewer"}:
            return {"viewer": {"id": "v", "entity": "the-team", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        inserted = name not in self.runs
        entity, project = variables.get("entity") or "the-team", variables.get("project") or "uncategorized"
        run = self.runs.setdefault(name, StubRun(entity, project, name))
        run.upserts.append(variables)
        return {"bucket": self._bucket(run), "inserted": inserted}

    def _bucket(self, run: StubRun) -> dict[str, Any]:
        return {
            "id": f"id-{run.name}",
            "name": run.name,
            "displayName": run.merged("displayName") or run.name,
            "description": None,
            "config": run.merged("config") or "{}",
            "sweepName": run.merged("sweep"),
            "historyLineCount": len(run.files.get(HISTORY, {})),
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": run.entity}},
        }

    def _resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "the-team"}}
        run = self.runs.get(variables["name"])
        if run is None:
            return {**project, "bucket": None}
        lines = run.files.get(HISTORY, {})
        bucket = {
            **self._bucket(run),
            "summaryMetrics": json.dumps(run.summary),
            "historyTail": json.dumps([lines[max(lines)]] if lines else []),
            "eventsTail": "[]",
            "eventsLineCount": 0,
            "logLineCount": 0,
            "tags": run.merged("tags") or [],
            "wandbConfig": '{"t": 1}',
        }
        return {**project, "bucket": bucket}

    def _create_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables.get("run")
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{run}/{quote(name)}"}
            for name in variables.get("files", [])
        ]
        return {"runID": f"id-{run}", "uploadHeaders": [], "files": files}

    # ---- artifacts: made, filled file by file, described by a manifest, committed ----

    def _artifact_type(self, name: str) -> dict[str, Any] | None:
        """What the SDK asks before it logs one: a name has one type in a project."""
        sequence = name.partition(":")[0]
        kind = next((one.type for one in self.artifacts if one.name == sequence), None)
        return None if kind is None else {"artifactType": {"name": kind}}

    def _create_artifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The same content under the same name is the same version, as at the real server."""
        name, digest = asked["artifactCollectionName"], asked["digest"]
        versions = [one for one in self.artifacts if one.name == name]
        found = next((one for one in versions if one.digest == digest), None)
        if found is None:
            metadata = json.loads(asked.get("metadata") or "{}")
            number = len(self.artifacts)
            found = StubArtifact(number, asked["artifactTypeName"], name, digest, metadata)
            self.artifacts.append(found)
        committed = [one for one in versions if one.committed]
        latest = {"id": f"artifact-{committed[-1].number}"} if committed else None
        state = "COMMITTED" if found.committed else "PENDING"
        artifact = {"id": f"artifact-{found.number}", "state": state}
        return {"artifact": {**artifact, "artifactSequence": {"latestArtifact": latest}}}

    def _create_artifact_files(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"files": {"edges": [{"node": self._artifact_file(one)} for one in asked["artifactFiles"]]}}

    def _artifact_file(self, asked: dict[str, Any]) -> dict[str, Any]:
        identity, name = asked["artifactID"], asked["name"]
        self._artifact(identity).expected[name] = asked["md5"]
        return {
            "storagePath": f"{identity}/{name}",
            "uploadUrl": f"{self.url}/artifact/{identity}/{quote(name)}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": identity},
        }

    def _artifact_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        # It is created for the artifact, and then updated under its own id, which is the same here.
        identity = variables.get("artifactManifestID") or variables["artifactID"]
        url = f"{self.url}/artifact/{identity}/{MANIFEST}"
        file = {"id": identity, "uploadUrl": url, "uploadHeaders": []}
        return {"artifactManifest": {"id": identity, "file": file}}

    def _commit_artifact(self, identity: str) -> dict[str, Any]:
        artifact = self._artifact(identity)
        assert artifact.whole, f"{artifact.name} is committed, but its files are {sorted(artifact.files)}"
        artifact.committed = True
        return {"artifact": {"id": identity, "digest": artifact.digest}}

    def _artifact(self, identity: str) -> StubArtifact:
        return self.artifacts[int(identity.rpartition("-")[2])]

    def put(self, path: str, content: bytes) -> int:
        """A file at one of the addresses that were given out; the HTTP status."""
        _, kind, owner, *file = path.split("/")
        name = unquote("/".join(file))
        if kind == "artifact":
            return self._artifact(owner).receive(name, content)
        self.runs[owner].uploads[name] = content
        return 200

    def file_stream(self, name: str, body: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, chunk in (body.get("files") or {}).items():
            lines = run.files.setdefault(file, {})
            for at, line in enumerate(chunk["content"], start=chunk["offset"]):
                lines[at] = line
        if body.get("complete"):
            run.exit_code = body.get("exitcode")


class Server(ThreadingHTTPServer):
    """Listens on a free port of this host, and belongs to a stub."""

    daemon_threads = True

    def __init__(self, stub: WandbStub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stub = stub

    def handle_error(self, *arguments: object) -> None:
        """Say nothing of clients that were killed."""


class Handler(BaseHTTPRequestHandler):
    """One connection of the SDK's."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        if self.path.endswith("/file_stream"):
            self._file_stream(body)
        else:
            self._graphql(body)

    def do_GET(self) -> None:
        self._answer(404, {})

    def do_PUT(self) -> None:
        content = self._body()
        with self.server.stub.changed:
            status = self.server.stub.put(self.path, content)
        self._answer(status, {})

    def _file_stream(self, body: dict[str, Any]) -> None:
        stub = self.server.stub
        status = stub.answer_file_stream()
        with stub.changed:
            if status == 200:
                stub.file_stream(self.path.split("/")[-2], body)
        self._answer(status, {})

    def _graphql(self, body: dict[str, Any]) -> None:
        stub = self.server.stub
        operation = body.get("operationName") or body.get("query", "").split("(")[0].split()[-1]
        status, answer = stub.answer_graphql(operation), {}
        with stub.changed:
            if status == 200:
                answer = {"data": stub.graphql(operation, body.get("variables") or {})}
        self._answer(status, answer)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        with self.server.stub.changed:
            self.server.stub.requests.append((self.command, self.path))
            self.server.stub.changed.notify_all()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
