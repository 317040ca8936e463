"""The names of the module ``wandb``: set while a tracker lasts, and whoever imports the module."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import SourceFileLoader

import pytest

from tracker_client.backends.wandb_module import ModuleNames
from tracker_client.values.refusals import Refusals

COMPLETE = "run = None\nlog = config = summary = watch = 'its own'\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package ``wandb`` that can be imported, and that nobody has imported."""
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source):
        (tmp_path / "wandb.py").write_text(source)
        importlib.invalidate_caches()

    yield make
    sys.modules.pop("wandb", None)


def names(label):
    return ModuleNames({"run": f"{label}'s run", "log": f"{label}'s log"}, Refusals())


def test_the_names_of_wandb_itself_are_set_until_the_end_and_others_are_left_alone():
    wandb = pytest.importorskip("wandb")
    before = dict(vars(wandb))
    one = names("one")
    one.begin()
    assert (wandb.run, wandb.log, wandb.config) == ("one's run", "one's log", before["config"])
    one.end()
    assert dict(vars(wandb)) == before


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_the_last_tracker_s_names_hold_and_then_those_of_the_one_that_is_left(package, caplog, first_to_end):
    package(COMPLETE)
    import wandb

    trackers = [names("one"), names("two")]
    for tracker in trackers:
        tracker.begin()
    assert wandb.log == "two's log"
    trackers.pop(first_to_end).end()
    assert wandb.log == ("two's log", "one's log")[first_to_end]
    trackers.pop().end()
    assert (wandb.run, wandb.log) == (None, "its own")
    assert not caplog.messages


def test_names_that_the_script_has_set_since_then_stay_and_a_warning_names_the_right_order(package, caplog):
    package(COMPLETE)
    import wandb

    one = names("one")
    one.begin()
    wandb.run, wandb.log = "the script's run", "the script's log"
    one.end()
    assert (wandb.run, wandb.log) == ("the script's run", "the script's log")
    (warning,) = caplog.messages
    assert "call wandb.init() before setup_tracker" in warning


def test_a_later_import_finds_the_names_set_and_the_module_as_it_always_is(package):
    package(COMPLETE)
    finders = list(sys.meta_path)
    one = names("one")
    one.begin()
    assert "wandb" not in sys.modules
    import wandb

    assert (wandb.run, wandb.watch) == ("one's run", "its own")
    assert type(wandb.__loader__) is type(wandb.__spec__.loader) is SourceFileLoader
    assert sys.meta_path == finders
    one.end()
    assert wandb.run is None


def test_an_import_after_the_end_is_an_import_as_any_other(package):
    package(COMPLETE)
    finders = list(sys.meta_path)
    one = names("one")
    one.begin()
    one.end()
    assert sys.meta_path == finders
    import wandb

    assert wandb.run is None


def test_an_import_that_fails_fails_as_ever_and_the_next_one_finds_the_names(package):
    package("raise RuntimeError('broken')")
    one = names("one")
    one.begin()
    with pytest.raises(RuntimeError, match="broken"):
        import wandb
    package(COMPLETE + "# complete\n")
    import wandb

    assert wandb.run == "one's run"
    one.end()


def test_a_version_without_these_names_is_left_alone_and_the_warning_names_the_tracker_s_methods(
    package, caplog
):
    package("__version__ = '9.9'\nrun = None\n")
    one = names("one")
    one.begin()
    import wandb

    assert wandb.run is None
    (warning,) = caplog.messages
    assert "wandb 9.9" in warning
    assert "tracker.log" in warning
    one.end()
