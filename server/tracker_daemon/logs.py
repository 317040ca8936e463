"""The daemon's log: one line per event on stderr, readable for people or as JSON; and lines for its starter.

One handler writes both structlog's events and the standard library's records (grpc, asyncio), so both
have the same level, time and format.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

LogFormat = Literal["auto", "console", "json"]
TIMESTAMP_FORMAT = "iso"
_STANDARD_OUTPUT = 1

# structlog's default would write the frames' variables too, and with them any secret that they hold.
_traceback = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(level: str, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Send events of ``level`` and above to ``stream`` (stderr when None).

    ``auto`` is ``console`` if the stream is a terminal, else ``json``. A further call replaces the
    earlier configuration.
    """
    target = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt=TIMESTAMP_FORMAT, utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(log_format, target),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def _rendering(log_format: LogFormat, target: TextIO) -> list[Processor]:
    terminal = target.isatty()
    if log_format == "json" or (log_format == "auto" and not terminal):
        return [_traceback, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)]


def print_line(text: str) -> None:
    """Print a line for the user who started the daemon.

    Under ``run`` the daemon's log is a file. The daemon's standard output, which nothing else uses, is then
    the standard error of ``run``, so the line appears in the user's terminal.
    """
    try:
        os.write(_STANDARD_OUTPUT, f"{text}\n".encode(errors="backslashreplace"))
    except OSError as error:  # the terminal or the pipe is closed: nobody reads it
        structlog.get_logger(__name__).debug("a line could not be printed", reason=error.strerror)
