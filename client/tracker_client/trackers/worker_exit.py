"""The end of a worker of ``multiprocessing``, which ends without ``atexit`` functions.

A worker runs the finalizers of ``multiprocessing.util`` when its function has ended, while the function's
exception, if there is one, is still on its way. Then the worker waits for its threads, and ends without exit
functions. Pools, ``ProcessPoolExecutor``, ``torch.multiprocessing`` and joblib all have such workers.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from tracker_client.values.arguments import exit_code_of

_RUN_LAST = -1_000
"""The finalizer's priority: others may still log."""
_watched_in: int | None = None


def watch_worker_exit(end: Callable[[int], None]) -> None:
    """In a worker, have ``end`` called with the exit code once its function and its threads have ended."""
    global _watched_in  # noqa: PLW0603 - one finalizer serves all trackers of the process
    process = sys.modules.get("multiprocessing.process")  # every worker has imported it
    if process is None or process.parent_process() is None or _watched_in == os.getpid():
        return
    _watched_in = os.getpid()  # a forked worker of this worker watches for itself
    from multiprocessing.util import Finalize  # noqa: PLC0415 - only workers have imported it

    Finalize(None, _function_ended, args=(end,), exitpriority=_RUN_LAST)


def _function_ended(end: Callable[[int], None]) -> None:
    code = exit_code_of(sys.exc_info()[1])
    others = [thread for thread in threading.enumerate() if _keeps_worker(thread)]
    if not others:
        end(code)
        return

    # The worker waits for its threads, this one too, after it has told them that it ends.
    def end_after_others() -> None:
        for thread in others:
            thread.join()
        end(code)

    threading.Thread(target=end_after_others, name="tracker-worker-exit", daemon=False).start()


def _keeps_worker(thread: threading.Thread) -> bool:
    return thread.is_alive() and not thread.daemon and thread is not threading.current_thread()
