"""The certificate that a daemon makes for itself."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509

from tracker_daemon.endpoints import certificate
from tracker_daemon.endpoints.certificate import CERTIFICATE_FILE_NAME, KEY_FILE_NAME, certificate_for
from tracker_daemon.errors import SettingsError
from tracker_daemon.settings.definitions import Settings

TLS = Settings(tls=True)


def test_without_tls_there_is_none(tmp_path: Path) -> None:
    assert certificate_for(Settings(), tmp_path, ["10.0.0.1"]) is None
    assert list(tmp_path.iterdir()) == []


def test_it_names_all_addresses_numerically_and_only_its_owner_reads_the_key(tmp_path: Path) -> None:
    made = certificate_for(TLS, tmp_path, ["10.0.0.1", "[fd00::1]", "login-1"])
    found = x509.load_pem_x509_certificate(made.chain)
    named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = set(named.get_values_for_type(x509.IPAddress))
    assert {ipaddress.ip_address(a) for a in ("10.0.0.1", "fd00::1", "127.0.0.1", "::1")} <= addresses
    assert {"login-1", "localhost"} <= set(named.get_values_for_type(x509.DNSName))
    assert (tmp_path / KEY_FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_it_is_kept_until_the_host_has_an_address_that_it_does_not_name(tmp_path: Path) -> None:
    first = certificate_for(TLS, tmp_path, ["10.0.0.1", "10.0.0.2"])
    assert certificate_for(TLS, tmp_path, ["10.0.0.2"]) == first
    assert certificate_for(TLS, tmp_path, ["10.0.0.3"]) != first


@pytest.mark.parametrize("damage", ["-----BEGIN CERTIFICATE-----\nx\n", ""])
def test_a_damaged_one_is_replaced(tmp_path: Path, damage: str) -> None:
    certificate_for(TLS, tmp_path, [])
    (tmp_path / CERTIFICATE_FILE_NAME).write_text(damage)
    made = certificate_for(TLS, tmp_path, [])
    assert x509.load_pem_x509_certificate(made.chain)
    assert made.key not in repr(made).encode()


def test_one_that_is_about_to_end_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate.limits, "TLS_VALID_DAYS", 20)
    first = certificate_for(TLS, tmp_path, [])
    assert certificate_for(TLS, tmp_path, []) != first


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set both"):
        certificate_for(Settings(tls_cert=tmp_path / "c"), tmp_path, [])
    with pytest.raises(SettingsError, match=f"tls_cert = {tmp_path}/c cannot be read"):
        certificate_for(Settings(tls_cert=tmp_path / "c", tls_key=tmp_path / "k"), tmp_path, [])


def test_without_the_package_the_error_names_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(certificate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"tracker-daemon\[tls\]"):
        certificate_for(TLS, tmp_path, [])
