"""The code with which the interpreter ends, for scripts that do not call ``finish``.

An exit handler then finishes the tracker. An uncaught exception has left its type behind. Otherwise the code
is not known yet: Python hides the code of a ``SystemExit`` from exit handlers. The C library knows it. So the
handler opens a file in memory, and registers a function of the GNU C library (``on_exit``) that writes the
status to it when the process ends. A daemon on this host opens the file through /proc before that, and reads
the status afterwards. No Python code runs at that time.

The status stays unknown with another C library, and if ``os._exit`` or a signal ends the process.
"""

from __future__ import annotations

import os
import secrets
import sys
from typing import Any

from tracker_client.values.arguments import INTERRUPTED
from tracker_client.values.exit_status import ExitStatusFile

_NONCE_BYTES = 16
_UNBUFFERED = 2
"""stdio's _IONBF."""


_opened: list[ExitStatusFile] = []


def uncaught_code() -> int | None:
    """Return the code of the exception that ends the script; None if there is none."""
    kind = getattr(sys, "last_type", None)  # CPython 3.12 still sets it, beside last_exc
    if kind is None or hasattr(sys, "ps1"):  # an exception does not end an interactive session
        return None
    return INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1


def exit_status_file() -> ExitStatusFile:
    """Return the file that this process's exit status is written to; only for exit handlers."""
    if not _opened:
        _opened.append(_open())
    return _opened[0]


def _open() -> ExitStatusFile:
    try:
        return _opened_by(*_c_library())
    except (ImportError, AttributeError, OSError):  # no ctypes, no on_exit, or no file in memory
        return ExitStatusFile()


def _c_library() -> tuple[Any, Any]:
    """Return the C library with the types of the functions used here, and the address of ``fputc``."""
    import ctypes  # noqa: PLC0415 - only a script without finish() needs it, and only at its exit

    library = ctypes.CDLL(None, use_errno=True)
    library.fdopen.argtypes, library.fdopen.restype = (ctypes.c_int, ctypes.c_char_p), ctypes.c_void_p
    library.setvbuf.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t)
    library.on_exit.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    return library, ctypes.cast(library.fputc, ctypes.c_void_p)


def _opened_by(library: Any, fputc: Any) -> ExitStatusFile:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    descriptor = os.memfd_create("tracker-exit-status", os.MFD_CLOEXEC)
    os.write(descriptor, nonce)
    stream = library.fdopen(descriptor, b"w")
    if not stream:
        raise OSError("no stream for the exit status")
    library.setvbuf(stream, None, _UNBUFFERED, 0)
    if library.on_exit(fputc, stream):  # calls fputc(status, stream)
        raise OSError("no handler for the exit status")
    return ExitStatusFile(descriptor, nonce)
