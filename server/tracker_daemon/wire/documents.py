"""Checks JSON documents: the configuration of a run, the document of an item."""

from __future__ import annotations

import json

from tracker_daemon.errors import MalformedBatch


def check_json_object(what: str, document: str) -> None:
    """Raise MalformedBatch unless ``document`` is a JSON object; ``what`` names it in the message."""
    try:
        parsed = json.loads(document)
    except ValueError as error:
        raise MalformedBatch(f"{what} is not JSON: {error}") from error
    except RecursionError as error:
        raise MalformedBatch(f"{what} is nested too deeply") from error
    if not isinstance(parsed, dict):
        raise MalformedBatch(f"{what} is not a JSON object")
