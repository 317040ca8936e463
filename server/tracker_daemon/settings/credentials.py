"""Which environment each backend's process gets, and what of it is secret.

A backend's variables are those whose names begin as its SDK's do. They come from four places, the
later winning: ``~/.amsc.env``; the daemon's own environment; the directory that CREDENTIALS_DIRECTORY
names, where systemd puts a service's credentials, a file for each variable; and the project's ``.env``,
found by walking up from the daemon's working directory. From the files a backend takes its own variables
and nothing else. One backend's variables are never in another's environment, and
the daemon's own token is in none.

What selects a run (its project, name, id …) is read on the ranks and comes with the run: such
variables of the daemon are left out, or one of them would name all of the daemon's runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from tracker_daemon.errors import BackendRefused

HOME_FILE = ".amsc.env"
PROJECT_FILE = ".env"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"

_MASK = "****"
_SECRET_MIN_CHARACTERS = 6
"""Shorter values are masked nowhere: they would take half of every text with them."""


@dataclass(frozen=True, slots=True)
class BackendVariables:
    """The variables of one backend, by name or by the beginning of their names."""

    prefixes: tuple[str, ...]
    names: frozenset[str] = frozenset()
    selectors: frozenset[str] = frozenset()
    """What selects a run, which the ranks say."""
    files: tuple[str, ...] = ()
    """Files below the home directory in which its SDK looks for credentials."""
    stores: tuple[str, ...] = ()
    """Beginnings of variables for object stores, which a file may set for it, and which all may see."""

    def owns(self, name: str) -> bool:
        """Whether the variable is this backend's alone."""
        return name in self.names or name.startswith(self.prefixes)

    def takes(self, name: str) -> bool:
        """Whether a file may set the variable for this backend."""
        return (self.owns(name) or name.startswith(self.stores)) and name not in self.selectors


BACKENDS: Mapping[str, BackendVariables] = {
    "mlflow": BackendVariables(
        prefixes=("MLFLOW_", "_MLFLOW_", "DATABRICKS_", "AMSC_", "AM_SC_"),
        files=(".mlflow/credentials", ".databrickscfg"),
        selectors=frozenset(
            {
                "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_RUN_NAME",
                "MLFLOW_RUN_CONTEXT", "MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID",
            }
        ),
        stores=("AWS_", "AZURE_", "GOOGLE_"),
    ),
    "wandb": BackendVariables(
        prefixes=("WANDB_", "WB_"),
        files=(".netrc", "_netrc"),
        selectors=frozenset(
            {
                "WANDB_PROJECT", "WB_PROJECT", "WB_PROJECT_NAME", "WANDB_ENTITY", "WANDB_RUN_GROUP",
                "WANDB_NAME", "WANDB_TAGS", "WANDB_NOTES", "WANDB_JOB_TYPE", "WANDB_RUN_ID", "WANDB_RESUME",
                "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_DIR", "WANDB_PROGRAM",
            }
        ),
        stores=("AWS_", "AZURE_", "GOOGLE_"),
    ),
}  # fmt: skip

_DAEMONS_OWN = frozenset({"TRACKER_TOKEN", "TRACKER_TOKEN_FILE", CREDENTIALS_VARIABLE})
_SECRET = re.compile(r"(?i)(key|token|secret|password|passwd|credential)")
_NO_SECRET = re.compile(r"(?i)(_(file|path|command|uri|url|host)|_timeout|_max_\w+)$")
_USER_INFORMATION = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def child_environment(
    backend: str,
    environ: Mapping[str, str] | None = None,
    *,
    directory: Path | None = None,
    home: Path | None = None,
) -> dict[str, str]:
    """The environment for the process of ``backend``: the daemon's, less what is not its own to see.

    ``environ``, ``directory`` and ``home`` are the daemon's by default. A backend that is not in
    BACKENDS gets what is no backend's.

    Raises:
        BackendRefused: one of the files is there and cannot be read.
    """
    environ = os.environ if environ is None else environ
    own = BACKENDS.get(backend)
    inherited = {name: value for name, value in environ.items() if _may_see(own, name)}
    if own is None:
        return inherited
    return with_files(
        own, inherited, service=environ.get(CREDENTIALS_VARIABLE), directory=directory, home=home
    )


def with_files(
    own: BackendVariables,
    environ: Mapping[str, str],
    *,
    service: str | None = None,
    directory: Path | None = None,
    home: Path | None = None,
) -> dict[str, str]:
    """``environ`` and what the files set for a backend; ``service``: a service manager's directory of them.

    Raises:
        BackendRefused: one of the files is there and cannot be read.
    """
    from_home = _own_values((home or Path.home()) / HOME_FILE, own)
    from_service = _own_credentials(service, own)
    from_project = _own_values(_project_file(directory or Path.cwd()), own)
    return {**from_home, **environ, **from_service, **from_project}


def circumstances(
    backend: str,
    environ: Mapping[str, str] | None = None,
    *,
    directory: Path | None = None,
    home: Path | None = None,
) -> object:
    """What a refusal of ``backend`` may have come of, to be compared with what it is later.

    Its own variables, and size and time of the files with credentials that these or its SDK name.
    """
    own = BACKENDS.get(backend)
    if own is None:
        return None
    try:
        environment = child_environment(backend, environ, directory=directory, home=home)
    except BackendRefused as error:
        return str(error)
    variables = {name: value for name, value in environment.items() if own.takes(name)}
    named = [value for name, value in variables.items() if value and name.endswith(("_FILE", "_PATH"))]
    paths = [Path(path).expanduser() for path in named] + [(home or Path.home()) / name for name in own.files]
    return variables, [_size_and_time(path) for path in paths]


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """The secret values in an environment, the longest first."""
    values = {
        value for name, value in environ.items() if _SECRET.search(name) and not _NO_SECRET.search(name)
    }
    return sorted((value for value in values if len(value) >= _SECRET_MIN_CHARACTERS), key=len, reverse=True)


def masked(text: str, environ: Mapping[str, str]) -> str:
    """``text`` without the secrets of ``environ`` and without passwords in URLs."""
    for secret in secrets_of(environ):
        text = text.replace(secret, _MASK)
    return _USER_INFORMATION.sub(_MASK, text)


def without_user_information(url: str) -> str:
    """A URL as it may be shown: no user name, no password."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", url)


def _may_see(own: BackendVariables | None, name: str) -> bool:
    if own is not None and own.owns(name):
        return name not in own.selectors
    return name not in _DAEMONS_OWN and not any(other.owns(name) for other in BACKENDS.values())


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def _project_file(directory: Path) -> Path | None:
    candidates = (above / PROJECT_FILE for above in (directory, *directory.parents))
    return next((path for path in candidates if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # withheld from the daemon, as a service's ProtectHome= does: nothing is there
        return False


def _own_credentials(directory: str | None, own: BackendVariables) -> dict[str, str]:
    """Files of ``directory`` that are named like variables of the backend, and what they hold."""
    if not directory:
        return {}
    try:
        paths = [path for path in Path(directory).iterdir() if own.takes(path.name)]
        return {path.name: path.read_text(encoding="utf-8").rstrip("\n") for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        raise BackendRefused(
            f"the credentials in {directory} cannot be read ({error}); see LoadCredential= of the service"
        ) from error


def _own_values(path: Path | None, own: BackendVariables) -> dict[str, str]:
    """The variables of ``path`` that the backend takes; a file that is not there has none."""
    if path is None or not _is_file(path):
        return {}
    try:
        values = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BackendRefused(
            f"{path} cannot be read ({error}); let the daemon's user read it, or remove it"
        ) from error
    return {name: value for name, value in values.items() if value is not None and own.takes(name)}
