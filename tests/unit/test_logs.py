"""The log: level, format, and one form for both kinds of loggers."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tracker_daemon import logs


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def configuration_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_events_of_both_kinds_are_json_objects_with_the_same_fields() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger("daemon").info("a rank joined", rank=3)
    logging.getLogger("grpc").warning("the %s", "library")
    ours, theirs = (json.loads(line) for line in lines(stream))
    assert (ours["event"], ours["rank"], ours["level"], ours["logger"]) == (
        "a rank joined",
        3,
        "info",
        "daemon",
    )
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("the library", "warning", "grpc")
    assert ours["timestamp"].endswith("Z")
    assert theirs["timestamp"].endswith("Z")


def test_events_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    structlog.get_logger().info("not this")
    logging.getLogger("x").info("nor this")
    structlog.get_logger().warning("this")
    assert [json.loads(line)["event"] for line in lines(stream)] == ["this"]


def test_auto_is_json_in_a_file_and_for_people_on_a_terminal() -> None:
    file, terminal = io.StringIO(), TerminalStream()
    logs.configure("info", "auto", file)
    structlog.get_logger().info("hello")
    assert json.loads(file.getvalue())["event"] == "hello"
    logs.configure("info", "auto", terminal)
    structlog.get_logger().info("hello")
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_an_exception_stays_one_json_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        int("broken")
    except ValueError:
        structlog.get_logger().exception("it failed")
    [line] = lines(stream)
    assert "broken" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_tells_no_variable_of_its_frames(log_format: str) -> None:
    def fail(api_key: str) -> None:
        raise ValueError(f"a key of {len(api_key)} characters")

    stream = io.StringIO()
    logs.configure("info", log_format, stream)  # type: ignore[arg-type]
    secret = "s3cret-value"
    try:
        fail(secret)
    except ValueError:
        structlog.get_logger().exception("it failed")
        logging.getLogger("library").exception("it failed too")
    assert "12 characters" in stream.getvalue()
    assert secret not in stream.getvalue()


def test_the_console_has_no_colours_outside_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure("info", "console", stream)
    structlog.get_logger().error("plain", key="value")
    assert "\x1b" not in stream.getvalue()
    assert "key=value" in stream.getvalue()
