"""Backends by name."""

from importlib.metadata import EntryPoint

import pytest

from tracker_daemon.backends import registry
from tracker_daemon.backends.memory import MemoryBackend
from tracker_daemon.errors import SettingsError


@pytest.fixture
def installed(monkeypatch):
    """Play packages that register what the test names."""

    def install(**values):
        points = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)

    return install


@pytest.mark.parametrize("name", ["csv", "memory", "mlflow", "wandb"])
def test_built_in_backends_are_there(monkeypatch, name):
    # Making one imports no SDK; whether its package is installed is another test's matter.
    monkeypatch.setattr(registry, "find_spec", lambda package: package)
    assert name in registry.known()
    assert registry.create(name).name == name


def test_an_installed_package_adds_a_backend(installed):
    installed(mine="tracker_daemon.backends.memory:MemoryBackend")
    assert registry.known() == ["csv", "memory", "mine", "mlflow", "wandb"]
    assert isinstance(registry.create("mine"), MemoryBackend)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(SettingsError, match=r"no backend 'cvs'; there are: csv, memory"):
        registry.create("cvs")


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, name):
    monkeypatch.setattr(registry, "find_spec", lambda package: None)
    with pytest.raises(SettingsError, match=rf"pip install 'tracker-daemon\[{name}\]'"):
        registry.create(name)


@pytest.mark.parametrize("value", ["no_such_package:Thing", "tracker_daemon.backends.memory:Missing"])
def test_a_package_that_cannot_be_imported_is_named(installed, value):
    installed(broken=value)
    with pytest.raises(SettingsError, match=r"'broken'.*cannot be imported"):
        registry.create("broken")


def test_what_is_no_backend_is_refused(installed):
    installed(odd="pathlib:Path")
    with pytest.raises(SettingsError, match="no Backend class"):
        registry.create("odd")
