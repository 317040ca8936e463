"""Handles of the daemon's backends: ids, names and addresses, requested when the script reads one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tracker_client.values.refusals import Refusals


@dataclass(frozen=True)
class HandlesRequest:
    """A request to the daemon for a backend's handles."""

    backend: str


@dataclass(frozen=True)
class HandlesAnswer:
    """The handles of a backend, by name, as far as they are known.

    ``problem``: why others are missing at present; "" if nothing is wrong. ``complete``: there are no others.
    """

    backend: str
    handles: Mapping[str, str]
    problem: str = ""
    complete: bool = False


class Handles:
    """The handles that the daemon has sent, by backend.

    ``ask`` gives a request to the sender. The daemon answers a request, and sends a further answer whenever
    the handles change. The first read of a backend's handle waits up to ``timeout_s`` for it; later reads
    wait for the rest of that time. A handle that is known stays known, whatever happens to the backend; those
    that are ``given`` by the script are known from the beginning.
    """

    def __init__(
        self,
        ask: Callable[[HandlesRequest], None],
        timeout_s: float,
        refusals: Refusals,
        given: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._given = given or {}
        self._ask = ask
        self._timeout_s = timeout_s
        self._refusals = refusals
        self._changed = threading.Condition()
        self._answers: dict[str, HandlesAnswer] = {}
        self._asked: list[str] = []
        self._deadlines: dict[str, float] = {}

    def read(self, backend: str, wanted: str) -> str | None:
        """Return one of the backend's handles; None if it has no such handle, or, with a warning, not yet."""
        self.ask_for(backend)
        with self._changed:
            deadline = self._deadlines.setdefault(backend, time.monotonic() + self._timeout_s)
            self._changed.wait_for(
                lambda: self._is_settled(backend, wanted), max(0.0, deadline - time.monotonic())
            )
            answer = self._answer(backend)
        found = answer.handles.get(wanted)
        if found is None and not answer.complete:
            reason = answer.problem or f"the daemon did not send it within {self._timeout_s:g} s"
            self._refusals.warn_once(f"{backend} {wanted}", f"it is None for now: {reason}")
        return found

    def _answer(self, backend: str) -> HandlesAnswer:
        answer = self._answers.get(backend)
        return HandlesAnswer(backend, self._given.get(backend, {})) if answer is None else answer

    def _is_settled(self, backend: str, wanted: str) -> bool:
        """Return True if waiting cannot bring the handle ``wanted``, or it is there."""
        answer = self._answer(backend)
        return wanted in answer.handles or answer.complete or bool(answer.problem)

    def is_given(self, backend: str) -> bool:
        """Return True if the script itself gives a handle of this backend."""
        return backend in self._given

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
        """Add an answer of the daemon to what is known, and wake the threads that wait for it."""
        with self._changed:
            known = self._answer(answer.backend)
            self._answers[answer.backend] = replace(
                answer,
                handles={**known.handles, **answer.handles},
                complete=known.complete or answer.complete,
            )
            self._changed.notify_all()

    @property
    def asked(self) -> list[str]:
        """The backends whose handles were requested; each new connection requests them again."""
        with self._changed:
            return list(self._asked)
