"""The connection to an MLflow tracking store: where it is, who we are there, and what its errors mean.

Errors are told apart by the exception's type and MLflow's error code, and where a gateway answered in
MLflow's place, by the HTTP status of a request made to learn it. Never by their text.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from tracker_daemon.backends.mlflow.authentication import (
    TokenSource,
    api_key,
    prepare_tls,
    register_api_key_header,
    sent_with,
    tls_refusal,
)
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.settings.credentials import without_user_information

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from requests import RequestException

T = TypeVar("T")

DATABASE_FILE = "mlflow.db"
ARTIFACT_DIRECTORY = "mlartifacts"

_SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
_UNAUTHENTICATED = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
_FORBIDDEN = {"PERMISSION_DENIED"}
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND"}
_INVALID = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_UNCLASSIFIED = {"INTERNAL_ERROR"}
_PASSING = {"TEMPORARILY_UNAVAILABLE"}
_BAD_STATUSES = {400, 413, 414, 422}
_CODE_OF_STATUS = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "ENDPOINT_NOT_FOUND"}


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the runs go. ``shown`` is the URI without user name and password."""

    uri: str
    file: Path | None = None
    """The database's file, for the local store."""
    artifact_location: str | None = None
    """For experiments made here; None leaves it to the server."""

    @staticmethod
    def of(environ: Mapping[str, str], outdir: Path) -> StoreAddress:
        """``MLFLOW_TRACKING_URI``, else a database in ``outdir``."""
        artifacts = (outdir / ARTIFACT_DIRECTORY).as_uri()
        uri = environ.get("MLFLOW_TRACKING_URI", "").strip()
        if not uri:
            file = outdir / DATABASE_FILE
            return StoreAddress(_sqlite_uri(file), file, artifacts)
        # A database that is used directly has no server that would know where artifacts go.
        return StoreAddress(uri, artifact_location=artifacts if uri.startswith(_SQL_SCHEMES) else None)

    @property
    def shown(self) -> str:
        """The URI as it may be shown to anyone."""
        return without_user_information(self.uri)

    @property
    def is_http(self) -> bool:
        """Whether a server is asked by HTTP."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def is_sql(self) -> bool:
        """Whether a database is used directly."""
        return self.uri.startswith(_SQL_SCHEMES)

    def run_location(self, experiment_id: str, run_id: str) -> str:
        """Where a person finds a run."""
        if self.file is not None:
            return str(self.file)
        if not self.is_http:
            return self.shown
        return f"{self.shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


class MlflowConnection:
    """An MlflowClient whose errors are the backend's, with its credentials.

    Raises:
        BackendRefused, BackendUnavailable: from each method, as its error is.
        PoisonEntry: from :meth:`call`, when MLflow finds what it was given invalid.
    """

    def __init__(self, address: StoreAddress, environ: Mapping[str, str]) -> None:
        self.address = address
        self._environ = environ
        self._token = TokenSource(environ)
        self._api_key = None
        if address.is_http:
            self._token.renew()
            self._api_key = api_key(environ)
            prepare_tls(environ)
        if self._api_key:
            register_api_key_header()
        self._client = self._connect()

    def call(self, action: Callable[[MlflowClient], T]) -> T:
        """What ``action`` returns; once more with a new token, where the old one is not taken any longer."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415  # the package is optional

        try:
            return self._attempt(action)
        except MlflowException as error:
            code = self._code(error)
            if not (code in _UNAUTHENTICATED and self._token.renew()):
                raise self._translated(error, code) from error
        except _sql_errors() as error:
            raise BackendUnavailable(f"the database {self.address.shown} failed: {error}") from error
        try:
            return self._attempt(action)
        except MlflowException as error:
            raise self._translated(error, self._code(error)) from error

    def move_artifacts(self, artifact_uri: str, action: Callable[[ArtifactRepository], T]) -> T:
        """What ``action`` returns, which moves artifacts to or from ``artifact_uri``; raises as :meth:`call`.

        The key goes along only where they pass through the tracking server: not to another host's store.
        """
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
        from requests import RequestException  # noqa: PLC0415  # comes with mlflow

        try:
            return self._move(artifact_uri, action)
        except RequestException as error:
            status = error.response.status_code if error.response is not None else None
            if not (status in _CODE_OF_STATUS and self._token.renew()):
                raise self._refused_transfer(error, status) from error
        except MlflowException as error:
            raise self._translated(error, self._code(error)) from error
        try:
            return self._move(artifact_uri, action)
        except (RequestException, MlflowException) as error:
            raise BackendUnavailable(f"artifacts cannot be moved to {artifact_uri}: {error}") from error

    def _move(self, artifact_uri: str, action: Callable[[ArtifactRepository], T]) -> T:
        from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415
            get_artifact_repository,
        )

        with sent_with(self._api_key if self._passes_through(artifact_uri) else None):
            uri = self.address.uri
            return action(get_artifact_repository(artifact_uri, tracking_uri=uri, registry_uri=uri))

    def _passes_through(self, artifact_uri: str) -> bool:
        ours, theirs = urlsplit(self.address.uri), urlsplit(artifact_uri)
        host, other = (url.netloc.rpartition("@")[2] for url in (ours, theirs))
        return theirs.scheme in {"mlflow-artifacts", ours.scheme} and other in {"", host}

    def _refused_transfer(self, error: RequestException, status: int | None) -> BackendError:
        if status in _BAD_STATUSES:
            return PoisonEntry(f"{self.address.shown} does not take an artifact (HTTP {status})")
        if status in _CODE_OF_STATUS:
            return BackendRefused(
                f"{self.address.shown} does not take artifacts (HTTP {status}); let the daemon's credentials "
                "write them there"
            )
        return BackendUnavailable(f"{self.address.shown} does not take artifacts now: {error}")

    def _attempt(self, action: Callable[[MlflowClient], T]) -> T:
        with sent_with(self._api_key):
            return action(self._client)

    def _connect(self) -> MlflowClient:
        try:
            from mlflow import MlflowClient  # noqa: PLC0415
            from mlflow.exceptions import MlflowException  # noqa: PLC0415
        except ImportError as error:
            raise BackendRefused(
                f"mlflow cannot be imported ({error}); pip install 'tracker-daemon[daemon]' mlflow where the "
                "daemon runs"
            ) from error

        def client(uri: str) -> MlflowClient:
            # The registry's URI too: by default it comes from a state that all of the process shares.
            return MlflowClient(tracking_uri=uri, registry_uri=uri)

        try:
            with _prepared(self.address):
                if self.address.file is not None:
                    _make_tables(self.address.file, client)
                return client(self.address.uri)
        except MlflowException as error:
            if error.error_code in _PASSING:
                raise self._translated(error, error.error_code) from error
            raise BackendRefused(
                f"MLflow cannot use the store {self.address.shown} ({error}); check MLFLOW_TRACKING_URI in "
                "the daemon's environment"
            ) from error
        except ImportError as error:
            raise BackendRefused(
                f"{self.address.shown} needs a package that is not installed: {error}; install it where the "
                "daemon runs"
            ) from error
        except _sql_errors() as error:
            raise BackendUnavailable(
                f"the database {self.address.shown} cannot be opened: {error}"
            ) from error

    def _translated(self, error: MlflowException, code: str) -> BackendError:
        where = self.address.shown
        if code in _UNCLASSIFIED and self.address.uri.startswith("https://"):
            refusal = tls_refusal(error, self.address.uri, self._environ)
            if refusal is not None:
                return BackendRefused(f"{where} {refusal}")
        if code in _UNAUTHENTICATED:
            return BackendRefused(
                f"{where} does not take the credentials ({error}); set MLFLOW_TRACKING_TOKEN, "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, AMSC_API_KEY, or "
                "MLFLOW_TRACKING_AUTH for the daemon"
            )
        if code in _FORBIDDEN:
            return BackendRefused(
                f"{where} forbids this ({error}); ask for permission on the experiment, or name one that you "
                "may write to with MLFLOW_EXPERIMENT_NAME"
            )
        if code in _MISSING:
            return BackendRefused(f"{where} has no such thing ({error}); check MLFLOW_TRACKING_URI")
        if code in _INVALID:
            return PoisonEntry(f"{where} finds it invalid: {error}")
        return BackendUnavailable(f"{where} failed ({code}): {error}")

    def _code(self, error: MlflowException) -> str:
        """MLflow's code for the error; a gateway's answer, which has none, is known by its HTTP status."""
        from mlflow.exceptions import RestException  # noqa: PLC0415

        code: str = error.error_code
        if code in _UNCLASSIFIED and self.address.is_http and isinstance(error, RestException):
            return _CODE_OF_STATUS.get(self._http_status() or 0, code)
        return code

    def _http_status(self) -> int | None:
        """The status of a request that anyone may make who may read; None without an answer."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
        from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415
        from mlflow.utils.rest_utils import http_request  # noqa: PLC0415

        path = "/api/2.0/mlflow/experiments/search"
        try:
            with sent_with(self._api_key):
                answer = http_request(
                    get_default_host_creds(self.address.uri), path, "GET", params={"max_results": 1}
                )
        except MlflowException:
            return None
        status: int = answer.status_code
        return status


@contextlib.contextmanager
def _prepared(address: StoreAddress) -> Iterator[None]:
    """While a database is opened: nobody else on this host makes the same one's tables."""
    if not address.is_sql:
        yield
        return
    if address.file is not None:
        _make_writable(address.file)
    name = hashlib.sha256(address.uri.encode()).hexdigest()[:24]
    path = Path(tempfile.gettempdir(), f"tracker-mlflow-{os.getuid()}-{name}.lock")
    with path.open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_writable(file: Path) -> None:
    """Fail early and clearly: MLflow itself tries for minutes to open a file that it cannot."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise BackendRefused(
            f"cannot write {file}: {error.strerror}; let the daemon's user write there, or set another outdir"
        ) from error
    except OSError as error:
        raise BackendUnavailable(f"cannot write {file}: {error.strerror}; delivery tries again") from error


def _make_tables(file: Path, client: Callable[[str], MlflowClient]) -> None:
    """A new database, which comes to be at once or not at all.

    MLflow makes its tables in dozens of steps; a database that was left between two of them, as by a kill,
    is one that it can neither use nor mend.
    """
    if file.stat().st_size:
        return
    draft = file.with_name(f".{file.name}.new")
    for leftover in (draft, draft.with_name(f"{draft.name}-journal")):
        leftover.unlink(missing_ok=True)
    client(_sqlite_uri(draft))
    draft.replace(file)


def _sqlite_uri(file: Path) -> str:
    path = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def _sql_errors() -> tuple[type[Exception], ...]:
    try:
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415
    except ImportError:  # mlflow-skinny knows servers only
        return ()
    return (SQLAlchemyError,)
