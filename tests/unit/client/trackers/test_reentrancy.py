"""Whatever a call interrupts, it waits for no lock: signal handlers, finalizers and callbacks may log."""

import subprocess
import sys

import pytest

from tests.support.interruptions import at_each_opcode, in_a_thread
from tests.unit.client.trackers.test_remote_tracker import run_script, series
from tracker_client.staging.items import ItemDraft, ItemQueue
from tracker_client.values.refusals import Refusals


def test_a_refusal_that_is_interrupted_anywhere_is_counted_and_warned_about():
    texts, refusals = [], None

    def refuse():
        nonlocal refusals
        texts.clear()
        refusals = None
        refusals = Refusals(warn=texts.append)
        refusals.refuse_each([("a", "first"), ("b", "second")])

    def handler():
        if refusals is not None:
            in_a_thread(lambda: refusals.refuse("c", "third"))
            refusals.refuse("d", "fourth")
            refusals.warn_once("e", "fifth")

    for _ in at_each_opcode(refuse, handler):
        assert refusals.count in (2, 4)
        assert len(texts) == (2 if refusals.count == 2 else 5)


def test_items_announced_by_a_handler_are_bounded_and_none_is_lost():
    queue, kept = None, []

    def draft(key):
        return ItemDraft("image", key, 1, 1, "x" * 100, ())

    def announce():
        nonlocal queue
        queue, kept[:] = None, []
        queue = ItemQueue()
        if queue.announce(draft("outer")):
            kept.append("outer")

    def handler():
        if queue is not None and queue.announce(draft("inner")):
            kept.append("inner")
            placed.extend(in_a_thread(lambda: queue.place(10, 0, None)))

    placed = []
    for _ in at_each_opcode(announce, handler):
        placed += queue.place(10, 0, None)
        assert sorted(item.key for item in placed) == sorted(kept)
        assert queue.announce(draft("x")), "the room is free again"
        placed.clear()


HANDLED_CALLS = """
    import signal, sys, time
    from tracker_client import setup_tracker
    tracker = setup_tracker("signals", buffer_bytes=1 << 20)
    fired = 0
    png = b"\\x89PNG\\r\\n\\x1a\\n"
    def handler(*_):
        global fired
        fired += 1
        tracker.log({"handled": float(fired)})
        tracker.log({"figure": object(), "text": "x"})
        tracker.log_config({"fired": fired})
        if fired % 100 == 0:
            tracker.log_table("table", ["a"], [[fired]])
            tracker.log_image("image", png)
            tracker.status()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
    step = 0
    while fired < 1000:
        tracker.log({"loss": float(step), "figure": object()}, step=step)
        tracker.log({f"m{i}": 1.0 for i in range(70)}, step=step)
        if step % 50 == 0:
            tracker.log_image("image", png)
            tracker.log_table("table", ["a"], [[step]])
        step += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    tracker.finish()
    status = tracker.status()
    print(fired, status.state, status.buffered_points)
"""


def test_a_handler_that_fires_a_thousand_times_in_a_busy_loop_never_waits(daemon):
    done = run_script(daemon, HANDLED_CALLS, timeout=120)
    assert done.returncode == 0, done.stderr
    fired, *rest = done.stdout.split()
    assert int(fired) >= 1000
    assert rest == ["finished", "0"]


def test_a_handler_that_finishes_ends_the_run_whatever_it_interrupts(daemon):
    script = """
        import os, signal, sys, threading, time
        from tracker_client import setup_tracker
        tracker = setup_tracker("finish", buffer_bytes=1 << 20)
        def handler(*_):
            begin = time.monotonic()
            tracker.finish()
            print(tracker.status().state, time.monotonic() - begin < 20)
            sys.exit(0)
        signal.signal(signal.SIGTERM, handler)
        tracker.run_id
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        while True:
            tracker.log({f"m{i}": 1.0 for i in range(64)})
            tracker.log({"figure": object()})
    """
    done = run_script(daemon, script)
    assert done.stdout.split() == ["finished", "True"], done.stderr
    assert done.returncode == 0


def test_finalizers_weak_references_and_exit_functions_may_log(daemon):
    script = """
        import atexit, faulthandler, gc, os, signal, time, weakref
        from tracker_client import setup_tracker
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, file=open("/dev/null", "w"), all_threads=False)
        tracker = setup_tracker("finalizers")
        atexit.register(lambda: tracker.log({"after": 1.0}))
        finalized = []
        class Finalized:
            def __del__(self):
                tracker.log({"finalized": 1.0})
                tracker.log({"finalized": None})
                finalized.append(True)
        class Referred:
            pass
        for number in range(2000):
            one, other = Finalized(), Referred()
            one.itself = one  # the collector finalizes it, in the midst of any allocation
            reference = weakref.ref(other, lambda _: tracker.log({"referred": 1.0}))
            del one, other
            tracker.log({"loss": float(number)})
            os.kill(os.getpid(), signal.SIGUSR1)
        while len(finalized) < 2000:  # another thread may be collecting; this call then does nothing
            gc.collect()
            time.sleep(0)
        at_the_end = Finalized()
    """
    done = run_script(daemon, script)
    assert done.returncode == 0, done.stderr
    assert len(series(daemon, "finalized")) == len(series(daemon, "referred")) == 2000
    assert len(series(daemon)) == 2000


def test_a_thread_that_logs_while_the_interpreter_ends_does_not_hold_it_up(daemon):
    script = """
        import threading
        from tracker_client import setup_tracker
        tracker = setup_tracker("frozen", buffer_bytes=1 << 20)
        def log_for_ever():
            while True:
                tracker.log({"loss": 1.0, "figure": object()})
        for _ in range(3):
            threading.Thread(target=log_for_ever, daemon=True).start()
        while not tracker.run_id:
            pass
    """
    for _ in range(3):
        assert run_script(daemon, script).returncode == 0


def test_a_fork_while_other_threads_log_leaves_a_child_that_may_call_anything(daemon):
    script = """
        import faulthandler, os, threading, time
        from tracker_client import setup_tracker
        tracker = setup_tracker("fork", buffer_bytes=1 << 20)
        tracker.run_id
        done = threading.Event()
        def log():
            while not done.is_set():
                tracker.log({f"m{i}": 1.0 for i in range(80)})
                tracker.log({"figure": object()})
                tracker.log_table("t", ["a"], [[1]])
        threads = [threading.Thread(target=log) for _ in range(3)]
        [thread.start() for thread in threads]
        codes = set()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                faulthandler.dump_traceback_later(15, exit=True)
                tracker.log({"a": 1.0, "b": object()})
                tracker.log_table("t", ["a"], [[1]])
                tracker.log_image("i", b"x")
                tracker.status()
                tracker.finish()
                os._exit(0)
            deadline = time.monotonic() + 20
            while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
                assert time.monotonic() < deadline, "the child hangs"
                time.sleep(0.005)
            codes.add(ended[1])
        done.set()
        [thread.join() for thread in threads]
        tracker.finish()
        print(codes)
    """
    done = run_script(daemon, script)
    assert done.stdout.strip() == "{0}", done.stderr


def test_in_one_process_a_handler_may_log_and_finish_too(tmp_path):
    pytest.importorskip("structlog")  # the daemon's packages
    script = f"""
import signal, sys
from tracker_client import setup_tracker
tracker = setup_tracker("p", endpoint="inprocess", backends="csv", outdir={str(tmp_path)!r})
logged = 0
def handler(*_):
    global logged
    tracker.log({{"handled": 1.0, "figure": object()}})
    logged += 1
    if logged == 500:
        signal.setitimer(signal.ITIMER_REAL, 0)
        tracker.finish()
        print(tracker.status().state)
        sys.exit(0)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
while True:
    tracker.log({{"loss": 1.0, "figure": object()}})
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "finished"), done.stderr
    names, *rows = (line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines())
    assert sum(row[names.index("handled")] != "" for row in rows) >= 500
