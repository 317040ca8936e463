"""Daemons on several addresses and with TLS, real clients and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import Ranks
from tracker_daemon.endpoints.certificate import certificate_for
from tracker_daemon.endpoints.host_addresses import advertised_hosts
from tracker_daemon.settings.definitions import Settings

SCRIPT = """
import os
from tracker_client import setup_tracker
with setup_tracker(project_name="tls", endpoint=os.environ.get("ENDPOINT")) as tracker:
    for step in range(20):
        tracker.log({"loss": float(step)}, step=step)
    tracker.finish(wait="delivered", timeout=60)
"""


def command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracker_daemon", *words], env=environ, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def encrypted(make_daemon, tmp_path: Path):
    listen = f"0.0.0.0:0,unix:{tmp_path}/s"
    return make_daemon("--backends", "csv", "--tls", "--listen", listen)


def test_clients_and_commands_verify_the_daemon_at_each_of_its_numeric_addresses(
    encrypted, tmp_path: Path
) -> None:
    endpoint = encrypted.endpoint
    hosts = [address.rpartition(":")[0] for address in endpoint["endpoints"]]
    assert hosts[:-1] == advertised_hosts("0.0.0.0")
    Ranks(encrypted).run(SCRIPT, 1)
    (tmp_path / "root.pem").write_text(endpoint["tls_root_pem"])
    known = {"TRACKER_TOKEN": endpoint["token"], "TRACKER_TLS_ROOT": str(tmp_path / "root.pem")}
    port = endpoint["endpoint"].rpartition(":")[2]
    for address in (*endpoint["endpoints"][:-1], f"127.0.0.1:{port}", f"localhost:{port}"):
        assert command("status", "--endpoint", address, **known).returncode == 0, address
    Ranks(encrypted).run(SCRIPT, 1, ENDPOINT=",".join(endpoint["endpoints"]), **known)
    assert command("wait", "--ready", "--endpoint-file", str(encrypted.endpoint_file)).returncode == 0
    assert command("stop", "--endpoint-file", str(encrypted.endpoint_file)).returncode == 0
    assert [len(encrypted.rows(path.parent)) for path in encrypted.outdir.rglob("metrics.csv")] == [20, 20]


def test_a_daemon_with_another_certificate_is_not_believed(encrypted, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = certificate_for(Settings(tls=True), tmp_path / "other", ["127.0.0.1"])
    (tmp_path / "root.pem").write_bytes(other.chain)
    for root in ({"TRACKER_TLS_ROOT": str(tmp_path / "root.pem")}, {}):
        token = {"TRACKER_TOKEN": encrypted.endpoint["token"]}
        asked = command("status", "--endpoint", encrypted.endpoint["endpoint"], **token, **root)
        assert (asked.returncode, asked.stdout) == (1, "")
        assert "no daemon answers" in asked.stderr


def test_a_certificate_and_a_token_of_the_users_own(make_daemon, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own").mkdir()
    certificate_for(Settings(tls=True), tmp_path / "own", ["127.0.0.1"])
    files = ("--tls-cert", f"{tmp_path}/own/tls-cert.pem", "--tls-key", f"{tmp_path}/own/tls-key.pem")
    monkeypatch.setenv("TRACKER_TOKEN", "a-token-that-all-nodes-have")
    daemon = make_daemon("--backends", "csv", *files)
    address = daemon.endpoint["endpoint"]
    known = {
        "TRACKER_TOKEN": "a-token-that-all-nodes-have",
        "TRACKER_TLS_ROOT": f"{tmp_path}/own/tls-cert.pem",
    }
    Ranks(daemon).run(SCRIPT, 1, ENDPOINT=address, **known)
    assert len(daemon.rows()) == 20
    refused = command("status", "--endpoint", address, **(known | {"TRACKER_TOKEN": "guessed"}))
    assert "refuses the token" in refused.stderr


def test_a_certificate_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("nonsense")
    files = ("--tls-cert", f"{tmp_path}/c", "--tls-key", f"{tmp_path}/c")
    told = command("serve", "--state-dir", f"{tmp_path}/state", *files)
    assert told.returncode == 2
    assert "tls_cert" in told.stderr


def test_preferring_an_interface_is_listening_at_it(make_daemon) -> None:
    daemon = make_daemon("--backends", "csv", "--interface", "lo")
    assert daemon.endpoint["endpoint"].startswith("127.0.0.1:")
    assert len(daemon.endpoint["endpoints"]) == len(advertised_hosts("0.0.0.0", ["lo"]))
