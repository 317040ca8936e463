"""A real ``mlflow server`` on loopback that can be killed and come back, and a gateway to put before it."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

HOP_BY_HOP = {"connection", "content-length", "date", "host", "server", "transfer-encoding"}


@dataclass
class MlflowServer:
    """One store and the server processes that serve it, one after another, at one port."""

    home: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> MlflowServer:
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--backend-store-uri", f"sqlite:///{self.home}/server.db", "--workers", "1",
            "--artifacts-destination", str(self.home / "artifacts"),
        ]  # fmt: skip
        variables = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES": "mlflow-artifacts,http",
        }
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.home, env=variables, start_new_session=True
            )
        wait_until(self._healthy, "the mlflow server to be healthy", 120)
        return self

    def kill(self) -> None:
        """End the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _healthy(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail((self.home / "server.log").read_text())
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def shared_server(directory: Path, database: Path) -> Iterator[MlflowServer]:
    """One server for all processes that name this ``directory``; it begins with a copy of ``database``.

    The first process starts it, and ends it once the others need it no more. A process that is killed needs
    it no more either: what it holds is a lock of the kernel's.
    """
    home = directory / "mlflow-server"
    home.mkdir(exist_ok=True)
    address = home / "port"
    with (home / "starting.lock").open("a") as starting, (home / "users.lock").open("a") as users:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if address.exists():
            server, is_ours = MlflowServer(home, int(address.read_text())), False
        else:
            shutil.copy(database, home / "server.db")
            server, is_ours = MlflowServer(home).start(), True
            address.write_text(str(server.port))
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield server
        if is_ours:
            fcntl.flock(users, fcntl.LOCK_EX)
            address.unlink()
            server.kill()


@dataclass
class Gateway:
    """Passes requests on to a server once ``admit(headers)`` is None; else answers with that status.

    Its own answers are a gateway's: JSON without any of MLflow's error codes, but for ``refusal``.
    """

    server: MlflowServer
    admit: Callable[[dict[str, str]], int | None] = lambda headers: None
    tls: ssl.SSLContext | None = None
    headers: list[dict[str, str]] = field(default_factory=list)
    """Those of each request that came."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each."""
    refusal: dict[str, str] = field(default_factory=lambda: {"message": "no entry"})

    def __enter__(self) -> Self:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        if self.tls is not None:
            self._http.socket = self.tls.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def uri(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._http.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                sent = {name.lower(): value for name, value in self.headers.items()}
                gateway.headers.append(sent)
                gateway.requests.append(f"{self.command} {self.path}")
                refused = gateway.admit(sent)
                if refused is not None:
                    self._answer(refused, json.dumps(gateway.refusal).encode(), "application/json")
                    return
                connection = http.client.HTTPConnection("127.0.0.1", gateway.server.port, timeout=60)
                kept = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                connection.request(self.command, self.path, body, kept)
                answer = connection.getresponse()
                self._answer(answer.status, answer.read(), answer.headers.get("Content-Type", ""))
                connection.close()

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on  # noqa: N815

            def _answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Print nothing."""

        return Handler
