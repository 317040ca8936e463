"""The bearer token for MLflow, from a file or a command: bounded, and never shown."""

import os
import signal

import pytest

from tracker_daemon.backends.mlflow.authentication import TokenSource
from tracker_daemon.errors import BackendRefused
from tracker_protocol import limits

NAME = "MLFLOW_TRACKING_TOKEN"


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.setenv(NAME, "")  # so that it is restored
    monkeypatch.delenv(NAME)


def from_command(command):
    return TokenSource({f"{NAME}_COMMAND": command})


def test_a_token_comes_from_a_command_and_is_new_only_once():
    source = from_command("echo the-token")
    assert source.renew()
    assert os.environ[NAME] == "the-token"
    assert not source.renew()


def test_a_token_comes_from_a_file_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text("  the-token\n")
    assert TokenSource({f"{NAME}_FILE": "~/token"}).renew()
    assert os.environ[NAME] == "the-token"


def test_without_either_nothing_is_touched():
    assert not TokenSource({}).renew()
    assert NAME not in os.environ


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sh -c 'echo the-secret; exit 3'", "exit status 3"),
        ("/no/such/program the-secret", "No such file"),
        ("true the-secret", "no single word"),
        ("echo the-secret again", "no single word"),
        ("echo 'the-secret", "ValueError"),
        (r"printf the-secret\\377", "UnicodeDecodeError"),
    ],
)
def test_a_command_that_gives_none_is_refused_with_the_reason_and_nothing_of_itself(command, reason):
    with pytest.raises(BackendRefused, match=f"{NAME}_COMMAND.*{reason}") as raised:
        from_command(command).renew()
    assert "the-secret" not in str(raised.value)
    assert NAME not in os.environ


def test_a_command_that_does_not_end_is_given_up_whatever_it_has_started(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "MLFLOW_TOKEN_COMMAND_TIMEOUT_S", 1.0)
    left = tmp_path / "left"
    with pytest.raises(BackendRefused, match="no end within 1 s"):
        from_command(f"sh -c 'sleep 120 & echo $! > {left}; sleep 120'").renew()
    os.kill(int(left.read_text()), signal.SIGKILL)  # it was not waited for


def test_a_command_that_leaves_something_running_gives_its_token_at_once(tmp_path):
    left = tmp_path / "left"
    assert from_command(f"sh -c 'sleep 120 & echo $! > {left}; echo the-token'").renew()
    assert os.environ[NAME] == "the-token"
    os.kill(int(left.read_text()), signal.SIGKILL)  # it was not waited for


def test_a_file_that_cannot_be_read_is_named():
    with pytest.raises(BackendRefused, match=f"{NAME}_FILE.*/no/such/token"):
        TokenSource({f"{NAME}_FILE": "/no/such/token"}).renew()
