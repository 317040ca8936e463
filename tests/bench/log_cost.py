"""What ``log()`` of 10 floats costs the training loop, beside the least that could be done.

The least: ``deque.append((step, time.time_ns(), dict(metrics)))``. *Tight* calls it again and again;
*paced* once every 5 ms, as a training step would, with the caches cold and the sender at work.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

from serving import daemon

from tracker_client import setup_tracker

_METRICS = {f"metric_{i}": float(i) for i in range(10)}
_TIGHT_CALLS = 2_000
_TIGHT_ROUNDS = 40
_PACED_CALLS = 400
_PACE_S = 0.005

Log = Callable[[int], None]


def _tight(log: Log, rounds_wanted: int) -> float:
    """Median over rounds of a call's mean time, in nanoseconds; a pause lets the sender catch up."""
    rounds = []
    for _ in range(rounds_wanted):
        time.sleep(0.05)
        begin = time.perf_counter_ns()
        for step in range(_TIGHT_CALLS):
            log(step)
        rounds.append((time.perf_counter_ns() - begin) / _TIGHT_CALLS)
    return statistics.median(rounds)


def _paced(log: Log, calls_wanted: int) -> tuple[float, float]:
    """Median and 99th percentile of single calls, in nanoseconds."""
    calls = []
    for step in range(calls_wanted):
        time.sleep(_PACE_S)
        begin = time.perf_counter_ns()
        log(step)
        calls.append(time.perf_counter_ns() - begin)
    return statistics.median(calls), statistics.quantiles(calls, n=100)[98]


def main(scale: float = 1.0) -> None:
    least: deque[object] = deque()
    metrics, now = _METRICS, time.time_ns
    rounds, calls = max(3, int(_TIGHT_ROUNDS * scale)), max(10, int(_PACED_CALLS * scale))

    def nothing(step: int) -> None:
        pass

    def append(step: int) -> None:
        if step == 0:
            least.clear()  # as the sender does between rounds: both then write to memory out of the cache
        least.append((step, now(), dict(metrics)))

    with daemon("--backends", "none") as (home, _):
        tracker = setup_tracker("bench", endpoint=str(home / "endpoint.json"), rank=0, launch_id="bench")

        def log(step: int) -> None:
            tracker.log(metrics, step=step)

        for name, measure in (("append", append), ("log", log)):
            print(f"{name:7} tight  median {_tight(measure, rounds):8.0f} ns")
            median, high = _paced(measure, calls)
            print(f"{name:7} paced  median {median:8.0f} ns   p99 {high:8.0f} ns")
        loop_ns = _tight(nothing, rounds)
        append_ns, log_ns = _tight(append, rounds) - loop_ns, _tight(log, rounds) - loop_ns
        print(
            f"ratio log / append, tight: {log_ns / append_ns:.2f}  "
            f"({log_ns:.0f} / {append_ns:.0f} ns, without the {loop_ns:.0f} ns of the loop and its call)"
        )
        tracker.finish()
        print(f"dropped: {tracker.status().dropped_points} values")
