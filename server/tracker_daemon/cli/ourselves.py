"""Our own command line, to start a daemon with, or this command again."""

from __future__ import annotations

import os
import sys


def ourselves() -> tuple[str, ...]:
    """Return the interpreter and the module, without the command's name."""
    # -P (since 3.11) keeps the working directory, a training script's, from shadowing modules.
    safe = ("-P",) if sys.version_info >= (3, 11) else ()
    # Names of files are UTF-8, as in the protocol, whatever the locale is.
    return sys.executable, *safe, "-X", "utf8", "-m", "tracker_daemon"


def run_in_utf8() -> None:
    """Replace this process by the same command in UTF-8, if Python takes names of files for something else.

    In an ASCII locale, say, a path in UTF-8 would be no valid text here, and no table could be printed.
    """
    if sys.getfilesystemencoding() == "utf-8" or sys.flags.utf8_mode:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    command = (*ourselves(), *sys.argv[1:])
    os.execv(command[0], command)  # noqa: S606 - our own command line
