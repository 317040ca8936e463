"""The base of the handles of runs that are written at the daemon.

A handle reads ids, names and addresses that the daemon has sent. Attributes that cannot exist here, away from
the backend's process and its credentials, raise :class:`~tracker_client.errors.NotRemote`, an AttributeError
whose message names a replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tracker_client.errors import NotRemote

ReadHandle = Callable[[str], str | None]
"""Returns an attribute of one backend that the daemon has sent; may wait for it."""
OWN_METHODS = "the tracker's own methods"


class RemoteHandle:
    """Reads attributes from the daemon's answer. Only private attributes can be set.

    ``owner`` has the handle as its attribute ``place``. A copy of the handle is that attribute of the owner's
    copy: the handle itself in this process, and None in another one, where a tracker's copy is inert.
    """

    _kind: ClassVar[str]
    """The handle's name in messages."""
    _sent: ClassVar[frozenset[str]]
    """Attributes that the daemon sends, as texts; None until it has sent them."""
    _replacements: ClassVar[Mapping[str, str]] = {}
    """The alternatives to an attribute that does not exist here; :data:`OWN_METHODS` by default."""

    def __init__(self, read: ReadHandle, owner: object, place: str) -> None:
        self._read = read
        self._owner = owner
        self._place = place

    def __copy__(self) -> RemoteHandle:
        return self

    def __deepcopy__(self, _: object) -> RemoteHandle:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._owner, self._place, None)

    def __getattr__(self, name: str) -> str | None:
        if name in self._sent:
            return self._read(name)
        raise NotRemote(
            f"{self._kind}.{name} does not exist here, since the run is written at the daemon; use "
            f"{self.replacement(name)} instead"
        )

    def replacement(self, name: str) -> str:
        """Return what to use in place of an attribute that does not exist here."""
        return self._replacements.get(name, OWN_METHODS)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise NotRemote(
                f"{self._kind}.{name} cannot be set here, since the run is written at the daemon; give it to "
                "setup_tracker, or log it as configuration"
            )
        object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._sent})
