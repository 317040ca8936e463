"""Backends by name."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from tracker_daemon.backends import registry
from tracker_daemon.backends.memory import MemoryBackend
from tracker_daemon.errors import SettingsError


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install a package that registers the classes that the test names."""

    def install(**values):
        information = tmp_path / "registers-1.0.dist-info"
        information.mkdir()
        information.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: registers\nVersion: 1.0\n")
        points = "\n".join(f"{name} = {value}" for name, value in values.items())
        information.joinpath("entry_points.txt").write_text(f"[tracker_daemon.backends]\n{points}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def importable(name):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


@pytest.mark.parametrize("name", ["csv", "memory", "mlflow", "wandb"])
def test_built_in_backends_are_there(monkeypatch, name):
    # Creating a backend imports no SDK, so an empty package suffices here.
    monkeypatch.setitem(sys.modules, name, importable(name))
    assert name in registry.known()
    assert registry.create(name).name == name


def test_an_installed_package_adds_a_backend(installed):
    installed(mine="tracker_daemon.backends.memory:MemoryBackend")
    assert registry.known() == ["csv", "memory", "mine", "mlflow", "wandb"]
    assert isinstance(registry.create("mine"), MemoryBackend)


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        SettingsError, match=r"no backend 'cvs' \(did you mean 'csv'\?\); there are: csv, memory"
    ):
        registry.create("cvs")


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # as Python notes that there is no such package
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
