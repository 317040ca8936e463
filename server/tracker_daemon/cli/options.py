"""Every setting as an option: the commands' signatures, made from the settings' own class.

A new setting becomes an option of ``serve`` and ``run`` without a change here. Values stay text until
``settings.loading.load`` reads them. So the same mistake gets the same message as a flag, as a variable
and as a key of the file.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from tracker_daemon.settings.definitions import DEFAULT_ORIGIN, Settings, flag_of

PANEL = "Settings (also TRACKER_<NAME> in the environment, <name> in the file)"
REPEATABLE = frozenset({"listen", "interface"})
"""Settings that are lists: their flag may be given several times."""
METAVARS = {
    "config": "FILE",
    "endpoint_file": "FILE",
    "upstream": "ENDPOINT",
    "upstream_tls_root": "FILE",
    "state_dir": "DIR",
    "outdir": "DIR",
    "listen": "ADDRESS",
    "interface": "NAME",
    "tls_cert": "FILE",
    "tls_key": "FILE",
    "backends": "NAMES",
    "primary_rank": "RANK",
    "record_ranks": "RANKS",
    "item_ranks": "RANKS",
    "reporters": "RULES",
    "aggregates": "RULES",
    "step_axes": "RULES",
    "summaries": "RULES",
    "thinning": "RULES",
    "config_may_differ": "GLOBS",
    "system_prefix": "WORD",
    "mlflow_own_name": "NAME",
    "log_level": "LEVEL",
    "log_format": "FORMAT",
}
METAVARS_BY_UNIT = {"_s": "SECONDS", "_bytes": "BYTES", "_cells": "N"}


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command(flags, **own)`` the options of all settings; ``flags`` holds those that were given."""
    own = [
        parameter
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if name != "flags"
    ]

    @functools.wraps(command)
    def accept(**values: Any) -> Any:
        given = {name: values.pop(name) for name in Settings.model_fields}
        flags = {name: value for name, value in given.items() if value not in (None, [])}
        return command(flags, **values)

    options = [_option(name, field) for name, field in Settings.model_fields.items()]
    accept.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    accept.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    return accept


def check_backends(settings: Settings) -> None:
    """Refuse backends that this machine does not have, where a flag or a file names them.

    A name from the environment may be a script's own class: scripts read ``TRACKER_BACKENDS`` too.

    Raises:
        SettingsError: a backend or its package is missing.
    """
    source = settings.origin("backends")
    if source != DEFAULT_ORIGIN and not source.startswith("environment"):
        from tracker_daemon.backends import registry  # noqa: PLC0415 - the other commands spare it

        registry.require(settings.backend_names, source)


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Return the command line that passes ``flags`` to another process."""
    arguments = []
    for name, value in flags.items():
        if isinstance(value, bool):
            arguments.append(flag_of(name) if value else _opposite(name))
        else:
            items = value if isinstance(value, (list, tuple)) else [value]
            arguments += [f"{flag_of(name)}={item}" for item in items]
    return arguments


def _opposite(name: str) -> str:
    return flag_of(f"no_{name}")


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    is_switch = field.annotation is bool
    option = typer.Option(
        f"{flag_of(name)}/{_opposite(name)}" if is_switch else flag_of(name),
        help=_help(field),
        metavar=None if is_switch else _metavar(name),
        show_default=False,
        rich_help_panel=PANEL,
    )
    kind = bool if is_switch else list[str] if name in REPEATABLE else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _help(field: FieldInfo) -> str:
    default = field.get_default()
    shown = ",".join(default) if isinstance(default, list) else default
    if shown in (None, ""):
        return str(field.description)
    # As code: help is Markdown, which would take the asterisks of globs for emphasis.
    code = f"`{shown}`" if "*" in str(shown) else shown
    return f"{field.description} [default: {code}]"


def _metavar(name: str) -> str:
    by_unit = (metavar for unit, metavar in METAVARS_BY_UNIT.items() if name.endswith(unit))
    return METAVARS.get(name) or next(by_unit, "VALUE")
