"""Rules of the tree that import contracts cannot express."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
    # The second one reads no setting: it sets a variable that gRPC reads, and restores it.
    assert readers == {"settings/reading.py", "transport/grpc_loading.py"}


@pytest.mark.parametrize("folder", ["proto", "client", "server"])
def test_a_source_folder_is_no_package_itself(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    "package", ["proto/tracker_protocol", "client/tracker_client", "server/tracker_daemon"]
)
def test_each_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


MODULES_PER_FOLDER_MAX = 14
PACKAGES = sorted(
    path.parent for folder in ("client", "server") for path in (ROOT / folder).rglob("__init__.py")
)


def parts_of(package: Path) -> set[str]:
    """The modules and packages directly in a package."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


def dotted_name(package: Path) -> str:
    """The name by which Python imports a package."""
    return ".".join(package.relative_to(ROOT).parts[1:])


def layered_parts() -> dict[str, set[str]]:
    """The parts of each package for which a contract of exhaustive layers exists."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return {
        container: {part.strip() for layer in contract["layers"] for part in layer.split("|")}
        for contract in contracts
        if contract["type"] == "layers" and contract.get("exhaustive")
        for container in contract["containers"]
    }


@pytest.mark.parametrize("package", PACKAGES, ids=dotted_name)
def test_the_docstring_of_a_package_names_each_part_and_nothing_else(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    mentioned = set(re.findall(r"``(\w+)``", docstring))
    described = set(re.findall(r"``(\w+)``(?=:|, ``\w+``)", docstring))
    assert parts_of(package) - mentioned == set()
    assert described - parts_of(package) == set()


@pytest.mark.parametrize("package", PACKAGES, ids=dotted_name)
def test_import_contracts_cover_each_package_with_packages_in_it(package: Path) -> None:
    if any(package.glob("*/__init__.py")):
        assert layered_parts().get(dotted_name(package), set()) == parts_of(package)


def docstrings_of(tree: ast.Module) -> Iterator[ast.Constant]:
    """The docstrings of a module, of its classes and functions, and of their attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def names_in(tree: ast.Module) -> Iterator[str]:
    """The names in a module's code, and the words of its texts, docstrings left out."""
    docstrings = set(docstrings_of(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield from re.findall(r"\w+", node.value)
        yield from (
            str(getattr(node, field)) for field in ("id", "attr", "name", "arg") if hasattr(node, field)
        )


def test_a_constant_that_a_docstring_names_exists() -> None:
    paths = [path for folder in ("client", "server", "proto") for path in (ROOT / folder).rglob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    names = {name for tree in trees.values() for name in names_in(tree)}
    names |= {"SQLITE_CORRUPT", "SQLITE_NOTADB"}  # SQLite's
    missing = {
        (path.name, constant)
        for path, tree in trees.items()
        for docstring in docstrings_of(tree)
        for constant in re.findall(r"\b[A-Z][A-Z0-9]+_[A-Z0-9_]+\b", docstring.value)
        if constant not in names and not constant.startswith("TRACKER_")  # made of a setting's name
    }
    assert missing == set()


@pytest.mark.parametrize("package", PACKAGES, ids=dotted_name)
def test_a_folder_is_small_enough_to_be_read_at_once(package: Path) -> None:
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert len(modules) <= MODULES_PER_FOLDER_MAX
