"""Our own command line, to start a daemon with."""

from __future__ import annotations

import sys


def ourselves() -> tuple[str, ...]:
    """Return the interpreter and the module, without the command's name."""
    # -P (since 3.11) keeps the working directory, a training script's, from shadowing modules.
    safe = ("-P",) if sys.version_info >= (3, 11) else ()
    # Names of files are UTF-8, as in the protocol, whatever the locale is.
    return sys.executable, *safe, "-X", "utf8", "-m", "tracker_daemon"
