"""What the doctor says of directories."""

import os
import shutil
import time
from pathlib import Path

import pytest

from tracker_daemon.doctor import directories
from tracker_daemon.doctor.finding import Severity
from tracker_daemon.errors import StateDirectoryError

MOUNTS = """22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:35 / /home rw,relatime - nfs4 server:/home rw
41 22 0:36 / /home/ada/my\\040scratch rw - lustre server:/scratch rw
42 22 0:37 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/home/ada", "nfs4"),
        ("/home/ada/my scratch/runs", "lustre"),
        ("/homework", "ext4"),
        ("/tmp/x", "tmpfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path, kind):
    assert directories.file_system_of(Path(path), MOUNTS) == kind


def texts(findings, severity=None):
    return [finding.text for finding in findings if severity is None or finding.severity is severity]


def test_a_directory_that_works_has_no_problem_and_nothing_is_left_there(tmp_path):
    findings = list(directories.examine_state_directory(tmp_path / "not" / "yet"))
    assert texts(findings, Severity.PROBLEM) == []
    assert any("locks work" in text for text in texts(findings))
    assert any("a commit takes" in text for text in texts(findings))
    assert list(tmp_path.iterdir()) == []


def test_locks_that_do_not_work_are_a_problem_with_what_to_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise StateDirectoryError("a lock that is held was granted again")

    monkeypatch.setattr("tracker_daemon.journal.lock._demand_working_locks", refuse)
    (found,) = [
        finding
        for finding in directories.examine_state_directory(tmp_path)
        if finding.severity is Severity.PROBLEM
    ]
    assert "granted again" in found.text
    assert "--state-dir" in found.advice


def test_a_directory_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    # Root, as whom tests may run, is refused nothing.
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    for examine in (directories.examine_state_directory, directories.examine_output_directory):
        problems = texts(examine(tmp_path), Severity.PROBLEM)
        assert problems == [f"{tmp_path} cannot be written: Permission denied"]


def test_a_clock_that_goes_wrong_is_noted(tmp_path):
    findings = directories.examine_state_directory(tmp_path, clock=lambda: time.time() - 120)
    assert any("behind" in text for text in texts(findings, Severity.NOTE))


def test_too_little_room_is_noted_with_how_much_is_wanted(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1024))
    notes = [f for f in directories.examine_state_directory(tmp_path) if f.severity is Severity.NOTE]
    assert any("--history-bytes" in finding.advice for finding in notes)


def test_a_daemon_that_holds_the_directory_is_named(tmp_path):
    (tmp_path / "owner.json").write_text(
        f'{{"host": "there", "boot_id": "b", "pid": {os.getpid()}, "nonce": "n"}}'
    )
    assert any(
        f"in use by the daemon with pid {os.getpid()} on there" in text
        for text in texts(directories.examine_state_directory(tmp_path))
    )
