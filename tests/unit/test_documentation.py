"""The documentation's claims that can be read off the code: settings, variables, commands, paths, bounds."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer.main

from tracker_client.settings.reading import KNOWN_OPTIONS
from tracker_client.settings.selectors import ARGUMENTS
from tracker_daemon.cli import application as cli
from tracker_daemon.settings.definitions import Settings, flag_of, variable_of
from tracker_protocol import limits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy/README.md", *PAGES]
COMMANDS = typer.main.get_command(cli.application(*cli.COMMANDS)).commands
GLOSSARY = (
    "call", "row", "cell", "home", "record", "tick", "cursor", "lane", "epoch", "attempt", "root", "node",
    "rank", "stream", "batch", "journal", "outbox", "pump", "fold",
)  # fmt: skip
READ_BY_NAME = re.compile(r"(TRACKER|EZPZ|WB|WANDB|MLFLOW)_[A-Z0-9_]+")


def page(name: str) -> str:
    return (DOCS / name).read_text()


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next heading of its level or above."""
    level, _, _ = title.partition(" ")
    after = text.partition(f"\n{title}\n")[2]
    return re.split(rf"\n#{{1,{len(level)}}} ", after)[0]


def first_cells(text: str) -> list[str]:
    """The first cell of each row of the Markdown tables in ``text``, less their headings."""
    cells = re.findall(r"^\| ?(.*?) ?\|", text, re.MULTILINE)
    return [cell for cell, after in zip(cells, [*cells[1:], ""], strict=True) if "---" not in cell + after]


def code_in(cells: list[str]) -> list[str]:
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- settings ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_tables", DOCS / "_ext/settings_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_is_in_one_table_of_the_page() -> None:
    blocks = re.findall(r"^```\{settings\}\n(.*?)```", page("settings.md"), re.DOTALL | re.MULTILINE)
    assert sorted(" ".join(blocks).split()) == sorted(Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_settings_row_has_its_forms_its_default_and_its_meaning(
    name: str, settings_tables: ModuleType
) -> None:
    row = "\n".join(settings_tables.row(name))
    setting, default, meaning = re.split(r"^(?:\* |  )- ", row, flags=re.MULTILINE)[1:]
    forms = {flag_of(name), variable_of(name)} | ({name} if name != "config" else set())
    assert set(re.findall(r"`([^`]+)`", setting)) == forms
    assert default.strip()
    assert meaning[0].isupper() or meaning.startswith("`")
    assert meaning.strip().endswith(".")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("lost_timeout_s", 60.0, "60 s"),
        ("commit_window_s", 0.005, "0.005 s"),
        ("history_bytes", 1 << 30, "1 GiB"),
        ("snapshot_every_bytes", 3 << 19, "1536 KiB"),
        ("tls", False, "`false`"),
        ("token", None, "unset"),
        ("record_ranks", "", "empty"),
        ("listen", ["127.0.0.1:0"], "`127.0.0.1:0`"),
        ("lagging_after_cells", 3, "`3`"),
    ],
)
def test_a_default_is_shown_with_its_unit(
    name: str, value: object, shown: str, settings_tables: ModuleType
) -> None:
    assert settings_tables.default(name, value) == shown


def test_a_table_names_no_setting_that_there_is_not(settings_tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="'lost_timeout'"):
        settings_tables.table(["lost_timeout"])


@pytest.mark.parametrize("command", ["serve", "run", "start", "doctor"])
def test_help_and_page_describe_a_setting_alike(command: str) -> None:
    helps = {
        parameter.name: parameter.help for parameter in COMMANDS[command].params if hasattr(parameter, "help")
    }
    for name, field in Settings.model_fields.items():
        assert helps[name].startswith(field.description), name


# ---- the client ----------------------------------------------------------------------------------


def variables_of_the_client() -> set[str]:
    """The variables that the client's code names: texts of it that are names of this kind."""
    return {
        node.value
        for path in (ROOT / "client").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and READ_BY_NAME.fullmatch(node.value)
    }


def test_every_variable_of_the_client_is_documented_and_no_other() -> None:
    text = section(page("settings.md"), "### Variables")
    shown = {found.group() for found in READ_BY_NAME.finditer(text)}
    assert shown == variables_of_the_client()


def test_every_argument_of_the_client_is_documented_and_no_other() -> None:
    positional = {"project_name", "backends", "config", "outdir", "rank", "run_id", "endpoint"}
    shown = set(code_in(first_cells(section(page("settings.md"), "### Arguments"))))
    assert shown == positional | KNOWN_OPTIONS | set(ARGUMENTS)


# ---- commands ------------------------------------------------------------------------------------


def documented_commands() -> list[tuple[str, str]]:
    """(page, command line) of each command of ours in code blocks and inline code."""
    found = []
    for path in TEXTS:
        text = path.read_text().replace("\\\n", " ")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        inline = re.findall(r"`(tracker-daemon [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        lines = [line for block in blocks for line in block.splitlines()] + inline
        for line in lines:
            found += [(named(path), ours) for ours in re.findall(r"tracker-daemon ([a-z-]+.*)", line)]
    return found


@pytest.mark.parametrize(("where", "line"), sorted(set(documented_commands())))
def test_a_documented_command_exists_with_its_options(where: str, line: str) -> None:
    words = shlex.split(line.replace("…", ""), comments=True)
    own = words[: words.index("--")] if "--" in words else words
    assert own[0] in COMMANDS
    options = {option for parameter in COMMANDS[own[0]].params for option in parameter.opts}
    given = {word.partition("=")[0] for word in own if word.startswith("--")}
    assert given <= options | {"--help"}


def test_every_command_is_in_the_table_of_operations() -> None:
    shown = code_in(first_cells(section(page("operations.md"), "## Commands")))
    assert {line.split()[1] for line in shown} == set(COMMANDS)


# ---- architecture --------------------------------------------------------------------------------


def test_every_path_that_a_page_names_exists() -> None:
    pattern = re.compile(r"[` ]((?:proto|client|server|tests|docs|deploy|\.ci)/[\w./-]*\w)(?=[`\s])")
    missing = [
        f"{named(path)}: {name}"
        for path in TEXTS
        for name in pattern.findall(path.read_text())
        if not (ROOT / name).exists() and name != "docs/_build/html"
    ]
    assert not missing


def test_every_name_that_a_page_finds_in_a_file_is_there() -> None:
    text = page("architecture.md")
    claims = re.findall(r"`(\w+)` in\s+`([\w./]+)`", text)
    assert len(claims) >= 5
    assert [name for name, path in claims if name not in (ROOT / path).read_text()] == []


@pytest.mark.parametrize(
    ("title", "package"),
    [("### The client", "client/tracker_client"), ("### The daemon", "server/tracker_daemon")],
)
def test_every_package_is_described(title: str, package: str) -> None:
    described = code_in(first_cells(section(page("architecture.md"), title)))
    packages = {named(path.parent) for path in (ROOT / package).glob("*/__init__.py")}
    assert packages <= set(described)


@pytest.mark.parametrize(
    ("title", "package"), [("### The client", "tracker_client"), ("### The daemon", "tracker_daemon")]
)
def test_packages_are_described_in_the_order_of_their_layers(title: str, package: str) -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    contracts = tools["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == [package]]
    depth = {name.strip(): i for i, layer in enumerate(layers) for name in layer.split("|")}
    described = code_in(first_cells(section(page("architecture.md"), title)))
    order = [depth[Path(path).stem] for path in described]
    assert order == sorted(order)


def test_the_glossary_defines_every_term() -> None:
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", section(page("architecture.md"), "## Glossary"), re.MULTILINE)
    definitions = dict(rows)
    assert len(definitions) == len(rows)
    assert [term for term in GLOSSARY if len(definitions.get(term, "")) < 20] == []


# ---- bounds, links, the front door ---------------------------------------------------------------


def in_words(name: str, value: float, settings_tables: ModuleType) -> str:
    if name.endswith("_BYTES"):
        return settings_tables.in_binary_units(value)
    return f"{value:g} s" if name.endswith("_S") else f"{value:,}"


def test_bounds_are_as_the_code_has_them(settings_tables: ModuleType) -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", page("guarantees.md"), re.MULTILINE)
    assert rows
    for name, shown in rows:
        assert shown == in_words(name, getattr(limits, name), settings_tables), name


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [target for target in targets if target and not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_a_page_has_one_title(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == (0 if "{include}" in path.read_text() else 1)


def test_the_readme_is_a_front_door() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    linked = {(ROOT / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", text)}
    included = {DOCS / name for name in ("index.md", "api.md", "deploy.md", "contributing.md")}
    assert set(PAGES) - linked == included
