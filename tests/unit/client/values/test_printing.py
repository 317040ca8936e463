"""Warnings are shown on a thread of their own, and none is lost at the script's end."""

from __future__ import annotations

import logging
import threading

import pytest

from tracker_client.values.printing import WarningPrinter, logger


class Held(logging.Handler):
    """Shows a message once it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.released = threading.Event(), threading.Event()
        self.shown: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.begun.set()
        assert self.released.wait(30)
        self.shown.append(record.getMessage())


@pytest.fixture
def held():
    handler = Held()
    logger.addHandler(handler)
    yield handler
    handler.released.set()
    logger.removeHandler(handler)


def test_a_flush_waits_for_a_message_that_another_thread_is_showing(held):
    printer = WarningPrinter()
    printer.show_soon("first")
    assert held.begun.wait(30)
    release = threading.Timer(1.5, held.released.set)
    release.start()
    printer.flush()
    assert [text.rpartition(": ")[2] for text in held.shown] == ["first"]
    release.join()
