"""A backend that is given fewer values than others. The number of thinned values is part of its state.

One commit has the thinning's own state and the backend's state, so the two always belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside
from tracker_daemon.backends.third_party.script_class import SCRIPT_STATE
from tracker_daemon.delivery.thinning import Thinned, Thinner, ThinningRules
from tracker_daemon.errors import BackendRefused
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.rules.metric_rules import read_thinning

_MARK = b"\0thinned1"


class _State(msgspec.Struct, frozen=True, array_like=True):
    records: int
    points: int
    counts: dict[str, int]
    backend: bytes | None


class ThinnedBackend(Backend):
    """Gives ``backend`` the values that ``rules`` keep."""

    def __init__(self, backend: Backend, rules: ThinningRules) -> None:
        self.name = backend.name  # type: ignore[misc]  # shown under the backend's name
        self.separate_files = backend.separate_files  # type: ignore[misc]  # as above
        self.place_in_run = backend.place_in_run  # type: ignore[misc]  # as above
        self._backend = backend
        self._thinner = Thinner(rules)
        self._thinned = Thinned()
        self._backend_state: bytes | None = None
        self._gave_any = False
        """True if the last delivery left anything for the backend."""

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Open the backend with its own part of ``state``."""
        known = _read(state)
        self._thinned = Thinned(known.records, known.points, known.counts)
        self._backend_state = known.backend
        self._backend.open(run, self._backend_state)

    def count_ready(self, entries: Sequence[OutboxEntry]) -> int:
        """Return the number of entries for which it is decided which values stay.

        The entries begin where the last delivery ended.
        """
        return self._thinner.count_decided(entries)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Deliver the values of ``entries`` that stay."""
        before, after = self._thinned, self._thinned.copy()
        kept = self._thinner.thin(entries, after)
        self._gave_any = bool(kept)
        if kept:
            self._backend_state = self._backend.deliver(kept, lambda state: commit(_encode(before, state)))
        self._thinned = after
        return _encode(after, self._backend_state)

    def set_aside(self) -> Sequence[SetAside]:
        """Return the parts of the last delivery that the backend's store refused."""
        return self._backend.set_aside() if self._gave_any else ()

    def trouble(self) -> str:
        """Return why the backend's data is not uploaded yet; "" if nothing blocks it."""
        return self._backend.trouble()

    def may_be_resumed(self) -> bool:
        """Return True if the cause of the backend's last refusal may be gone."""
        return self._backend.may_be_resumed()

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def known_handles(self, run: RunDescription) -> Mapping[str, str]:
        """Return the backend's own answer."""
        return self._backend.known_handles(run)

    def handles(self) -> Mapping[str, str]:
        """Return the run's identifiers in the backend."""
        return self._backend.handles()

    @property
    def reachable(self) -> bool:
        """True if the backend can be reached."""
        return self._backend.reachable

    def location(self) -> str | None:
        """Return where a person finds the backend's run."""
        return self._backend.location()


def thinned(backend: Backend, run: RunDescription, name: str) -> Backend:
    """Return ``backend``, thinned if the run's settings have a rule for ``name``."""
    rules = read_thinning(run.metrics.thinning, name)
    if not any(thinning for _, thinning in rules.rules):
        return backend
    return ThinnedBackend(backend, ThinningRules(rules))


def thinned_so_far(state: bytes) -> tuple[int, int]:
    """Return how many whole records and how many values thinning left out, from a cursor's state."""
    known = _read(state)
    return known.records, known.points


def backend_state(state: bytes) -> bytes | None:
    """Return the backend's own part of a cursor's state, thinned or not."""
    return _read(state).backend


def is_script(state: bytes) -> bool:
    """Return True if a cursor's state is that of a class in the training script."""
    return backend_state(state) == SCRIPT_STATE


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
