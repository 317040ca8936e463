"""What the daemon's parts report, in a process that is not the daemon: the standard library's logging."""

from __future__ import annotations

import structlog


def send_events_to_logging() -> None:
    """Have structlog's events become records of ``logging``; a configuration of the script's own stays."""
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
