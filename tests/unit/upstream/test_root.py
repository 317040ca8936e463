"""The root: where a setting says that it is, at which address it is called, what its refusals are here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from tracker_client.endpoints.endpoint import Endpoint, EndpointFile, FixedEndpoint
from tracker_daemon.errors import ClientRefused, SettingsError, TrackerDaemonError, UpstreamUnavailable
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.upstream.root import Root, root_source
from tracker_protocol.v1 import tracker_pb2 as pb

TOKEN, OTHER_TOKEN = "a token of good length", "another of good length"
NOWHERE = "127.0.0.1:1"


# ---- where it is ---------------------------------------------------------------------------------

ADDRESSES = {
    "login-1:4711": ("login-1:4711",),
    "[fd00::1]:4711": ("[fd00::1]:4711",),
    "unix:/run/tracker.sock": ("unix:/run/tracker.sock",),
    "hsn0:4711,10.0.0.1:4711": ("hsn0:4711", "10.0.0.1:4711"),
    " hsn0:4711 , unix:/run/t.sock ": ("hsn0:4711", "unix:/run/t.sock"),
}


@pytest.mark.parametrize(("text", "addresses"), ADDRESSES.items(), ids=ADDRESSES)
def test_addresses_are_taken_as_they_are_in_their_order(text: str, addresses: tuple[str, ...]) -> None:
    source = root_source(Settings(upstream=text))
    assert source.read() == Endpoint(addresses, None, None)
    assert str(Root(source)) == ", ".join(addresses)


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        ({}, None),
        ({"token": TOKEN}, TOKEN),
        ({"upstream_token": TOKEN}, TOKEN),
        ({"token": OTHER_TOKEN, "upstream_token": TOKEN}, TOKEN),
    ],
)
def test_at_an_address_the_token_is_the_root_s_own_or_else_this_daemon_s(settings, token) -> None:
    assert root_source(Settings(upstream="login:1", **settings)).read().token == token


def test_at_an_address_the_certificate_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(b"the certificate")
    source = root_source(Settings(upstream="login:1", upstream_tls_root=tmp_path / "root.pem"))
    assert source.read().tls_root_pem == b"the certificate"


def test_a_certificate_that_cannot_be_read_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"upstream_tls_root .*missing\.pem"):
        root_source(Settings(upstream="login:1", upstream_tls_root=tmp_path / "missing.pem"))


def test_an_endpoint_file_is_read_each_time_since_the_root_may_move(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    source = root_source(Settings(upstream=str(path)))  # not there yet: the root may be starting
    assert source == EndpointFile(path, None)
    for port in (1, 2):
        path.write_text(json.dumps({"endpoint": f"login:{port}", "token": "t", "tls_root_pem": "pem"}))
        assert source.read() == Endpoint((f"login:{port}",), "t", b"pem")


def test_the_token_of_an_endpoint_file_yields_to_the_root_s_and_not_to_this_daemon_s(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    path.write_text(json.dumps({"endpoint": "login:1", "token": "the file's"}))
    assert root_source(Settings(upstream=str(path), token=TOKEN)).read().token == "the file's"
    assert root_source(Settings(upstream=str(path), upstream_token=TOKEN)).read().token == TOKEN


@pytest.mark.parametrize("text", ["endpoint.json", "runs/endpoint", "./endpoint", "plain"])
def test_the_path_of_an_endpoint_file_is_against_the_working_directory_of_now(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("{}")  # a name alone is taken for a file where there is one
    source = root_source(Settings(upstream=text))
    monkeypatch.chdir("/")
    assert isinstance(source, EndpointFile)
    assert source.path == tmp_path / text


def test_an_endpoint_file_may_lie_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root_source(Settings(upstream="~/run/endpoint.json")) == EndpointFile(
        tmp_path / "run" / "endpoint.json", None
    )


@pytest.mark.parametrize("text", ["", " ", "login", "login:", "login:port", ",", "login:1,", "a directory"])
def test_what_is_no_endpoint_is_an_error_that_names_the_setting(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a directory").mkdir()
    with pytest.raises(SettingsError, match=r"upstream = .* is not host:port, unix:/path or the path"):
        root_source(Settings(upstream=text))


# ---- calling it ----------------------------------------------------------------------------------


def request():
    return pb.AdmitRequest(node_id=b"n" * 16, hello=pb.Hello(stream_id=b"r" * 16))


def admitting(server, reply=None):
    """Has the server answer Admit with ``reply``, or, where that is a status, refuse so."""
    server.admitted = []

    async def admit(asked, context):
        server.admitted.append((asked, dict(context.invocation_metadata()).get("authorization")))
        if isinstance(reply, tuple):
            await context.abort(*reply)
        return reply or pb.AdmitReply(options="{}")

    server.admit = admit


def test_a_call_carries_the_token_and_brings_the_answer(play) -> None:
    async def scenario(server):
        admitting(server, pb.AdmitReply(welcome=pb.Welcome(run_id="r-1"), options="{}"))
        async with server.root(TOKEN).connection() as connection:
            reply = await connection.admit(request())
        assert (reply.welcome.run_id, reply.options) == ("r-1", "{}")
        assert server.admitted == [(request(), f"Bearer {TOKEN}")]
        async with server.root(None).connection() as connection:
            await connection.admit(request())
        assert server.admitted[-1][1] is None, "without a token none is made up"

    play(scenario)


CODES: dict[grpc.StatusCode, tuple[type[TrackerDaemonError], str]] = {
    grpc.StatusCode.ALREADY_EXISTS: (ClientRefused, r"^as it says$"),
    grpc.StatusCode.INVALID_ARGUMENT: (SettingsError, r"^as it says$"),
    grpc.StatusCode.UNAUTHENTICATED: (UpstreamUnavailable, r"refuses the token: set upstream_token"),
    grpc.StatusCode.UNIMPLEMENTED: (UpstreamUnavailable, r"install the same version"),
    grpc.StatusCode.UNAVAILABLE: (UpstreamUnavailable, r"cannot be reached \(as it says\)"),
    grpc.StatusCode.INTERNAL: (UpstreamUnavailable, r"cannot be reached \(as it says\)"),
    grpc.StatusCode.DATA_LOSS: (UpstreamUnavailable, r"cannot be reached \(as it says\)"),
}


@pytest.mark.parametrize(("code", "expected"), CODES.items(), ids=[code.name for code in CODES])
def test_what_the_root_answers_is_told_in_this_daemon_s_own_errors(play, code, expected) -> None:
    kind, text = expected

    async def scenario(server):
        admitting(server, (code, "as it says"))
        with pytest.raises(kind, match=text) as told:
            async with server.root().connection() as connection:
                await connection.admit(request())
        assert type(told.value) is kind
        assert kind is not UpstreamUnavailable or server.address in str(told.value)

    play(scenario)


def test_a_refusal_without_words_is_told_by_its_code(play) -> None:
    async def scenario(server):
        admitting(server, (grpc.StatusCode.ALREADY_EXISTS, ""))
        with pytest.raises(ClientRefused, match="ALREADY_EXISTS"):
            async with server.root().connection() as connection:
                await connection.admit(request())

    play(scenario)


def test_a_root_that_answers_too_late_is_unavailable(play, monkeypatch) -> None:
    monkeypatch.setattr("tracker_protocol.limits.ADMIT_TIMEOUT_S", 0.05)

    async def scenario(server):
        async def admit(*_):
            await asyncio.Event().wait()

        server.admit = admit
        with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
            async with server.root().connection() as connection:
                await connection.admit(request())

    play(scenario)


def test_an_endpoint_file_that_is_not_there_yet_makes_the_root_unavailable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Root(EndpointFile(tmp_path / "endpoint.json")).connection():
            raise AssertionError("there is nothing to connect to")

    with pytest.raises(UpstreamUnavailable, match=r"endpoint\.json is not there \(yet\)"):
        asyncio.run(scenario())


def test_of_several_addresses_one_that_answers_is_called(play) -> None:
    async def scenario(server):
        admitting(server)
        root = Root(FixedEndpoint(Endpoint((NOWHERE, server.address), None)))
        async with root.connection() as connection:
            assert connection.address == server.address
            await connection.admit(request())

    play(scenario)


def test_where_none_of_several_addresses_answers_the_root_is_unavailable() -> None:
    async def scenario() -> None:
        async with Root(FixedEndpoint(Endpoint((NOWHERE, "127.0.0.1:2"), None))).connection():
            raise AssertionError("nothing listens there")

    with pytest.raises(UpstreamUnavailable, match="none of the daemon's addresses can be reached"):
        asyncio.run(scenario())


def test_an_address_that_leads_to_something_else_is_not_called_again_before_the_others(play) -> None:
    async def scenario(server):
        admitting(server)
        other = await type(server)().start()  # knows no Admit
        root = Root(FixedEndpoint(Endpoint((other.address, server.address), None)))
        called = []

        async def call():
            async with root.connection() as connection:
                called.append(connection.address)
                await connection.admit(request())
                root.worked(connection.address)

        try:
            with pytest.raises(UpstreamUnavailable):
                await call()
            await call()
            await call()
            assert called == [other.address, server.address, server.address]
        finally:
            await other.stop()

    play(scenario)


def test_what_goes_wrong_here_during_a_connection_is_not_blamed_on_the_root(play) -> None:
    async def scenario(server):
        with pytest.raises(ValueError, match="of our own"):
            async with server.root().connection():
                raise ValueError("of our own")

    play(scenario)


def test_a_root_at_a_unix_socket_is_called_without_tls(play, tmp_path: Path) -> None:
    async def scenario(server):
        admitting(server)
        await server.stop()
        await server.start(f"unix:{tmp_path}/root.sock")
        root = Root(
            FixedEndpoint(Endpoint((server.address,), None, b"a certificate for its other addresses"))
        )
        async with root.connection() as connection:
            await connection.admit(request())

    play(scenario)


def test_with_a_certificate_only_the_root_that_has_it_is_called(play, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from tracker_daemon.endpoints.certificate import certificate_for

    (tmp_path / "other").mkdir()
    made = certificate_for(Settings(tls=True), tmp_path, [])
    other = certificate_for(Settings(tls=True), tmp_path / "other", [])

    async def scenario(server):
        admitting(server)
        await server.stop()
        server.credentials = grpc.ssl_server_credentials([(made.key, made.chain)])
        await server.start()

        async def call(certificate):
            root = Root(FixedEndpoint(Endpoint((server.address,), None, certificate)))
            async with root.connection() as connection:
                await connection.admit(request())

        await call(made.chain)
        for wrong in (other.chain, None):
            with pytest.raises(UpstreamUnavailable):
                await call(wrong)
        assert len(server.admitted) == 1

    play(scenario)
