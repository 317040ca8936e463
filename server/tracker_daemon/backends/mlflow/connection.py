"""The connection to an MLflow tracking store: requests with our credentials, and the meaning of their errors.

An error is classified by its exception's type and by MLflow's error code, never by its text. If a gateway
answered instead of MLflow there is no such code; the HTTP status of a further request is used then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from tracker_daemon.backends.mlflow.local_database import make_tables, prepared
from tracker_daemon.backends.mlflow.store_address import StoreAddress
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable, PoisonEntry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from requests import RequestException

T = TypeVar("T")

_UNAUTHENTICATED = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
_FORBIDDEN = {"PERMISSION_DENIED"}
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND"}
_INVALID = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_UNCLASSIFIED = {"INTERNAL_ERROR"}
_TEMPORARY = {"TEMPORARILY_UNAVAILABLE"}
_BAD_STATUSES = {400, 413, 414, 422}
_CODE_OF_STATUS = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "ENDPOINT_NOT_FOUND"}


class MlflowConnection:
    """An MlflowClient with the daemon's credentials. It raises a backend's errors instead of MLflow's.

    Raises:
        BackendRefused, BackendUnavailable: from each method, by the kind of MLflow's error.
        PoisonEntry: from :meth:`call`, if MLflow finds its arguments invalid.
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
        """Return the result of ``action``; after a refused token, renew it and call ``action`` once more."""
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
        """Return the result of ``action``, which moves artifacts to or from ``artifact_uri``.

        The key is sent only if the artifacts pass through the tracking server, never to another host's store.
        Raises as :meth:`call` does.
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
            return PoisonEntry(f"{self.address.shown} refuses an artifact (HTTP {status})")
        if status in _CODE_OF_STATUS:
            return BackendRefused(
                f"{self.address.shown} refuses artifacts (HTTP {status}); let the daemon's credentials "
                "write them there"
            )
        return BackendUnavailable(f"{self.address.shown} does not accept artifacts now: {error}")

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
            # The registry's URI too: its default is a state that the whole process shares.
            return MlflowClient(tracking_uri=uri, registry_uri=uri)

        try:
            with prepared(self.address):
                if self.address.file is not None:
                    make_tables(self.address.file, client)
                return client(self.address.uri)
        except MlflowException as error:
            if error.error_code in _TEMPORARY:
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
                f"{where} refuses the credentials ({error}); set MLFLOW_TRACKING_TOKEN, "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, AMSC_API_KEY, or "
                "MLFLOW_TRACKING_AUTH for the daemon"
            )
        if code in _FORBIDDEN:
            return BackendRefused(
                f"{where} forbids this ({error}); ask for permission on the experiment, or name one that you "
                "may write to with MLFLOW_EXPERIMENT_NAME"
            )
        if code in _MISSING:
            return BackendRefused(
                f"{where} does not have what was requested ({error}); check MLFLOW_TRACKING_URI"
            )
        if code in _INVALID:
            return PoisonEntry(f"{where} finds the request invalid: {error}")
        return BackendUnavailable(f"{where} failed ({code}): {error}")

    def _code(self, error: MlflowException) -> str:
        """Return MLflow's code for the error. A gateway's answer has none; its HTTP status is used then."""
        from mlflow.exceptions import RestException  # noqa: PLC0415

        code: str = error.error_code
        if code in _UNCLASSIFIED and self.address.is_http and isinstance(error, RestException):
            return _CODE_OF_STATUS.get(self._http_status() or 0, code)
        return code

    def _http_status(self) -> int | None:
        """Return the HTTP status of a request that needs only permission to read; None without an answer."""
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


def _sql_errors() -> tuple[type[Exception], ...]:
    try:
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415
    except ImportError:  # mlflow-skinny knows servers only
        return ()
    return (SQLAlchemyError,)
