"""The ownership of a state directory: a lock for processes of one host, an owner file for other hosts.

``<state>/lock`` is flock'ed as long as the daemon lives. The kernel releases the lock whenever and however
the process ends. On a network file system the lock may not reach other hosts. Therefore
``<state>/owner.json`` names the holder (host, boot id, pid, nonce), and its modification time is the
holder's heartbeat. Every time is the file system's own: a touched file's mtime is compared with another
file's mtime, never with this host's clock.

* Same boot id: both processes run under one kernel, and the flock alone decides.
* Another boot id: the owner file must be unchanged for the silence (60 s) before another daemon replaces the
  holder. A holder that was stopped for that long reads the owner file before it commits again
  (:meth:`StateLock.check`), and finds another daemon's name there.

A forked child would share the flock, so children are started by exec, which closes the descriptor.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tracker_daemon.errors import StateDirectoryError, StateDirectoryHeld

SILENCE_S = 60.0
"""Seconds for which another host's owner file must be unchanged before another daemon replaces that owner."""
_POLL_S = 1.0
_GONE_S = 0.0
"""Stands for the modification time of an owner file that its holder removed to release the directory."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a state directory."""

    host: str
    boot_id: str
    pid: int
    nonce: str

    @staticmethod
    def this_process() -> Owner:
        """Return this process as an owner, with a new nonce."""
        return Owner(platform.node(), _boot_id(), os.getpid(), secrets.token_hex(16))

    @staticmethod
    def read(path: Path) -> Owner | None:
        """Return the owner that the file names; None without a file, an unknown owner if it is unreadable."""
        try:
            found = json.loads(path.read_text())
            return Owner(str(found["host"]), str(found["boot_id"]), int(found["pid"]), str(found["nonce"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return Owner("an unknown host", "", 0, "")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        # Not Linux: the host's name replaces the boot id. After a restart it is the same, so nobody waits.
        return f"host:{platform.node()}"


class StateLock:
    """The claim on one state directory; a thread touches the owner file to keep the claim."""

    def __init__(
        self, directory: Path, *, silence_s: float = SILENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Claim ``directory``; waits up to ``silence_s`` for a holder on another host to end.

        Raises:
            StateDirectoryError: a live daemon holds it (named by host and pid), or locks do not work there.
        """
        self._owner_path = directory / "owner.json"
        self._silence_s = silence_s
        self._clock = clock
        self._owner = Owner.this_process()
        self._lost = False
        self._last_beat_s = 0.0
        self._stopping = threading.Event()
        self._descriptor = _open_lock(directory / "lock")
        try:
            self._claim(directory)
        except BaseException:  # whatever it was: clean up, and raise it again
            os.close(self._descriptor)
            raise
        self._heart = threading.Thread(target=self._keep_alive, name="state-lock", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raise StateDirectoryError unless the directory is certainly still ours. Rarely reads a file."""
        if self._lost:
            raise StateDirectoryError(f"{self._owner_path} names another daemon: this one was taken over")
        if self._clock() - self._last_beat_s > self._silence_s / 2:
            try:
                self.beat()
            except OSError as error:
                raise StateDirectoryError(
                    f"cannot find out whether {self._owner_path} is ours: {error}"
                ) from error

    def beat(self) -> None:
        """Touch the owner file, after a check that it is ours."""
        begun_s = self._clock()
        found = Owner.read(self._owner_path)
        if found is None or found.nonce != self._owner.nonce:
            self._lost = True
            raise StateDirectoryError(f"{self._owner_path} names another daemon: this one was taken over")
        os.utime(self._owner_path)
        self._last_beat_s = begun_s

    def release(self) -> None:
        """Release the directory, so that another host need not wait. A second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._heart.join()
        with suppress(OSError):
            found = Owner.read(self._owner_path)
            if found is not None and found.nonce == self._owner.nonce:
                self._owner_path.unlink()
        os.close(self._descriptor)

    def _claim(self, directory: Path) -> None:
        _lock_or_refuse(self._descriptor, directory, self._owner_path)
        _demand_working_locks(directory)
        try:
            previous = Owner.read(self._owner_path)
            if previous is not None and previous.boot_id != self._owner.boot_id:
                self._await_silence(directory, previous)
            self._write_owner()
        except OSError as error:
            raise StateDirectoryError(f"cannot use {self._owner_path}: {error}") from error

    def _await_silence(self, directory: Path, previous: Owner) -> None:
        """Return once the owner file was unchanged for the silence, or is removed."""
        heartbeat_s = _modified_s(self._owner_path)
        watched_until_s = self._clock() + self._silence_s
        while heartbeat_s != _GONE_S:
            os.utime(self._descriptor)
            silent_s = os.fstat(self._descriptor).st_mtime - heartbeat_s
            # To watch it for that long is enough as well: the file's time may be in the future.
            if silent_s >= self._silence_s or self._clock() >= watched_until_s:
                return
            time.sleep(min(_POLL_S, self._silence_s / 10))
            before_s, heartbeat_s = heartbeat_s, _modified_s(self._owner_path)
            if heartbeat_s not in {before_s, _GONE_S}:
                raise _held(directory, previous)

    def _write_owner(self) -> None:
        temporary = self._owner_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self._owner)))
        temporary.replace(self._owner_path)
        self._last_beat_s = self._clock()

    def _keep_alive(self) -> None:
        while not self._stopping.wait(self._silence_s / 6):
            # If ownership is lost, check() raises in the thread that writes. After an OSError (a network
            # file system fails for a moment) check() decides whether that lasts too long.
            with suppress(StateDirectoryError, OSError):
                self.beat()


def foreign_holder(directory: Path, silence_s: float = SILENCE_S) -> Owner | None:
    """Return the owner on another host that was active in ``directory`` within ``silence_s``, or None.

    Such an owner may hold the directory.

    Raises:
        StateDirectoryError: the directory cannot be used.
    """
    owner = Owner.read(directory / "owner.json")
    if owner is None or owner.boot_id == _boot_id():
        return None
    descriptor = _open_lock(directory / "lock")
    try:
        os.utime(descriptor)  # the file system's own clock
        silent_s = os.fstat(descriptor).st_mtime - _modified_s(directory / "owner.json")
    finally:
        os.close(descriptor)
    return owner if silent_s < silence_s else None


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateDirectoryError(f"cannot open {path}: {error}") from error


def _lock_or_refuse(descriptor: int, directory: Path, owner_path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(directory, Owner.read(owner_path)) from error
    except OSError as error:
        raise _unlockable(directory, str(error)) from error


def _demand_working_locks(directory: Path) -> None:
    """Ask for the lock a second time: a file system that grants it has no working locks."""
    second = _open_lock(directory / "lock")
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError as error:
        raise _unlockable(directory, str(error)) from error
    finally:
        os.close(second)
    raise _unlockable(directory, "a lock that is held was granted again")


def _modified_s(path: Path) -> float:
    """Return a file's mtime. The file is opened first: on NFS only that fetches the present time."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return _GONE_S


def _held(directory: Path, owner: Owner | None) -> StateDirectoryHeld:
    holder = f"pid {owner.pid} on {owner.host}" if owner else "another process"
    return StateDirectoryHeld(
        f"the state directory {directory} is in use by the tracker-daemon with {holder}; "
        "stop that one, or choose another --state-dir"
    )


def _unlockable(directory: Path, why: str) -> StateDirectoryError:
    return StateDirectoryError(
        f"file locks do not work in {directory} ({why}); choose a --state-dir on a file system that has them"
    )
