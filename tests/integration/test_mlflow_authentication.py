"""Every way to authenticate at an MLflow server, each at a real one behind a gateway that insists on it."""

import base64
import datetime as dt
import ipaddress
import os
import ssl
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlflow")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow import MlflowClient

from tests.support.servers.mlflow_server import Gateway
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.mlflow.backend import MlflowBackend
from tracker_daemon.backends.mlflow.child import MlflowChildBackend
from tracker_daemon.errors import BackendRefused
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

SECRET = "a-secret-of-the-daemon-0123456789"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No MLflow settings and no files of the one who runs the tests."""
    # Set by the backend itself, so that it is to be restored too.
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "AMSC_", "AM_SC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def project(request):
    return request.node.name.replace("[", "_").replace("]", "")


@pytest.fixture
def run(tmp_path, project):
    return RunDescription("run-a", project, "the-name", tmp_path / "out")


@pytest.fixture
def deliver(run, monkeypatch):
    """``deliver(gateway, **variables)``: record three values through the gateway with these variables."""

    def deliver(gateway, backend=None, **variables):
        backend = backend or MlflowBackend()
        for name, value in {"MLFLOW_TRACKING_URI": gateway.uri, **variables}.items():
            monkeypatch.setenv(name, str(value))
        try:
            backend.open(run, None)
            backend.deliver([entry(1, 0)], lambda state: None)
        finally:
            backend.close()

    return deliver


def entry(number, first_step):
    steps = np.arange(first_step, first_step + 3)
    block = RecordBlock(1, 1, ("x",), steps, np.full(3, 10**18), steps[:, None].astype(float))
    return OutboxEntry(number, EntryKind.RECORDS, block.to_bytes())


def assert_recorded(server, project, count=3):
    client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    experiment = client.get_experiment_by_name(project)
    (run,) = client.search_runs([experiment.experiment_id])
    points = client.get_metric_history(run.info.run_id, "x")
    assert sorted(point.value for point in points) == [float(n) for n in range(count)]


# ---- certificates --------------------------------------------------------------------------------


@dataclass
class Authority:
    """A certificate authority of the test's own. A file holds a certificate, and its key where it has one."""

    directory: Path

    def __post_init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string("CN=the test's authority")
        basic = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._certificate(self._name, self._key, basic, critical=True)
        self.bundle = self._write("authority", certificate)

    def issue(self, name):
        """A certificate for ``name`` on this host, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        subject = x509.Name.from_rfc4514_string(f"CN={name}")
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._write(name, self._certificate(subject, key, here, critical=False), private)

    def _certificate(self, subject, key, extension, *, critical):
        now = dt.datetime.now(dt.timezone.utc)
        day = dt.timedelta(days=1)
        builder = x509.CertificateBuilder(
            self._name, subject, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for added, is_critical in ((extension, critical), (identifier, False), (signer, False)):
            builder = builder.add_extension(added, is_critical)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name, certificate, private=b""):
        path = self.directory / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tls(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("server"))
    return context


def test_a_private_authority_is_refused_until_its_bundle_is_named(server, authority, tls, deliver, project):
    with Gateway(server, tls=tls) as gateway:
        with pytest.raises(BackendRefused, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
            deliver(gateway)
        assert gateway.requests == []
        deliver(gateway, MLFLOW_TRACKING_SERVER_CERT_PATH=authority.bundle)
    assert_recorded(server, project)


def test_a_server_that_need_not_be_verified_is_used_without_a_word(server, tls, deliver, project, capfd):
    with Gateway(server, tls=tls) as gateway:
        deliver(gateway, MlflowChildBackend(), MLFLOW_TRACKING_INSECURE_TLS="true")
    assert_recorded(server, project)
    assert "Warning" not in capfd.readouterr().err


def test_a_client_certificate_is_asked_for_by_name_and_used(server, authority, tls, deliver, project):
    tls.load_verify_locations(authority.bundle)
    tls.verify_mode = ssl.CERT_REQUIRED
    with Gateway(server, tls=tls) as gateway:
        with pytest.raises(BackendRefused, match="MLFLOW_TRACKING_CLIENT_CERT_PATH"):
            deliver(gateway, MLFLOW_TRACKING_SERVER_CERT_PATH=authority.bundle)
        deliver(gateway, MLFLOW_TRACKING_CLIENT_CERT_PATH=authority.issue("client"))
    assert_recorded(server, project)


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_TRACKING_SERVER_CERT_PATH"])
def test_a_certificate_that_is_not_there_is_named_with_its_variable(server, deliver, variable):
    with Gateway(server) as gateway, pytest.raises(BackendRefused, match=f"{variable} names /no/such.pem"):
        deliver(gateway, **{variable: "/no/such.pem"})


# ---- passwords, plugins, tokens ------------------------------------------------------------------


def insist_on(authorization):
    return lambda headers: None if headers.get("authorization") == authorization else 401


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_user_and_a_password_come_from_the_environment(server, deliver, project):
    with Gateway(server, insist_on(basic("ada", SECRET))) as gateway:
        with pytest.raises(BackendRefused, match="MLFLOW_TRACKING_USERNAME"):
            deliver(gateway, MLFLOW_TRACKING_USERNAME="ada", MLFLOW_TRACKING_PASSWORD="wrong")
        deliver(gateway, MLFLOW_TRACKING_PASSWORD=SECRET)
    assert_recorded(server, project)


def test_a_user_and_a_password_come_from_mlflows_own_file(server, deliver, project, tmp_path):
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = {SECRET}\n"
    )
    with Gateway(server, insist_on(basic("ada", SECRET))) as gateway:
        deliver(gateway)
    assert_recorded(server, project)


def test_an_installed_plugin_authenticates(server, deliver, project, tmp_path):
    site = tmp_path / "site"
    installed = site / "the_plugin-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: the-plugin\nVersion: 1.0\n")
    provider = "[mlflow.request_auth_provider]\nours = the_plugin:Provider\n"
    (installed / "entry_points.txt").write_text(provider)
    (site / "the_plugin.py").write_text(
        textwrap.dedent("""
            import os
            from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

            class Provider(RequestAuthProvider):
                def get_name(self):
                    return "the-plugin"

                def get_auth(self):
                    return self

                def __call__(self, request):
                    request.headers["Authorization"] = "Plugin " + os.environ["MLFLOW_PLUGIN_SECRET"]
                    return request
        """)
    )
    variables = {"MLFLOW_TRACKING_AUTH": "the-plugin", "MLFLOW_PLUGIN_SECRET": SECRET, "PYTHONPATH": site}
    with Gateway(server, insist_on(f"Plugin {SECRET}")) as gateway:
        deliver(gateway, MlflowChildBackend(), **variables)
    assert_recorded(server, project)


def test_a_token_is_had_from_a_command_and_had_again_when_it_is_refused(
    server, run, project, tmp_path, monkeypatch, capfd
):
    tokens = tmp_path / "tokens"
    tokens.write_text("token-one-0123456789\n")
    wanted = ["token-one-0123456789"]
    command = f"sh -c 'echo had >> {tmp_path}/runs; echo {SECRET} >&2; cat {tokens}'"
    with Gateway(server) as gateway:
        gateway.admit = lambda headers: None if headers["authorization"] == f"Bearer {wanted[0]}" else 401
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN_COMMAND", command)
        monkeypatch.setenv("AMSC_API_KEY", "not-to-be-sent")
        backend = MlflowBackend()
        backend.open(run, None)
        wanted[0] = "token-two-0123456789"
        with pytest.raises(BackendRefused, match="MLFLOW_TRACKING_TOKEN"):
            backend.deliver([entry(1, 0)], lambda state: None)
        tokens.write_text("token-two-0123456789\n")
        backend.deliver([entry(1, 0)], lambda state: None)
        backend.deliver([entry(2, 3)], lambda state: None)
        assert not any("x-api-key" in headers for headers in gateway.headers)
    assert_recorded(server, project, 6)
    # At the opening, at the refusal that stays, and at the one that a new token ends.
    assert (tmp_path / "runs").read_text().split() == ["had"] * 3
    printed = capfd.readouterr()
    assert not any(secret in printed.out + printed.err for secret in (SECRET, "token-one", "token-two"))


# ---- X-Api-Key -----------------------------------------------------------------------------------

# In a process of its own, since the header's registration is for a process's life.
MOVES_ARTIFACTS = """
import os
from pathlib import Path
from mlflow import MlflowClient
from tracker_daemon.backends.mlflow.connection import MlflowConnection
from tracker_daemon.backends.mlflow.store_address import StoreAddress
connection = MlflowConnection(StoreAddress.of(os.environ, Path("/nowhere")), os.environ)
file = Path("note.txt")
file.write_text("hello")
for name, location in {locations}.items():
    experiment = connection.call(lambda client: client.create_experiment("{project}-" + name, location))
    run = connection.call(lambda client: client.create_run(experiment))
    connection.move_artifacts(run.info.artifact_uri, lambda store: store.log_artifact(str(file), "label"))
"""


def test_the_api_key_goes_with_artifacts_to_the_tracking_server_and_to_no_other_host(
    server, project, monkeypatch, tmp_path
):
    admit = lambda headers: None if headers.get("x-api-key") == SECRET else 403  # noqa: E731
    with Gateway(server, admit) as gateway, Gateway(server) as elsewhere:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        monkeypatch.setenv("AMSC_API_KEY", SECRET)
        locations = {
            "own": None,
            "other": elsewhere.uri.replace("http", "mlflow-artifacts") + "/other",
            "direct": f"{elsewhere.uri}/api/2.0/mlflow-artifacts/artifacts/direct",
        }
        script = MOVES_ARTIFACTS.format(locations=locations, project=project)
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120, cwd=tmp_path)
    assert sum(request.startswith("PUT") for request in gateway.requests) == 1
    assert all(headers["x-api-key"] == SECRET for headers in gateway.headers)
    assert sum(request.startswith("PUT") for request in elsewhere.requests) == 2
    assert not any("x-api-key" in headers for headers in elsewhere.headers)
    assert len(list((server.home / "artifacts").rglob("note.txt"))) == 3
