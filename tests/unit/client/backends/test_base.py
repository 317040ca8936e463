from __future__ import annotations

import pytest

from tracker_client import TrackerBackend, register_backend
from tracker_client.backends import base as backend
from tracker_client.backends.base import registered_backends
from tracker_client.errors import SettingsError


@pytest.fixture(autouse=True)
def _nothing_stays_registered(monkeypatch):
    monkeypatch.setattr(backend, "_registered", {})


class Kept(TrackerBackend):
    name = "kept"

    def __init__(self, **kwargs):
        self.kwargs = kwargs

    def log(self, metrics, step=None, commit=True): ...

    def log_config(self, config): ...

    def finish(self): ...


class WithoutFinish(TrackerBackend):
    def log(self, metrics, step=None, commit=True): ...

    def log_config(self, config): ...


def test_what_a_backend_must_have_is_log_log_config_and_finish():
    with pytest.raises(TypeError, match="finish"):
        WithoutFinish()


def test_tables_images_artifacts_and_watching_do_nothing_unless_overridden():
    kept = Kept()
    assert kept.log_table("t", ["a"], [[1]]) is None
    assert kept.log_image("i", "image.png", caption="c") is None
    assert kept.log_artifacts({"label": "path"}) is None
    assert kept.watch(object(), log="all") is None


def test_a_name_is_registered_as_backends_are_named_and_the_later_class_counts():
    class Later(Kept):
        pass

    register_backend(" Kept-Here ", Kept)
    assert registered_backends()["kept-here"] is Kept
    register_backend("kept-here", Later)
    assert registered_backends()["kept-here"] is Later


@pytest.mark.parametrize("name", ["", "  ", "none", "a,b", "a\nb", 3])
def test_a_name_that_no_list_of_backends_could_hold_is_an_error(name):
    with pytest.raises(SettingsError, match="cannot have the name"):
        register_backend(name, Kept)


def test_a_class_needs_no_base_class_to_be_registered():
    class Plain:
        def log(self, metrics, step=None, commit=True): ...

        def finish(self): ...

    register_backend("plain", Plain)
    assert registered_backends()["plain"] is Plain


@pytest.mark.parametrize("cls", [int, Kept(), lambda **_: Kept()])
def test_what_is_no_backend_class_is_an_error_that_names_the_base_class(cls):
    with pytest.raises(SettingsError, match="TrackerBackend"):
        register_backend("wrong", cls)
