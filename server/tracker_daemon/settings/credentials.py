"""The environment of each backend's process, and the secrets in it.

A backend's variables have the prefixes of its SDK. They are read from four places; a later one wins:

1. ``~/.amsc.env``;
2. the daemon's own environment;
3. the directory CREDENTIALS_DIRECTORY, where systemd puts a service's credentials, a file for each variable;
4. the project's ``.env``, found by walking up from the daemon's working directory.

From files a backend gets only its own variables. One backend's variables are never in another's environment,
and the daemon's own token is in none.

Variables that select a run (project, name, id …) are read on the ranks and sent with the run. Such variables
of the daemon are left out: otherwise one of them would apply to all of its runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from tracker_daemon.errors import BackendRefused
from tracker_daemon.settings.directories import working_directory

HOME_FILE = ".amsc.env"
PROJECT_FILE = ".env"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"

_MASK = "****"
_SECRET_MIN_CHARACTERS = 6
"""Shorter values are not masked: they would also occur in unrelated text."""


@dataclass(frozen=True, slots=True)
class BackendVariables:
    """The variables of one backend, by name or by prefix."""

    prefixes: tuple[str, ...]
    names: frozenset[str] = frozenset()
    selectors: frozenset[str] = frozenset()
    """Variables that select a run; these are read on the ranks."""
    files: tuple[str, ...] = ()
    """Files below the home directory in which the SDK looks for credentials."""
    stores: tuple[str, ...] = ()
    """Prefixes of variables for object stores: a file may set them, and all backends may see them."""

    def owns(self, name: str) -> bool:
        """True if the variable belongs to this backend alone."""
        return name in self.names or name.startswith(self.prefixes)

    def takes(self, name: str) -> bool:
        """True if a file may set the variable for this backend."""
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
    """Return the environment for the process of ``backend``: the daemon's, without others' secrets.

    ``environ``, ``directory`` and ``home`` are the daemon's by default. A backend that is not in BACKENDS
    gets no backend's variables.

    Raises:
        BackendRefused: one of the files exists and cannot be read.
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
    """Return ``environ`` with the variables that files set for a backend; ``service``: systemd's directory.

    Raises:
        BackendRefused: one of the files exists and cannot be read.
    """
    from_home = _own_values((home or Path.home()) / HOME_FILE, own)
    from_service = _own_credentials(service, own)
    from_project = _own_values(_project_file(directory or working_directory()), own)
    return {**from_home, **environ, **from_service, **from_project}


def circumstances(
    backend: str,
    environ: Mapping[str, str] | None = None,
    *,
    directory: Path | None = None,
    home: Path | None = None,
) -> object:
    """Return everything that may have caused a refusal of ``backend``, to notice a change later.

    That is its own variables, and the size and time of the files with credentials that they or its SDK name.
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
    """Return the secret values in an environment, longest first."""
    values = {
        value for name, value in environ.items() if _SECRET.search(name) and not _NO_SECRET.search(name)
    }
    return sorted((value for value in values if len(value) >= _SECRET_MIN_CHARACTERS), key=len, reverse=True)


def masked(text: str, environ: Mapping[str, str]) -> str:
    """Return ``text`` without the secrets of ``environ`` and without passwords in URLs."""
    for secret in secrets_of(environ):
        text = text.replace(secret, _MASK)
    return _USER_INFORMATION.sub(_MASK, text)


def without_user_information(url: str) -> str:
    """Return a URL without user name and password."""
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


def _project_file(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    candidates = (above / PROJECT_FILE for above in (directory, *directory.parents))
    return next((path for path in candidates if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # hidden from the daemon, as by a service's ProtectHome=: the same as no file
        return False


def _own_credentials(directory: str | None, own: BackendVariables) -> dict[str, str]:
    """Read the files of ``directory`` that are named like variables of the backend."""
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
    """Return the variables of ``path`` that the backend may have; none if the file does not exist."""
    if path is None or not _is_file(path):
        return {}
    try:
        values = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BackendRefused(
            f"{path} cannot be read ({error}); let the daemon's user read it, or remove it"
        ) from error
    return {name: value for name, value in values.items() if value is not None and own.takes(name)}
