"""Options of a backend that the daemon alone may set: secrets, and addresses of services.

A client that chose where a backend sends its requests could have the daemon's key sent to a host of its
own. A key that a client sends would be stored in the journal. So the client leaves such options out, and the
daemon refuses a client that sends one. Both decide by the option's name, with the rules of this module.
"""

from __future__ import annotations

import re
from typing import Any

_WORDS = frozenset(
    (
        "key", "apikey", "token", "password", "passwd", "passphrase", "secret", "credential", "credentials",
        "auth", "authorization", "bearer", "cookie", "cookies", "header", "headers", "username", "cert",
        "certificate", "host", "hostname", "url", "uri", "proxy", "endpoint", "server", "address",
    )
)  # fmt: skip
_NAMES = frozenset(("settings", "artifact_location"))
_FREE_FORM = frozenset(("tags", "config"))
"""Options whose keys are the user's own words; those keys name no option."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def is_daemon_only(name: str) -> bool:
    """Return True if an option of this name could hold a secret, or an address that a secret is sent to."""
    words = _WORD.findall(name) + _WORD.findall(name.lower())
    return name.lower() in _NAMES or not _WORDS.isdisjoint(word.lower() for word in words)


def find_daemon_only(options: dict[str, Any], path: str) -> list[tuple[dict[str, Any], str, str]]:
    """Find the daemon's own options in ``options``, a JSON object, at any depth.

    Keys below ``tags`` and ``config`` are not checked: the user chooses them.

    Args:
        options: the options of one backend.
        path: the name of ``options`` in messages, such as the backend's name.

    Returns:
        For each option found: the dict that holds it, its key there, and its path from ``path`` on.
    """
    found: list[tuple[dict[str, Any], str, str]] = []
    # A stack in place of recursion: what a client sends may be nested very deep.
    to_check: list[tuple[Any, str]] = [(options, path)]
    while to_check:
        value, at = to_check.pop()
        if isinstance(value, list):
            to_check.extend((item, at) for item in reversed(value))
        elif isinstance(value, dict):
            found.extend((value, name, f"{at}[{name!r}]") for name in value if is_daemon_only(name))
            nested = [name for name in value if name not in _FREE_FORM and not is_daemon_only(name)]
            to_check.extend((value[name], f"{at}[{name!r}]") for name in reversed(nested))
    return found
