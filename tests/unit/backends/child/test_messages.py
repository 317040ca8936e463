"""The messages to and from a child process cross the pipe unchanged."""

import socket
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest

from tracker_daemon.backends.base import RunDescription, SetAside
from tracker_daemon.backends.child import messages
from tracker_daemon.backends.child.pipe import MessagePipe, PipeClosed, PipeTimeout
from tracker_daemon.errors import (
    BackendRefused,
    BackendUnavailable,
    PoisonEntry,
    UpstreamUnavailable,
)
from tracker_daemon.files.layout import Layout
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.rules.metric_rules import MetricSettings

RUN = RunDescription(
    "run-a", "project", "name", Path("/out"), 3, 2, {"tags": ["x"], "n": {"k": 1.5}}, {"user": "u"},
    Path("/state/contents"), True, MetricSettings(), 1_700_000_000_000_000_000, "ezpz", "local",
    Layout.NAME, Path("/out/run-a"), "id-a", "label", True, "script",
)  # fmt: skip
ASIDE = (SetAside(4, 2, "refused"),)


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    daemon, child = MessagePipe(ours, messages.Answer), MessagePipe(theirs, messages.Request)
    with closing(daemon), closing(child):
        yield daemon, child


@pytest.mark.parametrize(
    "request_",
    [
        messages.Open(RUN, None),
        messages.Open(RUN, b"state"),
        messages.Deliver((OutboxEntry(1, EntryKind.CONFIG, b"{}"), OutboxEntry(2, EntryKind.END, b"\0\xff"))),
        messages.Committed(),
        messages.GetTrouble(),
        messages.Close(),
    ],
)
def test_a_request_arrives_as_it_was_sent(ends, request_):
    daemon, child = ends
    daemon.send(request_, 5.0)
    assert child.receive(5.0) == request_


@pytest.mark.parametrize(
    "answer",
    [
        messages.Opened("file:0", {"id": "a"}),
        messages.Commit(b"state"),
        messages.Delivered(b"state", None, ASIDE, {"url": "u"}),
        messages.Trouble("HTTP 503"),
        messages.Failed("refused", "no key"),
        messages.Closed(),
    ],
)
def test_an_answer_arrives_as_it_was_sent(ends, answer):
    daemon, child = ends
    child.send(answer)
    assert daemon.receive(5.0) == answer


def test_no_field_of_a_runs_description_has_its_default_in_the_test_above():
    plain = RunDescription("", "", "", Path())
    same = {field.name for field in fields(RUN) if getattr(RUN, field.name) == getattr(plain, field.name)}
    assert same <= {"metrics"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BackendUnavailable("x"), BackendUnavailable),
        (UpstreamUnavailable("x"), BackendUnavailable),
        (BackendRefused("x"), BackendRefused),
        (PoisonEntry("x"), PoisonEntry),
    ],
)
def test_an_error_keeps_its_kind_and_its_text(error, kind):
    raised = messages.Failed.of(error).error
    assert type(raised) is kind
    assert str(raised) == "x"


def test_bytes_that_are_no_message_close_the_pipe(ends):
    daemon, child = ends
    daemon.send(messages.Close())
    assert child.receive(5.0) == messages.Close()
    child.send(messages.Committed())  # a request, which no child answers with
    with pytest.raises(PipeClosed, match="no message"):
        daemon.receive(5.0)


def test_a_message_that_does_not_arrive_in_time_is_a_timeout_and_an_end_is_none(ends):
    daemon, child = ends
    with pytest.raises(PipeTimeout):
        daemon.receive(0.01)
    child.close()
    with pytest.raises(PipeClosed):
        daemon.receive(5.0)
