"""Selectors: the options that select a backend's run, read on the rank and sent to the daemon.

There are three sources; a later one wins:

1. the rank's environment;
2. bare keyword arguments of ``setup_tracker``, which apply to each backend whose table has them;
3. a backend's own dict: ``wandb={...}``, ``mlflow={...}``, or a dict named as any other backend of the run.

WANDB_DISABLED wins over all three.

Secrets and addresses of services belong to the daemon alone: who could choose where the daemon's key is
sent could obtain it. Their variables are not read here, and arguments with such names are left out with a
warning (``tracker_protocol.backend_options``). On the wire W&B's ``tags`` are always a list of texts,
MLflow's an object of texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tracker_client.values.arguments import strict_json, valid_text
from tracker_protocol import limits
from tracker_protocol.backend_options import find_daemon_only, is_daemon_only
from tracker_protocol.wandb_id import wandb_id

WANDB, MLFLOW = "wandb", "mlflow"

WANDB_ARGUMENTS: Mapping[str, str] = {
    name: name
    for name in (
        "entity", "group", "job_type", "tags", "notes", "mode", "id", "resume", "resume_from", "fork_from",
        "name", "save_code", "sweep_id",
    )
}  # fmt: skip
MLFLOW_ARGUMENTS: Mapping[str, str] = {
    "name": "run_name",
    "run_name": "run_name",
    "experiment_name": "experiment_name",
    "description": "description",
    "tags": "tags",
    "log_system_metrics": "log_system_metrics",
    "mlflow_own_name": "own_name",
}
"""Bare arguments, each with the backend's name for it; of two with the same name the later wins."""
ARGUMENTS: Mapping[str, Mapping[str, str]] = {WANDB: WANDB_ARGUMENTS, MLFLOW: MLFLOW_ARGUMENTS}

WANDB_VARIABLES: Mapping[str, str] = {
    "WANDB_ENTITY": "entity",
    "WANDB_RUN_GROUP": "group",
    "WANDB_NAME": "name",
    "WANDB_TAGS": "tags",
    "WANDB_NOTES": "notes",
    "WANDB_JOB_TYPE": "job_type",
    "WANDB_RUN_ID": "id",
    "WANDB_RESUME": "resume",
    "WANDB_MODE": "mode",
    "WANDB_SWEEP_ID": "sweep_id",
}
MLFLOW_VARIABLES: Mapping[str, str] = {
    "MLFLOW_EXPERIMENT_NAME": "experiment_name",
    "MLFLOW_RUN_NAME": "run_name",
}
VARIABLES: Mapping[str, Mapping[str, str]] = {WANDB: WANDB_VARIABLES, MLFLOW: MLFLOW_VARIABLES}
SYSTEM_METRICS = "log_system_metrics"
SYSTEM_METRICS_WARNING = (
    "log_system_metrics has no effect: no system metrics are recorded; log this process's own by tracker.log"
)
"""Of MLflow's own option, which would measure the process that talks to MLflow."""
DISABLED_VARIABLE = "WANDB_DISABLED"
MODES: Mapping[str, str] = {"dryrun": "offline", "run": "online"}
"""W&B's older names of its modes."""

Options = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Selectors:
    """The selectors of one run, as they are sent to the daemon.

    Attributes:
        document: a JSON object with an object of options for each backend; None if there are no options.
        argument_names: names of the keyword arguments that belong to backends, also of those left out.
        warnings: sentences for the user.
    """

    document: str | None
    argument_names: frozenset[str]
    warnings: tuple[str, ...]


def read_selectors(
    environ: Mapping[str, str], arguments: Mapping[str, Any], backends: str | None = None
) -> Selectors:
    """Read the selectors from ``environ`` and from the keyword ``arguments`` of ``setup_tracker``.

    Args:
        environ: the rank's environment.
        arguments: keyword arguments, without the client's own options.
        backends: the names of the run's backends, separated by commas; None if they are not known.
    """
    owners = {WANDB, MLFLOW, *filter(None, (backends or "").split(","))} & set(arguments)
    withheld: list[str] = []
    warnings: list[str] = []
    bare = {name: value for name, value in arguments.items() if name not in owners}
    refused = {name for name in bare if is_daemon_only(name)}
    withheld.extend(sorted(refused))
    layers = (
        _from_environment(environ),
        _from_bare(bare),
        {name: _own_options(name, arguments[name], withheld, warnings) for name in sorted(owners)},
    )
    options = _in_wire_form(_merged(layers))
    if is_disabled(environ):
        options.setdefault(WANDB, {})["mode"] = "disabled"
    if options[MLFLOW].pop(SYSTEM_METRICS, False):
        warnings.append(SYSTEM_METRICS_WARNING)
    if withheld:
        warnings.append(
            f"setup_tracker does not send {', '.join(withheld)}: secrets and addresses of services belong to "
            "the daemon alone; set them in the daemon's environment"
        )
    document = _bounded_document(options, warnings)
    known = {name for table in ARGUMENTS.values() for name in table} & set(bare)
    return Selectors(document, frozenset(owners | refused | known), tuple(warnings))


def given_handles(document: str | None, run_id: str) -> dict[str, dict[str, str]]:
    """Return, by backend, the ids that follow from what the script gives: selectors, and its run id."""
    wanted = json.loads(document or "{}").get(WANDB, {}).get("id") or run_id
    return {WANDB: {"id": wandb_id(str(wanted))}} if wanted else {}


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return True if WANDB_DISABLED is set to anything but a no; W&B itself treats even "false" as yes."""
    return environ.get(DISABLED_VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off")


def _from_environment(environ: Mapping[str, str]) -> Options:
    return {
        backend: {
            name: valid_text(environ[variable]) for variable, name in table.items() if environ.get(variable)
        }
        for backend, table in VARIABLES.items()
    }


def _from_bare(arguments: Mapping[str, Any]) -> Options:
    return {
        backend: {
            name: _as_json(arguments[argument])
            for argument, name in table.items()
            if arguments.get(argument) is not None
        }
        for backend, table in ARGUMENTS.items()
    }


def _own_options(backend: str, given: Any, withheld: list[str], warnings: list[str]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        warnings.append(
            f"setup_tracker takes {backend}'s options as a dict; {backend} is of type "
            f"{type(given).__name__} and is left out"
        )
        return {}
    own = {valid_text(str(name)): value for name, value in given.items() if value is not None}
    for name in filter(is_daemon_only, tuple(own)):
        # Removed before the conversion: a settings object converted to text would show its secrets.
        del own[name]
        withheld.append(f"{backend}[{name!r}]")
    converted = {name: _as_json(value) for name, value in own.items()}
    for holder, name, path in find_daemon_only(converted, backend):
        del holder[name]
        withheld.append(path)
    return converted


def _as_json(value: Any) -> Any:
    try:
        return strict_json(value)
    except Exception:  # noqa: BLE001 - a value's own conversion to text may raise anything
        return f"<{type(value).__name__}>"


def _merged(layers: Iterable[Options]) -> Options:
    options: Options = {}
    for layer in layers:
        for backend, own in layer.items():
            options.setdefault(backend, {}).update(own)
    return options


def _in_wire_form(options: Options) -> Options:
    wandb, mlflow = options[WANDB], options[MLFLOW]
    if "tags" in wandb:
        wandb["tags"] = _tag_list(wandb["tags"])
    if "tags" in mlflow:
        mlflow["tags"] = _tag_object(mlflow["tags"])
    if isinstance(wandb.get("mode"), str):
        wandb["mode"] = MODES.get(wandb["mode"], wandb["mode"])
    return options


def _tag_list(tags: Any) -> list[str]:
    if isinstance(tags, str):
        return [tag for tag in map(str.strip, tags.split(",")) if tag]
    if isinstance(tags, dict):
        return [f"{name}:{value}" for name, value in tags.items()]
    return [str(tag) for tag in tags] if isinstance(tags, list) else [str(tags)]


def _tag_object(tags: Any) -> dict[str, str]:
    if isinstance(tags, dict):
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in tags.items()}
    return dict.fromkeys(_tag_list(tags), "true")


def _bounded_document(options: Options, warnings: list[str]) -> str | None:
    """Encode ``options`` as JSON; drop the largest options until the daemon accepts the size."""
    size = len(_encode(options))
    if size > limits.BACKEND_OPTIONS_MAX_BYTES:
        weights = [
            (len(_encode({name: value})) - 2, backend, name)
            for backend, own in options.items()
            for name, value in own.items()
        ]
        left_out = []
        for weight, backend, name in sorted(weights, reverse=True):
            if size <= limits.BACKEND_OPTIONS_MAX_BYTES:
                break
            del options[backend][name]
            size -= weight
            left_out.append(f"{backend}[{name[:80]!r}]")
        named = ", ".join(left_out[:8]) + (" and more" if len(left_out) > 8 else "")
        warnings.append(
            f"{named} of setup_tracker are left out: the options of all backends together may have "
            f"{limits.BACKEND_OPTIONS_MAX_BYTES} bytes of JSON"
        )
    filled = {backend: own for backend, own in options.items() if own}
    return _encode(filled).decode() if filled else None


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
