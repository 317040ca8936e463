"""How a daemon's backends are found: ids, names and addresses, asked for when somebody reads one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tracker_client.values.refusals import Refusals


@dataclass(frozen=True)
class HandlesRequest:
    """Ask the daemon for a backend's handles."""

    backend: str


@dataclass(frozen=True)
class HandlesAnswer:
    """What the daemon says of a backend; ``problem``: why there is nothing to say for a while."""

    backend: str
    handles: Mapping[str, str]
    problem: str = ""


class Handles:
    """What the daemon has told of its backends. ``ask`` hands a question to the sender.

    A question stays open at the daemon, which also tells what changes. The first reading of a backend's
    handles waits for the answer, ``timeout_s`` at most; later ones wait only for what is left of that.
    """

    def __init__(self, ask: Callable[[HandlesRequest], None], timeout_s: float, refusals: Refusals) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._refusals = refusals
        self._changed = threading.Condition()
        self._told: dict[str, HandlesAnswer] = {}
        self._asked: list[str] = []
        self._deadlines: dict[str, float] = {}

    def read(self, backend: str) -> Mapping[str, str]:
        """The backend's handles; empty, with a warning, where there are none to be had."""
        self.ask_for(backend)
        with self._changed:
            deadline = self._deadlines.setdefault(backend, time.monotonic() + self._timeout_s)
            self._changed.wait_for(lambda: backend in self._told, max(0.0, deadline - time.monotonic()))
            told = self._told.get(backend)
        if told is not None and told.handles:
            return told.handles
        problem = told.problem if told is not None else ""
        reason = problem or f"the daemon did not tell within {self._timeout_s:g} s"
        self._refusals.warn_once(f"{backend}'s id, url and the like", f"they are None for now: {reason}")
        return {}

    def ask_for(self, backend: str) -> None:
        """Ask for what may be read later, so that it is there even after the end."""
        with self._changed:
            new = backend not in self._asked
            if new:
                self._asked.append(backend)
        if new:
            self._ask(HandlesRequest(backend))

    # ---- the sender's thread ---------------------------------------------------------------------

    def tell(self, told: HandlesAnswer) -> None:
        """The daemon has answered."""
        with self._changed:
            self._told[told.backend] = told
            self._changed.notify_all()

    @property
    def asked(self) -> list[str]:
        """The backends that were asked for, which each new connection asks for again."""
        with self._changed:
            return list(self._asked)
