"""A tracker over backends in the script's own process: each gets every call, and none harms another."""

import os
import subprocess
import sys
import textwrap

import pytest

from tracker_client import NullTracker, Tracker, TrackerBackend
from tracker_client.trackers.remote_tracker import RemoteTracker


class Notes(TrackerBackend):
    name = "notes"

    def __init__(self):
        self.calls = []

    def log(self, metrics, step=None, commit=True):
        self.calls.append(("log", dict(metrics), step, commit))

    def log_config(self, config):
        self.calls.append(("log_config", config))

    def finish(self):
        self.calls.append(("finish",))


class Failing(Notes):
    name = "failing"

    def log(self, metrics, step=None, commit=True):
        raise OSError("the disk is full")


class Ending(Notes):
    def finish_with(self, exit_code):
        self.calls.append(("finish_with", exit_code))


def test_a_backend_takes_every_call_and_ends_once():
    notes = Notes()
    tracker = Tracker([notes])
    tracker.log({"loss": 1.0})
    tracker.log({"loss": 2.0}, step=4, commit=False)
    tracker.log_config({"lr": 0.1})
    assert tracker.status().state == "inprocess"
    tracker.finish()
    tracker.finish()
    assert notes.calls == [
        ("log", {"loss": 1.0}, None, True),
        ("log", {"loss": 2.0}, 4, False),
        ("log_config", {"lr": 0.1}),
        ("finish",),
    ]
    assert tracker.status().state == "finished"


def test_what_a_backend_raises_reaches_no_other_and_is_warned_about_once(caplog):
    notes = Notes()
    tracker = Tracker([Failing(), notes])
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    assert len(notes.calls) == 3
    assert tracker.status().backend_failures == 3
    (warning,) = caplog.messages
    assert "failing.log()" in warning
    assert "the disk is full" in warning


def test_calls_after_the_end_are_counted_and_reach_no_backend(caplog):
    notes = Notes()
    tracker = Tracker([notes])
    tracker.finish()
    tracker.log({"loss": 1.0})
    tracker.log_config({"lr": 1})
    assert notes.calls == [("finish",)]
    assert tracker.status().calls_after_finish == 2
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("ending", "code"), [(None, 0), (ValueError("x"), 1), (SystemExit(3), 3)])
def test_a_backend_that_wants_to_know_learns_how_the_run_ended(ending, code):
    backend = Ending()
    try:
        with Tracker([backend]):
            if ending is not None:
                raise ending
    except (ValueError, SystemExit):
        pass
    assert backend.calls == [("finish_with", code)]


def test_a_step_reaches_the_backends_that_know_of_one_and_harms_no_other(caplog):
    class Drawing(Notes):
        name = "drawing"

        def log_image(self, key, image_path, caption=None, step=None):
            self.calls.append((key, step))

    class Seeds(Notes):
        def log_image(self, key, image_path, caption=None):
            self.calls.append((key, caption))

    drawing, seeds = Drawing(), Seeds()
    tracker = Tracker([seeds, drawing])
    tracker.log_image("a", "a.png", caption="c")
    tracker.log_image("b", "b.png", step=3)
    assert drawing.calls == [("a", None), ("b", 3)]
    assert seeds.calls == [("a", "c"), ("b", None)]
    assert tracker.status().backend_failures == 0
    assert tracker.get_backend(" Drawing ") is drawing


class ByKeyword:
    """A class that no base class makes a backend, and that takes its arguments by keyword alone."""

    def __init__(self):
        self.calls = []

    def log(self, metrics, *, step, commit):
        self.calls.append(("log", metrics, step, commit))

    def log_image(self, key, image_path, *, caption):
        self.calls.append(("log_image", key, image_path, caption))

    def log_artifacts(self, paths):
        self.calls.append(("log_artifacts", paths))

    def watch(self, model, **kwargs):
        self.calls.append(("watch", model, kwargs))

    def finish(self):
        self.calls.append(("finish",))


def test_a_class_with_a_backends_methods_is_called_by_keyword_and_with_what_was_given_alone():
    plain = ByKeyword()
    tracker = Tracker([plain])
    tracker.log({"loss": 1.0}, 3, False)
    tracker.log_config({"lr": 0.1})
    tracker.log_table("t", ["a"], [[1]])
    tracker.log_image("i", "i.png", "c")
    tracker.log_artifacts(paths={"code": "train.py"})
    tracker.watch("model")
    tracker.watch("model", log="gradients")
    tracker.unwatch()
    tracker.finish(1)
    assert plain.calls == [
        ("log", {"loss": 1.0}, 3, False),
        ("log_image", "i", "i.png", "c"),
        ("log_artifacts", {"code": "train.py"}),
        ("watch", "model", {}),
        ("watch", "model", {"log": "gradients"}),
        ("finish",),
    ]
    assert tracker.status().backend_failures == 0
    assert tracker.get_backend("bykeyword") is plain


def test_every_kind_of_tracker_is_a_tracker():
    assert isinstance(NullTracker(), Tracker)
    assert issubclass(RemoteTracker, Tracker)


def test_an_exiting_script_finishes_and_its_forked_child_does_not(tmp_path):
    script = f"""
        import os, sys
        from tracker_client import Tracker, TrackerBackend

        class Note(TrackerBackend):
            def log(self, metrics, step=None, commit=True): self.note(f"log {{metrics}}")
            def log_config(self, config): pass
            def finish(self): pass
            def finish_with(self, code): self.note(f"end {{code}}")
            def note(self, text):
                with open({str(tmp_path / "notes")!r}, "a") as file: print(text, file=file)

        tracker = Tracker([Note()])
        child = os.fork()
        if child == 0:
            tracker.log({{"from": "the child"}})
            sys.exit(0)
        os.waitpid(child, 0)
        tracker.log({{"a": 1}})
        raise ValueError
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, env=os.environ)
    assert (tmp_path / "notes").read_text() == "log {'a': 1}\nend 1\n"
