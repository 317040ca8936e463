"""The exit status of a script that does not call finish(), as a daemon on its host reads it."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import atexit, os, signal, sys, threading
from tracker_client.trackers.exit_code import exit_status_file, uncaught_code
def end():
    file = exit_status_file()
    assert exit_status_file() is file
    print(uncaught_code(), file.descriptor, file.nonce.hex(), flush=True)
    sys.stdin.readline()
atexit.register(end)
{}
"""
ENDS = {
    "by itself": ("pass", None, 0),
    "an exception": ("raise ValueError", 1, 1),
    "sys.exit": ("sys.exit(3)", None, 3),
    "exit": ("exit(1)", None, 1),
    "quit": ("quit(1)", None, 1),
    "SystemExit": ("raise SystemExit(3)", None, 3),
    "sys.exit without a code": ("sys.exit()", None, 0),
    "sys.exit with a text": ("sys.exit('it failed')", None, 1),
    "sys.exit(-1), which the kernel cuts": ("sys.exit(-1)", None, 255),
    "a caught sys.exit": ("try: sys.exit(1)\nexcept SystemExit: pass", None, 0),
    "a thread's sys.exit": ("t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()", None, 0),
    "Ctrl-C": (  # Python sets no handler where it is begun in the background of a script
        "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
        130,
        None,
    ),
    "a handler of SIGTERM": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); os.kill(os.getpid(), signal.SIGTERM)",
        None,
        143,
    ),
    "os._exit in a later handler": ("atexit._run_exitfuncs(); os._exit(3)", None, None),
    "an exception of an interactive session": ("sys.ps1, sys.last_type = '> ', ValueError", None, 0),
}


def run(statement):
    """Return the code that the exit handler knew, the status in the file, and the process's own status."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(statement)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    known, descriptor, nonce = process.stdout.readline().split()
    file = os.open(f"/proc/{process.pid}/fd/{descriptor}", os.O_RDONLY)
    try:
        process.communicate("\n", timeout=60)
        content = os.pread(file, 100, 0)
    finally:
        os.close(file)
    assert content.startswith(bytes.fromhex(nonce))
    written = content.removeprefix(bytes.fromhex(nonce))
    return None if known == "None" else int(known), written[0] if written else None, process.returncode


@pytest.mark.skipif(sys.platform != "linux", reason="another C library has no on_exit")
@pytest.mark.parametrize("how", ENDS)
def test_the_status_that_the_kernel_reports_is_in_the_file_after_the_end(how):
    statement, known, written = ENDS[how]
    known_to_handler, in_file, status = run(statement)
    assert (known_to_handler, in_file) == (known, written)
    assert written in (None, status)


def test_sys_exit_is_not_replaced():
    script = "import sys; before = sys.exit; from tracker_client import NullTracker as N; N(); "
    script += "print(sys.exit is before)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "True\n"


@pytest.mark.parametrize("lacks", ["ctypes", "on_exit"])
def test_without_the_means_the_status_is_unknown_and_nothing_is_raised(lacks):
    script = f"""
import sys, types
from tracker_client.trackers.exit_code import exit_status_file
sys.modules["ctypes"] = None if {lacks!r} == "ctypes" else types.SimpleNamespace(
    CDLL=lambda *_, **__: types.SimpleNamespace(), c_int=0, c_char_p=0, c_void_p=0, c_size_t=0)
print(exit_status_file())
"""
    shown = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert shown == "ExitStatusFile(descriptor=0, nonce=b'')\n"
