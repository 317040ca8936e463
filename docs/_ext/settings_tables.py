"""The directive ``{settings}``: a table of the daemon's settings, made from their own definitions.

Its content names the settings, in the order of the rows. Description and default of each come from its field
of :class:`tracker_daemon.settings.definitions.Settings`, which ``--help`` reads too.
"""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tracker_daemon.settings.definitions import Settings, flag_of, variable_of

IN_NO_FILE = "config"
"""The setting that names the file, and cannot stand in it."""
BINARY_UNITS = ("B", "KiB", "MiB", "GiB")


def table(names: list[str]) -> str:
    """Return the table of the settings ``names`` in MyST's Markdown.

    Raises:
        ValueError: there is no setting of one of the names.
    """
    rows = ["* - setting", "  - default", "  - meaning"]
    for name in names:
        rows += row(name)
    return "\n".join(["```{list-table}", ":header-rows: 1", ":widths: 30 16 54", "", *rows, "```"])


def row(name: str) -> list[str]:
    """Return one setting's row: its three forms, its default with the unit, its meaning."""
    if name not in Settings.model_fields:
        msg = f"there is no setting {name!r}"
        raise ValueError(msg)
    field = Settings.model_fields[name]
    key = "" if name == IN_NO_FILE else f"`{name}`"
    forms = [form for form in (key, f"`{flag_of(name)}`", f"`{variable_of(name)}`") if form]
    lines = [f"* - {forms[0]}"]
    for form in forms[1:]:
        lines[-1] += " \\"
        lines.append(f"    {form}")
    return [*lines, f"  - {default(name, field.get_default())}", f"  - {field.description}"]


def default(name: str, value: Any) -> str:
    """Return a default as the table shows it, with its unit."""
    if value is None:
        return "unset"
    if isinstance(value, list):
        value = ",".join(value)
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if name.endswith("_bytes"):
        return in_binary_units(value)
    if name.endswith("_s"):
        return f"{value:g} s"
    return ", ".join(f"`{part}`" for part in str(value).split(","))


def in_binary_units(size_bytes: int) -> str:
    """Return a size in the largest unit that holds it without a fraction."""
    size, unit = size_bytes, 0
    while size and size % 1024 == 0 and unit + 1 < len(BINARY_UNITS):
        size, unit = size // 1024, unit + 1
    return f"{size} {BINARY_UNITS[unit]}"


class SettingsTable(SphinxDirective):
    """``{settings}``: see the module."""

    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        """Return the table's nodes."""
        names = " ".join(self.content).split()
        return self.parse_text_to_nodes(table(names), offset=self.content_offset)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
