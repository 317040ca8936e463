"""Interrupts a call at each of its opcodes, as a signal handler may."""

from __future__ import annotations

import inspect
import sys
import threading

PATIENCE_S = 20.0


def at_each_opcode(action, handler, *, within="tracker_client"):
    """Yield the number of the opcode, once ``action`` was run and ``handler`` has interrupted it there.

    Opcodes of the package ``within`` count. Begins again for each opcode, until ``action`` has no more.
    """
    number = 0
    while _interrupted(action, handler, within, number):
        yield number
        number += 1
    assert number, "the action has no opcode of that package"


def _interrupted(action, handler, within, number):
    seen, fired = 0, False

    def trace(frame, event, _):
        nonlocal seen, fired
        if f"/{within}/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if seen == number:
                fired = True
                handler()
            seen += 1
        return trace

    before = sys.gettrace()
    # Python 3.12 looks for opcodes only if some frame has asked for them before settrace.
    inspect.currentframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return fired


def in_a_thread(action):
    """Run ``action`` in another thread, as the sender's, to its end; fail if it waits for this thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(action()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "it waits for the call that was interrupted"
    return found[0]
