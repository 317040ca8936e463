"""A rank's warnings: shown once, by whoever can, and never lost."""

import pytest

from tests.support.messages import texts_of
from tracker_client.sending.rank_warnings import RankWarnings
from tracker_protocol import limits


class Connection:
    def __init__(self):
        self.sent = []

    def warn(self, text):
        self.sent.append(text)


def shown(warnings, caplog):
    warnings.printer.flush()
    return texts_of(caplog.records)


@pytest.fixture
def connection():
    return Connection()


def test_the_only_rank_shows_its_warnings_itself(connection, caplog):
    warnings = RankWarnings(lambda: None, is_alone=True, is_primary=True)
    warnings.warn("it")
    warnings.advance(0.0, connection)
    assert connection.sent == []
    assert shown(warnings, caplog) == ["it"]


def test_one_of_many_ranks_sends_them_and_shows_nothing(connection, caplog):
    woken = []
    warnings = RankWarnings(lambda: woken.append(True), is_alone=False, is_primary=False)
    warnings.warn("it")
    assert woken == [True]
    warnings.advance(0.0, None)
    warnings.advance(limits.WARNING_SENT_WITHIN_S - 1, connection)
    assert connection.sent == ["it"]
    warnings.end()
    assert shown(warnings, caplog) == []


def test_without_a_daemon_a_rank_shows_its_own(caplog):
    warnings = RankWarnings(lambda: None, is_alone=False, is_primary=False)
    warnings.warn("it")
    warnings.advance(1.0, None)
    assert warnings.deadline == 1.0 + limits.WARNING_SENT_WITHIN_S
    warnings.advance(warnings.deadline, None)
    assert shown(warnings, caplog) == ["it"]


@pytest.mark.parametrize(("returned", "expected"), [(True, ["ranks 0-3: it"]), (False, ["it"])])
def test_the_primary_shows_what_the_daemon_returns_or_else_its_own(connection, caplog, returned, expected):
    warnings = RankWarnings(lambda: None, is_alone=False, is_primary=True)
    warnings.warn("it")
    warnings.advance(0.0, connection)
    if returned:
        warnings.returned("ranks 0-3: it")
    warnings.advance(limits.WARNING_RETURNED_WITHIN_S, connection)
    assert shown(warnings, caplog) == expected


def test_what_is_left_at_the_end_is_shown_and_what_follows_too(caplog):
    warnings = RankWarnings(lambda: None, is_alone=False, is_primary=False)
    warnings.warn("unsent")
    warnings.end()
    warnings.warn("late")
    warnings.flush()
    assert sorted(texts_of(caplog.records)) == ["late", "unsent"]


def test_a_daemons_sentence_names_no_rank_of_this_process(caplog):
    warnings = RankWarnings(lambda: None, is_alone=True, is_primary=True)
    warnings.returned("ranks 1-511: it")
    warnings.flush()
    assert caplog.messages == ["tracker-daemon: ranks 1-511: it"]
