"""The effective settings for a person: in TOML's notation, secrets masked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import SecretStr

from tracker_daemon.settings.definitions import Settings

URL_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One effective setting: its value in TOML's notation, secrets masked; None if unset."""

    name: str
    value: str | None
    source: str


def describe(settings: Settings) -> list[SettingRow]:
    """Return every setting with its effective value and source, in the class's order."""
    return [
        SettingRow(name, shown(name, getattr(settings, name)), settings.origin(name))
        for name in type(settings).model_fields
    ]


def shown(name: str, value: object) -> str | None:
    """Return ``value`` in TOML's notation, with secrets and passwords in URLs masked."""
    if value is None:
        return None
    field = Settings.model_fields.get(name)
    if isinstance(value, SecretStr) or (field is not None and field.annotation is SecretStr):
        return '"**********"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(str(shown(name, item)) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else _quoted(URL_PASSWORD.sub("***", str(value)))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in escaped) + '"'
