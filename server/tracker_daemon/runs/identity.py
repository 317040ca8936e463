"""The run that a process joins, among the runs of its launch. Pure.

A run id decides alone. Without one, the candidates are the runs with the launch key and the run key of the
Hello that this process is not in yet. A candidate *fits* in one of two ways:

* by name: its primary rank gave the same project and name. Of several, that of the lowest ordinal counts;
* by order: it is the same set-up call of its process, counted from 0, whatever names were given.

So ranks with a name of their own each (``name=f"run-{time.time()}"``) meet by order, and ranks that make
several trackers in different orders meet by name.

A run all of whose ranks have ended is not reopened by accident: the next trial of a loop is a run of its own.
There are two ways back into such a run:

* Torchrun starts its ranks again. Either it counts a restart, or an agent that has started ranks of the
  failed run before has started this one, or lives on this host: then the number of nodes has changed, which
  torchrun does not count.
* A rank had never connected. Its values are delivered, and the run stays ended. If the process began before
  the run's end, it belongs to the run for sure. If not, it may belong to a later launch with the same key. So
  the primary rank never joins then, and other ranks do so only if no primary rank opens a run for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from tracker_daemon.runs.run import Run
from tracker_protocol.v1 import tracker_pb2 as pb

_NS_PER_MS = 1_000_000


class Fit(IntEnum):
    """The reason why a run is the one; a lower one wins."""

    RUN_ID = 0
    NAME = 1
    ORDER = 2
    LATE = 3
    """The run has ended without this rank, whose process was there before."""
    LATE_START = 4
    """The run has ended without this rank, whose process began after that."""


@dataclass(frozen=True, slots=True)
class Match:
    """The run that a process joins, and why."""

    run: Run
    fit: Fit

    @property
    def is_late(self) -> bool:
        """True if the rank had never connected, and the run has ended: it stays ended."""
        return self.fit >= Fit.LATE


def match(hello: pb.Hello, runs: Sequence[Run], start_timeout_s: float) -> Match | None:
    """Return the run of a launch that the process of ``hello`` joins; None if no run fits.

    ``runs`` are those of the launch key and run key. A rank that had never connected may join an ended run
    for ``start_timeout_s`` seconds after the run or its attempt began.
    """
    fitting = []
    for run in runs:
        by = _fit(hello, run)
        if by is None or hello.process.id in run.processes:
            continue
        if is_open_for(run, hello.process):
            fitting.append(Match(run, by))
        elif (late := _lateness(hello.process, run, start_timeout_s)) is not None:
            fitting.append(Match(run, late))
    return min(fitting, key=lambda found: (found.fit, found.run.ordinal), default=None)


def is_open_for(run: Run, process: pb.Process) -> bool:
    """Return True if the run is running, or torchrun starts its ranks again."""
    return run.running or run.is_restarted_by(process) or run.is_continued_by(process)


def _fit(hello: pb.Hello, run: Run) -> Fit | None:
    launch = hello.launch
    if (launch.project, launch.name) == run.named:
        return Fit.NAME
    return Fit.ORDER if launch.ordinal == run.ordinal else None


def _lateness(process: pb.Process, run: Run, start_timeout_s: float) -> Fit | None:
    if any(rank == process.rank for _, rank in run.by_rank):
        return None
    if time.monotonic() - run.waiting_since_s >= start_timeout_s:
        return None
    began_ns = time.time_ns() - process.age_ms * _NS_PER_MS
    if process.age_ms and began_ns < run.live.view.ended_ns:
        return Fit.LATE
    return None if process.rank == run.options.primary_rank else Fit.LATE_START


def differing_names(hello: pb.Hello, run: Run) -> str:
    """Return a warning if a rank gave another project or name than the run has; "" if it did not."""
    launch, (project, name) = hello.launch, run.named
    differing = [
        f"{what} {given!r} instead of {counts!r}"
        for what, given, counts in (("project", launch.project, project), ("name", launch.name, name))
        if given and given != counts
    ]
    if not differing:
        return ""
    return (
        f"rank {hello.process.rank} gives the {' and the '.join(differing)}: the ranks of a launch meet in "
        f"one run, and rank {run.options.primary_rank}'s project and name hold. Give all ranks the same, or "
        "tell several runs apart by run_key=…"
    )


def kept_of_opener(hello: pb.Hello, run: Run) -> str:
    """Return a warning if the run began without the primary rank and cannot follow its wishes any more."""
    asked, options = hello.options, run.options
    wishes: Iterable[tuple[str, str, str]] = (
        ("project", hello.launch.project, run.row.project),
        ("name", hello.launch.name, run.row.name),
        ("backends", asked.backends, options.backends),
        ("outdir", asked.outdir, options.outdir),
    )
    kept = [f"{what} {has!r}" for what, wish, has in wishes if wish and wish != has]
    if not kept:
        return ""
    return (
        f"run {run.run_id} began without rank {options.primary_rank}, which came too late to decide: it "
        f"keeps its {', '.join(kept)}"
    )
