"""Feeding classes of the script: what is given to them, once, and what the daemon is told."""

from __future__ import annotations

import struct
import threading
from typing import ClassVar

import pytest

from tests.support.waiting import wait_until
from tracker_client import TrackerBackend
from tracker_client.backends.script_backends import ScriptBackends
from tracker_client.backends.script_classes import ScriptClass, script_classes
from tracker_client.backends.script_entries import (
    DeliveredConfig,
    DeliveredEnd,
    DeliveredEntry,
    DeliveredRows,
    DirectCall,
    TakenEntry,
)
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

PATIENCE_S = 20.0


class Kept(TrackerBackend):
    def __init__(self):
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()
        self.called = threading.Event()

    def log(self, metrics, step=None, commit=True):
        self.called.set()
        assert self.gate.wait(PATIENCE_S)
        self.calls.append((step, dict(metrics)))
        if metrics.get("loss") == 13:
            raise ValueError("thirteen")

    def log_config(self, config):
        self.calls.append(config)

    def finish_with(self, exit_code):
        self.calls.append(f"finished with {exit_code}")

    def finish(self): ...


class Answers:
    def __init__(self):
        self.all = []
        self.changed = threading.Condition()

    def __call__(self, answer):
        with self.changed:
            self.all.append(answer)
            self.changed.notify_all()

    def wait(self, *wanted):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.all) >= len(wanted), PATIENCE_S), self.all
            assert self.all == list(wanted)


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def scripts(kept, answers):
    scripts = ScriptBackends({"kept": lambda: kept}, Refusals())
    scripts.start(answers, at_once=True)
    yield scripts
    kept.gate.set()
    scripts.close()
    wait_until(lambda: not scripts.open_names, "the class to finish")


def rows(entry, values, *, first=0, more=False, epoch=1, columns=("loss",), valid=b"", texts=()):
    count = len(values) // len(columns)
    content = DeliveredRows(
        first,
        columns,
        struct.pack(f"<{count}q", *range(first, first + count)),
        struct.pack(f"<{len(values)}d", *values),
        valid,
        texts,
    )
    return DeliveredEntry("kept", epoch, entry, more, content)


def taken(entry, *, epoch=1, **more):
    return TakenEntry("kept", epoch, entry, **more)


def test_records_come_as_steps_and_dicts_of_what_each_one_has(scripts, kept, answers):
    values = [1.0, float("nan"), 2.0, 3.0]
    fed = rows(1, values, columns=("a", "b"), valid=b"\1\0\1\1", texts=((0, "phase", "warm-up"),))
    scripts.offer(fed)
    answers.wait(taken(1))
    assert kept.calls == [(0, {"a": 1.0, "phase": "warm-up"}), (1, {"a": 2.0, "b": 3.0})]


def test_an_entry_in_parts_is_acknowledged_once_after_its_last_part(scripts, kept, answers):
    scripts.offer(rows(1, [0.0, 1.0], more=True))
    scripts.offer(rows(1, [2.0], first=2))
    scripts.offer(DeliveredEntry("kept", 1, 2, False, DeliveredConfig('{"lr": 0.1}')))
    answers.wait(taken(1), taken(2))
    assert kept.calls == [(0, {"loss": 0.0}), (1, {"loss": 1.0}), (2, {"loss": 2.0}), {"lr": 0.1}]


def test_a_class_with_a_backends_methods_alone_is_called_by_keyword_for_what_it_has(answers):
    class ByKeyword:
        calls: ClassVar[list] = []

        def log(self, metrics, *, step, commit):
            self.calls.append(("log", step, commit))

        def log_image(self, key, image_path, *, caption):
            self.calls.append(("log_image", key, caption))

        def finish(self):
            self.calls.append("finish")

    scripts = ScriptBackends({"kept": ByKeyword}, Refusals())
    scripts.start(answers, at_once=True)
    scripts.offer(rows(1, [0.0]))
    scripts.offer(DeliveredEntry("kept", 1, 2, False, DeliveredConfig('{"lr": 0.1}')))
    scripts.pass_on(DirectCall("watch", ("model",), {}))
    scripts.pass_on(DirectCall("log_image", ("i", "image.png"), {"caption": "c"}))
    scripts.offer(DeliveredEntry("kept", 1, 3, False, DeliveredEnd(1)))
    answers.wait(taken(1), taken(2), taken(3), TakenEntry("kept", closed=True))
    assert ByKeyword.calls == [("log", 0, True), ("log_image", "i", "c"), "finish"]
    assert scripts.failures == 0


def test_calls_made_before_the_daemon_asks_for_a_class_wait_for_it(kept, answers):
    kept.log_table = lambda *arguments: kept.calls.append(("log_table", *arguments))
    scripts = ScriptBackends({"kept": lambda: kept}, Refusals())
    scripts.start(answers, at_once=False)
    scripts.pass_on(DirectCall("log_table", ("t", ["a"], [[1]])))
    assert scripts.open_names == []
    scripts.welcomed(("kept",))
    scripts.offer(DeliveredEntry("kept", 1, 1, False, DeliveredEnd()))
    answers.wait(taken(1), TakenEntry("kept", closed=True))
    assert kept.calls == [("log_table", "t", ["a"], [[1]]), "finished with 0"]


def test_a_class_that_the_daemon_does_not_ask_for_is_never_constructed_unless_it_asks_later(kept, answers):
    kept.log_table = lambda *arguments: kept.calls.append(("log_table", *arguments))
    scripts = ScriptBackends({"kept": lambda: kept}, Refusals())
    scripts.start(answers, at_once=False)
    scripts.pass_on(DirectCall("log_table", ("t", ["a"], [[1]])))
    scripts.welcomed(())
    assert scripts.get("kept", PATIENCE_S) is None
    scripts.pass_on(DirectCall("log_table", ("u", ["a"], [[1]])))
    scripts.welcomed(("kept",))
    assert scripts.get("kept", PATIENCE_S) is kept
    scripts.close(3)
    answers.wait(TakenEntry("kept", closed=True))
    assert kept.calls == ["finished with 3"]


def test_what_comes_again_after_a_reconnection_is_acknowledged_and_not_given_again(scripts, kept, answers):
    scripts.offer(rows(1, [0.0]))
    answers.wait(taken(1))
    kept.gate.clear()
    scripts.offer(rows(2, [5.0, 6.0], more=True))
    scripts.offer(rows(1, [0.0]))
    scripts.offer(rows(2, [5.0, 6.0, 7.0], more=True))  # now divided differently
    scripts.offer(rows(2, [8.0], first=3))
    scripts.offer(rows(2, [8.0], first=3))
    kept.gate.set()
    answers.wait(taken(1), taken(1), taken(2))
    assert [call[1]["loss"] for call in kept.calls] == [0.0, 5.0, 6.0, 7.0, 8.0]


def test_in_a_new_epoch_of_the_journal_a_number_stands_for_another_entry(scripts, kept, answers):
    scripts.offer(rows(7, [1.0]))
    scripts.offer(rows(5, [2.0], epoch=2))
    answers.wait(taken(7), taken(5, epoch=2))
    assert [call[1]["loss"] for call in kept.calls] == [1.0, 2.0]


def test_records_that_the_class_raises_for_are_counted_and_the_rest_goes_on(scripts, kept, answers, caplog):
    scripts.offer(rows(1, [12.0, 13.0, 14.0, 13.0]))
    scripts.offer(rows(2, [15.0]))
    problem = "log() raised ValueError('thirteen')"
    answers.wait(taken(1, refused_records=2, problem=problem), taken(2))
    assert len(kept.calls) == 5
    assert scripts.failures == 2
    assert caplog.text.count("thirteen") == 1


@pytest.mark.parametrize(("status", "said"), [(0, "finished with 0"), (1, "finished with 1")])
def test_the_end_finishes_the_class_and_closes_it(scripts, kept, answers, status, said):
    scripts.offer(DeliveredEntry("kept", 1, 3, False, DeliveredEnd(status)))
    closed = TakenEntry("kept", closed=True)
    answers.wait(taken(3), closed)
    assert kept.calls == [said]
    assert scripts.open_names == []
    scripts.offer(rows(4, [1.0]))
    answers.wait(taken(3), closed, closed)
    assert kept.calls == [said]


def test_a_class_that_must_leave_finishes_with_what_it_has(scripts, kept, answers):
    kept.gate.clear()
    scripts.offer(rows(1, [1.0, 2.0, 3.0]))
    scripts.offer(rows(2, [4.0]))
    scripts.close(1)
    kept.gate.set()
    answers.wait(TakenEntry("kept", closed=True))
    assert kept.calls[-1] == "finished with 1"
    assert len(kept.calls) < 4


def test_a_class_that_cannot_be_made_is_told_to_user_and_daemon(answers, caplog):
    def fail():
        raise OSError("no room")

    scripts = ScriptBackends({"kept": fail}, Refusals())
    scripts.start(answers, at_once=True)
    answers.wait(TakenEntry("kept", problem="it raised OSError('no room')", closed=True))
    assert scripts.get("kept", PATIENCE_S) is None
    assert "no room" in caplog.text


def test_a_class_is_made_when_the_daemon_first_feeds_it_where_nothing_was_sure_before(kept, answers):
    scripts = ScriptBackends({"kept": lambda: kept}, Refusals())
    scripts.start(answers, at_once=False)
    assert scripts.get("kept", 0) is None
    scripts.welcomed(("kept",))
    assert scripts.get("kept", PATIENCE_S) is kept
    scripts.close()


def test_a_class_that_is_not_fed_here_finishes_and_is_warned_about(scripts, kept, answers, caplog):
    scripts.welcomed(())
    answers.wait(TakenEntry("kept", closed=True))
    assert kept.calls == ["finished with 0"]
    assert "the daemon delivers no rows to it" in caplog.text


def test_what_is_no_metric_goes_straight_to_the_class_on_its_own_thread(scripts, kept, answers):
    threads = []
    kept.log_table = lambda *arguments: threads.append((threading.get_ident(), arguments))
    kept.log_image = lambda *arguments, **named: 1 / 0
    scripts.pass_on(DirectCall("log_table", ("t", ["a"], [[1]])))
    scripts.pass_on(DirectCall("log_image", ("i", "image.png"), {"caption": None}))
    scripts.offer(DeliveredEntry("kept", 1, 1, False, DeliveredEnd()))
    answers.wait(
        taken(1),
        TakenEntry("kept", problem="log_image() raised ZeroDivisionError('division by zero')", closed=True),
    )
    ((thread, arguments),) = threads
    assert thread != threading.get_ident()
    assert arguments == ("t", ["a"], [[1]])
    assert scripts.failures == 1


def test_calls_that_wait_for_a_class_are_bounded(scripts, kept, answers, caplog):
    kept.gate.clear()
    scripts.offer(rows(1, [1.0]))
    assert kept.called.wait(PATIENCE_S)
    for _ in range(limits.SCRIPT_CALLS_WAITING_MAX + 2):
        scripts.pass_on(DirectCall("log_table", ("t", ["a"], [[1]])))
    assert scripts.failures == 2
    assert caplog.text.count("calls wait for it") == 1


# ---- constructing --------------------------------------------------------------------------------


class Described(Kept):
    def __init__(self, project_name, rank, colour="none"):
        super().__init__()
        self.made_with = (project_name, rank, colour)


class TakesAny(Kept):
    def __init__(self, **kwargs):
        super().__init__()
        self.made_with = kwargs


RUN = {"project_name": "p", "config": {}, "outdir": "/out", "rank": 2}


def test_a_class_is_given_what_its_constructor_takes():
    assert ScriptClass(Described).construct(**RUN).made_with == ("p", 2, "none")
    assert ScriptClass(TakesAny, {"colour": "blue"}).construct(**RUN).made_with == {**RUN, "colour": "blue"}
    assert ScriptClass(Kept).construct(**RUN).calls == []


def test_a_class_takes_its_own_dict_and_the_bare_arguments_that_it_has():
    registered = {"described": Described, "any": TakesAny, "unnamed": Kept}
    options = {"colour": "red", "size": 3, "any": {"colour": "green"}, "unnamed": {"x": 1}}
    classes = script_classes("csv,described,any", registered, options)
    assert classes.by_name == {
        "described": ScriptClass(Described, {"colour": "red"}),
        "any": ScriptClass(TakesAny, {"colour": "green", "size": 3}),
    }
    assert classes.argument_names == {"colour", "size", "any"}
    assert classes.sure


def test_where_the_daemon_names_the_backends_any_registered_class_may_be_meant():
    classes = script_classes(None, {"described": Described}, {})
    assert (set(classes.by_name), classes.sure) == ({"described"}, False)
