"""Resolves values on a device: replaces each of them by its number once the number is there."""

from __future__ import annotations

import time

from tracker_client.staging.attachment import AttachedRow, Attachment
from tracker_client.staging.buffer import Entry, HeavyRow
from tracker_client.values.refusals import Refusals

_POLL_S = 0.002


def resolved(entry: Entry, refusals: Refusals) -> Entry | None:
    """Return the entry with numbers alone; None while one of its values is still on its device.

    A value that cannot be read is refused and left out. Only one thread may call this for an entry.
    """
    payload = entry[2]
    if not isinstance(payload, HeavyRow) or not payload.deferred:
        return entry
    if isinstance(payload, Attachment):
        attached = _attached(payload, refusals)
        return None if attached is None else (entry[0], entry[1], attached, entry[3])
    if not _resolve_values(payload, refusals):
        return None
    plain = payload if payload.items else payload.row
    return entry[0], entry[1], plain, entry[3]


def wait_resolved(entry: Entry, refusals: Refusals) -> Entry:
    """Wait for the entry's values, and return it as :func:`resolved` does; not for the sender's thread."""
    while True:
        found = resolved(entry, refusals)
        if found is not None:
            return found
        time.sleep(_POLL_S)


def _resolve_values(payload: HeavyRow, refusals: Refusals) -> bool:
    """Put numbers in the place of values that have arrived; return True if none is missing."""
    complete = True
    for key, value in tuple(payload.row.items()):
        if isinstance(value, (float, int, str)):
            continue
        try:
            if value.ready():
                payload.row[key] = value.value()
            else:
                complete = False
        except Exception as error:  # noqa: BLE001 - the device's library may raise anything
            del payload.row[key]
            refusals.refuse(key, f"reading it from its device raised {error!r}")
    payload.deferred = not complete
    return complete


def _attached(attachment: Attachment, refusals: Refusals) -> AttachedRow | None:
    try:
        return attachment.resolve() if attachment.ready() else None
    except Exception as error:  # noqa: BLE001 - the device's library may raise anything
        reason = f"reading a model's statistics from their device raised {error!r}"
        refusals.refuse("watch()", reason, values=attachment.points)
        return AttachedRow({}, {})
