"""Which node of a job `run` is on, and what it does on a further one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracker_daemon.cli import main
from tracker_daemon.endpoints.locate import EndpointChoice
from tracker_daemon.launch.joining import Joining
from tracker_daemon.launch.node_rank import VARIABLES, further_node


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "TRACKER_ENDPOINT", "TRACKER_ENDPOINT_FILE", "TRACKER_LAUNCH_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[Joining]:
    joinings: list[Joining] = []

    def run(joining: Joining) -> int:
        joinings.append(joining)
        return 6

    monkeypatch.setattr(Joining, "run", run)
    return joinings


def exit_status(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return int(caught.value.code or 0)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_node_rank_above_0_tells_a_further_node(name: str) -> None:
    assert further_node({name: "2"}) == f"{name}=2"
    assert further_node({name: "0"}) is None
    assert further_node({name: "two"}) is None


def test_a_further_node_without_a_daemon_to_join_is_an_error_and_starts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_NODEID", "1")
    assert exit_status("run", "--", "touch", "ran") == 2
    told = capsys.readouterr().err
    assert "SLURM_NODEID=1" in told
    assert "--join" in told
    assert list(tmp_path.iterdir()) == []


def test_a_further_node_joins_what_its_environment_names(
    joined: list[Joining], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("TRACKER_ENDPOINT_FILE", "/shared/e.json")
    assert exit_status("run", "--", "true") == 6
    monkeypatch.setenv("TRACKER_ENDPOINT", "node0:7007")
    assert exit_status("run", "--", "true") == 6
    choices = [joining.choice for joining in joined]
    assert choices == [
        EndpointChoice(endpoint_file=Path("/shared/e.json")),
        EndpointChoice(endpoint="node0:7007"),
    ]


def test_join_goes_before_the_environment_on_any_node(
    joined: list[Joining], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_ENDPOINT", "node0:7007")
    assert exit_status("run", "--join", "unix:/tmp/s", "--", "true") == 6
    assert joined[0].choice == EndpointChoice(endpoint="unix:/tmp/s")


def test_the_command_is_led_to_the_daemon_that_is_joined_and_to_its_launch() -> None:
    outer = {
        "TRACKER_ENDPOINT": "a:1",
        "TRACKER_ENDPOINT_FILE": "/b",
        "TRACKER_LAUNCH_ID": "own",
        "TRACKER_TOKEN": "t",
    }
    by_address = Joining(("true",), EndpointChoice(endpoint="node0:7"), outer).command_environment("theirs")
    assert by_address == {"TRACKER_ENDPOINT": "node0:7", "TRACKER_LAUNCH_ID": "theirs", "TRACKER_TOKEN": "t"}
    by_file = Joining(("true",), EndpointChoice(endpoint_file=Path("/c")), outer).command_environment("")
    assert by_file == {"TRACKER_ENDPOINT_FILE": "/c", "TRACKER_LAUNCH_ID": "own", "TRACKER_TOKEN": "t"}
