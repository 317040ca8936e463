"""Rules of the tree that import contracts cannot express."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def reads_environment(path: Path) -> list[int]:
    """The lines at which a module reads the process's environment."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in {"environ", "environb", "getenv"}
    ]


def test_only_the_settings_of_the_client_read_the_environment() -> None:
    package = ROOT / "client" / "tracker_client"
    readers = {str(path.relative_to(package)) for path in package.rglob("*.py") if reads_environment(path)}
    assert readers == {"settings/reading.py"}


@pytest.mark.parametrize("folder", ["proto", "client", "server"])
def test_a_source_folder_is_no_package_itself(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    "package", ["proto/tracker_protocol", "client/tracker_client", "server/tracker_daemon"]
)
def test_each_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
