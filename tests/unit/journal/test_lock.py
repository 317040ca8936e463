"""One daemon per state directory: on this host by flock, on others by a heartbeat."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tests.support.journal_scene import transaction
from tracker_daemon.errors import JournalError, StateDirectoryError
from tracker_daemon.journal import Journal, lock
from tracker_daemon.journal.lock import StateLock

HOLD = """
    import sys, time
    from pathlib import Path
    from tracker_daemon.journal import Journal

    journal = Journal.open(Path(sys.argv[1]), history_bytes=1)
    print("open", flush=True)
    sys.stdin.read()
"""


def elsewhere(directory: Path, age_s: float) -> Path:
    """Leave the owner file of a daemon on another host, whose last heartbeat is so old."""
    directory.mkdir(exist_ok=True)
    owner = directory / "owner.json"
    owner.write_text(json.dumps({"host": "node12", "boot_id": "another", "pid": 4711, "nonce": "n"}))
    os.utime(owner, (time.time() - age_s,) * 2)
    return owner


def test_a_second_daemon_is_refused_and_told_who_holds_the_directory(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StateDirectoryError) as caught:
            Journal.open(tmp_path, history_bytes=1)
        message = str(caught.value)
        assert f"pid {holder.pid} " in message
        assert os.uname().nodename in message
        assert str(tmp_path) in message
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate(timeout=10)
    # Killed, not closed: the kernel released the lock, and the owner file of this boot asks for no wait.
    assert (tmp_path / "owner.json").exists()
    Journal.open(tmp_path, history_bytes=1).close()


def test_two_journals_of_one_process_cannot_share_a_directory(scene):
    with pytest.raises(StateDirectoryError, match=f"pid {os.getpid()}"):
        Journal.open(scene.directory, history_bytes=1)
    with transaction(scene.journal):
        scene.append(scene.notice())


def test_a_failed_opening_releases_the_directory(tmp_path):
    (tmp_path / "journal.sqlite3").write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(JournalError):
            Journal.open(tmp_path, history_bytes=1)


def test_closing_releases_the_directory_and_leaves_no_owner(scene):
    scene.journal.close()
    scene.journal.close()
    assert {path.name for path in scene.directory.iterdir()} == {"journal.sqlite3", "lock"}
    StateLock(scene.directory).release()


def test_an_owner_elsewhere_who_fell_silent_is_taken_over_at_once(tmp_path):
    elsewhere(tmp_path, age_s=61)
    claim = StateLock(tmp_path)
    claim.check()
    assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    claim.release()


def test_an_owner_elsewhere_is_taken_over_after_the_silence_only(tmp_path):
    owner = elsewhere(tmp_path, age_s=0)
    last_beat_s = owner.stat().st_mtime
    claim = StateLock(tmp_path, silence_s=0.5)
    assert owner.stat().st_mtime - last_beat_s >= 0.5
    claim.release()


def owner_of(directory):
    """The process that holds the directory, by its owner file."""
    return json.loads((directory / "owner.json").read_text())["pid"]


def test_an_owner_elsewhere_whose_clock_is_ahead_is_waited_for_no_longer_than_the_silence(tmp_path):
    elsewhere(tmp_path, age_s=-3600)
    begun_s = time.monotonic()
    claim = StateLock(tmp_path, silence_s=0.3)
    assert 0.3 <= time.monotonic() - begun_s < 60
    assert owner_of(tmp_path) == os.getpid()
    claim.release()


def test_a_live_owner_elsewhere_is_named_and_left_alone(tmp_path):
    owner = elsewhere(tmp_path, age_s=0)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.02):
            os.utime(owner)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(StateDirectoryError, match="pid 4711 on node12"):
            StateLock(tmp_path, silence_s=5)
    finally:
        stop.set()
        heart.join()
    assert json.loads(owner.read_text())["nonce"] == "n"


def test_an_owner_elsewhere_who_releases_the_directory_is_not_waited_for(tmp_path):
    owner = elsewhere(tmp_path, age_s=0)
    threading.Timer(0.1, owner.unlink).start()
    begun_s = time.monotonic()
    claim = StateLock(tmp_path, silence_s=600)
    assert time.monotonic() - begun_s < 120
    assert owner_of(tmp_path) == os.getpid()
    claim.release()


def test_an_unreadable_owner_file_is_treated_as_another_hosts(tmp_path):
    owner = elsewhere(tmp_path, age_s=61)
    owner.write_text("{")
    os.utime(owner, (time.time() - 61,) * 2)
    claim = StateLock(tmp_path)
    assert owner_of(tmp_path) == os.getpid()
    claim.release()


def test_the_heartbeat_goes_on_by_itself(tmp_path):
    claim = StateLock(tmp_path, silence_s=0.12)
    owner = tmp_path / "owner.json"
    os.utime(owner, (1, 1))
    deadline_s = time.monotonic() + 10
    while owner.stat().st_mtime < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    claim.release()


def test_a_daemon_that_was_taken_over_writes_no_more_and_leaves_the_new_owner_alone(make_scene):
    stopped_s = [0.0]
    scene = make_scene(clock=lambda: time.monotonic() + stopped_s[0])
    journal = scene.journal
    journal.begin()
    scene.append(scene.notice())
    elsewhere(scene.directory, age_s=0)
    # As after a long stop of the process: no heartbeat for more than half the silence.
    stopped_s[0] = 31.0
    with pytest.raises(JournalError, match="taken over"):
        journal.commit()
    with pytest.raises(JournalError, match="taken over"):
        journal.begin()
    journal.close()
    assert json.loads((scene.directory / "owner.json").read_text())["nonce"] == "n"
    (scene.directory / "owner.json").unlink()
    assert scene.reopen() is not None
    assert scene.events() == []


@pytest.mark.parametrize("locking", ["unsupported", "granted twice"])
def test_a_file_system_without_working_locks_is_refused(tmp_path, monkeypatch, locking):
    def flock(descriptor, operation):
        if locking == "unsupported":
            raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(StateDirectoryError, match="locks do not work"):
        Journal.open(tmp_path, history_bytes=1)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match=str(tmp_path / "file")):
        Journal.open(tmp_path / "file" / "state", history_bytes=1)
