"""Handles of the daemon's backends: ids, names and addresses, requested when the script reads one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tracker_client.values.refusals import Refusals


@dataclass(frozen=True)
class HandlesRequest:
    """A request to the daemon for a backend's handles."""

    backend: str


@dataclass(frozen=True)
class HandlesAnswer:
    """The handles of a backend, by name; ``problem``: why there are none at present, "" if there are."""

    backend: str
    handles: Mapping[str, str]
    problem: str = ""


class Handles:
    """The handles that the daemon has sent, by backend.

    ``ask`` gives a request to the sender. The daemon answers a request, and sends a further answer whenever
    the handles change. The first read of a backend's handles waits up to ``timeout_s`` for the answer; later
    reads wait for the rest of that time.
    """

    def __init__(self, ask: Callable[[HandlesRequest], None], timeout_s: float, refusals: Refusals) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._refusals = refusals
        self._changed = threading.Condition()
        self._answers: dict[str, HandlesAnswer] = {}
        self._asked: list[str] = []
        self._deadlines: dict[str, float] = {}

    def read(self, backend: str) -> Mapping[str, str]:
        """Return the backend's handles; warn and return an empty mapping if there are none."""
        self.ask_for(backend)
        with self._changed:
            deadline = self._deadlines.setdefault(backend, time.monotonic() + self._timeout_s)
            self._changed.wait_for(lambda: backend in self._answers, max(0.0, deadline - time.monotonic()))
            answer = self._answers.get(backend)
        if answer is not None and answer.handles:
            return answer.handles
        problem = answer.problem if answer is not None else ""
        reason = problem or f"the daemon did not answer within {self._timeout_s:g} s"
        self._refusals.warn_once(f"{backend}'s id, url and the like", f"they are None for now: {reason}")
        return {}

    def ask_for(self, backend: str) -> None:
        """Request the backend's handles once, so that they can be read even after the run's end."""
        with self._changed:
            new = backend not in self._asked
            if new:
                self._asked.append(backend)
        if new:
            self._ask(HandlesRequest(backend))

    # ---- the sender's thread ---------------------------------------------------------------------

    def receive(self, answer: HandlesAnswer) -> None:
        """Store an answer of the daemon, and wake the threads that wait for it."""
        with self._changed:
            self._answers[answer.backend] = answer
            self._changed.notify_all()

    @property
    def asked(self) -> list[str]:
        """The backends whose handles were requested; each new connection requests them again."""
        with self._changed:
            return list(self._asked)
