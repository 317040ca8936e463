"""How a script's end is told at the interpreter's exit."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, os, signal, sys, threading
from tracker_client.trackers.exit_code import exit_code_so_far, watch_exit
atexit.register(lambda: os.write(1, str(exit_code_so_far()).encode()))
watch_exit()
watch_exit()
{}
"""
ENDS = {
    "by itself": ("pass", 0),
    "an exception": ("raise ValueError", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "sys.exit without a code": ("sys.exit()", 0),
    "sys.exit with a text": ("sys.exit('it failed')", 1),
    "a thread's sys.exit": ("t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()", 0),
    "Ctrl-C": (  # Python sets no handler where it is begun in the background of a script
        "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
        130,
    ),
    "a handler of SIGTERM": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); os.kill(os.getpid(), signal.SIGTERM)",
        143,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_exit_handlers_know_the_code(how):
    statement, code = ENDS[how]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(statement)], capture_output=True, text=True, check=False
    )
    assert process.stdout == str(code)
    if how != "Ctrl-C":
        assert process.returncode == code
