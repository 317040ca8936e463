"""A backend that gets fewer values than others: thinned on the way, with the count of it in the state.

What is committed is the thinning's own state and the backend's in one, so that they are never apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside
from tracker_daemon.backends.third_party.script_class import SCRIPT_STATE
from tracker_daemon.delivery.thinning import Thinned, Thinner, ThinningRules
from tracker_daemon.errors import BackendRefused
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.rules.metric_rules import read_step_axes, read_thinning

_MARK = b"\0thinned1"


class _State(msgspec.Struct, frozen=True, array_like=True):
    records: int
    points: int
    counts: dict[str, int]
    backend: bytes | None


class ThinnedBackend(Backend):
    """``backend``, which gets what ``rules`` leave."""

    def __init__(self, backend: Backend, rules: ThinningRules) -> None:
        self.name = backend.name  # type: ignore[misc]  # it stands for the backend in all that is shown
        self.separate_files = backend.separate_files  # type: ignore[misc]  # as above
        self._backend = backend
        self._thinner = Thinner(rules)
        self._so_far = Thinned()
        self._inner: bytes | None = None
        self._passed_on = False
        """Whether the last delivery left anything for the backend."""

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Open the backend with its own part of ``state``."""
        known = _read(state)
        self._so_far = Thinned(known.records, known.points, known.counts)
        self._inner = known.backend
        self._backend.open(run, self._inner)

    def count_ready(self, entries: Sequence[OutboxEntry]) -> int:
        """Those of which it is decided what stays; they begin where the last delivery ended."""
        return self._thinner.decided(entries)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Deliver what stays of ``entries``."""
        before, after = self._so_far, self._so_far.copy()
        kept = self._thinner.thin(entries, after)
        self._passed_on = bool(kept)
        if kept:
            self._inner = self._backend.deliver(kept, lambda state: commit(_encode(before, state)))
        self._so_far = after
        return _encode(after, self._inner)

    def set_aside(self) -> Sequence[SetAside]:
        """What the backend's store refused."""
        return self._backend.set_aside() if self._passed_on else ()

    def trouble(self) -> str:
        """What keeps what the backend has from getting further."""
        return self._backend.trouble()

    def may_be_resumed(self) -> bool:
        """Whether what the backend refused for may have changed."""
        return self._backend.may_be_resumed()

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def handles(self) -> Mapping[str, str]:
        """What a script's handles say."""
        return self._backend.handles()

    @property
    def reachable(self) -> bool:
        """Whether the backend can be reached."""
        return self._backend.reachable

    def location(self) -> str | None:
        """Where the backend's run is."""
        return self._backend.location()


def thinned(backend: Backend, run: RunDescription, name: str) -> Backend:
    """``backend``, thinned if the run's settings say so of what they call ``name``."""
    rules = read_thinning(run.metrics.thinning, name)
    if not any(thinning for _, thinning in rules.rules):
        return backend
    axes = frozenset(axis for _, axis in read_step_axes(run.metrics.step_axes).rules)
    return ThinnedBackend(backend, ThinningRules(rules, axes))


def thinned_so_far(state: bytes) -> tuple[int, int]:
    """How many records as a whole, and how many values, a cursor's state says were left out by thinning."""
    known = _read(state)
    return known.records, known.points


def inner_state(state: bytes) -> bytes | None:
    """The backend's own part of a cursor's state, thinned or not."""
    return _read(state).backend


def is_script(state: bytes) -> bool:
    """Whether a cursor is that of a class in the training script."""
    return inner_state(state) == SCRIPT_STATE


def _encode(so_far: Thinned, state: bytes | None) -> bytes:
    return _MARK + msgspec.msgpack.encode(_State(so_far.records, so_far.points, so_far.counts, state))


def _read(state: bytes | None) -> _State:
    if state is None or not state.startswith(_MARK):
        return _State(0, 0, {}, state)
    try:
        return msgspec.msgpack.decode(state.removeprefix(_MARK), type=_State)
    except msgspec.DecodeError as error:
        raise BackendRefused(
            f"the state of the thinned delivery in the journal cannot be read ({error}); "
            "use the version of tracker-daemon that wrote it, or a later one"
        ) from error
