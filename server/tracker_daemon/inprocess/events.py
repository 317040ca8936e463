"""Sends the events of the daemon's parts to the standard library's logging, in the script's process."""

from __future__ import annotations

import structlog


def send_events_to_logging() -> None:
    """Make structlog's events records of ``logging``; a configuration that the script has made stays."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
