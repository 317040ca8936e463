"""The user's command as a foreground job of this process.

The command runs in a process group of its own: signals reach all of the command, and not the daemon. If
this process has the terminal, the command gets it while it runs, as from a shell. Ctrl-C and Ctrl-Z then
go to the command, and it may read from the terminal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tracker_daemon.errors import CommandNotExecutable, CommandNotFound

# Python ignores these; a program that was started by a shell would not.
DEFAULT_ACTIONS = (signal.SIGPIPE, signal.SIGXFSZ)


class CommandGroup:
    """A running command, its process group and, perhaps, the terminal."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start ``argv`` (see :func:`find_program`) in the current directory."""
        self._terminal = _our_terminal()
        try:
            self._pid = os.posix_spawnp(
                argv[0], list(argv), dict(environ), setpgroup=0, setsigdef=DEFAULT_ACTIONS
            )
        except OSError as error:
            self._release_terminal()
            raise _not_started(argv[0], error) from None
        self._give_terminal()

    @property
    def pid(self) -> int:
        """The command's process, and its process group."""
        return self._pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the group that are still running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)

    def poll(self) -> int | None:
        """Return the exit status as a shell counts it (128 + N for signal N); None while it runs.

        If the command was stopped (Ctrl-Z), this process stops too, until it is continued.
        """
        pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
        if not pid:
            return None
        if os.WIFSTOPPED(status):
            self._stop_with_it()
            return None
        self._take_terminal()
        self._release_terminal()
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _stop_with_it(self) -> None:
        if self._terminal is None:
            return  # no shell waits for this process, so nobody needs to learn of the stop
        self._take_terminal()
        os.killpg(os.getpgrp(), signal.SIGSTOP)  # the shell sees its job stop; it wakes all of it
        if _foreground_group(self._terminal) == os.getpgrp():  # not after "bg"
            self._give_terminal()
        self.send(signal.SIGCONT)

    def _give_terminal(self) -> None:
        if self._terminal is not None:
            self._set_foreground(self._pid)
            # The command may have been stopped for using the terminal before it owned it.
            self.send(signal.SIGCONT)

    def _take_terminal(self) -> None:
        if self._terminal is not None and _foreground_group(self._terminal) == self._pid:
            self._set_foreground(os.getpgrp())

    def _set_foreground(self, group: int) -> None:
        assert self._terminal is not None
        # The terminal or the group may be gone; both are noticed elsewhere.
        with _background_writes_allowed(), contextlib.suppress(OSError):
            os.tcsetpgrp(self._terminal, group)

    def _release_terminal(self) -> None:
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None


def find_program(name: str, path: str | None) -> None:
    """Check that the program can be started, before anything else starts.

    Raises:
        CommandNotFound: no such file, nor any on ``path``.
        CommandNotExecutable: there is one, and it may not be executed.
    """
    if shutil.which(name, path=path):
        return
    if os.sep in name and _may_be_there(Path(name)):
        raise CommandNotExecutable(_NOT_EXECUTABLE.format(name))
    raise CommandNotFound(_NOT_FOUND.format(name))


def _may_be_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # a directory on the way is closed to this user
        return True


_NOT_FOUND = "the command {!r} is not found: neither a file nor on PATH"
_NOT_EXECUTABLE = "the command {!r} cannot be executed: is it a program, with permission to run?"


def _not_started(name: str, error: OSError) -> CommandNotFound | CommandNotExecutable:
    if isinstance(error, FileNotFoundError):  # a script whose interpreter is missing, too
        return CommandNotFound(f"the command {name!r} cannot be started: it or its interpreter is not found")
    return CommandNotExecutable(_NOT_EXECUTABLE.format(name) + f" ({error.strerror})")


def _our_terminal() -> int | None:
    """Return the controlling terminal if this process is in its foreground group; else None."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    if _foreground_group(terminal) == os.getpgrp():
        return terminal
    os.close(terminal)
    return None


def _foreground_group(terminal: int) -> int | None:
    try:
        return os.tcgetpgrp(terminal)
    except OSError:  # the terminal was closed under us
        return None


@contextlib.contextmanager
def _background_writes_allowed() -> Iterator[None]:
    # A background group that sets the terminal's foreground would be stopped by SIGTTOU.
    previous = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTTOU, previous)
